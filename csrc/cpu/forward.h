// The forward driver: one text for every dtype and instruction set. It walks time and forms the product of the inputs.
//
// Time goes in blocks: first gx = W_ih x + b_ih for all rows of the block, small enough to be still in cache when the
// recurrence reads it, then step by step gh = R h' fused with the cell's pointwise part, which is forward_step.h. The driver knows
// the cell by its shape and one function, so it is compiled once for all cells. It leaves layers, directions and dropout to the
// caller, the split over threads to schedule.h, the inner loop to tile.h.
#pragma once
#include "cpu/extras.h"
#include "cpu/pack.h"
#include "cpu/schedule.h"
#include "cpu/unpacked.h"

namespace rnnk {
namespace {

template <class A, int G>
struct InputTile {
  using V = typename A::V;
  using T = typename V::T;
  static constexpr int W = V::lanes;
  const typename A::Operand* const* from;
  T* const* to;
  const T* bias;  // null: none
  const typename A::Operand* operand(int64_t row) const { return from[row]; }
  void prepare(int64_t, int64_t) const {}
  Start<A> start() const { return {bias, G * W}; }
  void finish(int64_t row, int64_t panel, const V (&gates)[G]) const {
    RNNK_UNROLL for (int g = 0; g < G; ++g) gates[g].store(to[row] + (panel * G + g) * W);
  }
};

template <class A>
struct Forward {
  using V = typename A::V;
  using T = typename V::T;
  using Operand = typename A::Operand;
  using L = Layout<A>;
  static constexpr int W = V::lanes;
  // A phase of step s, in the block of steps from `first` on.
  using Step = void (*)(const Forward&, int64_t first, int64_t s, int sub, const Part&);

  const Problem& problem;
  const LayerCall& args;
  const Step step;
  const WeightUnit* const unit;  // null: weights in A's own type
  L d;
  Packed<A> weights;
  Reserve<A> reserve;
  Rows rows;
  Extras<A> extras;
  bool keep;      // training: write the reserve
  bool convert;   // x needs a copy as operands with unit stride
  int64_t block;  // steps per block

  // Workspace. h is double-buffered because every unit of a step reads all of h'; the other states are updated in place.
  Operand* h[2];               // [B][leading(padded P)]
  Operand* fed[2];             // h as stage 0 multiplies it: h itself but for recurrent dropout
  T* state[kMostStates];       // [B][padded H]; entry 0 unused
  Operand* x;                  // [block][B][leading(I)]
  T* gx;                       // [block][B][gate_columns]
  Operand* emit[kMostStages];  // stage k's operand, k >= 1: [B][leading(operand(k))]
  T* carry;                    // [B][panel][kCarry][W]
  T* raw[kMostStages];         // gh of a stage that has it in memory first: [B][stage_columns]
  int64_t bytes;

  Forward(const Problem& p, const CellShape& shape, const LayerCall& a, Step step, const WeightUnit* unit = nullptr)
      : problem(p), args(a), step(step), unit(unit), d(p, shape), weights(d, a.packed),
        reserve(d, a.seq_len, a.batch, a.reserve), rows{a.seq_len, a.batch, p.reverse, a.order, a.sorted_lengths},
        extras(p, a, d, rows), keep(a.reserve != nullptr),
        convert(!p.given_gx && (a.x.stride[2] != 1 || a.x.dtype != A::storage ||
                                !std::is_same_v<Operand, typename A::Stored> || d.I % A::depth != 0)),
        block(larger<int64_t>(1, smaller(a.seq_len, ceil_div(d.gx_rows(), larger<int64_t>(a.batch, 1))))) {
    Carver c(a.workspace);
    const int64_t B = a.batch;
    for (int i = 0; i < 2; ++i) {
      h[i] = c.take<Operand>(B * h_leading());
      Operand* const own = c.take<Operand>(extras.may_drop() ? B * h_leading() : 0);
      fed[i] = extras.drops() ? own : h[i];
    }
    extras.dropped = c.take<T>(extras.may_drop() ? B * d.out.padded() : 0);
    state[0] = nullptr;
    for (int s = 1; s < shape.states; ++s) state[s] = c.take<T>(B * d.hidden.padded());
    x = c.take<Operand>(block * B * d.leading(d.I));
    gx = c.take<T>(block * B * d.gate_columns());
    for (int k = 0; k < shape.stages; ++k) {
      const bool product = has_product(shape, k);
      emit[k] = c.take<Operand>(k > 0 && product ? B * emit_leading(k) : 0);
      raw[k] = c.take<T>(d.stage(k).norm || !product ? B * d.stage_columns(k) : 0);
    }
    carry = c.take<T>(B * shape.carry * d.hidden.padded());
    bytes = c.used();
  }

  // --- phases: init, then per block [convert] gx and the sub-phases of every step, then final ------------------------------
  int64_t head() const { return convert ? 2 : 1; }  // phases of a block before its steps
  int64_t phases() const { return 2 + ceil_div(rows.steps, block) * head() + rows.steps * forward_phases(d.shape); }

