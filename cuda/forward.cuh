// The pointwise part of a forward step: gathers what a cell reads for one unit of one row, calls it, and puts away what it
// wrote. Strategies differ in who calls this, and in where the states lie (h_from ... carry may be shared memory).
#pragma once
#include "cuda/step.cuh"

namespace rnnk {
namespace gpu {

template <class T>
struct ForwardData {
  Walk<T> walk;
  const T *b_ih, *b_hh, *params;
  const T *gamma[kMost][2], *beta[kMost];
  // h before and after the step; fed: the same as stage 0 multiplies it
  void *h_from, *h_to, *fed_from, *fed_to;
  void* emit[kMost];
  T *state[kMostStates], *carry;  // c and what stands behind it; entry 0 unused
  T *raw[kMost], *moments[kMost];
  const T* gx;  // of the block: row (t - t0) * B + row, ld_gx apart
  int64_t t0;   // first time of the block
  // Elements between rows of h and fed, of emit, of state, of gx; between the gates of a unit in gx, in the biases.
  int64_t ld_h, ld_emit, ld_state, ld_gx, gx_gate, bias_gate;
  T* saved;
  void* emitted[kMost];
  T *normed[kMost], *scale[kMost];
  rnnk_tensor y;
};

// In: how values are computed and stored, an arithmetic or AnyStorage.
template <class In, class Cell, int K>
struct ForwardPoint {
  using T = typename In::T;
  using V = typename In::V;
  using Data = ForwardData<T>;
  static constexpr CellShape kShape = shape_of<Cell>();
  static constexpr Stage stage = Cell::kStage[K];
  static constexpr int gates = stage.gates, G = Cell::kGates, S = Cell::kStages;

  static RNNK_DEVICE const Axis& axis(const Data& d) { return stage.projected ? d.walk.out : d.walk.hidden; }

  // gh: what the product made of the stage's gates; of a stage without one, what the one before emitted.
  static RNNK_DEVICE void run(const Data& d, int64_t s, const Place& at, const T (&gh)[gates]) {
    if (!d.walk.alive(s, at.row)) {
      if constexpr (K == S - 1) put_y(d, s, at, T(0));
      return;
    }
    Step<Cell, V> q;
    compute(d, s, at, gh, q);
    T y = 0;
    if constexpr (K == S - 1) y = put_h(d, s, at, q.s_new[0]);
    put_away(d, s, at, q, y);
  }

  // The parts of run() of a row that takes the step: a strategy whose h others wait for sends it before the rest is stored.
  static RNNK_DEVICE void compute(const Data& d, int64_t s, const Place& at, const T (&gh)[gates], Step<Cell, V>& q) {
    const Walk<T>& w = d.walk;
    const int64_t t = w.time(s), row = at.row;
    const Around<V> around{w, at, t};
    const Axis& hidden = w.hidden;
    const int64_t H = hidden.padded(), column = at.column(hidden), record = t * w.batch + row;
    const T* gx = d.gx + ((t - d.t0) * w.batch + row) * d.ld_gx;
    for (int g = 0; g < gates; ++g) {
      const int gate = stage.first_gate + g;
      q.gh[gate] = {gh[g]};
      if constexpr (stage.product != Product::weight_hr && !(stage.product == Product::identity && K > 0)) {
        q.gx[gate] = {gx[(at.head * G + gate) * d.gx_gate + at.i]};
      }
      if constexpr (stage.norm) {
        normalise(d, q, at, g, record);
      } else if constexpr (stage.product == Product::weight_hh || K == 0) {
        q.gx[gate].v += d.b_ih[(at.head * G + gate) * d.bias_gate + at.i];
        q.gh[gate].v += d.b_hh[(at.head * G + gate) * d.bias_gate + at.i];
      }
    }
    const int64_t state_at = row * d.ld_state + column, h_at = row * d.ld_h + at.column(w.out);
    if constexpr (!stage.projected) {
      for (int i = 0; i < Cell::kParams; ++i) q.p[i] = {i < w.own_params ? d.params[i * H + column] : T(0)};
      if constexpr (!projects(kShape)) q.s[0] = {load<T>(d.h_from, dtype_of<In>(w), h_at)};
      RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.s[i] = {d.state[i][state_at]};
      if constexpr (K > 0) {  // what earlier stages left; the states are already the new ones
        const T *const carry = d.carry + row * Cell::kCarry * H + column, *const saved = saved_of(d, record, column);
        for (int i = 0; i < Cell::kCarry; ++i) q.carry[i] = {carry[i * H]};
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.s_new[i] = q.s[i];
        if (w.keep) {
          for (int i = 0; i < Cell::kSaved; ++i) q.saved[i] = {saved[i * H]};
        }
      }
    }
    if constexpr (Cell::kHasOptions) {
      q.o = &w.o;
      if constexpr (K == 0) {
        if constexpr (!projects(kShape)) q.operand = {load<T>(d.fed_from, dtype_of<In>(w), h_at)};
        reset_states(q, around);
      }
    }
    Cell::template forward<K>(q);
    if constexpr (Cell::kHasOptions && K == 0) keep_states(q, around);
  }

