// Kernels that move rather than multiply: packing weights, states in and out, rows gathered for products over time, sums over
// rows, gradients out. One thread an element; none of them needs another.
#pragma once
#include "cuda/arithmetic.cuh"
#include "cuda/runtime.h"
#include "cuda/step.cuh"

namespace rnnk {
namespace gpu {

constexpr int kMoveThreads = 256;

template <class Move>
RNNK_GLOBAL void RNNK_BOUNDS(kMoveThreads) move_kernel(Move move) {
  const int64_t e = block_x() * kMoveThreads + thread();
  if (e < move.count) move.run(e);
}

template <class Move>
void run_move(const Move& move, void* stream, const char* name) {
  launch(move_kernel<Move>, {(move.count + kMoveThreads - 1) / kMoveThreads, 1, kMoveThreads, 0, stream}, move, name);
}

// --- packing -------------------------------------------------------------------------------------------------------------------
// A matrix [rows, columns] as fragments for step_kernel; rows of the results' axis (and gates), columns of the operand's.
template <class A>
struct PackFragments {
  int64_t count;
  const void* from;
  typename A::Operand* to;
  int64_t ld;
  Axis result, terms;
  int gates, first_gate;
  bool back;  // the transposed product: tiles of `terms`, its terms the gates of `result`

  RNNK_DEVICE void run(int64_t e) const {
    constexpr int size = kTile * A::K;
    const int g = back ? 0 : static_cast<int>(e / size % gates), inner = static_cast<int>(e % size);
    const int64_t piece = e / size / (back ? 1 : gates);
    const int64_t fragments = (back ? gates * result.pad : terms.pad) / A::K;
    const int64_t f = piece % fragments, tile = piece / fragments;
    const int row = inner / A::K, k = inner % A::K;  // of the fragment
    const int64_t pad = back ? terms.pad : result.pad, head = tile * kTile / pad, i = tile * kTile % pad + row;
    const int64_t term = f * A::K + k;
    const int64_t unit = back ? term % result.pad : i, gate = back ? term / result.pad : g, column = back ? i : term;
    const bool valid = unit < result.each && column < terms.each;
    const int64_t source = ((first_gate + gate) * result.units + head * result.each + unit) * ld + column;
    using T = typename A::T;
    to[e / size * size + A::place(row, k)] = A::weight(valid ? load<T>(from, A::dtype, source) : T(0));
  }
};

// W_ih [G * H, I] as rows [head][gate][padded unit][I_padded].
template <class A>
struct PackRows {
  int64_t count;
  const void* from;
  typename A::Operand* to;
  Axis hidden;
  int gates;
  int64_t I, I_padded;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t row = e / I_padded, i = e % I_padded, head = row / (gates * hidden.pad), gate = row / hidden.pad % gates,
                  unit = row % hidden.pad;
    const int64_t source = (gate * hidden.units + head * hidden.each + unit) * I + i;
    to[e] = unit < hidden.each && i < I ? static_cast<const typename A::Operand*>(from)[source] : typename A::Operand(0);
  }
};

// A vector [gates * units] as T [head][gate][padded unit]; from null: zeros.
template <class T>
struct PackVector {
  int64_t count;
  const void* from;
  T* to;
  Axis axis;
  int gates, dtype;
  int64_t first;  // element of `from`
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t head = e / (gates * axis.pad), gate = e / axis.pad % gates, unit = e % axis.pad;
    const int64_t source = first + gate * axis.units + head * axis.each + unit;
    to[e] = from && unit < axis.each ? load<T>(from, dtype, source) : T(0);
  }
};

// --- states --------------------------------------------------------------------------------------------------------------------
// Tells the host, through a word that it can read, of a length outside [0, T]: 1 + the row. piece: takes how many of the
// `piece_steps` steps from `first` on are below each length; or null.
struct CheckLengths {
  int64_t count;
  rnnk_tensor lengths;
  int64_t steps;
  volatile uint64_t* fault;  // the last writer stays
  int64_t* piece = nullptr;
  int64_t first = 0, piece_steps = 0;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t length = length_at(lengths, e);
    if (length < 0 || length > steps) *fault = static_cast<uint64_t>(e) + 1;
    if (!piece) return;
    const int64_t left = length - first;
    piece[e] = left < 0 ? 0 : least(left, piece_steps);
  }
};

// A mark stands before its step, so a reverse walk comes to it from the step after: shift 1.
struct CopyMarks {
  int64_t count;
  MarksCopy of;
  uint8_t* to;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t row = e % of.batch, t = e / of.batch + of.shift;
    const int64_t end = of.shift && of.lengths ? least(of.lengths[row], of.seq_len) : of.seq_len;
    to[e] = t < end ? of.from.data[t * of.from.step + row * of.from.row] : uint8_t{0};
  }
};

inline rnnk_tensor dense_lengths(const int64_t* lengths) {
  return {const_cast<int64_t*>(lengths), {1, 0, 0}, RNNK_INT64, 0};
}

