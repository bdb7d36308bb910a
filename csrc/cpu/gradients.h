// The products over a block of steps: dW = dg^T . operand, db, dp and dx = dgx . W_ih.
//
// Ring: slot u % (steps + 1) holds dgx, dgh and dp of walk step u; one slot more than a block, because the first step of a
// block still multiplies the last one of the block before. Sums over rows are formed in chunks of at most kChunk rows (in tile.h's
// chains) and added to the result in fixed order, so the bits depend on T, B and the lengths, never on the split.
#pragma once
#include "cpu/extras.h"
#include "cpu/norm.h"
#include "cpu/schedule.h"
#include "cpu/unpacked.h"

namespace rnnk {
namespace {

// Where parameter gradients go, in T; null: not wanted.
template <class T>
struct Gradients {
  T *weight_ih = nullptr, *weight_hh = nullptr, *bias_ih = nullptr, *bias_hh = nullptr;
  T *weight_hr = nullptr, *params = nullptr;
  bool any() const { return weight_ih || weight_hh || bias_ih || bias_hh || weight_hr || params; }
};

// Steps of a block, which has about kChunk rows.
inline int64_t gradient_steps(int64_t steps, int64_t batch) {
  return larger<int64_t>(1, smaller(steps, kChunk / larger<int64_t>(batch, 1)));
}

// A row of a chunk: which walk step and sorted row.
struct Entry {
  int64_t u;
  int64_t row;
};

// to [rows, columns] += dg_t . b; of the first chunk, that is all there is.
template <class A>
struct WeightTile {
  using V = typename A::V;
  using T = typename V::T;
  static constexpr int W = V::lanes;
  // Frameworks add a weight's gradient up step by step, so in short chains: with those of 256 theirs was 1.5 times as exact.
  static constexpr int64_t chain = 128;
  const typename A::Operand* dg_t;
  int64_t ld;
  T* to;
  int64_t columns;
  bool first;
  const typename A::Operand* operand(int64_t row) const { return dg_t + row * ld; }
  RNNK_HD void prepare(int64_t row, int64_t panel) const {
    if (!first) fetch(to + row * columns + panel * W, W);
  }
  Start<A> start() const { return {}; }
  void finish(int64_t row, int64_t panel, const V (&sum)[1]) const {
    const int64_t n = smaller<int64_t>(W, columns - panel * W);
    T* at = to + row * columns + panel * W;
    (first ? V::set1(0) + sum[0] : V::load_n(at, n) + sum[0]).store_n(at, n);
  }
};

// dx of the rows of a chunk.
template <class A>
struct InputGradientTile {
  using V = typename A::V;
  static constexpr int W = V::lanes;
  const typename A::Operand* const* from;  // rows of dgx
  const Row* to;
  bool add;  // to what is there
  int64_t I;
  const typename A::Operand* operand(int64_t j) const { return from[j]; }
  void prepare(int64_t, int64_t) const {}
  Start<A> start() const { return {}; }
  // What is there is added last, as network/concurrent.cpp adds it: a direction's dx has the same bits whenever it is formed.
  RNNK_HD void finish(int64_t j, int64_t panel, const V (&sum)[1]) const {
    const int64_t first = panel * W, n = smaller<int64_t>(W, I - first);
    if (add) store_units<A>(to[j], first, n, load_units<A>(to[j], first, n) + sum[0]);
    else store_units<A>(to[j], first, n, sum[0]);
  }
};

template <class A>
struct Blocks {
  using V = typename A::V;
  using T = typename V::T;
  using Operand = typename A::Operand;
  using Weight = typename A::Weight;
  using L = Layout<A>;
  static constexpr int W = V::lanes;
  static constexpr int kLane = sizeof(T) / sizeof(Operand);  // operands that move as one lane

