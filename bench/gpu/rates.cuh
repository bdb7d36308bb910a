// M6: how fast every SM takes in the same bytes from the second-level cache. M7: how fast the tensor cores multiply when the
// weights stay in registers: mma.sync, and wgmma with A in registers and B in shared memory.
#pragma once
#include <cuda_bf16.h>

#include "measure.cuh"

constexpr int kReads = 200;
constexpr int kProducts = 512;  // rounds of the loops below

// Every block reads data [words] over and over, eight 16-byte loads of a thread in flight. words: a multiple of 8 * blockDim.
__global__ void ingest(const uint4* data, int words, unsigned* sink, Report report) {
  const Span span;
  const int threads = static_cast<int>(blockDim.x);
  unsigned sum = 0;
  for (int i = 0; i < kReads; ++i)
    for (int at = static_cast<int>(threadIdx.x); at < words; at += 8 * threads) {
      uint4 v[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] = load_relaxed(data + at + j * threads);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
  if (sum == 0x12345678u) *sink = sum;  // nobody knows that this does not happen: the loads stay
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x == 0) span.end(report);
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 8 products with different A of a thread's registers into each of `sums` independent sums, kProducts times.
// given [32 * (8 * 4 + 2)]: random operand bits of small numbers; out [gridDim.x * blockDim.x].
template <bool tf32, int sums>
__global__ void mma_rate(const unsigned* given, float* out, Report report) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  unsigned a[8][4], b[2];
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) a[i][j] = given[lane * 34 + i * 4 + j];
  b[0] = given[lane * 34 + 32];
  b[1] = given[lane * 34 + 33];
  float d[sums][4] = {};
  __syncthreads();
  const Span span;
  for (int round = 0; round < kProducts; ++round)
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int s = 0; s < sums; ++s) {
        if constexpr (tf32) mma_tf32(d[s], a[i], b);
        else mma_bf16(d[s], a[i], b);
      }
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x == 0) span.end(report);
  float total = 0;
#pragma unroll
  for (int s = 0; s < sums; ++s) total += d[s][0] + d[s][1] + d[s][2] + d[s][3];
  out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

// ---- wgmma: sm_90a only --------------------------------------------------------------------------------------------------

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define RATES_WGMMA 1
#endif

// The descriptor of B [N][16] in shared memory without swizzle: 8 x 8 matrices of 128 contiguous bytes, the two along K one
// after the other (leading offset 128), groups of 8 rows after each other (stride 256); offsets count 16 bytes.
__device__ __forceinline__ uint64_t b_descriptor(unsigned at) {
  return static_cast<uint64_t>((at & 0x3ffff) >> 4) | (static_cast<uint64_t>(128 >> 4) << 16) |
         (static_cast<uint64_t>(256 >> 4) << 32);
}

#define D4(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define D16(x, i) D4(x, i), D4(x, i + 4), D4(x, i + 8), D4(x, i + 12)

__device__ __forceinline__ void wgmma(float (&d)[32], const unsigned (&a)[4], uint64_t b) {  // m64n64k16
#ifdef RATES_WGMMA
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
      : D16(d, 0), D16(d, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
}
__device__ __forceinline__ void wgmma(float (&d)[64], const unsigned (&a)[4], uint64_t b) {  // m64n128k16
#ifdef RATES_WGMMA
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "
      "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, "
      "%55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
      : D16(d, 0), D16(d, 16), D16(d, 32), D16(d, 48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
}

// Row of A and column pairs as of mma.m16n8k16, warp w of the group holding rows 16 w to 16 w + 15.
__device__ __forceinline__ float a_value(int row, int k) { return static_cast<float>((row * 5 + k * 3) % 7 - 3); }
__device__ __forceinline__ float b_value(int n, int k) { return static_cast<float>((n * 3 + k * 11) % 5 - 2); }
__device__ __forceinline__ unsigned pair(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&v);
}

// m64nNk16, 8 products between commits, kProducts rounds. One round's sums are small integers and are checked first: a wrong
// layout is reported, and the rate of a wrong product is not.
template <int N>
__global__ void wgmma_rate(float* out, Report report) {
#ifdef RATES_WGMMA
  __shared__ __align__(128) __nv_bfloat16 b[N * 16];
  for (int i = static_cast<int>(threadIdx.x); i < N * 16; i += static_cast<int>(blockDim.x)) {
    const int n = i / 16, k = i % 16;
    b[(n / 8) * 128 + (k / 8) * 64 + (n % 8) * 8 + k % 8] = __float2bfloat16(b_value(n, k));
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = (static_cast<int>(threadIdx.x) / 32) & 3;
  const int row = 16 * warp + lane / 4, k = 2 * (lane % 4);
  unsigned a[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = row + 8 * (i & 1), c = k + 8 * (i >> 1);
    a[i] = pair(a_value(r, c), a_value(r, c + 1));
  }
  const uint64_t descriptor = b_descriptor(static_cast<unsigned>(__cvta_generic_to_shared(b)));
  float d[N / 2] = {};
  const auto fence = [] { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); };
  const auto finish = [] {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  };
  fence();
  wgmma(d, a, descriptor);
  finish();
  bool right = true;
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const int r = row + 8 * ((i >> 1) & 1), n = (i / 4) * 8 + 2 * (lane % 4) + (i & 1);
    float wanted = 0;
#pragma unroll 1
    for (int j = 0; j < 16; ++j) wanted += a_value(r, j) * b_value(n, j);
    right &= d[i] == wanted;
  }
  if (!right) atomicOr(report.fault, kWrongData);
  __syncthreads();
  const Span span;
  for (int round = 0; round < kProducts; ++round) {
    fence();
#pragma unroll
    for (int i = 0; i < 8; ++i) wgmma(d, a, descriptor);
    finish();
  }
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x == 0) span.end(report);
  float total = 0;
#pragma unroll
  for (int i = 0; i < N / 2; ++i) total += d[i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = total;
#endif
}
