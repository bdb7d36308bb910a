// The internal form of a problem, and the failure every check throws (caught in capi.cpp alone).
#pragma once
#include <cstdint>
#include <string>

#include "rnnkern/rnnkern.h"

namespace rnnk {

constexpr int64_t kMostUnits = 1 << 24;  // of input_size and hidden_size: keeps every size in elements far below 2^63

struct Problem {
  int cell = 0;
  int dtype = RNNK_FLOAT32;
  int device = RNNK_CPU;
  bool bias = true;
  bool reverse = false;
  bool recompute = false;
  int64_t input_size = 0;   // I
  int64_t hidden_size = 0;  // H
  int64_t output_size = 0;  // P: entries of h; H unless the cell projects
};

struct Failure {
  rnnk_status code;
  std::string text;
};

// printf-style; throws Failure.
[[noreturn]] void fail(rnnk_status code, const char* format, ...) __attribute__((format(printf, 2, 3)));

struct CellInfo {
  const char* name;
  int gates, states;
};
const CellInfo* cell_info(int cell);  // null when unknown

int64_t dtype_size(int dtype);
const char* dtype_name(int dtype);

// Checks every field of a C problem; throws Failure.
Problem check_problem(const rnnk_problem* problem);

}  // namespace rnnk
