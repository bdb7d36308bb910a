// Where everything lies: packed weights, the reserve of a training forward, workspaces. Sizes in elements unless said.
//
// Units are padded to whole panels of `lanes` units; the G gate vectors of one panel of units stand side by side
// ("panel order": [panel][gate][lane]) in weights, biases, gx, dgx and dgh alike, so the product's result is what the
// pointwise part reads, and what it writes is what the next product multiplies.
#pragma once
#include "core/carver.h"
#include "core/problem.h"
#include "cpu/arithmetic.h"

namespace rnnk {
namespace {

template <class A, class Cell>
struct Layout {
  static constexpr int W = A::V::lanes, G = Cell::kGates, S = Cell::kStages;
  static constexpr int kLine = 64 / sizeof(typename A::Operand);
  static constexpr Stage stage(int k) { return Cell::kStage[k]; }

  int64_t I, H, P;
  bool bias;
  explicit Layout(const Problem& p) : I(p.input_size), H(p.hidden_size), P(p.output_size), bias(p.bias) {
    static_assert(fits(), "the driver has no room for a cell with these stages");
  }

  static int64_t panels_of(int64_t units) { return ceil_div(units, W); }
  static int64_t padded(int64_t units) { return round_up(units, W); }
  int64_t units(int k) const { return stage(k).projected ? P : H; }                 // of stage k's result
  int64_t operand(int k) const { return k == 0 ? P : units(k - 1); }                // of what stage k multiplies
  int64_t state_units(int s) const { return s == 0 ? P : H; }                       // h has P entries, every other state H
  int64_t gate_columns() const { return G * padded(H); }                            // gx, dgx: one row
  int64_t stage_columns(int k) const { return stage(k).gates * padded(units(k)); }  // gh, dgh of stage k: one row
  // Weights of one panel of `gates` vectors over K terms.
  static int64_t panel(int64_t K, int gates) { return round_up(K, larger(A::depth, A::pair)) * gates * W; }
  // Rows of buffers that are operands of a product are one line apart from a power of two, or the rows of a tile would meet
  // in one set of the first-level cache.
  static int64_t leading(int64_t columns) { return round_up(columns, kLine) + kLine; }

  // A normalised product needs its whole row before the pointwise part: two phases with a barrier between.
  static constexpr int sub_phases(int k) { return stage(k).norm && stage(k).product != Product::identity ? 2 : 1; }
  static constexpr int sub_phases() {
    int n = 0;
    for (int k = 0; k < S; ++k) n += sub_phases(k);
    return n;
  }
  static constexpr bool projects() { return stage(S - 1).projected; }

  static constexpr bool same_dg() { return S == 1 && Cell::kSameGrad; }  // dgh is dgx

  // What this driver's buffers have room for; a cell that needs more says so at compile time.
  static constexpr bool fits() {
    for (int k = 0; k < S; ++k) {
      const bool recurrent = stage(k).product == Product::weight_hh;
      if (stage(k).projected && k < S - 1) return false;                          // h is what the last stage makes
      if (stage(k).norm && recurrent && stage(k).gates != G) return false;        // gx is normalised beside gh, whole
      if (stage(k).norm && stage(k).product == Product::weight_hr) return false;  // no gx beside it
      if (k > 0 && recurrent && projects()) return false;                         // weight_hh has rows of one length
    }
    return true;
  }
};

// Packed weights. The backward half is absent from a forward-only pack (its bytes are still part of the buffer).
template <class A, class Cell>
struct Packed {
  using T = typename A::T;
  using Weight = typename A::Weight;
  using L = Layout<A, Cell>;
  Weight* w_ih;          // [panel][k = I][G][W], terms in pairs where A has them, as everywhere
  T* b_ih;               // [panel][G][W]
  T* b_hh;               // the same
  T* params;             // [kParams][padded H]
  Weight* w[L::S];       // stage k: [panel of units(k)][k = operand(k)][gates][W]
  Weight* w_ih_back;     // [panel of I][k = gate_columns][W]
  Weight* w_back[L::S];  // stage k: [panel of operand(k)][k = stage_columns(k)][W]
  int64_t bytes;

  Packed(const L& d, const void* base) {
    Carver c(base);
    w_ih = c.take<Weight>(d.panels_of(d.H) * d.panel(d.I, L::G));
    b_ih = c.take<T>(d.gate_columns());
    b_hh = c.take<T>(d.gate_columns());
    params = c.take<T>(Cell::kParams * d.padded(d.H));
    for (int k = 0; k < L::S; ++k) {
      w[k] = c.take<Weight>(product(k) ? d.panels_of(d.units(k)) * d.panel(d.operand(k), L::stage(k).gates) : 0);
    }
    w_ih_back = c.take<Weight>(d.panels_of(d.I) * d.panel(d.gate_columns(), 1));
    for (int k = 0; k < L::S; ++k) {
      w_back[k] = c.take<Weight>(product(k) ? d.panels_of(d.operand(k)) * d.panel(d.stage_columns(k), 1) : 0);
    }
    bytes = c.used();
  }
  static constexpr bool product(int k) { return L::stage(k).product != Product::identity; }
};

// What a training forward keeps, all in T: [t][sorted row][...].
template <class A, class Cell>
struct Reserve {
  using T = typename A::T;
  using L = Layout<A, Cell>;
  T* saved;          // [T][B][panel][kSaved][W]
  T* emitted[L::S];  // stage k's operand where a later product needs it for dR: [T][B][padded operand(k)]; k >= 1
  T* normed[L::S];   // gx and gh of a normalised stage: [T][B][2][stage_columns]
  T* scale[L::S];    // 1 / sqrt(var + eps) of each: [T][B][2]
  int64_t saved_columns, bytes;

  Reserve(const L& d, int64_t steps, int64_t batch, const void* base) {
    Carver c(base);
    const int64_t rows = steps * batch;
    saved_columns = Cell::kSaved * d.padded(d.H);
    saved = c.take<T>(rows * saved_columns);
    for (int k = 0; k < L::S; ++k) {
      const bool norm = L::stage(k).norm;
      emitted[k] = c.take<T>(k > 0 && Packed<A, Cell>::product(k) ? rows * d.padded(d.operand(k)) : 0);
      normed[k] = c.take<T>(norm ? rows * 2 * d.stage_columns(k) : 0);
      scale[k] = c.take<T>(norm ? rows * 2 : 0);
    }
    bytes = c.used();
  }
};

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
