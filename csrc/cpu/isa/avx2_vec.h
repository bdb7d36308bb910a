// The value types of AVX2: 8 floats or 4 doubles, 16 registers; tails by sign-bit masks.
//
// accumulate() is written in assembly so that a sum stays in its register. From the intrinsic GCC makes the forms that overwrite an
// operand, copies sums about and keeps one of twelve in memory: a tile of 6 x 2 vectors ran at 88 % of the multiply-adds' rate, and runs at 96 %.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "cells/hd.h"
#include "cpu/unroll.h"

namespace rnnk {
namespace {

// lanes before n have their sign bit set
RNNK_HD __m256i mask32(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
RNNK_HD __m256i mask64(int64_t n) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)); }

struct VecF {
  using T = float;
  static constexpr int lanes = 8, registers = 16;
  static constexpr double cycles_per_fma = 0.5;
  __m256 v;

  RNNK_HD static VecF load(const T* p) { return {_mm256_loadu_ps(p)}; }
  RNNK_HD static VecF load_n(const T* p, int64_t n) { return {_mm256_maskload_ps(p, mask32(n))}; }
  RNNK_HD void store(T* p) const { _mm256_storeu_ps(p, v); }
  RNNK_HD void store_n(T* p, int64_t n) const {
    if (n >= lanes) store(p);  // a masked store is some 40 operations on AMD
    else _mm256_maskstore_ps(p, mask32(n), v);
  }
  RNNK_HD VecF first_n(int64_t n) const { return {_mm256_and_ps(v, _mm256_castsi256_ps(mask32(n)))}; }
  // 16 bits a lane: the upper half of a float, which is a bfloat16
  RNNK_HD static VecF load_upper(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  RNNK_HD void store_upper(uint16_t* p) const {
    const __m256i upper = _mm256_srli_epi32(_mm256_castps_si256(v), 16);
    const __m256i both =
        _mm256_permute4x64_epi64(_mm256_packus_epi32(upper, upper), 8);  // words of both halves to the lower
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(both));
  }
  RNNK_HD static VecF set1(T x) { return {_mm256_set1_ps(x)}; }

  friend RNNK_HD VecF operator+(VecF a, VecF b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend RNNK_HD VecF operator-(VecF a, VecF b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend RNNK_HD VecF operator*(VecF a, VecF b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend RNNK_HD VecF operator/(VecF a, VecF b) { return {_mm256_div_ps(a.v, b.v)}; }
  friend RNNK_HD VecF operator-(VecF a) { return {-a.v}; }
  friend RNNK_HD VecF fma(VecF a, VecF b, VecF c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  friend RNNK_HD VecF accumulate(VecF x, VecF w, VecF sum) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum.v) : "x"(x.v), "x"(w.v));
    return sum;
  }
  friend RNNK_HD VecF reciprocal(VecF a) { return set1(1) / a; }
  friend RNNK_HD VecF fmin(VecF a, VecF b) { return {_mm256_min_ps(a.v, b.v)}; }
  friend RNNK_HD VecF fmax(VecF a, VecF b) { return {_mm256_max_ps(a.v, b.v)}; }
  friend RNNK_HD VecF rint(VecF a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  friend RNNK_HD VecF scale2(VecF x, VecF n) {
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
    return {_mm256_mul_ps(x.v, _mm256_castsi256_ps(bits))};
  }
  friend RNNK_HD __m256 less(VecF a, VecF b) { return _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ); }
  friend RNNK_HD VecF select(__m256 m, VecF a, VecF b) { return {_mm256_blendv_ps(b.v, a.v, m)}; }
  // lo = a0 b0 a1 b1 ... of the lower halves, hi of the upper ones
  friend RNNK_HD void zip(VecF a, VecF b, VecF& lo, VecF& hi) {
    const __m256 even = _mm256_unpacklo_ps(a.v, b.v), odd = _mm256_unpackhi_ps(a.v, b.v);
    lo = {_mm256_permute2f128_ps(even, odd, 0x20)};
    hi = {_mm256_permute2f128_ps(even, odd, 0x31)};
  }
  // Loads put rows i and i + 4 into the halves of a register; within the halves 4 x 4 are transposed: 16 shuffles, where zip takes 48.
  template <class RowOf>
  RNNK_HD static void load_columns(const RowOf& row, VecF (&out)[lanes]) {
    RNNK_UNROLL for (int k = 0; k < lanes; k += 4) {
      __m256 part[4];
      RNNK_UNROLL for (int i = 0; i < 4; ++i) {
        part[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row(i) + k)), _mm_loadu_ps(row(i + 4) + k), 1);
      }
      const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(part[0], part[1]));
      const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(part[0], part[1]));
      const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(part[2], part[3]));
      const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(part[2], part[3]));
      out[k] = {_mm256_castpd_ps(_mm256_unpacklo_pd(a, c))}, out[k + 1] = {_mm256_castpd_ps(_mm256_unpackhi_pd(a, c))};
      out[k + 2] = {_mm256_castpd_ps(_mm256_unpacklo_pd(b, d))}, out[k + 3] = {_mm256_castpd_ps(_mm256_unpackhi_pd(b, d))};
    }
  }
};

