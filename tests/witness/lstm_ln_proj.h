// Shape witness: LSTM with layer normalisation and a projected h, gates i f g o (J. Ba et al., 2016, arXiv 1607.06450,
// equations 20-22; H. Sak et al., 2014, arXiv 1402.1128; reference.py, LstmLayerNormProj):
//   v = gamma_x LN(W x) + gamma_h LN(R h') + beta   i, f, o = sigmoid(v)   g = tanh(v)   c = f c' + i g
//   m = o tanh(gamma_c LN(c) + beta_c)   h = W_hr m.   Saved: i f g o c tanh(gamma_c LN(c) + beta_c).
// What it witnesses: reductions over the row, before a product's pointwise part and inside the step; a stage without a
// product; a stage of P units; states of different widths. Its products have no bias.
#pragma once
#include "cells/math.h"

namespace rnnk {

struct LstmLayerNormProj {
  static constexpr int kGates = 4, kStates = 2, kSaved = 6, kStages = 3;
  static constexpr Stage kStage[kStages] = {
      {4, 0, Product::weight_hh, true, false},  // LN(R h'), and LN(W x) beside it
      {1, 0, Product::identity, true, false},   // LN(c)
      {1, 0, Product::weight_hr, false, true},  // W_hr m
  };
  // Vectors of p [14, H]: gamma_x, gamma_h and beta of each gate, gamma_c, beta_c.
  static constexpr int kGammaX = 0, kGammaH = 4, kBeta = 8, kGammaC = 12, kBetaC = 13, kParams = 14;
  static constexpr int kParamStage[kParams] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1};
  static constexpr int kCarry = 1;  // forward: o; backward: the gradient of o's pre-activation
  static constexpr int kSavedState[kStates] = {-1, 4};
  static constexpr bool kReadsH = false, kSameGrad = false;

  template <class Q>
  RNNK_HD static auto gate(const Q& q, int g) {
    return fma(q.p[kGammaX + g], q.gx[g], fma(q.p[kGammaH + g], q.gh[g], q.p[kBeta + g]));
  }

  template <int stage, class Q>
  RNNK_HD static void forward(Q& q) {
    if constexpr (stage == 0) {
      const auto i = sigmoid(gate(q, 0)), f = sigmoid(gate(q, 1)), g = tanh(gate(q, 2)), o = sigmoid(gate(q, 3));
      const auto c = fma(f, q.s[1], i * g);
      q.s_new[1] = c;
      q.saved[0] = i, q.saved[1] = f, q.saved[2] = g, q.saved[3] = o, q.saved[4] = c;
      q.carry[0] = o;
      q.emit = c;
    } else if constexpr (stage == 1) {
      const auto t = tanh(fma(q.p[kGammaC], q.gh[0], q.p[kBetaC]));
      q.saved[5] = t;
      q.emit = q.carry[0] * t;
    } else {
      q.s_new[0] = q.gh[0];
    }
  }

  template <int stage, class Q>
  RNNK_HD static void backward(Q& q) {
    if constexpr (stage == 2) {
      q.dgh[0] = q.ds[0];
      q.ds_prev[0] = q.ds[0].set1(0);
    } else if constexpr (stage == 1) {
      const auto o = q.saved[3], t = q.saved[5], one = o.set1(1);
      const auto dv = q.demit * o * fma(-t, t, one);
      q.dp[kGammaC] = dv * q.gh[0];
      q.dp[kBetaC] = dv;
      q.dgh[0] = dv * q.p[kGammaC];
      q.dcarry[0] = q.demit * t * (o * (one - o));
      q.ds_prev[1] = q.ds[1];  // c's own gradient waits for stage 0
    } else {
      const auto i = q.saved[0], f = q.saved[1], g = q.saved[2], one = i.set1(1);
      const auto dc = q.ds[1] + q.demit;
      gate_gradient(q, 0, dc * g * (i * (one - i)));
      gate_gradient(q, 1, dc * q.s[1] * (f * (one - f)));
      gate_gradient(q, 2, dc * i * fma(-g, g, one));
      gate_gradient(q, 3, q.dcarry[0]);
      q.ds_prev[1] = dc * f;
    }
  }

  // dv of gate g, to the parameters and to both normalised vectors.
  template <class Q, class V>
  RNNK_HD static void gate_gradient(Q& q, int g, V dv) {
    q.dp[kGammaX + g] = dv * q.gx[g];
    q.dp[kGammaH + g] = dv * q.gh[g];
    q.dp[kBeta + g] = dv;
    q.dgx[g] = dv * q.p[kGammaX + g];
    q.dgh[g] = dv * q.p[kGammaH + g];
  }
};

}  // namespace rnnk
