// random_words() against philox(), in the instruction set this is compiled for; and where the machine's own choice is
// linked in, random_bits(). Prints what it compared.
#include <cstdio>
#include <cstring>

#include "core/random_bits.h"

using namespace rnnk;

template <int W>
int wrong() {
  int count = 0;
  for (uint32_t k = 0; k < 5000; ++k) {
    // Counters and keys over all their bits; elements pass 2^32 within a vector.
    const Counter c{k * 0x9E3779B97F4A7C15u, k * 7u, ~k, k * 0x85EBCA6Bu, 0xfffffff0u + k % 32};
    uint32_t wanted[4][W], got[4][W];
    philox(c, wanted);
    random_words(c, got);
    count += std::memcmp(wanted, got, sizeof got) != 0;
  }
  return count;
}

int main() {
  const int count = wrong<1>() + wrong<2>() + wrong<4>() + wrong<8>() + wrong<16>();
#if defined(__AVX512F__)
  const char* const with = "AVX-512";
#elif defined(__AVX2__)
  const char* const with = "AVX2";
#else
  const char* const with = "plain";
#endif
  std::printf("%s: %d wrong\n", with, count);
  return count != 0;
}