  const Problem& problem;
  const LayerCall& args;
  Gradients<T> to;
  L d;
  int64_t batch, steps, slots;
  int64_t ld_t,
      ld_panel;  // of a chunk's rows, transposed, and of its operands by panels; not powers of two: see Layout::leading
  Operand *dgx, *dgh[kMostStages];
  T* dp;
  T* dv
      [kMostStages];  // of a normalised stage: [slots][B][sides][stage_columns], the gradient of what its factors and shifts made
  Operand *dgx_t, *dgh_t[kMostStages];  // transposed: [gates * units][ld_t]
  Weight *x, *operand[kMostStages];     // [panel][ld_panel]

  Blocks(const Problem& p, const CellShape& shape, const LayerCall& a, const Gradients<T>& g)
      : problem(p), args(a), to(g), d(p, shape), batch(a.batch), steps(gradient_steps(a.seq_len, a.batch)),
        slots(steps + 1) {
    const int64_t rows = smaller(kChunk, steps * batch);
    ld_t = round_up(rows, larger(A::depth, W * kLane)) + L::kLine;
    ld_panel = (round_up(rows, larger(A::depth, A::pair)) + A::pair) * W;
  }

  void carve(Carver& c) {
    dgx = c.take<Operand>(slots * batch * L::leading(d.gate_columns()));
    dp = c.take<T>(slots * batch * d.own_params * d.hidden.padded());
    dgx_t = c.take<Operand>(d.shape.gates * d.H * ld_t);
    x = c.take<Weight>(d.input.panels() * ld_panel);
    for (int k = 0; k < d.shape.stages; ++k) {
      const bool product = has_product(d.shape, k);
      dgh[k] = same_dg(d.shape, k) ? dgx : c.take<Operand>(slots * batch * L::leading(d.stage_columns(k)));
      dgh_t[k] = same_dg(d.shape, k) ? dgx_t : c.take<Operand>(product ? d.stage(k).gates * d.axis(k).units * ld_t : 0);
      operand[k] = c.take<Weight>(product ? d.operand(k).panels() * ld_panel : 0);
      dv[k] = c.take<T>(d.stage(k).norm ? slots * batch * sides(d.shape, k) * d.stage_columns(k) : 0);
    }
  }

  Operand* dgx_row(int64_t u, int64_t row) const { return dgx + (u % slots * batch + row) * L::leading(d.gate_columns()); }
  Operand* dgh_row(int k, int64_t u, int64_t row) const {
    return dgh[k] + (u % slots * batch + row) * L::leading(d.stage_columns(k));
  }
  T* dp_row(int64_t u, int64_t row) const { return dp + (u % slots * batch + row) * (d.own_params * d.hidden.padded()); }
  T* dv_row(int k, int side, int64_t u, int64_t row) const {
    return dv[k] + ((u % slots * batch + row) * sides(d.shape, k) + side) * d.stage_columns(k);
  }

  // --- phases after each block: per chunk of rows, transposition and packing, then the products ----------------------------------
  int64_t chunks() const { return ceil_div(steps * batch, kChunk); }
  int64_t phases() const { return to.any() || args.dx.data ? 2 * chunks() : 0; }

  int64_t entries(const Rows& rows, const Extras<A>& extras, int64_t first, int64_t chunk, Entry* out) const {
    int64_t skip = chunk * kChunk, n = 0;
    for (int64_t u = first; u < smaller(first + steps, rows.steps); ++u) {
      const int64_t s = rows.steps - 1 - u, alive = rows.alive(s);
      if (args.mask.data) {  // masked steps have no gradient, and what they were given may be NaN
        for (int64_t r = 0; r < alive && n < kChunk; ++r) {
          if (extras.masked(rows.time(s), r)) continue;
          if (skip > 0) --skip;
          else out[n++] = {u, r};
        }
        continue;
      }
      for (int64_t r = smaller(skip, alive); r < alive && n < kChunk; ++r) out[n++] = {u, r};
      skip -= smaller(skip, alive);
    }
    return n;
  }

