// Lengths of a part of a sequence, for recomputation.
#include "core/device.h"
#include "cuda/moves.cuh"

namespace rnnk {

void device_piece_lengths(const Problem& p, const rnnk_args& a, int64_t first, int64_t steps, int64_t* to) {
  if (a.batch == 0) return;
  const gpu::OnDevice device(p.device_index);
  gpu::run_move(
      gpu::CheckLengths{a.batch, a.lengths, a.seq_len, gpu::fault_word_on_device(p.device_index), to, first, steps},
      a.cuda_stream, "check_lengths");
}

}  // namespace rnnk
