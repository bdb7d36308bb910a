"""The cells as compositions of torch's own operations: what runs where a transform has no fused kernel.

Equations of ``csrc/cells``, structure of ``ops.py`` (layers, directions, lengths, dropout with the same masks), for
any tensor torch can transform: second derivatives, forward mode, ``vmap`` inside of it. Tens of times slower than a
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .checks import take_lengths
from .kernels import Options, unwrapped

State = tuple[Tensor, ...]  # (h,) or (h, c), each [B, H]
_Run = Callable[..., tuple[Tensor, ...]]
_Grads = Sequence[Tensor | None]


def _elman(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, State], State]:
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


CELLS: dict[str, tuple[int, Callable[[Tensor, Tensor, State], State]]] = {
    "rnn_tanh": (1, _elman(torch.tanh)),
    "rnn_relu": (1, _elman(torch.relu)),
    "lstm": (2, _lstm),
    "gru": (1, _gru),
}


def layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: Sequence[Tensor],
    lengths: Tensor | None,
    masks: tuple[int, int] | None,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x [T, B, I], h_0, c_0 [L*D, B, H] or None, lengths int64 [B] -> y [T, B, D*H], h_n, c_n [L*D, B, H] (or None)."""
    states, step = CELLS[options.cell]
    directions = 2 if options.bidirectional else 1
    each = len(params) // (options.num_layers * directions)
    seq_len, batch = x.shape[:2]
    hidden = params[1].shape[-1]
    alive = None
    if lengths is not None:
        if not torch.compiler.is_compiling():
            plain = unwrapped(lengths)
            if not torch._C._functorch.is_functorch_wrapped_tensor(plain):  # mapped ones cannot be looked at
                take_lengths(plain, batch, seq_len)
        alive = torch.arange(seq_len)[:, None, None] < lengths[None, :, None]
        x = torch.where(alive, x, 0)  # what stands in the padding may not even meet a zero gradient
    zeros = x.new_zeros((batch, hidden))
    last: list[State] = []
    for index in range(options.num_layers):
        outputs = []
        for direction in range(directions):
            at = index * directions + direction
            weight_ih, weight_hh, *bias = params[at * each : (at + 1) * each]
            bias_ih, bias_hh = bias or (None, None)
            gx = torch.nn.functional.linear(x, weight_ih, bias_ih)
            state: State = tuple(zeros if s is None else s[at] for s in (h_0, c_0)[:states])
            steps: list[Any] = [None] * seq_len
            for t in reversed(range(seq_len)) if direction else range(seq_len):
                new = step(gx[t], torch.nn.functional.linear(state[0], weight_hh, bias_hh), state)
                if alive is None:
                    state, steps[t] = new, new[0]
                else:
                    state = tuple(torch.where(alive[t], n, s) for n, s in zip(new, state, strict=True))
                    steps[t] = torch.where(alive[t], new[0], 0)
            outputs.append(torch.stack(steps) if steps else gx.new_zeros((0, batch, hidden)))
            last.append(state)
        x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
        if masks is not None and options.dropout > 0 and index < options.num_layers - 1:
            x = x * _mask(x, index, hidden, directions, options.dropout, masks)
    h_n, *c_n = (torch.stack([state[k] for state in last]) for k in range(states))
    return x, h_n, c_n[0] if c_n else None


def _mask(x: Tensor, index: int, hidden: int, directions: int, dropout: float, masks: tuple[int, int]) -> Tensor:
    """What the scheduler multiplies the output of a layer by."""
    mask = np.ones((x.shape[0], x.shape[1], directions * hidden))  # no tensor: torch.func would wrap it
    for direction in range(directions):
        half = mask[..., direction * hidden : (direction + 1) * hidden]
        _core.dropout(half, half, dropout, *masks, index * directions + direction)
    return torch.from_numpy(mask).to(x.dtype)


def pullback(
    grads: _Grads, primals: _Grads, lengths: Tensor | None, masks: tuple[int, int] | None, options: Options
) -> list[Tensor | None]:
    """BPTT composed: gradients of (x, h_0, c_0, *params), which are ``primals``, None for what is not there.

    grads: of (y, h_n, c_n), None for zeros.
    """
    run, values, cotangents, given = _problem(grads, primals, lengths, masks, options)
    back: Any = torch.func.vjp(run, *values)[1]
    answer: list[Tensor | None] = [None] * len(primals)
    for i, grad in zip(given, back(cotangents), strict=True):
        answer[i] = grad
    return answer


def gradients(
    grads: _Grads,
    primals: _Grads,
    lengths: Tensor | None,
    masks: tuple[int, int] | None,
    options: Options,
    seeds: _Grads,
) -> list[Tensor | None]:
    """The derivative of ``pullback``: gradients of sum(seed * gradient) for (*grads, *primals).

    seeds: of the gradients of the primals, None for zeros. It is itself differentiable, to any order.
    """
    run, values, cotangents, given = _problem(grads, primals, lengths, masks, options)

    def pull(cotangents: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        back: Any = torch.func.vjp(run, *values)[1]
        return back(cotangents)  # type: ignore[no-any-return]

    back: Any = torch.func.vjp(pull, cotangents, values)[1]
    wanted = (seeds[i] for i in given)
    of_cotangents, of_values = back(
        tuple(torch.zeros_like(v) if s is None else s for v, s in zip(values, wanted, strict=True))
    )
    answer: list[Tensor | None] = [None] * (len(grads) + len(primals))
    for k, grad in enumerate(of_cotangents):
        answer[k] = grad if grads[k] is not None else None
    for i, grad in zip(given, of_values, strict=True):
        answer[len(grads) + i] = grad
    return answer


def _problem(
    grads: _Grads, primals: _Grads, lengths: Tensor | None, masks: tuple[int, int] | None, options: Options
) -> tuple[_Run, tuple[Tensor, ...], tuple[Tensor, ...], list[int]]:
    """The layer as a function of the primals that are there, these, cotangents for its answers, the primals' places."""
    given = [i for i, primal in enumerate(primals) if primal is not None]

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        full: list[Any] = [None] * len(primals)
        for i, value in zip(given, values, strict=True):
            full[i] = value
        x, h_0, c_0, *params = full
        return tuple(a for a in layer(x, h_0, c_0, params, lengths, masks, options) if a is not None)

    values = tuple(primal for primal in primals if primal is not None)
    x: Any = primals[0]
    weight_hh: Any = primals[4]
    directions, hidden = 2 if options.bidirectional else 1, weight_hh.shape[-1]
    state = (options.num_layers * directions, x.shape[1], hidden)
    shapes = ((x.shape[0], x.shape[1], directions * hidden), state, state)[: 1 + CELLS[options.cell][0]]
    cotangents = tuple(x.new_zeros(shape) if grad is None else grad for shape, grad in zip(shapes, grads, strict=False))
    return run, values, cotangents, given
