// A step of BPTT: what comes back through the product, fused with the cell's pointwise backward. One instance for each cell and
// arithmetic.
#pragma once
#include "cpu/backward.h"

namespace rnnk {
namespace {

template <class A, class Cell>
struct BackwardStep {
  using V = typename A::V;
  using T = typename V::T;
  using Operand = typename A::Operand;
  using L = Layout<A>;
  static constexpr CellShape kShape = shape_of<Cell>();
  static_assert(fits(kShape), "the driver has no room for a cell with these stages");
  using Q = Step<Cell, V>;
  static constexpr int W = V::lanes, G = Cell::kGates, S = Cell::kStages;

  // The phases of all stages are numbered through, the last stage's first.
  template <int K = S - 1>
  static void run(const Backward<A>& f, int64_t u, int sub, const Part& part) {
    if constexpr (K >= 0) {
      if (sub == 0) return stage<K>(f, u, part);
      if (backward_phases(kShape, K) == 2 && sub == 1) return norm<K>(f, u, part);
      run<K - 1>(f, u, sub - backward_phases(kShape, K), part);
    }
  }

  template <int K, class Fn>
  static void product(const Backward<A>& f, Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t u,
                      bool nothing) {
    f.template product<has_product(kShape, K)>(K, fn, r0, r1, p0, p1, u, nothing);
  }

  // Stage K of walk step u (step s of the forward walk): the sum is the gradient of h (last stage; from the step done before
  // this one) or of the operand that the stage emitted.
  template <int K>
  struct Point {
    static constexpr Stage stage = Cell::kStage[K];
    static constexpr bool last = K == S - 1, any = Cell::kHasOptions;
    const Backward<A>& f;
    const Operand* from = nullptr;  // row 0 of dgh, of the head that is being multiplied
    int64_t ld_from, u, s, t, alive_before;
    // Row 0 of this step's saved values and gates' gradients, and of the step's before.
    const T *saved_from, *before_from;
    Operand *dgx_to, *dgh_to;
    int64_t ld_state, ld_dgx, ld_dgh;
    bool watched;  // the gradient of h is bounded, or wanted

    Point(const Backward<A>& f, int64_t u)
        : f(f), ld_from(L::leading(f.d.stage_columns(last ? 0 : K + 1))), u(u), s(f.rows.steps - 1 - u), t(f.rows.time(s)),
          alive_before(f.rows.alive(s - 1)), saved_from(saved_at(f, t)), before_from(saved_at(f, f.rows.time(s - 1))),
          dgx_to(f.blocks.dgx_row(u, 0)), dgh_to(f.blocks.dgh_row(K, u, 0)), ld_state(f.d.hidden.padded()),
          ld_dgx(L::leading(f.d.gate_columns())), ld_dgh(L::leading(f.d.stage_columns(K))),
          watched(f.args.dh.data || f.args.clip_dh > 0) {}
    static const T* saved_at(const Backward<A>& f, int64_t t) {
      return f.reserve.saved + t * f.rows.batch * f.reserve.saved_columns;
    }

    const Operand* operand(int64_t row) const { return from + row * ld_from; }
    // What was written long ago: saved values, the states before, dy.
    RNNK_HD void prepare(int64_t row, int64_t panel) const {
      const int64_t at = (row * ld_state + panel * W) * Cell::kSaved;
      if constexpr (!stage.projected) {
        fetch(saved_from + at, Cell::kSaved * W);
        if (A::matrix && row < alive_before) {  // slower products hide the rest; fetching it cost them 1.5 %
          RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) {
            if (Cell::kSavedState[i] >= 0) fetch(before_from + at + Cell::kSavedState[i] * W, W);
          }
          if constexpr (Cell::kReadsH) fetch_units(f.args.y, f.rows.time(s - 1), row, panel);
        }
      }
      if (last && f.args.dy.data) fetch_units(f.args.dy, t, row, panel);
    }
    RNNK_HD void fetch_units(const rnnk_tensor& from, int64_t t, int64_t row, int64_t panel) const {
      const Row at = row3(from, t, f.rows.row(row));
      __builtin_prefetch(at.data + panel * W * at.stride * item_size(at.dtype), 0, 2);
    }
    // Vectors pass by value: were the step's own address known elsewhere, all of it would live in memory.
    __attribute__((noinline)) V watch(V dh, Row to, int64_t unit, int64_t valid) const {
      if (f.args.clip_dh > 0) {
        const V bound = V::set1(static_cast<T>(f.args.clip_dh));
        dh = fmin(bound, fmax(-bound, dh));
      }
      if (f.args.dh.data) store_units<A>(to, unit, valid, dh);
      return dh;
    }
    // From zero, not from the direct part: that is often the larger, and every term of the chain would round at its size.
    Start<A> start() const { return {}; }

