// Crossing the border between the caller's tensors and the kernel's own buffers: strides and storage types, lane by lane.
//
// Inside, everything has unit stride and is padded to whole vectors. The fast ways are the arithmetic's (arithmetic.h).
#pragma once
#include "core/storage.h"

namespace rnnk {
namespace {

// Out of line, so that a tile's code holds one call instead of four conversions.
template <class V>
__attribute__((noinline)) void read_units(const Row& r, int64_t first, int64_t n, typename V::T* lanes) {
  for (int i = 0; i < V::lanes; ++i) {
    lanes[i] = i < n ? read<typename V::T>(r.data, r.dtype, (first + i) * r.stride) : typename V::T(0);
  }
}
template <class V>
__attribute__((noinline)) void write_units(const Row& r, int64_t first, int64_t n, const typename V::T* lanes) {
  for (int i = 0; i < n; ++i) write<typename V::T>(r.data, r.dtype, (first + i) * r.stride, lanes[i]);
}

template <class I>
constexpr RNNK_HD I smaller(I a, I b) {
  return a < b ? a : b;
}
template <class I>
constexpr RNNK_HD I larger(I a, I b) {
  return a < b ? b : a;
}
RNNK_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
RNNK_HD int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace
}  // namespace rnnk
