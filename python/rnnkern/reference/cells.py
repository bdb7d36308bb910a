"""One step of each cell on n rows, with the options that are inside a step, and its gradient, written by hand.

Below, ``s`` is the logistic sigmoid, ``*`` is elementwise, ``h'`` and ``c'`` are the states before the step, ``u`` is
the operand of the recurrent product: h', or what recurrent dropout left of it; and

    gx = W x + b_ih [n, G*H]        gh = R u + b_hh [n, G*H]        W = weight_ih [G*H, I], R = weight_hh [G*H, P]

with ``layer_norm``, gx = gamma_ih*norm(W x) + b_ih and gh = gamma_hh*norm(R u) + b_hh. Gate order is PyTorch's:
``i f g o`` and ``r z n``; sLSTM's is ``i f z o``. Every activation but LSTM's on the way from c to h bounds its input
by ``clip``. R arrives here as a full matrix: ``heads`` and ``independent`` say only which of its entries are
parameters, and are layer.py's, as are zoneout, masks and lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .activations import Activation
from .arrays import Array, Grads, Params
from .options import Options, activations_of

LAYER_NORM_EPS = 1e-5  # torch.nn.LayerNorm's default


@dataclass
class StepGrads:
    """The gradients of what a step read. dh leaves out what came through the product's operand, du."""

    x: Array
    h: Array
    u: Array
    c: Array
    params: Grads = field(default_factory=dict)


class Cell(Protocol):
    gates: int
    states: int  # 1: h; 2: h and c; 4: h and c, which holds c n m [n, 3*H]

    def forward(self, p: Params, x: Array, h: Array, u: Array, c: Array) -> tuple[Array, Array, Any]:
        """x [n, I], h, u [n, P], c [n, H] -> h, c, the tape. A cell with one state passes c through."""

    def backward(self, p: Params, tape: Any, dh: Array, dc: Array) -> StepGrads:
        """dh, dc of the new states -> those of what the step read, and its share of each parameter's."""

    def activated(self, p: Params, tape: Any) -> list[tuple[Activation, Array]]:
        """Every activation of the step and its input [n, K], before the clip."""


def normalise(v: Array) -> tuple[Array, Array]:
    """(v - mean) / std and std [n, 1], std = sqrt(var + eps), over each row of v [n, K]."""
    std = np.sqrt(v.var(axis=1, keepdims=True) + LAYER_NORM_EPS)
    return (v - v.mean(axis=1, keepdims=True)) / std, std


def normalise_backward(n: Array, std: Array, dn: Array) -> Array:
    """dv = (dn - mean(dn) - n*mean(dn*n)) / std: mean and std depend on every element of the row."""
    return (dn - dn.mean(axis=1, keepdims=True) - n * (dn * n).mean(axis=1, keepdims=True)) / std


def side(p: Params, name: str, v: Array, norm: bool) -> Array:
    """gx from x (name "ih"), gh from u (name "hh"): product, norm if any, bias."""
    product = v @ p[f"weight_{name}"].T
    if norm:
        product = p[f"gamma_{name}"] * normalise(product)[0]
    return product + p[f"bias_{name}"]


def side_backward(p: Params, name: str, v: Array, norm: bool, dg: Array) -> tuple[Array, Grads]:
    """dv, and the gradients of the side's parameters."""
    grads = {f"bias_{name}": dg.sum(0)}
    if norm:
        n, std = normalise(v @ p[f"weight_{name}"].T)
        grads[f"gamma_{name}"] = (dg * n).sum(0)
        dg = normalise_backward(n, std, dg * p[f"gamma_{name}"])
    return dg @ p[f"weight_{name}"], grads | {f"weight_{name}": dg.T @ v}


class Elman:
    """h = f(gx + gh) with f = tanh or relu (Elman 1990; torch.nn.RNN), or, for tests, f(v) = v.

    ``linear`` is exact on small integers, so that layout, tails, lengths and reversal can be tested for equality.
    IndRNN (Li et al. 2018, arXiv 1803.04831) is the one whose R is diagonal.
    """

    gates, states = 1, 1

    def __init__(self, name: str, options: Options) -> None:
        self.norm = options.layer_norm
        (self.f,) = activations_of(name, options)

    def forward(self, p: Params, x: Array, h: Array, u: Array, c: Array) -> tuple[Array, Array, Any]:
        out = self.f.forward(self._input(p, x, u))
        return out, c, (x, u, out)

    def backward(self, p: Params, tape: Any, dh: Array, dc: Array) -> StepGrads:
        x, u, out = tape
        dv = self.f.backward(self._input(p, x, u), out, dh)
        dx, grads = side_backward(p, "ih", x, self.norm, dv)
        du, more = side_backward(p, "hh", u, self.norm, dv)
        return StepGrads(dx, np.zeros_like(du), du, dc, grads | more)

    def activated(self, p: Params, tape: Any) -> list[tuple[Activation, Array]]:
        return [(self.f, self._input(p, *tape[:2]))]

    def _input(self, p: Params, x: Array, u: Array) -> Array:
        return side(p, "ih", x, self.norm) + side(p, "hh", u, self.norm)


