// A step of the recurrence, forward: gh = R h' fused with the cell's pointwise part. One instance for each cell and arithmetic.
#pragma once
#include "cpu/forward.h"
#include "cpu/norm.h"
#include "cpu/several.h"

namespace rnnk {
namespace {

template <class A, class Cell>
struct ForwardStep {
  using V = typename A::V;
  using T = typename V::T;
  using Operand = typename A::Operand;
  using L = Layout<A>;
  static constexpr CellShape kShape = shape_of<Cell>();
  static_assert(fits(kShape), "the driver has no room for a cell with these stages");
  using Q = Step<Cell, V>;
  static constexpr int W = V::lanes, G = Cell::kGates, S = Cell::kStages;

  // The phases of all stages are numbered through.
  template <int K = 0>
  static void run(const Forward<A>& f, int64_t first, int64_t s, int sub, const Part& part) {
    if constexpr (K < S) {
      constexpr int count = forward_phases(kShape, K);
      if (sub < count) return stage<K>(f, first, s, sub == count - 1, part);
      run<K + 1>(f, first, s, sub - count, part);
    }
  }

  // Stage K of step s: a tile functor whose finish() is the cell's pointwise part.
  template <int K>
  struct Point {
    static constexpr Stage stage = Cell::kStage[K];
    static constexpr int gates = stage.gates;
    static constexpr bool any = Cell::kHasOptions;
    const Forward<A>& f;
    int64_t s, t;
    const Operand* h_from;
    Operand* h_to;
    const Operand* from;      // row 0 of this step's operand, of the head that is being multiplied
    const T *gx_from, *bias;  // row 0 of this step's gx
    T *saved_to, *carry_to;
    int64_t ld_h, ld_from, ld_state;
    Row y;         // row 0 of this step
    int64_t ld_y;  // elements
    bool plain;    // y needs no conversion, and its rows are in order
    bool keep, quiet;

    Point(const Forward<A>& f, int64_t first, int64_t s)
        : f(f), s(s), t(f.rows.time(s)), h_from(f.h[s & 1]), h_to(f.h[(s + 1) & 1]), from(K == 0 ? f.fed[s & 1] : f.emit[K]),
          gx_from(f.gx + (s - first) * f.rows.batch * f.d.gate_columns()), bias(f.weights.b_hh + stage.first_gate * W),
          saved_to(f.reserve.saved + t * f.rows.batch * f.reserve.saved_columns), carry_to(f.carry), ld_h(f.h_leading()),
          ld_from(K == 0 ? ld_h : f.emit_leading(K)), ld_state(f.d.hidden.padded()), y(row3(f.args.y, t, 0)),
          ld_y(f.args.y.stride[1]),
          plain(y.dtype == A::storage && f.problem.dtype == y.dtype && y.stride == 1 && !f.rows.order), keep(f.keep),
          quiet(f.extras.quiet()) {}

    const Operand* operand(int64_t row) const { return from + row * ld_from; }
    RNNK_HD void prepare(int64_t row, int64_t panel) const {
      if (keep && !stage.projected) fetch(saved_to + (row * ld_state + panel * W) * Cell::kSaved, Cell::kSaved * W);
    }
    Start<A> start() const {
      if constexpr (stage.product == Product::weight_hh && !stage.norm) return {bias, G * W};
      return {};
    }
    const T* gx(int64_t row) const { return gx_from + row * (G * ld_state); }
    T* raw(int64_t row) const { return f.raw[K] + row * f.d.stage_columns(K); }

    void finish(int64_t row, int64_t panel, const V (&gh)[gates]) const {
      if constexpr (stage.norm) {  // the row is not complete yet
        RNNK_UNROLL for (int g = 0; g < gates; ++g) gh[g].store(raw(row) + (panel * gates + g) * W);
      } else {
        finish_all<V>(&row, &panel, [&](int, int g) RNNK_INLINE { return gh[g]; });
      }
    }
    // sums [N][gates][W] of as many places, whose pointwise parts go at once (several.h).
    template <int N>
      requires(!any && S == 1 && !stage.norm)
    void finish(const int64_t (&row)[N], const int64_t (&panel)[N], const T* sums) const {
      finish_all<Several<V, N>>(row, panel, [&](int n, int g) RNNK_INLINE { return V::load(sums + (n * gates + g) * W); });
    }
    template <class U, class Sum>
    RNNK_HD void finish_all(const int64_t* row, const int64_t* panel, const Sum& sum) const {
      Step<Cell, U> q;
      RNNK_UNROLL for (int g = 0; g < gates; ++g) {
        const int gate = stage.first_gate + g;
        q.gh[gate] = Vectors<U>::from([&](int n) RNNK_INLINE { return sum(n, g); });
        if constexpr (stage.product == Product::weight_hh) {
          q.gx[gate] = Vectors<U>::from(
              [&](int n) RNNK_INLINE { return V::load(gx_from + (row[n] * ld_state + panel[n] * W) * G + gate * W); });
        }
      }
      pointwise(q, row, panel);
    }

