// From PyTorch's weight layout (any storage type) to panels, forward and transposed.
#pragma once
#include "core/call.h"
#include "cpu/int8_rows.h"
#include "cpu/layout.h"
#include "cpu/tile.h"

namespace rnnk {
namespace {

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

// Rows of a matrix that are gates of the same units: of gate g those from (first + g) * stride + offset on.
struct GateRows {
  int gates, first;
  int64_t stride, offset, units;
  int64_t before, total;  // where their columns begin among all that a backward panel has, and how many those are
  int64_t operator()(int64_t gate, int64_t unit) const { return (first + gate) * stride + offset + unit; }
};
template <class A>
GateRows input_rows(const Layout<A>& d, int64_t head) {
  const int64_t columns = d.gate_columns() / d.hidden.heads;
  return {d.shape.gates, 0, d.H, head * d.hidden.each, d.hidden.each, head * columns, d.gate_columns()};
}
template <class A>
GateRows stage_rows(const Layout<A>& d, int k, int64_t head) {
  const Stage& stage = d.stage(k);
  const auto& units = d.axis(k);
  return {stage.gates, stage.first_gate, units.units, head * units.each, units.each, 0, d.head_columns(k)};
}
inline const void* stage_weights(const Stage& stage, const Parameters& from) {
  return stage.product == Product::weight_hr ? from.weight_hr : from.weight_hh;
}

// Where a panel's gates stand (tile.h): in groups, one after the other, each [k / pair][side][W][pair].
struct Groups {
  int side;
  int64_t size;  // of a group, in weights
  int64_t first(int64_t gate, int64_t vector) const { return gate / side * size + gate % side * vector; }
};
template <class V>
Groups groups_of(int gates, int64_t terms) {
  const int side = side_by_side<V>(gates);
  return {side, terms * side * V::lanes};
}

// One panel of source [rows, K], forward.
template <class A, class From>
void pack_panel(const From& from, const GateRows& rows_of, int64_t K, int64_t panel, typename A::Weight* out) {
  using V = typename A::V;
  using T = typename V::T;
  using Weight = typename A::Weight;
  constexpr int W = V::lanes, pair = A::pair;
  const int gates = rows_of.gates;
  const int64_t terms = round_up(K, larger<int64_t>(A::depth, pair)), valid = smaller<int64_t>(W, rows_of.units - panel * W);
  const Groups groups = groups_of<V>(gates, terms);
  const int64_t step = groups.side * W * pair;
  for (int gate = 0; gate < gates; ++gate) {
    const int64_t row = rows_of(gate, panel * W) * K;
    Weight* to = out + groups.first(gate, W * pair);
    int64_t k = 0;
    if constexpr (From::plain) {  // a lane is a pair, or a term, as it is
      for (; valid == W && k + W * pair <= K; k += W * pair) {
        V block[W];
        load_columns<V>([&](int i) { return from.template lanes<T>(row + i * K + k); }, block);
        RNNK_UNROLL for (int i = 0; i < W; ++i, to += step) block[i].store(reinterpret_cast<T*>(to));
      }
    }
    for (; k < terms; k += pair, to += step) {
      for (int i = 0; i < W * pair; ++i) {
        const int64_t unit = i / pair, term = k + i % pair;
        to[i] = unit < valid && term < K ? from(row + unit * K + term) : Weight(0);
      }
    }
  }
}

// The same in int8 (int8.h).
template <class V, class From>
void pack_int8_panel(const From& from, const GateRows& rows_of, int64_t K, int64_t panel, float* out) {
  constexpr int W = V::lanes;
  constexpr int64_t kPart = 1024;  // of a row at a time
  const int gates = rows_of.gates;
  const int64_t vectors = gates * W, terms = round_up(K, kInt8Depth);
  int8_t* const to = reinterpret_cast<int8_t*>(out);
  float* const scales = out + terms / 4 * vectors;
  int32_t* const corrections = reinterpret_cast<int32_t*>(scales + vectors);
  const Groups groups = groups_of<V>(gates, terms);
  __builtin_memset(to, 0, static_cast<size_t>(terms * vectors));
  for (int64_t column = 0; column < vectors; ++column) {
    const int64_t unit = panel * W + column % W, row = rows_of(column / W, unit) * K;
    const bool absent = unit >= rows_of.units;
    const int64_t first = groups.first(column / W, W * 4) + column % W * 4;
    float part[kPart];
    uint8_t bytes[kPart];
    const auto in_parts = [&](const auto& take) {
      for (int64_t k = 0; k < K && !absent; k += kPart) {
        const int64_t n = smaller(kPart, K - k);
        for (int64_t i = 0; i < n; ++i) part[i] = from(row + k + i);
        take(k, n);
      }
    };
    Int8Scale most;
    in_parts([&](int64_t, int64_t n) {
      if (const Int8Scale s = Int8Rows<V>::scale_of(part, n); !s.finite || s.most > most.most) most = s;
    });
    int32_t sum = 0;
    in_parts([&](int64_t k, int64_t n) {
      Int8Rows<V>::write(part, n, n, most.inverse(), bytes, lower_bytes<V>);
      for (int64_t i = 0; i < n; ++i) {
        const int q = bytes[i] - kInt8Offset;
        to[first + (k + i) / 4 * 4 * (groups.side * W) + (k + i) % 4] = static_cast<int8_t>(q);
        sum += q;
      }
    });
    scales[column] = absent ? 0 : most.scale();
    corrections[column] = -kInt8Offset * sum;
  }
}

// The same in bfloat16, as the arithmetic Widened reads it: in pairs of terms.
template <class V, class From>
void pack_bf16_panel(const From& from, const GateRows& rows_of, int64_t K, int64_t panel, uint16_t* out) {
  constexpr int W = V::lanes;
  const Groups groups = groups_of<V>(rows_of.gates, round_up(K, 2));
  for (int64_t column = 0; column < rows_of.gates * W; ++column) {
    const int64_t unit = panel * W + column % W, row = rows_of(column / W, unit) * K;
    uint16_t* to = out + groups.first(column / W, W * 2) + column % W * 2;
    for (int64_t k = 0; k < K; k += 2, to += groups.side * W * 2) {
      for (int i = 0; i < 2; ++i) to[i] = unit < rows_of.units && k + i < K ? float_to_bf16(from(row + k + i)) : uint16_t{0};
    }
  }
}

// source [rows, K]: its panels forward, one after the other; backward: out [panel of K][column in panel order, of `total` / pair][W][pair]
template <class A, class From>
void pack_matrix(const Layout<A>& d, const From& from, const GateRows& rows_of, int64_t K, typename A::Weight* forward,
                 typename A::Weight* backward, const Part& part) {  // null: not that half
  const int gates = rows_of.gates;
  const int64_t units = rows_of.units;
  using V = typename A::V;
  using T = typename V::T;
  using Weight = typename A::Weight;
  constexpr int W = V::lanes, pair = A::pair;
  static_assert(sizeof(T) == pair * sizeof(Weight));
  constexpr int64_t depth = larger(A::depth, pair);
  const int64_t columns = gates * round_up(units, W), panels = ceil_div(units, W);
  for (int64_t panel = part.first(panels); forward && panel < part.last(panels); ++panel) {
    typename A::Weight* const to = forward + panel * d.panel(K, gates);
    if constexpr (std::is_same_v<Weight, float>) {
      if (d.form == WeightForm::int8) pack_int8_panel<V>(from, rows_of, K, panel, to);
      if (d.form == WeightForm::bf16) pack_bf16_panel<V>(from, rows_of, K, panel, reinterpret_cast<uint16_t*>(to));
      if (d.form != WeightForm::own) continue;
    }
    pack_panel<A>(from, rows_of, K, panel, to);
  }
  if (!backward) return;
  const int64_t across = ceil_div(K, W), total = round_up(rows_of.total, depth);
  // The last of several blocks fills up to a multiple of depth.
  const int64_t down = rows_of.before + columns == rows_of.total ? total - rows_of.before : columns;
  constexpr int kRows = 16;  // of the source, each read along
  for (int64_t c = 0; c < down; c += kRows) {
    const int rows = static_cast<int>(smaller<int64_t>(kRows, down - c));
    int64_t row[kRows];  // where it begins, or < 0
    for (int j = 0; j < rows; ++j) {
      const Column at = column<W>(c + j, gates, units);
      row[j] = c + j < columns && at.unit >= 0 ? rows_of(at.gate, at.unit) * K : -1;
    }
    for (int64_t p = part.first(across); p < part.last(across); ++p) {
      const int64_t valid = smaller<int64_t>(W, K - p * W);
      for (int j = 0; j < rows; j += pair) {
        Weight* out = backward + (p * total + rows_of.before + c + j) * W;
        bool whole = From::plain && valid == W && j + pair <= rows;
        for (int i = 0; whole && i < pair; ++i) whole = row[j + i] >= 0;
        if (whole) {
          const Weight* from_rows[pair];
          for (int i = 0; i < pair; ++i) from_rows[i] = from.template lanes<Weight>(row[j + i] + p * W);
          A::join_stored(from_rows).store(reinterpret_cast<T*>(out));
          continue;
        }
        for (int i = 0; i < W * pair; ++i) {
          if (j + i % pair >= rows) continue;  // one lane: a head may end within a pair
          const int64_t begin = row[j + i % pair];
          out[i] = begin >= 0 && i / pair < valid ? from(begin + p * W + i / pair) : Weight(0);
        }
      }
    }
  }
}

// fn(Source) of a matrix in a dtype that A packs.
template <class A, class Fn>
void with_source(const void* source, int dtype, const Fn& fn) {
  using W = typename A::Weight;
  if constexpr (sizeof(W) == 2) fn(Source<W, RNNK_BFLOAT16>{source});
  else if constexpr (sizeof(W) == 8) fn(Source<W, RNNK_FLOAT64>{source});
  else if (dtype == RNNK_FLOAT32) fn(Source<W, RNNK_FLOAT32>{source});
  else fn(Source<W, RNNK_FLOAT16>{source});
}

// source [gates * units], or null: zeros.
template <class V>
void pack_vector(const void* source, int dtype, int gates, const Axis<V::lanes>& axis, typename V::T* out) {
  using T = typename V::T;
  for (int64_t p = 0; p < axis.panels(); ++p) {
    for (int g = 0; g < gates; ++g) {
      for (int i = 0; i < V::lanes; ++i, ++out) {
        *out = source && i < axis.valid(p) ? read<T>(source, dtype, g * axis.units + axis.first(p) + i) : T(0);
      }
    }
  }
}

// A matrix [rows, K] and where its panels go, forward.
template <class A>
struct WeightMatrix {
  const void* source;
  GateRows rows;
  int64_t K;
  typename A::Weight* packed;
};

// Packs the biases and the rows of params.
template <class A>
void pack_vectors(const Layout<A>& d, const Parameters& from, int dtype, const Packed<A>& to) {
  using V = typename A::V;
  pack_vector<V>(from.bias_ih, dtype, d.shape.gates, d.hidden, to.b_ih);
  pack_vector<V>(from.bias_hh, dtype, d.shape.gates, d.hidden, to.b_hh);
  // Rows of params [rows, H]: the cell's, gamma_ih, gamma_hh [G] of a normalised product, gamma and beta of a normalised state.
  const char* row = static_cast<const char*>(from.params);
  const auto take = [&](int rows, typename V::T* out) {
    pack_vector<V>(row, dtype, rows, d.hidden, out);
    row += rows * d.H * item_size(dtype);
  };
  for (int i = 0; i < d.own_params; ++i) take(1, to.params + i * d.hidden.padded());
  for (int k = 0; k < d.shape.stages; ++k) {
    if (!d.stage(k).norm) continue;
    if (has_product(d.shape, k)) take(d.stage(k).gates, to.gamma[k][0]);
    take(d.stage(k).gates, to.gamma[k][1]);
    if (!has_product(d.shape, k)) take(d.stage(k).gates, to.beta[k]);
  }
}

// One task's share of the whole pack, or of one half of it.
template <class A>
void pack(const Problem& problem, const CellShape& shape, const Parameters& from, Halves halves, void* base,
          const Part& part) {
  const Layout<A> d(problem, shape);
  const Packed<A> to(d, base);
  const auto pack = [&](const void* source, const GateRows& rows, int64_t K, auto* forward, auto* backward) {
    with_source<A>(source, problem.dtype, [&](const auto& matrix) {
      pack_matrix<A>(d, matrix, rows, K, halves.forward ? forward : nullptr, halves.backward ? backward : nullptr, part);
    });
  };
  const int64_t inputs = d.hidden.panels_each * d.panel(d.I, shape.gates);
  for (int64_t head = 0; head < d.hidden.heads; ++head) {
    pack(from.weight_ih, input_rows(d, head), d.I, to.w_ih + head * inputs, to.w_ih_back);
  }
  for (int k = 0; k < shape.stages; ++k) {
    const Stage& stage = d.stage(k);
    if (stage.product == Product::identity) continue;
    const int64_t forward = d.axis(k).panels_each * d.panel(d.terms(k), stage.gates);
    const int64_t backward = d.operand(k).panels_each * d.panel(d.head_columns(k), 1);
    for (int64_t head = 0; head < d.axis(k).heads; ++head) {
      pack(stage_weights(stage, from), stage_rows(d, k, head), d.terms(k), to.w[k] + head * forward,
           to.w_back[k] + head * backward);
    }
  }
  if (part.share == 0) pack_vectors(d, from, problem.dtype, to);
}

}  // namespace
}  // namespace rnnk