@dataclass
class LstmTape:
    x: Array
    u: Array
    c_old: Array
    c: Array
    inputs: tuple[Array, Array, Array, Array, Array]  # of the activations: vi, vf, vg, vo, q
    outputs: tuple[Array, Array, Array, Array, Array]  # i, f, g, o, t = act_h(q)


class Lstm:
    """i, f, o = s(gx + gh), g = tanh(gx + gh); c = f*c' + i*g; h = o*tanh(c).

    Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000; torch.nn.LSTM. Options:

    * ``peephole`` (Gers & Schmidhuber 2000; p_i, p_f, p_o the rows of peephole [3, H]): before s, i += p_i*c',
      f += p_f*c', o += p_o*c with the new c;
    * ``coupled`` (Greff et al. 2017, arXiv 1503.04069, CIFG): f = 1 - i;
    * ``layer_norm`` (Ba, Kiros & Hinton 2016, arXiv 1607.06450, equations 20-22): also h = o*tanh(q) with
      q = gamma_c*norm(c) + beta_c; the carried c is raw;
    * a projection (Sak, Senior & Beaufays 2014, arXiv 1402.1128): h = W_hr (o*tanh(c)), W_hr = weight_hr [P, H].
    """

    gates, states = 4, 2

    def __init__(self, name: str, options: Options) -> None:
        self.peephole, self.coupled, self.norm = options.peephole, options.coupled, options.layer_norm
        self.f, self.g, self.h = activations_of(name, options)  # of i f o, of g, and of the output

    def forward(self, p: Params, x: Array, h: Array, u: Array, c: Array) -> tuple[Array, Array, Any]:
        vi, vf, vg, vo = np.split(side(p, "ih", x, self.norm) + side(p, "hh", u, self.norm), 4, axis=1)
        if self.peephole:
            vi = vi + p["peephole"][0] * c
            vf = vf + p["peephole"][1] * c
        i = self.f.forward(vi)
        f = 1 - i if self.coupled else self.f.forward(vf)
        g = self.g.forward(vg)
        c_new = f * c + i * g
        if self.peephole:
            vo = vo + p["peephole"][2] * c_new
        o = self.f.forward(vo)
        q = p["gamma_c"] * normalise(c_new)[0] + p["beta_c"] if self.norm else c_new
        t = self.h.forward(q)
        m = o * t
        h_new = m @ p["weight_hr"].T if "weight_hr" in p else m
        return h_new, c_new, LstmTape(x, u, c, c_new, (vi, vf, vg, vo, q), (i, f, g, o, t))

    def backward(self, p: Params, tape: LstmTape, dh: Array, dc: Array) -> StepGrads:
        (vi, vf, vg, vo, q), (i, f, g, o, t) = tape.inputs, tape.outputs
        grads: Grads = {}
        dm = dh
        if "weight_hr" in p:
            dm, grads["weight_hr"] = dh @ p["weight_hr"], dh.T @ (o * t)
        dvo = self.f.backward(vo, o, dm * t)
        dq = self.h.backward(q, t, dm * o)
        if self.norm:
            n, std = normalise(tape.c)
            grads |= {"gamma_c": (dq * n).sum(0), "beta_c": dq.sum(0)}
            dq = normalise_backward(n, std, dq * p["gamma_c"])
        dc = dc + dq
        if self.peephole:
            dc = dc + dvo * p["peephole"][2]
        di, df = dc * g, dc * tape.c_old
        if self.coupled:
            di, dvf = di - df, np.zeros_like(vf)
        else:
            dvf = self.f.backward(vf, f, df)
        dvi, dvg = self.f.backward(vi, i, di), self.g.backward(vg, g, dc * i)
        dc_old = dc * f
        if self.peephole:
            dc_old = dc_old + dvi * p["peephole"][0] + dvf * p["peephole"][1]
            grads["peephole"] = np.stack([(dvi * tape.c_old).sum(0), (dvf * tape.c_old).sum(0), (dvo * tape.c).sum(0)])
        dv = np.concatenate([dvi, dvf, dvg, dvo], axis=1)
        dx, of_input = side_backward(p, "ih", tape.x, self.norm, dv)
        du, of_state = side_backward(p, "hh", tape.u, self.norm, dv)
        return StepGrads(dx, np.zeros_like(du), du, dc_old, grads | of_input | of_state)

    def activated(self, p: Params, tape: LstmTape) -> list[tuple[Activation, Array]]:
        vi, vf, vg, vo, q = tape.inputs
        forget = [] if self.coupled else [(self.f, vf)]
        return [(self.f, vi), *forget, (self.g, vg), (self.f, vo), (self.h, q)]


