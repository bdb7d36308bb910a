// The strategy for small layers: a block takes 1 to 8 rows of one head through all steps of a block of time, alone. The weights
// stay in its registers (plain cells of up to 128 units) or in its shared memory, h is exchanged there, and one barrier a step is
// all there is to wait for. Any number of rows and heads is as many blocks.
#pragma once
#include "cuda/driver.cuh"
#include "cuda/shared_space.h"
#include "cuda/tile.cuh"

namespace rnnk {
namespace gpu {

constexpr int kMostWarps = 8, kRing = 3;  // steps of gx in shared memory: one in use, two on their way

template <class A>
struct SoloSpace : SharedSpace {
  using T = typename A::T;
  using Operand = typename A::Operand;
  // Rows that tiles read are 16 bytes further apart than whole lines, or their lanes would meet in the same banks.
  static constexpr int64_t kSkew = 16 / sizeof(Operand);
  Operand* weights[kMost];
  using SharedSpace::SharedSpace;
};

// What a step's product of one tile reads weights from: shared memory, or the registers of the warp whose tile it is.
template <class A, int G, int F>
struct Resident {
  typename A::A fragment[F][G];
  RNNK_DEVICE void load(const typename A::Operand* tile, int64_t fragments) {
    for (int f = 0; f < F; ++f) {
      for (int g = 0; g < G; ++g)
        fragment[f][g] = f < fragments ? A::load_a(tile + (f * G + g) * (kTile * A::K)) : typename A::A{};
    }
  }
  RNNK_DEVICE void multiply(typename A::T (&d)[G][4], const typename A::Rows& rows, int64_t fragments) const {
    for (int f = 0; f < F; ++f) {
      if (f >= fragments) break;
      const typename A::B b = A::load_b(rows, f * A::K);
      for (int g = 0; g < G; ++g) A::multiply(d[g], fragment[f][g], b);  // path: product
    }
  }
};

// Copies bytes, whole 16, of global memory to shared memory with all threads of the block; they are there after a barrier.
RNNK_DEVICE void fill_shared(void* to, const void* from, int64_t bytes) {
  for (int64_t i = thread() * 16; i < bytes; i += threads() * 16) {
    copy_async(static_cast<char*>(to) + i, static_cast<const char*>(from) + i);
  }
}

// Rows [count][pad] of one head between global rows `ld` apart and shared ones `ld_near` apart.
template <class E>
RNNK_DEVICE void move_rows(E* to, int64_t ld_to, const E* from, int64_t ld_from, int64_t count, int64_t pad) {
  const int n = static_cast<int>(pad), all = static_cast<int>(count) * n;  // 64-bit division is a call
  for (int e = thread(); e < all; e += threads()) to[e / n * ld_to + e % n] = from[e / n * ld_from + e % n];
}

// A tile's sums by its warp alone, then run(place, sums of its gates) for its elements, four a lane.
template <class T, int G, class Run>
RNNK_DEVICE void finish_tile(T* sums, const T (&d)[G][4], int64_t first, int64_t count, int64_t head, int64_t i0,
                             int64_t each, const Run& run) {
  constexpr int size = kRows * kSumsLd;
  for (int g = 0; g < G; ++g) put_sums(sums + g * size, d[g]);
  sync_warp();
  for (int e = lane(); e < kTile * static_cast<int>(count); e += 32) {
    const int unit = e % kTile, row = e / kTile;
    if (i0 + unit >= each) continue;
    T total[G];
    for (int g = 0; g < G; ++g) total[g] = sums[g * size + row * kSumsLd + unit];
    run(Place{first + row, head, i0 + unit}, total);
  }
  sync_warp();  // whole again before the next product
}

// Mean and 1 / sqrt(var + 1e-5) of each row's gx and gh: a warp a row and side.
template <class T>
RNNK_DEVICE void row_moments(const T* gx, const T* gh, int64_t ld_gx, int64_t columns, int64_t count, const Axis& axis,
                             T* moments) {
  for (int64_t i = warp(); i < count * 2; i += threads() / 32) {
    const int64_t row = i / 2;
    const T* const v = i % 2 ? gh + row * columns : gx ? gx + row * ld_gx : nullptr;
    if (!v) continue;
    const T n = static_cast<T>(columns / axis.pad * axis.each);
    T sum = 0, squares = 0;
    const int pad = static_cast<int>(axis.pad), all = static_cast<int>(columns);
    for (int c = lane(); c < all; c += 32) sum += c % pad < axis.each ? v[c] : T(0);
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    const T mean = sum / n;
    for (int c = lane(); c < all; c += 32) {
      const T off = c % pad < axis.each ? v[c] - mean : T(0);
      squares = fused(off, off, squares);
    }
    for (int mask = 16; mask > 0; mask /= 2) squares += shuffle_xor(squares, mask);
    if (lane() > 0) continue;
    moments[i * 2] = mean;
    moments[i * 2 + 1] = T(1) / static_cast<T>(::sqrt(static_cast<double>(squares / n + T(1e-5))));
  }
}

}  // namespace gpu
}  // namespace rnnk
