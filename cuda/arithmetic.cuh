// How products are formed: the type of sums, of operands, and a 16 x K by K x 8 product of a warp. Weights lie in fragments (packed
// once, `place` says how), so that a lane reads its part of one as whole 16 bytes; operands are rows of memory.
// Sums run over k in a fixed order, so results do not depend on the grid.
#pragma once
#include "cuda/layout.h"
#include "cuda/value.cuh"

namespace rnnk {
namespace gpu {

constexpr int kRows = 8;  // batch rows of a product: its columns

RNNK_DEVICE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class Element>
struct alignas(16) Vector4 {  // 16 or 32 bytes
  Element v[4];
};

struct Sixteen {  // what the two 16-bit types share
  using T = float;
  using V = One<float, true>;
  using Operand = uint16_t;
  static constexpr int K = 16;
  struct A {
    uint32_t r[4];
  };
  struct B {
    uint32_t r[2];
  };
  RNNK_HD static int place(int unit, int k) { return ((unit % 8) * 4 + k % 8 / 2) * 8 + (unit / 8 + k / 8 * 2) * 2 + k % 2; }
  RNNK_DEVICE static A load_a(const Operand* fragment) {
    const auto four = reinterpret_cast<const Vector4<uint32_t>*>(fragment)[lane()];
    return {{four.v[0], four.v[1], four.v[2], four.v[3]}};
  }
  // What a lane reads of up to 8 rows, ld apart and aligned to 4 bytes; of rows beyond `count` it reads the last.
  struct Rows {
    const Operand* row;
    RNNK_DEVICE Rows(const Operand* rows, int64_t ld, int64_t count) : row(rows + least(lane() / 4, count - 1) * ld) {}
  };
  RNNK_DEVICE static B load_b(const Rows& rows, int64_t k) {
    const auto* two = reinterpret_cast<const uint32_t*>(rows.row + k) + lane() % 4;
    return {{two[0], two[4]}};
  }
  RNNK_DEVICE static B from_words(uint32_t low, uint32_t high) {
    return {{low, high}};
  }  // what load_b reads, brought by others
};

struct BFloat16 : Sixteen {
  static constexpr int dtype = RNNK_BFLOAT16;
  static constexpr Precision precision = Precision::bf16;
  RNNK_DEVICE static Operand weight(float v) { return float_to_bf16(v); }
  RNNK_DEVICE static void multiply(float (&d)[4], const A& a, const B& b) { mma_bf16(d, a.r, b.r); }
};
struct Float16 : Sixteen {
  static constexpr int dtype = RNNK_FLOAT16;
  static constexpr Precision precision = Precision::f16;
  RNNK_DEVICE static Operand weight(float v) { return to_half(v); }
  RNNK_DEVICE static void multiply(float (&d)[4], const A& a, const B& b) { mma_f16(d, a.r, b.r); }
};

struct Tf32 {
  using T = float;
  using V = One<float>;
  using Operand = float;
  static constexpr int K = 8, dtype = RNNK_FLOAT32;
  static constexpr Precision precision = Precision::tf32;
  struct A {
    uint32_t r[4];
  };
  struct B {
    uint32_t r[2];
  };
  RNNK_HD static int place(int unit, int k) { return (unit % 8 * 4 + k % 4) * 4 + unit / 8 + k / 4 * 2; }
  RNNK_DEVICE static float weight(float v) { return bits_to_float(to_tf32(v)); }
  RNNK_DEVICE static A load_a(const float* fragment) {
    const auto four = reinterpret_cast<const Vector4<uint32_t>*>(fragment)[lane()];
    return {{four.v[0], four.v[1], four.v[2], four.v[3]}};
  }
  struct Rows {
    const float* row;
    RNNK_DEVICE Rows(const float* rows, int64_t ld, int64_t count) : row(rows + least(lane() / 4, count - 1) * ld) {}
  };
  RNNK_DEVICE static B load_b(const Rows& rows, int64_t k) {
    const float* at = rows.row + k + lane() % 4;
    return {{to_tf32(at[0]), to_tf32(at[4])}};
  }
  RNNK_DEVICE static B from_words(uint32_t low, uint32_t high) {
    return {{to_tf32(bits_to_float(low)), to_tf32(bits_to_float(high))}};
  }
  RNNK_DEVICE static void multiply(float (&d)[4], const A& a, const B& b) { mma_tf32(d, a.r, b.r); }
};

// No matrix unit: every lane makes the four elements of d that are its own in the layout of mma. Full precision.
template <class Element, int its_dtype, Precision its_precision>
struct Fused {
  using T = Element;
  using V = One<Element>;
  using Operand = Element;
  static constexpr int K = 4, dtype = its_dtype;
  static constexpr Precision precision = its_precision;
  struct A {
    Vector4<T> low, high;
  };
  using B = A;
  RNNK_HD static int place(int unit, int k) { return unit * 4 + k; }
  RNNK_DEVICE static T weight(T v) { return v; }
  RNNK_DEVICE static A load_a(const T* fragment) {
    const auto* row = reinterpret_cast<const Vector4<T>*>(fragment) + lane() / 4;
    return {row[0], row[8]};
  }
  struct Rows {
    const T *low, *high;
    RNNK_DEVICE Rows(const T* rows, int64_t ld, int64_t count)
        : low(rows + least(lane() % 4 * 2, count - 1) * ld), high(rows + least(lane() % 4 * 2 + 1, count - 1) * ld) {}
  };
  RNNK_DEVICE static B load_b(const Rows& rows, int64_t k) {
    return {*reinterpret_cast<const Vector4<T>*>(rows.low + k), *reinterpret_cast<const Vector4<T>*>(rows.high + k)};
  }
  RNNK_DEVICE static void multiply(T (&d)[4], const A& a, const B& b) {
    for (int k = 0; k < 4; ++k) {
      d[0] = fused(a.low.v[k], b.low.v[k], d[0]);
      d[1] = fused(a.low.v[k], b.high.v[k], d[1]);
      d[2] = fused(a.high.v[k], b.low.v[k], d[2]);
      d[3] = fused(a.high.v[k], b.high.v[k], d[3]);
    }
  }
};
using Float32 = Fused<float, RNNK_FLOAT32, Precision::f32>;
using Float64 = Fused<double, RNNK_FLOAT64, Precision::f64>;

}  // namespace gpu
}  // namespace rnnk
