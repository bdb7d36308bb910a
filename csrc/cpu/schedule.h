// How a call is split, and what it will cost. Nothing here touches the bits.
//
// Rows: each task owns rows and runs them through all steps alone, with no barrier. Units: all tasks share every step, each
// owning panels, with one barrier a step. Rows when there are enough of them; units when the batch is small, or when the
// weights are so large that reading them once per task costs more than the barriers.
#pragma once
#include "core/team.h"
#include "cpu/layout.h"
#include "cpu/tile.h"

namespace rnnk {
namespace {

// A model of a core, good to tens of percent; only ratios matter. Cycles at 3 GHz.
struct Core {
  static constexpr double cycles_per_us = 3000, barrier_us = 0.6, task_us = 4;
  static constexpr double near_bytes = 40, far_bytes = 10;  // read per cycle within the second-level cache, and beyond it
  static constexpr double near_size = 1 << 20;
};

// Cycles for `rows` rows of a product of K terms and `vectors` vectors of columns.
template <class V, int G>
double product_cycles(double rows, double K, double vectors) {
  using S = Shape<V, G>;
  if (rows < 1) return 0;
  const double tiles = rows <= S::rows ? 1 : ceil_div(static_cast<int64_t>(rows), S::rows);
  const double bytes = V::lanes * sizeof(typename V::T), steps = K * vectors;
  const double near = bytes / Core::near_bytes, far = bytes / Core::far_bytes;
  const double first = steps * bytes > Core::near_size ? far : near;
  const double fma = rows / tiles * V::cycles_per_fma;
  return steps * (larger(fma, first) + (tiles - 1) * larger(fma, near));
}

struct Schedule {
  int tasks = 1;
  bool by_rows = true;
  double us = 0;
};

// work: cycles per step of the recurrence (with its share of the input product) on `rows` rows.
template <class V, class Cell>
struct Cost {
  Layout<V, Cell> d;
  bool backward;

  double step_cycles(double rows) const {
    const double gates = d.gate_columns() / V::lanes, H = d.panels_of(d.P), pointwise = backward ? 30 : 60;
    double cycles = rows * gates * pointwise * V::cycles_per_fma * 0.5;
    if (!backward) {
      return cycles + product_cycles<V, Cell::kGates>(rows, d.P, gates) +
             product_cycles<V, Cell::kGates>(larger(rows, 16.0), d.I, gates) * rows / larger(rows, 16.0);
    }
    const double many = larger(rows, 64.0);
    return cycles + product_cycles<V, 1>(rows, d.gate_columns(), H) +
           (product_cycles<V, 1>(many, d.gate_columns(), d.panels_of(d.I)) * 2 +
            product_cycles<V, 1>(many, d.gate_columns(), H)) *
               rows / many;
  }

  Schedule choose(int64_t steps, int64_t batch, int threads) const {
    Schedule best;
    best.us = steps * step_cycles(batch) / Core::cycles_per_us;
    for (int n = threads; n > 1; n = n > 8 ? n / 2 : n - 1) {
      if (batch >= n) {
        const double us = Core::task_us + steps * step_cycles(ceil_div(batch, n)) / Core::cycles_per_us;
        if (us < best.us) best = {n, true, us};
      }
      if (d.panels_of(d.H) >= n) {
        const double us = Core::task_us + steps * (step_cycles(batch) / n / Core::cycles_per_us + Core::barrier_us);
        if (us < best.us) best = {n, false, us};
      }
    }
    return best;
  }
};

}  // namespace
}  // namespace rnnk
