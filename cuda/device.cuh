// Every intrinsic and every line of PTX that the kernels use, as thin functions; nothing else in cuda/ knows of them. Compiled
// with RNNK_SIMT the same names come from tests/cuda/simt/device.h, where a block is a set of fibers on the host, so that a kernel's
// own text is tested without a GPU.
//
// Kernels take one struct by value and shared memory only through shared(), and are started through launch() (runtime.h).
// Fragments are those of the PTX manual ("Matrix fragments for mma.m16n8k16"), g = lane / 4, t = lane % 4:
//   A (16 x K): rows g and g + 8     B (K x 8): column g     D (16 x 8): rows g, g, g + 8, g + 8, columns 2 t, 2 t + 1
#pragma once
#include <cstdint>

#include "cells/hd.h"

#if defined(RNNK_SIMT)
#include "simt/device.h"
#else

#define RNNK_GLOBAL __global__
#define RNNK_DEVICE __device__ __forceinline__
#define RNNK_BOUNDS(...) __launch_bounds__(__VA_ARGS__)  // threads, and how many blocks share a multiprocessor
#define RNNK_UNROLL _Pragma("unroll")                    // of loops over what must stay in registers

namespace rnnk {
namespace gpu {

RNNK_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
RNNK_DEVICE int threads() { return static_cast<int>(blockDim.x); }
RNNK_DEVICE int lane() { return thread() & 31; }
RNNK_DEVICE int warp() { return thread() >> 5; }
RNNK_DEVICE int64_t block_x() { return blockIdx.x; }
RNNK_DEVICE int64_t block_y() { return blockIdx.y; }
RNNK_DEVICE int64_t blocks_x() { return gridDim.x; }
RNNK_DEVICE int64_t blocks_y() { return gridDim.y; }

// The block's dynamic shared memory, 128-byte aligned.
RNNK_DEVICE char* shared() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

RNNK_DEVICE void sync_block() { __syncthreads(); }
RNNK_DEVICE void sync_warp() { __syncwarp(); }
RNNK_DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
RNNK_DEVICE double shuffle_xor(double v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }

RNNK_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
RNNK_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
RNNK_DEVICE float reciprocal_of(float a) {  // to 1 ulp; results below 2^-126, of a above 2^126, are zero
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}
RNNK_DEVICE double reciprocal_of(double a) { return 1 / a; }
RNNK_DEVICE float power_of_2_near(float a) {  // 2^a to 2 ulp; overflows to infinity, and to zero where it is subnormal
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}

RNNK_DEVICE float from_half(uint16_t h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
RNNK_DEVICE uint16_t to_half(float f) {  // round half to even
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
// The operand bits of a float for mma_tf32: 10 bits of mantissa, round half away from zero.
RNNK_DEVICE uint32_t to_tf32(float f) {
  uint32_t u;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(f));
  return u;
}

// Four 8 x 8 matrices of 16-bit elements from shared memory. Lanes 8 i to 8 i + 7 pass the addresses of the rows (16 bytes
// each, aligned) of matrix i; every lane gets in r[i] elements 2 t, 2 t + 1 of row g of matrix i.
RNNK_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// d += a b. Sums in float.
RNNK_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {  // m16n8k16
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
RNNK_DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {  // m16n8k16
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
RNNK_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {  // m16n8k8
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 16 bytes, both aligned, from global to shared memory, in the background; they have arrived when the group they were
// committed in is among all but the last `pending` groups of this thread, and for the other threads after a barrier besides.
RNNK_DEVICE void copy_async(void* to_shared, const void* from_global) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from_global) : "memory");
}
RNNK_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Global memory that will be read soon, one line of it: a hint.
RNNK_DEVICE void prefetch(const void* from) { asm volatile("prefetch.global.L1 [%0];" ::"l"(from)); }
template <int pending>
RNNK_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace gpu
}  // namespace rnnk
#endif
