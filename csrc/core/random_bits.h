// Word 0 of philox() for elements beside each other, compiled for several instruction sets: the mask between layers.
#pragma once
#include "core/random_words.h"

namespace rnnk {

constexpr int64_t kRandomBits = 16;  // how many are drawn at a time

// A Counter that files of different instruction sets hand each other (what they define for themselves is none of the others').
struct RandomAt {
  uint64_t seed;
  uint32_t call, stream, t, element;
};
// bits[i] of element at.element + i, for n of them; room for n rounded up to kRandomBits.
using RandomBits = void (*)(const RandomAt& at, int64_t n, uint32_t* bits);
// The one for this machine.
RandomBits random_bits();

// One instruction set's; each is compiled with its own flags.
void random_bits_avx2(const RandomAt& at, int64_t n, uint32_t* bits);
void random_bits_avx512(const RandomAt& at, int64_t n, uint32_t* bits);

namespace {  // internal linkage: compiled for different instruction sets

template <int W>
void random_bits_of(const RandomAt& at, int64_t n, uint32_t* bits) {
  Counter c{at.seed, at.call, at.stream, at.t, at.element};
  for (int64_t i = 0; i < n; i += W, c.element += W) {
    uint32_t words[4][W];
    random_words(c, words);
    for (int lane = 0; lane < W; ++lane) bits[i + lane] = words[0][lane];
  }
}

}  // namespace
}  // namespace rnnk