  void phase(int64_t n, const Part& part) const {
    if (n == 0) return begin(part);
    if (n == phases() - 1) return end(part);
    const int64_t step_phases = forward_phases(d.shape), per_block = head() + block * step_phases;
    const int64_t first = (n - 1) / per_block * block, i = (n - 1) % per_block;
    if (i < head() - 1) return convert_x(first, part);
    if (i < head()) return input_product(first, part);
    step(*this, first, first + (i - head()) / step_phases, static_cast<int>((i - head()) % step_phases), part);
  }

  // for_tiles() of a matrix.
  template <int G, class Fn>
  RNNK_HD void product(const Fn& fn, const WeightMatrix<A>& m, int64_t r0, int64_t r1, int64_t p0, int64_t p1) const {
    if (args.unpacked || unit) other_product<G>(fn, m, r0, r1, p0, p1);
    else for_tiles<A, G>(fn, r0, r1, p0, p1, m.K, m.packed, d.panel(m.K, m.rows.gates));
  }
  template <int G, class Fn>
  __attribute__((noinline)) void other_product(const Fn& fn, const WeightMatrix<A>& m, int64_t r0, int64_t r1, int64_t p0,
                                               int64_t p1) const {
    if constexpr (A::plain && std::is_same_v<T, float>) {
      if (unit) return unit_product<G>(tiled<A, G>(fn), m, r0, r1, p0, p1);
    }
    unpacked_product<G>(fn, m, r0, r1, p0, p1);
  }
  // A call that brings its weights multiplies few rows by them where they are; for more, it packs one panel after the other into the
  // room of the first, which stays in a near cache.
  template <int G, class Fn>
  void unpacked_product(const Fn& fn, const WeightMatrix<A>& m, int64_t r0, int64_t r1, int64_t p0, int64_t p1) const {
    typename A::Weight* const room = m.packed + p0 * d.panel(m.K, m.rows.gates);
    if constexpr (A::plain) {
      if (problem.dtype == native_dtype<T>()) p0 = whole_panels_in_place<A, G>(tiled<A, G>(fn), r0, r1, p0, p1, m);
    }
    for (; p0 < p1; ++p0) {
      pack_one(m, p0, room);
      for_tiles<A, G>(fn, r0, r1, p0, p0 + 1, m.K, room, 0);
    }
  }
  template <int G>
  void unit_product(const TiledProduct<A, G>& product, const WeightMatrix<A>& m, int64_t r0, int64_t r1, int64_t p0,
                    int64_t p1) const {
    if (r1 <= r0 || p1 <= p0) return;
    const auto operand = [](const void* driver, int64_t row) {
      const auto& tiled = *static_cast<const TiledProduct<A, G>*>(driver);
      return tiled.operand(tiled.fn, row);
    };
    const auto finish = [](const void* driver, int64_t row, int rows, int64_t panel, int panels, float* sums) {
      const auto& tiled = *static_cast<const TiledProduct<A, G>*>(driver);
      for (int n; rows > 0; rows -= n, row += n, sums += n * panels * (G * W)) {
        n = smaller(rows, MicroKernels<A, G>::kRows);  // as many as one tile may have
        Tile<A> tile;
        tile.sums = sums;
        tiled.run(tiled.fn, [](const Tile<A>&) {}, row, n, panel, panels, 0, true, tile);  // the pointwise part alone
      }
    };
    unit->run({G, m.K, m.packed, d.panel(m.K, G) * int64_t{sizeof(T)}, product.start.from, product.start.stride, &product,
               operand, finish},
              r0, r1, p0, p1);
  }
  __attribute__((noinline)) void pack_one(const WeightMatrix<A>& m, int64_t panel, typename A::Weight* to) const {
    with_source<A>(m.source, problem.dtype, [&](const auto& from) { pack_panel<A>(from, m.rows, m.K, panel, to); });
  }

  // --- init and final ----------------------------------------------------------------------------------------------------------
  void begin(const Part& part) const {
    if (args.unpacked && part.share == 0) pack_vectors(d, args.weights, problem.dtype, weights);
    for (int s = 0; s < d.shape.states; ++s) {
      const rnnk_tensor from = s == 0 ? args.h_0 : state_of(args.c_0, s, d.H);
      const Axis<W>& units = d.state(s);
      for (int64_t p = part.first(units.panels()); p < part.last(units.panels()); ++p) {
        for (int64_t r = part.r0; r < part.r1; ++r) {
          V v = from.data ? load_units<A>(row2(from, rows.row(r)), units.first(p), units.valid(p)) : V::set1(0);
          // A row of the reverse direction may begin in any step, so both buffers of h hold its initial state.
          if (s == 0) begin_h(v, r, p);
          else v.store(state[s] + r * d.hidden.padded() + p * W);
        }
      }
    }
    if (A::depth > W && part.share == part.shares - 1) {  // operands are zero up to a multiple of depth
      for (int64_t r = part.r0; r < part.r1; ++r) {
        for (int i = 0; i < 2; ++i) {
          zero_tail<A>(h[i] + r * h_leading(), d.out.padded());
          zero_tail<A>(fed[i] + r * h_leading(), d.out.padded());
        }
        for (int k = 1; k < d.shape.stages; ++k) {
          if (has_product(d.shape, k)) zero_tail<A>(emit[k] + r * emit_leading(k), d.operand(k).padded());
        }
      }
    }
  }
  void begin_h(V v, int64_t r, int64_t p) const {
    const int64_t at = r * h_leading() + p * W;
    V first = v;
    if (d.shape.has_options) {
      if (extras.resets_at(extras.first_step(r), r)) first = V::set1(0);
      if (extras.drops()) {
        extras.draw(r, p);
        for (auto buffer : fed) A::store(extras.thinned(first, r, p), buffer + at);
      }
    }
    A::store(first, h[0] + at), A::store(first, h[1] + at);
  }

