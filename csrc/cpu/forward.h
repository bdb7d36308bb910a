// The forward driver: one text for every cell, dtype and instruction set; walks time, tiles and stages, and calls the cell.
//
// Time goes in blocks: first gx = W_ih x + b_ih for all rows of the block, small enough to be still in cache when the
// recurrence reads it, then step by step gh = R h' fused with the cell's pointwise part. Leaves layers, directions and
// dropout to the caller, the split over threads to schedule.h, the inner loop to tile.h.
#pragma once
#include "cpu/extras.h"
#include "cpu/norm.h"
#include "cpu/schedule.h"

namespace rnnk {
namespace {

// The tile functors that know nothing of the cell stand outside of the drivers, or each cell would have its own copy of them.
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
  V start(int64_t, int64_t panel, int g) const { return bias ? V::load(bias + (panel * G + g) * W) : V::set1(0); }
  void finish(int64_t row, int64_t panel, const V (&gates)[G]) const {
    RNNK_UNROLL for (int g = 0; g < G; ++g) gates[g].store(to[row] + (panel * G + g) * W);
  }
};

template <class A, class Cell>
struct Forward {
  using V = typename A::V;
  using T = typename V::T;
  using Operand = typename A::Operand;
  using L = Layout<A>;
  static constexpr CellShape kShape = shape_of<Cell>();
  static_assert(fits(kShape), "the driver has no room for a cell with these stages");
  using Q = Step<Cell, V>;
  static constexpr int W = V::lanes, G = Cell::kGates, S = Cell::kStages;

  const Problem& problem;
  const rnnk_args& args;
  L d;
  Packed<A> weights;
  Reserve<A> reserve;
  Rows rows;
  Extras<A> extras;
  bool keep;      // training: write the reserve
  bool convert;   // x needs a copy as operands with unit stride
  int64_t block;  // steps per block

  // Workspace. h is double-buffered because every unit of a step reads all of h'; the other states are updated in place.
  int32_t* order;
  int64_t* sorted_lengths;
  Operand* h[2];                        // [B][leading(padded P)]
  Operand* fed[2];                      // h as stage 0 multiplies it: h itself but for recurrent dropout
  T* state[at_least_1(Cell::kStates)];  // [B][padded H]; entry 0 unused
  Operand* x;                           // [block][B][leading(I)]
  T* gx;                                // [block][B][gate_columns]
  Operand* emit[S];                     // stage k's operand, k >= 1: [B][leading(operand(k))]
  T* carry;                             // [B][panel][kCarry][W]
  T* raw[S];                            // gh of a stage that has it in memory first: [B][stage_columns]
  int64_t bytes;

  // 192 rows fill the tiles evenly (a multiple of 6 and 4) and keep gx of a usual layer within the second-level cache.
  static int64_t block_steps(int64_t steps, int64_t batch) {
    return larger<int64_t>(1, smaller(steps, ceil_div(192, larger<int64_t>(batch, 1))));
  }

  Forward(const Problem& p, const rnnk_args& a)
      : problem(p), args(a), d(p, kShape), weights(d, a.packed), reserve(d, a.seq_len, a.batch, a.reserve),
        rows{a.seq_len, a.batch, p.reverse, nullptr, nullptr}, extras(p, a, d, rows), keep(a.reserve != nullptr),
        convert(a.x.stride[2] != 1 || a.x.dtype != A::storage || !std::is_same_v<Operand, typename A::Stored> ||
                d.I % A::depth != 0),
        block(block_steps(a.seq_len, a.batch)) {
    Carver c(a.workspace);
    const int64_t B = a.batch;
    order = c.take<int32_t>(B);
    sorted_lengths = c.take<int64_t>(B);
    for (int i = 0; i < 2; ++i) {
      h[i] = c.take<Operand>(B * h_leading());
      Operand* const own = c.take<Operand>(extras.may_drop() ? B * h_leading() : 0);
      fed[i] = extras.drops() ? own : h[i];
    }
    extras.dropped = c.take<T>(extras.may_drop() ? B * d.out.padded() : 0);
    state[0] = nullptr;
    for (int s = 1; s < Cell::kStates; ++s) state[s] = c.take<T>(B * d.hidden.padded());
    x = c.take<Operand>(block * B * d.leading(d.I));
    gx = c.take<T>(block * B * d.gate_columns());
    for (int k = 0; k < S; ++k) {
      const bool product = has_product(kShape, k);
      emit[k] = c.take<Operand>(k > 0 && product ? B * emit_leading(k) : 0);
      raw[k] = c.take<T>(d.stage(k).norm || !product ? B * d.stage_columns(k) : 0);
    }
    carry = c.take<T>(B * Cell::kCarry * d.hidden.padded());
    bytes = c.used();
  }

