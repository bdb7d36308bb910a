// How a call is split, and what it will cost. Nothing here touches the bits.
//
// Rows: each task owns rows and runs them through all steps alone, with no barrier. Units: all tasks share every step, each
// owning panels, with one barrier a step. Rows when there are enough of them; units when the batch is small, or when the
// weights are so large that reading them once per task costs more than the barriers.
#pragma once
#include "core/costs.h"
#include "core/team.h"
#include "cpu/layout.h"
#include "cpu/tile.h"

namespace rnnk {
namespace {

using costs::Core;

// Cycles for `rows` rows of a product of K terms and `vectors` vectors of columns. Each tile reads its weights from the
// second-level cache; the first of a column brings them there, while the others compute (tile.h).
template <class A>
double product_cycles(const WeightUnit* unit, int gates, double rows, double K, double vectors) {
  if (rows < 1) return 0;
  int64_t height = tile_rows<typename A::V>(gates), least = 1;
  if constexpr (A::matrix) height = A::rows, least = A::least_rows;
  if (unit && unit->rows) height = unit->rows, least = unit->least_rows;
  rows = larger(rows, static_cast<double>(least));
  const double tiles = rows <= height ? 1 : ceil_div(static_cast<int64_t>(rows), height);
  const double bytes = A::V::lanes * (unit ? unit->bytes : sizeof(typename A::Weight)), steps = K * vectors;
  const double cycles = unit ? unit->cycles : A::cycles_per_fma();
  const double read = tiles * bytes / Core::near_rate;
  const double fetch = steps * bytes > near_bytes() ? bytes / Core::far_rate : 0;
  return steps * larger(rows * cycles, larger(read, fetch));
}

struct Schedule {
  int tasks = 1;
  bool by_rows = true;
  double us = 0;
};

template <class A>
struct Cost {
  using V = typename A::V;
  Layout<A> d;
  bool backward;
  const WeightUnit* unit = nullptr;

  // Cycles per step of the recurrence, with its share of the input product and of dW and dx, on `rows` rows and one of
  // `shares` equal shares of the columns.
  double step_cycles(double rows, double shares) const {
    const double gates = d.gate_columns() / V::lanes / shares, H = d.out.panels() / shares, I = d.input.panels() / shares;
    const double pointwise = rows * gates * (backward ? 15 : 30) * V::cycles_per_fma;
    if (!backward) {
      const double many = larger(rows, 16.0);
      return pointwise + product_cycles<A>(unit, d.shape.gates, rows, d.out.each, gates) +
             product_cycles<A>(unit, d.shape.gates, many, d.I, gates) * rows / many;
    }
    const double many = larger(rows, 64.0), K = d.gate_columns(), heads = d.out.heads;
    return pointwise + product_cycles<A>(unit, 1, rows, K / heads, H) +
           (product_cycles<A>(unit, 1, many, K, I) * 2 + product_cycles<A>(unit, 1, many, K / heads, H)) * rows / many;
  }

  // whole_rows: rows are not split.
  Schedule choose(int64_t steps, int64_t batch, int threads, bool whole_rows = false) const {
    Schedule best;
    best.us = steps * step_cycles(batch, 1) / Core::cycles_per_us;
    for (int n = threads; n > 1; n = n > 8 ? n / 2 : n - 1) {
      if (batch >= n && !whole_rows) {
        const double us = Core::task_us + steps * step_cycles(ceil_div(batch, n), 1) / Core::cycles_per_us;
        if (us < best.us) best = {n, true, us};
      }
      if (d.hidden.panels() >= n) {
        const double us = Core::task_us + steps * (step_cycles(batch, n) / Core::cycles_per_us + Core::barrier_us);
        if (us < best.us) best = {n, false, us};
      }
    }
    return best;
  }
};

}  // namespace
}  // namespace rnnk