    void finish(int64_t row, int64_t panel, const V (&sum)[1]) const {
      Q q;
      const L& d = f.d;
      const Extras<A>& extras = f.extras;
      const int64_t H = ld_state, at = row * H + panel * W, caller_row = f.rows.row(row);
      const int64_t valid = d.axis(K).template valid_of<any>(panel);
      const int64_t first_unit = d.axis(K).template first_of<any>(panel);
      [[maybe_unused]] typename Extras<A>::At around(extras, t, row, panel);
      const bool held = Cell::kHasOptions && around.masked();
      T* const dh_to = f.dstate[0] + row * d.out.padded() + panel * W;
      if constexpr (last) {
        q.ds[0] = f.template through_product<any>(sum[0], u - 1, row, panel) + V::load(dh_to);
        if (f.args.dy.data && !held) q.ds[0] = q.ds[0] + load_units<A>(row3(f.args.dy, t, caller_row), first_unit, valid);
        if (watched) q.ds[0] = watch(q.ds[0], row3(f.args.dh, t, caller_row), first_unit, valid);
      } else {
        q.demit = sum[0];
        if constexpr (!projects(kShape)) q.ds_prev[0] = V::load(dh_to);
      }
      if constexpr (Cell::kHasOptions) {
        if (held) return hold(q.ds[0], row, panel, around.resets());
      }
      T* carry = f.dcarry + (row * d.hidden.panels() + panel) * (Cell::kCarry * W);
      V kept[Cell::kStates];  // by zoneout
      if constexpr (!stage.projected) {
        const T* saved = saved_from + at * Cell::kSaved;
        RNNK_UNROLL for (int i = 0; i < Cell::kSaved; ++i) q.saved[i] = V::load(saved + i * W);
        RNNK_UNROLL for (int i = 0; i < Cell::kParams; ++i) {
          if (i < d.own_params) q.p[i] = V::load(f.weights.params + i * H + panel * W);
        }
        if constexpr (!last) {
          RNNK_UNROLL for (int i = 0; i < Cell::kCarry; ++i) q.dcarry[i] = V::load(carry + i * W);
        }
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.ds[i] = V::load(f.dstate[i] + at);
        previous_states(q, row, panel, caller_row);
      }
      if constexpr (Cell::kHasOptions) {
        q.o = &extras.o;
        split_gradients<K>(q, kept, around);
      }
      Cell::template backward<K>(q);
      if constexpr (Cell::kHasOptions) {
        if constexpr (K == 0 && S > 1 && !projects(kShape)) {
          q.ds_prev[0] = q.ds_prev[0] + (gives_operand() ? through_operand(q.doperand, row, panel) : V::set1(0));
        }
        join_gradients<K>(q, kept, around);
      }
      if constexpr (last || !projects(kShape)) q.ds_prev[0].store(dh_to);
      if constexpr (!stage.projected) {
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.ds_prev[i].store(f.dstate[i] + at);
        RNNK_UNROLL for (int i = 0; i < Cell::kCarry; ++i) q.dcarry[i].store(carry + i * W);
        RNNK_UNROLL for (int i = 0; i < Cell::kParams; ++i) {
          if (Cell::kParamStage[i] == K && i < d.own_params) q.dp[i].store(f.blocks.dp_row(u, row) + i * H + panel * W);
        }
      }
      store_gates(q, row, panel, valid);
    }

    static constexpr bool gives_operand() { return Cell::kHasOptions && S > 1 && !stage.norm && Cell::kReadsH; }
    RNNK_HD V through_operand(V v, int64_t row, int64_t panel) const {
      return f.extras.drops() ? f.extras.thinned(v, row, panel) : v;
    }

    // Padding units must not reach the sums: their zero weights times an infinite h would have made them NaN.
    RNNK_HD void store_gates(const Q& q, int64_t row, int64_t panel, int64_t valid) const {
      constexpr bool recurrent = stage.product == Product::weight_hh, shared = recurrent && Cell::kSameGrad;
      // Addresses first: the compiler must assume that a vector store changes them where they are kept.
      Operand* const dgx = dgx_to + row * ld_dgx + panel * (G * W);
      Operand* const dgh = dgh_to + row * ld_dgh + panel * (stage.gates * W);
      RNNK_UNROLL for (int g = 0; g < stage.gates; ++g) {
        const int gate = stage.first_gate + g;
        const V& x = q.dgx[gate];
        const V& h = shared ? q.dgx[gate] : q.dgh[gate];
        const int64_t c = (panel * stage.gates + g) * W;
        if constexpr (stage.norm) {  // the normalisation's own gradient follows, of whole rows
          if constexpr (recurrent) x.store(f.blocks.dv_row(K, 0, u, row) + c);
          if constexpr (!shared) h.store(f.blocks.dv_row(K, sides(kShape, K) - 1, u, row) + c);
          continue;
        }
        if constexpr (recurrent || K == 0) {
          A::store(valid < W ? x.first_n(valid) : x, dgx + gate * W);
        }
        if constexpr (!same_dg(kShape, K)) A::store(valid < W ? h.first_n(valid) : h, dgh + g * W);
      }
    }