  void phase(const Rows& rows, const Extras<A>& extras, const Reserve<A>& reserve, const Packed<A>& weights, int64_t first,
             int64_t i, const Part& part) const {
    Entry list[kChunk];
    const int64_t n = entries(rows, extras, first, i / 2, list);
    if (i % 2 == 0) {
      if (to.any()) pack_rows(rows, extras, reserve, list, n, part);
    } else {
      if (to.any()) parameter_gradients(rows, reserve, list, n, first == 0 && i == 1 && args.start_sums, part);
      if (args.dx.data) input_gradient(rows, weights, list, n, part);
      if (args.dx.data && i == 1 && !args.add_to_dx) zero_padding(rows, extras, first, part);
    }
  }

  // --- transposition and packing -------------------------------------------------------------------------------------------------
  alignas(64) static constexpr Operand kZeros[W] = {};
  template <class RowOf>
  void transpose(int gates, const Axis<W>& axis, int64_t n, const Part& part, const RowOf& row_of, Operand* out) const {
    const Operand* rows[kChunk];
    for (int64_t j = 0; j < n; ++j) rows[j] = row_of(j);
    const int64_t items = axis.panels() * gates;
    for (int64_t item = part.first(items); item < part.last(items); ++item) {
      const int64_t panel = item / gates, gate = item % gates, valid = axis.valid(panel);
      Operand* to_row = out + (gate * axis.units + axis.first(panel)) * ld_t;
      for (int64_t j = 0; j < round_up(n, A::depth); j += W * kLane) {
        V block[W];
        RNNK_UNROLL for (int i = 0; i < W; ++i) {
          const Operand* lane[kLane];
          RNNK_UNROLL for (int l = 0; l < kLane; ++l) {
            const int64_t at = j + i * kLane + l;
            lane[l] = at < n ? rows[at] + item * W : kZeros;
          }
          block[i] = A::join(lane);
        }
        rnnk::transpose<V>(block);
        RNNK_UNROLL for (int i = 0; i < W; ++i) {
          if (i < valid) block[i].store(reinterpret_cast<T*>(to_row + i * ld_t + j));
        }
      }
    }
  }
  // Rows into panels, each vector passed through change(v, j, panel); a row without data is zero, and so are those from n to the
  // next multiple of depth. changes: change() does something.
  template <class RowOf, class Change>
  void panels(const Axis<W>& axis, int64_t n, const Part& part, const RowOf& row_of, Weight* out, bool changes,
              const Change& change) const {
    const int64_t first = part.first(axis.panels()), last = part.last(axis.panels());
    const int64_t whole = smaller(last, axis.units / W);  // of one head: panels before have no padding
    for (int64_t j = 0; j < round_up(n, larger(A::depth, A::pair)); j += A::pair) {
      Row row[A::pair];
      for (int i = 0; i < A::pair; ++i) row[i] = j + i < n ? row_of(j + i) : Row{nullptr, 1, A::storage};
      bool stored = axis.heads == 1 && !changes;
      const typename A::Stored* from[A::pair] = {};
      for (int i = 0; i < A::pair; ++i) {
        stored = stored && row[i].data && row[i].stride == 1 && row[i].dtype == A::storage;
        if (stored) from[i] = reinterpret_cast<const typename A::Stored*>(row[i].data) + first * W;
      }
      int64_t p = first;
      for (; stored && p < whole; ++p) {
        A::join_stored(from).store(reinterpret_cast<T*>(out + p * ld_panel + j * W));
        for (auto& at : from) at += W;
      }
      for (; p < last; ++p) {
        V v[A::pair];
        RNNK_UNROLL for (int i = 0; i < A::pair; ++i) {
          v[i] = row[i].data ? load_units<A>(row[i], axis.first(p), axis.valid(p)) : V::set1(0);
          if (changes && row[i].data) v[i] = change(v[i], j + i, p);
        }
        A::store_weights(v, out + p * ld_panel + j * W);
      }
    }
  }