template <class T>
struct DrawDropped {  // the mask of recurrent dropout
  int64_t count;
  Walk<T> walk;
  T* to;  // [B][out.padded]
  RNNK_DEVICE void run(int64_t e) const {
    Place at;
    if (!Place::at(walk.out, e / walk.out.padded(), e % walk.out.padded(), at)) return;
    const double p = walk.recurrent_dropout;
    to[e] = walk.random(3, 0, at.row, walk.out, at.unit(walk.out)) >= chance(p) ? static_cast<T>(1 / (1 - p)) : T(0);
  }
};

// Both buffers, because a row of the reverse direction may begin in any step.
template <class T>
struct BeginHidden {
  int64_t count;
  Walk<T> walk;
  rnnk_tensor h_0;
  void *h[2], *fed[2];
  RNNK_DEVICE void run(int64_t e) const {
    Place at;
    if (!Place::at(walk.out, e / walk.out.padded(), e % walk.out.padded(), at)) return;
    T v = h_0.data ? load2<T>(h_0, at.row, at.unit(walk.out)) : T(0);
    if (walk.resets_at(walk.begins(at.row), at.row)) v = T(0);
    for (int i = 0; i < 2; ++i) {
      if (walk.dropped) store(fed[i], walk.dtype, e, walk.thinned(v, at.row, at.column(walk.out)));
      store(h[i], walk.dtype, e, v);
    }
  }
};

// h_n: h of step s went into buffer (s + 1) % 2; a forward row stops at its length, a reverse row at step T - 1.
template <class T>
struct EndHidden {
  int64_t count;
  Walk<T> walk;
  rnnk_tensor h_n;
  const void* h[2];
  RNNK_DEVICE void run(int64_t e) const {
    Place at;
    if (!Place::at(walk.out, e / walk.out.padded(), e % walk.out.padded(), at)) return;
    const int64_t last = walk.reverse ? walk.steps : walk.length(at.row);
    store2<T>(h_n, at.row, at.unit(walk.out), load<T>(h[last & 1], walk.dtype, e));
  }
};

// Between a tensor [B, units] and T [B][padded]; a missing tensor counts as zero.
template <class T, bool out>
struct MoveState {
  int64_t count;
  Axis axis;
  rnnk_tensor tensor;
  T* values;
  RNNK_DEVICE void run(int64_t e) const {
    Place at;
    if (!Place::at(axis, e / axis.padded(), e % axis.padded(), at)) return;
    if constexpr (out) store2<T>(tensor, at.row, at.unit(axis), values[e]);
    else values[e] = tensor.data ? load2<T>(tensor, at.row, at.unit(axis)) : T(0);
  }
};

// --- rows for products over time, of times [t0, t0 + n) -----------------------------------------------------------------------------
// x as operands [n * B][I_padded]; zero where it must not be read.
template <class T>
struct GatherInput {
  int64_t count;
  Walk<T> walk;
  rnnk_tensor x;
  void* to;
  int64_t t0, I, I_padded;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t i = e % I_padded, row = e / I_padded % walk.batch, t = t0 + e / I_padded / walk.batch;
    const bool any = i < I && (!walk.lengths || t < walk.length(row)) && !walk.masked(t, row);
    store(to, walk.dtype, e, any ? load3<T>(x, t, row, i) : T(0));
  }
};

// What stage 0 multiplied in each step, as operands [n * B][out.padded].
template <class T>
struct GatherHidden {
  int64_t count;
  Walk<T> walk;
  rnnk_tensor y, h_0;
  void* to;
  int64_t t0;
  RNNK_DEVICE void run(int64_t e) const {
    const Axis& out = walk.out;
    const int64_t columns = out.padded(), t = t0 + e / columns / walk.batch, s = walk.time(t);  // time() is its own inverse
    Place at;
    T v = 0;
    if (Place::at(out, e / columns % walk.batch, e % columns, at) && walk.alive(s, at.row) && !walk.masked(t, at.row)) {
      const int64_t before = source_of(walk, s, at.row), unit = at.unit(out);
      if (before >= 0) v = load3<T>(y, walk.time(before), at.row, unit);
      else if (before == kInitialState && h_0.data) v = load2<T>(h_0, at.row, unit);
      if (walk.dropped) v = walk.thinned(v, at.row, at.column(out));
    }
    store(to, walk.dtype, e, v);
  }
};

// What a later stage multiplied.
template <class T>
struct GatherEmitted {
  int64_t count;
  Walk<T> walk;
  Axis axis;
  const void* from;  // of all steps
  void* to;
  int64_t t0;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t columns = axis.padded(), t = t0 + e / columns / walk.batch;
    Place at;
    const bool any = Place::at(axis, e / columns % walk.batch, e % columns, at) && walk.alive(walk.time(t), at.row) &&
                     !walk.masked(t, at.row);
    store(to, walk.dtype, e, any ? load<T>(from, walk.dtype, t0 * walk.batch * columns + e) : T(0));
  }
};

