"""One step of each cell in torch's own operations: the plain cells, and the cells with options (``rnnkern.options``).

Equations and order of operations are those of csrc/cells; ``composed.py`` walks time with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from .options import Options
from .random import Masks

State = tuple[Tensor, ...]  # (h,) or (h, c): h [B, P], c [B, C], all other states side by side
Params = dict[str, Tensor]  # of one layer in one direction, by their names without suffix
_Function = Callable[[Tensor], Tensor]
_NORM_EPS = 1e-5  # torch.nn.LayerNorm's


# Plain cells: (gx, gh, state) -> state ------------------------------------------------------------------------------


def _elman(f: _Function) -> Callable[[Tensor, Tensor, State], State]:
    return lambda gx, gh, _: (f(gx + gh),)


def _lstm(gx: Tensor, gh: Tensor, state: State) -> State:
    i, f, g, o = (gx + gh).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(gx: Tensor, gh: Tensor, state: State) -> State:
    xr, xz, xn = gx.chunk(3, -1)
    hr, hz, hn = gh.chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return ((1 - z) * n + z * state[0],)


def _slstm(gx: Tensor, gh: Tensor, state: State) -> State:
    i, f, z, o = (gx + gh).chunk(4, -1)
    c, n, m = state[1].chunk(3, -1)
    a = torch.nn.functional.logsigmoid(f) + m
    m = torch.where((n == 0) | ~(i < a), i, a)
    i, f = torch.exp(i - m), torch.exp((a - m).clamp(max=0))
    c, n = f * c + i * torch.tanh(z), f * n + i
    return torch.sigmoid(o) * (c / n).to(o.dtype), torch.cat((c, n, m), -1)  # float32 beside half types


# Options ------------------------------------------------------------------------------------------------------------

# f(v, alpha, beta) as onnx/defs/rnn defines them. Where a branch is not taken, its slope has to be finite all the same.
ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "relu": lambda v, a, b: torch.relu(v),
    "tanh": lambda v, a, b: torch.tanh(v),
    "sigmoid": lambda v, a, b: torch.sigmoid(v),
    "affine": lambda v, a, b: a * v + b,
    "leakyrelu": lambda v, a, b: torch.where(v > 0, v, a * v),
    "thresholdedrelu": lambda v, a, b: torch.where(v > a, v, 0),
    "scaledtanh": lambda v, a, b: a * torch.tanh(b * v),
    "hardsigmoid": lambda v, a, b: (a * v + b).clamp(0, 1),
    "elu": lambda v, a, b: torch.where(v < 0, a * torch.expm1(v.clamp(max=0)), v),
    "softsign": lambda v, a, b: v / (1 + v.abs()),
    "softplus": lambda v, a, b: -torch.nn.functional.logsigmoid(-v),
}


def _functions(own: tuple[str, ...], options: Options) -> list[_Function]:
    """The step's activations, each behind the bound of its input (LSTM's output activation has none). own: the plain
    cell's.
    """
    entries = options.activations or tuple((name, 0.0, 0.0) for name in own)

    def bounded(clip: float, name: str, alpha: float, beta: float) -> _Function:
        f = ACTIVATIONS[name]
        return lambda v: f(v.clamp(-clip, clip) if clip else v, alpha, beta)

    return [bounded(options.clip if place < 2 else 0.0, *entry) for place, entry in enumerate(entries)]


def _normalised(v: Tensor) -> Tensor:
    v = v - v.mean(-1, keepdim=True)
    return v * torch.rsqrt(v.square().mean(-1, keepdim=True) + _NORM_EPS)


def _side(p: Params, name: str, product: Tensor, norm: bool) -> Tensor:
    """gx of W x (name "ih"), gh of R h' ("hh")."""
    if norm:
        product = p[f"gamma_{name}"] * _normalised(product)
    bias = p.get(f"bias_{name}")
    return product if bias is None else product + bias


def _recurrent(weight: Tensor, h: Tensor, heads: int) -> Tensor:
    """R h'. R is diagonal where weight is [H]; with heads there is one block for each of them on its diagonal."""
    if weight.dim() == 1:
        return weight * h
    if heads == 1:
        return linear(h, weight)
    blocks = weight.unflatten(0, (-1, heads, weight.shape[-1]))  # [G, heads, units out, units in]
    return torch.einsum("bek,geuk->bgeu", h.unflatten(-1, (heads, -1)), blocks).flatten(1)


