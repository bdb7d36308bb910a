// Shape witness: GRU with the reset gate before the recurrent product and peephole-style vectors p [3, H], gates r z n
// (K. Cho et al., 2014, arXiv 1406.1078v3; reference.py, GruResetBefore):
//   r, z = sigmoid(gx + gh + p h')   n = tanh(gx_n + R_n (r h') + b_hh_n + p_n h')   h = (1 - z) n + z h'.   Saved: r z n.
// What it witnesses: a second product inside the step whose operand is not h', and per-unit parameters in both stages.
#pragma once
#include "cells/math.h"

namespace rnnk {

struct GruResetBefore {
  static constexpr int kGates = 3, kStates = 1, kSaved = 3, kStages = 2;
  static constexpr Stage kStage[kStages] = {
      {2, 0, Product::weight_hh, false, false},  // r z, of h'
      {1, 2, Product::weight_hh, false, false},  // n, of r h'
  };
  static constexpr int kParams = 3;
  static constexpr int kParamStage[kParams] = {0, 0, 1};
  static constexpr int kCarry = 1;  // forward: z; backward: the gradient of z's pre-activation
  static constexpr int kSavedState[kStates] = {-1};
  static constexpr bool kReadsH = true, kSameGrad = true;

  template <int stage, class Q>
  RNNK_HD static void forward(Q& q) {
    const auto h = q.s[0];
    if constexpr (stage == 0) {
      const auto r = sigmoid(fma(q.p[0], h, q.gx[0] + q.gh[0]));
      const auto z = sigmoid(fma(q.p[1], h, q.gx[1] + q.gh[1]));
      q.saved[0] = r, q.saved[1] = z;
      q.carry[0] = z;
      q.emit = r * h;
    } else {
      const auto z = q.carry[0], n = tanh(fma(q.p[2], h, q.gx[2] + q.gh[2]));
      q.saved[2] = n;
      q.s_new[0] = fma(z, h - n, n);
    }
  }

  template <int stage, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto r = q.saved[0], z = q.saved[1], n = q.saved[2], h = q.s[0], one = r.set1(1);
    if constexpr (stage == 1) {
      const auto dh = q.ds[0], dn = dh * (one - z) * fma(-n, n, one);
      q.dgx[2] = q.dgh[2] = dn;
      q.dp[2] = dn * h;
      q.dcarry[0] = dh * (h - n) * (z * (one - z));
      q.ds_prev[0] = fma(dh, z, q.p[2] * dn);
    } else {
      const auto dz = q.dcarry[0], dr = q.demit * h * (r * (one - r));
      q.dgx[0] = q.dgh[0] = dr;
      q.dgx[1] = q.dgh[1] = dz;
      q.dp[0] = dr * h;
      q.dp[1] = dz * h;
      q.ds_prev[0] = fma(q.demit, r, fma(q.p[0], dr, fma(q.p[1], dz, q.ds_prev[0])));
    }
  }
};

}  // namespace rnnk
