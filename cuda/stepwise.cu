// cuda_stepwise: the record and the instances.
#include "cuda/stepwise.cuh"

#include <cstdio>

#include "cuda/dispatch.cuh"

namespace rnnk {
namespace gpu {
namespace {

struct ForwardOf {
  template <class A, class Cell>
  static void run(const Problem& p, const LayerCall& a) {
    stepwise_forward<A, Cell>(p, a);
  }
};
struct BackwardOf {
  template <class A, class Cell>
  static void run(const Problem& p, const LayerCall& a) {
    stepwise_backward<A, Cell>(p, a);
  }
};

bool accepts(const Problem& p, char* reason, int64_t size) {
  const char* const why = cannot_run(p);
  std::snprintf(reason, static_cast<size_t>(size), "%s", why);
  return !*why;
}

// A step costs its launches, the pointwise part (as solo's, by the cycles of its machine code) and the reading of the weights from the
// second-level cache (rates: assumptions, not measurements).
double estimate(const Problem& p, int64_t seq_len, int64_t batch, bool backward, int) {
  constexpr double launch_us = 2.2, pointwise_us = 0.75, bytes_per_us = 5.5e6;
  const CellShape shape = shape_of_problem(p);
  const Layout d(p, shape);
  double bytes = 0, launches = 0;
  for (int k = 0; k < shape.stages; ++k) {
    launches += shape.has_options && d.product(k) ? 2 + (shape.stage[k].norm ? 1 : 0) : 1;
    if (d.product(k)) bytes += static_cast<double>(d.stage_columns(k) * d.operand(k).pad * d.operand_size);
  }
  const double groups = static_cast<double>((batch + 31) / 32);
  const double step = launches * launch_us + shape.stages * pointwise_us + bytes * (groups < 1 ? 1 : groups) / bytes_per_us;
  return around_steps_us(d, seq_len, batch, backward) + static_cast<double>(seq_len) * step;
}

// The host hands over a launch a step, one call's after the other's.
double share(const Problem&, int64_t, bool) { return 1; }

}  // namespace
}  // namespace gpu

extern const Kernel cuda_stepwise_kernel;
const Kernel cuda_stepwise_kernel =
    gpu::device_kernel<gpu::ForwardOf, gpu::BackwardOf, true>("cuda_stepwise", gpu::accepts, gpu::estimate, gpu::share);

}  // namespace rnnk
