"""rk.RNNCell, rk.GRUCell, rk.LSTMCell: one step as in torch.nn and as in the layers, and ``step_`` in place."""

from __future__ import annotations

import functools
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

import rnnkern as rk

B, IN, H = 4, 5, 9
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "rnn_tanh": (rk.RNNCell, torch.nn.RNNCell, rk.RNN),
    "rnn_relu": (
        functools.partial(rk.RNNCell, nonlinearity="relu"),
        functools.partial(torch.nn.RNNCell, nonlinearity="relu"),
        functools.partial(rk.RNN, nonlinearity="relu"),
    ),
    "lstm": (rk.LSTMCell, torch.nn.LSTMCell, rk.LSTM),
    "gru": (rk.GRUCell, torch.nn.GRUCell, rk.GRU),
}


def parts(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


def draw(cell: Any, *shape: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*shape, IN)).astype(cell.dtype)
    state = tuple(rng.standard_normal((*shape, H)).astype(cell.dtype) for _ in range(cell.spec.states))
    return x, state if len(state) == 2 else state[0]


@pytest.mark.parametrize("shape", [(B,), ()], ids=["batched", "unbatched"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_step_matches_torch(kind: str, bias: bool, shape: tuple[int, ...]) -> None:
    """float64, next state and every gradient, with and without an initial state. Both sides sum about 20 terms of
    order 1 and differ in order: 32 eps of the largest value."""
    ours, theirs, _ = KINDS[kind]
    cell, module = ours(IN, H, bias, dtype="float64", seed=0), theirs(IN, H, bias, dtype=torch.float64)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in cell.state_dict().items()})
    x, state = draw(cell, *shape)
    for start in (state, None):
        leaf = torch.from_numpy(x.copy()).requires_grad_()
        leaves = [torch.from_numpy(s.copy()).requires_grad_() for s in parts(state)]
        hx = None if start is None else tuple(leaves) if len(leaves) == 2 else leaves[0]
        wanted = parts(module(leaf, hx))
        got, tape = cell.forward(x, start)
        for mine, same, theirs_ in zip(parts(got), parts(cell(x, start)), wanted, strict=True):
            assert np.array_equal(mine, same)
            close(mine, theirs_)
        dstate = draw(cell, *shape, seed=1)[1]
        for parameter in module.parameters():
            parameter.grad = None
        torch.autograd.backward(wanted, [torch.from_numpy(s) for s in parts(dstate)])
        grads = cell.backward(tape, dstate)
        close(grads.x, leaf.grad)
        for name, parameter in module.named_parameters():
            close(grads.params[name], parameter.grad)
        if start is not None:
            for mine, s in zip(parts(grads.state), leaves, strict=True):
                close(mine, s.grad)


def close(got: Any, wanted: Any) -> None:
    wanted = wanted.detach().numpy()
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 32 * np.finfo(np.float64).eps * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_stepping_in_place_gives_the_layers_bits(kind: str, dtype: str) -> None:
    cell, layer = KINDS[kind][0](IN, H, dtype=dtype, seed=0), KINDS[kind][2](IN, H, dtype=dtype, seed=0)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.params.items()})
    xs = np.stack([draw(cell, B, seed=t)[0] for t in range(6)])
    y, finals = layer(xs)
    h = np.zeros((B, H), cell.dtype)
    c = np.zeros((B, H), np.float32)  # of half types too: it is the carried precision
    state = (h, c) if kind == "lstm" else h
    for t, x in enumerate(xs):
        assert cell.step_(x, state) is state
        assert np.array_equal(h, y[t])
    for mine, final in zip(parts(state), parts(finals), strict=True):
        assert np.array_equal(mine, final[0])
    single = tuple(np.zeros(H, a.dtype) for a in (h, c)) if kind == "lstm" else np.zeros(H, cell.dtype)
    for x in xs:
        cell.step_(x[1], single)
    assert all(np.array_equal(a, b[1]) for a, b in zip(parts(single), parts(state), strict=True))


def test_step_allocates_no_memory() -> None:
    """After the first step of a batch size, a hundred more allocate less than one state."""
    cell = rk.LSTMCell(32, 256, seed=0)
    x, h, c = (np.ones((16, n), np.float32) for n in (32, 256, 256))
    cell.step_(x, (h, c))
    tracemalloc.start()
    try:
        for _ in range(100):
            cell.step_(x, (h, c))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < h.nbytes / 4  # what is left is Python's own: views, tuples, names


def test_update_reaches_the_next_step() -> None:
    cell = rk.GRUCell(IN, H, seed=0)
    x, h = draw(cell, B)
    cell.step_(x, h.copy())
    cell.update({name: np.zeros_like(p) for name, p in cell.params.items()})
    after = h.copy()
    cell.step_(x, after)
    assert np.array_equal(after, h / 2)  # all weights zero: z = 1/2, n = 0, so h halves, exactly


def test_step_writes_torch_tensors() -> None:
    cell = rk.LSTMCell(IN, H, seed=0)
    x, (h, c) = draw(cell, B)
    wanted = cell(x, (h, c))
    state = (torch.from_numpy(h), torch.from_numpy(c))
    assert cell.step_(torch.from_numpy(x), state) is state
    assert np.array_equal(h, wanted[0]) and np.array_equal(c, wanted[1])


def test_many_batch_sizes() -> None:
    cell = rk.GRUCell(IN, H, seed=0)
    for batch in [*range(12), 1]:
        x, h = draw(cell, batch)
        wanted = cell(x, h)
        assert np.array_equal(cell.step_(x, h), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_repr_are_torchs(kind: str) -> None:
    ours, theirs, _ = KINDS[kind]
    for bias in (True, False):
        cell, module = ours(3, 4, bias), theirs(3, 4, bias)
        assert [(n, p.shape) for n, p in cell.params.items()] == [
            (n, tuple(p.shape)) for n, p in module.named_parameters()
        ]
        assert repr(cell).replace("'", "") == repr(module)
