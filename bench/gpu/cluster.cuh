// M5: inside one thread block cluster, the cluster's barrier and a step in which every block pushes its slice of 8 KB into all
// blocks' shared memory with st.async, which the receivers' mbarriers count.
#pragma once
#include "measure.cuh"

constexpr int kClusterSteps = 2000;
constexpr int kPushed = 512;  // uint4 of a step, of all blocks together: 8 KB, 16 rows of 256 half-type units

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ unsigned cluster_size() {
  unsigned size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ unsigned shared_address(const void* at) {
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
}
// The address, in the cluster's window, of block `rank`'s twin of an address of this block.
__device__ __forceinline__ unsigned peer_address(unsigned at, unsigned rank) {
  unsigned peer;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(at), "r"(rank));
  return peer;
}
__device__ __forceinline__ void push(unsigned to, uint4 v, unsigned barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ bool phase_over(unsigned barrier, unsigned parity) {
  unsigned over;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(over)
               : "r"(barrier), "r"(parity)
               : "memory");
  return over != 0;
}

__global__ void __launch_bounds__(256) cluster_barrier(Report report) {
  const Span span;
  for (int i = 0; i < kClusterSteps; ++i) cluster_sync();
  if (blockIdx.x == 0 && threadIdx.x == 0) span.end(report);
}

// Two buffers suffice, and no barrier within the block: every thread sends its part of each step after its own reads of the
// step before, and a step is complete only with the parts of all threads of all blocks. Dynamic shared memory: two buffers
// [kPushed], then their two mbarriers.
__global__ void __launch_bounds__(256) cluster_push(Report report) {
  extern __shared__ __align__(128) uint4 buffers[];
  const unsigned rank = cluster_rank(), size = cluster_size();
  const int thread = static_cast<int>(threadIdx.x);
  const int own = kPushed / static_cast<int>(size);  // uint4 that this block sends to everybody
  const unsigned data = shared_address(buffers), barriers = shared_address(buffers + 2 * kPushed);
  if (thread == 0) {
    for (unsigned b = 0; b < 2; ++b)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers + 8 * b) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_sync();
  const Span span;
  bool fine = true;
  unsigned carried = 0;
  for (int t = 0; t < kClusterSteps && fine; ++t) {
    const unsigned half = t & 1, barrier = barriers + 8 * half;
    if (thread == 0)
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "n"(kPushed * 16) : "memory");
    // One 16-byte store for each thread and round: (peer, piece of the slice).
    for (int i = thread; i < own * static_cast<int>(size); i += 256) {
      const unsigned peer = static_cast<unsigned>(i / own), piece = static_cast<unsigned>(i % own);
      const unsigned v = static_cast<unsigned>(t) + carried;
      const unsigned to = data + 16 * (half * kPushed + rank * static_cast<unsigned>(own) + piece);
      push(peer_address(to, peer), make_uint4(v, v, v, v), peer_address(barrier, peer));
    }
    fine = spin([&] { return phase_over(barrier, (t >> 1) & 1); }, span.deadline(), report.fault);
    carried = 0;
    for (int i = thread; i < kPushed; i += 256) {
      const uint4 v = buffers[half * kPushed + static_cast<unsigned>(i)];
      carried |= (v.x ^ static_cast<unsigned>(t)) | (v.w ^ static_cast<unsigned>(t));
    }
    if (carried && fine) {
      atomicOr(report.fault, kWrongData);
      fine = false;
    }
  }
  if (blockIdx.x == 0 && thread == 0) span.end(report);
  __syncwarp();
  cluster_sync();  // nobody leaves while others may still write into its memory
}

inline cudaLaunchConfig_t cluster_config(int blocks, int size, size_t shared, cudaLaunchAttribute* attribute) {
  attribute->id = cudaLaunchAttributeClusterDimension;
  attribute->val.clusterDim.x = static_cast<unsigned>(size);
  attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(256);
  config.dynamicSmemBytes = shared;
  config.attrs = attribute;
  config.numAttrs = 1;
  return config;
}

constexpr size_t kPushShared = 2 * kPushed * sizeof(uint4) + 2 * sizeof(uint64_t);
