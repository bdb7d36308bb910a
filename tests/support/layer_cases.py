"""Layers of every kind and option with their data, and what judges them: the reference and torch.nn."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

import rnnkern as rk
from rnnkern import reference

Array = np.ndarray[Any, Any]
KINDS: dict[str, tuple[Any, Any]] = {
    "rnn_tanh": (rk.RNN, torch.nn.RNN),
    "rnn_relu": (functools.partial(rk.RNN, nonlinearity="relu"), functools.partial(torch.nn.RNN, nonlinearity="relu")),
    "lstm": (rk.LSTM, torch.nn.LSTM),
    "gru": (rk.GRU, torch.nn.GRU),
}
T, B, IN, H = 7, 4, 5, 9
LENGTHS = np.array([3, 7, 1, 5])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3},
    {"bias": False, "bidirectional": True},
    {"batch_first": True, "num_layers": 2},
]


def state_of(layer: Any, batch: int, rng: np.random.Generator, dtype: Any = None) -> Any:
    """A random state: h_0, or (h_0, c_0)."""
    spec = layer.spec
    shape = (spec.num_layers * spec.directions, batch, spec.hidden_size)
    parts = tuple(rng.standard_normal(shape).astype(dtype or layer.dtype) for _ in range(spec.states))
    return parts if spec.states == 2 else parts[0]


def step(layer: Any, x: Array, state: Any, lengths: Any, dy: Array, dstate: Any) -> dict[str, Array]:
    """A training step on rnnkern, by name."""
    y, finals, tape = layer.forward(x, state, lengths=lengths)
    grads = layer.backward(tape, dy, dstate)
    pairs = [("y", y), ("dx", grads.x), *((f"d{name}", value) for name, value in grads.params.items())]
    for name, value in (("n", finals), ("d0", grads.state)):
        parts = value if isinstance(value, tuple) else (value,)
        pairs += [(f"{letter}_{name}", part) for letter, part in zip("hc", parts, strict=False)]
    return dict(pairs)


def judge(layer: Any, x: Array, state: Any, lengths: Any, dy: Array, dstate: Any, **masks: int) -> dict[str, Array]:
    """The same step by rnnkern.reference: in longdouble for float64, else in float64. Time-major."""
    spec, wide = layer.spec, np.longdouble if layer.dtype == np.float64 else np.float64
    h, c = state if isinstance(state, tuple) else (state, None)
    dh, dc = dstate if isinstance(dstate, tuple) else (dstate, None)
    params = {name: value.astype(wide) for name, value in layer.params.items()}
    y, h_n, c_n, saved = reference.stack(
        spec.cell, params, x.astype(wide), h, c, lengths, num_layers=spec.num_layers, bidirectional=spec.bidirectional,
        dropout=spec.dropout if masks else 0.0, **masks,
    )  # fmt: skip
    grads = reference.stack_backward(saved, dy.astype(wide), dh, dc)
    out = {"y": y, "h_n": h_n, "dx": grads.pop("x"), "h_d0": grads.pop("h_0")}
    if c_n is not None:
        out |= {"c_n": c_n, "c_d0": grads.pop("c_0")}
    return out | {f"d{name}": value for name, value in grads.items()}


def run_torch(layer: Any, module: Any, x: Array, state: Any, lengths: Any, dy: Array, dstate: Any) -> dict[str, Array]:
    """The same step by torch.nn, from rnnkern's own state dict: the names and shapes must fit."""
    module.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    parts = [torch.from_numpy(s.copy()).requires_grad_() for s in (state if isinstance(state, tuple) else (state,))]
    hx = tuple(parts) if len(parts) == 2 else parts[0]
    if lengths is None:
        y, finals = module(leaf, hx)
    else:
        first = module.batch_first
        packed = torch.nn.utils.rnn.pack_padded_sequence(leaf, torch.from_numpy(lengths), first, enforce_sorted=False)
        packed_y, finals = module(packed, hx)
        y = torch.nn.utils.rnn.pad_packed_sequence(packed_y, first, total_length=T)[0]
    finals = finals if isinstance(finals, tuple) else (finals,)
    dfinals = dstate if isinstance(dstate, tuple) else (dstate,)
    torch.autograd.backward([y, *finals], [torch.from_numpy(dy), *map(torch.from_numpy, dfinals)])
    out = {"y": y, "dx": leaf.grad} | {f"d{name}": p.grad for name, p in module.named_parameters()}
    out |= {f"{letter}_n": part for letter, part in zip("hc", finals, strict=False)}
    out |= {f"{letter}_d0": part.grad for letter, part in zip("hc", parts, strict=False)}
    return {name: value.detach().numpy() for name, value in out.items()}


def error(got: Array, wanted: Array) -> float:
    """max |got - wanted| / max |wanted|."""
    return float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted)))


def problem(layer: Any, seed: int, dtype: Any = None) -> tuple[Array, Any, Array, Any]:
    """x, state, dy, dstate in the layer's layout."""
    rng, spec = np.random.default_rng(seed), layer.spec
    shape = (B, T) if layer.batch_first else (T, B)
    x, dy = (rng.standard_normal((*shape, n)).astype(layer.dtype) for n in (IN, spec.directions * H))
    return x, state_of(layer, B, rng), dy, state_of(layer, B, rng, dtype)
