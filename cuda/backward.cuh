// The pointwise part of a step of BPTT, the mirror of forward.cuh: for one unit of one row.
#pragma once
#include "cuda/step.cuh"

namespace rnnk {
namespace gpu {

template <class T>
struct BackwardData {
  Walk<T> walk;
  const T* params;
  const T* saved;
  T *dstate[kMostStates], *dcarry;
  int64_t ld_dstate[kMostStates];  // elements between rows
  void *dgx, *dgh[kMost];          // of the block: row (t - t0) * B + row
  T* dv[kMost];                    // the same, of normalised stages
  T* dp;                           // the same
  // Where the next product of this block reads dgh of stage k of a step and this head: rows ld_near[k] apart, gates near_gate[k];
  // null: from dgh itself.
  void* near[kMost];
  int64_t ld_near[kMost], near_gate[kMost];
  int64_t t0;
  rnnk_tensor y, h_0, c_0, dy, dh;
  double clip_dh;
};

// In: as of ForwardPoint.
template <class In, class Cell, int K>
struct BackwardPoint {
  using T = typename In::T;
  using V = typename In::V;
  using Data = BackwardData<T>;
  static constexpr CellShape kShape = shape_of<Cell>();
  static constexpr Stage stage = Cell::kStage[K];
  static constexpr int gates = 1, G = Cell::kGates, S = Cell::kStages;
  // The parameters whose gradient this stage writes, as bits: device code may not index a static array at run time.
  static constexpr unsigned kWrites = [] {
    unsigned bits = 0;
    for (int i = 0; i < Cell::kParams; ++i) bits |= Cell::kParamStage[i] == K ? 1u << i : 0u;
    return bits;
  }();
  static constexpr bool last = K == S - 1, recurrent = stage.product == Product::weight_hh;

  static RNNK_DEVICE const Axis& axis(const Data& d) { return stage.projected ? d.walk.out : d.walk.hidden; }
  // An element of y or dy.
  static RNNK_DEVICE T read(const Data& d, const rnnk_tensor& from, int64_t t, const Place& at) {
    const int64_t* const stride = from.stride;
    return load<T>(from.data, dtype_of<In>(d.walk), t * stride[0] + at.row * stride[1] + at.unit(d.walk.out) * stride[2]);
  }

  // What the product's share of the gradient of the h that step s started from is.
  static RNNK_DEVICE T through_product(const Walk<T>& w, T sum, int64_t s, const Place& at) {
    if (!w.alive(s, at.row)) return T(0);
    if constexpr (Cell::kHasOptions) {
      if (w.resets_at(s, at.row)) return T(0);
      if (w.dropped) return w.thinned(sum, at.row, at.column(w.out));
    }
    return sum;
  }