// --- gradients out ---------------------------------------------------------------------------------------------------------------
template <class T>
struct StoreInputGradient {
  int64_t count;
  Walk<T> walk;
  const T* from;  // [n * B][I_padded]
  rnnk_tensor dx;
  int64_t t0, I, I_padded;
  bool accumulate;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t i = e % I, row = e / I % walk.batch, n = e / I / walk.batch, t = t0 + n;
    const bool any = !walk.lengths || t < walk.length(row);
    if (accumulate && !any) return;
    T v = any ? from[(n * walk.batch + row) * I_padded + i] : T(0);
    if (accumulate) v += load3<T>(dx, t, row, i);
    store3<T>(dx, t, row, i, v);
  }
};

// Sums of rows over slabs of equal height, then over slabs in order: fixed by the number of rows alone.
template <class T>
struct SumSlabs {
  int64_t count;     // slabs * columns
  const void* from;  // [rows][columns] of dtype
  int dtype;
  int64_t rows, columns, height;
  T* partial;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t c = e % columns, slab = e / columns, end = least((slab + 1) * height, rows);
    T sum = 0;
    for (int64_t r = slab * height; r < end; ++r) sum += load<T>(from, dtype, r * columns + c);
    partial[e] = sum;
  }
};
// The same of the gradient of a normalisation's factors: of dv * normed.
template <class T>
struct SumFactorSlabs {
  int64_t count;
  Walk<T> walk;
  const T *dv, *normed;  // dv of the block [n * B][sides][columns]; of all steps [T][B][2][columns]
  int64_t t0, rows, columns, height, sides, dv_side, side;
  T* partial;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t c = e % columns, slab = e / columns, end = least((slab + 1) * height, rows);
    T sum = 0;
    for (int64_t r = slab * height; r < end; ++r) {
      const int64_t t = t0 + r / walk.batch, row = r % walk.batch;
      if (!walk.alive(walk.time(t), row) || walk.masked(t, row)) continue;
      const T dg = dv[(r * sides + dv_side) * columns + c];
      sum += normed ? dg * normed[((t * walk.batch + row) * 2 + side) * columns + c] : dg;
    }
    partial[e] = sum;
  }
};
template <class T>
struct AddSlabs {
  int64_t count;  // columns
  const T* partial;
  int64_t slabs;
  T* to;
  RNNK_DEVICE void run(int64_t e) const {
    T sum = 0;
    for (int64_t i = 0; i < slabs; ++i) sum += partial[i * count + e];
    to[e] += sum;
  }
};

// Rows [head][gate][padded unit] of sums to [first_gate + gate][unit] of a parameter's gradient.
template <class T>
struct StoreSums {
  int64_t count;  // gates * units * columns
  const T* from;
  int64_t ld, columns;
  Axis axis;
  int gates, first_gate, dtype;
  void* to;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t row = e / columns, gate = row / axis.units, unit = row % axis.units, head = unit / axis.each;
    const T v = from[((head * gates + gate) * axis.pad + unit % axis.each) * ld + e % columns];
    store(to, dtype, first_gate * axis.units * columns + e, v);
  }
};

// --- instances -------------------------------------------------------------------------------------------------------------------
// Compiled once, in moves.cu, for every strategy.
#define RNNK_MOVE(how, ...) how void run_move(const __VA_ARGS__&, void*, const char*);
#define RNNK_MOVES_OF_VALUES(how, T)    \
  RNNK_MOVE(how, PackVector<T>)         \
  RNNK_MOVE(how, DrawDropped<T>)        \
  RNNK_MOVE(how, BeginHidden<T>)        \
  RNNK_MOVE(how, EndHidden<T>)          \
  RNNK_MOVE(how, MoveState<T, false>)   \
  RNNK_MOVE(how, MoveState<T, true>)    \
  RNNK_MOVE(how, GatherInput<T>)        \
  RNNK_MOVE(how, GatherHidden<T>)       \
  RNNK_MOVE(how, GatherEmitted<T>)      \
  RNNK_MOVE(how, StoreInputGradient<T>) \
  RNNK_MOVE(how, SumSlabs<T>)           \
  RNNK_MOVE(how, SumFactorSlabs<T>)     \
  RNNK_MOVE(how, AddSlabs<T>)           \
  RNNK_MOVE(how, StoreSums<T>)
#define RNNK_MOVES_OF_OPERANDS(how, A) \
  RNNK_MOVE(how, PackFragments<A>)     \
  RNNK_MOVE(how, PackRows<A>)
#define RNNK_MOVES(how)                 \
  RNNK_MOVE(how, CheckLengths)          \
  RNNK_MOVES_OF_VALUES(how, float)      \
  RNNK_MOVES_OF_VALUES(how, double)     \
  RNNK_MOVES_OF_OPERANDS(how, BFloat16) \
  RNNK_MOVES_OF_OPERANDS(how, Float16)  \
  RNNK_MOVES_OF_OPERANDS(how, Tf32)     \
  RNNK_MOVES_OF_OPERANDS(how, Float32)  \
  RNNK_MOVES_OF_OPERANDS(how, Float64)
RNNK_MOVES(extern template)

}  // namespace gpu
}  // namespace rnnk