    // A step that is masked out: gradients of the states pass, nothing else has one. (Sums over rows leave the row out.)
    __attribute__((noinline)) void hold(V dh, int64_t row, int64_t panel, bool reset) const {
      const V zero = V::set1(0);
      if constexpr (last) {
        (reset && completes<Cell>(K, 0) ? zero : dh).store(f.dstate[0] + row * f.d.out.padded() + panel * W);
      }
      for (int i = projects(kShape) ? 1 : 0; K == 0 && reset && i < Cell::kStates; ++i) {
        zero.store(f.dstate[i] + row * f.d.state(i).padded() + panel * W);
      }
      Q q;
      for (auto& v : q.dgx) v = zero;
      for (auto& v : q.dgh) v = zero;
      store_gates(q, row, panel, W);
    }

    RNNK_HD void previous_states(Q& q, int64_t row, int64_t panel, int64_t caller_row) const {
      const bool first = row >= alive_before;  // of this row
      const V zero = V::set1(0);
      const int64_t unit = f.d.hidden.template first_of<any>(panel), n = f.d.hidden.template valid_of<any>(panel);
      if constexpr (Cell::kReadsH || (Cell::kHasOptions && K == 0 && !projects(kShape))) {
        const rnnk_tensor& h_0 = f.args.h_0;
        int64_t before = first ? kInitialState : s - 1;
        if constexpr (Cell::kHasOptions) before = source_of(f.extras, s, row);
        q.s[0] = before >= 0 ? load_units<A>(row3(f.args.y, f.rows.time(before), caller_row), unit, n)
                 : before == kInitialState && h_0.data ? load_units<A>(row2(h_0, caller_row), unit, n)
                                                       : zero;
        if constexpr (Cell::kHasOptions) q.operand = through_operand(q.s[0], row, panel);
      }
      RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) {
        q.s[i] = zero;
        if (Cell::kSavedState[i] < 0) continue;  // BPTT does not read it
        const rnnk_tensor& c_0 = f.args.c_0;
        const T* saved = before_from + (row * ld_state + panel * W) * Cell::kSaved;
        q.s[i] = !first     ? V::load(saved + Cell::kSavedState[i] * W)
                 : c_0.data ? load_units<A>(row2(state_of(c_0, i, f.d.H), caller_row), unit, n)
                            : zero;
        if (Cell::kHasOptions && f.extras.resets(t, row)) q.s[i] = zero;
      }
    }
  };

  template <int K>
  static void stage(const Backward<A>& f, int64_t u, const Part& part) {
    Point<K> point(f, u);
    const L& d = f.d;
    const Rows& rows = f.rows;
    const int64_t now = rows.alive(point.s), panels = d.axis(K).panels();
    const int64_t p0 = part.first(panels), p1 = part.last(panels), r1 = smaller(part.r1, now);
    if constexpr (K == S - 1) {
      // Rows alive in the step done before this one have a product to add; the others begin here, or have just ended.
      const int64_t done = rows.alive(point.s + 1), both = larger(part.r0, smaller(r1, done));
      product<0>(f, point, part.r0, both, p0, p1, u - 1, false);
      product<0>(f, point, both, r1, p0, p1, u - 1, true);
      if (done > now) f.initial_state(u - 1, larger(part.r0, now), smaller(part.r1, done), part);
    } else {
      product<K + 1>(f, point, part.r0, r1, p0, p1, u, false);
    }
  }

  // Backward of the normalisation of stage K; split by rows, because it needs them whole.
  template <int K>
  static void norm(const Backward<A>& f, int64_t u, const Part& part) {
    constexpr Stage stage = Cell::kStage[K];
    const L& d = f.d;
    const Rows& rows = f.rows;
    const Blocks<A>& blocks = f.blocks;
    const int64_t s = rows.steps - 1 - u, t = rows.time(s),
                  n = larger<int64_t>(0, smaller(part.r1, rows.alive(s)) - part.r0), columns = d.stage_columns(K);
    for (int64_t r = part.r0 + part.first(n); r < part.r0 + part.last(n); ++r) {
      for (int i = stage.product == Product::identity ? 1 : 0; i < 2; ++i) {
        const int64_t at = (t * rows.batch + r) * 2 + i;
        Operand* const to = i == 0 ? blocks.dgx_row(u, r) : blocks.dgh_row(K, u, r);
        if (f.extras.masked(t, r)) {  // what is saved of it may be NaN
          for (int64_t c = 0; c < columns; ++c) to[c] = 0;
          continue;
        }
        norm_backward<A>(blocks.dv_row(K, sides(kShape, K) == 2 ? i : 0, u, r), f.weights.gamma[K][i],
                         f.reserve.normed[K] + at * columns, f.reserve.scale[K][at], stage.gates, d.axis(K), to);
      }
    }
  }
};

}  // namespace
}  // namespace rnnk