  // sum: what comes back through a product; in the last stage, that of the step walked before this one (step s + 1), else that of
  // the stage behind. s = -1 adds what reaches the initial states.
  static RNNK_DEVICE void run(const Data& d, int64_t s, const Place& at, const T (&sum)[1]) {
    const Walk<T>& w = d.walk;
    const Axis& hidden = w.hidden;
    const int64_t row = at.row, H = hidden.padded(), column = at.column(hidden), out_column = at.column(w.out);
    T* const dh_to = d.dstate[0] + row * d.ld_dstate[0] + out_column;
    const int64_t t = w.time(s), in_block = (t - d.t0) * w.batch + row;
    Step<Cell, V> q;
    if (!w.alive(s, row)) {
      if (last) *dh_to += through_product(w, sum[0], s + 1, at);
      if (s >= 0) nothing(d, at, in_block);
      return;
    }
    const Around<V> around{w, at, t};
    const bool held = Cell::kHasOptions && around.masked();
    if constexpr (last) {
      T dh = through_product(w, sum[0], s + 1, at) + *dh_to;
      if (d.dy.data && !held) dh += read(d, d.dy, t, at);
      if (d.clip_dh > 0) {
        const V bound{static_cast<T>(d.clip_dh)};
        dh = fmin(bound, fmax(-bound, V{dh})).v;
      }
      if (d.dh.data) store3<T>(d.dh, t, row, at.unit(w.out), dh);
      q.ds[0] = {dh};
    } else {
      q.demit = {sum[0]};
      if constexpr (!projects(kShape)) q.ds_prev[0] = {*dh_to};
    }
    if constexpr (Cell::kHasOptions) {
      if (held) return hold(d, at, q.ds[0].v, around.resets(), in_block);
    }
    T* const carry = d.dcarry + row * Cell::kCarry * H + column;
    const T* const saved = d.saved + (t * w.batch + row) * Cell::kSaved * H + column;
    if constexpr (!stage.projected) {
      for (int i = 0; i < Cell::kSaved; ++i) q.saved[i] = {saved[i * H]};
      for (int i = 0; i < Cell::kParams; ++i) q.p[i] = {i < w.own_params ? d.params[i * H + column] : T(0)};
      if constexpr (!last) {
        for (int i = 0; i < Cell::kCarry; ++i) q.dcarry[i] = {carry[i * H]};
      }
      RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.ds[i] = {d.dstate[i][row * d.ld_dstate[i] + column]};
      previous_states(d, q, s, t, at);
    }
    V kept[Cell::kStates];  // by zoneout
    if constexpr (Cell::kHasOptions) {
      q.o = &w.o;
      split_gradients<K>(q, kept, around);
    }
    Cell::template backward<K>(q);
    if constexpr (Cell::kHasOptions) {
      if constexpr (K == 0 && S > 1 && !projects(kShape)) {
        if constexpr (gives_operand()) {
          q.ds_prev[0].v += w.dropped ? w.thinned(q.doperand.v, row, out_column) : q.doperand.v;
        }
      }
      join_gradients<K>(q, kept, around);
    }
    if constexpr (last || !projects(kShape)) *dh_to = q.ds_prev[0].v;
    if constexpr (!stage.projected) {
      RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) { d.dstate[i][row * d.ld_dstate[i] + column] = q.ds_prev[i].v; }
      for (int i = 0; i < Cell::kCarry; ++i) carry[i * H] = q.dcarry[i].v;
      for (int i = 0; i < Cell::kParams; ++i) {
        if ((kWrites >> i & 1) && i < w.own_params) d.dp[(in_block * w.own_params + i) * H + column] = q.dp[i].v;
      }
    }
    for (int g = 0; g < stage.gates; ++g) {
      const int gate = stage.first_gate + g;
      store_gate(d, at, in_block, g, q.dgx[gate].v, recurrent && Cell::kSameGrad ? q.dgx[gate].v : q.dgh[gate].v);
    }
  }

  // Fetches what 16 units from `at` on read in a step that is walked later, from memory far away. Nothing of it depends on the
  // steps between, so it can be on its way while they are walked.
  static RNNK_DEVICE void prefetch_step(const Data& d, int64_t s, const Place& at) {
    const Walk<T>& w = d.walk;
    if (!w.alive(s, at.row)) return;
    const int64_t t = w.time(s), H = w.hidden.padded();
    const T* const saved = d.saved + (t * w.batch + at.row) * Cell::kSaved * H + at.column(w.hidden);
    for (int i = 0; i < Cell::kSaved; ++i) prefetch(saved + i * H);
    if (at.i >= w.out.each) return;
    if (d.dy.data) prefetch(address(d.dy, t, at.row, at.unit(w.out)));
    if constexpr (Cell::kReadsH) {
      if (w.alive(s - 1, at.row)) prefetch(address(d.y, w.time(s - 1), at.row, at.unit(w.out)));
    }
  }
  static RNNK_DEVICE const char* address(const rnnk_tensor& t, int64_t i, int64_t j, int64_t k) {
    const int64_t at = i * t.stride[0] + j * t.stride[1] + k * t.stride[2];
    return static_cast<const char*>(t.data) + at * (t.dtype == RNNK_FLOAT64 ? 8 : t.dtype == RNNK_FLOAT32 ? 4 : 2);
  }

  static constexpr bool gives_operand() { return Cell::kHasOptions && S > 1 && !stage.norm && Cell::kReadsH; }

