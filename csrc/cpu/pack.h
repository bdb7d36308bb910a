// From PyTorch's weight layout (any storage type) to panels, forward and transposed.
#pragma once
#include "cpu/layout.h"

namespace rnnk {
namespace {

// The caller's parameters as the driver sees them; weight_hr and params belong to cells that have them.
struct Parameters {
  const void *weight_ih, *weight_hh, *bias_ih, *bias_hh;
  const void* weight_hr = nullptr;  // [P, H]
  const void* params = nullptr;     // [kParams, H]
};

// Column c of `gates` gates over `units` units in panel order: which gate and unit, or unit < 0 for padding.
struct Column {
  int64_t gate, unit;
};
template <int W>
RNNK_HD Column column(int64_t c, int gates, int64_t units) {
  const int64_t unit = c / (gates * W) * W + c % W;
  return {c / W % gates, unit < units ? unit : -1};
}

// source [gates of `units` rows each, K], its first gate being `first`.
//   forward:  out [panel of units][k][gates][W]
//   backward: out [panel of K][column in panel order][W]
template <class V>
void pack_matrix(const void* source, int dtype, int gates, int first, int64_t units, int64_t K, typename V::T* forward,
                 typename V::T* backward) {
  using T = typename V::T;
  constexpr int W = V::lanes;
  const int64_t columns = gates * round_up(units, W), width = int64_t{gates} * W;
  for (int64_t c = 0; c < columns; ++c) {
    const Column at = column<W>(c, gates, units);
    T* out = forward + c / width * width * K + c % width;
    if (at.unit < 0) {
      for (int64_t k = 0; k < K; ++k) out[k * width] = 0;
      continue;
    }
    const int64_t from = ((first + at.gate) * units + at.unit) * K;
    for (int64_t k = 0; k < K; ++k) out[k * width] = read<T>(source, dtype, from + k);
  }
  if (!backward) return;
  for (int64_t c = 0; c < columns; ++c) {
    const Column at = column<W>(c, gates, units);
    const int64_t from = ((first + at.gate) * units + at.unit) * K;
    for (int64_t p = 0; p * W < K; ++p) {
      T* out = backward + (p * columns + c) * W;
      for (int i = 0; i < W; ++i) {
        const int64_t k = p * W + i;
        out[i] = at.unit >= 0 && k < K ? read<T>(source, dtype, from + k) : T(0);
      }
    }
  }
}

template <class V>
void pack_vector(const void* source, int dtype, int gates, int64_t units, typename V::T* out) {
  using T = typename V::T;
  for (int64_t c = 0; c < gates * round_up(units, V::lanes); ++c) {
    const Column at = column<V::lanes>(c, gates, units);
    out[c] = source && at.unit >= 0 ? read<T>(source, dtype, at.gate * units + at.unit) : T(0);
  }
}

template <class V, class Cell>
void pack(const Problem& problem, const Parameters& from, bool backward, void* base) {
  using L = Layout<V, Cell>;
  const L d(problem);
  const Packed<V, Cell> to(d, base);
  const int dtype = problem.dtype;
  pack_matrix<V>(from.weight_ih, dtype, L::G, 0, d.H, d.I, to.w_ih, backward ? to.w_ih_back : nullptr);
  pack_vector<V>(from.bias_ih, dtype, L::G, d.H, to.b_ih);
  pack_vector<V>(from.bias_hh, dtype, L::G, d.H, to.b_hh);
  for (int i = 0; i < Cell::kParams; ++i) {  // plain rows, not interleaved: one vector each per panel
    for (int64_t u = 0; u < d.padded(d.H); ++u) {
      to.params[i * d.padded(d.H) + u] = u < d.H ? read<typename V::T>(from.params, dtype, i * d.H + u) : 0;
    }
  }
  for (int k = 0; k < L::S; ++k) {
    const Stage& stage = L::stage(k);
    if (stage.product == Product::identity) continue;
    const void* source = stage.product == Product::weight_hr ? from.weight_hr : from.weight_hh;
    pack_matrix<V>(source, dtype, stage.gates, stage.first_gate, d.units(k), d.operand(k), to.w[k],
                   backward ? to.w_back[k] : nullptr);
  }
}

}  // namespace
}  // namespace rnnk
