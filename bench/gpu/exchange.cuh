// M1 to M4: how long a word takes from one block to another, and a whole step in which every block gives its slice and takes
// everybody's, by four ways to know that the slices are there.
//
// M1 data as flag: the receiver polls the data themselves, which begin as all ones. M2 a flag per block, stored with release
// and loaded with acquire. M3 one counter that every block adds to. M4 cooperative groups' grid barrier.
#pragma once
#include <cooperative_groups.h>

#include "measure.cuh"

constexpr unsigned kNothing = 0xffffffffu;  // what memory holds before anything is published
constexpr int kHops = 2000;                 // there and back
constexpr int kSteps = 500;
constexpr int kLine = 8;  // uint4 in 128 bytes: every hop on a line of its own

// Block 0 and block `partner` answer each other; the blocks between them only make sure that the two sit on different SMs.
// slots [2 * kHops][kLine], all ones.
__global__ void hop_data(uint4* slots, int partner, Report report) {
  const int block = static_cast<int>(blockIdx.x);
  if (threadIdx.x != 0 || (block != 0 && block != partner)) return;
  const Span span;
  uint4 seen;
  unsigned value = 0;
  for (int i = 0; i < 2 * kHops; ++i) {
    uint4* slot = slots + static_cast<int64_t>(i) * kLine;
    if ((i & 1) == (block != 0)) {
      store_relaxed(slot, make_uint4(value + 1, value + 1, value + 1, value + 1));
      continue;
    }
    const auto arrived = [&] {
      seen = load_relaxed(slot);
      return seen.x != kNothing && seen.y != kNothing && seen.z != kNothing && seen.w != kNothing;
    };
    if (!spin(arrived, span.deadline(), report.fault)) return;
    value = seen.w;
  }
  if (block != 0) return;
  span.end(report);
  if (value != 2 * kHops) atomicOr(report.fault, kWrongData);  // every message adds one, and block 0 read the last
}

// The same with 16 bytes of data behind a flag. words [2][32 * 4]: data at 0, flag at 32; zeros.
__global__ void hop_flag(unsigned* words, int partner, Report report) {
  const int block = static_cast<int>(blockIdx.x);
  if (threadIdx.x != 0 || (block != 0 && block != partner)) return;
  const Span span;
  unsigned* mine = words + (block != 0) * 128;
  unsigned* theirs = words + (block == 0) * 128;
  unsigned value = 0;
  for (int i = 0; i < 2 * kHops; ++i) {
    const unsigned turn = static_cast<unsigned>(i / 2) + 1;
    if ((i & 1) == (block != 0)) {
      store_relaxed(reinterpret_cast<uint4*>(mine), make_uint4(value + 1, 0, 0, value + 1));
      store_release(mine + 32, turn);
      continue;
    }
    if (!spin([&] { return load_acquire(theirs + 32) == turn; }, span.deadline(), report.fault)) return;
    value = load_relaxed(reinterpret_cast<uint4*>(theirs)).w;
  }
  if (block != 0) return;
  span.end(report);
  if (value != 2 * kHops) atomicOr(report.fault, kWrongData);
}

// Blocks 0 and 1 answer each other by adding to two counters; every other block of the grid polls the second one meanwhile.
// words [2][32], zeros.
__global__ void hop_counter(unsigned* words, Report report) {
  if (threadIdx.x != 0) return;
  const Span span;
  const int block = static_cast<int>(blockIdx.x);
  unsigned* there = words;
  unsigned* back = words + 32;
  for (unsigned turn = 1; turn <= kHops; ++turn) {
    if (block == 0) add_release(there, 1);
    if (block == 1) {
      if (!spin([&] { return load_acquire(there) == turn; }, span.deadline(), report.fault)) return;
      add_release(back, 1);
    } else if (!spin([&] { return load_acquire(back) >= turn; }, span.deadline(), report.fault)) {
      return;
    }
  }
  if (block == 0) span.end(report);
}

