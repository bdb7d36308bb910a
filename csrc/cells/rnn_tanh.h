// Elman cell (J. Elman, 1990): h = tanh(gx + gh). Saved: h.
#pragma once
#include "cells/math.h"

namespace rnnk {

struct RnnTanh : OneStage<1> {
  static constexpr int kStates = 1, kSaved = 1;
  static constexpr int kSavedState[kStates] = {0};
  static constexpr bool kReadsH = false, kSameGrad = true;
  static constexpr unsigned kTakes = kTakesClip | kTakesLayerNorm | kTakesIndependent;
  static constexpr Activate kActivations[3] = {Activate::tanh};

  template <int, class Q>
  RNNK_HD static void forward(Q& q) {
    q.saved[0] = q.s_new[0] = tanh(q.gx[0] + q.gh[0]);
  }
  template <int, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto h = q.saved[0];
    q.dgx[0] = q.ds[0] * fma(-h, h, h.set1(1));
    q.ds_prev[0] = h.set1(0);
  }
};

}  // namespace rnnk
