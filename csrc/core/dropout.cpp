// The mask between layers: element (t, row, unit) has word 0 of the block (call, stream, t, row * H + unit) of core/philox.h.
#include "core/dropout.h"

#include <algorithm>

#include "core/costs.h"
#include "core/kernel.h"
#include "core/random_bits.h"
#include "core/storage.h"
#include "core/team.h"

namespace rnnk {
namespace {

constexpr int64_t kBatch = 16 * kRandomBits;  // elements whose bits are drawn at once

template <class T>
void mask_row(const rnnk_dropout_args& a, RandomBits draw, int64_t t, int64_t b, bool alive) {
  const Row from = row3(a.in, t, b), to = row3(a.out, t, b);
  const uint64_t threshold = chance(a.p);
  const T scale = static_cast<T>(a.p < 1 ? 1 / (1 - a.p) : 0);
  for (int64_t u = 0; u < a.hidden_size; u += kBatch) {
    uint32_t bits[kBatch];
    const int64_t n = std::min(kBatch, a.hidden_size - u);
    if (alive) {
      draw({a.seed, a.call, a.stream, static_cast<uint32_t>(a.first_step) + static_cast<uint32_t>(t),
            static_cast<uint32_t>(b * a.hidden_size + u)},
           n, bits);
    }
    for (int64_t i = 0; i < n; ++i) {
      const bool kept = alive && bits[i] >= threshold;
      const T value = kept ? read<T>(from.data, from.dtype, (u + i) * from.stride) * scale : T(0);
      write<T>(to.data, to.dtype, (u + i) * to.stride, value);
    }
  }
}

void task(const void* job, int64_t, int index, int tasks) {
  const auto& a = *static_cast<const rnnk_dropout_args*>(job);
  const RandomBits draw = random_bits();
  for (int64_t t = a.seq_len * index / tasks; t < a.seq_len * (index + 1) / tasks; ++t) {
    for (int64_t b = 0; b < a.batch; ++b) {
      const bool alive = !a.lengths.data || t < length_at(a.lengths, b);
      if (a.in.dtype == RNNK_FLOAT64) mask_row<double>(a, draw, t, b, alive);
      else mask_row<float>(a, draw, t, b, alive);
    }
  }
}

}  // namespace

RandomBits random_bits() {
#if defined(__x86_64__)
  const uint32_t features = cpu_features();
  if (features & kAvx512f) return random_bits_avx512;
  if (features & kAvx2) return random_bits_avx2;
#endif
  return random_bits_of<kRandomBits>;
}

void dropout(const rnnk_dropout_args& a) {
  const bool small = a.seq_len * a.batch * a.hidden_size < costs::kSmallDropout;
  const int64_t tasks = std::min<int64_t>(a.seq_len, small ? 1 : team_size());
  team_run(static_cast<int>(std::max<int64_t>(tasks, 1)), 1, task, &a);
}

}  // namespace rnnk