class Gru:
    """r, z = s(gx + gh), n = tanh(gx_n + r*gh_n); h = (1 - z)*n + z*h': the reset gate after the product.

    torch.nn.GRU and cuDNN's CUDNN_GRU; the first version (v1) of Cho et al. 2014, arXiv 1406.1078.
    """

    gates, states = 3, 1

    def __init__(self, name: str, options: Options) -> None:
        self.norm = options.layer_norm
        self.f, self.g = activations_of(name, options)  # of r z, and of n

    def forward(self, p: Params, x: Array, h: Array, u: Array, c: Array) -> tuple[Array, Array, Any]:
        xr, xz, xn = np.split(side(p, "ih", x, self.norm), 3, axis=1)
        hr, hz, hn = np.split(side(p, "hh", u, self.norm), 3, axis=1)
        vr, vz = xr + hr, xz + hz
        r, z = self.f.forward(vr), self.f.forward(vz)
        vn = xn + r * hn
        n = self.g.forward(vn)
        return (1 - z) * n + z * h, c, (x, h, u, hn, (vr, vz, vn), (r, z, n))

    def backward(self, p: Params, tape: Any, dh: Array, dc: Array) -> StepGrads:
        x, h, u, hn, (vr, vz, vn), (r, z, n) = tape
        dvn = self.g.backward(vn, n, dh * (1 - z))
        dvz = self.f.backward(vz, z, dh * (h - n))
        dvr = self.f.backward(vr, r, dvn * hn)
        dgx = np.concatenate([dvr, dvz, dvn], axis=1)
        dgh = np.concatenate([dvr, dvz, dvn * r], axis=1)  # only the n gate differs: gh_n is multiplied by r
        dx, of_input = side_backward(p, "ih", x, self.norm, dgx)
        du, of_state = side_backward(p, "hh", u, self.norm, dgh)
        return StepGrads(dx, dh * z, du, dc, of_input | of_state)

    def activated(self, p: Params, tape: Any) -> list[tuple[Activation, Array]]:
        vr, vz, vn = tape[4]
        return [(self.f, vr), (self.f, vz), (self.g, vn)]


class GruBefore:
    """r, z = s(gx + gh), n = tanh(gx_n + R_n (r*u) + b_hh_n); h = (1 - z)*n + z*h': the reset gate before the product.

    Cho et al. 2014, arXiv 1406.1078v3; ONNX's GRU with linear_before_reset = 0.
    """

    gates, states = 3, 1

    def __init__(self, name: str, options: Options) -> None:
        self.f, self.g = activations_of(name, options)  # of r z, and of n

    def forward(self, p: Params, x: Array, h: Array, u: Array, c: Array) -> tuple[Array, Array, Any]:
        xr, xz, xn = np.split(x @ p["weight_ih"].T + p["bias_ih"], 3, axis=1)
        (R_r, R_z, R_n), (b_r, b_z, b_n) = np.split(p["weight_hh"], 3), np.split(p["bias_hh"], 3)
        vr, vz = xr + u @ R_r.T + b_r, xz + u @ R_z.T + b_z
        r, z = self.f.forward(vr), self.f.forward(vz)
        vn = xn + (r * u) @ R_n.T + b_n
        n = self.g.forward(vn)
        return (1 - z) * n + z * h, c, (x, h, u, (vr, vz, vn), (r, z, n))

    def backward(self, p: Params, tape: Any, dh: Array, dc: Array) -> StepGrads:
        x, h, u, (vr, vz, vn), (r, z, n) = tape
        R_r, R_z, R_n = np.split(p["weight_hh"], 3)
        dvn = self.g.backward(vn, n, dh * (1 - z))
        dvz = self.f.backward(vz, z, dh * (h - n))
        dru = dvn @ R_n  # r*u is the operand of the second product
        dvr = self.f.backward(vr, r, dru * u)
        dv = np.concatenate([dvr, dvz, dvn], axis=1)
        grads = {
            "weight_ih": dv.T @ x,
            "weight_hh": np.concatenate([dvr.T @ u, dvz.T @ u, dvn.T @ (r * u)]),
            "bias_ih": dv.sum(0),
            "bias_hh": dv.sum(0),
        }
        return StepGrads(dv @ p["weight_ih"], dh * z, dru * r + dvr @ R_r + dvz @ R_z, dc, grads)

    def activated(self, p: Params, tape: Any) -> list[tuple[Activation, Array]]:
        vr, vz, vn = tape[3]
        return [(self.f, vr), (self.f, vz), (self.g, vn)]


