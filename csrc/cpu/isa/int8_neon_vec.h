// Four sums of NEON.
#pragma once
#include "cpu/isa/neon_vec.h"

namespace rnnk {
namespace {

struct VecI {
  using T = int32_t;
  static constexpr int lanes = 4, registers = 32;
  int32x4_t v;

  RNNK_HD static VecI load(const T* p) { return {vld1q_s32(p)}; }
  RNNK_HD void store(T* p) const { vst1q_s32(p, v); }
  RNNK_HD static VecI set1(T x) { return {vdupq_n_s32(x)}; }
  friend RNNK_HD VecI operator+(VecI a, VecI b) { return {vaddq_s32(a.v, b.v)}; }
};

struct Bytes {
  using V = VecI;
  using F = VecF;
  static constexpr bool offset = false;
  RNNK_HD static int8x16_t broadcast(const uint8_t* a) {
    uint32_t word;
    __builtin_memcpy(&word, a, sizeof word);
    return vreinterpretq_s8_u32(vdupq_n_u32(word ^ 0x80808080u));  // q + 128 with its upper bit turned is q
  }
  RNNK_HD static int8x16_t load(const int8_t* w) { return vld1q_s8(w); }
  static void lower_bytes(VecF v, uint8_t* to) {
    const uint16x4_t half = vmovn_u32(vreinterpretq_u32_f32(v.v));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(half, half))), 0);
    __builtin_memcpy(to, &four, sizeof four);
  }
  RNNK_HD static VecF to_float(VecI sum) { return {vcvtq_f32_s32(sum.v)}; }
};

}  // namespace
}  // namespace rnnk
