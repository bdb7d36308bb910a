// exp, sigmoid and tanh over a value type: one polynomial each, no libm, no branch.
//
// Error contracts (checked by tests/test_math.py with these numbers, against correctly rounded values):
//   exp      2 ulp for x in [-87, 88] (float), [-708, 709] (double); clamped outside, NaN stays NaN
//   sigmoid  4 ulp where the result is at least 1e-37 (float), 1e-307 (double)
//   tanh     4 ulp
// Coefficients: Cephes (S. Moshier, netlib), expf, tanhf and tanh; the double exp is the Taylor sum to degree 13, whose
// remainder on |r| <= ln(2)/2 is 4e-18.
#pragma once
#include "cells/hd.h"

namespace rnnk {

template <class V>
RNNK_HD V exp(V x) {
  using T = typename V::T;
  constexpr bool single = sizeof(T) == 4;
  // Beyond these the result under- or overflows; scale2 must not leave its range.
  x = fmin(V::set1(T(single ? 88.37626 : 709.4)), fmax(V::set1(T(single ? -87.33654 : -708.3)), x));
  const V n = rint(x * V::set1(T(1.44269504088896340736)));
  // x - n ln 2, with ln 2 in two parts so that the first product is exact
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
  return scale2(fma(q, r * r, r) + V::set1(T(1)), n);
}

template <class V>
RNNK_HD V sigmoid(V x) {
  const V one = V::set1(1);
  return one / (one + exp(-x));
}

template <class V>
RNNK_HD V tanh(V x) {
  using T = typename V::T;
  const V one = V::set1(1), two = V::set1(2), size = abs(x), z = x * x;
  V near;  // |x| < 0.625: no cancellation against 1
  if constexpr (sizeof(T) == 4) {
    V q = V::set1(T(-5.70498872745e-3));
    q = fma(q, z, V::set1(T(2.06390887954e-2)));
    q = fma(q, z, V::set1(T(-5.37397155531e-2)));
    q = fma(q, z, V::set1(T(1.33314422036e-1)));
    q = fma(q, z, V::set1(T(-3.33332819422e-1)));
    near = fma(q * z, x, x);
  } else {
    V p = V::set1(T(-9.64399179425052238628e-1));
    p = fma(p, z, V::set1(T(-9.92877231001918586564e1)));
    p = fma(p, z, V::set1(T(-1.61468768441708447952e3)));
    V q = z + V::set1(T(1.12811678491632931402e2));
    q = fma(q, z, V::set1(T(2.23548839060100448583e3)));
    q = fma(q, z, V::set1(T(4.84406305325125486048e3)));
    near = fma(p / q * z, x, x);
  }
  const V far = one - two / (exp(size + size) + one);
  return select(less(size, V::set1(T(0.625))), near, select(less(x, V::set1(0)), -far, far));
}

template <class V>
RNNK_HD V relu(V x) {
  return fmax(V::set1(0), x);  // NaN stays NaN
}

}  // namespace rnnk