    // Panels [p0, p1) of one row: those of a stage without a product, or whose product stands complete in memory.
    void finish_row(int64_t row, int64_t p0, int64_t p1, bool first_share) const {
      const T* sources[2] = {nullptr, raw(row)};
      if (stage.product != Product::identity) sources[0] = gx(row);
      const int64_t at = t * f.rows.batch + row, columns = f.d.stage_columns(K);
      T mean[2] = {0, 0}, scale[2] = {1, 1};
      RNNK_UNROLL for (int i = 0; i < 2; ++i) {
        if (!stage.norm || !sources[i]) continue;
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
        pointwise(q, &row, &p);
      }
    }

    // The pointwise part of the vectors of U, each in its own row and panel.
    template <class U>
    RNNK_HD void pointwise(Step<Cell, U>& q, const int64_t* row, const int64_t* panel) const {
      using Each = Vectors<U>;
      constexpr int N = Each::count;
      // Addresses first: the compiler must assume that a vector store changes them where they are kept.
      const bool keep = this->keep, plain = this->plain;
      int64_t unit[N], valid[N], at_h[N];
      T *saved[N], *carry[N], *state[N][Cell::kStates];
      Operand* h_new[N];
      typename A::Stored* y_new[N];
      RNNK_UNROLL for (int n = 0; n < N; ++n) {
        unit[n] = panel[n] * W, valid[n] = f.d.out.template valid_of<any>(panel[n]);
        const int64_t at = row[n] * ld_state + unit[n];
        at_h[n] = row[n] * ld_h + unit[n];
        saved[n] = saved_to + at * Cell::kSaved;
        carry[n] = carry_to + at * Cell::kCarry;
        h_new[n] = h_to + at_h[n];
        y_new[n] =
            plain ? reinterpret_cast<typename A::Stored*>(y.data) + row[n] * ld_y + f.d.out.template first_of<any>(panel[n])
                  : nullptr;
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) state[n][i] = f.state[i] + at;
      }
      const auto load = [&](const auto& at)
                            RNNK_INLINE { return Each::from([&](int n) RNNK_INLINE { return V::load(at(n)); }); };
      const auto store = [&](const U& value, const auto& at)
                             RNNK_INLINE { Each::each(value, [&](V v, int n) RNNK_INLINE { v.store(at(n)); }); };
      if constexpr (!stage.projected) {
        RNNK_UNROLL for (int i = 0; i < Cell::kParams; ++i) {
          if (i < f.d.own_params)
            q.p[i] = load([&](int n) RNNK_INLINE { return f.weights.params + i * ld_state + unit[n]; });
        }
        if constexpr (!projects(kShape)) {
          q.s[0] = Each::from([&](int n) RNNK_INLINE { return A::load(h_from + at_h[n]); });
        }
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.s[i] = load([&](int n) RNNK_INLINE { return state[n][i]; });
        if constexpr (K > 0) {  // what earlier stages left; the states are already the new ones
          RNNK_UNROLL for (int i = 0; i < Cell::kCarry; ++i) {
            q.carry[i] = load([&](int n) RNNK_INLINE { return carry[n] + i * W; });
          }
          RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i) q.s_new[i] = q.s[i];
          if (keep) {
            RNNK_UNROLL for (int i = 0; i < Cell::kSaved; ++i) {
              q.saved[i] = load([&](int n) RNNK_INLINE { return saved[n] + i * W; });
            }
          }
        }
      }
      [[maybe_unused]] typename Extras<A>::At around(f.extras, t, row[0], panel[0], quiet);
      if constexpr (Cell::kHasOptions) {
        q.o = &f.extras.o;
        if constexpr (K == 0) {
          if constexpr (!projects(kShape)) q.operand = A::load(f.fed[s & 1] + at_h[0]);
          reset_states(q, around);
        }
      }
      Cell::template forward<K>(q);
      if constexpr (Cell::kHasOptions && K == 0) keep_states(q, around);
      if constexpr (!stage.projected) {
        RNNK_UNROLL for (int i = 1; i < Cell::kStates; ++i)
            store(q.s_new[i], [&](int n) RNNK_INLINE { return state[n][i]; });
        RNNK_UNROLL for (int i = 0; i < Cell::kCarry; ++i) {
          store(q.carry[i], [&](int n) RNNK_INLINE { return carry[n] + i * W; });
        }
        if (keep) {
          RNNK_UNROLL for (int i = 0; i < Cell::kSaved; ++i) {
            store(q.saved[i], [&](int n) RNNK_INLINE { return saved[n] + i * W; });
          }
        }
      }
      if constexpr (K + 1 < S) {
        emit(q.emit, row[0], panel[0]);
      } else if constexpr (Cell::kHasOptions) {
        if (!quiet) finish_h(q.s_new[0], row[0], panel[0], around, y_new[0], valid[0]);
        else give_h(q.s_new[0], row[0], panel[0], plain, h_new[0], y_new[0], valid[0]);
      } else {
        Each::each(q.s_new[0],
                   [&](V v, int n) RNNK_INLINE { give_h(v, row[n], panel[n], plain, h_new[n], y_new[n], valid[n]); });
      }
    }