  // The new h, which the next step reads: kept by zoneout, held by the mask, reset before the next step. Returns y.
  static RNNK_DEVICE T put_h(const Data& d, int64_t s, const Place& at, V now) {
    const Walk<T>& w = d.walk;
    const int64_t h_at = at.row * d.ld_h + at.column(w.out);
    if constexpr (!Cell::kHasOptions) {
      store(d.h_to, dtype_of<In>(w), h_at, now.v);  // path: state
      return now.v;
    } else {
      const Around<V> around{w, at, w.time(s)};
      const auto to_storage = [&](V v) { return V{rounded(v.v, dtype_of<In>(w))}; };
      auto [h, out] = keep_hidden(V{load<T>(d.h_from, dtype_of<In>(w), h_at)}, now, around, to_storage);
      if (w.resets_at(s + 1, at.row)) h = {T(0)};
      store(d.h_to, dtype_of<In>(w), h_at, h.v);  // path: state
      if (w.dropped) store(d.fed_to, dtype_of<In>(w), h_at, w.thinned(h.v, at.row, at.column(w.out)));
      return out.v;
    }
  }

  // Stores that no other thread waits for in this step: states behind h, saved values, the next stage's operand, y.
  static RNNK_DEVICE void put_away(const Data& d, int64_t s, const Place& at, const Step<Cell, V>& q, T y) {
    const Walk<T>& w = d.walk;
    const int64_t t = w.time(s), row = at.row, H = w.hidden.padded(), column = at.column(w.hidden),
                  record = t * w.batch + row;
    if constexpr (!stage.projected) {
      T *const carry = d.carry + row * Cell::kCarry * H + column, *const saved = saved_of(d, record, column);
      RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) d.state[i][row * d.ld_state + column] = q.s_new[i].v;
      for (int i = 0; i < Cell::kCarry; ++i) carry[i * H] = q.carry[i].v;
      if (w.keep) {
        for (int i = 0; i < Cell::kSaved; ++i) saved[i * H] = q.saved[i].v;
      }
    }
    if constexpr (K == S - 1) {
      put_y(d, s, at, y);
    } else if constexpr (has_product(kShape, K + 1)) {
      store(d.emit[K + 1], dtype_of<In>(w), row * d.ld_emit + column, q.emit.v);
      if (w.keep) store(d.emitted[K + 1], dtype_of<In>(w), record * H + column, q.emit.v);
    } else {
      d.raw[K + 1][row * H + column] = q.emit.v;
    }
  }

  static RNNK_DEVICE void put_y(const Data& d, int64_t s, const Place& at, T y) {
    const int64_t* const stride = d.y.stride;
    const int64_t to = d.walk.time(s) * stride[0] + at.row * stride[1] + at.unit(d.walk.out) * stride[2];
    store(d.y.data, dtype_of<In>(d.walk), to, y);  // path: state
  }
  static RNNK_DEVICE T* saved_of(const Data& d, int64_t record, int64_t column) {
    return d.saved + record * Cell::kSaved * d.walk.hidden.padded() + column;
  }

  // gx and gh of gate g, each (x - mean) * scale, then its factor and shift.
  static RNNK_DEVICE void normalise(const Data& d, Step<Cell, V>& q, const Place& at, int g, int64_t record) {
    constexpr bool both = stage.product == Product::weight_hh;
    const Axis& units = axis(d);
    const int64_t columns = gates * units.padded(), c = at.gate(units, gates, g);
    const int gate = stage.first_gate + g;
    for (int i = both ? 0 : 1; i < 2; ++i) {
      V& v = i == 0 ? q.gx[gate] : q.gh[gate];
      const T* moments = d.moments[K] + (at.row * 2 + i) * 2;
      v.v = (v.v - moments[0]) * moments[1];
      if (d.walk.keep) {
        d.normed[K][(record * 2 + i) * columns + c] = v.v;
        if (c == 0) d.scale[K][record * 2 + i] = moments[1];
      }
      const T* shift = !both ? d.beta[K] : i == 0 ? d.b_ih : d.b_hh;
      v.v = fused(d.gamma[K][i][c], v.v, shift[c]);
    }
  }
};

}  // namespace gpu
}  // namespace rnnk
