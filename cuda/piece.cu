// Lengths and resets as kernels need them for a part of a sequence, or for a reverse walk.
#include "core/device.h"
#include "cuda/moves.cuh"

namespace rnnk {

void device_window_lengths(const Problem& p, const LayerCall& a, int64_t first, int64_t steps, int64_t* to) {
  if (a.batch == 0) return;
  const gpu::OnDevice device(p.device_index);
  gpu::run_move(gpu::CheckLengths{a.batch, gpu::dense_lengths(a.lengths), a.seq_len,
                                  gpu::fault_word_on_device(p.device_index), to, first, steps},
                a.cuda_stream, "check_lengths");
}

void device_lengths(int device_index, const rnnk_args& a, int64_t* to) {
  const gpu::OnDevice device(device_index);
  gpu::run_move(gpu::CheckLengths{a.batch, a.lengths, a.seq_len, gpu::fault_word_on_device(device_index), to, 0, a.seq_len},
                a.cuda_stream, "check_lengths");
}

void device_marks(int device_index, const MarksCopy& copy, uint8_t* to, void* cuda_stream) {
  const gpu::OnDevice device(device_index);
  gpu::run_move(gpu::CopyMarks{copy.seq_len * copy.batch, copy, to}, cuda_stream, "copy_marks");
}

}  // namespace rnnk