  // --- phases: init, then per block [convert] gx and the sub-phases of every step, then final ------------------------------
  int64_t head() const { return convert ? 2 : 1; }  // phases of a block before its steps
  int64_t phases() const { return 2 + ceil_div(rows.steps, block) * head() + rows.steps * forward_phases(kShape); }

  void phase(int64_t n, const Part& part) const {
    if (n == 0) return begin(part);
    if (n == phases() - 1) return end(part);
    const int64_t per_block = head() + block * forward_phases(kShape), first = (n - 1) / per_block * block;
    const int64_t i = (n - 1) % per_block;
    if (i < head() - 1) return convert_x(first, part);
    if (i < head()) return input_product(first, part);
    step(first, first + (i - head()) / forward_phases(kShape), static_cast<int>((i - head()) % forward_phases(kShape)),
         part);
  }

  // --- init and final ----------------------------------------------------------------------------------------------------------
  void begin(const Part& part) const {
    for (int s = 0; s < Cell::kStates; ++s) {
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
        for (int k = 1; k < S; ++k) {
          if (has_product(kShape, k)) zero_tail<A>(emit[k] + r * emit_leading(k), d.operand(k).padded());
        }
      }
    }
  }
  void begin_h(V v, int64_t r, int64_t p) const {
    const int64_t at = r * h_leading() + p * W;
    V first = v;
    if constexpr (Cell::kHasOptions) {
      if (extras.resets_at(extras.first_step(r), r)) first = V::set1(0);
      if (extras.drops()) {
        extras.draw(r, p);
        for (auto buffer : fed) A::store(extras.thinned(first, r, p), buffer + at);
      }
    }
    A::store(first, h[0] + at), A::store(first, h[1] + at);
  }

