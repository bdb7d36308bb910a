// Lengths and resets as kernels need them for a part of a sequence, or for a reverse walk.
#include "core/device.h"
#include "cuda/moves.cuh"

namespace rnnk {

void device_window_lengths(const Problem& p, const LayerCall& a, int64_t first, int64_t steps, int64_t* to) {
  if (a.batch == 0) return;
  const gpu::OnDevice device(p.device_index);
  gpu::run_move(
      gpu::CheckLengths{a.batch, a.lengths, a.seq_len, gpu::fault_word_on_device(p.device_index), to, first, steps},
      a.cuda_stream, "check_lengths");
}

void device_reverse_resets(int device_index, const rnnk_args& a, uint8_t* to) {
  if (a.seq_len == 0 || a.batch == 0) return;
  const gpu::OnDevice device(device_index);
  gpu::run_move(gpu::ReverseResets{a.seq_len * a.batch, a.reset, a.lengths, a.seq_len, a.batch, to}, a.cuda_stream,
                "reverse_resets");
}

}  // namespace rnnk
