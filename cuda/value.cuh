// The value type of a GPU thread: one unit of one row (cells/hd.h says what it must offer).
#pragma once
#include <cmath>
#include <cstring>

#include "core/storage.h"
#include "cuda/device.cuh"

namespace rnnk {
namespace gpu {

RNNK_DEVICE float to_integer(float v) { return ::rintf(v); }
RNNK_DEVICE double to_integer(double v) { return ::rint(v); }
RNNK_DEVICE float power_of_2(float n) { return bits_to_float(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23); }
RNNK_DEVICE double power_of_2(double n) {
  const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return power;
}

// near: sigmoid and tanh by the unit for special functions, for cells whose h is rounded to 16 bits (errors: below).
template <class Element, bool near = false>
struct One {
  using T = Element;
  static constexpr int lanes = 1;
  T v;

  RNNK_DEVICE static One set1(T x) { return {x}; }
  friend RNNK_DEVICE One operator+(One a, One b) { return {a.v + b.v}; }
  friend RNNK_DEVICE One operator-(One a, One b) { return {a.v - b.v}; }
  friend RNNK_DEVICE One operator*(One a, One b) { return {a.v * b.v}; }
  friend RNNK_DEVICE One operator/(One a, One b) { return {a.v / b.v}; }
  friend RNNK_DEVICE One operator-(One a) { return {-a.v}; }
  friend RNNK_DEVICE One fma(One a, One b, One c) { return {fused(a.v, b.v, c.v)}; }
  friend RNNK_DEVICE One fmin(One a, One b) { return {a.v < b.v ? a.v : b.v}; }
  friend RNNK_DEVICE One fmax(One a, One b) { return {a.v > b.v ? a.v : b.v}; }
  friend RNNK_DEVICE One rint(One a) { return {to_integer(a.v)}; }
  // NaN has no integer value; any finite factor will do, since x is NaN too then.
  friend RNNK_DEVICE One scale2(One x, One n) { return {x.v * power_of_2(n.v == n.v ? n.v : T(0))}; }
  friend RNNK_DEVICE One reciprocal(One a) { return {reciprocal_of(a.v)}; }
  friend RNNK_DEVICE bool less(One a, One b) { return a.v < b.v; }
  friend RNNK_DEVICE One select(bool m, One a, One b) { return m ? a : b; }

  // Relative errors up to 2^-17, where half precision rounds h by 2^-12. 1 - 2 / (1 + 2^u) has the absolute error of 4 ulp of 1, which
  // is too much near zero; there x - x^3 / 3 leaves out 2 / 15 x^4 of x.
  friend RNNK_DEVICE One sigmoid(One x)
    requires near
  {
    return {reciprocal_of(T(1) + power_of_2_near(x.v * T(-1.4426950408889634)))};
  }
  friend RNNK_DEVICE One tanh(One x)
    requires near
  {
    const T large = fused(T(-2), reciprocal_of(T(1) + power_of_2_near(x.v * T(2.885390081777927))), T(1));
    const T small = fused(x.v * x.v * x.v, T(-1.0 / 3), x.v);
    return {x.v * x.v < T(1.0 / 256) ? small : large};
  }
};

// Storage whose dtype is known at run time, for kernels that are compiled once for each type of values.
constexpr int kAnyDtype = -1;
template <class Element>
struct AnyStorage {
  using T = Element;
  using V = One<T>;
  static constexpr int dtype = kAnyDtype;
};

// An element of an array of a dtype known at run time.
template <class T>
RNNK_DEVICE T load(const void* data, int dtype, int64_t i) {
  switch (dtype) {
    case RNNK_FLOAT32: return static_cast<T>(static_cast<const float*>(data)[i]);
    case RNNK_FLOAT64: return static_cast<T>(static_cast<const double*>(data)[i]);
    case RNNK_BFLOAT16: return static_cast<T>(bf16_to_float(static_cast<const uint16_t*>(data)[i]));
    default: return static_cast<T>(from_half(static_cast<const uint16_t*>(data)[i]));  // path: float16
  }
}
template <class T>
RNNK_DEVICE void store(void* data, int dtype, int64_t i, T value) {
  switch (dtype) {
    case RNNK_FLOAT32: static_cast<float*>(data)[i] = static_cast<float>(value); break;
    case RNNK_FLOAT64: static_cast<double*>(data)[i] = static_cast<double>(value); break;
    case RNNK_BFLOAT16: static_cast<uint16_t*>(data)[i] = float_to_bf16(static_cast<float>(value)); break;
    default: static_cast<uint16_t*>(data)[i] = to_half(static_cast<float>(value)); break;  // path: float16
  }
}
// What a value becomes by being stored.
template <class T>
RNNK_DEVICE T rounded(T value, int dtype) {
  switch (dtype) {
    case RNNK_BFLOAT16: return static_cast<T>(bf16_to_float(float_to_bf16(static_cast<float>(value))));
    case RNNK_FLOAT16: return static_cast<T>(from_half(to_half(static_cast<float>(value))));
    default: return value;
  }
}
template <class T>
RNNK_DEVICE T load2(const rnnk_tensor& t, int64_t i, int64_t j) {
  return load<T>(t.data, t.dtype, i * t.stride[0] + j * t.stride[1]);
}
template <class T>
RNNK_DEVICE void store2(const rnnk_tensor& t, int64_t i, int64_t j, T v) {
  store(t.data, t.dtype, i * t.stride[0] + j * t.stride[1], v);
}
template <class T>
RNNK_DEVICE T load3(const rnnk_tensor& t, int64_t i, int64_t j, int64_t k) {
  return load<T>(t.data, t.dtype, i * t.stride[0] + j * t.stride[1] + k * t.stride[2]);
}
template <class T>
RNNK_DEVICE void store3(const rnnk_tensor& t, int64_t i, int64_t j, int64_t k, T v) {
  store(t.data, t.dtype, i * t.stride[0] + j * t.stride[1] + k * t.stride[2], v);
}

}  // namespace gpu
}  // namespace rnnk
