// Products over many rows (dW, dx and gx of a block of steps) on a GPU: cuBLASLt's, opened at first use (blas.cpp). Compiled
// with RNNK_SIMT the same functions are plain loops on the host (tests/cuda/simt/blas.cpp).
//
// Matrices are on the device, seen by rows; leading dimensions and strides are in elements. Calls are asynchronous on their
// stream and fit for a captured one, except a device's first, which makes cuBLASLt's handle: run once before capturing.
#pragma once
#include <cstdint>
#include <cstdio>

#include "core/problem.h"

namespace rnnk {
namespace gpu {

// Precision of the operands. bf16, f16: 16-bit operands, sums and results in float. tf32: float, rounded to 10 bits of mantissa before
// multiplying. f32: float throughout. f64: double throughout.
enum class Precision { bf16, f16, tf32, f32, f64 };

struct Matrix {
  const void* data;
  int64_t ld;       // at least the length of what is contiguous, unless there is only one such line
  bool transposed;  // element (r, c) at data[c * ld + r] instead of data[r * ld + c]
};

// c [m, n] = a [m, k] b [k, n] (+ c), `batch` times, the matrices of one time `*_stride` after those of the time before.
// m, n or batch 0: nothing happens. k 0: an empty sum. Without `accumulate` c is not read.
struct MatrixProduct {
  int64_t m, n, k;
  Matrix a, b;
  void* c;
  int64_t ldc;  // at least n, unless m is 1
  bool accumulate;
  int64_t batch, a_stride, b_stride, c_stride;  // a_stride, b_stride 0: the same matrix each time
  Precision precision;
};

// What the cuBLAS manual recommends for Hopper (cublasSetWorkspace; 4 MiB for GPUs before it).
constexpr int64_t kBlasWorkspace = 32 << 20;

// workspace: on the device, 256-byte aligned, not used by anything else until the stream has passed this call. The result depends
// on its size, never on its contents.
void multiply(const MatrixProduct&, void* workspace, int64_t workspace_bytes, int device, void* stream);

// "" when cuBLASLt can be opened, else where it was looked for and what to install. Valid until this thread asks again.
const char* blas_unavailable();
// A file to try when neither the process nor the loader's path has the library. Before the first call that needs it.
void set_blas_path(const char* path);

// The rest is for the two bodies of multiply().

inline const char* name_of(Precision p) {
  static const char* const names[] = {"bfloat16", "float16", "tf32", "float32", "float64"};
  return names[static_cast<int>(p)];
}
inline int64_t operand_bytes(Precision p) { return p == Precision::f64 ? 8 : p <= Precision::f16 ? 2 : 4; }
inline int64_t result_bytes(Precision p) { return p == Precision::f64 ? 8 : 4; }

struct Sentence {
  char text[240];
};
inline Sentence describe(const MatrixProduct& p) {
  Sentence s;
  const auto number = [](int64_t v) { return static_cast<long long>(v); };
  std::snprintf(s.text, sizeof s.text,
                "c [%lld, %lld] = a [%lld, %lld]%s b [%lld, %lld]%s%s in %s, batch %lld, ld %lld %lld %lld", number(p.m),
                number(p.n), number(p.m), number(p.k), p.a.transposed ? "'" : "", number(p.k), number(p.n),
                p.b.transposed ? "'" : "", p.accumulate ? " + c" : "", name_of(p.precision), number(p.batch), number(p.a.ld),
                number(p.b.ld), number(p.ldc));
  return s;
}

// What cuBLASLt would refuse without saying why, or not refuse at all.
inline void check_product(const MatrixProduct& p, const void* workspace) {
  const auto refuse = [&](const char* what) { fail(RNNK_RUNTIME_ERROR, "gpu::multiply: %s: %s", what, describe(p).text); };
  const auto fits = [](const Matrix& x, int64_t rows, int64_t columns) {
    const int64_t lines = x.transposed ? columns : rows, length = x.transposed ? rows : columns;
    return lines <= 1 || x.ld >= length;
  };
  const auto aligned = [](const void* data, int64_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; };
  constexpr int64_t most = INT32_MAX;  // what cuBLASLt takes of rows, columns and batch
  if (p.m < 0 || p.n < 0 || p.k < 0 || p.batch < 0) refuse("expected no negative size");
  if (p.m > most || p.n > most || p.k > most || p.batch > most) refuse("expected sizes below 2^31");
  if (!fits(p.a, p.m, p.k)) refuse("lines of a overlap");
  if (!fits(p.b, p.k, p.n)) refuse("lines of b overlap");
  if (p.m > 1 && p.ldc < p.n) refuse("rows of c overlap");
  if (p.batch > 1 && p.c_stride == 0 && p.m > 0 && p.n > 0) refuse("all of the batch would be written to one c");
  const int64_t operand = operand_bytes(p.precision);
  if (!aligned(p.a.data, operand) || !aligned(p.b.data, operand)) refuse("expected operands aligned to their elements");
  if (!aligned(p.c, result_bytes(p.precision))) refuse("expected c aligned to its elements");
  if (!aligned(workspace, 256)) refuse("expected a workspace aligned to 256 bytes");
}

}  // namespace gpu
}  // namespace rnnk
