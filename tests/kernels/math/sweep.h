// Measures exp, sigmoid, tanh and reciprocal over one value type: prints "function type worst-ulp at" per function, and a
// line "wrong: ..." for every property that does not hold. tests/kernels/test_math.py reads both.
//
// An error is |got - exact| in units of the last place of the exact value; the exact value is taken from the next wider
// type (float: double; double: long double, 64 bits of significand or more), whose own error is below 0.001 ulp of ours.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cells/math.h"

namespace rnnk {

extern void (*sweep_float)(int64_t stride);
extern void (*sweep_double)(int64_t stride);

namespace {

template <class V>
struct Sweep {
  using T = typename V::T;
  using Wide = std::conditional_t<sizeof(T) == 4, double, long double>;
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  using Limits = std::numeric_limits<T>;
  static constexpr bool single = sizeof(T) == 4;
  static constexpr const char* type = single ? "f32" : "f64";
  static constexpr int W = V::lanes;

  static T from_bits(Bits bits) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  static double ulps(T got, Wide exact) {
    const int exponent = std::max(std::ilogb(exact), Limits::min_exponent - 1);
    return static_cast<double>(std::fabs(Wide(got) - exact) / std::ldexp(Wide(1), exponent - Limits::digits + 1));
  }
  static void wrong(const char* what, T at) { std::printf("wrong: %s %s at %a\n", type, what, double(at)); }

  // A function, its exact twin, where the contract holds, and a range its value never leaves.
  struct Exp {
    static constexpr const char* name = "exp";
    static V value(V x) { return exp(x); }
    static Wide exact(Wide x) { return std::exp(x); }
    static bool covered(Wide x, Wide) { return x >= (single ? -87 : -708) && x <= (single ? 88 : 709); }
    static bool in_range(T y) { return y > 0 && y <= Limits::max(); }
    static bool odd(T, T) { return true; }
  };
  struct Sigmoid {
    static constexpr const char* name = "sigmoid";
    static V value(V x) { return sigmoid(x); }
    static Wide exact(Wide x) { return 1 / (1 + std::exp(-x)); }
    static bool covered(Wide, Wide y) { return y >= (single ? Wide(1e-37) : Wide(1e-307L)); }
    static bool in_range(T y) { return y >= 0 && y <= 1; }
    static bool odd(T, T) { return true; }
  };
  struct Tanh {
    static constexpr const char* name = "tanh";
    static V value(V x) { return tanh(x); }
    static Wide exact(Wide x) { return std::tanh(x); }
    static bool covered(Wide, Wide) { return true; }
    static bool in_range(T y) { return y >= -1 && y <= 1; }
    static bool odd(T y, T mirrored) { return mirrored == -y; }
  };
  struct Reciprocal {
    static constexpr const char* name = "reciprocal";
    static V value(V x) { return reciprocal(x); }
    static Wide exact(Wide x) { return 1 / x; }
    static bool covered(Wide x, Wide y) { return x >= 1 && y >= Limits::min(); }
    static bool in_range(T) { return true; }
    static bool odd(T, T) { return true; }
  };

  template <class F>
  struct Worst {
    T x[W], y[W], mirrored[W];
    int filled = 0, bad = 0;
    double ulp = 0, at = 0;

    void add(T value) {
      x[filled++] = value;
      if (filled == W) flush();
    }
    void flush() {
      for (int i = filled; i < W; ++i) x[i] = 1;
      const V v = V::load(x);
      F::value(v).store(y);
      F::value(-v).store(mirrored);
      for (int i = 0; i < filled; ++i) check(x[i], y[i], mirrored[i]);
      filled = 0;
    }
    void check(T x, T y, T mirrored) {
      if (!(F::in_range(y) && F::odd(y, mirrored)) && ++bad <= 3) wrong(F::name, x);
      const Wide exact = F::exact(std::fabs(x) < Limits::min() ? 0 : x);  // kernels read subnormals as zero
      if (!F::covered(x, exact)) return;
      const double error = ulps(y, exact);
      if (!(error <= ulp)) ulp = error, at = x;
    }
  };

