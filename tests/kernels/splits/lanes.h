// A vector of four lanes, each of which computes what the one-lane types do: what those lack is padding, and with heads and
// several stages there are many places where padding units could leak into a sum. On the compiler's own vectors, for any
// machine: as an array of one-lane vectors, unrolled, it took twice as long to compile.
#pragma once
#include "cpu/isa/scalar_vec.h"

namespace rnnk {
namespace {

template <class S>
struct Four {
  using T = typename S::T;
  static constexpr int lanes = 4, registers = 16;
  static constexpr double cycles_per_fma = 4;
  typedef T Vec __attribute__((vector_size(4 * sizeof(T))));
  typedef decltype(Vec{} < Vec{}) Mask;
  Vec v;

  // clang-format off: one operation a line
  RNNK_HD static Four load(const T* p) { Four out; __builtin_memcpy(&out.v, p, sizeof out.v); return out; }
  RNNK_HD static Four load_n(const T* p, int64_t n) {
    Four out = set1(0);
    for (int i = 0; i < lanes && i < n; ++i) out.v[i] = p[i];
    return out;
  }
  RNNK_HD void store(T* p) const { __builtin_memcpy(p, &v, sizeof v); }
  RNNK_HD void store_n(T* p, int64_t n) const {
    for (int i = 0; i < lanes && i < n; ++i) p[i] = v[i];
  }
  RNNK_HD Four first_n(int64_t n) const {
    Four out = *this;
    for (int i = 0; i < lanes; ++i) out.v[i] = i < n ? v[i] : T(0);
    return out;
  }
  RNNK_HD static Four set1(T x) { return {Vec{x, x, x, x}}; }

  friend RNNK_HD Four operator+(Four a, Four b) { return {a.v + b.v}; }
  friend RNNK_HD Four operator-(Four a, Four b) { return {a.v - b.v}; }
  friend RNNK_HD Four operator*(Four a, Four b) { return {a.v * b.v}; }
  friend RNNK_HD Four operator/(Four a, Four b) { return {a.v / b.v}; }
  friend RNNK_HD Four operator-(Four a) { return {-a.v}; }
  friend RNNK_HD Four fma(Four a, Four b, Four c) { return {a.v * b.v + c.v}; }
  friend RNNK_HD Four reciprocal(Four a) { return {T(1) / a.v}; }
  friend RNNK_HD Four fmin(Four a, Four b) { return {a.v < b.v ? a.v : b.v}; }
  friend RNNK_HD Four fmax(Four a, Four b) { return {a.v > b.v ? a.v : b.v}; }
  friend RNNK_HD Mask less(Four a, Four b) { return a.v < b.v; }
  friend RNNK_HD Four select(Mask m, Four a, Four b) { return {m ? a.v : b.v}; }
  // clang-format on
  friend RNNK_CALL Four rint(Four a) {
    for (int i = 0; i < lanes; ++i) a.v[i] = rint(S{a.v[i]}).v;
    return a;
  }
  friend RNNK_CALL Four scale2(Four x, Four n) {
    for (int i = 0; i < lanes; ++i) x.v[i] = scale2(S{x.v[i]}, S{n.v[i]}).v;
    return x;
  }
  friend RNNK_HD void zip(Four a, Four b, Four& lo, Four& hi) {
    lo.v = Vec{a.v[0], b.v[0], a.v[1], b.v[1]};
    hi.v = Vec{a.v[2], b.v[2], a.v[3], b.v[3]};
  }
};

}  // namespace
}  // namespace rnnk
