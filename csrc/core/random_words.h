// philox() of a vector's lanes with the instruction set that the file is compiled for: the same words. Compilers make its 64-bit
// products of whole 64-bit ones, three instructions each, and keep the words in memory between rounds.
#pragma once
#include "core/philox.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace rnnk {
namespace {

#if defined(__AVX512F__)
struct Words512 {
  using Register = __m512i;
  static constexpr int lanes = 16;
  RNNK_HD static Register same(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  RNNK_HD static Register count() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  RNNK_HD static Register add(Register a, Register b) { return _mm512_add_epi32(a, b); }
  RNNK_HD static Register flip(Register a, Register b, Register c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  // Upper and lower 32 bits of every lane's product.
  RNNK_HD static void multiply(Register a, Register b, Register& high, Register& low) {
    const Register even = _mm512_mul_epu32(a, b), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), b);
    high = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
    low = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
  }
  RNNK_HD static void store(uint32_t* to, Register a) { _mm512_storeu_si512(to, a); }
};
#endif

#if defined(__AVX2__)
struct Words256 {
  using Register = __m256i;
  static constexpr int lanes = 8;
  RNNK_HD static Register same(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  RNNK_HD static Register count() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  RNNK_HD static Register add(Register a, Register b) { return _mm256_add_epi32(a, b); }
  RNNK_HD static Register flip(Register a, Register b, Register c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
  RNNK_HD static void multiply(Register a, Register b, Register& high, Register& low) {
    const Register even = _mm256_mul_epu32(a, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  }
  RNNK_HD static void store(uint32_t* to, Register a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a); }
};

template <class R>
RNNK_HD void philox_of(const Counter& c, uint32_t (&words)[4][R::lanes]) {
  typename R::Register w0 = R::same(c.call), w1 = R::same(c.stream), w2 = R::same(c.t),
                       w3 = R::add(R::same(c.element), R::count());
  const typename R::Register m0 = R::same(0xD2511F53u), m1 = R::same(0xCD9E8D57u);
  uint32_t k0 = static_cast<uint32_t>(c.seed), k1 = static_cast<uint32_t>(c.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    typename R::Register high0, low0, high1, low1;
    R::multiply(w0, m0, high0, low0);
    R::multiply(w2, m1, high1, low1);
    w0 = R::flip(high1, w1, R::same(k0)), w1 = low1;
    w2 = R::flip(high0, w3, R::same(k1)), w3 = low0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  R::store(words[0], w0), R::store(words[1], w1), R::store(words[2], w2), R::store(words[3], w3);
}
#endif

template <int W>
RNNK_HD void random_words(const Counter& c, uint32_t (&words)[4][W]) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return philox_of<Words512>(c, words);
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) return philox_of<Words256>(c, words);
#endif
  philox(c, words);
}

}  // namespace
}  // namespace rnnk
