// A kernel's call, with the problem and the kernel that it is for.
#pragma once
#include "core/carver.h"
#include "core/kernel.h"
#include "core/storage.h"

namespace rnnk {

struct KernelCall {
  const Problem& problem;
  const Kernel& kernel;
  LayerCall call;

  bool on_cpu() const { return problem.device == RNNK_CPU; }
  double estimate(bool backward, int threads) const {
    return kernel.estimate(problem, call.seq_len, call.batch, backward, threads);
  }
  double share(bool backward) const { return kernel.share(problem, call.batch, backward); }
};

// c, and the gradients of states: what passes from call to call unrounded.
inline int state_dtype(const Problem& p) { return p.dtype == RNNK_FLOAT64 ? RNNK_FLOAT64 : RNNK_FLOAT32; }
inline int64_t cell_units(const Problem& p) { return (cell_info(p.cell)->states - 1) * p.hidden_size; }
inline rnnk_tensor dense_rows(void* data, int64_t units, int dtype) { return {data, {units, 1, 0}, dtype, 0}; }
inline rnnk_tensor dense_steps(void* data, int64_t batch, int64_t units, int dtype) {
  return {data, {batch * units, units, 1}, dtype, 0};
}

// The part of a call at times [first, first + steps). lengths: [B], room for the rows' lengths in there.
LayerCall window_of(const Problem&, const LayerCall& whole, int64_t first, int64_t steps, int64_t* lengths);

// The states of one layer between two calls: h in the dtype of the problem (its gradient unrounded), c unrounded.
struct States {
  rnnk_tensor h, c;
};
inline int64_t states_bytes(const Problem& p, int64_t batch, bool gradient) {
  return line(batch * p.output_size * item_size(gradient ? state_dtype(p) : p.dtype)) +
         line(batch * cell_units(p) * item_size(state_dtype(p)));
}
inline States states_at(void* bytes, const Problem& p, int64_t batch, bool gradient) {
  const int h_dtype = gradient ? state_dtype(p) : p.dtype;
  char* const c = static_cast<char*>(bytes) + line(batch * p.output_size * item_size(h_dtype));
  return {dense_rows(bytes, p.output_size, h_dtype),
          cell_units(p) ? dense_rows(c, cell_units(p), state_dtype(p)) : rnnk_tensor{}};
}

}  // namespace rnnk
