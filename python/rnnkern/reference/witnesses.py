"""The two shape witnesses of tests/test_witness.py: cells that no kernel ships, which take no options."""

from __future__ import annotations

from typing import Any

import numpy as np

from .activations import Activation, sigmoid
from .arrays import Array, Params
from .cells import StepGrads, normalise, normalise_backward


class GruResetBefore:
    """r = s(gx_r + gh_r + p_r*h'), z = s(gx_z + gh_z + p_z*h'), n = tanh(gx_n + R_n (r*h') + b_hh_n + p_n*h');
    h = (1 - z)*n + z*h': the reset gate before the product, with per-unit vectors p [3, H].

    Cho et al. 2014, arXiv 1406.1078v3; the vectors are peepholes in the manner of Gers & Schmidhuber 2000. A shape
    witness for tests: a second product inside the step whose operand is not h', and per-unit parameters.
    """

    gates, states = 3, 1

    def forward(self, p: Params, x: Array, h: Array, u: Array, c: Array) -> tuple[Array, Array, Any]:
        xr, xz, xn = np.split(x @ p["weight_ih"].T + p["bias_ih"], 3, axis=1)
        (R_r, R_z, R_n), (b_r, b_z, b_n) = np.split(p["weight_hh"], 3), np.split(p["bias_hh"], 3)
        p_r, p_z, p_n = p["p"]
        r = sigmoid(xr + h @ R_r.T + b_r + p_r * h)
        z = sigmoid(xz + h @ R_z.T + b_z + p_z * h)
        n = np.tanh(xn + (r * h) @ R_n.T + b_n + p_n * h)
        return (1 - z) * n + z * h, c, (x, h, r, z, n)

    def backward(self, p: Params, tape: Any, dh: Array, dc: Array) -> StepGrads:
        x, h, r, z, n = tape
        R_r, R_z, R_n = np.split(p["weight_hh"], 3)
        p_r, p_z, p_n = p["p"]
        dvn = dh * (1 - z) * (1 - n**2)
        dvz = dh * (h - n) * z * (1 - z)
        du = dvn @ R_n  # u = r*h' is the operand of the second product
        dvr = du * h * r * (1 - r)
        dh_old = dh * z + du * r + dvr @ R_r + dvz @ R_z + p_r * dvr + p_z * dvz + p_n * dvn
        dv = np.concatenate([dvr, dvz, dvn], axis=1)
        grads = {
            "weight_ih": dv.T @ x,
            "weight_hh": np.concatenate([dvr.T @ h, dvz.T @ h, dvn.T @ (r * h)]),
            "bias_ih": dv.sum(0),
            "bias_hh": dv.sum(0),
            "p": np.stack([(dvr * h).sum(0), (dvz * h).sum(0), (dvn * h).sum(0)]),
        }
        return StepGrads(dv @ p["weight_ih"], dh_old, np.zeros_like(dh_old), dc, grads)

    def activated(self, p: Params, tape: Any) -> list[tuple[Activation, Array]]:
        return []  # none that has a kink


class LstmLayerNormProj:
    """v = gamma_x*LN(W x) + gamma_h*LN(R h') + beta [4H]; i, f, o = s(v), g = tanh(v); c = f*c' + i*g;
    m = o*tanh(gamma_c*LN(c) + beta_c) [H]; h = W_hr m [P].  LN(v) = (v - mean) / sqrt(var + 1e-5) over the row.

    Ba, Kiros & Hinton 2016, arXiv 1607.06450, equations 20-22 (the normalised c feeds only the last tanh, the carried
    c is raw); projection of Sak, Senior & Beaufays 2014, arXiv 1402.1128. A shape witness for tests: reductions over
    the row before the pointwise part, and a second product that makes h. Parameters: weight_ih, weight_hh [4H, P],
    weight_hr [P, H], gamma_x, gamma_h, beta [4H], gamma_c, beta_c [H].
    """

    gates, states = 4, 2

    def forward(self, p: Params, x: Array, h: Array, u: Array, c: Array) -> tuple[Array, Array, Any]:
        nx, sx = normalise(x @ p["weight_ih"].T)
        nh, sh = normalise(h @ p["weight_hh"].T)
        vi, vf, vg, vo = np.split(p["gamma_x"] * nx + p["gamma_h"] * nh + p["beta"], 4, axis=1)
        i, f, g, o = sigmoid(vi), sigmoid(vf), np.tanh(vg), sigmoid(vo)
        c_new = f * c + i * g
        nc, sc = normalise(c_new)
        t = np.tanh(p["gamma_c"] * nc + p["beta_c"])
        m = o * t
        return m @ p["weight_hr"].T, c_new, (x, h, c, nx, sx, nh, sh, i, f, g, o, nc, sc, t, m)

    def backward(self, p: Params, tape: Any, dh: Array, dc: Array) -> StepGrads:
        x, h, c, nx, sx, nh, sh, i, f, g, o, nc, sc, t, m = tape
        dm = dh @ p["weight_hr"]
        dq = dm * o * (1 - t**2)  # q = gamma_c*LN(c) + beta_c
        dc = dc + normalise_backward(nc, sc, dq * p["gamma_c"])
        dv = np.concatenate(
            [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dm * t * o * (1 - o)], axis=1
        )
        dwx = normalise_backward(nx, sx, dv * p["gamma_x"])
        drh = normalise_backward(nh, sh, dv * p["gamma_h"])
        grads = {
            "weight_ih": dwx.T @ x,
            "weight_hh": drh.T @ h,
            "weight_hr": dh.T @ m,
            "gamma_x": (dv * nx).sum(0),
            "gamma_h": (dv * nh).sum(0),
            "beta": dv.sum(0),
            "gamma_c": (dq * nc).sum(0),
            "beta_c": dq.sum(0),
        }
        dh_old = drh @ p["weight_hh"]
        return StepGrads(dwx @ p["weight_ih"], dh_old, np.zeros_like(dh_old), dc * f, grads)

    def activated(self, p: Params, tape: Any) -> list[tuple[Activation, Array]]:
        return []  # none that has a kink
