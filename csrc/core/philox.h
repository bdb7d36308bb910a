// Philox4x32-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), many counters at a time in loops that
// compilers vectorise. Key = seed, counter = (call, stream, t, element): so every mask depends on what it is for alone, and
// forward, backward and every device draw the same however the work is split. Words of a block: 0 dropout between layers,
// 1 zoneout of h, 2 zoneout of c, 3 recurrent dropout (at t = 0).
#pragma once
#include <cstdint>

#include "cells/hd.h"

namespace rnnk {
namespace {  // internal linkage: compiled for different instruction sets

struct Counter {
  uint64_t seed;
  uint32_t call, stream, t, element;
};

// words[w][i] of the block of element `c.element + i`.
template <int N>
RNNK_HD void philox(const Counter& c, uint32_t (&words)[4][N]) {
  for (int i = 0; i < N; ++i) {
    words[0][i] = c.call, words[1][i] = c.stream, words[2][i] = c.t, words[3][i] = c.element + static_cast<uint32_t>(i);
  }
  uint32_t k0 = static_cast<uint32_t>(c.seed), k1 = static_cast<uint32_t>(c.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < N; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * words[0][i], p1 = uint64_t{0xCD9E8D57u} * words[2][i];
      const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ words[1][i] ^ k0;
      const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ words[3][i] ^ k1;
      words[1][i] = static_cast<uint32_t>(p1), words[3][i] = static_cast<uint32_t>(p0);
      words[0][i] = n0, words[2][i] = n2;
    }
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
}

// Happens to an element when its 32 bits are below this; p = 1 always, which no 32-bit threshold could say.
RNNK_HD uint64_t chance(double p) { return static_cast<uint64_t>(p * 4294967296.0); }

}  // namespace
}  // namespace rnnk
