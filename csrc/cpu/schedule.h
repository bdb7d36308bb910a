// How a call is split, and what it will cost. Nothing here touches the bits.
//
// Rows: each task owns rows and runs them through all steps alone, with no barrier. Units: all tasks share every step, each
// owning panels, with one barrier a step, after which it reads what the others wrote. Rows when there are enough of them; units
// when the batch is small, or when the weights are so large that reading them once per task costs more than the barriers.
#pragma once
#include "core/costs.h"
#include "core/kernel.h"
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
  if (rows < 1 || K < 1 || vectors < 1) return 0;
  using V = typename A::V;
  int64_t height = tile_rows<A>(gates), least = 1;
  if constexpr (A::matrix) height = A::rows, least = A::least_rows;
  if (unit && unit->rows) height = unit->rows, least = unit->least_rows;
  rows = larger(rows, static_cast<double>(least));
  const double tiles = rows <= height ? 1 : ceil_div(static_cast<int64_t>(rows), height);
  const double bytes = V::lanes * (unit ? unit->bytes : sizeof(typename A::Weight)), steps = K * vectors;
  const double cycles = unit ? unit->cycles : A::cycles_per_fma();
  // Eight multiply-adds begin while one is done, so a tile of fewer chains takes as long as one of eight.
  const int tall = static_cast<int>(ceil_div(static_cast<int64_t>(rows), static_cast<int64_t>(tiles)));
  const int panels = tall <= flat_rows<V>(gates) ? flat_panels<A>(gates, tall) : tile_panels<V>(gates);
  const int width = sweep_vectors<A>(gates, panels, tall);
  const double chains = A::matrix || unit ? 0 : tiles * 8 / smaller<double>(vectors, width);
  const double read = tiles * bytes / Core::near_rate;
  // The part of the weights that has left the near cache when it is read again.
  const double far = smaller(1.0, larger(0.0, steps * bytes / near_bytes() - 1));
  return steps * larger(larger(rows, chains) * cycles, larger(read, far * bytes / Core::far_rate));
}

template <class A>
struct Cost {
  using V = typename A::V;
  Layout<A> d;
  bool backward;
  const WeightUnit* unit = nullptr;

  // Cycles per step of the slowest of n tasks: the recurrence, and its part of the products over a block of steps. Of these,
  // dW is shared by its rows and dx by the chunk's, however the recurrence is.
  double step_cycles(int64_t steps, int64_t batch, int64_t n, bool by_rows) const {
    const int64_t sharing = by_rows ? 1 : n, chunk = smaller(kChunk, steps * batch);
    const double rows = by_rows ? ceil_div(batch, n) : batch, gates = d.shape.gates * ceil_div(d.hidden.panels(), sharing);
    const double heads = d.out.heads, columns = d.gate_columns(), inputs = d.input.panels();
    const double pointwise = rows * gates * (backward ? 15 : 30) * V::cycles_per_fma;
    // Elements that the other tasks have written since the last step.
    const double others = rows * (backward ? columns : d.out.padded()) * (1 - 1.0 / sharing);
    const double own = pointwise + others * sizeof(typename A::Operand) / Core::gather_rate;
    if (!backward) {
      const double many = rows * smaller(steps, ceil_div(d.gx_rows(), batch));
      return own + product_cycles<A>(unit, d.shape.gates, rows, d.out.each, gates) +
             product_cycles<A>(unit, d.shape.gates, many, d.I, gates) * rows / many;
    }
    const double dw = product_cycles<A>(unit, 1, ceil_div(d.shape.gates * d.H, n), chunk, inputs + d.out.panels() / heads);
    const double dx = product_cycles<A>(unit, 1, ceil_div(chunk, n), columns, inputs);
    return own + product_cycles<A>(unit, 1, rows, columns / heads, ceil_div(d.out.panels(), sharing)) +
           (dw + dx) * batch / chunk;
  }

  // whole_rows: rows are not split.
  Schedule choose(int64_t steps, int64_t batch, int threads, bool whole_rows = false) const {
    Schedule best;
    if (steps == 0 || batch == 0) return best;
    best.us = steps * step_cycles(steps, batch, 1, true) / Core::cycles_per_us;
    const int64_t around = backward ? 3 * ceil_div(steps * batch, kChunk) : 0;  // barriers beside those of steps
    const auto offer = [&](int64_t most, bool by_rows) {
      for (int64_t n = smaller<int64_t>(threads, most), tasks; n > 1; n -= larger<int64_t>(1, n / 4)) {
        // As few as have such a share, unless the others help with dW and dx.
        tasks = backward ? n : ceil_div(most, ceil_div(most, n));
        const double barriers = (around + (by_rows ? 0 : steps)) * (Core::barrier_us + Core::barrier_task_us * tasks);
        const double us = Core::task_us + barriers + steps * step_cycles(steps, batch, tasks, by_rows) / Core::cycles_per_us;
        if (us < best.us) best = {static_cast<int>(tasks), by_rows, us};
      }
    };
    if (!whole_rows) offer(batch, true);
    offer(d.hidden.panels(), false);
    return best;
  }
};

}  // namespace
}  // namespace rnnk
