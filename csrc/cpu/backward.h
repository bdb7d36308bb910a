// The BPTT driver: the mirror of forward.h. Walks time backwards; per step the product of the step just done with R
// transposed is fused with the cell's pointwise backward, so dh never goes to memory. The gradients of pre-activations
// of a block of steps stay in a ring buffer, from which gradients.h forms dW, db and dx.
#pragma once
#include "cpu/gradients.h"

namespace rnnk {
namespace {

// What reaches h' of a walk step through the product of stage 0, for rows whose first step that was.
template <class A>
struct StateTile {
  using V = typename A::V;
  using T = typename V::T;
  const typename A::Operand* from;  // row 0 of dgh
  int64_t ld_from;
  T* to;  // added to
  int64_t ld_to;
  const typename A::Operand* operand(int64_t row) const { return from + row * ld_from; }
  void prepare(int64_t, int64_t) const {}
  V start(int64_t, int64_t, int) const { return V::set1(0); }
  void finish(int64_t row, int64_t panel, const V (&sum)[1]) const {
    T* direct = to + row * ld_to + panel * V::lanes;
    (sum[0] + V::load(direct)).store(direct);
  }
};

template <class A, class Cell>
struct Backward {
  using V = typename A::V;
  using T = typename V::T;
  using Operand = typename A::Operand;
  using L = Layout<A, Cell>;
  using Q = Step<Cell, V>;
  static constexpr int W = V::lanes, G = Cell::kGates, S = Cell::kStages;

  const Problem& problem;
  const rnnk_args& args;
  Blocks<A, Cell> blocks;  // the ring of dgx, dgh, dp and the products over it
  const L& d;
  Packed<A, Cell> weights;
  Reserve<A, Cell> reserve;
  Rows rows;
  int32_t* order;
  int64_t* sorted_lengths;
  T* dstate[Cell::kStates];  // [B][padded]: what reaches the state without a product (h) or at all (the others)
  T* dcarry;                 // [B][panel][kCarry][W]
  int64_t bytes;

  Backward(const Problem& p, const rnnk_args& a, const Gradients<T>& g)
      : problem(p), args(a), blocks(p, a, g), d(blocks.d), weights(d, a.packed), reserve(d, a.seq_len, a.batch, a.reserve),
        rows{a.seq_len, a.batch, p.reverse, nullptr, nullptr} {
    Carver c(a.workspace);
    order = c.take<int32_t>(a.batch);
    sorted_lengths = c.take<int64_t>(a.batch);
    for (int s = 0; s < Cell::kStates; ++s) dstate[s] = c.take<T>(a.batch * d.padded(d.state_units(s)));
    dcarry = c.take<T>(a.batch * Cell::kCarry * d.padded(d.H));
    blocks.carve(c);
    bytes = c.used();
  }

  // --- phases: init, then per block the sub-phases of every step and those of the products, then final --------------------------
  static constexpr int sub_phases(int k) { return L::stage(k).norm ? 2 : 1; }
  static constexpr int sub_phases() {
    int n = 0;
    for (int k = 0; k < S; ++k) n += sub_phases(k);
    return n;
  }
  int64_t block_count() const { return ceil_div(rows.steps, blocks.steps); }

  void block_step(int64_t u, int sub, const Part& part) const { select_stage<S - 1>(u, sub, part); }
  template <int K>
  void select_stage(int64_t u, int sub, const Part& part) const {
    if constexpr (K >= 0) {
      if (sub == 0) return stage<K>(u, part);
      if (sub_phases(K) == 2 && sub == 1) return norm<K>(u, part);
      select_stage<K - 1>(u, sub - sub_phases(K), part);
    }
  }

