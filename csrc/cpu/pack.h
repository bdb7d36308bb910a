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

// Element i of a matrix in its storage type, as T.
template <class T, int dtype>
struct Source {
  const void* data;
  RNNK_HD T operator()(int64_t i) const { return read<T>(data, dtype, i); }
};

// source [gates of `units` rows each, K], its first gate being `first`.
//   forward:  out [panel of units][k][gates][W]
//   backward: out [panel of K][column in panel order][W]
template <class V, class From>
void pack_matrix(const From& from, int gates, int first, int64_t units, int64_t K, typename V::T* forward,
                 typename V::T* backward, const Part& part) {
  using T = typename V::T;
  constexpr int W = V::lanes;
  const int64_t columns = gates * round_up(units, W), width = int64_t{gates} * W, panels = ceil_div(units, W);
  for (int64_t panel = part.first(panels); panel < part.last(panels); ++panel) {
    const int64_t valid = smaller<int64_t>(W, units - panel * W);
    for (int gate = 0; gate < gates; ++gate) {
      const int64_t row = ((first + gate) * units + panel * W) * K;
      T* out = forward + panel * width * K + gate * W;
      for (int64_t k = 0; k < K; ++k) {
        for (int64_t i = 0; i < valid; ++i) out[k * width + i] = from(row + i * K + k);
        for (int64_t i = valid; i < W; ++i) out[k * width + i] = 0;
      }
    }
  }
  if (!backward) return;
  const int64_t across = ceil_div(K, W);
  for (int64_t p = part.first(across); p < part.last(across); ++p) {
    const int64_t valid = smaller<int64_t>(W, K - p * W);
    for (int64_t c = 0; c < columns; ++c) {
      const Column at = column<W>(c, gates, units);
      T* out = backward + (p * columns + c) * W;
      const int64_t row = ((first + at.gate) * units + at.unit) * K + p * W;
      if (at.unit >= 0 && valid == W) {
        for (int i = 0; i < W; ++i) out[i] = from(row + i);
      } else {
        for (int i = 0; i < W; ++i) out[i] = at.unit >= 0 && i < valid ? from(row + i) : T(0);
      }
    }
  }
}

template <class V>
void pack_matrix(const void* source, int dtype, int gates, int first, int64_t units, int64_t K, typename V::T* forward,
                 typename V::T* backward, const Part& part) {
  using T = typename V::T;
  if constexpr (sizeof(T) == 8) {
    pack_matrix<V>(Source<T, RNNK_FLOAT64>{source}, gates, first, units, K, forward, backward, part);
  } else if (dtype == RNNK_FLOAT32) {
    pack_matrix<V>(Source<T, RNNK_FLOAT32>{source}, gates, first, units, K, forward, backward, part);
  } else if (dtype == RNNK_BFLOAT16) {
    pack_matrix<V>(Source<T, RNNK_BFLOAT16>{source}, gates, first, units, K, forward, backward, part);
  } else {
    pack_matrix<V>(Source<T, RNNK_FLOAT16>{source}, gates, first, units, K, forward, backward, part);
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

// One task's share of the whole pack.
template <class V, class Cell>
void pack(const Problem& problem, const Parameters& from, bool backward, void* base, const Part& part) {
  using L = Layout<V, Cell>;
  using T = typename V::T;
  const L d(problem);
  const Packed<V, Cell> to(d, base);
  const int dtype = problem.dtype;
  pack_matrix<V>(from.weight_ih, dtype, L::G, 0, d.H, d.I, to.w_ih, backward ? to.w_ih_back : nullptr, part);
  for (int k = 0; k < L::S; ++k) {
    const Stage& stage = L::stage(k);
    if (stage.product == Product::identity) continue;
    const void* source = stage.product == Product::weight_hr ? from.weight_hr : from.weight_hh;
    pack_matrix<V>(source, dtype, stage.gates, stage.first_gate, d.units(k), d.operand(k), to.w[k],
                   backward ? to.w_back[k] : nullptr, part);
  }
  if (part.share != 0) return;
  pack_vector<V>(from.bias_ih, dtype, L::G, d.H, to.b_ih);
  pack_vector<V>(from.bias_hh, dtype, L::G, d.H, to.b_hh);
  for (int i = 0; i < Cell::kParams; ++i) {  // plain rows, not interleaved: one vector each per panel
    for (int64_t u = 0; u < d.padded(d.H); ++u) {
      to.params[i * d.padded(d.H) + u] = u < d.H ? read<T>(from.params, dtype, i * d.H + u) : T(0);
    }
  }
}

}  // namespace
}  // namespace rnnk
