// The products over a block of steps: dW = dg^T . operand, db, dp and dx = dgx . W_ih.
//
// Ring: slot u % (steps + 1) holds dgx, dgh and dp of walk step u; one slot more than a block, because the first step of a
// block still multiplies the last one of the block before. Sums over rows are chains of at most 512 terms; their partial sums
// are added to the result in fixed order, so the bits depend on T, B and the lengths, never on the split.
#pragma once
#include "cpu/pack.h"
#include "cpu/schedule.h"

namespace rnnk {
namespace {

// Where parameter gradients go, in T; null: not wanted.
template <class T>
struct Gradients {
  T *weight_ih = nullptr, *weight_hh = nullptr, *bias_ih = nullptr, *bias_hh = nullptr;
  T *weight_hr = nullptr, *params = nullptr;
  bool any() const { return weight_ih || weight_hh || bias_ih || bias_hh || weight_hr || params; }
};

constexpr int64_t kChain = 512;  // terms

// Steps of a block, which has about kChain rows.
inline int64_t gradient_steps(int64_t steps, int64_t batch) {
  return larger<int64_t>(1, smaller(steps, kChain / larger<int64_t>(batch, 1)));
}

// A row of a chunk: which walk step and sorted row.
struct Entry {
  int64_t u;
  int64_t row;
};

// to [rows, columns] += dg_t . b
template <class A>
struct WeightTile {
  using V = typename A::V;
  using T = typename V::T;
  static constexpr int W = V::lanes;
  const typename A::Operand* dg_t;
  int64_t ld;
  T* to;
  int64_t columns;
  const typename A::Operand* operand(int64_t row) const { return dg_t + row * ld; }
  RNNK_HD void prepare(int64_t row, int64_t panel) const { fetch(to + row * columns + panel * W, W); }
  V start(int64_t, int64_t, int) const { return V::set1(0); }
  void finish(int64_t row, int64_t panel, const V (&sum)[1]) const {
    const int64_t n = smaller<int64_t>(W, columns - panel * W);
    T* at = to + row * columns + panel * W;
    (V::load_n(at, n) + sum[0]).store_n(at, n);
  }
};

// dx of the rows of a chunk.
template <class A>
struct InputGradientTile {
  using V = typename A::V;
  static constexpr int W = V::lanes;
  const typename A::Operand* dgx;  // the ring
  int64_t slots, batch, ld;
  const Rows& rows;
  const rnnk_args& args;
  int64_t I;
  const Entry* list;
  const typename A::Operand* operand(int64_t j) const { return dgx + (list[j].u % slots * batch + list[j].row) * ld; }
  void prepare(int64_t, int64_t) const {}
  RNNK_HD Row row(int64_t j) const { return row3(args.dx, rows.time(rows.steps - 1 - list[j].u), rows.row(list[j].row)); }
  int64_t valid(int64_t panel) const { return smaller<int64_t>(W, I - panel * W); }
  RNNK_HD V start(int64_t j, int64_t panel, int) const {
    if (args.flags & RNNK_ACCUMULATE_DX) return load_units<A>(row(j), panel * W, valid(panel));
    return V::set1(0);
  }
  RNNK_HD void finish(int64_t j, int64_t panel, const V (&sum)[1]) const {
    store_units<A>(row(j), panel * W, valid(panel), sum[0]);
  }
};

template <class A, class Cell>
struct Blocks {
  using V = typename A::V;
  using T = typename V::T;
  using Operand = typename A::Operand;
  using Weight = typename A::Weight;
  using L = Layout<A, Cell>;
  static constexpr int W = V::lanes, G = Cell::kGates, S = Cell::kStages;
  static constexpr int64_t kTransposed = kChain + L::kLine;  // a line more: see Layout::leading
  static constexpr int64_t kPanel = (kChain + A::pair) * W;  // the same between panels

  const Problem& problem;
  const rnnk_args& args;
  Gradients<T> to;
  L d;
  int64_t batch, steps, slots;
  Operand *dgx, *dgh[S];
  T* dp;
  Operand *dgx_t, *dgh_t[S];  // transposed: [gates * units][kTransposed]
  Weight *x, *operand[S];     // [panel][kPanel]

  Blocks(const Problem& p, const rnnk_args& a, const Gradients<T>& g)
      : problem(p), args(a), to(g), d(p), batch(a.batch), steps(gradient_steps(a.seq_len, a.batch)), slots(steps + 1) {}

  void carve(Carver& c) {
    dgx = c.take<Operand>(slots * batch * L::leading(d.gate_columns()));
    dp = c.take<T>(slots * batch * Cell::kParams * d.padded(d.H));
    dgx_t = c.take<Operand>(G * d.H * kTransposed);
    x = c.take<Weight>(d.panels_of(d.I) * kPanel);
    for (int k = 0; k < S; ++k) {
      dgh[k] = L::same_dg() ? dgx : c.take<Operand>(slots * batch * L::leading(d.stage_columns(k)));
      dgh_t[k] = L::same_dg() ? dgx_t : c.take<Operand>(L::stage(k).gates * d.units(k) * kTransposed);
      operand[k] = c.take<Weight>(d.panels_of(d.operand(k)) * kPanel);
    }
  }

