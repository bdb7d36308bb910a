// Layer normalisation of a row in panel order (J. Ba et al., 2016, arXiv 1607.06450), forward and backward: sums in W chains
// over the row, then over their lanes in order, so that they do not depend on the split.
#pragma once
#include "cpu/layout.h"

namespace rnnk {
namespace {

template <class V>
typename V::T sum_of_lanes(V v) {
  typename V::T lanes[V::lanes], sum = 0;
  v.store(lanes);
  for (const auto lane : lanes) sum += lane;
  return sum;
}

// fn(column of the vector's first lane, panel, gate, lanes that are units) for a row's vectors.
template <class V, class Fn>
RNNK_HD void for_vectors(int gates, const Axis<V::lanes>& axis, const Fn& fn) {
  int64_t c = 0;
  for (int64_t p = 0; p < axis.panels(); ++p) {
    const int64_t n = axis.valid(p);
    for (int g = 0; g < gates; ++g, c += V::lanes) fn(c, p, g, n);
  }
}
template <class V>
RNNK_HD V valid_lanes(V v, int64_t n) {
  return n < V::lanes ? v.first_n(n) : v;
}

// Mean and 1 / sqrt(var + 1e-5) (torch.nn.LayerNorm's) of a row's units.
template <class V>
void row_moments(const typename V::T* v, int gates, const Axis<V::lanes>& axis, typename V::T& mean, typename V::T& scale) {
  using T = typename V::T;
  const T n = static_cast<T>(gates * axis.units);
  V sum = V::set1(0), squares = sum;
  for_vectors<V>(gates, axis, [&](int64_t c, int64_t, int, int64_t n) { sum = sum + valid_lanes(V::load(v + c), n); });
  mean = sum_of_lanes(sum) / n;
  const V middle = V::set1(mean);
  for_vectors<V>(gates, axis, [&](int64_t c, int64_t, int, int64_t n) {
    const V off = valid_lanes(V::load(v + c) - middle, n);
    squares = fma(off, off, squares);
  });
  scale = T(1) / static_cast<T>(__builtin_sqrt(static_cast<double>(sum_of_lanes(squares) / n + T(1e-5))));
}

// dv of v from the gradient of gamma * normed: with dn = gamma * dg,
//   dv = scale * (dn - mean(dn) - normed * mean(dn * normed)).
template <class A>
void norm_backward(const typename A::T* dg, const typename A::T* gamma, const typename A::T* normed, typename A::T scale,
                   int gates, const Axis<A::V::lanes>& axis, typename A::Operand* dv) {
  using V = typename A::V;
  using T = typename A::T;
  V sum = V::set1(0), dot = sum;
  for_vectors<V>(gates, axis, [&](int64_t c, int64_t, int, int64_t n) {
    const V dn = valid_lanes(V::load(gamma + c) * V::load(dg + c), n);
    sum = sum + dn;
    dot = fma(dn, valid_lanes(V::load(normed + c), n), dot);
  });
  const T count = static_cast<T>(gates * axis.units);
  const V mean = V::set1(sum_of_lanes(sum) / count), slope = V::set1(sum_of_lanes(dot) / count), by = V::set1(scale);
  for_vectors<V>(gates, axis, [&](int64_t c, int64_t, int, int64_t n) {
    const V dn = V::load(gamma + c) * V::load(dg + c);
    A::store(valid_lanes(by * (dn - mean - V::load(normed + c) * slope), n), dv + c);
  });
}

}  // namespace
}  // namespace rnnk
