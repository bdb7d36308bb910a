// Eight sums of AVX2.
#pragma once
#include "cpu/isa/avx2_vec.h"

namespace rnnk {
namespace {

struct VecI {
  using T = int32_t;
  static constexpr int lanes = 8, registers = 16;
  __m256i v;

  RNNK_HD static VecI load(const T* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  RNNK_HD void store(T* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  RNNK_HD static VecI set1(T x) { return {_mm256_set1_epi32(x)}; }
  friend RNNK_HD VecI operator+(VecI a, VecI b) { return {_mm256_add_epi32(a.v, b.v)}; }
};

struct Bytes {
  using V = VecI;
  using F = VecF;
  RNNK_HD static __m256i four(const uint8_t* a) {
    int word;
    __builtin_memcpy(&word, a, sizeof word);
    return _mm256_set1_epi32(word);
  }
  RNNK_HD static __m256i load(const int8_t* w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)); }
  static void lower_bytes(VecF v, uint8_t* to) {
    const __m256i first = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1,
                                           -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_castps_si256(v.v), first);
    const int64_t eight =
        _mm_cvtsi128_si64(_mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
    __builtin_memcpy(to, &eight, sizeof eight);
  }
  RNNK_HD static VecF to_float(VecI sum) { return {_mm256_cvtepi32_ps(sum.v)}; }
};

}  // namespace
}  // namespace rnnk
