// The value types of NEON (AArch64): 4 floats or 2 doubles, 32 registers. No masked memory access: tails go lane by lane.
#pragma once
#include <arm_neon.h>

#include <cstdint>

#include "cells/hd.h"

namespace rnnk {
namespace {

struct VecF {
  using T = float;
  static constexpr int lanes = 4, registers = 32;
  static constexpr double cycles_per_fma = 0.5;
  float32x4_t v;

  RNNK_HD static VecF load(const T* p) { return {vld1q_f32(p)}; }
  RNNK_HD static VecF load_n(const T* p, int64_t n) {
    T lane[4] = {0, 0, 0, 0};
    for (int i = 0; i < 4 && i < n; ++i) lane[i] = p[i];
    return load(lane);
  }
  RNNK_HD void store(T* p) const { vst1q_f32(p, v); }
  RNNK_HD void store_n(T* p, int64_t n) const {
    T lane[4];
    store(lane);
    for (int i = 0; i < 4 && i < n; ++i) p[i] = lane[i];
  }
  RNNK_HD VecF first_n(int64_t n) const {
    T lane[4];
    store(lane);
    return load_n(lane, n);
  }
  // 16 bits a lane: the upper half of a float, which is a bfloat16
  RNNK_HD static VecF load_upper(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
  RNNK_HD void store_upper(uint16_t* p) const { vst1_u16(p, vshrn_n_u32(vreinterpretq_u32_f32(v), 16)); }
  RNNK_HD static VecF set1(T x) { return {vdupq_n_f32(x)}; }

  friend RNNK_HD VecF operator+(VecF a, VecF b) { return {vaddq_f32(a.v, b.v)}; }
  friend RNNK_HD VecF operator-(VecF a, VecF b) { return {vsubq_f32(a.v, b.v)}; }
  friend RNNK_HD VecF operator*(VecF a, VecF b) { return {vmulq_f32(a.v, b.v)}; }
  friend RNNK_HD VecF operator/(VecF a, VecF b) { return {vdivq_f32(a.v, b.v)}; }
  friend RNNK_HD VecF operator-(VecF a) { return {vnegq_f32(a.v)}; }
  friend RNNK_HD VecF fma(VecF a, VecF b, VecF c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
  friend RNNK_HD VecF reciprocal(VecF a) { return set1(1) / a; }
  friend RNNK_HD VecF fmin(VecF a, VecF b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
  friend RNNK_HD VecF fmax(VecF a, VecF b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
  friend RNNK_HD VecF rint(VecF a) { return {vrndnq_f32(a.v)}; }
  friend RNNK_HD VecF scale2(VecF x, VecF n) {
    const int32x4_t bits = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v), vdupq_n_s32(127)), 23);
    return {vmulq_f32(x.v, vreinterpretq_f32_s32(bits))};
  }
  friend RNNK_HD uint32x4_t less(VecF a, VecF b) { return vcltq_f32(a.v, b.v); }
  friend RNNK_HD VecF select(uint32x4_t m, VecF a, VecF b) { return {vbslq_f32(m, a.v, b.v)}; }
  // lo = a0 b0 a1 b1 ... of the lower halves, hi of the upper ones
  friend RNNK_HD void zip(VecF a, VecF b, VecF& lo, VecF& hi) { lo = {vzip1q_f32(a.v, b.v)}, hi = {vzip2q_f32(a.v, b.v)}; }
};

struct VecD {
  using T = double;
  static constexpr int lanes = 2, registers = 32;
  static constexpr double cycles_per_fma = 0.5;
  float64x2_t v;

  RNNK_HD static VecD load(const T* p) { return {vld1q_f64(p)}; }
  RNNK_HD static VecD load_n(const T* p, int64_t n) {
    const T lane[2] = {n > 0 ? p[0] : 0, n > 1 ? p[1] : 0};
    return load(lane);
  }
  RNNK_HD void store(T* p) const { vst1q_f64(p, v); }
  RNNK_HD void store_n(T* p, int64_t n) const {
    if (n > 0) p[0] = vgetq_lane_f64(v, 0);
    if (n > 1) p[1] = vgetq_lane_f64(v, 1);
  }
  RNNK_HD VecD first_n(int64_t n) const {
    T lane[2];
    store(lane);
    return load_n(lane, n);
  }
  RNNK_HD static VecD set1(T x) { return {vdupq_n_f64(x)}; }

  friend RNNK_HD VecD operator+(VecD a, VecD b) { return {vaddq_f64(a.v, b.v)}; }
  friend RNNK_HD VecD operator-(VecD a, VecD b) { return {vsubq_f64(a.v, b.v)}; }
  friend RNNK_HD VecD operator*(VecD a, VecD b) { return {vmulq_f64(a.v, b.v)}; }
  friend RNNK_HD VecD operator/(VecD a, VecD b) { return {vdivq_f64(a.v, b.v)}; }
  friend RNNK_HD VecD operator-(VecD a) { return {vnegq_f64(a.v)}; }
  friend RNNK_HD VecD fma(VecD a, VecD b, VecD c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
  friend RNNK_HD VecD reciprocal(VecD a) { return set1(1) / a; }
  friend RNNK_HD VecD fmin(VecD a, VecD b) { return {vbslq_f64(vcltq_f64(a.v, b.v), a.v, b.v)}; }
  friend RNNK_HD VecD fmax(VecD a, VecD b) { return {vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v)}; }
  friend RNNK_HD VecD rint(VecD a) { return {vrndnq_f64(a.v)}; }
  friend RNNK_HD VecD scale2(VecD x, VecD n) {
    const int64x2_t bits = vshlq_n_s64(vaddq_s64(vcvtq_s64_f64(n.v), vdupq_n_s64(1023)), 52);
    return {vmulq_f64(x.v, vreinterpretq_f64_s64(bits))};
  }
  friend RNNK_HD uint64x2_t less(VecD a, VecD b) { return vcltq_f64(a.v, b.v); }
  friend RNNK_HD VecD select(uint64x2_t m, VecD a, VecD b) { return {vbslq_f64(m, a.v, b.v)}; }
  friend RNNK_HD void zip(VecD a, VecD b, VecD& lo, VecD& hi) { lo = {vzip1q_f64(a.v, b.v)}, hi = {vzip2q_f64(a.v, b.v)}; }
};

}  // namespace

}  // namespace rnnk