  void end(const Part& part) const {
    for (int s = 0; s < d.shape.states; ++s) {
      const rnnk_tensor to = s == 0 ? args.h_n : state_of(args.c_n, s, d.H);
      if (!to.data) continue;
      const Axis<W>& units = d.state(s);
      const int64_t ld = s == 0 ? h_leading() : d.hidden.padded();
      for (int64_t r = part.r0; r < part.r1; ++r) {
        // h of step s went into buffer (s + 1) % 2; a forward row stops at its length, a reverse row at step T - 1.
        const int64_t last = rows.reverse || !rows.lengths ? rows.steps : rows.lengths[r];
        for (int64_t p = part.first(units.panels()); p < part.last(units.panels()); ++p) {
          const int64_t at = r * ld + p * W;
          store_units<A>(row2(to, rows.row(r)), units.first(p), units.valid(p),
                         s == 0 ? A::load(h[last & 1] + at) : V::load(state[s] + at));
        }
      }
    }
  }

  // --- the input product ------------------------------------------------------------------------------------------------------
  // Rows of a block are numbered (s - first) * B + r. convert_x is split by steps, not units: every row is written once.
  void convert_x(int64_t first, const Part& part) const {
    const int64_t end = smaller(first + block, rows.steps);
    for (int64_t s = first + part.first(end - first); s < first + part.last(end - first); ++s) {
      for (int64_t r = part.r0; r < smaller(part.r1, rows.alive(s)); ++r) {
        const Row from = row3(args.x, rows.time(s), rows.row(r));
        Operand* to = x + ((s - first) * rows.batch + r) * d.leading(d.I);
        const int64_t columns = round_up(d.I, A::depth);
        for (int64_t i = 0; i < columns; i += W) A::store(load_units<A>(from, i, smaller<int64_t>(W, d.I - i)), to + i);
      }
    }
  }

  // gx as the caller gives it, [gate][unit], in panel order.
  void take_gx(int64_t first, const Part& part) const {
    const int gates = d.shape.gates;
    const int64_t end = smaller(first + block, rows.steps), panels = d.hidden.panels();
    for (int64_t s = first; s < end; ++s) {
      for (int64_t r = part.r0; r < smaller(part.r1, rows.alive(s)); ++r) {
        const Row from = row3(args.x, rows.time(s), rows.row(r));
        T* const to = gx + ((s - first) * rows.batch + r) * d.gate_columns();
        for (int64_t p = part.first(panels); p < part.last(panels); ++p) {
          for (int g = 0; g < gates; ++g) {
            load_units<A>(from, g * d.H + d.hidden.first(p), d.hidden.valid(p)).store(to + (p * gates + g) * W);
          }
        }
      }
    }
  }
  void input_product(int64_t first, const Part& part) const {
    if (d.given_gx) return take_gx(first, part);
    with_gates(d.shape.gates, [&](auto gates) { input_product<gates>(first, part); });
  }
  template <int G>
  void input_product(int64_t first, const Part& part) const {
    constexpr int kPass = 240;  // rows per pass over the weights: 1 KiB pointers each, a multiple of every tile height
    const Operand* from[kPass];
    T* to[kPass];
    int n = 0;
    const int64_t end = smaller(first + block, rows.steps), panels = d.hidden.panels();
    const T* bias = d.stage(0).norm ? nullptr : weights.b_ih;  // a norm's bias comes after it
    const auto flush = [&] {
      const WeightMatrix<A> matrix{args.weights.weight_ih, input_rows(d, 0), d.I, weights.w_ih};
      product<G>(InputTile<A, G>{from, to, bias}, matrix, 0, n, part.first(panels), part.last(panels));
      n = 0;
    };
    for (int64_t s = first; s < end; ++s) {
      for (int64_t r = part.r0; r < smaller(part.r1, rows.alive(s)); ++r) {
        const int64_t i = (s - first) * rows.batch + r;
        from[n] = convert ? x + i * d.leading(d.I)
                          : reinterpret_cast<const Operand*>(row3(args.x, rows.time(s), rows.row(r)).data);
        to[n] = gx + i * d.gate_columns();
        if (++n == kPass) flush();
      }
    }
    flush();
  }

  int64_t h_leading() const { return L::leading(d.out.padded()); }
  int64_t emit_leading(int k) const { return L::leading(d.operand(k).padded()); }
};

}  // namespace
}  // namespace rnnk
