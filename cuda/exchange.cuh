// What blocks tell each other: through memory that the whole GPU sees, and through the shared memory of a cluster (sm_90).
// Compiled with RNNK_SIMT the same names come from tests/cuda/simt/exchange.h, where other blocks see a store late.
//
// A value stored by publish() or store_relaxed() may be seen in any order with others; it is seen by who load_acquire()s a flag
// that the same thread has store_release()d, or added to with add_release(), after it, or another thread of the block after a sync_block() (of the warp: a
// sync_warp()). Before that the own block, too, reads it back by load_relaxed() alone. 8 and 16 bytes are words of 4, each on its own.
#pragma once
#include <cstdint>

#include "cuda/device.cuh"

namespace rnnk {
namespace gpu {

struct alignas(16) Quad {
  uint32_t word[4];
};

}  // namespace gpu
}  // namespace rnnk

#if defined(RNNK_SIMT)
#include "simt/exchange.h"
#else

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define RNNK_SM90(...) __trap()
#else
#define RNNK_SM90(...) asm volatile(__VA_ARGS__)
#endif

namespace rnnk {
namespace gpu {

// The compiler leaves out no relaxed store or load of 4, 8 or 16 bytes, aligned. They are words of 4 bytes each: the memory model promises
// nothing where a load and a store that overlap differ in size (PTX ISA, "Conflict and data-races").
template <class T>
RNNK_DEVICE void store_relaxed(T* to, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if constexpr (sizeof(T) == 4) {
    uint32_t u;
    memcpy(&u, &value, 4);
    asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(to), "r"(u) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    uint32_t u[2];
    memcpy(u, &value, 8);
    asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(u[0]), "r"(u[1]) : "memory");
  } else {
    uint32_t u[4];
    memcpy(u, &value, 16);
    asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(u[0]), "r"(u[1]), "r"(u[2]), "r"(u[3])
                 : "memory");
  }
}
template <class T>
RNNK_DEVICE T load_relaxed(const T* from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  T value;
  if constexpr (sizeof(T) == 4) {
    uint32_t u;
    asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];" : "=r"(u) : "l"(from) : "memory");
    memcpy(&value, &u, 4);
  } else if constexpr (sizeof(T) == 8) {
    uint32_t u[2];
    asm volatile("ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2];" : "=r"(u[0]), "=r"(u[1]) : "l"(from) : "memory");
    memcpy(&value, u, 8);
  } else {
    uint32_t u[4];
    asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(u[0]), "=r"(u[1]), "=r"(u[2]), "=r"(u[3])
                 : "l"(from)
                 : "memory");
    memcpy(&value, u, 16);
  }
  return value;
}

// An ordinary store of 1 to 16 bytes whose readers in other blocks wait for a release.
template <class T>
RNNK_DEVICE void publish(T* to, T value) {
  *to = value;
}

RNNK_DEVICE void store_release(uint32_t* to, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
RNNK_DEVICE void add_release(uint32_t* to, uint32_t value) {  // who acquires the sum has what was released with every addend
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
RNNK_DEVICE uint32_t load_acquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}

// Between two polls of one thread.
RNNK_DEVICE void poll_pause() { __nanosleep(20); }
RNNK_DEVICE uint64_t global_timer() {  // nanoseconds
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

// Clusters. A block may be reached from after its first cluster barrier until its last one.
RNNK_DEVICE int cluster_rank() {
  uint32_t rank = 0;
  RNNK_SM90("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
RNNK_DEVICE int cluster_size() {
  uint32_t size = 1;
  RNNK_SM90("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
}
// Every thread of the cluster arrives, then waits.
RNNK_DEVICE void cluster_arrive_release() { RNNK_SM90("barrier.cluster.arrive.release;" :: : "memory"); }
RNNK_DEVICE void cluster_wait_acquire() { RNNK_SM90("barrier.cluster.wait.acquire;" :: : "memory"); }

// Where block `rank` of the cluster has what this block has at `own` in its shared memory.
template <class T>
RNNK_DEVICE T* map_shared(T* own, int rank) {
  uint64_t peer = 0;
  RNNK_SM90("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(own), "r"(rank));
  return reinterpret_cast<T*>(peer);
}

// Barriers in shared memory: a phase ends when `arrivals` threads of this block have called mbarrier_expect() and as many bytes
// as they expect, in all, have been stored by store_async(). Peers see one that was initialised before a cluster barrier.
RNNK_DEVICE void mbarrier_init(uint64_t* barrier, int arrivals) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
  RNNK_SM90("fence.mbarrier_init.release.cluster;" :: : "memory");
}
RNNK_DEVICE void mbarrier_expect(uint64_t* barrier, uint32_t bytes) {
  [[maybe_unused]] const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  RNNK_SM90("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
// Bytes that the present phase is to wait for besides; not an arrival.
RNNK_DEVICE void mbarrier_expect_more(uint64_t* barrier, uint32_t bytes) {
  [[maybe_unused]] const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  RNNK_SM90("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
// Whether the phase of this parity has ended: 0 for the first phase, then 1, 0... A macro, because asm takes only a literal.
#define RNNK_MBARRIER_PASSED(name, instruction)                                                    \
  RNNK_DEVICE bool name(uint64_t* barrier, uint32_t parity) {                                      \
    [[maybe_unused]] const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier)); \
    uint32_t passed = 0;                                                                           \
    RNNK_SM90(                                                                                     \
        "{\n"                                                                                      \
        ".reg .pred p;\n"                                                                          \
        "mbarrier." instruction                                                                    \
        ".parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"                                   \
        "selp.u32 %0, 1, 0, p;\n"                                                                  \
        "}" : "=r"(passed) : "r"(at),                                                              \
        "r"(parity) : "memory");                                                                   \
    return passed != 0;                                                                            \
  }
RNNK_MBARRIER_PASSED(mbarrier_try_wait, "try_wait")  // may suspend the thread for a while
RNNK_MBARRIER_PASSED(mbarrier_test, "test_wait")     // does not wait
#undef RNNK_MBARRIER_PASSED

// 4 or 16 bytes, aligned, to a place in a peer's shared memory, in the background; they count at the peer's mbarrier when they
// have arrived. Both addresses come from map_shared().
template <class T>
RNNK_DEVICE void store_async(T* to, T value, uint64_t* barrier) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 16);
  [[maybe_unused]] const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  [[maybe_unused]] const uint32_t counts = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  uint32_t u[sizeof(T) / 4];
  memcpy(u, &value, sizeof(T));
  if constexpr (sizeof(T) == 4) {
    RNNK_SM90("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(at), "r"(u[0]),
              "r"(counts) : "memory");
  } else {
    RNNK_SM90("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(at),
              "r"(u[0]), "r"(u[1]), "r"(u[2]), "r"(u[3]), "r"(counts) : "memory");
  }
}

}  // namespace gpu
}  // namespace rnnk
#endif