struct VecD {
  using T = double;
  static constexpr int lanes = 4, registers = 16;
  static constexpr double cycles_per_fma = 0.5;
  __m256d v;

  RNNK_HD static VecD load(const T* p) { return {_mm256_loadu_pd(p)}; }
  RNNK_HD static VecD load_n(const T* p, int64_t n) { return {_mm256_maskload_pd(p, mask64(n))}; }
  RNNK_HD void store(T* p) const { _mm256_storeu_pd(p, v); }
  RNNK_HD void store_n(T* p, int64_t n) const {
    if (n >= lanes) store(p);
    else _mm256_maskstore_pd(p, mask64(n), v);
  }
  RNNK_HD VecD first_n(int64_t n) const { return {_mm256_and_pd(v, _mm256_castsi256_pd(mask64(n)))}; }
  RNNK_HD static VecD set1(T x) { return {_mm256_set1_pd(x)}; }

  friend RNNK_HD VecD operator+(VecD a, VecD b) { return {_mm256_add_pd(a.v, b.v)}; }
  friend RNNK_HD VecD operator-(VecD a, VecD b) { return {_mm256_sub_pd(a.v, b.v)}; }
  friend RNNK_HD VecD operator*(VecD a, VecD b) { return {_mm256_mul_pd(a.v, b.v)}; }
  friend RNNK_HD VecD operator/(VecD a, VecD b) { return {_mm256_div_pd(a.v, b.v)}; }
  friend RNNK_HD VecD operator-(VecD a) { return {-a.v}; }
  friend RNNK_HD VecD fma(VecD a, VecD b, VecD c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
  friend RNNK_HD VecD accumulate(VecD x, VecD w, VecD sum) {
    __asm__("vfmadd231pd %2, %1, %0" : "+x"(sum.v) : "x"(x.v), "x"(w.v));
    return sum;
  }
  friend RNNK_HD VecD reciprocal(VecD a) { return set1(1) / a; }
  friend RNNK_HD VecD fmin(VecD a, VecD b) { return {_mm256_min_pd(a.v, b.v)}; }
  friend RNNK_HD VecD fmax(VecD a, VecD b) { return {_mm256_max_pd(a.v, b.v)}; }
  friend RNNK_HD VecD rint(VecD a) { return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  friend RNNK_HD VecD scale2(VecD x, VecD n) {
    const __m256i wide = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n.v));
    const __m256i bits = _mm256_slli_epi64(_mm256_add_epi64(wide, _mm256_set1_epi64x(1023)), 52);
    return {_mm256_mul_pd(x.v, _mm256_castsi256_pd(bits))};
  }
  friend RNNK_HD __m256d less(VecD a, VecD b) { return _mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ); }
  friend RNNK_HD VecD select(__m256d m, VecD a, VecD b) { return {_mm256_blendv_pd(b.v, a.v, m)}; }
  friend RNNK_HD void zip(VecD a, VecD b, VecD& lo, VecD& hi) {
    const __m256d even = _mm256_unpacklo_pd(a.v, b.v), odd = _mm256_unpackhi_pd(a.v, b.v);
    lo = {_mm256_permute2f128_pd(even, odd, 0x20)};
    hi = {_mm256_permute2f128_pd(even, odd, 0x31)};
  }
  template <class RowOf>
  RNNK_HD static void load_columns(const RowOf& row, VecD (&out)[lanes]) {  // as VecF's
    RNNK_UNROLL for (int k = 0; k < lanes; k += 2) {
      __m256d part[2];
      RNNK_UNROLL for (int i = 0; i < 2; ++i) {
        part[i] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(row(i) + k)), _mm_loadu_pd(row(i + 2) + k), 1);
      }
      out[k] = {_mm256_unpacklo_pd(part[0], part[1])}, out[k + 1] = {_mm256_unpackhi_pd(part[0], part[1])};
    }
  }
};

}  // namespace

}  // namespace rnnk
