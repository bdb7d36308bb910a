// A cell as drivers see it where they do not call it: stages, gates and states as numbers, known at compile time and at run time.
#pragma once
#include "cells/hd.h"

namespace rnnk {
namespace {  // internal linkage: compiled for different instruction sets

// What the driver must know of a cell where it does not call it: all but the pointwise part is compiled once for all cells.
constexpr int kMostStages = 3, kMostStates = 4;
struct CellShape {
  int gates, states, stages, saved, carry;
  bool same_grad, has_options;
  Stage stage[kMostStages];
};
template <class Cell>
constexpr CellShape shape_of() {
  static_assert(Cell::kStages <= kMostStages && Cell::kStates <= kMostStates);
  CellShape s{Cell::kGates, Cell::kStates,   Cell::kStages,     Cell::kSaved,
              Cell::kCarry, Cell::kSameGrad, Cell::kHasOptions, {}};
  for (int k = 0; k < Cell::kStages; ++k) s.stage[k] = Cell::kStage[k];
  return s;
}

constexpr bool has_product(const CellShape& s, int k) { return s.stage[k].product != Product::identity; }
constexpr bool projects(const CellShape& s) { return s.stage[s.stages - 1].projected; }
// A normalised product needs its whole row before the pointwise part, and so does a normalisation's backward before a product:
// two phases with a barrier between.
constexpr int forward_phases(const CellShape& s, int k) { return s.stage[k].norm && has_product(s, k) ? 2 : 1; }
constexpr int backward_phases(const CellShape& s, int k) { return s.stage[k].norm ? 2 : 1; }
constexpr int forward_phases(const CellShape& s) {
  int n = 0;
  for (int k = 0; k < s.stages; ++k) n += forward_phases(s, k);
  return n;
}
constexpr int backward_phases(const CellShape& s) {
  int n = 0;
  for (int k = 0; k < s.stages; ++k) n += backward_phases(s, k);
  return n;
}
// dgh of stage k is dgx.
constexpr bool same_dg(const CellShape& s, int k) {
  const Stage stage = s.stage[k];
  return s.same_grad && stage.product == Product::weight_hh && stage.gates == s.gates && !stage.norm;
}
// Both sides of a normalised stage have a gradient each, before its own normalisation's.
constexpr int sides(const CellShape& s, int k) { return s.stage[k].product == Product::weight_hh && !s.same_grad ? 2 : 1; }
// What the driver's buffers have room for; a cell that needs more says so at compile time.
constexpr bool fits(const CellShape& s) {
  if (s.gates > 4) return false;  // Forward::input_product
  for (int k = 0; k < s.stages; ++k) {
    const Stage stage = s.stage[k];
    const bool recurrent = stage.product == Product::weight_hh;
    if (stage.projected && k < s.stages - 1) return false;                // h is what the last stage makes
    if (stage.norm && recurrent && stage.gates != s.gates) return false;  // gx is normalised beside gh, whole
    if (stage.norm && stage.product == Product::weight_hr) return false;  // no gx beside it
    if (k > 0 && recurrent && projects(s)) return false;                  // weight_hh has rows of one length
  }
  return true;
}

}  // namespace
}  // namespace rnnk
