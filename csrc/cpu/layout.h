// Where everything lies: packed weights, the reserve of a training forward, workspaces. Sizes in elements unless said.
//
// Units are padded to whole panels of `lanes` units; the G gate vectors of one panel of units stand side by side
// ("panel order": [panel][gate][lane]) in weights, biases, gx, dgx and dgh alike, so the product's result is what the
// pointwise part reads, and what it writes is what the next product multiplies.
#pragma once
#include "cells/shape.h"
#include "core/call.h"
#include "core/carver.h"
#include "core/kernel.h"
#include "core/problem.h"
#include "cpu/arithmetic.h"
#include "cpu/int8.h"
#include "cpu/unit.h"

namespace rnnk {
namespace {

// Units in panels of W, each head's padded to whole panels, so that no panel stands in two heads.
template <int W>
struct Axis {
  int64_t units, heads, each, panels_each;  // each: units of a head
  explicit Axis(int64_t units, int64_t heads = 1)
      : units(units), heads(heads), each(units / heads), panels_each(ceil_div(each, W)) {}
  int64_t panels() const { return heads * panels_each; }
  int64_t padded() const { return panels() * W; }
  // A panel's first unit, and how many of its lanes are units.
  int64_t first(int64_t panel) const {
    return heads == 1 ? panel * W : panel / panels_each * each + panel % panels_each * W;
  }
  int64_t valid(int64_t panel) const {
    return smaller<int64_t>(W, heads == 1 ? units - panel * W : each - panel % panels_each * W);
  }
  // The same where the compiler may know that there is one head, as in cells without options.
  template <bool any>
  RNNK_HD int64_t first_of(int64_t panel) const {
    return any ? first(panel) : panel * W;
  }
  template <bool any>
  RNNK_HD int64_t valid_of(int64_t panel) const {
    return any ? valid(panel) : smaller<int64_t>(W, units - panel * W);
  }
};

// Rows of a block of steps, whose gx is formed at once: they fill the tiles evenly (multiples of 3, 4, 6 and 8).
constexpr int64_t kInputRows = 192, kLeastInputRows = 48;

template <class A>
struct Layout {
  static constexpr int W = A::V::lanes;
  static constexpr int kLine = 64 / sizeof(typename A::Operand);

  const CellShape& shape;
  WeightForm form;  // of weights (unit.h)
  bool given_gx;    // the caller gives gx, and I is 0
  int64_t I, H, P;
  int own_params;              // rows of params that are the cell's, the others being a normalisation's
  Axis<W> input, hidden, out;  // of x, of the gates, of h
  Layout(const Problem& p, const CellShape& shape)
      : shape(shape), form(p.form), given_gx(p.given_gx), I(p.input_size), H(p.hidden_size), P(p.output_size),
        own_params(own_param_rows(p)), input(I), hidden(H, p.heads), out(P, p.heads) {}

  const Stage& stage(int k) const { return shape.stage[k]; }
  const Axis<W>& axis(int k) const { return stage(k).projected ? out : hidden; }    // of stage k's result
  const Axis<W>& operand(int k) const { return k == 0 ? out : axis(k - 1); }        // of what stage k multiplies
  const Axis<W>& state(int s) const { return s == 0 ? out : hidden; }               // h has P entries, every other state H
  int64_t terms(int k) const { return operand(k).each; }                            // of its product
  int64_t gate_columns() const { return shape.gates * hidden.padded(); }            // gx, dgx: one row
  int64_t stage_columns(int k) const { return stage(k).gates * axis(k).padded(); }  // gh, dgh of stage k: one row
  int64_t head_columns(int k) const { return stage(k).gates * axis(k).panels_each * W; }
  // gx should stay in the second-level cache until the recurrence reads it. (AVX2, Zen 3, LSTM H = 500 B = 16: 48 rows in place of 192
  // are 1.06 to 1.09 times as fast. With 32 registers only the matrix unit was timed, where 64 rows were slower: bench/NOTES.md.)
  int64_t gx_rows() const {
    if (A::V::registers >= 32) return kInputRows;
    const int64_t rows = near_bytes() / 2 / larger<int64_t>(1, gate_columns() * sizeof(typename A::T));
    return smaller(kInputRows, larger(kLeastInputRows, rows / 24 * 24));
  }
  // Weights of one panel of `gates` vectors over K terms; in another form: what takes as many bytes.
  int64_t panel(int64_t K, int gates) const {
    if (form == WeightForm::int8) return int8_elements(K, gates * W);
    if (form == WeightForm::bf16) return (K + 1) / 2 * gates * W;
    return round_up(K, larger(A::depth, A::pair)) * gates * W;
  }
  // Rows of buffers that are operands of a product are one line apart from a power of two, or the rows of a tile would meet
  // in one set of the first-level cache.
  static int64_t leading(int64_t columns) { return round_up(columns, kLine) + kLine; }

