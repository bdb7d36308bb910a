// Crossing the border between the caller's tensors and the kernel's own buffers: strides, storage types, tails.
//
// Inside, everything is compute type T (float, or double for float64), unit stride, padded to whole vectors. Here a vector of
// n <= lanes valid units is read or written; unit stride in the compute type is one masked instruction, all else a loop.
#pragma once
#include "core/storage.h"

namespace rnnk {
namespace {

// The general way, lane by lane; out of line, so that a tile's code holds one call instead of four conversions.
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

// Units [first, first + n) of a row; lanes past n are zero.
template <class V>
RNNK_HD V load_units(Row r, int64_t first, int64_t n) {
  using T = typename V::T;
  if (r.dtype == native_dtype<T>() && r.stride == 1) return V::load_n(reinterpret_cast<const T*>(r.data) + first, n);
  T lanes[V::lanes];
  read_units<V>(r, first, n, lanes);
  return V::load(lanes);
}
template <class V>
RNNK_HD void store_units(Row r, int64_t first, int64_t n, V v) {
  using T = typename V::T;
  if (r.dtype == native_dtype<T>() && r.stride == 1) {
    v.store_n(reinterpret_cast<T*>(r.data) + first, n);
  } else {
    T lanes[V::lanes];
    v.store(lanes);
    write_units<V>(r, first, n, lanes);
  }
}

// The value after a round trip through the storage type: what the next step, or the next piece of the sequence, sees as h.
template <class V>
RNNK_HD V quantize(V v, int dtype) {
  using T = typename V::T;
  if (dtype == native_dtype<T>()) return v;
  T lanes[V::lanes];
  v.store(lanes);
  uint64_t stored = 0;  // room for any storage type
  for (int i = 0; i < V::lanes; ++i) {
    write<T>(&stored, dtype, 0, lanes[i]);
    lanes[i] = read<T>(&stored, dtype, 0);
  }
  return V::load(lanes);
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