  static RNNK_DEVICE void store_gate(const Data& d, const Place& at, int64_t in_block, int g, T x, T h) {
    const Walk<T>& w = d.walk;
    const Axis& units = axis(d);
    const int64_t columns = stage.gates * units.padded(), c = at.gate(units, stage.gates, g);
    if constexpr (stage.norm) {  // the normalisation's own gradient follows, of whole rows
      constexpr int n = sides(kShape, K);
      if constexpr (recurrent) d.dv[K][in_block * n * columns + c] = x;
      if constexpr (!(recurrent && Cell::kSameGrad)) d.dv[K][(in_block * n + n - 1) * columns + c] = h;
    } else {
      if constexpr (recurrent || K == 0) {
        store(d.dgx, dtype_of<In>(w), in_block * G * w.hidden.padded() + at.gate(w.hidden, G, stage.first_gate + g), x);
      }
      if constexpr (!same_dg(kShape, K)) store(d.dgh[K], dtype_of<In>(w), in_block * columns + c, h);
      if (d.near[K]) store(d.near[K], dtype_of<In>(w), at.row * d.ld_near[K] + g * d.near_gate[K] + at.i, h);  // path: state
    }
  }

  // A step that gives parameters and inputs no gradient.
  static RNNK_DEVICE void nothing(const Data& d, const Place& at, int64_t in_block) {
    const int64_t H = d.walk.hidden.padded();
    for (int g = 0; g < stage.gates; ++g) store_gate(d, at, in_block, g, T(0), T(0));
    if constexpr (!stage.projected) {
      for (int i = 0; i < Cell::kParams; ++i) {
        if (!(kWrites >> i & 1) || i >= d.walk.own_params) continue;
        d.dp[(in_block * d.walk.own_params + i) * H + at.column(d.walk.hidden)] = T(0);
      }
    }
  }

  // A step that is masked out: gradients of the states pass.
  static RNNK_DEVICE void hold(const Data& d, const Place& at, T dh, bool reset, int64_t in_block) {
    const Walk<T>& w = d.walk;
    if constexpr (last) {
      d.dstate[0][at.row * d.ld_dstate[0] + at.column(w.out)] = reset && completes<Cell>(K, 0) ? T(0) : dh;
    }
    if constexpr (K == 0) {
      if (reset && !projects(kShape)) d.dstate[0][at.row * d.ld_dstate[0] + at.column(w.out)] = T(0);
      RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) {
        if (reset) d.dstate[i][at.row * d.ld_dstate[i] + at.column(w.hidden)] = T(0);
      }
    }
    nothing(d, at, in_block);
  }

  static RNNK_DEVICE void previous_states(const Data& d, Step<Cell, V>& q, int64_t s, int64_t t, const Place& at) {
    const Walk<T>& w = d.walk;
    const int64_t row = at.row, unit = at.unit(w.hidden), H = w.hidden.padded();
    const bool first = !w.alive(s - 1, row);
    if constexpr (Cell::kReadsH || (Cell::kHasOptions && K == 0 && !projects(kShape))) {
      int64_t before = first ? kInitialState : s - 1;
      if constexpr (Cell::kHasOptions) before = source_of(w, s, row);
      q.s[0] = {T(0)};
      if (before >= 0) q.s[0] = {read(d, d.y, w.time(before), at)};
      else if (before == kInitialState && d.h_0.data) q.s[0] = {load2<T>(d.h_0, row, unit)};
      if constexpr (Cell::kHasOptions) {
        q.operand = {w.dropped ? w.thinned(q.s[0].v, row, at.column(w.out)) : q.s[0].v};
      }
    }
    for_constants<1, Cell::kStates>([&](auto i) {
      q.s[i] = {T(0)};
      if constexpr (Cell::kSavedState[i] >= 0) {  // else BPTT does not read it
        if (!first) {
          const int64_t record = (w.time(s - 1) * w.batch + row) * Cell::kSaved + Cell::kSavedState[i];
          q.s[i] = {d.saved[record * H + at.column(w.hidden)]};
        } else if (d.c_0.data) {
          q.s[i] = {load2<T>(d.c_0, row, (i - 1) * w.hidden.units + unit)};
        }
      }
      if (Cell::kHasOptions && w.resets(t, row)) q.s[i] = {T(0)};
    });
  }
};

}  // namespace gpu
}  // namespace rnnk