  Operand* dgx_row(int64_t u, int64_t row) const { return dgx + (u % slots * batch + row) * L::leading(d.gate_columns()); }
  Operand* dgh_row(int k, int64_t u, int64_t row) const {
    return dgh[k] + (u % slots * batch + row) * L::leading(d.stage_columns(k));
  }
  T* dp_row(int64_t u, int64_t row) const { return dp + (u % slots * batch + row) * (Cell::kParams * d.padded(d.H)); }

  // --- phases after each block: per chunk of rows, transposition and packing, then the products ----------------------------------
  int64_t chunks() const { return ceil_div(steps * batch, kChain); }
  int64_t phases() const { return to.any() || args.dx.data ? 2 * chunks() : 0; }

  int64_t entries(const Rows& rows, int64_t first, int64_t chunk, Entry* out) const {
    int64_t skip = chunk * kChain, n = 0;
    for (int64_t u = first; u < smaller(first + steps, rows.steps); ++u) {
      const int64_t alive = rows.alive(rows.steps - 1 - u);
      for (int64_t r = smaller(skip, alive); r < alive && n < kChain; ++r) out[n++] = {u, r};
      skip -= smaller(skip, alive);
    }
    return n;
  }

  void phase(const Rows& rows, const Reserve<A, Cell>& reserve, const Packed<A, Cell>& weights, int64_t first, int64_t i,
             const Part& part) const {
    Entry list[kChain];
    const int64_t n = entries(rows, first, i / 2, list);
    if (i % 2 == 0) {
      if (to.any()) pack_rows(rows, reserve, list, n, part);
    } else {
      if (to.any()) parameter_gradients(list, n, part);
      if (args.dx.data) input_gradient(rows, weights, list, n, part);
      if (args.dx.data && i == 1 && !(args.flags & RNNK_ACCUMULATE_DX)) zero_padding(rows, first, part);
    }
  }

  // --- transposition and packing -------------------------------------------------------------------------------------------------
  static constexpr int kLane = sizeof(T) / sizeof(Operand);  // operands that move as one lane
  alignas(64) static constexpr Operand kZeros[W] = {};
  template <class RowOf>
  void transpose(int gates, int64_t units, int64_t n, const Part& part, const RowOf& row_of, Operand* out) const {
    const int64_t items = d.panels_of(units) * gates;
    for (int64_t item = part.first(items); item < part.last(items); ++item) {
      const int64_t unit = item / gates * W, gate = item % gates, valid = smaller<int64_t>(W, units - unit);
      Operand* to_row = out + (gate * units + unit) * kTransposed;
      for (int64_t j = 0; j < round_up(n, A::depth); j += W * kLane) {
        V block[W];
        RNNK_UNROLL for (int i = 0; i < W; ++i) {
          const Operand* lane[kLane];
          RNNK_UNROLL for (int l = 0; l < kLane; ++l) {
            const int64_t at = j + i * kLane + l;
            lane[l] = at < n ? row_of(at) + item * W : kZeros;
          }
          block[i] = A::join(lane);
        }
        rnnk::transpose<V>(block);
        RNNK_UNROLL for (int i = 0; i < W; ++i) {
          if (i < valid) block[i].store(reinterpret_cast<T*>(to_row + i * kTransposed + j));
        }
      }
    }
  }
  // Rows of `units` entries into panels; a row without data is zero, and so are those from n to the next multiple of depth.
  template <class RowOf>
  void panels(int64_t units, int64_t n, const Part& part, const RowOf& row_of, Weight* out) const {
    const int64_t first = part.first(d.panels_of(units)), last = part.last(d.panels_of(units));
    for (int64_t j = 0; j < round_up(n, larger(A::depth, A::pair)); j += A::pair) {
      Row row[A::pair];
      for (int i = 0; i < A::pair; ++i) row[i] = j + i < n ? row_of(j + i) : Row{nullptr, 1, A::storage};
      bool stored = true;
      const typename A::Stored* from[A::pair] = {};
      for (int i = 0; i < A::pair; ++i) {
        stored = stored && row[i].data && row[i].stride == 1 && row[i].dtype == A::storage;
        if (stored) from[i] = reinterpret_cast<const typename A::Stored*>(row[i].data) + first * W;
      }
      int64_t p = first;
      for (; stored && p < last && (p + 1) * W <= units; ++p) {
        A::join_stored(from).store(reinterpret_cast<T*>(out + p * kPanel + j * W));
        for (auto& at : from) at += W;
      }
      for (; p < last; ++p) {
        V v[A::pair];
        RNNK_UNROLL for (int i = 0; i < A::pair; ++i) {
          v[i] = row[i].data ? load_units<A>(row[i], p * W, smaller<int64_t>(W, units - p * W)) : V::set1(0);
        }
        A::store_weights(v, out + p * kPanel + j * W);
      }
    }
  }

