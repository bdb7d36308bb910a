// What a kernel computes with: vectors for the pointwise part, and how the two sides of a product are stored and multiplied.
//
// An arithmetic A offers
//   V, T                  the vector of the pointwise part, its element; sums are kept in V
//   Operand, Weight       elements of a product's two sides in the driver's own buffers
//   pair                  terms that lie side by side in packed weights: [k / pair][vector][lanes][pair]
//   depth                 products have a multiple of this many terms, on both sides; those past the end are zero
//   step                  terms of one mac()
//   cycles_per_fma()      for the choice among kernels: of one term of one vector
//   storage               the caller's dtype that load_stored and store_stored handle at full speed
//   broadcast(Operand*), weights(Weight*, j), mac(x, w, sum)   term j of a pair
//   join(rows)            the bits of a vector of T whose lanes hold an operand of each row, the first in the lower bits
//   join_stored(rows)     the same of rows in the caller's storage: a vector of weights
//   plain                 operands, weights and sums are of one type, side by side: products need no pack (unpacked.h)
//   matrix                true: walk() does whole products (isa/amx.cpp), and there is no mac(); rows and least_rows say of
//                         what height
#pragma once
#include <type_traits>

#include "cpu/io.h"
#include "cpu/unroll.h"

namespace rnnk {
namespace {

// bfloat16 in vectors of float, by integer operations on the compiler's own vectors: one text for every instruction set.
template <class V>
struct Bf16 {
  static constexpr int W = V::lanes;
  typedef uint32_t U __attribute__((vector_size(4 * W)));

  template <class To, class From>
  RNNK_HD static To bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
  }
  // Rounded half to even, the lower 16 bits zero; NaN stays a NaN.
  RNNK_HD static U rounded(V v) {
    const U u = bits<U>(v), even = u + 0x7fffu + ((u >> 16) & 1u);
    const U nan = bits<U>((u & 0x7fffffffu) > 0x7f800000u);
    return ((even & ~nan) | ((u | 0x400000u) & nan)) & 0xffff0000u;
  }
  RNNK_HD static V round(V v) { return bits<V>(rounded(v)); }
  RNNK_HD static V load(const uint16_t* p) { return V::load_upper(p); }
  RNNK_HD static void store(V v, uint16_t* p) { round(v).store_upper(p); }
  // Pairs: lane i holds two terms, the first in its lower half.
  RNNK_HD static V of_pair(const uint16_t* p, int j) {
    U u;
    __builtin_memcpy(&u, p, sizeof u);
    return bits<V>(j == 0 ? U(u << 16) : U(u & 0xffff0000u));
  }
  RNNK_HD static void store_pair(V first, V second, uint16_t* p) {
    const U u = (rounded(first) >> 16) | rounded(second);
    __builtin_memcpy(p, &u, sizeof u);
  }
  RNNK_HD static V pair_of(const uint16_t* first, const uint16_t* second) {
    return bits<V>(U((bits<U>(load(first)) >> 16) | bits<U>(load(second))));
  }
};

// sum + x w in a product's inner loop, where a vector type has no better way to say it (isa/avx2_vec.h).
template <class V>
RNNK_HD V accumulate(V x, V w, V sum) {
  return fma(x, w, sum);
}

// Everything in the vector's own type; half types are converted at the border.
template <class Vec>
struct Native {
  using V = Vec;
  using T = typename V::T;
  using Operand = T;
  using Weight = T;
  static constexpr int pair = 1, depth = 1, step = 1;
  static constexpr bool matrix = false, plain = true;
  static constexpr int storage = native_dtype<T>();
  static double cycles_per_fma() { return V::cycles_per_fma; }

  RNNK_HD static V load(const Operand* p) { return V::load(p); }
  RNNK_HD static void store(V v, Operand* p) { v.store(p); }
  RNNK_HD static V broadcast(const Operand* a) { return V::set1(*a); }
  RNNK_HD static V weights(const Weight* w, int) { return V::load(w); }
  RNNK_HD static V mac(V x, V w, V sum) { return accumulate(x, w, sum); }
  RNNK_HD static void store_weights(const V (&terms)[1], Weight* p) { terms[0].store(p); }
  RNNK_HD static V join(const Operand* const (&rows)[1]) { return V::load(rows[0]); }
  RNNK_HD static V join_stored(const T* const (&rows)[1]) { return V::load(rows[0]); }

  using Stored = T;
  RNNK_HD static V load_stored(const Stored* p) { return V::load(p); }
  RNNK_HD static void store_stored(V v, Stored* p) { v.store(p); }
  RNNK_HD static V load_stored(const Stored* p, int64_t n) { return V::load_n(p, n); }
  RNNK_HD static void store_stored(V v, Stored* p, int64_t n) { v.store_n(p, n); }
  RNNK_HD static V round(V v) { return v; }
};

// What every arithmetic for bfloat16 has in common: the caller's tensors, and weights as they came.
template <class Vec>
struct OfBf16 {
  using V = Vec;
  using T = typename V::T;
  using Weight = uint16_t;
  using Stored = uint16_t;
  using B = Bf16<V>;
  static_assert(std::is_same_v<T, float>);
  static constexpr int pair = 2;
  static constexpr bool matrix = false, plain = false;
  static constexpr int storage = RNNK_BFLOAT16;

