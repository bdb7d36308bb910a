// sLSTM (M. Beck et al., xLSTM, 2024, arXiv 2405.04517, eq. 8 to 17), gates i f z o, in its stabilised form:
//   v = gx + gh   a = log sigmoid(v_f) + m'   m = max(v_i, a), or v_i where n' = 0: nothing is stored yet
//   I = exp(v_i - m)   F = exp(min(a - m, 0))   c = F c' + I tanh(v_z)   n = F n' + I   h = sigmoid(v_o) c / n.
// States h c n m; only where n' = 0 can a be above m. h does not depend on m but by rounding; gradients are those of the formulas above, m's included.
// Saved: I F z o c n and sigmoid(-v_f), the slope of the logarithm. m itself BPTT does not read.
#pragma once
#include "cells/options.h"

namespace rnnk {

struct Slstm : OneStage<4> {
  static constexpr int kStates = 4, kSaved = 7;
  static constexpr int kSavedState[kStates] = {-1, 4, 5, -1};
  static constexpr bool kReadsH = false, kSameGrad = true, kHasOptions = true;

  template <class Q>
  RNNK_HD static auto empty(const Q& q) {
    return less(absolute(q.s[2]), q.s[2].set1(least_normal<typename Q::T>()));
  }

  template <int, class Q>
  RNNK_HD static void forward(Q& q) {
    const auto zero = q.gx[0].set1(0), one = q.gx[0].set1(1);
    const auto v = q.gx[0] + q.gh[0], vf = q.gx[1] + q.gh[1];
    const auto small = exp(-absolute(vf));
    const auto a = fmin(zero, vf) - log_1_plus(small) + q.s[3];
    const auto m = select(empty(q), v, fmax(a, v));
    const auto i = exp(v - m), f = exp(fmin(zero, a - m));
    const auto z = tanh(q.gx[2] + q.gh[2]), o = sigmoid(q.gx[3] + q.gh[3]);
    const auto c = fma(f, q.s[1], i * z), n = fma(f, q.s[2], i);
    q.s_new[0] = o * (c / n);
    q.s_new[1] = c, q.s_new[2] = n, q.s_new[3] = m;
    q.saved[0] = i, q.saved[1] = f, q.saved[2] = z, q.saved[3] = o, q.saved[4] = c, q.saved[5] = n;
    q.saved[6] = select(less(vf, zero), one, small) * reciprocal(one + small);
  }

  template <int, class Q>
  RNNK_HD static void backward(Q& q) {
    const auto i = q.saved[0], f = q.saved[1], z = q.saved[2], o = q.saved[3];
    const auto one = i.set1(1), zero = i.set1(0);
    // The new states before the driver held or reset anything.
    const auto c = fma(f, q.s[1], i * z), n = fma(f, q.s[2], i), r = c / n;
    const auto dh = q.ds[0], dr = dh * o / n;
    const auto dc = q.ds[1] + dr, dn = fma(-dr, r, q.ds[2]);
    auto di = fma(dc, z, dn) * i, da = fma(dc, q.s[1], dn * q.s[2]) * f;  // of the exponents
    da = select(less(f, one), da, select(empty(q), zero, da));            // beyond the bound
    const auto dm = q.ds[3] - di - da;
    const auto from_a = less(i, one);  // whose m is: exp(0) is 1 to the bit
    da = da + select(from_a, dm, zero), di = di + select(from_a, zero, dm);
    q.dgx[0] = di;
    q.dgx[1] = da * q.saved[6];
    q.dgx[2] = dc * i * fma(-z, z, one);
    q.dgx[3] = dh * r * (o * (one - o));
    q.ds_prev[0] = zero;
    q.ds_prev[1] = dc * f, q.ds_prev[2] = dn * f, q.ds_prev[3] = da;
  }
};

}  // namespace rnnk
