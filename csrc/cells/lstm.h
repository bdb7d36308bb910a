// LSTM (S. Hochreiter, J. Schmidhuber, 1997; forget gate: F. Gers et al., 2000), gates i f g o:
//   i, f, o = sigmoid(gx + gh)   g = tanh(gx + gh)   c = f c' + i g   h = o tanh(c).   Saved: i f g o c.
#pragma once
#include "cells/math.h"

namespace rnnk {

struct Lstm : OneStage<4> {
  static constexpr int kStates = 2, kSaved = 5;
  static constexpr int kSavedState[kStates] = {-1, 4};
  static constexpr bool kReadsH = false, kSameGrad = true;
  static constexpr unsigned kTakes =
      kTakesClip | kTakesLayerNorm | kTakesProjection | kTakesPeephole | kTakesCoupled | kTakesCellZoneout;
  static constexpr Activate kActivations[3] = {Activate::sigmoid, Activate::tanh, Activate::tanh};

  template <int, class Q>
  RNNK_HD static void forward(Q& q) {
    const auto i = sigmoid(q.gx[0] + q.gh[0]);
    const auto f = sigmoid(q.gx[1] + q.gh[1]);
    const auto g = tanh(q.gx[2] + q.gh[2]);
    const auto o = sigmoid(q.gx[3] + q.gh[3]);
    const auto c = fma(f, q.s[1], i * g);
    q.s_new[1] = c;
    q.s_new[0] = o * tanh(c);
    q.saved[0] = i, q.saved[1] = f, q.saved[2] = g, q.saved[3] = o, q.saved[4] = c;
  }

  template <int, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto i = q.saved[0], f = q.saved[1], g = q.saved[2], o = q.saved[3], t = tanh(q.saved[4]);
    const auto one = i.set1(1);
    const auto dh = q.ds[0];
    const auto dc = fma(dh * o, fma(-t, t, one), q.ds[1]);
    q.dgx[0] = dc * g * (i * (one - i));
    q.dgx[1] = dc * q.s[1] * (f * (one - f));
    q.dgx[2] = dc * i * fma(-g, g, one);
    q.dgx[3] = dh * t * (o * (one - o));
    q.ds_prev[0] = one.set1(0);
    q.ds_prev[1] = dc * f;
  }
};

}  // namespace rnnk
