// GRU (K. Cho et al., 2014), gates r z n, F = sigmoid and G = tanh unless `activations` says otherwise:
//   r, z = F(gx + gh)   h = (1 - z) n + z h'
//   reset after the product (PyTorch, cuDNN):               n = G(gx_n + r gh_n)                       saved: r z n gh_n
//   reset before it (arXiv 1406.1078v3; ONNX's default):    n = G(gx_n + R_n (r h') + b_hh_n)          saved: r z n
#pragma once
#include "cells/options.h"

namespace rnnk {

template <class Policy, bool Norm>
struct GruOf : OneStage<3>, Policy {
  using Policy::kHasOptions, Policy::kActivations;
  static constexpr Stage kStage[1] = {{3, 0, Product::weight_hh, Norm, false}};
  static constexpr int kStates = 1, kSaved = 4;
  static constexpr int kSavedState[kStates] = {-1};
  static constexpr bool kReadsH = true, kSameGrad = false;

  template <int, class Q>
  RNNK_HD static void forward(Q& q) {
    const auto& with = Policy::options(q);
    const auto r = gate(q, with.f, q.gx[0] + q.gh[0], q.saved[0]);
    const auto z = gate(q, with.f, q.gx[1] + q.gh[1], q.saved[1]);
    const auto n = gate(q, with.g, fma(r, q.gh[2], q.gx[2]), q.saved[2]);
    q.s_new[0] = fma(z, q.s[0] - n, n);
    q.saved[3] = q.gh[2];
  }

  template <int, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto& with = Policy::options(q);
    const auto r = recall(q, with.f, q.saved[0]), z = recall(q, with.f, q.saved[1]);
    const auto n = recall(q, with.g, q.saved[2]);
    const auto dh = q.ds[0], dn = dh * (z.y.set1(1) - z.y) * n.slope;
    q.dgx[0] = dn * q.saved[3] * r.slope;
    q.dgx[1] = dh * (q.s[0] - n.y) * z.slope;
    q.dgx[2] = dn;
    q.dgh[0] = q.dgx[0];
    q.dgh[1] = q.dgx[1];
    q.dgh[2] = dn * r.y;
    q.ds_prev[0] = dh * z.y;
  }
};

struct Gru : GruOf<Plain<Activate::sigmoid, Activate::tanh>, false> {
  static constexpr unsigned kTakes = kTakesClip | kTakesLayerNorm | kTakesResetBefore;
};
using GruAny = GruOf<WithOptions, false>;
using GruNorm = GruOf<WithOptions, true>;

struct GruBefore {
  static constexpr int kGates = 3, kStates = 1, kSaved = 3, kStages = 2;
  static constexpr Stage kStage[kStages] = {
      {2, 0, Product::weight_hh, false, false},  // r z, of h'
      {1, 2, Product::weight_hh, false, false},  // n, of r h'
  };
  static constexpr int kParams = 0, kParamStage[1] = {0};
  static constexpr int kCarry = 1;  // forward: z; backward: the gradient of z's pre-activation
  static constexpr int kSavedState[kStates] = {-1};
  static constexpr bool kReadsH = true, kSameGrad = true, kHasOptions = true;

  template <int stage, class Q>
  RNNK_HD static void forward(Q& q) {
    if constexpr (stage == 0) {
      const auto r = gate(q, q.o->f, q.gx[0] + q.gh[0], q.saved[0]);
      q.carry[0] = gate(q, q.o->f, q.gx[1] + q.gh[1], q.saved[1]);
      q.emit = r * q.operand;
    } else {
      const auto z = q.carry[0], n = gate(q, q.o->g, q.gx[2] + q.gh[2], q.saved[2]);
      q.s_new[0] = fma(z, q.s[0] - n, n);
    }
  }

  template <int stage, class Q>
  RNNK_HD static void backward(Q& q) {
    if constexpr (stage == 1) {
      const auto z = recall(q, q.o->f, q.saved[1]), n = recall(q, q.o->g, q.saved[2]);
      const auto dh = q.ds[0];
      q.dgx[2] = dh * (z.y.set1(1) - z.y) * n.slope;
      q.dcarry[0] = dh * (q.s[0] - n.y) * z.slope;
      q.ds_prev[0] = dh * z.y;
    } else {
      const auto r = recall(q, q.o->f, q.saved[0]);
      q.dgx[0] = q.demit * q.operand * r.slope;
      q.dgx[1] = q.dcarry[0];
      q.doperand = q.demit * r.y;
    }
  }
};

}  // namespace rnnk