  void pack_rows(const Rows& rows, const Extras<A>& extras, const Reserve<A>& reserve, const Entry* list, int64_t n,
                 const Part& part) const {
    const auto as_it_is = [](V v, int64_t, int64_t) { return v; };
    transpose(d.shape.gates, d.hidden, n, part, [&](int64_t j) { return dgx_row(list[j].u, list[j].row); }, dgx_t);
    const auto step = [&](int64_t j) { return rows.steps - 1 - list[j].u; };
    if (to.weight_ih) {
      panels(
          d.input, n, part, [&](int64_t j) { return row3(args.x, rows.time(step(j)), rows.row(list[j].row)); }, x, false,
          as_it_is);
    }
    for (int k = 0; k < d.shape.stages; ++k) {
      if (d.stage(k).product == Product::identity) continue;
      if (!same_dg(d.shape, k)) {
        transpose(
            d.stage(k).gates, d.axis(k), n, part, [&](int64_t j) { return dgh_row(k, list[j].u, list[j].row); }, dgh_t[k]);
      }
      if (!(d.stage(k).product == Product::weight_hr ? to.weight_hr : to.weight_hh)) continue;
      if (k > 0) {
        // In panel order: heads are padded there.
        panels(
            Axis<W>(d.operand(k).padded()), n, part,
            [&](int64_t j) {
              T* emitted = reserve.emitted[k] + (rows.time(step(j)) * batch + list[j].row) * d.operand(k).padded();
              return Row{reinterpret_cast<char*>(emitted), 1, native_dtype<T>()};
            },
            operand[k], false, as_it_is);
        continue;
      }
      panels(
          d.operand(k), n, part,
          [&](int64_t j) {
            const int64_t s = step(j), row = list[j].row;
            int64_t before = row < rows.alive(s - 1) ? s - 1 : kInitialState;
            if (d.shape.has_options) before = source_of(extras, s, row);
            if (before >= 0) return row3(args.y, rows.time(before), rows.row(row));
            return before == kInitialState && args.h_0.data ? row2(args.h_0, rows.row(row)) : Row{nullptr, 1, A::storage};
          },
          operand[k], extras.drops(), [&](V v, int64_t j, int64_t p) { return extras.thinned(v, list[j].row, p); });
    }
  }

  // --- parameter gradients --------------------------------------------------------------------------------------------------------
  // Rows of dg_t by panels of b, n terms each: to [rows, columns].
  struct Sum {
    const Operand* dg_t;
    const Weight* b;
    T* to;
    int64_t rows, columns;
  };
  void weight_gradient(const Sum& s, int64_t n, bool first, const Part& part) const {
    const WeightTile<A> tile{s.dg_t, ld_t, s.to, s.columns, first};
    const int64_t r0 = part.first(s.rows), r1 = part.last(s.rows), panels = Axis<W>(s.columns).panels();
    if constexpr (A::plain) {
      if (n <= costs::kMostOuterProducts) return outer_product<A>(tile, r0, r1, panels, n, s.b, ld_panel);
    }
    for_tiles<A, 1>(tile, r0, r1, 0, panels, n, s.b, ld_panel);
  }

  // Sums in W interleaved chains over the chunk, then over the lanes in order.
  void bias_gradient(const Operand* dg_t, T* to, int64_t rows, int64_t n, const Part& part) const {
    for (int64_t row = part.first(rows); row < part.last(rows); ++row) {
      V sum = V::set1(0);
      for (int64_t j = 0; j < n; j += W) sum = sum + A::load(dg_t + row * ld_t + j);  // zero from n on
      T lanes[W], total = 0;
      sum.store(lanes);
      for (T lane : lanes) total += lane;
      to[row] += total;
    }
  }