    // The operand of stage K + 1.
    RNNK_HD void emit(V v, int64_t row, int64_t panel) const {
      const int64_t unit = panel * W, at = t * f.rows.batch + row;
      if constexpr (has_product(kShape, K + 1)) {
        const int64_t n = f.d.operand(K + 1).template valid_of<any>(panel);
        A::store(A::depth > 1 ? v.first_n(n) : v, f.emit[K + 1] + row * f.emit_leading(K + 1) + unit);
        if (keep) v.store(f.reserve.emitted[K + 1] + at * f.d.operand(K + 1).padded() + unit);
      } else {
        v.store(f.raw[K + 1] + row * f.d.stage_columns(K + 1) + unit);
      }
    }

    template <class Stored>
    RNNK_HD void give_h(V h, int64_t row, int64_t panel, bool plain, Operand* h_new, Stored* y_new, int64_t valid) const {
      if (plain && valid == W) {
        const V out = A::round(h);
        A::store(out, h_new);
        A::store_stored(out, y_new);
      } else {
        const V out = quantize<A>(h, f.problem.dtype);
        A::store(A::depth > 1 ? out.first_n(valid) : out, h_new);
        store_units<A>(row3(f.args.y, t, f.rows.row(row)), f.d.out.template first_of<any>(panel), valid, out);
      }
    }

    // The new h of a cell with options: kept, held, reset before the next step; y beside it.
    template <class Stored>
    RNNK_HD void finish_h(V now, int64_t row, int64_t panel, typename Extras<A>::At& around, Stored* y_new,
                          int64_t valid) const {
      const Extras<A>& extras = f.extras;
      const int64_t at = row * ld_h + panel * W;
      auto [h, out] = keep_hidden(A::load(h_from + at), now, around, [&](V v) RNNK_INLINE {
        const V rounded = quantize<A>(v, f.problem.dtype);
        return A::depth > 1 ? rounded.first_n(valid) : rounded;
      });
      if (plain && valid == W) A::store_stored(out, y_new);
      else store_units<A>(row3(f.args.y, t, f.rows.row(row)), f.d.out.first(panel), valid, out);
      if (extras.resets_at(s + 1, row)) h = V::set1(0);
      A::store(h, h_to + at);
      if (extras.drops()) A::store(extras.thinned(h, row, panel), f.fed[(s + 1) & 1] + at);
    }
  };

  template <int K>
  static void stage(const Forward<A>& f, int64_t first, int64_t s, bool last_sub_phase, const Part& part) {
    constexpr Stage kind = Cell::kStage[K];
    Point<K> point(f, first, s);
    const L& d = f.d;
    const int64_t alive = f.rows.alive(s), r1 = smaller(part.r1, alive);
    const int64_t panels = d.axis(K).panels(), p0 = part.first(panels), p1 = part.last(panels);
    if constexpr (kind.product != Product::identity) {
      if (!kind.norm || !last_sub_phase) {
        const int64_t head_units = d.operand(K).panels_each * W;
        const Operand* const operands = point.from;
        const WeightMatrix<A> matrix{stage_weights(kind, f.args.weights), stage_rows(d, K, 0), d.terms(K), f.weights.w[K]};
        L::for_heads(d.axis(K), p0, p1, [&](int64_t head, int64_t q0, int64_t q1) RNNK_INLINE {
          point.from = operands + head * head_units;
          f.template product<kind.gates>(point, matrix, part.r0, r1, q0, q1);
        });
      }
    }
    if constexpr (kind.norm || kind.product == Product::identity) {
      for (int64_t r = part.r0; last_sub_phase && r < r1; ++r) point.finish_row(r, p0, p1, part.share == 0);
    }
    if constexpr (K == S - 1) {  // rows that are over: y is zero there
      for (int64_t r = larger(part.r0, alive); r < part.r1; ++r) {
        for (int64_t p = p0; p < p1; ++p) {
          store_units<A>(row3(f.args.y, point.t, f.rows.row(r)), d.out.first(p), d.out.valid(p), V::set1(0));
        }
      }
    }
  }
};

}  // namespace
}  // namespace rnnk
