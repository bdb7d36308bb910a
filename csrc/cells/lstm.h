// LSTM (S. Hochreiter, J. Schmidhuber, 1997; forget gate: F. Gers et al., 2000), gates i f g o, F = sigmoid and G = H = tanh:
//   i, f, o = F(gx + gh)   g = G(gx + gh)   c = f c' + i g   h = o H(c).   Saved: i f g o c.
// With options: peepholes (F. Gers, J. Schmidhuber, 2000), coupled gates f = 1 - i (K. Greff et al., 2015), any activations, clip (of
// the inputs of F and G); layer normalisation (J. Ba et al., 2016), projection (H. Sak et al., 2014):
//   v = gx + gh (with layer norm: each normalised by the driver)   v_i += p_i c'   v_f += p_f c'   v_o += p_o c
//   i, f, o = F(v)   g = G(v)   m = o H(c), or o H(gamma_c LN(c) + beta_c)   h = m, or W_hr m.
// With layer norm H's gate is saved too. Vectors p [3, H]: i f o.
#pragma once
#include "cells/options.h"

namespace rnnk {

template <class Policy, bool Norm, bool Projected>
struct LstmOf : Policy {
  using Policy::kHasOptions;
  static constexpr int kGates = 4, kStates = 2, kStages = 1 + Norm + Projected;
  static constexpr Stage kProjection = {1, 0, Product::weight_hr, false, true};
  static constexpr Stage kStage[3] = {{4, 0, Product::weight_hh, Norm, false},
                                      Norm ? Stage{1, 0, Product::identity, true, false} : kProjection,
                                      kProjection};
  static constexpr int kParams = kHasOptions ? 3 : 0, kParamStage[3] = {0, 0, 0};
  static constexpr int kCarry = Norm;  // forward: o; backward: its gradient
  static constexpr int kSaved = 5 + Norm, kSavedState[kStates] = {-1, 4};
  static constexpr bool kReadsH = false, kSameGrad = true;

  // v + p_k c, with peepholes.
  template <int k, class Q, class V>
  RNNK_HD static V peep(const Q& q, V c, V v) {
    if constexpr (kHasOptions) return q.o->peephole ? fma(q.p[k], c, v) : v;
    return v;
  }

  template <int stage, class Q>
  RNNK_HD static void forward(Q& q) {
    const auto& with = Policy::options(q);
    if constexpr (stage == 0) {
      const auto vi = peep<0>(q, q.s[1], q.gx[0] + q.gh[0]), vf = peep<1>(q, q.s[1], q.gx[1] + q.gh[1]);
      const auto i = gate(q, with.f, vi, q.saved[0]);
      auto f = vf.set1(1) - i;
      if (!with.coupled) f = gate(q, with.f, vf, q.saved[1]);
      else q.saved[1] = f;
      const auto g = gate(q, with.g, q.gx[2] + q.gh[2], q.saved[2]);
      const auto c = fma(f, q.s[1], i * g);
      const auto o = gate(q, with.f, peep<2>(q, c, q.gx[3] + q.gh[3]), q.saved[3]);
      q.s_new[1] = q.saved[4] = c;
      if constexpr (Norm) q.carry[0] = o, q.emit = c;
      else give(q, o * activate(with.h, c));
    } else if constexpr (Norm && stage == 1) {
      give(q, q.carry[0] * output_gate(q, with.h, q.gh[0], q.saved[5]));
    } else {
      q.s_new[0] = q.gh[0];
    }
  }
  template <class Q, class V>
  RNNK_HD static void give(Q& q, V m) {
    if constexpr (Projected) q.emit = m;
    else q.s_new[0] = m;
  }

  template <int stage, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto& with = Policy::options(q);
    const auto zero = q.ds[1].set1(0);
    if constexpr (stage > 0 && stage == kStages - 1 && Projected) {
      q.dgh[0] = q.ds[0];
      q.ds_prev[0] = zero;
    } else if constexpr (Norm && stage == 1) {
      const auto dm = Projected ? q.demit : q.ds[0];
      const auto o = recall(q, with.f, q.saved[3]), t = output_recall(q, with.h, q.saved[5]);
      q.dgh[0] = dm * o.y * t.slope;
      q.dcarry[0] = dm * t.y;
      q.ds_prev[1] = q.ds[1];  // c's own gradient waits for stage 0
      if constexpr (!Projected) q.ds_prev[0] = zero;
    } else {
      const auto i = recall(q, with.f, q.saved[0]), g = recall(q, with.g, q.saved[2]), o = recall(q, with.f, q.saved[3]);
      Gate f{q.saved[1], zero};
      if (!with.coupled) f = recall(q, with.f, q.saved[1]);
      auto c = q.saved[4];
      if constexpr (kHasOptions) c = fma(f.y, q.s[1], i.y * g.y);  // before zoneout
      auto dc = q.ds[1], d_o = zero;
      if constexpr (Norm) {
        dc = dc + q.demit, d_o = q.dcarry[0];
      } else {
        const auto dm = Projected ? q.demit : q.ds[0];
        const auto t = output_at(with.h, c);
        d_o = dm * t.y, dc = fma(dm * o.y, t.slope, dc);
      }
      q.dgx[3] = d_o * o.slope;
      dc = peep<2>(q, q.dgx[3], dc);
      const auto df = dc * q.s[1];
      q.dgx[0] = (with.coupled ? fma(dc, g.y, -df) : dc * g.y) * i.slope;
      q.dgx[1] = with.coupled ? zero : df * f.slope;
      q.dgx[2] = dc * i.y * g.slope;
      q.ds_prev[1] = peep<0>(q, q.dgx[0], peep<1>(q, q.dgx[1], dc * f.y));
      if constexpr (kHasOptions) q.dp[0] = q.dgx[0] * q.s[1], q.dp[1] = q.dgx[1] * q.s[1], q.dp[2] = q.dgx[3] * c;
      if constexpr (kStages == 1) q.ds_prev[0] = zero;
    }
  }
};

struct Lstm : LstmOf<Plain<Activate::sigmoid, Activate::tanh, Activate::tanh>, false, false> {
  static constexpr unsigned kTakes =
      kTakesClip | kTakesLayerNorm | kTakesProjection | kTakesPeephole | kTakesCoupled | kTakesCellZoneout;
};
using LstmAny = LstmOf<WithOptions, false, false>;
using LstmProj = LstmOf<WithOptions, false, true>;
using LstmNorm = LstmOf<WithOptions, true, false>;
using LstmNormProj = LstmOf<WithOptions, true, true>;

}  // namespace rnnk
