"""Malformed states and gradients of states, every kind in every place: refused by name, with nothing half written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rnnkern as rk

T, B, IN, H = 4, 3, 5, 6
Make = Callable[..., Any]
LAYERS: dict[str, tuple[Make, int]] = {
    "RNN": (rk.RNN, 1),
    "GRU": (rk.GRU, 1),
    "LSTM": (rk.LSTM, 2),
    "sLSTM": (rk.sLSTM, 4),
}
# Ways in which one array [L*D, B, H] of a state may be wrong. (No broadcasting: torch has none here, either.)
WRONG: dict[str, Callable[[Any], Any]] = {
    "one layer more": lambda a: np.concatenate([a, a[:1]]),
    "one layer less": lambda a: a[:-1],
    "one row more": lambda a: np.concatenate([a, a[:, :1]], 1),
    "one row": lambda a: a[:, :1],
    "one unit less": lambda a: a[..., :-1],
    "one unit more": lambda a: np.concatenate([a, a[..., :1]], 2),
    "axes swapped": lambda a: a.transpose(2, 1, 0),
    "an axis less": lambda a: a[0],
    "an axis more": lambda a: a[None],
    "no axes": lambda a: a[0, 0, 0],
    "empty": lambda a: a[:0],
    "flat": lambda a: a.ravel(),
    "wider": lambda a: a.astype(np.float64),
    "integers": lambda a: a.astype(np.int32),
    "complex": lambda a: a.astype(np.complex64),
    "bools": lambda a: a > 0,
    "objects": lambda a: a.astype(object),
    "other bytes": lambda a: a.astype(a.dtype.newbyteorder()),
    "a list": lambda a: a.tolist(),
    "a number": lambda a: 0.5,
    "text": lambda a: "zeros",
    "masked": lambda a: np.ma.masked_array(a, a > 0),
}


def arrays(count: int, rows: int) -> list[Any]:
    return [np.full((rows, B, H), 0.1 * (1 + i), np.float32) for i in range(count)]


def malformed(count: int, rows: int) -> Iterator[tuple[str, Any]]:
    for place in range(count):
        for name, wrong in WRONG.items():
            parts = arrays(count, rows)
            parts[place] = wrong(parts[place])
            yield f"{name} in place {place}", parts[0] if count == 1 else tuple(parts)
    parts = arrays(count, rows)
    yield "one array too many", (*parts, parts[0])
    yield "a dict", dict(enumerate(parts))
    if count > 1:
        yield "one array", parts[0]
        yield "one too few", tuple(parts[:-1])
        yield "stacked", np.stack(parts)
    yield "a generator", iter(parts)


@pytest.mark.parametrize("shape", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "stack"])
@pytest.mark.parametrize("kind", LAYERS)
def test_malformed_states(kind: str, shape: dict[str, Any]) -> None:
    make, count = LAYERS[kind]
    layer = make(IN, H, seed=0, **shape)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    x, out = np.ones((T, B, IN), np.float32), np.full((T, B, H * (2 if layer.bidirectional else 1)), 7, np.float32)
    y, _, tape = layer.forward(x)
    good = arrays(count, rows)
    layer.backward(tape, np.ones_like(y), good[0] if count == 1 else tuple(good))
    for said, state in malformed(count, rows):
        for argument, call in (
            ("state", lambda state=state: layer(x, state, out=out)),
            ("state", lambda state=state: layer.forward(x, state)),
            ("dstate", lambda state=state: layer.backward(tape, np.ones_like(y), state)),
        ):
            with pytest.raises((TypeError, ValueError), match=rf"^{argument}(\[\d\] \(\w\))?: ") as found:
                call()
            assert ", got " in str(found.value) or "expected" in str(found.value), said
    assert (out == 7).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_nan_stays_in_its_row_and_behind_its_step(kind: str) -> None:
    """NaN in x, a state or dy: the other rows, and the steps before, keep their bits."""
    make, count = LAYERS[kind]
    layer = make(IN, H, seed=0)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, B, IN)).astype(np.float32), rng.standard_normal((T, B, H)).astype(np.float32)
    state = [rng.standard_normal((1, B, H)).astype(np.float32) for _ in range(count)]
    if kind == "sLSTM":
        state[2] = np.abs(state[2]) + 1

    def run(x: Any, state: Any, dy: Any) -> tuple[Any, Any]:
        y, _, tape = layer.forward(x, state[0] if count == 1 else tuple(state))
        return y, layer.backward(tape, dy).x

    y, dx = run(x, state, dy)
    poisoned = x.copy()
    poisoned[2, 1, 0] = np.nan
    y_x, dx_x = run(poisoned, state, dy)
    assert np.isnan(y_x[2:, 1]).all() and np.array_equal(y_x[:2], y[:2])
    assert np.array_equal(y_x[:, [0, 2]], y[:, [0, 2]]) and np.array_equal(dx_x[:, [0, 2]], dx[:, [0, 2]])
    for place in range(count):
        other = [part.copy() for part in state]
        other[place][0, 1, 3] = np.nan
        y_s, dx_s = run(x, other, dy)
        assert np.isnan(y_s[:, 1]).any()
        assert np.array_equal(y_s[:, [0, 2]], y[:, [0, 2]]) and np.array_equal(dx_s[:, [0, 2]], dx[:, [0, 2]])
    cotangent = dy.copy()
    cotangent[2, 1, 0] = np.nan
    y_d, dx_d = run(x, state, cotangent)
    assert np.array_equal(y_d, y) and np.isnan(dx_d[:3, 1]).all() and np.array_equal(dx_d[3], dx[3])
    assert np.array_equal(dx_d[:, [0, 2]], dx[:, [0, 2]])
