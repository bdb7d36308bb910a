// Options that a driver applies around a cell's step, one text for host and device: resets, held steps (the mask) and zoneout.
//
// At is the driver's view of one vector of one row in one step:
//   masked(), resets()       whether the step is held, and whether the walk begins anew in it
//   zones(i), zone(i)        whether state i has zoneout; its Zone<V>
// Everything is selected, never multiplied by zero: held steps, and states before a reset, may be anything, NaN included.
#pragma once
#include <cstdint>

#include "cells/options.h"

namespace rnnk {
namespace {  // internal linkage: compiled for different instruction sets

// Sources of a state that are no step of the walk.
enum : int64_t { kInitialState = -1, kZeroState = -2 };

// The step whose y is the h that step s of the walk starts from.
template <class Walk>
RNNK_HD int64_t source_of(const Walk& walk, int64_t s, int64_t row) {
  for (;; --s) {
    if (walk.resets(walk.time(s), row)) return kZeroState;
    if (!walk.alive(s - 1, row)) return kInitialState;
    if (!walk.masked(walk.time(s - 1), row)) return s - 1;
  }
}

// A number as a type. (std::integral_constant's functions have external linkage.)
template <int value>
struct Constant {
  RNNK_HD constexpr operator int() const { return value; }
};
// fn(i) for the numbers [i, end), each a constant: device code may not index a static array (a cell's stages, its states) at run
// time.
template <int i, int end, class Fn>
RNNK_HD void for_constants(const Fn& fn) {
  if constexpr (i < end) {
    fn(Constant<i>());
    for_constants<i + 1, end>(fn);
  }
}

// --- forward: before and after the first stage, which makes the states behind h, and after the last, which makes h ---------------

template <class Cell, class V, class At>
RNNK_HD void reset_states(Step<Cell, V>& q, const At& at) {
  for_constants<1, Cell::kStates>([&](auto i) RNNK_INLINE {
    if (at.resets()) q.s[i] = V::set1(0);
  });
}

template <class Cell, class V, class At>
RNNK_HD void keep_states(Step<Cell, V>& q, At& at) {
  for_constants<1, Cell::kStates>([&](auto i) RNNK_INLINE {
    if (at.zones(i)) q.s_new[i] = at.zone(i).mix(q.s[i], q.s_new[i]);
    if (at.masked()) q.s_new[i] = q.s[i];
    if constexpr (Cell::kSavedState[i] >= 0) q.saved[Cell::kSavedState[i]] = q.s_new[i];
  });
}

// The new h, and y beside it. round: to the type in which h is kept.
template <class V>
struct NewHidden {
  V h, y;
};
template <class V, class At, class Round>
RNNK_HD NewHidden<V> keep_hidden(V old, V now, At& at, const Round& round) {
  if (at.zones(0)) now = at.zone(0).mix(old, now);
  const bool held = at.masked();
  const V h = held ? old : round(now);
  return {h, held ? V::set1(0) : h};
}

// --- backward of stage K: the share of each state's gradient that zoneout keeps goes around the cell --------------------------------

// h is made by the last stage, the states behind it by the first.
template <class Cell>
constexpr bool makes(int stage, int state) {
  return stage == (state == 0 ? Cell::kStages - 1 : 0);
}

template <int K, class Cell, class V, class At>
RNNK_HD void split_gradients(Step<Cell, V>& q, V (&kept)[Cell::kStates], At& at) {
  for_constants<0, Cell::kStates>([&](auto i) RNNK_INLINE {
    kept[i] = V::set1(0);
    if constexpr (makes<Cell>(K, i)) {
      if (at.zones(i)) {
        const Zone<V> zone = at.zone(i);
        kept[i] = zone.kept(q.ds[i]), q.ds[i] = zone.renewed(q.ds[i]);
      }
    }
  });
}

// Whether stage K is the last to add to the gradient of old state i, so that a reset there ends it.
template <class Cell>
constexpr bool completes(int stage, int state) {
  return stage == 0 || (state == 0 && makes<Cell>(stage, 0) && Cell::kStage[stage].projected);
}

template <int K, class Cell, class V, class At>
RNNK_HD void join_gradients(Step<Cell, V>& q, const V (&kept)[Cell::kStates], const At& at) {
  for_constants<0, Cell::kStates>([&](auto i) RNNK_INLINE {
    if constexpr (makes<Cell>(K, i)) q.ds_prev[i] = q.ds_prev[i] + kept[i];
    if constexpr (completes<Cell>(K, i)) {
      if (at.resets()) q.ds_prev[i] = V::set1(0);
    }
  });
}

}  // namespace
}  // namespace rnnk