class Slstm:
    """sLSTM (Beck et al. 2024, xLSTM, arXiv 2405.04517, equations 8 to 17): i an exponential, f a sigmoid.

    With log f = log s(v_f) and the stabiliser m = max(log f + m', v_i), or v_i where n' = 0 (there is nothing yet that
    could overflow):

        I = exp(v_i - m)   F = exp(min(log f + m' - m, 0))   z = tanh(v_z)   o = s(v_o)
        c = F*c' + I*z     n = F*n' + I                      h = o*c/n

    h, c exp(m) and n exp(m) do not depend on the m' that c' and n' were scaled by; gradients take every one of c, n and
    m as an output of its own.
    """

    gates, states = 4, 4

    def __init__(self, name: str, options: Options) -> None:
        self.o, self.z = activations_of(name, options)

    def forward(self, p: Params, x: Array, h: Array, u: Array, c: Array) -> tuple[Array, Array, Any]:
        vi, vf, vz, vo = np.split(side(p, "ih", x, False) + side(p, "hh", u, False), 4, axis=1)
        c_old, n_old, m_old = np.split(c, 3, axis=1)
        carried = m_old - np.logaddexp(0, -vf)
        opens = (vi >= carried) | (n_old == 0)  # whether m is v_i
        m = np.where(opens, vi, carried)
        i, f = np.exp(vi - m), np.exp(np.minimum(carried - m, 0))
        z, o = self.z.forward(vz), self.o.forward(vo)
        c_new, n_new = f * c_old + i * z, f * n_old + i
        bounded, to_kink = carried > m, np.where(n_old == 0, np.inf, vi - carried)
        tape = (x, u, c_old, n_old, opens, to_kink, bounded, (vf, vz, vo), (i, f, z, o))
        return o * c_new / n_new, np.concatenate([c_new, n_new, m], axis=1), tape

    def backward(self, p: Params, tape: Any, dh: Array, dc: Array) -> StepGrads:
        x, u, c_old, n_old, opens, _, bounded, (vf, vz, vo), (i, f, z, o) = tape
        c, n = f * c_old + i * z, f * n_old + i
        dc, dn, dm = np.split(dc, 3, axis=1)
        dvo = self.o.backward(vo, o, dh * c / n)
        dc, dn = dc + dh * o / n, dn - dh * o * c / n**2
        dvz = self.z.backward(vz, z, dc * i)
        # log i = v_i - m and log f = carried - m; m is one of v_i and carried.
        dlog_i, dlog_f = (dc * z + dn) * i, np.where(bounded, 0, (dc * c_old + dn * n_old) * f)
        dm = dm - dlog_i - dlog_f
        dvi, dcarried = dlog_i + np.where(opens, dm, 0), dlog_f + np.where(opens, 0, dm)
        dvf = dcarried * np.exp(-np.logaddexp(0, vf))  # d log s(v) / dv = s(-v)
        dv = np.concatenate([dvi, dvf, dvz, dvo], axis=1)
        dx, of_input = side_backward(p, "ih", x, False, dv)
        du, of_state = side_backward(p, "hh", u, False, dv)
        dc_old = np.concatenate([dc * f, dn * f, dcarried], axis=1)
        return StepGrads(dx, np.zeros_like(du), du, dc_old, of_input | of_state)

    def activated(self, p: Params, tape: Any) -> list[tuple[Activation, Array]]:
        _, vz, vo = tape[7]
        return [
            (self.z, vz),
            (self.o, vo),
            (Activation("relu", 0.0, 0.0), tape[5]),
        ]  # m has relu's kink where they meet
