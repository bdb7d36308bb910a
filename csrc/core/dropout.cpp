// The counter-based mask between layers: Philox4x32-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// 2011). Word 0 of the block with key = seed and counter = (call, stream, t, row * H + unit) belongs to one element, so
// forward, backward and every device draw the same mask however the work is split.
#include "core/dropout.h"

#include <algorithm>
#include <cmath>

#include "core/storage.h"
#include "core/team.h"

namespace rnnk {
namespace {

constexpr int kBatch = 16;  // elements per round of the vectorisable loop

// Word 0 for counters (call, stream, t, unit + i), i < kBatch.
void philox(uint32_t call, uint32_t stream, uint32_t t, uint32_t unit, uint64_t seed, uint32_t (&out)[kBatch]) {
  uint32_t c0[kBatch], c1[kBatch], c2[kBatch], c3[kBatch];
  for (int i = 0; i < kBatch; ++i) {
    c0[i] = call, c1[i] = stream, c2[i] = t, c3[i] = unit + static_cast<uint32_t>(i);
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBatch; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0[i], p1 = uint64_t{0xCD9E8D57u} * c2[i];
      const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<uint32_t>(p1), c3[i] = static_cast<uint32_t>(p0);
      c0[i] = n0, c2[i] = n2;
    }
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kBatch; ++i) out[i] = c0[i];
}

template <class T>
void mask_row(const rnnk_dropout_args& a, int64_t t, int64_t b, bool alive) {
  const Row from = row3(a.in, t, b), to = row3(a.out, t, b);
  // kept when bits >= floor(p 2^32); p = 1 drops everything, which no 32-bit threshold can say
  const uint64_t threshold = static_cast<uint64_t>(std::floor(a.p * 4294967296.0));
  const T scale = static_cast<T>(a.p < 1 ? 1 / (1 - a.p) : 0);
  for (int64_t u = 0; u < a.hidden_size; u += kBatch) {
    uint32_t bits[kBatch];
    if (alive) {
      philox(a.call, a.stream, static_cast<uint32_t>(t), static_cast<uint32_t>(b * a.hidden_size + u), a.seed, bits);
    }
    for (int64_t i = 0; i < kBatch && u + i < a.hidden_size; ++i) {
      const bool kept = alive && bits[i] >= threshold;
      const T value = kept ? read<T>(from.data, from.dtype, (u + i) * from.stride) * scale : T(0);
      write<T>(to.data, to.dtype, (u + i) * to.stride, value);
    }
  }
}

void task(const void* job, int64_t, int index, int tasks) {
  const auto& a = *static_cast<const rnnk_dropout_args*>(job);
  for (int64_t t = a.seq_len * index / tasks; t < a.seq_len * (index + 1) / tasks; ++t) {
    for (int64_t b = 0; b < a.batch; ++b) {
      const bool alive = !a.lengths || t < a.lengths[b];
      if (a.in.dtype == RNNK_FLOAT64) mask_row<double>(a, t, b, alive);
      else mask_row<float>(a, t, b, alive);
    }
  }
}

}  // namespace

void dropout(const rnnk_dropout_args& a) {
  // Below about 20 us of work (1 ns an element) a second thread does not pay.
  const bool small = a.seq_len * a.batch * a.hidden_size < 20000;
  const int64_t tasks = std::min<int64_t>(a.seq_len, small ? 1 : team_size());
  team_run(static_cast<int>(std::max<int64_t>(tasks, 1)), 1, task, &a);
}

}  // namespace rnnk