  // fn(head, first, last): the panels of [p0, p1) of an axis head by head.
  template <class Fn>
  RNNK_HD static void for_heads(const Axis<W>& axis, int64_t p0, int64_t p1, const Fn& fn) {
    if (axis.heads == 1) return fn(0, p0, p1);
    for (int64_t head = p0 / axis.panels_each; p0 < p1; ++head) {
      const int64_t end = smaller(p1, (head + 1) * axis.panels_each);
      fn(head, p0, end);
      p0 = end;
    }
  }
};

// Packed weights; with 16 registers, a panel of four gates is in two groups (tile.h). The backward half is absent from a forward-only
// pack (its bytes are still part of the buffer).
template <class A>
struct Packed {
  using T = typename A::T;
  using Weight = typename A::Weight;
  using L = Layout<A>;
  Weight* w_ih;                 // [panel][k = I][G][W], terms in pairs where A has them, as everywhere
  T* b_ih;                      // [panel][G][W]
  T* b_hh;                      // the same
  T* params;                    // [own_params][padded H]
  T* gamma[kMostStages][2];     // of a normalised stage, of gx and of gh: [panel][gates][W]
  T* beta[kMostStages];         // of one without a product
  Weight* w[kMostStages];       // stage k: [panel of axis(k)][k = terms(k)][gates][W]
  Weight* w_ih_back;            // [panel of I][k = gate_columns][W]
  Weight* w_back[kMostStages];  // stage k: [panel of operand(k)][k = head_columns(k)][W]
  int64_t bytes;

  Packed(const L& d, const void* base) {
    Carver c(base);
    w_ih = c.take<Weight>(d.hidden.panels() * d.panel(d.I, d.shape.gates));
    b_ih = c.take<T>(d.gate_columns());
    b_hh = c.take<T>(d.gate_columns());
    params = c.take<T>(d.own_params * d.hidden.padded());
    for (int k = 0; k < d.shape.stages; ++k) {
      const int64_t n = d.stage(k).norm ? d.stage_columns(k) : 0;
      gamma[k][0] = c.take<T>(has_product(d.shape, k) ? n : 0);
      gamma[k][1] = c.take<T>(n);
      beta[k] = c.take<T>(has_product(d.shape, k) ? 0 : n);
      w[k] = c.take<Weight>(has_product(d.shape, k) ? d.axis(k).panels() * d.panel(d.terms(k), d.stage(k).gates) : 0);
    }
    w_ih_back = c.take<Weight>(d.form != WeightForm::own ? 0 : d.input.panels() * d.panel(d.gate_columns(), 1));
    for (int k = 0; k < d.shape.stages; ++k) {
      w_back[k] = c.take<Weight>(
          has_product(d.shape, k) && d.form == WeightForm::own ? d.operand(k).panels() * d.panel(d.head_columns(k), 1) : 0);
    }
    bytes = c.used();
  }
};

// What a training forward keeps, all in T: [t][sorted row][...].
template <class A>
struct Reserve {
  using T = typename A::T;
  using L = Layout<A>;
  T* saved;                 // [T][B][panel][kSaved][W]
  T* emitted[kMostStages];  // stage k's operand where a later product needs it for dR: [T][B][padded operand(k)]; k >= 1
  T* normed[kMostStages];   // gx (where there is a product) and gh of a normalised stage: [T][B][2][stage_columns]
  T* scale[kMostStages];    // 1 / sqrt(var + eps) of each: [T][B][2]
  int64_t saved_columns, bytes;

  Reserve(const L& d, int64_t steps, int64_t batch, const void* base) {
    Carver c(base);
    const int64_t rows = steps * batch;
    saved_columns = d.shape.saved * d.hidden.padded();
    saved = c.take<T>(rows * saved_columns);
    for (int k = 0; k < d.shape.stages; ++k) {
      const bool norm = d.stage(k).norm;
      emitted[k] = c.take<T>(k > 0 && has_product(d.shape, k) ? rows * d.operand(k).padded() : 0);
      normed[k] = c.take<T>(norm ? rows * 2 * d.stage_columns(k) : 0);
      scale[k] = c.take<T>(norm ? rows * 2 : 0);
    }
    bytes = c.used();
  }
};

// Rows of a chunk, over which dW is summed.
constexpr int64_t kChunk = 512;

// The steps of one call, shared by both directions in time: which rows are alive when.
struct Rows {
  int64_t steps, batch;
  bool reverse;
  const int32_t* order;    // [B] sorted row -> the caller's row; null: the same
  const int64_t* lengths;  // [B] sorted, longest first; null: all full

  int64_t time(int64_t s) const { return reverse ? steps - 1 - s : s; }
  int64_t row(int64_t sorted) const { return order ? order[sorted] : sorted; }
  // How many rows are alive in walk step s: sorted rows [0, alive). None before the first and after the last step.
  int64_t alive(int64_t s) const {
    if (s < 0 || s >= steps) return 0;
    if (!lengths) return batch;
    const int64_t t = time(s);
    int64_t low = 0, high = batch;  // rows before low are longer than t
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (lengths[middle] > t) low = middle + 1;
      else high = middle;
    }
    return low;
  }
};

// A share of the work: sorted rows [r0, r1), panels [share, share + 1) / shares of whatever is walked.
struct Part {
  int64_t r0, r1;
  int share, shares;
  int64_t first(int64_t n) const { return n * share / shares; }
  int64_t last(int64_t n) const { return n * (share + 1) / shares; }
};

}  // namespace
}  // namespace rnnk
