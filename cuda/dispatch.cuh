// From a problem to the instance that does it: its arithmetic by dtype, its cell by the cell list.
#pragma once
#include "core/cells.generated.h"
#include "core/kernel.h"
#include "cuda/driver.cuh"

namespace rnnk {
namespace gpu {

// The cell that does a cell's work here: `linear`, which tests compare with to the bit, is not worth instances of its own.
template <class Cell>
struct OnGpu {
  using type = Cell;
};
template <>
struct OnGpu<Linear> {
  using type = RnnAny;
};
template <class Cell>
using CellOnGpu = typename OnGpu<Cell>::type;

// Fn::run<A, Cell>(p, args...) for the problem's cell; options: whether there are instances for cells that have them.
template <class A, class Fn, bool options = true, class... Args>
auto with_cell(const Problem& p, Args&&... args) {
  constexpr int variants = 1 << 20;  // numbers of variants begin here
  switch (p.variant < 0 ? p.cell : p.variant + variants) {
#define RNNK_CELL(value, name, type)                                                           \
  case value:                                                                                  \
    if constexpr (!type::kHasOptions) return Fn::template run<A, CellOnGpu<type>>(p, args...); \
    break;
#define RNNK_VARIANT(cell, type, shape)                                  \
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

inline int64_t bytes_of(const Problem& p, Space space, int64_t seq_len, int64_t batch) {
  const CellShape shape = shape_of_problem(p);
  const Layout d(p, shape);
  const bool drops = shape.has_options && p.recurrent_dropout > 0;
  switch (space) {
    case Space::packed: return Packed(d, nullptr).bytes;
    case Space::reserve: return Reserve(d, seq_len, batch, nullptr).bytes;
    case Space::forward: return ForwardSpace(d, drops, seq_len, batch, nullptr).bytes;
    default: return BackwardSpace(d, drops, seq_len, batch, nullptr).bytes;
  }
}

// What every strategy needs, or "".
inline const char* cannot_run(const Problem& p) {
  if (*blas_unavailable()) return blas_unavailable();
  return no_code(facts(p.device_index));
}

// Microseconds of products over time and of what goes round them: the part of an estimate that strategies share (a model).
inline double around_steps_us(const Layout& d, int64_t seq_len, int64_t batch, bool backward) {
  const double products = static_cast<double>(seq_len * batch) * static_cast<double>(d.gate_columns() * (d.I + d.P));
  return 20 + products * 1e-8 * (backward ? 2 : 1);
}

struct PackOf {
  template <class A, class Cell>
  static void run(const Problem& p, const Parameters& w, Halves halves, void* packed) {
    static constexpr CellShape shape = shape_of<Cell>();
    pack_call<A>(p, shape, w, halves, packed);
  }
};

// What the records of strategies have in common. every: as with_arithmetic's.
template <bool every>
constexpr Kernel common_record(const char* name) {
  Kernel kernel{};
  kernel.name = name;
  kernel.device = RNNK_CUDA;
  kernel.bytes = bytes_of;
  kernel.gradient_steps = [](int64_t seq_len, int64_t batch) { return Layout::block_steps(seq_len, batch); };
  kernel.pack = [](const Problem& p, const Parameters& w, Halves halves, void* packed) {
    const OnDevice device(p.device_index);
    with_arithmetic<PackOf, every>(p, w, halves, packed);
  };
  return kernel;
}

// The record of a strategy whose kernels are its own: ForwardOf::run<A, Cell>(problem, args), and BackwardOf.
template <class ForwardOf, class BackwardOf, bool every>
constexpr Kernel device_kernel(const char* name, decltype(Kernel::accepts) accepts, decltype(Kernel::estimate) estimate,
                               decltype(Kernel::share) share) {
  Kernel kernel = common_record<every>(name);
  kernel.accepts = accepts;
  kernel.estimate = estimate;
  kernel.share = share;
  kernel.forward = [](const Problem& p, const LayerCall& a) {
    const OnDevice device(p.device_index);
    with_arithmetic<ForwardOf, every>(p, a);
  };
  kernel.backward = [](const Problem& p, const LayerCall& a) {
    const OnDevice device(p.device_index);
    with_arithmetic<BackwardOf, every>(p, a);
  };
  return kernel;
}

}  // namespace gpu
}  // namespace rnnk