__global__ void __launch_bounds__(256) grid_barrier(Report report) {
  const Span span;
  for (int i = 0; i < kSteps; ++i) cooperative_groups::this_grid().sync();
  if (blockIdx.x == 0 && threadIdx.x == 0) span.end(report);
}

enum class Way { kData, kFlag, kCounter, kGrid };

struct Exchange {
  uint4* data;      // kData: [kSteps][words], all ones; else [2][words]
  unsigned* flags;  // [gridDim.x] of a kFlag, [kSteps][32] counters of a kCounter; zeros
  int words;        // uint4 of a step, of all blocks together
  Report report;
};

// Every block publishes words / gridDim.x of its own and reads all: what a step of a recurrence spread over the grid does
// besides its arithmetic. fragments: uint4 that each of the 256 threads reads, words / 256. Launched so that all blocks run.
template <Way way, int fragments>
__global__ void __launch_bounds__(256) exchange_step(Exchange e) {
  const int own = e.words / static_cast<int>(gridDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int block = static_cast<int>(blockIdx.x);
  const int blocks = static_cast<int>(gridDim.x);
  const Span span;
  __shared__ int stop;
  if (thread == 0) stop = 0;
  __syncthreads();
  unsigned carried = 0;
  for (int t = 0; t < kSteps; ++t) {
    uint4* step = e.data + static_cast<int64_t>(way == Way::kData ? t : t & 1) * e.words;
    if (thread < own) {
      // carried is 0 when all went well; reading it ties the store to what the last step received.
      const unsigned v = static_cast<unsigned>(t) + carried;
      store_relaxed(step + block * own + thread, make_uint4(v, v, v, v));
    }
    bool arrived = true;
    if constexpr (way == Way::kFlag) {
      __syncthreads();
      if (thread == 0) store_release(e.flags + block, static_cast<unsigned>(t) + 1);
      if (thread < 32)
        for (int b = thread; b < blocks && arrived; b += 32)
          arrived =
              spin([&] { return load_acquire(e.flags + b) > static_cast<unsigned>(t); }, span.deadline(), e.report.fault);
    } else if constexpr (way == Way::kCounter) {
      __syncthreads();
      if (thread == 0) {
        add_release(e.flags + t * 32, 1);
        arrived = spin([&] { return load_acquire(e.flags + t * 32) == static_cast<unsigned>(blocks); }, span.deadline(),
                       e.report.fault);
      }
    } else if constexpr (way == Way::kGrid) {
      cooperative_groups::this_grid().sync();
    }
    if constexpr (way != Way::kData) {
      if (!arrived) stop = 1;
      __syncthreads();
      if (stop) return;
    }
    uint4 v[fragments];
#pragma unroll
    for (int i = 0; i < fragments; ++i) v[i] = load_relaxed(step + i * 256 + thread);
    unsigned wrong = 0;
#pragma unroll
    for (int i = 0; i < fragments; ++i) {
      if constexpr (way == Way::kData) {
        const auto here = [&] {
          if (v[i].x != kNothing && v[i].y != kNothing && v[i].z != kNothing && v[i].w != kNothing) return true;
          v[i] = load_relaxed(step + i * 256 + thread);
          return false;
        };
        if (arrived) arrived = spin(here, span.deadline(), e.report.fault);
      }
      wrong |= (v[i].x ^ static_cast<unsigned>(t)) | (v[i].w ^ static_cast<unsigned>(t));
    }
    if (!arrived) stop = 1;
    carried = wrong;
    // What the warps of a split product wait for; without it a fast thread could also publish two steps ahead of a slow one,
    // which still reads the same half of a double buffer.
    __syncthreads();
    if (stop) return;
  }
  if (carried) atomicOr(e.report.fault, kWrongData);
  if (block == 0 && thread == 0) span.end(e.report);
}
