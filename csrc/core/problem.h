// The internal form of a problem, one layer in one direction, and the failure that every check throws (caught in capi.cpp alone).
#pragma once
#include <cstdint>
#include <cstring>
#include <string>

#include "cells/hd.h"
#include "rnnkern/rnnkern.h"

namespace rnnk {

constexpr int64_t kMostUnits = 1 << 24;  // of input_size and hidden_size: keeps every size in elements far below 2^63
constexpr int64_t kMostLayers = 1 << 16;
constexpr int64_t kMostInt8Terms = 130'000;  // of a product of bytes: its sum is below 2^31, and a row fits a thread's stack

// Options that change the products of a step; a variant of a cell (cells.inc) has one combination of them.
enum Shape { kPlainShape = 0, kNormShape = 1, kProjectedShape = 2, kResetBeforeShape = 4, kIndependentShape = 8 };

// The form in which a pack keeps the weights of products; own: the kernel chooses it.
enum class WeightForm { own, int8, bf16 };
const char* form_name(WeightForm);  // empty for `own`

struct Problem {
  int cell = 0;
  int variant = -1;  // of cells.inc, by its line; -1: no options
  int dtype = RNNK_FLOAT32;
  int device = RNNK_CPU;
  int device_index = 0;
  bool tf32 = false;
  WeightForm form = WeightForm::own;
  bool given_gx = false;  // x is gx, of all gates, and there is no W_ih: input_size is 0
  bool bias = true;
  bool reverse = false;
  bool recompute = false;
  bool masked = false;      // of calls with rnnk_args.mask or reset
  int64_t input_size = 0;   // I
  int64_t hidden_size = 0;  // H
  int64_t output_size = 0;  // P: entries of h; H unless the cell projects
  bool projects = false;
  int64_t heads = 1;
  uint32_t flags = 0;  // rnnk_problem's, those of options
  double clip = 0;     // 0: none
  rnnk_activation activations[3] = {};
  double zoneout[2] = {0, 0}, recurrent_dropout = 0;

  // Always inlined: this header is part of files compiled for different instruction sets.
  RNNK_HD bool has(uint32_t flag) const { return flags & flag; }
  RNNK_HD bool random() const { return zoneout[0] > 0 || zoneout[1] > 0 || recurrent_dropout > 0; }
  RNNK_HD int64_t weight_hh_columns() const { return output_size / heads; }
};

struct Failure {
  rnnk_status code;
  std::string text;
};

// printf-style; throws Failure.
[[noreturn]] void fail(rnnk_status code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// A caller's struct, perhaps of an earlier version, which ended after `least` bytes: what it lacks is zero.
template <class Struct>
Struct adopted(const Struct* given, size_t least, const char* name) {
  if (!given) fail(RNNK_INVALID_VALUE, "%s: expected a pointer, got NULL", name);
  const size_t size = given->struct_size;
  if (size < least) fail(RNNK_INVALID_VALUE, "%s.struct_size: expected at least %zu, got %zu", name, least, size);
  Struct whole{};
  std::memcpy(&whole, given, size < sizeof whole ? size : sizeof whole);
  return whole;
}

void check_between(const char* name, int64_t value, int64_t least, int64_t most);
void check_probability(const char* name, double p);

struct CellInfo {
  const char* name;
  int gates, states;
  bool has_options;         // always: it has no plain instance
  unsigned takes;           // bits of Takes
  Activate activations[3];  // Activate::of_cell past the last

  RNNK_HD constexpr int activation_count() const {
    int count = 0;
    while (count < 3 && activations[count] != Activate::of_cell) ++count;
    return count;
  }
};
const CellInfo* cell_info(int cell);  // null when unknown
// The i-th option that a cell takes, by the name that rnnk_problem or Python gives it; null past the last.
const char* cell_option(const CellInfo&, int i);

// Rows of rnnk_weights.params, and those of them that belong to the cell, not to a normalisation.
int64_t param_rows(const Problem&);
int own_param_rows(const Problem&);

int64_t dtype_size(int dtype);
const char* dtype_name(int dtype);

// The caller's problem after every check of it; throws Failure.
rnnk_problem checked_problem(const rnnk_problem* problem);
// Layer `layer` of a checked problem in its first direction, 0, or in its second one, 1.
Problem layer_problem(const rnnk_problem& checked, int64_t layer, int direction = 0);
// The problem by which the kernel of a layer is chosen, for both directions: their activations may differ, and fewer kernels take a cell
// with options.
Problem choosing_problem(const rnnk_problem& checked, int64_t layer);
// The options of a problem in that direction, checked (core/options.cpp), and the instance of the cell that they need.
void take_options(Problem& to, const rnnk_problem& from, int direction);
void choose_variant(Problem& problem);

}  // namespace rnnk
