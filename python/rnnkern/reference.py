"""The judge: what every cell means, in NumPy, written from the equations and from nothing else in this library.

It shares no text with the kernels and is imported by no module that ships a result; the tests hold kernels, layers
and framework modules against it, and hold it against finite differences and ``torch.nn``. It favours being plainly
right over being fast: one step at a time, rows that are past their end are left out (so their contents cannot
matter), and every gradient is written by hand. It computes in float64, or in ``numpy.longdouble`` where an argument
has that type, which is how float64 kernels get a judge with precision to spare.

Shapes: T steps, B rows, I inputs, H hidden units, P outputs (H without a projection), G gates. Below, ``s`` is the
logistic sigmoid, ``*`` is elementwise, ``h'`` and ``c'`` are the states before the step, and in every cell except
``lstm_ln_proj``

    gx = W x + b_ih [B, G*H]        gh = R h' + b_hh [B, G*H]        W = weight_ih [G*H, I], R = weight_hh [G*H, P]

Gate order is PyTorch's: ``i f g o`` and ``r z n``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Params = Mapping[str, Array]
Grads = dict[str, Array]

LAYER_NORM_EPS = 1e-5  # torch.nn.LayerNorm's default


class Cell(Protocol):
    """One step of a cell on n rows, and its gradient."""

    gates: int
    states: int  # 1: h, 2: h and c

    def forward(self, p: Params, x: Array, h: Array, c: Array) -> tuple[Array, Array, Any]:
        """x [n, I], h [n, P], c [n, H] -> h, c, what backward needs. A cell with one state passes c through."""

    def backward(self, p: Params, saved: Any, dh: Array, dc: Array) -> tuple[Array, Array, Array, Grads]:
        """dh, dc of the new states -> dx, dh', dc' of the old ones, and this step's share of each parameter's."""


def sigmoid(v: Array) -> Array:
    """1 / (1 + exp(-v)) without overflow and with full relative precision in both tails."""
    return np.exp(-np.logaddexp(0, -v))


def _products(p: Params, x: Array, h: Array) -> tuple[Array, Array]:
    return x @ p["weight_ih"].T + p["bias_ih"], h @ p["weight_hh"].T + p["bias_hh"]


def _products_backward(p: Params, x: Array, h: Array, dgx: Array, dgh: Array) -> tuple[Array, Array, Grads]:
    """Gradients of ``_products``: dx, dh and those of W, R and the two biases."""
    grads = {"weight_ih": dgx.T @ x, "weight_hh": dgh.T @ h, "bias_ih": dgx.sum(0), "bias_hh": dgh.sum(0)}
    return dgx @ p["weight_ih"], dgh @ p["weight_hh"], grads


class Elman:
    """h = f(gx + gh) with f = tanh or relu (Elman 1990; torch.nn.RNN), or, for tests, f(v) = v.

    ``linear`` is exact on small integers, so that layout, tails, lengths and reversal can be tested for equality.
    """

    gates, states = 1, 1

    def __init__(self, activation: str) -> None:
        self.activation = activation

    def forward(self, p: Params, x: Array, h: Array, c: Array) -> tuple[Array, Array, Any]:
        gx, gh = _products(p, x, h)
        v = gx + gh
        h_new = np.tanh(v) if self.activation == "tanh" else np.maximum(v, 0) if self.activation == "relu" else v
        return h_new, c, (x, h, h_new)

    def backward(self, p: Params, saved: Any, dh: Array, dc: Array) -> tuple[Array, Array, Array, Grads]:
        x, h, h_new = saved
        if self.activation == "tanh":
            dv = dh * (1 - h_new**2)
        elif self.activation == "relu":
            dv = np.where(h_new <= 0, 0, dh)  # the subgradient at 0 is 0, and a NaN lets the gradient pass, as in torch
        else:
            dv = dh
        dx, dh_old, grads = _products_backward(p, x, h, dv, dv)
        return dx, dh_old, dc, grads


class Lstm:
    """i, f, o = s(gx + gh), g = tanh(gx + gh); c = f*c' + i*g; h = o*tanh(c).

    Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000; torch.nn.LSTM.
    """

    gates, states = 4, 2

    def forward(self, p: Params, x: Array, h: Array, c: Array) -> tuple[Array, Array, Any]:
        gx, gh = _products(p, x, h)
        vi, vf, vg, vo = np.split(gx + gh, 4, axis=1)
        i, f, g, o = sigmoid(vi), sigmoid(vf), np.tanh(vg), sigmoid(vo)
        c_new = f * c + i * g
        return o * np.tanh(c_new), c_new, (x, h, c, i, f, g, o, c_new)

    def backward(self, p: Params, saved: Any, dh: Array, dc: Array) -> tuple[Array, Array, Array, Grads]:
        x, h, c, i, f, g, o, c_new = saved
        t = np.tanh(c_new)
        dc = dc + dh * o * (1 - t**2)
        dv = np.concatenate(
            [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * t * o * (1 - o)], axis=1
        )
        dx, dh_old, grads = _products_backward(p, x, h, dv, dv)
        return dx, dh_old, dc * f, grads


class Gru:
    """r, z = s(gx + gh), n = tanh(gx_n + r*gh_n); h = (1 - z)*n + z*h': the reset gate after the product.

    torch.nn.GRU and cuDNN's CUDNN_GRU; the first version (v1) of Cho et al. 2014, arXiv 1406.1078.
    """

    gates, states = 3, 1

    def forward(self, p: Params, x: Array, h: Array, c: Array) -> tuple[Array, Array, Any]:
        gx, gh = _products(p, x, h)
        (xr, xz, xn), (hr, hz, hn) = np.split(gx, 3, axis=1), np.split(gh, 3, axis=1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        n = np.tanh(xn + r * hn)
        return (1 - z) * n + z * h, c, (x, h, r, z, n, hn)

    def backward(self, p: Params, saved: Any, dh: Array, dc: Array) -> tuple[Array, Array, Array, Grads]:
        x, h, r, z, n, hn = saved
        dvn = dh * (1 - z) * (1 - n**2)
        dvz = dh * (h - n) * z * (1 - z)
        dvr = dvn * hn * r * (1 - r)
        dgx = np.concatenate([dvr, dvz, dvn], axis=1)
        dgh = np.concatenate([dvr, dvz, dvn * r], axis=1)  # only the n gate differs: gh_n is multiplied by r
        dx, dh_old, grads = _products_backward(p, x, h, dgx, dgh)
        return dx, dh_old + dh * z, dc, grads


class GruResetBefore:
    """r = s(gx_r + gh_r + p_r*h'), z = s(gx_z + gh_z + p_z*h'), n = tanh(gx_n + R_n (r*h') + b_hh_n + p_n*h');
    h = (1 - z)*n + z*h': the reset gate before the product, with per-unit vectors p [3, H].

    Cho et al. 2014, arXiv 1406.1078v3; the vectors are peepholes in the manner of Gers & Schmidhuber 2000. A shape
    witness for tests: a second product inside the step whose operand is not h', and per-unit parameters.
    """

    gates, states = 3, 1

    def forward(self, p: Params, x: Array, h: Array, c: Array) -> tuple[Array, Array, Any]:
        xr, xz, xn = np.split(x @ p["weight_ih"].T + p["bias_ih"], 3, axis=1)
        (R_r, R_z, R_n), (b_r, b_z, b_n) = np.split(p["weight_hh"], 3), np.split(p["bias_hh"], 3)
        p_r, p_z, p_n = p["p"]
        r = sigmoid(xr + h @ R_r.T + b_r + p_r * h)
        z = sigmoid(xz + h @ R_z.T + b_z + p_z * h)
        n = np.tanh(xn + (r * h) @ R_n.T + b_n + p_n * h)
        return (1 - z) * n + z * h, c, (x, h, r, z, n)

    def backward(self, p: Params, saved: Any, dh: Array, dc: Array) -> tuple[Array, Array, Array, Grads]:
        x, h, r, z, n = saved
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
        return dv @ p["weight_ih"], dh_old, dc, grads


class LstmLayerNormProj:
    """v = gamma_x*LN(W x) + gamma_h*LN(R h') + beta [4H]; i, f, o = s(v), g = tanh(v); c = f*c' + i*g;
    m = o*tanh(gamma_c*LN(c) + beta_c) [H]; h = W_hr m [P].  LN(v) = (v - mean) / sqrt(var + 1e-5) over the row.

    Ba, Kiros & Hinton 2016, arXiv 1607.06450, equations 20-22 (the normalised c feeds only the last tanh, the carried
    c is raw); projection of Sak, Senior & Beaufays 2014, arXiv 1402.1128. A shape witness for tests: reductions over
    the row before the pointwise part, and a second product that makes h. Parameters: weight_ih, weight_hh [4H, P],
    weight_hr [P, H], gamma_x, gamma_h, beta [4H], gamma_c, beta_c [H].
    """

    gates, states = 4, 2

    def forward(self, p: Params, x: Array, h: Array, c: Array) -> tuple[Array, Array, Any]:
        nx, sx = _normalise(x @ p["weight_ih"].T)
        nh, sh = _normalise(h @ p["weight_hh"].T)
        vi, vf, vg, vo = np.split(p["gamma_x"] * nx + p["gamma_h"] * nh + p["beta"], 4, axis=1)
        i, f, g, o = sigmoid(vi), sigmoid(vf), np.tanh(vg), sigmoid(vo)
        c_new = f * c + i * g
        nc, sc = _normalise(c_new)
        t = np.tanh(p["gamma_c"] * nc + p["beta_c"])
        m = o * t
        return m @ p["weight_hr"].T, c_new, (x, h, c, nx, sx, nh, sh, i, f, g, o, nc, sc, t, m)

    def backward(self, p: Params, saved: Any, dh: Array, dc: Array) -> tuple[Array, Array, Array, Grads]:
        x, h, c, nx, sx, nh, sh, i, f, g, o, nc, sc, t, m = saved
        dm = dh @ p["weight_hr"]
        dq = dm * o * (1 - t**2)  # q = gamma_c*LN(c) + beta_c
        dc = dc + _normalise_backward(nc, sc, dq * p["gamma_c"])
        dv = np.concatenate(
            [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dm * t * o * (1 - o)], axis=1
        )
        dwx = _normalise_backward(nx, sx, dv * p["gamma_x"])
        drh = _normalise_backward(nh, sh, dv * p["gamma_h"])
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
        return dwx @ p["weight_ih"], drh @ p["weight_hh"], dc * f, grads


def _normalise(v: Array) -> tuple[Array, Array]:
    """(v - mean) / std and std [n, 1], std = sqrt(var + eps), over each row of v [n, K]."""
    std = np.sqrt(v.var(axis=1, keepdims=True) + LAYER_NORM_EPS)
    return (v - v.mean(axis=1, keepdims=True)) / std, std


def _normalise_backward(n: Array, std: Array, dn: Array) -> Array:
    """dv = (dn - mean(dn) - n*mean(dn*n)) / std: mean and std depend on every element of the row."""
    return (dn - dn.mean(axis=1, keepdims=True) - n * (dn * n).mean(axis=1, keepdims=True)) / std


CELLS: dict[str, Cell] = {
    "linear": Elman("linear"),
    "rnn_tanh": Elman("tanh"),
    "rnn_relu": Elman("relu"),
    "lstm": Lstm(),
    "gru": Gru(),
    "gru_reset_before": GruResetBefore(),
    "lstm_ln_proj": LstmLayerNormProj(),
}


@dataclass(frozen=True)
class Saved:
    """What ``layer_backward`` needs: the steps in the order they ran, each with its time, its rows and its tape."""

    cell: Cell
    params: dict[str, Array]  # widened, with zeros for absent biases
    names: tuple[str, ...]  # the parameters the caller gave, whose gradients are due
    x_shape: tuple[int, int, int]
    steps: list[tuple[int, Array, Any]]


def layer(
    cell: str,
    params: Params,
    x: Array,
    h_0: Array | None = None,
    c_0: Array | None = None,
    lengths: Sequence[int] | Array | None = None,
    reverse: bool = False,
) -> tuple[Array, Array, Array | None, Saved]:
    """One layer in one direction: x [T, B, I] -> y [T, B, P], h_n [B, P], c_n [B, H] or None, and the tape.

    params: weight_ih [G*H, I], weight_hh [G*H, P], bias_ih, bias_hh [G*H] or absent, and the cell's own. Absent
    states are zero. Row b has ``lengths[b]`` valid steps (T if None); its y is zero after them. Forward, its final
    state is the one after its last valid step; with ``reverse`` it starts at its last valid step and ends at step 0.
    A row of length 0 keeps its initial state.
    """
    kind = CELLS[cell]
    p = {name: _wide(value) for name, value in params.items()}
    dtype = np.result_type(_wide(x), *p.values())
    gate_units, width = p["weight_hh"].shape
    for name in ("bias_ih", "bias_hh"):
        p.setdefault(name, np.zeros(gate_units, dtype))
    seq_len, batch, _ = x.shape
    ends = np.full(batch, seq_len) if lengths is None else np.asarray(lengths)
    h = np.zeros((batch, width), dtype) if h_0 is None else _wide(h_0).astype(dtype)
    c = np.zeros((batch, gate_units // kind.gates), dtype) if c_0 is None else _wide(c_0).astype(dtype)
    y = np.zeros((seq_len, batch, width), dtype)
    steps = []
    for t in reversed(range(seq_len)) if reverse else range(seq_len):
        rows = np.flatnonzero(t < ends)
        h[rows], c[rows], tape = kind.forward(p, _wide(x[t, rows]), h[rows], c[rows])
        y[t, rows] = h[rows]
        steps.append((t, rows, tape))
    return y, h, c if kind.states == 2 else None, Saved(kind, p, tuple(params), x.shape, steps)


def layer_backward(
    saved: Saved, dy: Array | None, dh_n: Array | None = None, dc_n: Array | None = None
) -> dict[str, Array]:
    """BPTT: gradients of ``sum(y*dy) + sum(h_n*dh_n) + sum(c_n*dc_n)``, what is absent being zero.

    Returns ``x`` [T, B, I], ``h_0`` [B, P], ``c_0`` [B, H] where the cell has one, and every parameter given to
    ``layer``.
    """
    p, batch = saved.params, saved.x_shape[1]
    gate_units, width = p["weight_hh"].shape
    dtype = np.result_type(*p.values())
    dh = np.zeros((batch, width), dtype) if dh_n is None else _wide(dh_n).astype(dtype)
    dc = np.zeros((batch, gate_units // saved.cell.gates), dtype) if dc_n is None else _wide(dc_n).astype(dtype)
    dx = np.zeros(saved.x_shape, dtype)
    grads = {name: np.zeros(p[name].shape, dtype) for name in p}
    for t, rows, tape in reversed(saved.steps):
        dh_t = dh[rows] if dy is None else dh[rows] + _wide(dy[t, rows])
        dx[t, rows], dh[rows], dc[rows], share = saved.cell.backward(p, tape, dh_t, dc[rows])
        for name, value in share.items():
            grads[name] += value
    out = {"x": dx, "h_0": dh} | ({"c_0": dc} if saved.cell.states == 2 else {})
    return out | {name: grads[name] for name in saved.names}


def suffix(index_of_layer: int, direction: int) -> str:
    """PyTorch's suffix of a parameter's name: ``_l0``, ``_l0_reverse``, ``_l1``, ..."""
    return f"_l{index_of_layer}" + ("_reverse" if direction else "")


@dataclass(frozen=True)
class StackSaved:
    """The tapes of every layer and direction, and what dropout kept of each layer's output (None: all)."""

    tapes: list[list[Saved]]  # [L][D]
    kept: list[Array | None]  # [L] of bool [T, B, D*P]
    dropout: float


def stack(
    cell: str,
    params: Params,
    x: Array,
    h_0: Array | None = None,
    c_0: Array | None = None,
    lengths: Sequence[int] | Array | None = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    call: int = 0,
) -> tuple[Array, Array, Array | None, StackSaved]:
    """L layers of D directions, as torch.nn stacks them: each sees both directions of the one below, concatenated.

    params has PyTorch's names (``weight_ih_l0``, ``weight_hh_l0_reverse``, ...). h_0 [L*D, B, P], c_0 [L*D, B, H].
    Dropout thins the output of each layer but the last by the mask of ``dropout_kept``, each direction by its own.
    Returns y [T, B, D*P], h_n [L*D, B, P], c_n [L*D, B, H] or None, and the tape.
    """
    directions = 2 if bidirectional else 1
    tapes: list[list[Saved]] = []
    kept: list[Array | None] = []
    finals: list[tuple[Array, Array | None]] = []
    for k in range(num_layers):
        runs = []
        for d in range(directions):
            j, end = k * directions + d, suffix(k, d)
            own = {name.removesuffix(end): value for name, value in params.items() if name.endswith(end)}
            start = (None if h_0 is None else h_0[j], None if c_0 is None else c_0[j])
            runs.append(layer(cell, own, x, *start, lengths, reverse=d == 1))
        tapes.append([run[3] for run in runs])
        finals += [(run[1], run[2]) for run in runs]
        x = np.concatenate([run[0] for run in runs], axis=2)
        if dropout and k + 1 < num_layers:
            shape, streams = runs[0][0].shape, range(k * directions, (k + 1) * directions)
            kept.append(np.concatenate([dropout_kept(shape, dropout, seed, call, j) for j in streams], axis=2))
        else:
            kept.append(None)
        x = thin(x, kept[k], dropout)
    c_n = None if finals[0][1] is None else np.stack([c for _, c in finals if c is not None])
    return x, np.stack([h for h, _ in finals]), c_n, StackSaved(tapes, kept, dropout)


def stack_backward(
    saved: StackSaved, dy: Array | None, dh_n: Array | None = None, dc_n: Array | None = None
) -> dict[str, Array]:
    """Gradients of ``stack``: ``x``, ``h_0`` [L*D, B, P], ``c_0`` if the cell has one, parameters by name."""
    directions = len(saved.tapes[0])
    out: dict[str, Array] = {}
    starts: dict[int, dict[str, Array]] = {}
    for k in reversed(range(len(saved.tapes))):
        dy = None if dy is None else thin(_wide(dy), saved.kept[k], saved.dropout)
        parts = [None] * directions if dy is None else np.split(dy, directions, axis=2)
        dx: Array | None = None
        for d, tape in enumerate(saved.tapes[k]):
            j = k * directions + d
            state = (None if dh_n is None else dh_n[j], None if dc_n is None else dc_n[j])
            grads = layer_backward(tape, parts[d], *state)
            dx = grads["x"] if dx is None else dx + grads["x"]
            starts[j] = grads
            out |= {name + suffix(k, d): grads[name] for name in tape.names}
        dy = dx
    assert dy is not None
    states = [name for name in ("h_0", "c_0") if name in starts[0]]
    return {"x": dy} | {name: np.stack([starts[j][name] for j in sorted(starts)]) for name in states} | out


def philox4x32(counter: Array, key: Array) -> Array:
    """Philox4x32-10: counter [..., 4] and key [..., 2] of uint32 -> [..., 4] of uint32.

    Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"; the constants are Random123's.
    """
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key, np.uint64), -1, 0)
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ k0,
            product1 & low,
            (product0 >> np.uint64(32)) ^ c3 ^ k1,
            product0 & low,
        )
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def dropout_kept(shape: Sequence[int], p: float, seed: int, call: int, stream: int) -> Array:
    """Which elements of [T, B, H] dropout keeps: those whose 32 random bits are at least floor(p * 2**32).

    The bits of element (t, row, unit) are word 0 of Philox4x32-10 with key (low, high) word of ``seed`` and counter
    (call, stream, t, row*H + unit), stream = layer*D + direction; so the mask does not depend on how the work is split.
    """
    seq_len, batch, hidden = shape
    counter = np.zeros((seq_len, batch * hidden, 4), np.uint32)
    counter[..., 0], counter[..., 1] = call & 0xFFFFFFFF, stream
    counter[..., 2] = np.arange(seq_len, dtype=np.uint32)[:, None]
    counter[..., 3] = np.arange(batch * hidden, dtype=np.uint64).astype(np.uint32)
    key = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32)
    bits = philox4x32(counter, key)[..., 0].astype(np.uint64)
    return (bits >= np.uint64(int(p * 2**32))).reshape(shape)


def thin(x: Array, kept: Array | None, p: float) -> Array:
    """x / (1 - p) where kept, else 0; x itself where kept is None. It selects: a dropped NaN is 0. Its own gradient."""
    return x if kept is None else np.where(kept, x / (1 - p) if p < 1 else 0, 0)


def _wide(array: Array) -> Array:
    """In float64, or in longdouble if it is that already (bfloat16 and float16 convert exactly)."""
    array = np.asarray(array)
    return array if array.dtype == np.longdouble else array.astype(np.float64)
