// From a problem to the instance that does it: its arithmetic by dtype, its cell by the cell list.
#pragma once
#include "core/cells.generated.h"
#include "core/kernel.h"
#include "cuda/arithmetic.cuh"

namespace rnnk {
namespace gpu {

// Fn::run<A, Cell>(p, args...) for the problem's cell; options: whether there are instances for cells that have them.
template <class A, class Fn, bool options = true, class... Args>
auto with_cell(const Problem& p, Args&&... args) {
  constexpr int variants = 1 << 20;  // numbers of variants begin here
  switch (p.variant < 0 ? p.cell : p.variant + variants) {
#define RNNK_CELL(value, name, type) \
  case value: return Fn::template run<A, type>(p, args...);
#define RNNK_VARIANT(header, cell, type, shape)                          \
  case variants + __LINE__:                                              \
    if constexpr (options) return Fn::template run<A, type>(p, args...); \
    break;
#include "rnnkern/cells.inc"
#undef RNNK_VARIANT
#undef RNNK_CELL
  }
  fail(RNNK_RUNTIME_ERROR, "no instance for cell %d, variant %d", p.cell, p.variant);
}

// every: the strategy has an instance for everything. Others have none for float64, which they decline, and do cells with options
// in float32 where tf32 would be allowed.
template <class Fn, bool every, class... Args>
auto with_arithmetic(const Problem& p, Args&&... args) {
  switch (p.dtype) {
    case RNNK_BFLOAT16: return with_cell<BFloat16, Fn>(p, args...);
    case RNNK_FLOAT16: return with_cell<Float16, Fn>(p, args...);
    case RNNK_FLOAT64:
      if constexpr (every) return with_cell<Float64, Fn>(p, args...);
      else fail(RNNK_RUNTIME_ERROR, "no instance for float64");
    default: break;
  }
  if (p.tf32 && (every || p.variant < 0)) return with_cell<Tf32, Fn, every>(p, args...);
  return with_cell<Float32, Fn>(p, args...);
}

// The shape of the cell that does a problem.
struct ShapeOf {
  template <class, class Cell>
  static CellShape run(const Problem&) {
    return shape_of<Cell>();
  }
};
inline CellShape shape_of_problem(const Problem& p) { return with_cell<void, ShapeOf>(p); }

inline Sizes sizes_of(const Problem& p, int64_t seq_len, int64_t batch) {
  const CellShape shape = shape_of_problem(p);
  const Layout d(p, shape);
  const bool drops = shape.has_options && p.recurrent_dropout > 0;
  Sizes s{};
  s.packed = Packed(d, nullptr).bytes;
  s.reserve = Reserve(d, seq_len, batch, nullptr).bytes;
  s.workspace_forward = ForwardSpace(d, drops, seq_len, batch, nullptr).bytes;
  s.workspace_backward = BackwardSpace(d, drops, seq_len, batch, nullptr).bytes;
  return s;
}

}  // namespace gpu
}  // namespace rnnk
