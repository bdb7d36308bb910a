// cuda_stepwise: the record and the instances.
#include "cuda/stepwise.cuh"

#include <cstdio>

#include "cuda/dispatch.cuh"

namespace rnnk {
namespace gpu {
namespace {

struct PackOf {
  template <class A, class Cell>
  static void run(const Problem& p, const rnnk_weights& w, Halves halves, void* packed) {
    static constexpr CellShape shape = shape_of<Cell>();
    pack_call<A>(p, shape, w, halves, packed);
  }
};
struct ForwardOf {
  template <class A, class Cell>
  static void run(const Problem& p, const rnnk_args& a) {
    stepwise_forward<A, Cell>(p, a);
  }
};
struct BackwardOf {
  template <class A, class Cell>
  static void run(const Problem& p, const rnnk_args& a) {
    stepwise_backward<A, Cell>(p, a);
  }
};

bool accepts(const Problem& p, char* reason, int64_t size) {
  const char* why = p.recompute ? "RNNK_RECOMPUTE is not there on a GPU" : blas_unavailable();
  if (!*why) why = no_code(facts(p.device_index));
  std::snprintf(reason, static_cast<size_t>(size), "%s", why);
  return !*why;
}

// A step costs its launches and the reading of the weights from the second-level cache (rates: assumptions, not measurements).
double estimate(const Problem& p, int64_t seq_len, int64_t batch, bool backward, int) {
  constexpr double launch_us = 2.2, bytes_per_us = 5.5e6;
  const CellShape shape = shape_of_problem(p);
  const Layout d(p, shape);
  double bytes = 0, launches = 0;
  for (int k = 0; k < shape.stages; ++k) {
    launches += shape.has_options && d.product(k) ? 2 + (shape.stage[k].norm ? 1 : 0) : 1;
    if (d.product(k)) bytes += static_cast<double>(d.stage_columns(k) * d.operand(k).pad * d.operand_size);
  }
  const double groups = static_cast<double>((batch + 31) / 32);
  const double step = launches * launch_us + bytes * (groups < 1 ? 1 : groups) / bytes_per_us;
  const double over_time = static_cast<double>(seq_len * batch) * static_cast<double>(d.gate_columns() * (d.I + d.P)) * 1e-8;
  return 20 + static_cast<double>(seq_len) * step + (backward ? 2 : 1) * over_time;
}

}  // namespace
}  // namespace gpu

extern const Kernel cuda_stepwise_kernel;
const Kernel cuda_stepwise_kernel = {
    "cuda_stepwise",
    RNNK_CUDA,
    0,
    gpu::accepts,
    gpu::estimate,
    gpu::sizes_of,
    [](int64_t seq_len, int64_t batch) { return gpu::Layout::block_steps(seq_len, batch); },
    [](const Problem& p, const rnnk_weights& w, Halves halves, void* packed) {
      const gpu::OnDevice device(p.device_index);
      gpu::with_arithmetic<gpu::PackOf, true>(p, w, halves, packed);
    },
    [](const Problem& p, const rnnk_args& a) {
      const gpu::OnDevice device(p.device_index);
      gpu::with_arithmetic<gpu::ForwardOf, true>(p, a);
    },
    [](const Problem& p, const rnnk_args& a) {
      const gpu::OnDevice device(p.device_index);
      gpu::with_arithmetic<gpu::BackwardOf, true>(p, a);
    },
};

}  // namespace rnnk
