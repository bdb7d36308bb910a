// Crossing the border between the caller's tensors and the kernel's own buffers: strides, storage types, tails.
//
// Inside, everything is compute type T (float, or double for float64), unit stride, padded to whole vectors. Here a vector of
// n <= lanes valid units is read or written; unit stride in the compute type is one masked instruction, all else a loop.
#pragma once
#include <cstdint>
#include <cstring>

#include "cells/hd.h"
#include "rnnkern/rnnkern.h"

namespace rnnk {
namespace {

RNNK_HD float bits_to_float(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
RNNK_HD uint32_t float_to_bits(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
}

RNNK_HD float bf16_to_float(uint16_t b) { return bits_to_float(uint32_t{b} << 16); }
RNNK_HD uint16_t float_to_bf16(float f) {  // round half to even; NaN stays a NaN
  const uint32_t u = float_to_bits(f);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
}

// Integer work alone, because the kernels flush float subnormals and half has subnormals that matter.
RNNK_HD float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 31u, mantissa = h & 1023u;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact, and normal as a float
    const float size = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return bits_to_float(sign | float_to_bits(size));
  }
  return bits_to_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}
RNNK_HD uint16_t float_to_half(float f) {  // round half to even
  const uint32_t u = float_to_bits(f), size = u & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  if (size > 0x7f800000u) return sign | 0x7e00u;
  if (size >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and beyond round to infinity
  if (size < 0x33000000u) return sign;             // under half of the least subnormal (2^-25, which itself ties to even)
  if (size < 0x38800000u) {                        // subnormal: shift the mantissa, hidden bit included, into place
    const uint32_t shift = 126u - (size >> 23), mantissa = (size & 0x7fffffu) | 0x800000u;
    const uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    return static_cast<uint16_t>(sign | (kept + (rest > half || (rest == half && (kept & 1)))));
  }
  return static_cast<uint16_t>(sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1)) >> 13));
}

template <class T>
RNNK_HD T read(const void* data, int dtype, int64_t i) {
  switch (dtype) {
    case RNNK_FLOAT32: return static_cast<T>(static_cast<const float*>(data)[i]);
    case RNNK_FLOAT64: return static_cast<T>(static_cast<const double*>(data)[i]);
    case RNNK_BFLOAT16: return static_cast<T>(bf16_to_float(static_cast<const uint16_t*>(data)[i]));
    default: return static_cast<T>(half_to_float(static_cast<const uint16_t*>(data)[i]));
  }
}
template <class T>
RNNK_HD void write(void* data, int dtype, int64_t i, T value) {
  switch (dtype) {
    case RNNK_FLOAT32: static_cast<float*>(data)[i] = static_cast<float>(value); break;
    case RNNK_FLOAT64: static_cast<double*>(data)[i] = static_cast<double>(value); break;
    case RNNK_BFLOAT16: static_cast<uint16_t*>(data)[i] = float_to_bf16(static_cast<float>(value)); break;
    default: static_cast<uint16_t*>(data)[i] = float_to_half(static_cast<float>(value)); break;
  }
}

template <class T>
constexpr int native_dtype() {
  return sizeof(T) == 8 ? RNNK_FLOAT64 : RNNK_FLOAT32;
}

RNNK_HD int64_t item_size(int dtype) { return dtype == RNNK_FLOAT64 ? 8 : dtype == RNNK_FLOAT32 ? 4 : 2; }
RNNK_HD char* at(const rnnk_tensor& t, int64_t offset) { return static_cast<char*>(t.data) + offset * item_size(t.dtype); }

// Row (i, j) of a [T, B, X] tensor, row i of a [B, X] one.
struct Row {
  char* data;
  int64_t stride;
  int dtype;
};
RNNK_HD Row row3(const rnnk_tensor& t, int64_t i, int64_t j) {
  return {at(t, i * t.stride[0] + j * t.stride[1]), t.stride[2], t.dtype};
}
RNNK_HD Row row2(const rnnk_tensor& t, int64_t i) { return {at(t, i * t.stride[0]), t.stride[1], t.dtype}; }

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
constexpr RNNK_HD I smaller(I a, I b) { return a < b ? a : b; }
template <class I>
constexpr RNNK_HD I larger(I a, I b) { return a < b ? b : a; }
RNNK_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
RNNK_HD int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace
}  // namespace rnnk
