// Products of weights in another form than the driver's. A driver knows floats alone; this is the border between it and the
// instructions that multiply bytes (int8.h) or read bfloat16 (bf16_walk.h).
//
// A driver is compiled once for each width of vector (instantiate.h), a product once for each set of instructions, in a file of its own
// (isa/int8_*.cpp, isa/bf16_*.cpp). So everything here is data and functions by pointer, in no anonymous namespace.
#pragma once
#include <type_traits>

#include "core/problem.h"

namespace rnnk {

// One product: `rows` of floats by panels of packed weights.
struct UnitProduct {
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

// A set of instructions; all but run() serves estimates.
struct WeightUnit {
  void (*run)(const UnitProduct&, int64_t r0, int64_t r1, int64_t p0, int64_t p1);
  double cycles;                 // of one term of one vector of columns
  double bytes;                  // of a weight
  int rows = 0, least_rows = 0;  // of one multiplication; 0: those of the driver's own
};

namespace {
// fn(std::integral_constant<int, G>) for a product of G gates.
template <class Fn>
RNNK_HD void with_gates(int gates, const Fn& fn) {
  switch (gates) {
    case 1: return fn(std::integral_constant<int, 1>{});
    case 2: return fn(std::integral_constant<int, 2>{});
    case 3: return fn(std::integral_constant<int, 3>{});
    case 4: return fn(std::integral_constant<int, 4>{});
  }
}
}  // namespace

}  // namespace rnnk