  RNNK_HD static void store_weights(const V (&terms)[2], Weight* p) { B::store_pair(terms[0], terms[1], p); }
  RNNK_HD static V join_stored(const Stored* const (&rows)[2]) { return B::pair_of(rows[0], rows[1]); }
  RNNK_HD static V load_stored(const Stored* p) { return B::load(p); }
  RNNK_HD static void store_stored(V v, Stored* p) { B::store(v, p); }
  RNNK_HD static V load_stored(const Stored* p, int64_t n) {
    if (n >= V::lanes) return B::load(p);
    Stored part[V::lanes] = {};
    for (int64_t i = 0; i < n; ++i) part[i] = p[i];
    return B::load(part);
  }
  RNNK_HD static void store_stored(V v, Stored* p, int64_t n) {
    if (n >= V::lanes) return B::store(v, p);
    Stored part[V::lanes];
    B::store(v, part);
    for (int64_t i = 0; i < n; ++i) p[i] = part[i];
  }
  RNNK_HD static V round(V v) { return B::round(v); }
};

// Weights stay bfloat16, half the bytes of a product bound by reading them; they are widened on their way into an FMA, so
// the sums are those of float.
template <class Vec>
struct Widened : OfBf16<Vec> {
  using V = Vec;
  using T = typename V::T;
  using Operand = T;
  static constexpr int depth = 1, step = 1;
  static constexpr double cycles_per_fma() {
    return V::cycles_per_fma * 1.2;
  }  // a guess: one instruction more per weight vector

  RNNK_HD static V load(const Operand* p) { return V::load(p); }
  RNNK_HD static void store(V v, Operand* p) { v.store(p); }
  RNNK_HD static V join(const Operand* const (&rows)[1]) { return V::load(rows[0]); }
  RNNK_HD static V broadcast(const Operand* a) { return V::set1(*a); }
  RNNK_HD static V weights(const uint16_t* w, int j) { return Bf16<V>::of_pair(w, j); }
  RNNK_HD static V mac(V x, V w, V sum) { return accumulate(x, w, sum); }
};

// Both sides bfloat16: what an instruction that multiplies them needs. Gradients of pre-activations are rounded, too.
template <class Vec>
struct Rounded : OfBf16<Vec> {
  using V = Vec;
  using Operand = uint16_t;
  RNNK_HD static V load(const Operand* p) { return Bf16<V>::load(p); }
  RNNK_HD static void store(V v, Operand* p) { Bf16<V>::store(v, p); }
  RNNK_HD static V join(const Operand* const (&rows)[2]) { return Bf16<V>::pair_of(rows[0], rows[1]); }
};

// W rows of W lanes become columns: a perfect shuffle of the rows, log2(W) times over.
template <class V>
RNNK_HD void transpose(V (&rows)[V::lanes]) {
  constexpr int W = V::lanes;
  static_assert((W & (W - 1)) == 0);
  if constexpr (W > 1) {
    RNNK_UNROLL for (int round = 1; round < W; round *= 2) {
      V next[W];
      RNNK_UNROLL for (int i = 0; i < W / 2; ++i) zip(rows[i], rows[i + W / 2], next[2 * i], next[2 * i + 1]);
      RNNK_UNROLL for (int i = 0; i < W; ++i) rows[i] = next[i];
    }
  }
}

// The columns of a block of W rows of W lanes: out[k] has element k of row(0), row(1), ... An instruction set whose shuffles are the
// bottleneck has a load_columns of its own.
template <class V, class RowOf>
RNNK_HD void load_columns(const RowOf& row, V (&out)[V::lanes]) {
  if constexpr (requires { V::load_columns(row, out); }) {
    V::load_columns(row, out);
  } else {
    RNNK_UNROLL for (int i = 0; i < V::lanes; ++i) out[i] = V::load(row(i));
    transpose<V>(out);
  }
}

// The elements of an operand of n elements, n a multiple of the vector's width, up to a multiple of depth.
template <class A>
RNNK_HD void zero_tail(typename A::Operand* p, int64_t n) {
  for (int64_t i = n; i < round_up(n, A::depth); ++i) p[i] = 0;
}

// An operand's element as a number, and back.
RNNK_HD float value(float x) { return x; }
RNNK_HD double value(double x) { return x; }
RNNK_HD float value(uint16_t x) { return bf16_to_float(x); }
RNNK_HD void assign(float& to, float x) { to = x; }
RNNK_HD void assign(double& to, double x) { to = x; }
RNNK_HD void assign(uint16_t& to, float x) { to = float_to_bf16(x); }

// Units [first, first + n) of a row; lanes past n are zero.
template <class A>
RNNK_HD typename A::V load_units(Row r, int64_t first, int64_t n) {
  using V = typename A::V;
  if (r.dtype == A::storage && r.stride == 1) {
    return A::load_stored(reinterpret_cast<const typename A::Stored*>(r.data) + first, n);
  }
  typename V::T lanes[V::lanes];
  read_units<V>(r, first, n, lanes);
  return V::load(lanes);
}
template <class A>
RNNK_HD void store_units(Row r, int64_t first, int64_t n, typename A::V v) {
  using V = typename A::V;
  if (r.dtype == A::storage && r.stride == 1) {
    A::store_stored(v, reinterpret_cast<typename A::Stored*>(r.data) + first, n);
  } else {
    typename V::T lanes[V::lanes];
    v.store(lanes);
    write_units<V>(r, first, n, lanes);
  }
}

// The value after a round trip through the storage type: what the next step, or the next piece of the sequence, sees as h.
template <class A>
RNNK_HD typename A::V quantize(typename A::V v, int dtype) {
  using V = typename A::V;
  using T = typename V::T;
  if (dtype == A::storage) return A::round(v);
  T lanes[V::lanes];
  v.store(lanes);
  uint64_t stored = 0;  // room for any storage type
  for (int i = 0; i < V::lanes; ++i) {
    write<T>(&stored, dtype, 0, lanes[i]);
    lanes[i] = read<T>(&stored, dtype, 0);
  }
  return V::load(lanes);
}

}  // namespace
}  // namespace rnnk
