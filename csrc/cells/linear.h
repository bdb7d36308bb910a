// h = gx + gh. For tests: exact on small integers, so layout, tails, lengths, packing, reversal and dW can be compared for
// equality.
#pragma once
#include "cells/hd.h"

namespace rnnk {

struct Linear : OneStage<1> {
  static constexpr int kStates = 1, kSaved = 0;
  static constexpr int kSavedState[kStates] = {-1};
  static constexpr bool kReadsH = false, kSameGrad = true;
  static constexpr unsigned kTakes = kTakesClip | kTakesLayerNorm | kTakesIndependent;
  static constexpr Activate kActivations[3] = {Activate::affine};

  template <int, class Q>
  RNNK_HD static void forward(Q& q) {
    q.s_new[0] = q.gx[0] + q.gh[0];
  }
  template <int, class Q>
  RNNK_HD static void backward(Q& q) {
    q.dgx[0] = q.ds[0];
    q.ds_prev[0] = q.ds[0].set1(0);
  }
};

}  // namespace rnnk
