// The value types of AVX-512: 16 floats or 8 doubles, 32 registers; tails by mask registers.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "cells/hd.h"
#include "cpu/unroll.h"

namespace rnnk {
namespace {

struct VecF {
  using T = float;
  static constexpr int lanes = 16, registers = 32;
  static constexpr double cycles_per_fma = 0.5;
  __m512 v;

  RNNK_HD static __mmask16 mask(int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1); }
  RNNK_HD static VecF load(const T* p) { return {_mm512_loadu_ps(p)}; }
  RNNK_HD static VecF load_n(const T* p, int64_t n) { return {_mm512_maskz_loadu_ps(mask(n), p)}; }
  RNNK_HD void store(T* p) const { _mm512_storeu_ps(p, v); }
  RNNK_HD void store_n(T* p, int64_t n) const { _mm512_mask_storeu_ps(p, mask(n), v); }
  RNNK_HD VecF first_n(int64_t n) const { return {_mm512_maskz_mov_ps(mask(n), v)}; }
  // 16 bits a lane: the upper half of a float, which is a bfloat16
  RNNK_HD static VecF load_upper(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
  RNNK_HD void store_upper(uint16_t* p) const {
    const __m512i upper = _mm512_srli_epi32(_mm512_castps_si512(v), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(upper));
  }
  RNNK_HD static VecF set1(T x) { return {_mm512_set1_ps(x)}; }

  friend RNNK_HD VecF operator+(VecF a, VecF b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend RNNK_HD VecF operator-(VecF a, VecF b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend RNNK_HD VecF operator*(VecF a, VecF b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend RNNK_HD VecF operator/(VecF a, VecF b) { return {_mm512_div_ps(a.v, b.v)}; }
  friend RNNK_HD VecF operator-(VecF a) { return {-a.v}; }
  friend RNNK_HD VecF fma(VecF a, VecF b, VecF c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  // 14 bits doubled by one Newton step: a division takes four times as long.
  friend RNNK_HD VecF reciprocal(VecF a) {
    const VecF y{_mm512_rcp14_ps(a.v)};
    return fma(y, fma(-a, y, set1(1)), y);
  }
  friend RNNK_HD VecF fmin(VecF a, VecF b) { return {_mm512_min_ps(a.v, b.v)}; }
  friend RNNK_HD VecF fmax(VecF a, VecF b) { return {_mm512_max_ps(a.v, b.v)}; }
  friend RNNK_HD VecF rint(VecF a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  friend RNNK_HD VecF scale2(VecF x, VecF n) { return {_mm512_scalef_ps(x.v, n.v)}; }
  friend RNNK_HD __mmask16 less(VecF a, VecF b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
  friend RNNK_HD VecF select(__mmask16 m, VecF a, VecF b) { return {_mm512_mask_blend_ps(m, b.v, a.v)}; }
  // lo = a0 b0 a1 b1 ... of the lower halves, hi of the upper ones
  friend RNNK_HD void zip(VecF a, VecF b, VecF& lo, VecF& hi) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    lo = {_mm512_permutex2var_ps(a.v, low, b.v)};
    hi = {_mm512_permutex2var_ps(a.v, _mm512_add_epi32(low, _mm512_set1_epi32(8)), b.v)};
  }
  // First 4 x 4 within the quarters of registers, then whole quarters: of the 64 shuffles half stay within a quarter, and none needs
  // an index, which made this 1.4 times as fast as zip (Zen 4).
  template <class RowOf>
  RNNK_HD static void load_columns(const RowOf& row, VecF (&out)[lanes]) {
    __m512 part[lanes];  // 4 g + k: column k of rows 4 g to 4 g + 3, column 4 + k, 8 + k, 12 + k
    RNNK_UNROLL for (int g = 0; g < lanes; g += 4) {
      __m512 r[4];
      RNNK_UNROLL for (int i = 0; i < 4; ++i) r[i] = _mm512_loadu_ps(row(g + i));
      const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1]));
      const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
      const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3]));
      const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
      part[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)), part[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
      part[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)), part[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    RNNK_UNROLL for (int k = 0; k < 4; ++k) {
      const __m512 a = _mm512_shuffle_f32x4(part[k], part[k + 4], 0x88),
                   b = _mm512_shuffle_f32x4(part[k], part[k + 4], 0xdd);
      const __m512 c = _mm512_shuffle_f32x4(part[k + 8], part[k + 12], 0x88);
      const __m512 d = _mm512_shuffle_f32x4(part[k + 8], part[k + 12], 0xdd);
      out[k] = {_mm512_shuffle_f32x4(a, c, 0x88)}, out[k + 4] = {_mm512_shuffle_f32x4(b, d, 0x88)};
      out[k + 8] = {_mm512_shuffle_f32x4(a, c, 0xdd)}, out[k + 12] = {_mm512_shuffle_f32x4(b, d, 0xdd)};
    }
  }
};

struct VecD {
  using T = double;
  static constexpr int lanes = 8, registers = 32;
  static constexpr double cycles_per_fma = 0.5;
  __m512d v;

