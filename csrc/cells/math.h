// exp, sigmoid and tanh over a value type: one polynomial each, no libm, no branch.
//
// Error contracts (checked by tests/kernels/test_math.py with these numbers, against correctly rounded values):
//   exp      2 ulp for x in [-87, 88] (float), [-708, 709] (double); clamped outside, NaN stays NaN
//   sigmoid  4 ulp where the result is at least 1e-37 (float), 1e-307 (double)
//   tanh     4 ulp
// Coefficients: Cephes (S. Moshier, netlib), expf; the double one is the Taylor sum to degree 13, whose remainder on
// |r| <= ln(2)/2 is 4e-18.
#pragma once
#include "cells/hd.h"

namespace rnnk {

// x = n ln 2 + r with |r| <= ln(2) / 2 and n an integer value; returns exp(r) - 1, to 1 ulp.
template <class V>
RNNK_HD V exp_fraction_minus_1(V x, V& n) {
  using T = typename V::T;
  constexpr bool single = sizeof(T) == 4;
  n = rint(x * V::set1(T(1.44269504088896340736)));
  // ln 2 in two parts, so that the first product is exact
  V r = fma(n, V::set1(T(single ? -0.693359375 : -6.93145751953125e-1)), x);
  r = fma(n, V::set1(T(single ? 2.12194440e-4 : -1.42860682030941723212e-6)), r);
  V q;
  if constexpr (single) {
    q = V::set1(T(1.9875691500e-4));
    q = fma(q, r, V::set1(T(1.3981999507e-3)));
    q = fma(q, r, V::set1(T(8.3334519073e-3)));
    q = fma(q, r, V::set1(T(4.1665795894e-2)));
    q = fma(q, r, V::set1(T(1.6666665459e-1)));
    q = fma(q, r, V::set1(T(5.0000001201e-1)));
  } else {
    q = V::set1(T(1.0 / 6227020800.0));
    q = fma(q, r, V::set1(T(1.0 / 479001600.0)));
    q = fma(q, r, V::set1(T(1.0 / 39916800.0)));
    q = fma(q, r, V::set1(T(1.0 / 3628800.0)));
    q = fma(q, r, V::set1(T(1.0 / 362880.0)));
    q = fma(q, r, V::set1(T(1.0 / 40320.0)));
    q = fma(q, r, V::set1(T(1.0 / 5040.0)));
    q = fma(q, r, V::set1(T(1.0 / 720.0)));
    q = fma(q, r, V::set1(T(1.0 / 120.0)));
    q = fma(q, r, V::set1(T(1.0 / 24.0)));
    q = fma(q, r, V::set1(T(1.0 / 6.0)));
    q = fma(q, r, V::set1(T(0.5)));
  }
  return fma(q, r * r, r);
}

template <class V>
RNNK_HD V exp(V x) {
  using T = typename V::T;
  constexpr bool single = sizeof(T) == 4;
  // Beyond these the result under- or overflows; scale2 must not leave its range.
  x = fmin(V::set1(T(single ? 88.37626 : 709.4)), fmax(V::set1(T(single ? -87.33654 : -708.3)), x));
  V n;
  const V fraction = exp_fraction_minus_1(x, n);
  return scale2(fraction + V::set1(T(1)), n);
}

template <class V>
RNNK_HD V sigmoid(V x) {
  const V one = V::set1(1);
  return reciprocal(one + exp(-x));
}

// With e = exp(2|x|) - 1 = 2^n (e^r - 1) + (2^n - 1), which loses nothing near zero: e / (e + 2) below 1/2, and
// 1 - 2 / (e + 2) above, where it is within an ulp of half: 1 - tanh^2, which BPTT forms, would magnify more.
template <class V>
RNNK_HD V tanh(V x) {
  using T = typename V::T;
  const V one = V::set1(1), two = V::set1(2);
  const V bound = V::set1(T(sizeof(T) == 4 ? 10 : 20));  // 1 to the last bit from 9.1 (float), 19.1 (double) on
  const V size = fmin(bound, fmax(-x, x));
  V n;
  const V fraction = exp_fraction_minus_1(size + size, n);
  const V power = scale2(one, n), e = fma(power, fraction, power - one), y = reciprocal(e + two);
  const V h = select(less(e, two), e * y, fma(-two, y, one));
  return select(less(x, V::set1(0)), -h, h);
}

// Kernels flush subnormals: the first number above zero.
template <class T>
constexpr RNNK_HD T least_normal() {
  return sizeof(T) == 4 ? T(1.17549435e-38) : T(2.2250738585072014e-308);
}

template <class V>
RNNK_HD V relu(V x) {
  return fmax(V::set1(0), x);  // NaN stays NaN
}

}  // namespace rnnk
