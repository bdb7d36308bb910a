// 64 bytes times 64 bytes, four of them to a sum, in one instruction (VNNI).
#pragma once
#include "cpu/isa/avx512_vec.h"

#include "cpu/int8_walk.h"

namespace rnnk {
namespace {

struct VecI {
  using T = int32_t;
  static constexpr int lanes = 16, registers = 32;
  __m512i v;

  RNNK_HD static VecI load(const T* p) { return {_mm512_loadu_si512(p)}; }
  RNNK_HD void store(T* p) const { _mm512_storeu_si512(p, v); }
  RNNK_HD static VecI set1(T x) { return {_mm512_set1_epi32(x)}; }
  friend RNNK_HD VecI operator+(VecI a, VecI b) { return {_mm512_add_epi32(a.v, b.v)}; }
};

struct Dot {
  using V = VecI;
  using F = VecF;
  static constexpr bool offset = true;

  RNNK_HD static __m512i broadcast(const uint8_t* a) {
    int four;
    __builtin_memcpy(&four, a, sizeof four);
    return _mm512_set1_epi32(four);
  }
  RNNK_HD static __m512i load(const int8_t* w) { return _mm512_loadu_si512(w); }
  RNNK_HD static VecI mac(__m512i x, __m512i w, VecI sum) { return {_mm512_dpbusd_epi32(sum.v, x, w)}; }
  static void lower_bytes(VecF v, uint8_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_castps_si512(v.v)));
  }
  RNNK_HD static VecF to_float(VecI sum) { return {_mm512_cvtepi32_ps(sum.v)}; }
};

}  // namespace
}  // namespace rnnk
