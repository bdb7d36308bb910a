"""rnnkern.train.gradient_norms and its document.

A stand-in with exact gradients (a layer run one step at a time, so that dE/dh_t is the gradient of a state) takes the
place of ``layer.backward(..., probe=True)``; where layers have that argument, they are held against it.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rnnkern as rk
from numeric import EPS, near
from rnnkern import train

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parents[2]
T, B, IN, H = 5, 3, 2, 4


class Stepwise:
    """Single layers above each other, one step at a time, with the interface that gradient_norms uses."""

    def __init__(self, *layers: Any) -> None:
        self.layers, self.num_layers = layers, len(layers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layers[-1], name)

    def forward(self, x: Array) -> tuple[Array, Any, Any]:
        tapes = []
        for layer in self.layers:
            state, steps = None, []
            for t in range(len(x)):
                y, state, tape = layer.forward(x[t : t + 1], state)
                steps.append((y, tape))
            x = np.concatenate([y for y, _ in steps])
            tapes.append([tape for _, tape in steps])
        return x, state, tapes

    def backward(self, tape: Any, dy: Array, dstate: Any, *, need_x: bool, probe: bool, clip_step: Any) -> Any:
        assert probe and not need_x and clip_step is None
        found = []
        for layer, steps in zip(self.layers[::-1], tape[::-1], strict=True):
            pair = layer.spec.states == 2
            dh = np.zeros((1, *dy.shape[1:]), dy.dtype) if dstate is None else dstate[0] if pair else dstate
            dc = np.zeros_like(dh) if dstate is None or not pair else dstate[1]
            total, dx, dstate = np.empty_like(dy), [], None
            for t in reversed(range(len(dy))):
                total[t] = dy[t] + dh[0]
                grads = layer.backward(steps[t], None, (total[t : t + 1], dc) if pair else total[t : t + 1])
                dh, dc = grads.state if pair else (grads.state, None)
                dx.insert(0, grads.x)
            found.insert(0, total)
            dy = np.concatenate(dx)
        return SimpleNamespace(steps=found)


KINDS: dict[str, Any] = {"rnn": rk.RNN, "lstm": rk.LSTM, "gru": rk.GRU}


def two_layers(kind: str) -> Stepwise:
    return Stepwise(KINDS[kind](IN, H, dtype="float64", seed=1), KINDS[kind](H, H, dtype="float64", seed=2))


def energy(model: Stepwise, x: Array, dy: Array, place: tuple[int, int], change: Array) -> float:
    """E, with ``change`` [B, H] added to what layer place[0] puts out, and keeps, at step place[1]."""
    for k, layer in enumerate(model.layers):
        state, out = None, []
        for t in range(len(x)):
            _, state = layer(x[t : t + 1], state)
            if (k, t) == place:
                state = (state[0] + change, state[1]) if layer.spec.states == 2 else state + change
            out.append(state[0] if layer.spec.states == 2 else state)
        x = np.concatenate(out)
    return float((x * dy).sum())


@pytest.mark.parametrize("index", [0, 1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_finite_differences(kind: str, index: int) -> None:
    model, rng = two_layers(kind), np.random.default_rng(3)
    x, dy = rng.standard_normal((T, B, IN)), rng.standard_normal((T, B, H))
    _, _, tape = model.forward(x)
    step = EPS["float64"] ** (1 / 3)
    slopes = np.empty((T, B, H))
    for t, b, u in np.ndindex(slopes.shape):
        change = np.zeros((B, H))
        change[b, u] = step
        place = (index % 2, t)
        up, down = energy(model, x, dy, place, change), energy(model, x, dy, place, -change)
        slopes[t, b, u] = (up - down) / (2 * step)
    bound = 1000 * EPS["float64"] ** (2 / 3)  # a third derivative of up to hundreds
    near(train.gradient_norms(model, tape, dy, index=index, rows=True), np.linalg.norm(slopes, axis=2), bound)
    near(train.gradient_norms(model, tape, dy, index=index), np.linalg.norm(slopes.reshape(T, -1), axis=1), bound)


def test_a_halving_network_halves_exactly() -> None:
    """relu, W = I/2, positive states: dE/dh_t is dy/2 to the power of the steps in between, exact in binary."""
    layer = rk.RNN(1, 2, nonlinearity="relu", bias=False)
    layer.update({"weight_ih_l0": np.ones((2, 1), np.float32), "weight_hh_l0": np.eye(2, dtype=np.float32) / 2})
    model = Stepwise(layer)
    y, _, tape = model.forward(np.ones((6, 2, 1), np.float32))
    dy = np.zeros_like(y)
    dy[-1] = [[3, 4], [0, 8]]
    wanted = 2.0 ** -np.arange(5, -1, -1)
    assert np.array_equal(train.gradient_norms(model, tape, dy, rows=True), wanted[:, None] * [5, 8])
    got = train.gradient_norms(model, tape, dy)
    assert got.dtype == np.float64 and np.abs(got / wanted - np.sqrt(89)).max() <= 4 * EPS["float64"] * np.sqrt(89)


def test_the_gradient_of_the_last_state_counts() -> None:
    model, rng = two_layers("lstm"), np.random.default_rng(4)
    _, _, tape = model.forward(rng.standard_normal((T, B, IN)))
    dh, dc = rng.standard_normal((1, B, H)), np.zeros((1, B, H))
    got = train.gradient_norms(model, tape, np.zeros((T, B, H)), (dh, dc), rows=True)
    near(got[-1], np.linalg.norm(dh[0], axis=1), 4 * EPS["float64"])
    assert (got[0] > 0).all()


def test_half_types_are_summed_in_float64() -> None:
    steps = np.full((2, 1, 10000), 1.0).astype(ml_dtypes.bfloat16)  # in bfloat16 the sum of squares would stop at 256
    layer = SimpleNamespace(num_layers=1, backward=lambda *_, **__: SimpleNamespace(steps=[steps]))
    assert train.gradient_norms(layer, None, None).tolist() == [100.0, 100.0]


def test_wrong_arguments_are_named() -> None:
    model = two_layers("gru")
    y, _, tape = model.forward(np.zeros((T, B, IN)))
    for index in (2, -3):
        with pytest.raises(ValueError, match=f"index: expected -2 to 1, got {index}"):
            train.gradient_norms(model, tape, y, index=index)
    with pytest.raises(TypeError, match="rows: expected a bool, got int"):
        train.gradient_norms(model, tape, y, rows=1)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_give_what_the_stand_in_gives(kind: str) -> None:
    model, rng = two_layers(kind), np.random.default_rng(5)
    whole = KINDS[kind](IN, H, 2, dtype="float64")
    for k, layer in enumerate(model.layers):
        whole.update({name[:-1] + str(k): value for name, value in layer.params.items()})
    x, dy = rng.standard_normal((T, B, IN)), rng.standard_normal((T, B, H))
    for index in (0, 1):
        wanted = train.gradient_norms(model, model.forward(x)[2], dy, index=index, rows=True)
        got = train.gradient_norms(whole, whole.forward(x)[2], dy, index=index, rows=True)
        near(got, wanted, 64 * EPS["float64"])  # the same products in another order, over 5 steps


def test_clip_step_is_passed_on() -> None:
    rng, layer = np.random.default_rng(6), rk.RNN(IN, H, dtype="float64", seed=1)
    layer.update({"weight_hh_l0": 8 * layer.params["weight_hh_l0"]})
    y, _, tape = layer.forward(rng.standard_normal((T, B, IN)))
    dy = rng.standard_normal(y.shape)
    steps = layer.backward(tape, dy, probe=True, clip_step=0.5).steps
    clipped = train.gradient_norms(layer, tape, dy, clip_step=0.5)
    near(clipped, np.sqrt(np.square(steps[-1]).sum(axis=(1, 2))), 16 * EPS["float64"])
    assert (clipped < train.gradient_norms(layer, tape, dy)).any()


# --- the document ----------------------------------------------------------------------------------


def test_the_document_runs() -> None:
    """docs/gradients.md in order, in one namespace; where layers have no probe, up to the block that needs it."""
    text = (ROOT / "docs" / "gradients.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/gradients.md", "exec"), names)
    assert len(blocks) >= 4
