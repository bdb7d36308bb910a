// The twins of cuda/exchange.cuh on the host SIMT executor: see delayed.h for when a store reaches the other blocks.
#pragma once
#include <cstdint>

#include "simt/calls.h"
#include "simt/delayed.h"

namespace rnnk {
namespace gpu {

template <class T>
RNNK_DEVICE void store_relaxed(T* to, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  simt::store_delayed(to, &value, sizeof value, true);
}
template <class T>
RNNK_DEVICE void publish(T* to, T value) {
  simt::store_delayed(to, &value, sizeof value, false);
}
template <class T>
RNNK_DEVICE T load_relaxed(const T* from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  simt::maybe_polls();
  T value;
  simt::load_current(&value, from, sizeof value);
  return value;
}

RNNK_DEVICE void store_release(uint32_t* to, uint32_t value) { simt::store_released(to, value, false); }
RNNK_DEVICE void add_release(uint32_t* to, uint32_t value) { simt::store_released(to, value, true); }
RNNK_DEVICE uint32_t load_acquire(const uint32_t* from) {
  simt::maybe_polls();
  return simt::load_acquired(from);
}

inline void poll_pause() { simt::yield(simt::Op::poll); }
inline uint64_t global_timer() { return simt::nanoseconds(); }

[[gnu::const]] int cluster_rank();
[[gnu::const]] int cluster_size();
inline void cluster_arrive_release() { simt::cluster_arrive(); }
inline void cluster_wait_acquire() { simt::cluster_wait(); }

template <class T>
RNNK_DEVICE T* map_shared(T* own, int rank) {
  return static_cast<T*>(simt::map_shared(own, rank));
}

RNNK_DEVICE void mbarrier_init(uint64_t* barrier, int arrivals) { simt::barrier_init(barrier, arrivals); }
RNNK_DEVICE void mbarrier_expect(uint64_t* barrier, uint32_t bytes) { simt::barrier_expect(barrier, bytes); }
RNNK_DEVICE void mbarrier_expect_more(uint64_t* barrier, uint32_t bytes) { simt::barrier_expect_more(barrier, bytes); }
RNNK_DEVICE bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity) {
  if (simt::barrier_passed(barrier, parity)) return true;
  simt::yield(simt::Op::mbarrier);
  return false;
}
RNNK_DEVICE bool mbarrier_test(uint64_t* barrier, uint32_t parity) { return simt::barrier_passed(barrier, parity); }
template <class T>
RNNK_DEVICE void store_async(T* to, T value, uint64_t* barrier) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 16);
  simt::store_later(to, &value, sizeof value, barrier);
}

}  // namespace gpu
}  // namespace rnnk