  // first: of the first chunk, so that matrices are stored and not added to.
  void parameter_gradients(const Rows& rows, const Reserve<A>& reserve, const Entry* list, int64_t n, bool first,
                           const Part& part) const {
    if (to.weight_ih) weight_gradient({dgx_t, x, to.weight_ih, d.shape.gates * d.H, d.I}, n, first, part);
    if (to.bias_ih && !d.stage(0).norm) bias_gradient(dgx_t, to.bias_ih, d.shape.gates * d.H, n, part);
    for (int k = 0; k < d.shape.stages; ++k) {
      const Stage stage = d.stage(k);
      const auto& units = d.axis(k);
      if (stage.product == Product::weight_hr && to.weight_hr) {
        weight_gradient({dgh_t[k], operand[k], to.weight_hr, units.units, d.terms(k)}, n, first, part);
      }
      if (stage.product != Product::weight_hh) continue;
      if (to.weight_hh) recurrent_gradient(k, n, first, part);
      if (to.bias_hh && !stage.norm)
        bias_gradient(dgh_t[k], to.bias_hh + stage.first_gate * d.H, stage.gates * d.H, n, part);
    }
    if (d.shape.has_options) vector_gradients(rows, reserve, list, n, part);
  }

  void recurrent_gradient(int k, int64_t n, bool first, const Part& part) const {
    const Stage stage = d.stage(k);
    const auto& units = d.axis(k);
    T* const out = to.weight_hh + stage.first_gate * d.H * d.terms(k);
    if (units.heads == 1) return weight_gradient({dgh_t[k], operand[k], out, stage.gates * d.H, d.terms(k)}, n, first, part);
    for (int64_t block = 0; block < units.heads * stage.gates; ++block) {  // of a head and a gate
      const int64_t head = block / stage.gates, row = block % stage.gates * d.H + head * units.each;
      const Operand* const dg_t = dgh_t[k] + row * ld_t;
      weight_gradient(
          {dg_t, operand[k] + head * units.panels_each * ld_panel, out + row * d.terms(k), units.each, d.terms(k)}, n, first,
          part);
    }
  }

  // Sums over the rows of the chunk, in order, of N vectors that of(j, vectors) adds; added to units of each of `to`.
  template <int N, class Of>
  void add_units(T* const (&to)[N], const Axis<W>& axis, int64_t panel, int64_t n, const Of& of) const {
    V sum[N];
    for (V& v : sum) v = V::set1(0);
    for (int64_t j = 0; j < n; ++j) of(j, sum);
    const int64_t valid = axis.valid(panel);
    for (int i = 0; i < N; ++i) {
      if (!to[i]) continue;
      T* const at = to[i] + axis.first(panel);
      (V::load_n(at, valid) + sum[i]).store_n(at, valid);
    }
  }
  // Gradients of the rows of params, and of the biases of a normalised product.
  void vector_gradients(const Rows& rows, const Reserve<A>& reserve, const Entry* list, int64_t n, const Part& part) const {
    const auto& axis = d.hidden;
    const auto row_of_params = [&](int64_t i) { return to.params ? to.params + i * d.H : nullptr; };
    int64_t done = d.own_params;
    for (int64_t i = part.first(done * axis.panels()); i < part.last(done * axis.panels()); ++i) {
      const int64_t row = i / axis.panels(), p = i % axis.panels(), c = row * axis.padded() + p * W;
      T* const one[1] = {row_of_params(row)};
      add_units(one, axis, p, n,
                [&](int64_t j, V(&sum)[1]) { sum[0] = sum[0] + V::load(dp_row(list[j].u, list[j].row) + c); });
    }
    for (int k = 0; k < d.shape.stages; ++k) {
      const Stage stage = d.stage(k);
      if (!stage.norm) continue;
      const bool product = has_product(d.shape, k);
      const int64_t items = axis.panels() * stage.gates, columns = d.stage_columns(k);
      for (int64_t i = part.first(items); i < part.last(items); ++i) {
        const int64_t p = i / stage.gates, g = i % stage.gates, c = i * W;
        const auto dv = [&](int side, int64_t j) {
          return V::load(dv_row(k, sides(d.shape, k) == 2 ? side : 0, list[j].u, list[j].row) + c);
        };
        const auto normed = [&](int side, int64_t j) {
          const int64_t at = (rows.time(rows.steps - 1 - list[j].u) * batch + list[j].row) * 2 + side;
          return V::load(reserve.normed[k] + at * columns + c);
        };
        if (product) {
          T* const four[4] = {row_of_params(done + g), to.bias_ih ? to.bias_ih + g * d.H : nullptr,
                              row_of_params(done + stage.gates + g), to.bias_hh ? to.bias_hh + g * d.H : nullptr};
          add_units(four, axis, p, n, [&](int64_t j, V(&sum)[4]) {
            const V x = dv(0, j), h = dv(1, j);
            sum[0] = fma(x, normed(0, j), sum[0]), sum[1] = sum[1] + x;
            sum[2] = fma(h, normed(1, j), sum[2]), sum[3] = sum[3] + h;
          });
        } else {
          T* const two[2] = {row_of_params(done), row_of_params(done + 1)};
          add_units(two, axis, p, n, [&](int64_t j, V(&sum)[2]) {
            const V h = dv(0, j);
            sum[0] = fma(h, normed(1, j), sum[0]), sum[1] = sum[1] + h;
          });
        }
      }
      done += 2 * stage.gates;
    }
  }

