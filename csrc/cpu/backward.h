// The BPTT driver: the mirror of forward.h. It walks time backwards; per step the product of the step just done with R
// transposed is fused with the cell's pointwise backward (backward_step.h), so dh never goes to memory. The gradients of
// pre-activations of a block of steps stay in a ring buffer, from which gradients.h forms dW, db and dx. It is compiled once for
// all cells.
#pragma once
#include "cpu/gradients.h"

namespace rnnk {
namespace {

template <class A>
struct Backward {
  using V = typename A::V;
  using T = typename V::T;
  using Operand = typename A::Operand;
  using L = Layout<A>;
  static constexpr int W = V::lanes;
  using Step = void (*)(const Backward&, int64_t u, int sub, const Part&);  // a phase of walk step u

  const Problem& problem;
  const LayerCall& args;
  const Step step;
  Blocks<A> blocks;  // the ring of dgx, dgh, dp and the products over it
  const L& d;
  Packed<A> weights;
  Reserve<A> reserve;
  Rows rows;
  Extras<A> extras;
  T* dstate[kMostStates];  // [B][padded]: what reaches the state without a product (h) or at all (the others)
  T* dcarry;               // [B][panel][kCarry][W]
  int64_t bytes;

  Backward(const Problem& p, const CellShape& shape, const LayerCall& a, const Gradients<T>& g, Step step)
      : problem(p), args(a), step(step), blocks(p, shape, a, g), d(blocks.d), weights(d, a.packed),
        reserve(d, a.seq_len, a.batch, a.reserve), rows{a.seq_len, a.batch, p.reverse, a.order, a.sorted_lengths},
        extras(p, a, d, rows) {
    Carver c(a.workspace);
    for (int s = 0; s < shape.states; ++s) dstate[s] = c.take<T>(a.batch * d.state(s).padded());
    dcarry = c.take<T>(a.batch * shape.carry * d.hidden.padded());
    extras.dropped = c.take<T>(extras.may_drop() ? a.batch * d.out.padded() : 0);
    blocks.carve(c);
    bytes = c.used();
  }

  // --- phases: init, then per block the sub-phases of every step and those of the products, then final --------------------------
  int64_t block_count() const { return ceil_div(rows.steps, blocks.steps); }

  void begin(const Part& part) const {
    if (args.unpacked && part.share == 0) pack_vectors(d, args.weights, problem.dtype, weights);
    for (int s = 0; s < d.shape.states; ++s) {
      const rnnk_tensor from = s == 0 ? args.dh_n : state_of(args.dc_n, s, d.H);
      const Axis<W>& units = d.state(s);
      for (int64_t r = part.r0; r < part.r1; ++r) {
        for (int64_t p = part.first(units.panels()); p < part.last(units.panels()); ++p) {
          const V v = from.data ? load_units<A>(row2(from, rows.row(r)), units.first(p), units.valid(p)) : V::set1(0);
          v.store(dstate[s] + r * units.padded() + p * W);
          if (s == 0 && extras.drops()) extras.draw(r, p);
        }
      }
    }
    if (A::depth > W && part.share == part.shares - 1) {
      for (int64_t u = 0; u < blocks.slots; ++u) {
        for (int64_t r = part.r0; r < part.r1; ++r) {
          zero_tail<A>(blocks.dgx_row(u, r), d.gate_columns());
          for (int k = 0; k < d.shape.stages; ++k) zero_tail<A>(blocks.dgh_row(k, u, r), d.stage_columns(k));
        }
      }
    }
  }

  void end(const Part& part) const {
    if (rows.steps > 0) initial_state(rows.steps - 1, part.r0, smaller(part.r1, rows.alive(0)), part);
    for (int s = 0; s < d.shape.states; ++s) {
      const rnnk_tensor to = s == 0 ? args.dh_0 : state_of(args.dc_0, s, d.H);
      if (!to.data) continue;
      const Axis<W>& units = d.state(s);
      for (int64_t r = part.r0; r < part.r1; ++r) {
        for (int64_t p = part.first(units.panels()); p < part.last(units.panels()); ++p) {
          const V v = V::load(dstate[s] + r * units.padded() + p * W);
          store_units<A>(row2(to, rows.row(r)), units.first(p), units.valid(p), v);
        }
      }
    }
  }

  // --- what a step needs of the driver ---------------------------------------------------------------------------------------------
  // What reaches h' of walk step u through the product of stage 0, for rows whose first step that was: added to dstate.
  struct Initial {
    const Backward& f;
    const Operand* from;  // row 0 of dgh, of the head that is being multiplied
    int64_t u, ld_from;

    const Operand* operand(int64_t row) const { return from + row * ld_from; }
    void prepare(int64_t, int64_t) const {}
    Start<A> start() const { return {}; }
    void finish(int64_t row, int64_t panel, const V (&sum)[1]) const {
      T* direct = f.dstate[0] + row * f.d.out.padded() + panel * W;
      (f.template through_product<true>(sum[0], u, row, panel) + V::load(direct)).store(direct);
    }
  };
  void initial_state(int64_t u, int64_t r0, int64_t r1, const Part& part) const {
    const int64_t panels = d.out.panels();
    Initial initial{*this, nullptr, u, L::leading(d.stage_columns(0))};
    const auto run = has_product(d.shape, 0) ? &Backward::product<true, Initial> : &Backward::product<false, Initial>;
    (this->*run)(0, initial, r0, r1, part.first(panels), part.last(panels), u, false);
  }
  // The product's share of the gradient of the h that walk step u started from.
  template <bool has_options>
  RNNK_HD V through_product(V sum, int64_t u, int64_t row, int64_t panel) const {
    if constexpr (has_options) {
      if (extras.resets_at(rows.steps - 1 - u, row)) return V::set1(0);
      if (extras.drops()) return extras.thinned(sum, row, panel);
    }
    return sum;
  }

  // fn over what comes back through stage k's product in walk step u: dgh . weights; where it has none, dgh itself. nothing: zero.
  template <bool has_product, class Fn>
  void product(int k, Fn& fn, int64_t r0, int64_t r1, int64_t p0, int64_t p1, int64_t u, bool nothing) const {
    const Operand* const dgh = blocks.dgh_row(k, larger<int64_t>(u, 0), 0);
    if constexpr (!has_product) {
      for (int64_t r = r0; r < r1; ++r) {
        for (int64_t p = p0; p < p1; ++p) {
          const V sum[1] = {nothing ? V::set1(0) : A::load(dgh + r * L::leading(d.stage_columns(k)) + p * W)};
          fn.finish(r, p, sum);
        }
      }
    } else {
      if constexpr (A::plain) {
        if (args.unpacked && !nothing) {
          fn.from = dgh;
          const WeightMatrix<A> matrix{stage_weights(d.stage(k), args.weights), stage_rows(d, k, 0), d.terms(k), nullptr};
          return product_in_place<A>(fn, r0, r1, p0, p1, matrix);
        }
      }
      const int64_t columns = d.head_columns(k);
      L::for_heads(d.operand(k), p0, p1, [&](int64_t head, int64_t q0, int64_t q1) RNNK_INLINE {
        fn.from = dgh + head * columns;
        for_tiles<A, 1>(fn, r0, r1, q0, q1, nothing ? 0 : columns, weights.w_back[k], d.panel(columns, 1));
      });
    }
  }
};

}  // namespace
}  // namespace rnnk