  void end(const Part& part) const {
    for (int s = 0; s < Cell::kStates; ++s) {
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

  void input_product(int64_t first, const Part& part) const {
    constexpr int kChunk = 240;  // rows per pass over the weights: 1 KiB pointers each, a multiple of every tile height
    const Operand* from[kChunk];
    T* to[kChunk];
    int n = 0;
    const int64_t end = smaller(first + block, rows.steps), panels = d.hidden.panels();
    const T* bias = d.stage(0).norm ? nullptr : weights.b_ih;  // a norm's bias comes after it
    const auto flush = [&] {
      for_tiles<A, G>(InputTile<A, G>{from, to, bias}, 0, n, part.first(panels), part.last(panels), d.I, weights.w_ih,
                      d.panel(d.I, G));
      n = 0;
    };
    for (int64_t s = first; s < end; ++s) {
      for (int64_t r = part.r0; r < smaller(part.r1, rows.alive(s)); ++r) {
        const int64_t i = (s - first) * rows.batch + r;
        from[n] = convert ? x + i * d.leading(d.I)
                          : reinterpret_cast<const Operand*>(row3(args.x, rows.time(s), rows.row(r)).data);
        to[n] = gx + i * d.gate_columns();
        if (++n == kChunk) flush();
      }
    }
    flush();
  }

  // --- the recurrence --------------------------------------------------------------------------------------------------------
  void step(int64_t first, int64_t s, int sub, const Part& part) const { select_stage<0>(first, s, sub, part); }

  template <int K>
  void select_stage(int64_t first, int64_t s, int sub, const Part& part) const {
    if constexpr (K < S) {
      constexpr int count = forward_phases(kShape, K);
      if (sub < count) return stage<K>(first, s, sub == count - 1, part);
      select_stage<K + 1>(first, s, sub - count, part);
    }
  }

  // Stage K of step s: a tile functor whose finish() is the cell's pointwise part.
  template <int K>
  struct Point {
    static constexpr Stage stage = Cell::kStage[K];
    static constexpr int gates = stage.gates;
    static constexpr bool any = Cell::kHasOptions, kRare = false;
    const Forward& f;
    int64_t s, t;
    const Operand* h_from;
    Operand* h_to;
    const Operand* from;      // row 0 of this step's operand, of the head that is being multiplied
    const T *gx_from, *bias;  // row 0 of this step's gx
    T *saved_to, *carry_to;
    int64_t ld_h, ld_from, ld_gx, ld_saved, ld_carry, ld_state;
    Row y;         // row 0 of this step
    int64_t ld_y;  // elements
    bool plain;    // y needs no conversion, and its rows are in order
    bool keep, quiet;

    Point(const Forward& f, int64_t first, int64_t s)
        : f(f), s(s), t(f.rows.time(s)), h_from(f.h[s & 1]), h_to(f.h[(s + 1) & 1]), from(K == 0 ? f.fed[s & 1] : f.emit[K]),
          gx_from(f.gx + (s - first) * f.rows.batch * f.d.gate_columns()), bias(f.weights.b_hh + stage.first_gate * W),
          saved_to(f.reserve.saved + t * f.rows.batch * f.reserve.saved_columns), carry_to(f.carry), ld_h(f.h_leading()),
          ld_from(K == 0 ? ld_h : f.emit_leading(K)), ld_gx(f.d.gate_columns()), ld_saved(f.reserve.saved_columns),
          ld_carry(Cell::kCarry * f.d.hidden.padded()), ld_state(f.d.hidden.padded()), y(row3(f.args.y, t, 0)),
          ld_y(f.args.y.stride[1]),
          plain(y.dtype == A::storage && f.problem.dtype == y.dtype && y.stride == 1 && !f.rows.order), keep(f.keep),
          quiet(f.extras.quiet()) {}

    const Operand* operand(int64_t row) const { return from + row * ld_from; }
    RNNK_HD void prepare(int64_t row, int64_t panel) const {
      if (keep && !stage.projected) fetch(saved_to + row * ld_saved + panel * (Cell::kSaved * W), Cell::kSaved * W);
    }
    static constexpr bool biased = stage.product == Product::weight_hh && !stage.norm;
    V start(int64_t, int64_t panel, int g) const {
      if constexpr (!biased) return V::set1(0);
      return V::load(bias + (panel * G + g) * W);
    }
    const T* gx(int64_t row) const { return gx_from + row * ld_gx; }
    T* raw(int64_t row) const { return f.raw[K] + row * f.d.stage_columns(K); }

    void finish(int64_t row, int64_t panel, const V (&gh)[gates]) const {
      if constexpr (stage.norm) {  // the row is not complete yet
        RNNK_UNROLL for (int g = 0; g < gates; ++g) gh[g].store(raw(row) + (panel * gates + g) * W);
      } else {
        Q q;
        RNNK_UNROLL for (int g = 0; g < gates; ++g) {
          q.gh[stage.first_gate + g] = gh[g];
          if constexpr (stage.product == Product::weight_hh) {
            q.gx[stage.first_gate + g] = V::load(gx(row) + (panel * G + stage.first_gate + g) * W);
          }
        }
        pointwise(q, row, panel);
      }
    }

    // Panels [p0, p1) of one row: those of a stage without a product, or whose product stands complete in memory.
    void finish_row(int64_t row, int64_t p0, int64_t p1, bool first_share) const {
      const T* sources[2] = {nullptr, raw(row)};
      if (stage.product != Product::identity) sources[0] = gx(row);
      const int64_t at = t * f.rows.batch + row, columns = f.d.stage_columns(K);
      T mean[2] = {0, 0}, scale[2] = {1, 1};
      for (int i = 0; stage.norm && i < 2; ++i) {
        if (!sources[i]) continue;
        row_moments<V>(sources[i], gates, f.d.axis(K), mean[i], scale[i]);
        if (f.keep && first_share) f.reserve.scale[K][at * 2 + i] = scale[i];
      }
      for (int64_t p = p0; p < p1; ++p) {
        Q q;
        RNNK_UNROLL for (int i = 0; i < 2; ++i) {
          if (!stage.norm || !sources[i]) continue;
          RNNK_UNROLL for (int g = 0; g < gates; ++g) {
            const int64_t c = (p * gates + g) * W;
            const V v = (V::load(sources[i] + c) - V::set1(mean[i])) * V::set1(scale[i]);
            if (f.keep) v.store(f.reserve.normed[K] + (at * 2 + i) * columns + c);
            const T* shift = !sources[0] ? f.weights.beta[K] : i == 0 ? f.weights.b_ih : f.weights.b_hh;
            (i == 0 ? q.gx : q.gh)[stage.first_gate + g] = fma(V::load(f.weights.gamma[K][i] + c), v, V::load(shift + c));
          }
        }
        if constexpr (!stage.norm && K == 0) {  // its product is the cell's own
          RNNK_UNROLL for (int g = 0; g < gates; ++g) q.gx[g] = V::load(gx(row) + (p * G + g) * W);
        } else if constexpr (!stage.norm) {
          q.gh[stage.first_gate] = V::load(raw(row) + p * W);
        }
        pointwise(q, row, p);
      }
    }

    RNNK_HD void pointwise(Q& q, int64_t row, int64_t panel) const {
      // Addresses first: the compiler must assume that a vector store changes them where they are kept.
      const bool keep = this->keep, plain = this->plain;
      const int64_t unit = panel * W, valid = f.d.out.template valid_of<any>(panel);
      T* const saved = saved_to + row * ld_saved + unit * Cell::kSaved;
      T* const carry = carry_to + row * ld_carry + unit * Cell::kCarry;
      Operand* const h_new = h_to + row * ld_h + unit;
      auto* const y_new =
          plain ? reinterpret_cast<typename A::Stored*>(y.data) + row * ld_y + f.d.out.template first_of<any>(panel)
                : nullptr;
      T* state[Cell::kStates];
      RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) state[i] = f.state[i] + row * ld_state + unit;
      if constexpr (!stage.projected) {
        for (int i = 0; i < Cell::kParams && i < f.d.own_params; ++i) {
          q.p[i] = V::load(f.weights.params + i * ld_state + unit);
        }
        if constexpr (!projects(kShape)) q.s[0] = A::load(h_from + row * ld_h + unit);
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.s[i] = V::load(state[i]);
        if constexpr (K > 0) {  // what earlier stages left; the states are already the new ones
          RNNK_UNROLL for (int i = 0; i < Cell::kCarry; ++i) q.carry[i] = V::load(carry + i * W);
          RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.s_new[i] = q.s[i];
          if (keep) {
            RNNK_UNROLL for (int i = 0; i < Cell::kSaved; ++i) q.saved[i] = V::load(saved + i * W);
          }
        }
      }
      if constexpr (Cell::kHasOptions) {
        q.o = &f.extras.o;
        if constexpr (K == 0) {
          if constexpr (!projects(kShape)) q.operand = A::load(f.fed[s & 1] + row * ld_h + unit);
          RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) {
            if (!quiet && f.extras.resets(t, row)) q.s[i] = V::set1(0);
          }
        }
      }
      Cell::template forward<K>(q);
      [[maybe_unused]] typename Extras<A>::Zones zones(f.extras, t, row, panel);
      if constexpr (Cell::kHasOptions && K == 0) {
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) {
          if (!quiet && f.extras.zones(i)) q.s_new[i] = zones.of(i).mix(q.s[i], q.s_new[i]);
          if (!quiet && f.extras.masked(t, row)) q.s_new[i] = q.s[i];
          if (Cell::kSavedState[i] >= 0) q.saved[Cell::kSavedState[i]] = q.s_new[i];
        }
      }
      if constexpr (!stage.projected) {
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.s_new[i].store(state[i]);
        RNNK_UNROLL for (int i = 0; i < Cell::kCarry; ++i) q.carry[i].store(carry + i * W);
        if (keep) {
          RNNK_UNROLL for (int i = 0; i < Cell::kSaved; ++i) q.saved[i].store(saved + i * W);
        }
      }
      if constexpr (K + 1 < S) {
        const int64_t at = t * f.rows.batch + row;
        if constexpr (has_product(kShape, K + 1)) {
          const int64_t n = f.d.operand(K + 1).template valid_of<any>(panel);
          A::store(A::depth > 1 ? q.emit.first_n(n) : q.emit, f.emit[K + 1] + row * f.emit_leading(K + 1) + unit);
          if (keep) q.emit.store(f.reserve.emitted[K + 1] + at * f.d.operand(K + 1).padded() + unit);
        } else {
          q.emit.store(f.raw[K + 1] + row * f.d.stage_columns(K + 1) + unit);
        }
      } else if (Cell::kHasOptions && !quiet) {
        finish_h(q.s_new[0], row, panel, zones, y_new, valid);
      } else if (plain && valid == W) {
        const V out = A::round(q.s_new[0]);
        A::store(out, h_new);
        A::store_stored(out, y_new);
      } else {
        const V out = quantize<A>(q.s_new[0], f.problem.dtype);
        A::store(A::depth > 1 ? out.first_n(valid) : out, h_new);
        store_units<A>(row3(f.args.y, t, f.rows.row(row)), f.d.out.template first_of<any>(panel), valid, out);
      }
    }

