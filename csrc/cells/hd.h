// What a cell may use, and what a value type must offer.
//
// A value type V is one vector of units of one row: a SIMD register on the CPU, one float on a GPU thread. It offers
//   V::T, V::lanes        element type and width
//   V::set1(T)            broadcast
//   a + b, a - b, a * b, a / b, -a, fma(a, b, c)
//   fmin(a, b), fmax(a, b)  returning b when either is NaN, so that fmin(bound, x) lets NaN through
//   rint(a)               rounds half to even
//   scale2(x, n)          x * 2^n, n an integer value in [-126, 127] (float) or [-1022, 1023] (double)
//   reciprocal(a)         1 / a for a in [1, infinity), to 1 ulp
//   less(a, b), select(less(a, b), x, y)
// (memory access, and zip on the CPU, belong to the drivers). Each ISA file defines its V in an anonymous namespace, which gives every template
// instantiated over it internal linkage: objects compiled with different flags can never be merged by the linker.
#pragma once
#include "cells/takes.h"

#if defined(__CUDACC__)
#define RNNK_HD __host__ __device__ __forceinline__
#define RNNK_CALL __host__ __device__ __noinline__
#else
#define RNNK_HD inline __attribute__((always_inline))
#define RNNK_CALL inline __attribute__((noinline))
#endif
#define RNNK_INLINE __attribute__((always_inline))  // of a lambda

namespace rnnk {

// One stage of a step: a product, an optional reduction over the row, then pointwise math (ARCHITECTURE.md, "The step").
enum class Product {
  weight_hh,  // gh = rows [first_gate, first_gate + gates) of weight_hh . operand
  weight_hr,  // gh = weight_hr . operand
  identity    // gh = operand
};
struct Stage {
  int gates;        // vectors per unit that the product yields
  int first_gate;   // where they stand among the cell's gates; their input-side twins are gx[first_gate...]
  Product product;  // of what: stage 0 multiplies h', a later stage what the stage before it emitted
  bool norm;        // gx and gh are normalised over the whole row before the pointwise part
  bool projected;   // its units are the P entries of h, not the H of the cell
};

constexpr int at_least_1(int n) { return n > 0 ? n : 1; }

// What the pointwise part of a stage reads and writes: vectors of the same units of one row.
// Forward reads gx, gh, p, s, carry; writes s_new, saved, carry, emit.
// Backward reads saved, p, s, ds (gradient of the new states; of the operand emitted: demit), dcarry; writes dgx, dgh, dp,
// ds_prev (what reaches the previous states without passing through a product), dcarry.
// With several stages, backward runs the last first. It alone reads ds[0]; an earlier one finds in ds_prev[0] what the stage
// after it wrote and adds to it (unless the cell projects: there the projected stage's value stands), and finds in ds[i],
// i >= 1, the ds_prev[i] of the stage after it, which must therefore pass on what it does not use.
template <class T>
struct CellOptions;  // cells/options.h

template <class Cell, class V>
struct Step {
  using T = typename V::T;
  V gx[at_least_1(Cell::kGates)], gh[at_least_1(Cell::kGates)];
  V p[at_least_1(Cell::kParams)];
  V s[Cell::kStates], s_new[Cell::kStates];
  V saved[at_least_1(Cell::kSaved)];
  V carry[at_least_1(Cell::kCarry)];
  V emit;
  V ds[Cell::kStates], ds_prev[Cell::kStates];
  V dgx[at_least_1(Cell::kGates)], dgh[at_least_1(Cell::kGates)];
  V dp[at_least_1(Cell::kParams)];
  V dcarry[at_least_1(Cell::kCarry)];
  V demit;
  // Cells with options (kHasOptions) also have:
  const CellOptions<T>* o;
  V operand;   // of stage 0's product: h', with recurrent dropout
  V doperand;  // written by stage 0's backward of a cell of several stages: what reaches it without a product
};

// What most cells are: one stage over weight_hh, no per-unit parameters. Saved[state] says which saved vector is the new
// state k, or -1 where the driver can find it itself (h is y).
template <int Gates>
struct OneStage {
  static constexpr int kGates = Gates;
  static constexpr int kStages = 1;
  static constexpr Stage kStage[1] = {{Gates, 0, Product::weight_hh, false, false}};
  static constexpr int kParams = 0;
  static constexpr int kParamStage[1] = {0};  // [max(kParams, 1)]: the stage whose backward writes dp[i]
  static constexpr int kCarry = 0;
  static constexpr bool kHasOptions = false;
  static constexpr unsigned kTakes = 0;
  static constexpr Activate kActivations[3] = {};  // those that the option `activations` may replace, in its order
};

}  // namespace rnnk
