// dx of two directions that ran side by side: the second one's, formed apart, is added as it would have been in its turn.
#include "core/device.h"
#include "cuda/moves.cuh"

namespace rnnk {
namespace gpu {
namespace {

template <class T>
void add(const Problem& p, const LayerCall& a, const rnnk_tensor& more) {
  Walk<T> walk{};
  walk.batch = a.batch, walk.steps = a.seq_len, walk.lengths = a.lengths;
  run_move(StoreInputGradient<T>{a.seq_len * a.batch * p.input_size, walk, static_cast<const T*>(more.data), a.dx, 0,
                                 p.input_size, p.input_size, true},
           a.cuda_stream, "store_input_gradient");
}

}  // namespace
}  // namespace gpu

void device_add(const Problem& p, const LayerCall& a, const rnnk_tensor& more) {
  if (a.seq_len == 0 || a.batch == 0) return;
  const gpu::OnDevice device(p.device_index);
  if (more.dtype == RNNK_FLOAT64) gpu::add<double>(p, a, more);
  else gpu::add<float>(p, a, more);
}

}  // namespace rnnk
