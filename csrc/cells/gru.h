// GRU with the reset gate after the recurrent product (PyTorch, cuDNN; K. Cho et al., 2014, has it before), gates r z n:
//   r, z = sigmoid(gx + gh)   n = tanh(gx_n + r gh_n)   h = (1 - z) n + z h'.   Saved: r z n gh_n.
#pragma once
#include "cells/math.h"

namespace rnnk {

struct Gru : OneStage<3> {
  static constexpr int kStates = 1, kSaved = 4;
  static constexpr int kSavedState[kStates] = {-1};
  static constexpr bool kReadsH = true, kSameGrad = false;
  static constexpr unsigned kTakes = kTakesClip | kTakesLayerNorm | kTakesResetBefore;
  static constexpr Activate kActivations[3] = {Activate::sigmoid, Activate::tanh};

  template <int, class Q>
  RNNK_HD static void forward(Q& q) {
    const auto r = sigmoid(q.gx[0] + q.gh[0]);
    const auto z = sigmoid(q.gx[1] + q.gh[1]);
    const auto n = tanh(fma(r, q.gh[2], q.gx[2]));
    q.s_new[0] = fma(z, q.s[0] - n, n);
    q.saved[0] = r, q.saved[1] = z, q.saved[2] = n, q.saved[3] = q.gh[2];
  }

  template <int, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto r = q.saved[0], z = q.saved[1], n = q.saved[2], one = r.set1(1);
    const auto dh = q.ds[0];
    const auto dn = dh * (one - z) * fma(-n, n, one);
    q.dgx[0] = dn * q.saved[3] * (r * (one - r));
    q.dgx[1] = dh * (q.s[0] - n) * (z * (one - z));
    q.dgx[2] = dn;
    q.dgh[0] = q.dgx[0];
    q.dgh[1] = q.dgx[1];
    q.dgh[2] = dn * r;
    q.ds_prev[0] = dh * z;
  }
};

}  // namespace rnnk
