// A vector of N lanes made of N one-lane vectors: what the scalar types lack is padding, and a multi-stage cell has more
// places where padding units could leak into a sum over the row.
#pragma once
#include "cpu/isa/scalar_vec.h"

namespace rnnk {
namespace {

template <class S, int N>
struct Lanes {
  using T = typename S::T;
  static constexpr int lanes = N, registers = 16;
  static constexpr double cycles_per_fma = N;
  S v[N];
  struct Mask {
    bool v[N];
  };

  template <class F>
  RNNK_HD static Lanes each(const F& f) {
    Lanes out;
    for (int i = 0; i < N; ++i) out.v[i] = f(i);
    return out;
  }
  // clang-format off: one operation a line
  RNNK_HD static Lanes load(const T* p) { return each([&](int i) { return S{p[i]}; }); }
  RNNK_HD static Lanes load_n(const T* p, int64_t n) { return each([&](int i) { return S{i < n ? p[i] : T(0)}; }); }
  RNNK_HD void store(T* p) const { store_n(p, N); }
  RNNK_HD void store_n(T* p, int64_t n) const {
    for (int i = 0; i < N && i < n; ++i) p[i] = v[i].v;
  }
  RNNK_HD Lanes first_n(int64_t n) const { return each([&](int i) { return S{i < n ? v[i].v : T(0)}; }); }
  RNNK_HD static Lanes set1(T x) { return each([&](int) { return S{x}; }); }

  friend RNNK_HD Lanes operator+(Lanes a, Lanes b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
  friend RNNK_HD Lanes operator-(Lanes a, Lanes b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
  friend RNNK_HD Lanes operator*(Lanes a, Lanes b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
  friend RNNK_HD Lanes operator/(Lanes a, Lanes b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
  friend RNNK_HD Lanes operator-(Lanes a) { return each([&](int i) { return -a.v[i]; }); }
  friend RNNK_HD Lanes fma(Lanes a, Lanes b, Lanes c) {
    return each([&](int i) { return fma(a.v[i], b.v[i], c.v[i]); });
  }
  friend RNNK_HD Lanes reciprocal(Lanes a) { return each([&](int i) { return reciprocal(a.v[i]); }); }
  friend RNNK_HD Lanes fmin(Lanes a, Lanes b) { return each([&](int i) { return fmin(a.v[i], b.v[i]); }); }
  friend RNNK_HD Lanes fmax(Lanes a, Lanes b) { return each([&](int i) { return fmax(a.v[i], b.v[i]); }); }
  friend RNNK_HD Lanes rint(Lanes a) { return each([&](int i) { return rint(a.v[i]); }); }
  friend RNNK_HD Lanes scale2(Lanes x, Lanes n) { return each([&](int i) { return scale2(x.v[i], n.v[i]); }); }
  // clang-format on
  friend RNNK_HD Mask less(Lanes a, Lanes b) {
    Mask out;
    for (int i = 0; i < N; ++i) out.v[i] = less(a.v[i], b.v[i]);
    return out;
  }
  friend RNNK_HD Lanes select(Mask m, Lanes a, Lanes b) {
    return each([&](int i) { return select(m.v[i], a.v[i], b.v[i]); });
  }
  friend RNNK_HD void zip(Lanes a, Lanes b, Lanes& lo, Lanes& hi) {
    lo = each([&](int i) { return (i % 2 ? b : a).v[i / 2]; });
    hi = each([&](int i) { return (i % 2 ? b : a).v[(N + i) / 2]; });
  }
};

}  // namespace
}  // namespace rnnk