  void begin(const Part& part) const {
    for (int s = 0; s < Cell::kStates; ++s) {
      const rnnk_tensor& from = s == 0 ? args.dh_n : args.dc_n;
      const int64_t n = d.state_units(s);
      for (int64_t r = part.r0; r < part.r1; ++r) {
        for (int64_t p = part.first(d.panels_of(n)); p < part.last(d.panels_of(n)); ++p) {
          const V v = from.data ? load_units<A>(row2(from, rows.row(r)), p * W, smaller<int64_t>(W, n - p * W)) : V::set1(0);
          v.store(dstate[s] + r * d.padded(n) + p * W);
        }
      }
    }
    if (A::depth > W && part.share == part.shares - 1) {
      for (int64_t u = 0; u < blocks.slots; ++u) {
        for (int64_t r = part.r0; r < part.r1; ++r) {
          zero_tail<A>(blocks.dgx_row(u, r), d.gate_columns());
          for (int k = 0; k < S; ++k) zero_tail<A>(blocks.dgh_row(k, u, r), d.stage_columns(k));
        }
      }
    }
  }

  void end(const Part& part) const {
    if (rows.steps > 0) initial_state(rows.steps - 1, part.r0, smaller(part.r1, rows.alive(0)), part);
    for (int s = 0; s < Cell::kStates; ++s) {
      const rnnk_tensor& to = s == 0 ? args.dh_0 : args.dc_0;
      if (!to.data) continue;
      const int64_t n = d.state_units(s);
      for (int64_t r = part.r0; r < part.r1; ++r) {
        for (int64_t p = part.first(d.panels_of(n)); p < part.last(d.panels_of(n)); ++p) {
          const V v = V::load(dstate[s] + r * d.padded(n) + p * W);
          store_units<A>(row2(to, rows.row(r)), p * W, smaller<int64_t>(W, n - p * W), v);
        }
      }
    }
  }

  // --- one step -------------------------------------------------------------------------------------------------------------------
  void initial_state(int64_t u, int64_t r0, int64_t r1, const Part& part) const {
    const int64_t panels = d.panels_of(d.P), K = d.stage_columns(0);
    const StateTile<A> tile{blocks.dgh_row(0, u, 0), L::leading(K), dstate[0], d.padded(d.P)};
    for_tiles<A, 1>(tile, r0, r1, part.first(panels), part.last(panels), K, weights.w_back[0], d.panel(K, 1));
  }

  // Stage K of walk step u (step s of the forward walk): the tile's sum is the gradient of h (last stage; from the step
  // done before this one) or of the operand that the stage emitted.
  template <int K>
  struct Point {
    static constexpr Stage stage = Cell::kStage[K];
    static constexpr bool last = K == S - 1;
    const Backward& f;
    int64_t u, s, t, alive_before;

    Point(const Backward& f, int64_t u)
        : f(f), u(u), s(f.rows.steps - 1 - u), t(f.rows.time(s)), alive_before(f.rows.alive(s - 1)) {}

    const Operand* operand(int64_t row) const { return f.blocks.dgh_row(last ? 0 : K + 1, last ? u - 1 : u, row); }
    // What was written long ago: saved values, the states before, dy.
    RNNK_HD void prepare(int64_t row, int64_t panel) const {
      constexpr int64_t width = Cell::kSaved * W;
      const int64_t columns = f.reserve.saved_columns;
      if constexpr (!stage.projected) {
        fetch(f.reserve.saved + (t * f.rows.batch + row) * columns + panel * width, width);
        if (!A::matrix) return;  // slower products hide the rest; fetching it cost them 1.5 %
        if (row < alive_before) {
          const int64_t t_before = f.rows.time(s - 1);
          const T* before = f.reserve.saved + (t_before * f.rows.batch + row) * columns + panel * width;
          RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) fetch(before + Cell::kSavedState[i] * W, W);
          if constexpr (Cell::kReadsH) fetch_units(f.args.y, t_before, row, panel);
        }
      }
      if (last && f.args.dy.data) fetch_units(f.args.dy, t, row, panel);
    }
    RNNK_HD void fetch_units(const rnnk_tensor& from, int64_t t, int64_t row, int64_t panel) const {
      const Row at = row3(from, t, f.rows.row(row));
      __builtin_prefetch(at.data + panel * W * at.stride * item_size(at.dtype), 0, 2);
    }
    // From zero, not from the direct part: that is often the larger, and every term of the chain would round at its size.
    V start(int64_t, int64_t, int) const { return V::set1(0); }

