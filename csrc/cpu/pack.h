// From PyTorch's weight layout (any storage type) to panels, forward and transposed.
#pragma once
#include "cpu/layout.h"
#include "cpu/tile.h"

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

// Element i of a matrix in its storage type, as what is packed: T, or bfloat16 untouched.
template <class Weight, int dtype>
struct Source {
  static constexpr bool plain = sizeof(Weight) == 2 || dtype == native_dtype<Weight>();
  const void* data;
  template <class T>
  RNNK_HD const T* lanes(int64_t i) const {
    return reinterpret_cast<const T*>(static_cast<const Weight*>(data) + i);
  }
  RNNK_HD Weight operator()(int64_t i) const {
    if constexpr (sizeof(Weight) == 2) {
      static_assert(dtype == RNNK_BFLOAT16);
      return static_cast<const Weight*>(data)[i];
    } else {
      return read<Weight>(data, dtype, i);
    }
  }
};

// source [gates of `units` rows each, K], its first gate being `first`. With terms in pairs:
//   forward:  out [panel of units][k / pair][gates][W][pair]
//   backward: out [panel of K][column in panel order / pair][W][pair]
template <class A, class From>
void pack_matrix(const From& from, int gates, int first, int64_t units, int64_t K, typename A::Weight* forward,
                 typename A::Weight* backward, const Part& part) {  // null: not that half
  using V = typename A::V;
  using T = typename V::T;
  using Weight = typename A::Weight;
  constexpr int W = V::lanes, pair = A::pair;
  static_assert(sizeof(T) == pair * sizeof(Weight));
  constexpr int64_t depth = larger(A::depth, pair);
  const int64_t columns = gates * round_up(units, W), terms = round_up(K, depth), panels = ceil_div(units, W);
  for (int64_t panel = part.first(panels); forward && panel < part.last(panels); ++panel) {
    const int64_t valid = smaller<int64_t>(W, units - panel * W);
    for (int gate = 0; gate < gates; ++gate) {
      const int64_t row = ((first + gate) * units + panel * W) * K;
      Weight* out = forward + panel * (terms * gates * W) + gate * (W * pair);
      int64_t k = 0;
      if constexpr (From::plain) {  // a lane is a pair, or a term, as it is
        for (; valid == W && k + W * pair <= K; k += W * pair) {
          V block[W];
          RNNK_UNROLL for (int i = 0; i < W; ++i) block[i] = V::load(from.template lanes<T>(row + i * K + k));
          transpose<V>(block);
          RNNK_UNROLL for (int i = 0; i < W; ++i, out += gates * W * pair) block[i].store(reinterpret_cast<T*>(out));
        }
      }
      for (; k < terms; k += pair, out += gates * W * pair) {
        for (int i = 0; i < W * pair; ++i) {
          const int64_t unit = i / pair, term = k + i % pair;
          out[i] = unit < valid && term < K ? from(row + unit * K + term) : Weight(0);
        }
      }
    }
  }
  if (!backward) return;
  const int64_t across = ceil_div(K, W), down = round_up(columns, depth);
  constexpr int kRows = 16;  // of the source, each read along
  for (int64_t c = 0; c < down; c += kRows) {
    const int rows = static_cast<int>(smaller<int64_t>(kRows, down - c));
    int64_t row[kRows];  // where it begins, or < 0
    for (int j = 0; j < rows; ++j) {
      const Column at = column<W>(c + j, gates, units);
      row[j] = c + j < columns && at.unit >= 0 ? ((first + at.gate) * units + at.unit) * K : -1;
    }
    for (int64_t p = part.first(across); p < part.last(across); ++p) {
      const int64_t valid = smaller<int64_t>(W, K - p * W);
      for (int j = 0; j < rows; j += pair) {
        Weight* out = backward + (p * down + c + j) * W;
        bool whole = From::plain && valid == W;
        for (int i = 0; i < pair; ++i) whole = whole && row[j + i] >= 0;
        if (whole) {
          const Weight* from_rows[pair];
          for (int i = 0; i < pair; ++i) from_rows[i] = from.template lanes<Weight>(row[j + i] + p * W);
          A::join_stored(from_rows).store(reinterpret_cast<T*>(out));
          continue;
        }
        for (int i = 0; i < W * pair; ++i) {
          const int64_t begin = row[j + i % pair];
          out[i] = begin >= 0 && i / pair < valid ? from(begin + p * W + i / pair) : Weight(0);
        }
      }
    }
  }
}

template <class A>
void pack_matrix(const void* source, int dtype, int gates, int first, int64_t units, int64_t K, typename A::Weight* forward,
                 typename A::Weight* backward, const Part& part) {
  using W = typename A::Weight;
  if constexpr (sizeof(W) == 2) {
    pack_matrix<A>(Source<W, RNNK_BFLOAT16>{source}, gates, first, units, K, forward, backward, part);
  } else if constexpr (sizeof(W) == 8) {
    pack_matrix<A>(Source<W, RNNK_FLOAT64>{source}, gates, first, units, K, forward, backward, part);
  } else if (dtype == RNNK_FLOAT32) {
    pack_matrix<A>(Source<W, RNNK_FLOAT32>{source}, gates, first, units, K, forward, backward, part);
  } else {
    pack_matrix<A>(Source<W, RNNK_FLOAT16>{source}, gates, first, units, K, forward, backward, part);
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

// One task's share of the whole pack, or of one half of it.
template <class A, class Cell>
void pack(const Problem& problem, const Parameters& from, Halves halves, void* base, const Part& part) {
  using L = Layout<A, Cell>;
  using V = typename A::V;
  using T = typename V::T;
  const L d(problem);
  const Packed<A, Cell> to(d, base);
  const int dtype = problem.dtype;
  pack_matrix<A>(from.weight_ih, dtype, L::G, 0, d.H, d.I, halves.forward ? to.w_ih : nullptr,
                 halves.backward ? to.w_ih_back : nullptr, part);
  for (int k = 0; k < L::S; ++k) {
    const Stage& stage = L::stage(k);
    if (stage.product == Product::identity) continue;
    const void* source = stage.product == Product::weight_hr ? from.weight_hr : from.weight_hh;
    pack_matrix<A>(source, dtype, stage.gates, stage.first_gate, d.units(k), d.operand(k),
                   halves.forward ? to.w[k] : nullptr, halves.backward ? to.w_back[k] : nullptr, part);
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