  // Every stride-th number in the order of the bits (so all binades alike), then the same count again evenly over the
  // stretch where the functions bend.
  template <class F>
  static void run(int64_t stride) {
    Worst<F> worst;
    const int64_t count = (int64_t{1} << 32) / stride;
    const Bits finite = Bits(Limits::max_exponent * 2 - 1) << (Limits::digits - 1);  // bits of infinity
    for (int64_t i = 0; i < count; ++i) {
      const Bits magnitude =
          single ? Bits(i * stride) & 0x7fffffffu : Bits(i) * (finite / Bits(count)) + Bits(i * 977 % 8191);
      if (magnitude >= finite) continue;
      const T x = from_bits(magnitude);
      worst.add(single && i * stride > 0x7fffffff ? -x : i % 2 && !single ? -x : x);
    }
    const T reach = single ? T(90) : T(720);
    for (int64_t i = 0; i < count; ++i) {
      const T x = static_cast<T>((2.0L * i / count - 1) * (i % 4 ? T(10) : reach));
      worst.add(x);
    }
    worst.flush();
    std::printf("%s %s %.3f %a\n", F::name, type, worst.ulp, worst.at);
  }

  static T one(V (*f)(V), T x) {
    T lanes[W];
    f(V::set1(x)).store(lanes);
    for (int i = 1; i < W; ++i) {
      if (std::memcmp(&lanes[i], &lanes[0], sizeof(T))) wrong("lanes differ", x);
    }
    return lanes[0];
  }

  static void limits() {
    const T inf = Limits::infinity(), nan = Limits::quiet_NaN(), tiny = single ? T(1e-37) : T(1e-307);
    V (*const functions[])(V) = {exp<V>, sigmoid<V>, tanh<V>, relu<V>};
    for (const auto f : functions) {
      if (one(f, nan) == one(f, nan)) wrong("NaN is lost", nan);
    }
    if (one(exp<V>, 0) != 1) wrong("exp(0)", 0);
    if (!(one(exp<V>, inf) < inf && one(exp<V>, -inf) > 0)) wrong("exp is not clamped", inf);
    if (one(sigmoid<V>, 0) != T(0.5)) wrong("sigmoid(0)", 0);
    if (one(sigmoid<V>, inf) != 1 || !(one(sigmoid<V>, -inf) < tiny)) wrong("sigmoid", inf);
    if (one(tanh<V>, 0) != 0) wrong("tanh(0)", 0);
    if (one(tanh<V>, inf) != 1 || one(tanh<V>, -inf) != -1) wrong("tanh", inf);
    if (one(relu<V>, inf) != inf || one(relu<V>, -inf) != 0 || one(relu<V>, T(-0.5)) != 0) wrong("relu", inf);
  }

  // What cells/hd.h asks of a value type beside arithmetic.
  static void operations() {
    const T nan = Limits::quiet_NaN(), halves[] = {-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5}, even[] = {-2, -2, 0, 0, 2, 2, 4};
    T lanes[2 * W], out[2 * W];
    for (int i = 0; i < 7; ++i) {
      rint(V::set1(halves[i])).store(lanes);
      if (lanes[0] != even[i]) wrong("rint", halves[i]);
    }
    fmin(V::set1(1), V::set1(nan)).store(lanes);
    fmax(V::set1(nan), V::set1(2)).store(out);
    if (lanes[0] == lanes[0] || out[0] != 2) wrong("fmin, fmax of NaN", nan);
    for (const T n : {T(Limits::min_exponent - 1), T(-1), T(0), T(Limits::max_exponent - 1)}) {
      scale2(V::set1(T(1.25)), V::set1(n)).store(lanes);
      if (lanes[0] != std::ldexp(T(1.25), int(n))) wrong("scale2", n);
    }
    for (int i = 0; i < 2 * W; ++i) lanes[i] = T(i + 1);
    for (int n = 0; n <= W; ++n) {  // tails read as zero and are not written
      for (auto& o : out) o = -1;
      V::load_n(lanes, n).store(out);
      V::load(lanes).store_n(out + W, n);
      for (int i = 0; i < W; ++i) {
        if (out[i] != (i < n ? lanes[i] : 0) || out[W + i] != (i < n ? lanes[i] : -1)) wrong("a tail of lanes", T(n));
      }
      V::load(lanes).first_n(n).store(out);
      for (int i = 0; i < W; ++i) {
        if (out[i] != (i < n ? lanes[i] : 0)) wrong("first_n", T(n));
      }
    }
  }
};

template <class V>
void sweep(int64_t stride) {
  using S = Sweep<V>;
  S::template run<typename S::Exp>(stride);
  S::template run<typename S::Sigmoid>(stride);
  S::template run<typename S::Tanh>(stride);
  S::template run<typename S::Reciprocal>(stride);
  S::limits();
  S::operations();
}

}  // namespace
}  // namespace rnnk
