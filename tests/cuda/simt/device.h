// The twins of cuda/device.cuh on the host SIMT executor. A warp's operation costs one meeting: the last lane to come computes
// what all lanes get.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/storage.h"
#include "simt/calls.h"

#define RNNK_GLOBAL inline
#define RNNK_DEVICE inline __attribute__((always_inline))
#define RNNK_BOUNDS(...)
#define RNNK_UNROLL

namespace rnnk {
namespace gpu {

// What the running fiber is. These are functions of their own, since what kernels' text reads is watched (races.h).
[[gnu::const]] int thread();
[[gnu::const]] int threads();
RNNK_DEVICE int lane() { return thread() & 31; }
RNNK_DEVICE int warp() { return thread() >> 5; }
[[gnu::const]] int64_t block_x();
[[gnu::const]] int64_t block_y();
[[gnu::const]] int64_t blocks_x();
[[gnu::const]] int64_t blocks_y();

[[gnu::const]] char* shared();

inline void sync_block() { simt::sync_block(); }
void sync_warp();
float shuffle_xor(float v, int mask);
double shuffle_xor(double v, int mask);

RNNK_DEVICE float fused(float a, float b, float c) { return std::fma(a, b, c); }
RNNK_DEVICE double fused(double a, double b, double c) { return std::fma(a, b, c); }
RNNK_DEVICE float reciprocal_of(float a) { return 1 / a; }
RNNK_DEVICE double reciprocal_of(double a) { return 1 / a; }
RNNK_DEVICE float power_of_2_near(float a) { return std::exp2(a); }

RNNK_DEVICE float from_half(uint16_t h) { return half_to_float(h); }
RNNK_DEVICE uint16_t to_half(float f) { return float_to_half(f); }
RNNK_DEVICE uint32_t to_tf32(float f) {
  const uint32_t u = float_to_bits(f);
  const bool finite = (u & 0x7f800000u) != 0x7f800000u;
  return finite ? (u + 0x1000u) & 0xffffe000u : (u & 0x7fffffu) ? 0x7fffffffu : u;
}

void ldmatrix_x4(uint32_t (&r)[4], const void* row);
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// The bytes are read and written at once or when they are waited for, by chance: both a missing wait and a target that
// others still read show.
void copy_async(void* to_shared, const void* from_global);
void copy_commit();
void copy_arrive(int pending);
RNNK_DEVICE void prefetch(const void*) {}
template <int pending>
RNNK_DEVICE void copy_wait() {
  copy_arrive(pending);
}

}  // namespace gpu
}  // namespace rnnk