  // --- dx -------------------------------------------------------------------------------------------------------------------------
  // The gradient of a gx that the caller gave, [gate][unit].
  void give_dgx(const Rows& rows, const Entry* list, int64_t n, const Part& part) const {
    const int gates = d.shape.gates;
    for (int64_t j = part.first(n); j < part.last(n); ++j) {
      const Row to = row3(args.dx, rows.time(rows.steps - 1 - list[j].u), rows.row(list[j].row));
      const Operand* const from = dgx_row(list[j].u, list[j].row);
      for (int64_t p = 0; p < d.hidden.panels(); ++p) {
        for (int g = 0; g < gates; ++g) {
          store_units<A>(to, g * d.H + d.hidden.first(p), d.hidden.valid(p), A::load(from + (p * gates + g) * W));
        }
      }
    }
  }
  void input_gradient(const Rows& rows, const Packed<A>& weights, const Entry* list, int64_t n, const Part& part) const {
    if (d.given_gx) return give_dgx(rows, list, n, part);
    const int64_t K = d.gate_columns();
    const Operand* from[kChunk];
    Row to[kChunk];
    for (int64_t j = 0; j < n; ++j) {
      from[j] = dgx_row(list[j].u, list[j].row);
      to[j] = row3(args.dx, rows.time(rows.steps - 1 - list[j].u), rows.row(list[j].row));
    }
    const InputGradientTile<A> tile{from, to, args.add_to_dx, d.I};
    if constexpr (A::plain) {
      if (args.unpacked) {
        const WeightMatrix<A> matrix{args.weights.weight_ih, input_rows(d, 0), d.I, nullptr};
        return product_in_place<A>(tile, 0, n, part.first(d.input.panels()), part.last(d.input.panels()), matrix);
      }
    }
    for_tiles<A, 1>(tile, part.first(n), part.last(n), 0, d.input.panels(), K, weights.w_ih_back, d.panel(K, 1));
  }
  void zero_padding(const Rows& rows, const Extras<A>& extras, int64_t first, const Part& part) const {
    const int64_t columns = d.given_gx ? d.shape.gates * d.H : d.I;
    const auto zero = [&](int64_t s, int64_t r) {
      const Row to_row = row3(args.dx, rows.time(s), rows.row(r));
      for (int64_t i = 0; i < columns; ++i) write<T>(to_row.data, to_row.dtype, i * to_row.stride, T(0));
    };
    for (int64_t u = first; u < smaller(first + steps, rows.steps); ++u) {
      const int64_t s = rows.steps - 1 - u, alive = rows.alive(s), dead = batch - alive;
      for (int64_t r = alive + part.first(dead); r < alive + part.last(dead); ++r) zero(s, r);
      for (int64_t r = part.first(alive); args.mask.data && r < part.last(alive); ++r) {
        if (extras.masked(rows.time(s), r)) zero(s, r);
      }
    }
  }
};

}  // namespace
}  // namespace rnnk