  void pack_rows(const Rows& rows, const Reserve<A, Cell>& reserve, const Entry* list, int64_t n, const Part& part) const {
    transpose(G, d.H, n, part, [&](int64_t j) { return dgx_row(list[j].u, list[j].row); }, dgx_t);
    const auto step = [&](int64_t j) { return rows.steps - 1 - list[j].u; };
    if (to.weight_ih) {
      panels(d.I, n, part, [&](int64_t j) { return row3(args.x, rows.time(step(j)), rows.row(list[j].row)); }, x);
    }
    for (int k = 0; k < S; ++k) {
      if (!L::same_dg()) {
        transpose(
            L::stage(k).gates, d.units(k), n, part, [&](int64_t j) { return dgh_row(k, list[j].u, list[j].row); }, dgh_t[k]);
      }
      if (!(L::stage(k).product == Product::weight_hr ? to.weight_hr : to.weight_hh)) continue;
      if (L::stage(k).product == Product::identity) continue;
      panels(
          d.operand(k), n, part,
          [&](int64_t j) {
            const int64_t s = step(j), row = list[j].row;
            if (k > 0) {
              T* emitted = reserve.emitted[k] + (rows.time(s) * batch + row) * d.padded(d.operand(k));
              return Row{reinterpret_cast<char*>(emitted), 1, native_dtype<T>()};
            }
            if (row < rows.alive(s - 1)) return row3(args.y, rows.time(s - 1), rows.row(row));
            return args.h_0.data ? row2(args.h_0, rows.row(row)) : Row{nullptr, 1, A::storage};
          },
          operand[k]);
    }
  }

  // --- parameter gradients --------------------------------------------------------------------------------------------------------
  void weight_gradient(const Operand* dg_t, const Weight* b, T* to, int64_t rows, int64_t columns, int64_t n,
                       const Part& part) const {
    for_tiles<A, 1>(WeightTile<A>{dg_t, kTransposed, to, columns}, part.first(rows), part.last(rows), 0,
                    d.panels_of(columns), n, b, kPanel);
  }

  // Sums in W interleaved chains over the chunk, then over the lanes in order.
  void bias_gradient(const Operand* dg_t, T* to, int64_t rows, int64_t n, const Part& part) const {
    for (int64_t row = part.first(rows); row < part.last(rows); ++row) {
      V sum = V::set1(0);
      for (int64_t j = 0; j < n; j += W) sum = sum + A::load(dg_t + row * kTransposed + j);  // zero from n on
      T lanes[W], total = 0;
      sum.store(lanes);
      for (T lane : lanes) total += lane;
      to[row] += total;
    }
  }

  void parameter_gradients(const Entry* list, int64_t n, const Part& part) const {
    if (to.weight_ih) weight_gradient(dgx_t, x, to.weight_ih, G * d.H, d.I, n, part);
    if (to.bias_ih) bias_gradient(dgx_t, to.bias_ih, G * d.H, n, part);
    for (int k = 0; k < S; ++k) {
      const Stage stage = L::stage(k);
      const int64_t rows = stage.gates * d.units(k), first = stage.first_gate * d.H;
      if (stage.product == Product::weight_hr && to.weight_hr) {
        weight_gradient(dgh_t[k], operand[k], to.weight_hr, rows, d.operand(k), n, part);
      }
      if (stage.product != Product::weight_hh) continue;
      if (to.weight_hh) {
        weight_gradient(dgh_t[k], operand[k], to.weight_hh + first * d.operand(k), rows, d.operand(k), n, part);
      }
      if (to.bias_hh) bias_gradient(dgh_t[k], to.bias_hh + first, rows, n, part);
    }
    if (!to.params) return;
    for (int64_t i = part.first(Cell::kParams * d.H); i < part.last(Cell::kParams * d.H); ++i) {
      T sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += dp_row(list[j].u, list[j].row)[i / d.H * d.padded(d.H) + i % d.H];
      to.params[i] += sum;
    }
  }

  // --- dx -------------------------------------------------------------------------------------------------------------------------
  void input_gradient(const Rows& rows, const Packed<A, Cell>& weights, const Entry* list, int64_t n,
                      const Part& part) const {
    const int64_t K = d.gate_columns();
    const InputGradientTile<A> tile{dgx, slots, batch, L::leading(K), rows, args, d.I, list};
    for_tiles<A, 1>(tile, part.first(n), part.last(n), 0, d.panels_of(d.I), K, weights.w_ih_back, d.panel(K, 1));
  }
  void zero_padding(const Rows& rows, int64_t first, const Part& part) const {
    for (int64_t u = first; u < smaller(first + steps, rows.steps); ++u) {
      const int64_t s = rows.steps - 1 - u, alive = rows.alive(s), dead = batch - alive;
      for (int64_t r = alive + part.first(dead); r < alive + part.last(dead); ++r) {
        const Row to_row = row3(args.dx, rows.time(s), rows.row(r));
        for (int64_t i = 0; i < d.I; ++i) write<T>(to_row.data, to_row.dtype, i * to_row.stride, T(0));
      }
    }
  }
};

}  // namespace
}  // namespace rnnk
