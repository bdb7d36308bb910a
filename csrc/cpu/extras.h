// A step's surroundings, as cells/effects.h asks for them: held steps, resets, random masks of zoneout; and recurrent dropout.
#pragma once
#include "cells/effects.h"
#include "core/cell_options.h"
#include "core/random_words.h"
#include "cpu/layout.h"

namespace rnnk {
namespace {

template <class A>
struct Extras {
  using V = typename A::V;
  using T = typename V::T;
  static constexpr int W = V::lanes;

  const Problem& problem;
  const LayerCall& args;
  const Layout<A>& d;
  const Rows& rows;
  CellOptions<T> o;
  T* dropped = nullptr;  // [B][padded P]: what recurrent dropout multiplies h' by

  Extras(const Problem& p, const LayerCall& a, const Layout<A>& d, const Rows& rows)
      : problem(p), args(a), d(d), rows(rows), o(cell_options<T>(p)) {}

  // Space for what recurrent dropout needs; sizes depend on the problem alone.
  bool may_drop() const { return d.shape.has_options && problem.recurrent_dropout > 0; }
  bool drops() const { return may_drop() && args.train; }

  bool at(const Marks& marks, int64_t t, int64_t sorted) const {
    return marks.data[t * marks.step + rows.row(sorted) * marks.row];
  }
  bool masked(int64_t t, int64_t sorted) const { return args.mask.data && !at(args.mask, t, sorted); }
  // Whether the walk begins anew at time t: the mark stands before a step, so a reverse walk comes to it from the step after.
  bool resets(int64_t t, int64_t sorted) const {
    if (!args.reset.data) return false;
    if (rows.reverse && args.steps_before + ++t >= whole_length(sorted)) return false;
    return at(args.reset, t, sorted);
  }
  int64_t whole_length(int64_t sorted) const { return args.whole_lengths ? args.whole_lengths[sorted] : args.whole_steps; }
  // Nothing here changes any step of the call.
  bool quiet() const { return !args.mask.data && !args.reset.data && !zones(0) && !zones(1) && !drops(); }
  // Before step s of the walk, if the row takes that step.
  bool resets_at(int64_t s, int64_t sorted) const {
    return args.reset.data && alive(s, sorted) && resets(rows.time(s), sorted);
  }
  int64_t first_step(int64_t sorted) const { return rows.reverse && rows.lengths ? rows.steps - rows.lengths[sorted] : 0; }

  int64_t time(int64_t s) const { return rows.time(s); }
  bool alive(int64_t s, int64_t sorted) const { return sorted < rows.alive(s); }

  Counter counter(int64_t t, int64_t sorted, const Axis<W>& axis, int64_t panel) const {
    return {args.seed, args.call, args.stream, static_cast<uint32_t>(args.first_step) + static_cast<uint32_t>(t),
            static_cast<uint32_t>(rows.row(sorted) * axis.units + axis.first(panel))};
  }
  bool zones(int state) const { return state < 2 && problem.zoneout[state] > 0; }  // states behind c have no zoneout
  // A panel of a row in one step. quiet: nothing changes any step. Random masks of states with as many units come from one block of
  // words, drawn when the first of them is asked for.
  class At {
   public:
    At(const Extras& extras, int64_t t, int64_t sorted, int64_t panel, bool quiet = false)
        : extras_(extras), t_(t), sorted_(sorted), panel_(panel), quiet_(quiet) {}
    RNNK_HD bool masked() const { return !quiet_ && extras_.masked(t_, sorted_); }
    RNNK_HD bool resets() const { return !quiet_ && extras_.resets(t_, sorted_); }
    RNNK_HD bool zones(int state) const { return !quiet_ && extras_.zones(state); }
    Zone<V> zone(int state) {
      const double p = extras_.problem.zoneout[state];
      if (!extras_.args.train) return {V::set1(static_cast<T>(p)), false};
      const Axis<W>& axis = extras_.d.state(state);
      if (drawn_ != axis.units) random_words(extras_.counter(t_, sorted_, axis, panel_), words_);
      drawn_ = axis.units;
      const bool always = chance(p) > 0xffffffffu;  // compares stay 32 bits wide, as wide as a vector of them may be
      const uint32_t below = static_cast<uint32_t>(chance(p));
      T lanes[W];
      for (int i = 0; i < W; ++i) lanes[i] = always || words_[1 + state][i] < below ? T(1) : T(0);
      return {V::load(lanes), true};
    }

   private:
    const Extras& extras_;
    int64_t t_, sorted_, panel_, drawn_ = -1;
    bool quiet_;
    uint32_t words_[4][W];
  };

  // Draws a panel of a row's mask of recurrent dropout.
  void draw(int64_t sorted, int64_t panel) const {
    Counter c = counter(0, sorted, d.out, panel);
    c.t = 0;
    uint32_t words[4][W];
    random_words(c, words);
    const double p = problem.recurrent_dropout;
    T* to = dropped + sorted * d.out.padded() + panel * W;
    for (int i = 0; i < W; ++i) to[i] = words[3][i] >= chance(p) ? static_cast<T>(1 / (1 - p)) : T(0);
  }
  // h' as the product sees it, and the gradient's way back: the same operation.
  V thinned(V v, int64_t sorted, int64_t panel) const {
    const V factor = V::load(dropped + sorted * d.out.padded() + panel * W);
    return select(less(V::set1(0), factor), v * factor, V::set1(0));
  }
};

}  // namespace
}  // namespace rnnk