# u: h' as the recurrent product sees it, which is h' itself without recurrent dropout.


def _elman_with(own: tuple[str, ...], o: Options, p: Params, gx: Tensor, state: State, u: Tensor) -> State:
    (f,) = _functions(own, o)
    return (f(gx + _side(p, "hh", _recurrent(p["weight_hh"], u, o.heads), o.layer_norm)),)


def _gru_with(own: tuple[str, ...], o: Options, p: Params, gx: Tensor, state: State, u: Tensor) -> State:
    (f, g), (h,) = _functions(own, o), state
    xr, xz, xn = gx.chunk(3, -1)
    hr, hz, hn = _side(p, "hh", _recurrent(p["weight_hh"], u, o.heads), o.layer_norm).chunk(3, -1)
    r, z = f(xr + hr), f(xz + hz)
    if o.reset_after:
        n = g(xn + r * hn)
    else:
        n = g(xn + _side(p, "hh", _recurrent(p["weight_hh"], r * u, o.heads), False).chunk(3, -1)[2])
    return ((1 - z) * n + z * h,)


def _lstm_with(own: tuple[str, ...], o: Options, p: Params, gx: Tensor, state: State, u: Tensor) -> State:
    (f, g, act_h), (_, c) = _functions(own, o), state
    vi, vf, vg, vo = (gx + _side(p, "hh", _recurrent(p["weight_hh"], u, o.heads), o.layer_norm)).chunk(4, -1)
    if o.peephole:
        vi, vf = vi + p["peephole"][0] * c, vf + p["peephole"][1] * c
    i = f(vi)
    c = (1 - i if o.coupled else f(vf)) * c + i * g(vg)
    if o.peephole:
        vo = vo + p["peephole"][2] * c
    shown = p["gamma_c"] * _normalised(c) + p["beta_c"] if o.layer_norm else c
    h = f(vo) * act_h(shown)
    return linear(h, p["weight_hr"]) if o.proj_size else h, c


def _slstm_with(own: tuple[str, ...], o: Options, p: Params, gx: Tensor, state: State, u: Tensor) -> State:
    return _slstm(gx, _side(p, "hh", _recurrent(p["weight_hh"], u, o.heads), False), state)


class Cell(NamedTuple):
    gates: int
    states: int
    own: tuple[str, ...]  # the plain cell's activations
    plain: Callable[[Tensor, Tensor, State], State]
    step: Callable[[tuple[str, ...], Options, Params, Tensor, State, Tensor], State]


CELLS = {
    "rnn_tanh": Cell(1, 1, ("tanh",), _elman(torch.tanh), _elman_with),
    "rnn_relu": Cell(1, 1, ("relu",), _elman(torch.relu), _elman_with),
    "lstm": Cell(4, 2, ("sigmoid", "tanh", "tanh"), _lstm, _lstm_with),
    "gru": Cell(3, 1, ("sigmoid", "tanh"), _gru, _gru_with),
    "slstm": Cell(4, 4, ("sigmoid", "tanh"), _slstm, _slstm_with),
}


def stepper(
    name: str, o: Options | None, p: Params, x: Tensor, masks: Masks | None = None
) -> tuple[Tensor, Callable[[Tensor, State, int], State]]:
    """x [T, B, I] -> gx [T, B, G*H] and the function (gx_t, state, t) -> state.

    o: None for the plain cell. masks: None as in evaluation, where zoneout mixes.
    """
    cell: Any = CELLS[name]
    if o is None:
        weight, bias = p["weight_hh"], p.get("bias_hh")
        return linear(x, p["weight_ih"], p.get("bias_ih")), lambda gx, state, _: cell.plain(
            gx, linear(state[0], weight, bias), state
        )

    def step(gx: Tensor, state: State, t: int) -> State:
        u = state[0]
        if masks is not None and masks.kept is not None:
            rate = o.recurrent_dropout
            u = torch.where(masks.kept, u * (1 / (1 - rate) if rate < 1 else 0), 0)
        answer = list(cell.step(cell.own, o, p, gx, state, u))
        for k, z in enumerate(o.zoneout[: len(state)]):
            if not z:
                continue
            held = None if masks is None else masks.held[k]
            mixed = z * state[k] + (1 - z) * answer[k] if held is None else torch.where(held[t], state[k], answer[k])
            answer[k] = mixed
        return tuple(answer)

    return _side(p, "ih", linear(x, p["weight_ih"]), o.layer_norm), step