  RNNK_HD static __mmask8 mask(int64_t n) { return static_cast<__mmask8>(n >= 8 ? 0xff : (1u << n) - 1); }
  RNNK_HD static VecD load(const T* p) { return {_mm512_loadu_pd(p)}; }
  RNNK_HD static VecD load_n(const T* p, int64_t n) { return {_mm512_maskz_loadu_pd(mask(n), p)}; }
  RNNK_HD void store(T* p) const { _mm512_storeu_pd(p, v); }
  RNNK_HD void store_n(T* p, int64_t n) const { _mm512_mask_storeu_pd(p, mask(n), v); }
  RNNK_HD VecD first_n(int64_t n) const { return {_mm512_maskz_mov_pd(mask(n), v)}; }
  RNNK_HD static VecD set1(T x) { return {_mm512_set1_pd(x)}; }

  friend RNNK_HD VecD operator+(VecD a, VecD b) { return {_mm512_add_pd(a.v, b.v)}; }
  friend RNNK_HD VecD operator-(VecD a, VecD b) { return {_mm512_sub_pd(a.v, b.v)}; }
  friend RNNK_HD VecD operator*(VecD a, VecD b) { return {_mm512_mul_pd(a.v, b.v)}; }
  friend RNNK_HD VecD operator/(VecD a, VecD b) { return {_mm512_div_pd(a.v, b.v)}; }
  friend RNNK_HD VecD operator-(VecD a) { return {-a.v}; }
  friend RNNK_HD VecD fma(VecD a, VecD b, VecD c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
  friend RNNK_HD VecD reciprocal(VecD a) { return set1(1) / a; }
  friend RNNK_HD VecD fmin(VecD a, VecD b) { return {_mm512_min_pd(a.v, b.v)}; }
  friend RNNK_HD VecD fmax(VecD a, VecD b) { return {_mm512_max_pd(a.v, b.v)}; }
  friend RNNK_HD VecD rint(VecD a) { return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  friend RNNK_HD VecD scale2(VecD x, VecD n) { return {_mm512_scalef_pd(x.v, n.v)}; }
  friend RNNK_HD __mmask8 less(VecD a, VecD b) { return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ); }
  friend RNNK_HD VecD select(__mmask8 m, VecD a, VecD b) { return {_mm512_mask_blend_pd(m, b.v, a.v)}; }
  friend RNNK_HD void zip(VecD a, VecD b, VecD& lo, VecD& hi) {
    const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    lo = {_mm512_permutex2var_pd(a.v, low, b.v)};
    hi = {_mm512_permutex2var_pd(a.v, _mm512_add_epi64(low, _mm512_set1_epi64(4)), b.v)};
  }
};

}  // namespace
}  // namespace rnnk
