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

// fn(chain, column of the vector's first lane, lanes that are units) for a row's vectors. Sums go in four chains, or an addition
// would wait for the one before it; a row of one head has padding in its last panel alone.
constexpr int kChains = 4;
template <class V, class Fn>
RNNK_HD void for_vectors(int gates, const Axis<V::lanes>& axis, const Fn& fn) {
  constexpr int W = V::lanes;
  const int64_t whole = (axis.panels() - 1) * gates;
  int64_t i = 0;
  for (; i + kChains <= whole; i += kChains) {
    RNNK_UNROLL for (int k = 0; k < kChains; ++k) fn(k, (i + k) * W, W);
  }
  for (; i < whole; ++i) fn(0, i * W, W);
  for (; i < whole + gates; ++i) fn(0, i * W, axis.valid(axis.panels() - 1));
}
template <class V>
RNNK_HD V valid_lanes(V v, int64_t n) {
  return n < V::lanes ? v.first_n(n) : v;
}
template <class V>
typename V::T sum_of_chains(const V (&chains)[kChains]) {
  return sum_of_lanes((chains[0] + chains[1]) + (chains[2] + chains[3]));
}

// Mean and 1 / sqrt(var + 1e-5) (torch.nn.LayerNorm's) of a row's units.
template <class V>
void row_moments(const typename V::T* v, int gates, const Axis<V::lanes>& axis, typename V::T& mean, typename V::T& scale) {
  using T = typename V::T;
  const T n = static_cast<T>(gates * axis.units);
  const V zero = V::set1(0);
  V sum[kChains] = {zero, zero, zero, zero}, squares[kChains] = {zero, zero, zero, zero};
  for_vectors<V>(gates, axis, [&](int k, int64_t c, int64_t n) { sum[k] = sum[k] + valid_lanes(V::load(v + c), n); });
  mean = sum_of_chains(sum) / n;
  const V middle = V::set1(mean);
  for_vectors<V>(gates, axis, [&](int k, int64_t c, int64_t n) {
    const V off = valid_lanes(V::load(v + c) - middle, n);
    squares[k] = fma(off, off, squares[k]);
  });
  scale = T(1) / static_cast<T>(__builtin_sqrt(static_cast<double>(sum_of_chains(squares) / n + T(1e-5))));
}

// dv of v from the gradient of gamma * normed: with dn = gamma * dg,
//   dv = scale * (dn - mean(dn) - normed * mean(dn * normed)).
template <class A>
void norm_backward(const typename A::T* dg, const typename A::T* gamma, const typename A::T* normed, typename A::T scale,
                   int gates, const Axis<A::V::lanes>& axis, typename A::Operand* dv) {
  using V = typename A::V;
  using T = typename A::T;
  const V zero = V::set1(0);
  V sum[kChains] = {zero, zero, zero, zero}, dot[kChains] = {zero, zero, zero, zero};
  for_vectors<V>(gates, axis, [&](int k, int64_t c, int64_t n) {
    const V dn = valid_lanes(V::load(gamma + c) * V::load(dg + c), n);
    sum[k] = sum[k] + dn;
    dot[k] = fma(dn, valid_lanes(V::load(normed + c), n), dot[k]);
  });
  const T count = static_cast<T>(gates * axis.units);
  const V mean = V::set1(sum_of_chains(sum) / count), slope = V::set1(sum_of_chains(dot) / count), by = V::set1(scale);
  for_vectors<V>(gates, axis, [&](int, int64_t c, int64_t n) {
    const V dn = V::load(gamma + c) * V::load(dg + c);
    A::store(valid_lanes(by * (dn - mean - V::load(normed + c) * slope), n), dv + c);
  });
}

}  // namespace
}  // namespace rnnk
