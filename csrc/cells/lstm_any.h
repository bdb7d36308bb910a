// LSTM with every option: peepholes (F. Gers, J. Schmidhuber, 2000), coupled gates f = 1 - i (K. Greff et al., 2015), any
// activations, clip (of the inputs of F and G); layer normalisation (J. Ba et al., 2016), projection (H. Sak et al., 2014).
// Gates i f g o:
//   v = gx + gh (of layer norm: what the driver makes of each)   v_i += p_i c'   v_f += p_f c'   v_o += p_o c
//   i, f, o = F(v)   g = G(v)   c = f c' + i g   m = o H(c), or o H(gamma_c LN(c) + beta_c)   h = m, or W_hr m.
// Saved: i f g o c and, of layer norm, H's gate. Vectors p [3, H]: i f o.
#pragma once
#include "cells/options.h"

namespace rnnk {

template <bool Norm, bool Projected>
struct LstmOf {
  static constexpr int kGates = 4, kStates = 2, kStages = 1 + Norm + Projected;
  static constexpr Stage kProjection = {1, 0, Product::weight_hr, false, true};
  static constexpr Stage kStage[3] = {{4, 0, Product::weight_hh, Norm, false},
                                      Norm ? Stage{1, 0, Product::identity, true, false} : kProjection,
                                      kProjection};
  static constexpr int kParams = 3, kParamStage[kParams] = {0, 0, 0};
  static constexpr int kCarry = Norm;  // forward: o; backward: its gradient
  static constexpr int kSaved = 5 + Norm, kSavedState[kStates] = {-1, 4};
  static constexpr bool kReadsH = false, kSameGrad = true, kHasOptions = true;

  template <int stage, class Q>
  RNNK_HD static void forward(Q& q) {
    if constexpr (stage == 0) {
      auto vi = q.gx[0] + q.gh[0], vf = q.gx[1] + q.gh[1], vo = q.gx[3] + q.gh[3];
      if (q.o->peephole) vi = fma(q.p[0], q.s[1], vi), vf = fma(q.p[1], q.s[1], vf);
      const auto i = gate(q, q.o->f, vi, q.saved[0]);
      auto f = vf.set1(1) - i;
      if (!q.o->coupled) f = gate(q, q.o->f, vf, q.saved[1]);
      else q.saved[1] = f;
      const auto g = gate(q, q.o->g, q.gx[2] + q.gh[2], q.saved[2]);
      const auto c = fma(f, q.s[1], i * g);
      if (q.o->peephole) vo = fma(q.p[2], c, vo);
      const auto o = gate(q, q.o->f, vo, q.saved[3]);
      q.s_new[1] = q.saved[4] = c;
      if constexpr (Norm) q.carry[0] = o, q.emit = c;
      else give(q, o * activate(q.o->h, c));
    } else if constexpr (Norm && stage == 1) {
      give(q, q.carry[0] * output_gate(q, q.o->h, q.gh[0], q.saved[5]));
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
    const auto zero = q.ds[1].set1(0);
    if constexpr (stage > 0 && stage == kStages - 1 && Projected) {
      q.dgh[0] = q.ds[0];
      q.ds_prev[0] = zero;
    } else if constexpr (Norm && stage == 1) {
      const auto dm = Projected ? q.demit : q.ds[0];
      const auto o = recall(q, q.o->f, q.saved[3]), t = output_recall(q, q.o->h, q.saved[5]);
      q.dgh[0] = dm * o.y * t.slope;
      q.dcarry[0] = dm * t.y;
      q.ds_prev[1] = q.ds[1];  // c's own gradient waits for stage 0
      if constexpr (!Projected) q.ds_prev[0] = zero;
    } else {
      const auto i = recall(q, q.o->f, q.saved[0]), g = recall(q, q.o->g, q.saved[2]), o = recall(q, q.o->f, q.saved[3]);
      Gate f{q.saved[1], zero};
      if (!q.o->coupled) f = recall(q, q.o->f, q.saved[1]);
      const auto c = fma(f.y, q.s[1], i.y * g.y);  // before zoneout
      auto dc = q.ds[1], d_o = zero;
      if constexpr (Norm) {
        dc = dc + q.demit, d_o = q.dcarry[0];
      } else {
        const auto dm = Projected ? q.demit : q.ds[0];
        const auto t = output_at(q.o->h, c);
        d_o = dm * t.y, dc = fma(dm * o.y, t.slope, dc);
      }
      q.dgx[3] = d_o * o.slope;
      if (q.o->peephole) dc = fma(q.p[2], q.dgx[3], dc);
      const auto df = dc * q.s[1];
      q.dgx[0] = (q.o->coupled ? fma(dc, g.y, -df) : dc * g.y) * i.slope;
      q.dgx[1] = q.o->coupled ? zero : df * f.slope;
      q.dgx[2] = dc * i.y * g.slope;
      q.ds_prev[1] = dc * f.y;
      if (q.o->peephole) {
        q.ds_prev[1] = fma(q.p[0], q.dgx[0], fma(q.p[1], q.dgx[1], q.ds_prev[1]));
        q.dp[0] = q.dgx[0] * q.s[1], q.dp[1] = q.dgx[1] * q.s[1], q.dp[2] = q.dgx[3] * c;
      }
      if constexpr (kStages == 1) q.ds_prev[0] = zero;
    }
  }
};

using LstmAny = LstmOf<false, false>;
using LstmProj = LstmOf<false, true>;
using LstmNorm = LstmOf<true, false>;
using LstmNormProj = LstmOf<true, true>;

}  // namespace rnnk