    void finish(int64_t row, int64_t panel, const V (&sum)[1]) const {
      Q q;
      const L& d = f.d;
      const int64_t H = d.padded(d.H), n = smaller<int64_t>(W, d.units(K) - panel * W);
      const int64_t at = t * f.rows.batch + row, caller_row = f.rows.row(row);
      if constexpr (last) {
        q.ds[0] = sum[0] + V::load(f.dstate[0] + row * d.padded(d.P) + panel * W);
        if (f.args.dy.data) q.ds[0] = q.ds[0] + load_units<A>(row3(f.args.dy, t, caller_row), panel * W, n);
      } else {
        q.demit = sum[0];
        if constexpr (!L::projects()) q.ds_prev[0] = V::load(f.dstate[0] + row * H + panel * W);
      }
      T* carry = f.dcarry + (row * d.panels_of(d.H) + panel) * (Cell::kCarry * W);
      if constexpr (!stage.projected) {
        const T* saved = f.reserve.saved + at * f.reserve.saved_columns + panel * (Cell::kSaved * W);
        RNNK_UNROLL for (int i = 0; i < Cell::kSaved; ++i) q.saved[i] = V::load(saved + i * W);
        RNNK_UNROLL for (int i = 0; i < Cell::kParams; ++i) q.p[i] = V::load(f.weights.params + i * H + panel * W);
        if constexpr (!last) {
          RNNK_UNROLL for (int i = 0; i < Cell::kCarry; ++i) q.dcarry[i] = V::load(carry + i * W);
        }
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.ds[i] = V::load(f.dstate[i] + row * H + panel * W);
        previous_states(q, row, panel, n, caller_row);
        if constexpr (stage.norm) {
          const int64_t columns = d.stage_columns(K);
          const T* normed = f.reserve.normed[K] + at * 2 * columns + panel * stage.gates * W;
          RNNK_UNROLL for (int g = 0; g < stage.gates; ++g) {
            if constexpr (stage.product != Product::identity) q.gx[stage.first_gate + g] = V::load(normed + g * W);
            q.gh[stage.first_gate + g] = V::load(normed + columns + g * W);
          }
        }
      }
      Cell::template backward<K>(q);
      if constexpr (last || !L::projects()) q.ds_prev[0].store(f.dstate[0] + row * d.padded(d.P) + panel * W);
      if constexpr (!stage.projected) {
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.ds_prev[i].store(f.dstate[i] + row * H + panel * W);
        RNNK_UNROLL for (int i = 0; i < Cell::kCarry; ++i) q.dcarry[i].store(carry + i * W);
        RNNK_UNROLL for (int i = 0; i < Cell::kParams; ++i) {
          if (Cell::kParamStage[i] == K) q.dp[i].store(f.blocks.dp_row(u, row) + i * H + panel * W);
        }
      }
      // Padding units must not reach the sums: their zero weights times an infinite h would have made them NaN.
      RNNK_UNROLL for (int g = 0; g < stage.gates; ++g) {
        const int gate = stage.first_gate + g;
        if constexpr (stage.product == Product::weight_hh) {
          const V v = n < W ? q.dgx[gate].first_n(n) : q.dgx[gate];
          A::store(v, f.blocks.dgx_row(u, row) + (panel * G + gate) * W);
        }
        if constexpr (!L::same_dg()) {
          const V v = n < W ? q.dgh[gate].first_n(n) : q.dgh[gate];
          A::store(v, f.blocks.dgh_row(K, u, row) + (panel * stage.gates + g) * W);
        }
      }
    }

