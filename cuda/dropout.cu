// Dropout between layers on a GPU: the masks of core/dropout.cpp, one thread an element.
#include "core/device.h"
#include "cuda/moves.cuh"

namespace rnnk {
namespace gpu {
namespace {

template <class T>
struct Drop {
  int64_t count, batch, units, seq_len;
  rnnk_tensor lengths;
  rnnk_tensor in, out;
  uint64_t seed, threshold;
  uint32_t call, stream, first_step;
  T scale;
  RNNK_DEVICE void run(int64_t e) const {
    const int64_t u = e % units, b = e / units % batch, t = e / units / batch;
    uint32_t words[4][1];
    philox(Counter{seed, call, stream, first_step + static_cast<uint32_t>(t), static_cast<uint32_t>(b * units + u)}, words);
    const bool kept = (!lengths.data || t < length_at(lengths, b)) && words[0][0] >= threshold;
    store3<T>(out, t, b, u, kept ? load3<T>(in, t, b, u) * scale : T(0));
  }
};

template <class T>
void drop(const rnnk_dropout_args& a) {
  run_move(Drop<T>{a.seq_len * a.batch * a.hidden_size, a.batch, a.hidden_size, a.seq_len, a.lengths, a.in, a.out, a.seed,
                   chance(a.p), a.call, a.stream, static_cast<uint32_t>(a.first_step),
                   static_cast<T>(a.p < 1 ? 1 / (1 - a.p) : 0)},
           a.cuda_stream, "dropout");
}

}  // namespace
}  // namespace gpu

void device_dropout(const rnnk_dropout_args& a) {
  const gpu::OnDevice device(a.device_index);
  if (a.lengths.data) {
    gpu::run_move(gpu::CheckLengths{a.batch, a.lengths, a.seq_len, gpu::fault_word_on_device(a.device_index)}, a.cuda_stream,
                  "check_lengths");
  }
  if (a.in.dtype == RNNK_FLOAT64) gpu::drop<double>(a);
  else gpu::drop<float>(a);
}

}  // namespace rnnk
