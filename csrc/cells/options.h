// The options of a step that every cell may have, and the activations among them (the eleven of ONNX's RNN operators,
// onnx/defs/rnn/defs.cc). Cells with options read them at run time from Step::o; plain cells have none and pay nothing.
#pragma once
#include "cells/math.h"

namespace rnnk {

template <class T>
struct Function {
  Activate kind;
  T alpha, beta;
};

template <class T>
struct CellOptions {
  Function<T> f, g, h;  // LSTM: of i f o, of g, of the cell's output; GRU: of r z, of n; Elman: f alone
  bool clipped;
  T clip;  // bound of the input of every activation but h of LSTM, as onnxruntime and OpenVINO have it
  bool peephole, coupled;
  bool keeps_input;  // clip, or an activation whose slope does not follow from its value: the input is saved instead
};

// exp(x) - 1, to 2 ulp of the larger of |x| and the result.
template <class V>
RNNK_HD V exp_minus_1(V x) {
  using T = typename V::T;
  x = fmin(V::set1(T(sizeof(T) == 4 ? 88.37626 : 709.4)), fmax(V::set1(T(sizeof(T) == 4 ? -87.33654 : -708.3)), x));
  V n;
  const V fraction = exp_fraction_minus_1(x, n), power = scale2(V::set1(1), n);
  return fma(power, fraction, power - V::set1(1));
}

// log(1 + u), u in [0, 1]: 2 artanh(s) with s = u / (2 + u) <= 1/3, a series in s^2 <= 1/9 whose rest is below 1e-9 (float)
// and 1e-17 (double).
template <class V>
RNNK_HD V log_1_plus(V u) {
  using T = typename V::T;
  constexpr int terms = sizeof(T) == 4 ? 9 : 17;
  const V s = u * reciprocal(V::set1(2) + u), square = s * s;
  V sum = V::set1(T(1) / T(2 * terms - 1));
  for (int k = terms - 2; k >= 0; --k) sum = fma(sum, square, V::set1(T(1) / T(2 * k + 1)));
  return (s + s) * sum;
}

template <class V>
RNNK_HD V absolute(V x) {
  return fmax(-x, x);
}

// Out of line: a step calls it five times.
template <class V>
RNNK_CALL V activate_any(Function<typename V::T> fn, V x) {
  const V zero = V::set1(0), one = V::set1(1), alpha = V::set1(fn.alpha), beta = V::set1(fn.beta);
  switch (fn.kind) {
    case Activate::relu: return relu(x);
    case Activate::affine: return fma(alpha, x, beta);
    case Activate::leaky_relu: return select(less(x, zero), alpha * x, x);
    case Activate::thresholded_relu: return select(less(alpha, x), x, zero);
    case Activate::scaled_tanh: return alpha * tanh(beta * x);
    case Activate::hard_sigmoid: return fmin(one, fmax(zero, fma(alpha, x, beta)));
    case Activate::elu: return select(less(x, zero), alpha * exp_minus_1(x), x);
    case Activate::softsign: return x * reciprocal(one + absolute(x));
    case Activate::softplus: return fmax(zero, x) + log_1_plus(exp(-absolute(x)));
    case Activate::tanh: return tanh(x);
    default: return sigmoid(x);
  }
}
template <class V>
RNNK_HD V activate(const Function<typename V::T>& fn, V x) {
  if (fn.kind == Activate::sigmoid) return sigmoid(x);
  if (fn.kind == Activate::tanh) return tanh(x);
  return activate_any(fn, x);
}

// dy/dx at x, y being the activation there; at a kink the slope of the side where the function is zero, or the left one.
template <class V>
RNNK_CALL V slope_any(Function<typename V::T> fn, V x, V y) {
  using T = typename V::T;
  const V zero = V::set1(0), one = V::set1(1), alpha = V::set1(fn.alpha), beta = V::set1(fn.beta);
  switch (fn.kind) {
    case Activate::relu: return select(less(x, V::set1(least_normal<T>())), zero, one);  // NaN passes the gradient on
    case Activate::affine: return alpha;
    case Activate::leaky_relu: return select(less(zero, x), one, alpha);
    case Activate::thresholded_relu: return select(less(alpha, x), one, zero);
    case Activate::scaled_tanh: {
      const V t = tanh(beta * x);
      return alpha * beta * fma(-t, t, one);
    }
    case Activate::hard_sigmoid: {
      const V v = fma(alpha, x, beta);
      return select(less(zero, v), select(less(v, one), alpha, zero), zero);
    }
    case Activate::elu: return select(less(x, zero), y + alpha, one);
    case Activate::softsign: {
      const V r = reciprocal(one + absolute(x));
      return r * r;
    }
    case Activate::softplus: return sigmoid(x);
    case Activate::tanh: return fma(-y, y, one);
    default: return y * (one - y);
  }
}

template <class V>
RNNK_HD V slope(const Function<typename V::T>& fn, V x, V y) {
  if (fn.kind == Activate::sigmoid) return y * (V::set1(1) - y);
  if (fn.kind == Activate::tanh) return fma(-y, y, V::set1(1));
  return slope_any(fn, x, y);
}

// Value and slope of an activation.
template <class V>
struct Gate {
  V y, slope;
};
template <class V>
Gate(V, V) -> Gate<V>;  // clang before 17 deduces none for an aggregate

template <class Q, class V>
RNNK_HD V clipped(const Q& q, V v) {
  return q.o->clipped ? fmin(V::set1(q.o->clip), fmax(V::set1(-q.o->clip), v)) : v;
}

// An activation without a clip before it, and what BPTT will need of it.
template <class Q, class V>
RNNK_HD V output_gate(const Q& q, const Function<typename V::T>& fn, V v, V& saved) {
  const V y = activate(fn, v);
  saved = q.o->keeps_input ? v : y;
  return y;
}
template <class V>
RNNK_HD Gate<V> output_at(const Function<typename V::T>& fn, V v) {
  const V y = activate(fn, v);
  return {y, slope(fn, v, y)};
}
template <class Q, class V>
RNNK_HD Gate<V> output_recall(const Q& q, const Function<typename V::T>& fn, V saved) {
  if (q.o->keeps_input) return output_at(fn, saved);
  return {saved, slope(fn, saved, saved)};  // sigmoid, tanh and relu alone
}

// The same of a gate's pre-activation, which is clipped.
template <class Q, class V>
RNNK_HD V gate(const Q& q, const Function<typename V::T>& fn, V v, V& saved) {
  return output_gate(q, fn, clipped(q, v), saved);
}
template <class Q, class V>
RNNK_HD Gate<V> recall(const Q& q, const Function<typename V::T>& fn, V saved) {
  if (!q.o->keeps_input) return {saved, slope(fn, saved, saved)};
  Gate<V> out = output_at(fn, saved);
  if (q.o->clipped) out.slope = select(less(absolute(saved), V::set1(q.o->clip)), out.slope, V::set1(0));
  return out;
}

// An activation that is known when a cell is compiled, in the place of a Function.
template <Activate kind>
struct Fixed {};
template <class V>
RNNK_HD V activate(Fixed<Activate::sigmoid>, V x) {
  return sigmoid(x);
}
template <class V>
RNNK_HD V activate(Fixed<Activate::tanh>, V x) {
  return tanh(x);
}
template <class V>
RNNK_HD V activate(Fixed<Activate::relu>, V x) {
  return relu(x);
}
template <class V>
RNNK_HD V slope(Fixed<Activate::sigmoid>, V, V y) {
  return y * (V::set1(1) - y);
}
template <class V>
RNNK_HD V slope(Fixed<Activate::tanh>, V, V y) {
  return fma(-y, y, V::set1(1));
}
// The gate of a plain cell: nothing is clipped, and the value is saved.
template <class Q, Activate kind, class V>
RNNK_HD V gate(const Q&, Fixed<kind> fn, V v, V& saved) {
  return saved = activate(fn, v);
}
template <class Q, Activate kind, class V>
RNNK_HD Gate<V> recall(const Q&, Fixed<kind> fn, V saved) {
  return {saved, slope(fn, saved, saved)};
}
template <Activate kind, class V>
RNNK_HD Gate<V> output_at(Fixed<kind> fn, V v) {
  const V y = activate(fn, v);
  return {y, slope(fn, v, y)};
}

// The gradient of a gate's pre-activation, d being that of its value.
template <class Q, class F, class V>
RNNK_HD V through(const Q& q, const F& fn, V saved, V d) {
  return d * recall(q, fn, saved).slope;
}
// Zero exactly where the value is; a NaN passes the gradient on, as in PyTorch.
template <class Q, class V>
RNNK_HD V through(const Q&, Fixed<Activate::relu>, V saved, V d) {
  return select(less(saved, V::set1(least_normal<typename V::T>())), V::set1(0), d);
}

// A cell's text is compiled with one of two policies. Plain: its activations are F, G and H, and there are no options to read.
template <Activate F, Activate G = Activate::of_cell, Activate H = Activate::of_cell>
struct Plain {
  static constexpr bool kHasOptions = false;
  static constexpr Activate kActivations[3] = {F, G, H};
  struct Options {
    Fixed<F> f;
    Fixed<G> g;
    Fixed<H> h;
    static constexpr bool peephole = false, coupled = false;
  };
  template <class Q>
  RNNK_HD static Options options(const Q&) {
    return {};
  }
};
struct WithOptions {
  static constexpr bool kHasOptions = true;
  static constexpr Activate kActivations[3] = {};
  template <class Q>
  RNNK_HD static const auto& options(const Q& q) {
    return *q.o;
  }
};

// Zoneout (D. Krueger et al., 2016, arXiv 1606.01305) of one vector: which share of the old state it keeps.
template <class V>
struct Zone {
  V share;  // at random 0 or 1, else the probability
  bool random;

  RNNK_HD V kept(V v) const { return random ? select(less(V::set1(0), share), v, V::set1(0)) : share * v; }
  RNNK_HD V renewed(V v) const { return random ? select(less(V::set1(0), share), V::set1(0), v) : v - share * v; }
  // Where all of the old is kept the new one does not matter, be it infinite.
  RNNK_HD V mix(V old, V now) const {
    const V zero = V::set1(0), one = V::set1(1);
    if (random) return select(less(zero, share), old, now);
    return select(less(share, one), fma(share, old, (one - share) * now), old);
  }
};

}  // namespace rnnk
