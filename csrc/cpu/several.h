// Several vectors as one value (cells/hd.h says what a value offers), so that a cell's text, written for one vector, works on
// independent ones in turn.
//
// A cell is a long chain of dependent operations: LSTM's takes some 160 cycles, its 180 instructions could be done in 50, and the CPU
// looks ahead by little more than one vector. Two to four of them, an operation of each in turn, take hardly longer than one.
#pragma once
#include "cpu/unroll.h"

namespace rnnk {
namespace {

template <class V, int N>
struct Several {
  using T = typename V::T;
  static constexpr int lanes = V::lanes;
  V v[N];

  // N vectors, each given by of(n).
  template <class Of>
  RNNK_HD static Several from(const Of& of) {
    Several s;
    RNNK_UNROLL for (int n = 0; n < N; ++n) s.v[n] = of(n);
    return s;
  }
  template <class To>
  RNNK_HD void each(const To& to) const {
    RNNK_UNROLL for (int n = 0; n < N; ++n) to(v[n], n);
  }
  RNNK_HD static Several set1(T x) {
    return from([&](int) RNNK_INLINE { return V::set1(x); });
  }

#define RNNK_EACH(expression) return Several::from([&](int n) RNNK_INLINE { return expression; })
  friend RNNK_HD Several operator+(const Several& a, const Several& b) { RNNK_EACH(a.v[n] + b.v[n]); }
  friend RNNK_HD Several operator-(const Several& a, const Several& b) { RNNK_EACH(a.v[n] - b.v[n]); }
  friend RNNK_HD Several operator*(const Several& a, const Several& b) { RNNK_EACH(a.v[n] * b.v[n]); }
  friend RNNK_HD Several operator/(const Several& a, const Several& b) { RNNK_EACH(a.v[n] / b.v[n]); }
  friend RNNK_HD Several operator-(const Several& a) { RNNK_EACH(-a.v[n]); }
  friend RNNK_HD Several fma(const Several& a, const Several& b, const Several& c) {
    RNNK_EACH(fma(a.v[n], b.v[n], c.v[n]));
  }
  friend RNNK_HD Several reciprocal(const Several& a) { RNNK_EACH(reciprocal(a.v[n])); }
  friend RNNK_HD Several fmin(const Several& a, const Several& b) { RNNK_EACH(fmin(a.v[n], b.v[n])); }
  friend RNNK_HD Several fmax(const Several& a, const Several& b) { RNNK_EACH(fmax(a.v[n], b.v[n])); }
  friend RNNK_HD Several rint(const Several& a) { RNNK_EACH(rint(a.v[n])); }
  friend RNNK_HD Several scale2(const Several& x, const Several& e) { RNNK_EACH(scale2(x.v[n], e.v[n])); }
#undef RNNK_EACH

  using Mask = decltype(less(V(), V()));
  struct Masks {
    Mask m[N];
  };
  friend RNNK_HD Masks less(const Several& a, const Several& b) {
    Masks to;
    RNNK_UNROLL for (int n = 0; n < N; ++n) to.m[n] = less(a.v[n], b.v[n]);
    return to;
  }
  friend RNNK_HD Several select(const Masks& m, const Several& a, const Several& b) {
    return from([&](int n) RNNK_INLINE { return select(m.m[n], a.v[n], b.v[n]); });
  }
};

// The same of one vector or several: from(of) asks of(n) for each vector, each(u, to) calls to(vector, n).
template <class U>
struct Vectors {
  static constexpr int count = 1;
  template <class Of>
  RNNK_HD static U from(const Of& of) {
    return of(0);
  }
  template <class To>
  RNNK_HD static void each(const U& u, const To& to) {
    to(u, 0);
  }
};
template <class V, int N>
struct Vectors<Several<V, N>> {
  static constexpr int count = N;
  template <class Of>
  RNNK_HD static Several<V, N> from(const Of& of) {
    return Several<V, N>::from(of);
  }
  template <class To>
  RNNK_HD static void each(const Several<V, N>& u, const To& to) {
    u.each(to);
  }
};

}  // namespace
}  // namespace rnnk
