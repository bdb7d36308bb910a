// The one-lane value types: a plain float or double. No intrinsics; fma is a multiplication and an addition, because without
// hardware support fma() would be a slow library call.
#pragma once
#include <cstdint>

#include "cells/hd.h"

namespace rnnk {
namespace {

template <class Element, class Bits, int mantissa, int bias>
struct Scalar {
  using T = Element;
  static constexpr int lanes = 1, registers = 16;
  static constexpr double cycles_per_fma = 1;
  T v;

  RNNK_HD static Scalar load(const T* p) {  // a pair of 16-bit terms may lie at an odd one
    T x;
    __builtin_memcpy(&x, p, sizeof x);
    return {x};
  }
  RNNK_HD static Scalar load_n(const T* p, int64_t n) { return {n > 0 ? *p : T(0)}; }
  RNNK_HD void store(T* p) const { __builtin_memcpy(p, &v, sizeof v); }
  RNNK_HD void store_n(T* p, int64_t n) const {
    if (n > 0) *p = v;
  }
  RNNK_HD Scalar first_n(int64_t n) const { return {n > 0 ? v : T(0)}; }
  RNNK_HD static Scalar load_upper(const uint16_t* p) {  // of float alone: the 16 bits of a bfloat16
    const Bits bits = Bits(*p) << 16;
    T x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return {x};
  }
  RNNK_HD void store_upper(uint16_t* p) const {
    Bits bits;
    __builtin_memcpy(&bits, &v, sizeof bits);
    *p = static_cast<uint16_t>(bits >> 16);
  }
  RNNK_HD static Scalar set1(T x) { return {x}; }

  friend RNNK_HD Scalar operator+(Scalar a, Scalar b) { return {a.v + b.v}; }
  friend RNNK_HD Scalar operator-(Scalar a, Scalar b) { return {a.v - b.v}; }
  friend RNNK_HD Scalar operator*(Scalar a, Scalar b) { return {a.v * b.v}; }
  friend RNNK_HD Scalar operator/(Scalar a, Scalar b) { return {a.v / b.v}; }
  friend RNNK_HD Scalar operator-(Scalar a) { return {-a.v}; }
  friend RNNK_HD Scalar fma(Scalar a, Scalar b, Scalar c) { return {a.v * b.v + c.v}; }
  friend RNNK_HD Scalar reciprocal(Scalar a) { return {T(1) / a.v}; }
  friend RNNK_HD Scalar fmin(Scalar a, Scalar b) { return {a.v < b.v ? a.v : b.v}; }
  friend RNNK_HD Scalar fmax(Scalar a, Scalar b) { return {a.v > b.v ? a.v : b.v}; }
  // Adding and taking away 1.5 * 2^mantissa leaves no room for a fraction; |a| is far below it here.
  friend RNNK_HD Scalar rint(Scalar a) {
    constexpr T magic = T(1.5) * T(Bits(1) << mantissa);
    volatile T sum = a.v + magic;
    return {sum - magic};
  }
  friend RNNK_HD Scalar scale2(Scalar x, Scalar n) {
    // NaN has no integer value; any finite factor will do, since x is NaN too then.
    const Bits bits = Bits((n.v == n.v ? static_cast<long long>(n.v) : 0) + bias) << mantissa;
    T power;
    __builtin_memcpy(&power, &bits, sizeof power);
    return {x.v * power};
  }
  friend RNNK_HD bool less(Scalar a, Scalar b) { return a.v < b.v; }
  friend RNNK_HD Scalar select(bool m, Scalar a, Scalar b) { return m ? a : b; }
};

using ScalarF = Scalar<float, uint32_t, 23, 127>;
using ScalarD = Scalar<double, uint64_t, 52, 1023>;

}  // namespace
}  // namespace rnnk
