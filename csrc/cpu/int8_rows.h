// From floats to q + 128 (int8.h), one text for every instruction set: all give the same bytes.
#pragma once
#include "cpu/arithmetic.h"
#include "cpu/int8.h"

namespace rnnk {
namespace {

// What 127 stands for. Values below 2^-100 count as zero beside it, so that 127 / most is finite.
struct Int8Scale {
  float most = 0x1p-100f;
  bool finite = true;
  float inverse() const { return 127.0f / most; }
  float scale() const { return most * (1.0f / 127.0f); }
};

// The lower byte of each lane.
template <class V>
void lower_bytes(V v, uint8_t* to) {
  float lanes[V::lanes];
  v.store(lanes);
  for (int i = 0; i < V::lanes; ++i) to[i] = static_cast<uint8_t>(float_to_bits(lanes[i]));
}

template <class V>
struct Int8Rows {
  static constexpr int W = V::lanes;

  // fn(vector, first element) of n values, zero past the end
  template <class Fn>
  RNNK_HD static void for_vectors(const float* from, int64_t n, const Fn& fn) {
    int64_t i = 0;
    for (; i + W <= n; i += W) fn(V::load(from + i), i);
    if (i < n) fn(V::load_n(from + i, n - i), i);
  }

  RNNK_HD static Int8Scale scale_of(const float* from, int64_t n) {
    const V zero = V::set1(0);
    V most = zero, bad = zero;
    for_vectors(from, n, [&](V v, int64_t) RNNK_INLINE {
      most = fmax(most, fmax(v, -v));
      bad = fma(v, zero, bad);  // NaN from the first NaN or infinity on
    });
    float lanes[W], bads[W];
    most.store(lanes), bad.store(bads);
    Int8Scale s;
    for (int i = 0; i < W; ++i) {
      s.most = lanes[i] > s.most ? lanes[i] : s.most;
      s.finite = s.finite && bads[i] == 0;
    }
    return s;
  }

  // n values, then 128, which is zero, up to `end`; bytes of whole vectors are written. store: as lower_bytes.
  template <class Store>
  RNNK_HD static void write(const float* from, int64_t n, int64_t end, float inverse, uint8_t* to, const Store& store) {
    // Beside 1.5 * 2^23 a float has no room for a fraction: the sum is rounded half to even, and its bits end with the integer's.
    const V factor = V::set1(inverse), whole = V::set1(12582912.0f + kInt8Offset);
    for_vectors(from, n, [&](V v, int64_t i) RNNK_INLINE { store(v * factor + whole, to + i); });
    const int64_t written = round_up(n, W);
    if (written < end) __builtin_memset(to + written, kInt8Offset, static_cast<size_t>(end - written));
  }

  // One row. Returns its scale; of a row with NaN or infinity that is NaN, and so are all results.
  template <class Store>
  static float quantise(const float* from, int64_t n, int64_t end, uint8_t* to, const Store& store) {
    const Int8Scale s = scale_of(from, n);
    if (!s.finite) {
      __builtin_memset(to, kInt8Offset, static_cast<size_t>(end));
      return __builtin_nanf("");
    }
    write(from, n, end, s.inverse(), to, store);
    return s.scale();
  }
};

}  // namespace
}  // namespace rnnk
