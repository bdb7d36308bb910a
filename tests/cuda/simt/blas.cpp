// gpu::multiply() without a GPU: each sum in one chain, k ascending, in float or, for f64, double. Compiled instead of
// cuda/blas.cpp where kernels run on the host; refuses what that one refuses.
#include "cuda/blas.h"

#include "core/storage.h"
#include "simt/races.h"
#include "simt/streams.h"

namespace rnnk {
namespace gpu {
namespace {

// 10 bits of mantissa, ties away from zero, as cvt.rna.tf32.f32 does (cuBLAS rounds ties to even).
float to_tf32(float f) {
  const uint32_t u = float_to_bits(f);
  return (u & 0x7f800000u) == 0x7f800000u ? f : bits_to_float((u + 0x1000u) & ~0x1fffu);
}

template <Precision precision, class T>
T element(const Matrix& x, int64_t row, int64_t column, int64_t start) {
  const int64_t at = start + (x.transposed ? column * x.ld + row : row * x.ld + column);
  if constexpr (precision == Precision::bf16) return bf16_to_float(static_cast<const uint16_t*>(x.data)[at]);
  if constexpr (precision == Precision::f16) return half_to_float(static_cast<const uint16_t*>(x.data)[at]);
  if constexpr (precision == Precision::tf32) return to_tf32(static_cast<const float*>(x.data)[at]);
  if constexpr (precision >= Precision::f32) return static_cast<const T*>(x.data)[at];
}

template <Precision precision, class T>
void multiply_as(const MatrixProduct& p) {
  for (int64_t i = 0; i < p.batch; ++i) {
    T* const c = static_cast<T*>(p.c) + i * p.c_stride;
    for (int64_t row = 0; row < p.m; ++row) {
      for (int64_t column = 0; column < p.n; ++column) {
        T sum = p.accumulate ? c[row * p.ldc + column] : T(0);
        for (int64_t k = 0; k < p.k; ++k) {
          sum += element<precision, T>(p.a, row, k, i * p.a_stride) * element<precision, T>(p.b, k, column, i * p.b_stride);
        }
        c[row * p.ldc + column] = sum;
      }
    }
  }
}

void multiply_now(const MatrixProduct& p) {
  switch (p.precision) {
    case Precision::bf16: return multiply_as<Precision::bf16, float>(p);
    case Precision::f16: return multiply_as<Precision::f16, float>(p);
    case Precision::tf32: return multiply_as<Precision::tf32, float>(p);
    case Precision::f32: return multiply_as<Precision::f32, float>(p);
    case Precision::f64: return multiply_as<Precision::f64, double>(p);
  }
}

// What is read and written, for races.h.
void accesses(const MatrixProduct& p) {
  const int64_t size = operand_bytes(p.precision);
  const auto rows = [&](const void* data, int64_t offset, int64_t rows, int64_t columns, int64_t ld, int64_t each,
                        simt::How how) {
    for (int64_t row = 0; row < rows; ++row) {
      const char* const at = static_cast<const char*>(data) + (offset + row * ld) * each;
      simt::accesses(at, static_cast<size_t>(columns * each), how, nullptr);
    }
  };
  for (int64_t i = 0; i < p.batch; ++i) {
    rows(p.a.data, i * p.a_stride, p.a.transposed ? p.k : p.m, p.a.transposed ? p.m : p.k, p.a.ld, size, simt::kReads);
    rows(p.b.data, i * p.b_stride, p.b.transposed ? p.n : p.k, p.b.transposed ? p.k : p.n, p.b.ld, size, simt::kReads);
    rows(p.c, i * p.c_stride, p.m, p.n, p.ldc, result_bytes(p.precision), simt::kWrites);
  }
}

}  // namespace

void multiply(const MatrixProduct& p, void* workspace, int64_t, int, void* stream) {
  check_product(p, workspace);
  simt::on_stream(stream, "multiply", [p] {
    accesses(p);
    multiply_now(p);
  });
}

const char* blas_unavailable() { return ""; }
void set_blas_path(const char*) {}

}  // namespace gpu
}  // namespace rnnk
