// The caller's tensors in memory: storage types, strides, rows. Shared by core and the CPU driver.
//
// This header is included by files compiled for different instruction sets, so everything here has internal linkage or is
// always inlined: the linker must never pick one file's copy for all.
#pragma once
#include <cstdint>

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
// Entry b of lengths [B] of int32 or int64.
RNNK_HD int64_t length_at(const rnnk_tensor& lengths, int64_t b) {
  const int64_t i = b * lengths.stride[0];
  if (lengths.dtype == RNNK_INT32) return static_cast<const int32_t*>(lengths.data)[i];
  return static_cast<const int64_t*>(lengths.data)[i];
}
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

// State i >= 1 alone of a tensor with all of them but h side by side (c_0 and its like).
RNNK_HD rnnk_tensor state_of(const rnnk_tensor& all, int i, int64_t H) {
  rnnk_tensor one = all;
  if (one.data) one.data = at(all, (i - 1) * H * all.stride[1]);
  return one;
}

}  // namespace
}  // namespace rnnk