    RNNK_HD void previous_states(Q& q, int64_t row, int64_t panel, int64_t n, int64_t caller_row) const {
      const bool first = row >= alive_before;  // of this row
      const V zero = V::set1(0);
      if constexpr (Cell::kReadsH) {
        const rnnk_tensor& h_0 = f.args.h_0;
        q.s[0] = !first     ? load_units<A>(row3(f.args.y, f.rows.time(s - 1), caller_row), panel * W, n)
                 : h_0.data ? load_units<A>(row2(h_0, caller_row), panel * W, n)
                            : zero;
      }
      RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) {
        const rnnk_tensor& c_0 = f.args.c_0;
        const int64_t before = f.rows.time(s - 1) * f.rows.batch + row;
        const T* saved = f.reserve.saved + before * f.reserve.saved_columns + panel * (Cell::kSaved * W);
        q.s[i] = !first     ? V::load(saved + Cell::kSavedState[i] * W)
                 : c_0.data ? load_units<A>(row2(c_0, caller_row), panel * W, n)
                            : zero;
      }
    }
  };

  template <int K>
  void stage(int64_t u, const Part& part) const {
    const Point<K> point(*this, u);
    const int64_t now = rows.alive(point.s), panels = d.panels_of(d.units(K));
    const int64_t p0 = part.first(panels), p1 = part.last(panels), r1 = smaller(part.r1, now);
    if constexpr (K == S - 1) {
      // Rows alive in the step done before this one have a product to add; the others begin here, or have just ended.
      const int64_t done = rows.alive(point.s + 1), columns = d.stage_columns(0);
      const int64_t both = larger(part.r0, smaller(r1, done));
      for_tiles<A, 1>(point, part.r0, both, p0, p1, columns, weights.w_back[0], d.panel(columns, 1));
      for_tiles<A, 1>(point, both, r1, p0, p1, 0, weights.w_back[0], d.panel(columns, 1));
      if (done > now) initial_state(u - 1, larger(part.r0, now), smaller(part.r1, done), part);
    } else if constexpr (Cell::kStage[K + 1].product == Product::identity) {
      for (int64_t r = part.r0; r < r1; ++r) {
        for (int64_t p = p0; p < p1; ++p) {
          const V sum[1] = {A::load(point.operand(r) + p * W)};
          point.finish(r, p, sum);
        }
      }
    } else {
      const int64_t columns = d.stage_columns(K + 1);
      for_tiles<A, 1>(point, part.r0, r1, p0, p1, columns, weights.w_back[K + 1], d.panel(columns, 1));
    }
  }

  // Backward of the normalisation of stage K, in place; split by rows, because it needs them whole:
  // dv = scale * (dn - mean(dn) - n * mean(dn * n)) with n the normalised vector.
  template <int K>
  void norm(int64_t u, const Part& part) const {
    constexpr Stage stage = Cell::kStage[K];
    const int64_t s = rows.steps - 1 - u, t = rows.time(s),
                  n = larger<int64_t>(0, smaller(part.r1, rows.alive(s)) - part.r0);
    const int64_t columns = d.stage_columns(K), units = d.units(K);
    for (int64_t r = part.r0 + part.first(n); r < part.r0 + part.last(n); ++r) {
      for (int i = stage.product == Product::identity ? 1 : 0; i < 2; ++i) {
        const int64_t at = (t * rows.batch + r) * 2 + i;
        const T* normed = reserve.normed[K] + at * columns;
        Operand* dv = i == 0 ? blocks.dgx_row(u, r) : blocks.dgh_row(K, u, r);
        T sum = 0, dot = 0;
        for (int64_t c = 0; c < columns; ++c) {
          if (column<W>(c, stage.gates, units).unit >= 0) sum += value(dv[c]), dot += value(dv[c]) * normed[c];
        }
        sum /= T(stage.gates * units), dot /= T(stage.gates * units);
        for (int64_t c = 0; c < columns; ++c) {
          const bool valid = column<W>(c, stage.gates, units).unit >= 0;
          assign(dv[c], valid ? reserve.scale[K][at] * (value(dv[c]) - sum - normed[c] * dot) : T(0));
        }
      }
    }
  }
};

}  // namespace
}  // namespace rnnk
