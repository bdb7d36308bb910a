// Elman cell (J. Elman, 1990): h = F(gx + gh); and the independently recurrent one (S. Li et al., 2018, arXiv 1803.04831):
// h = F(gx + u h' + b_hh), p [2, H] being u and b_hh. Saved: F's gate, which is h in a plain cell.
#pragma once
#include "cells/options.h"

namespace rnnk {

template <class Policy, bool Norm>
struct RnnOf : OneStage<1>, Policy {
  using Policy::kHasOptions, Policy::kActivations;
  static constexpr Stage kStage[1] = {{1, 0, Product::weight_hh, Norm, false}};
  static constexpr int kStates = 1, kSaved = 1;
  static constexpr int kSavedState[kStates] = {kHasOptions ? -1 : 0};
  static constexpr bool kReadsH = false, kSameGrad = true;
  static constexpr unsigned kTakes = kTakesClip | kTakesLayerNorm | kTakesIndependent;

  template <int, class Q>
  RNNK_HD static void forward(Q& q) {
    const auto& with = Policy::options(q);
    q.s_new[0] = gate(q, with.f, q.gx[0] + q.gh[0], q.saved[0]);
  }
  template <int, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto& with = Policy::options(q);
    q.dgx[0] = through(q, with.f, q.saved[0], q.ds[0]);
    q.ds_prev[0] = q.ds[0].set1(0);
  }
};

struct RnnTanh : RnnOf<Plain<Activate::tanh>, false> {};
struct RnnRelu : RnnOf<Plain<Activate::relu>, false> {};
using RnnAny = RnnOf<WithOptions, false>;
using RnnNorm = RnnOf<WithOptions, true>;

struct IndRnn {
  static constexpr int kGates = 1, kStates = 1, kSaved = 1, kStages = 1;
  static constexpr Stage kStage[1] = {{1, 0, Product::identity, false, false}};
  static constexpr int kParams = 2, kParamStage[kParams] = {0, 0}, kCarry = 0;
  static constexpr int kSavedState[kStates] = {-1};
  static constexpr bool kReadsH = true, kSameGrad = false, kHasOptions = true;

  template <int, class Q>
  RNNK_HD static void forward(Q& q) {
    q.s_new[0] = gate(q, q.o->f, fma(q.p[0], q.operand, q.gx[0] + q.p[1]), q.saved[0]);
  }
  template <int, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto dv = through(q, q.o->f, q.saved[0], q.ds[0]);
    q.dgx[0] = q.dp[1] = dv;
    q.dp[0] = dv * q.operand;
    q.dgh[0] = dv * q.p[0];
    q.ds_prev[0] = dv.set1(0);
  }
};

}  // namespace rnnk
