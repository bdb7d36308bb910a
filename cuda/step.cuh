// What a step of a row asks of its surroundings, forward and backward: whether the row is alive, held or reset, which random masks
// it has. Everything is selected, never multiplied by zero: padding and held steps may hold anything, NaN included.
//
// A comment `path: NAME` at the end of a line, here and in what includes this, marks it for tests/support/kernel_paths.py, which
// follows the path from a barrier to a message in the machine code. It moves with its statement.
#pragma once
#include "cells/effects.h"
#include "core/cell_options.h"
#include "core/philox.h"
#include "cuda/layout.h"
#include "cuda/value.cuh"

namespace rnnk {
namespace gpu {

// The walk of one call; by value in every kernel's parameters.
template <class Element>
struct Walk {
  using T = Element;
  int64_t steps, batch;
  const int64_t* lengths;  // [B] on the device, any order, or null
  const uint8_t *mask, *reset;
  Axis hidden, out;
  CellOptions<T> o;
  double zoneout[2], recurrent_dropout;
  uint64_t seed;
  int64_t first_step;
  uint32_t call, stream;
  int dtype;       // of x, y, h and operands
  int own_params;  // rows of params
  bool reverse, train, keep;
  const T* dropped;  // [B][out.padded], or null: no recurrent dropout

  RNNK_DEVICE int64_t time(int64_t s) const { return reverse ? steps - 1 - s : s; }
  RNNK_DEVICE int64_t length(int64_t row) const {  // clamped: a length outside [0, T] is reported, see check_lengths
    if (!lengths) return steps;
    const int64_t n = lengths[row];
    return n < 0 ? 0 : n > steps ? steps : n;
  }
  RNNK_DEVICE bool alive(int64_t s, int64_t row) const { return s >= 0 && s < steps && (!lengths || time(s) < length(row)); }
  // The walk's first step of a row.
  RNNK_DEVICE int64_t begins(int64_t row) const { return reverse ? steps - length(row) : 0; }
  RNNK_DEVICE bool masked(int64_t t, int64_t row) const { return mask && !mask[t * batch + row]; }
  RNNK_DEVICE bool resets(int64_t t, int64_t row) const { return reset && reset[t * batch + row]; }
  // Before step s, if the row takes that step.
  RNNK_DEVICE bool resets_at(int64_t s, int64_t row) const { return reset && alive(s, row) && resets(time(s), row); }

  RNNK_DEVICE uint32_t random(int word, int64_t t, int64_t row, const Axis& axis, int64_t unit) const {
    uint32_t words[4][1];
    const uint32_t step = word == 3 ? 0 : static_cast<uint32_t>(first_step + t);
    philox(Counter{seed, call, stream, step, static_cast<uint32_t>(row * axis.units + unit)}, words);
    return words[word][0];
  }
  RNNK_DEVICE bool zones(int state) const { return state < 2 && zoneout[state] > 0; }  // states behind c have no zoneout
  template <class V>
  RNNK_DEVICE Zone<V> zone(int state, int64_t t, int64_t row, int64_t unit) const {
    if (!train) return {{static_cast<T>(zoneout[state])}, false};
    const uint32_t bits = random(1 + state, t, row, state == 0 ? out : hidden, unit);
    return {{bits < chance(zoneout[state]) ? T(1) : T(0)}, true};
  }
  // h' as the product sees it, and the gradient's way back: the same operation. column: of padded units.
  RNNK_DEVICE T thinned(T v, int64_t row, int64_t column) const {
    const T factor = dropped[row * out.padded() + column];
    return factor > T(0) ? v * factor : T(0);
  }
};

template <class T>
Walk<T> walk_of(const Problem& p, const LayerCall& a, const Layout& d, const void* dropped) {
  Walk<T> w{};
  w.steps = a.seq_len, w.batch = a.batch;
  w.lengths = a.lengths, w.mask = a.mask.data, w.reset = a.reset.data;
  w.hidden = d.hidden, w.out = d.out;
  w.o = cell_options<T>(p);
  w.zoneout[0] = p.zoneout[0], w.zoneout[1] = p.zoneout[1], w.recurrent_dropout = p.recurrent_dropout;
  w.seed = a.seed, w.first_step = a.first_step, w.call = a.call, w.stream = a.stream;
  w.dtype = p.dtype, w.own_params = d.own_params;
  w.reverse = p.reverse, w.train = a.train, w.keep = a.reserve != nullptr;
  w.dropped = static_cast<const T*>(dropped);
  return w;
}

// The dtype of x, y, h and operands. Where In (an arithmetic) has one, it is a constant, and the compiler drops the switches over dtypes.
template <class In>
RNNK_DEVICE int dtype_of(const Walk<typename In::T>& walk) {
  return In::dtype == kAnyDtype ? walk.dtype : In::dtype;
}

// One unit of one row: what pointwise parts are called for.
struct Place {
  int64_t row, head, i;  // i: of the head's units
  RNNK_DEVICE int64_t unit(const Axis& axis) const { return head * axis.each + i; }
  RNNK_DEVICE int64_t column(const Axis& axis) const { return head * axis.pad + i; }
  RNNK_DEVICE int64_t gate(const Axis& axis, int gates, int g) const { return (head * gates + g) * axis.pad + i; }
  // From a number of padded units; false: a padding unit.
  RNNK_DEVICE static bool at(const Axis& axis, int64_t row, int64_t column, Place& to) {
    to = {row, column / axis.pad, column % axis.pad};
    return to.i < axis.each;
  }
};

// One unit of one row in one step, as cells/effects.h asks for it.
template <class V>
struct Around {
  const Walk<typename V::T>& walk;
  const Place& at;
  int64_t t;
  RNNK_DEVICE bool masked() const { return walk.masked(t, at.row); }
  RNNK_DEVICE bool resets() const { return walk.resets(t, at.row); }
  RNNK_DEVICE bool zones(int state) const { return walk.zones(state); }
  RNNK_DEVICE Zone<V> zone(int state) const {
    return walk.template zone<V>(state, t, at.row, at.unit(state == 0 ? walk.out : walk.hidden));
  }
};

}  // namespace gpu
}  // namespace rnnk
