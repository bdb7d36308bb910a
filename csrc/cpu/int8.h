// Products of weights in int8. A driver knows floats alone; this is the border between it and the instructions that multiply bytes.
//
// A row of weights is q * scale, q in [-127, 127], scale = max |w| / 127. An operand's row (x, or h) is made to q * scale in the same way
// when it is multiplied: a row and a step have a scale of their own, so no other row of the batch and no other step is part of a
// result. The sum of q * q is exact in 32 bits. So its bits are the same on every instruction set, with any threads or tiles; then
//   result = start + float(sum) * (scale of the weights' row * scale of the operand's row), a multiplication and an fma.
//
// A driver is compiled once for each width of vector (instantiate.h), a product of bytes once for each set of instructions, in a file of its
// own (isa/*int8.cpp). So everything here is data and functions by pointer, in no anonymous namespace.
//
// A panel: [k / 4][G][W][4] bytes, k up to a multiple of kInt8Depth, zero past the end; then the scales [G][W], float; then -128 times the
// sum of each row [G][W], int32: operands are stored as q + 128, because instructions want one side without sign.
#pragma once
#include "core/problem.h"

namespace rnnk {

constexpr int64_t kInt8Depth = 64;            // terms of one instruction of the matrix unit
constexpr int kInt8Offset = 128;              // of operands
constexpr int64_t kInt8RowBytes = 128 << 10;  // of operands that are made into bytes at a time, on a thread's stack

static_assert(kMostInt8Terms + 2 * kInt8Depth <= kInt8RowBytes && kMostInt8Terms * kInt8Offset * 127 < int64_t{1} << 31);

namespace {
// Elements of 4 bytes that a panel of so many columns takes: the bytes of its terms, and two rows behind them.
RNNK_HD constexpr int64_t int8_elements(int64_t K, int64_t columns) {
  return ((K + kInt8Depth - 1) / kInt8Depth * (kInt8Depth / 4) + 2) * columns;
}
}  // namespace

// One product: `rows` of floats by panels of packed weights.
struct Int8Product {
  int gates;
  int64_t K;
  const void* weights;
  int64_t panel_stride;  // bytes
  const float* start;    // panel p: start + p * start_stride; null: zero
  int64_t start_stride;
  const void* driver;  // the first argument of:
  const float* (*operand)(const void* driver, int64_t row);
  // sums [rows][panels][G][W]
  void (*finish)(const void* driver, int64_t row, int rows, int64_t panel, int panels, float* sums);
};

// The instructions.
struct Int8Unit {
  void (*run)(const Int8Product&, int64_t r0, int64_t r1, int64_t p0, int64_t p1);
  double cycles;         // of one term of one vector of columns, for estimates
  int rows, least_rows;  // of one multiplication
};

}  // namespace rnnk