    // The new h of a cell with options: kept, held, reset before the next step; y beside it.
    template <class Stored>
    RNNK_HD void finish_h(V now, int64_t row, int64_t panel, typename Extras<A>::Zones& zones, Stored* y_new,
                          int64_t valid) const {
      const Extras<A>& extras = f.extras;
      const int64_t at = row * ld_h + panel * W;
      const V old = A::load(h_from + at);
      if (extras.zones(0)) now = zones.of(0).mix(old, now);
      const bool held = extras.masked(t, row);
      V out = held ? old : quantize<A>(now, f.problem.dtype);
      if (A::depth > 1) out = out.first_n(valid);
      const V shown = held ? V::set1(0) : out;
      if (plain && valid == W) A::store_stored(shown, y_new);
      else store_units<A>(row3(f.args.y, t, f.rows.row(row)), f.d.out.first(panel), valid, shown);
      if (extras.resets_at(s + 1, row)) out = V::set1(0);
      A::store(out, h_to + at);
      if (extras.drops()) A::store(extras.thinned(out, row, panel), f.fed[(s + 1) & 1] + at);
    }
  };

  template <int K>
  void stage(int64_t first, int64_t s, bool last_sub_phase, const Part& part) const {
    constexpr Stage kind = Cell::kStage[K];
    Point<K> point(*this, first, s);
    const int64_t alive = rows.alive(s), r1 = smaller(part.r1, alive);
    const int64_t panels = d.axis(K).panels(), p0 = part.first(panels), p1 = part.last(panels);
    if constexpr (kind.product != Product::identity) {
      if (!kind.norm || !last_sub_phase) {
        const int64_t head_units = d.operand(K).panels_each * W;
        const Operand* const operands = point.from;
        L::for_heads(d.axis(K), p0, p1, [&](int64_t head, int64_t q0, int64_t q1) {
          point.from = operands + head * head_units;
          const auto& fn = visited<A, Cell>(point, [&] {
            return visit<A, kind.gates>(point, point.from, point.ld_from, point.biased ? point.bias : nullptr, G * W);
          });
          for_tiles<A, kind.gates>(fn, part.r0, r1, q0, q1, d.terms(K), weights.w[K], d.panel(d.terms(K), kind.gates));
        });
      }
    }
    if constexpr (kind.norm || kind.product == Product::identity) {
      for (int64_t r = part.r0; last_sub_phase && r < r1; ++r) point.finish_row(r, p0, p1, part.share == 0);
    }
    if constexpr (K == S - 1) {  // rows that are over: y is zero there
      for (int64_t r = larger(part.r0, alive); r < part.r1; ++r) {
        for (int64_t p = p0; p < p1; ++p) {
          store_units<A>(row3(args.y, point.t, rows.row(r)), d.out.first(p), d.out.valid(p), V::set1(0));
        }
      }
    }
  }

  int64_t h_leading() const { return L::leading(d.out.padded()); }
  int64_t emit_leading(int k) const { return L::leading(d.operand(k).padded()); }
};

}  // namespace
}  // namespace rnnk
