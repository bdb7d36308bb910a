// Weights in int8 (unit.h): how they and what they multiply become bytes.
//
// A row of weights is q * scale, q in [-127, 127], scale = max |w| / 127. An operand's row (x, or h) is made to q * scale in the same way
// when it is multiplied: a row and a step have a scale of their own, so no other row of the batch and no other step is part of a
// result. The sum of q * q is exact in 32 bits. So its bits are the same on every instruction set, with any threads or tiles; then
//   result = start + float(sum) * (scale of the weights' row * scale of the operand's row), a multiplication and an fma.
//
// A panel: [k / 4][G][W][4] bytes, or such of groups of its gates (tile.h), k up to a multiple of kInt8Depth, zero past the end; then
// the scales [G][W], float; then -128 times the sum of each row [G][W], int32: operands are stored as q + 128, because instructions
// want one side without sign.
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

}  // namespace rnnk
