"""More elements than 32 bits can count. Run by hand, on a machine with 16 GB: pytest -m slow this file"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import rnnkern as rk

T, B, INPUTS, H = 8300, 256, 16, 256  # T * B * 4H = 2.2e9 gate pre-activations, T * B * 5H saved values in training
TAIL = 40

pytestmark = pytest.mark.slow


def _x(dtype: type) -> np.ndarray:
    rng = np.random.default_rng(0)
    step = rng.standard_normal((97, B, INPUTS), np.float32).astype(dtype)
    return step[np.arange(T) % 97]


def test_float32_inference() -> None:
    layer = rk.LSTM(INPUTS, H, seed=0)
    x = _x(np.float32)
    y, (h_n, c_n) = layer(x)
    assert y.size * 4 > 2**31
    _, state = layer(x[:-TAIL])
    tail, (h, c) = layer(x[-TAIL:], state)
    assert np.array_equal(y[-TAIL:], tail) and np.array_equal(h_n, h) and np.array_equal(c_n, c)


def test_bfloat16_training() -> None:
    """The gradient of the last steps, through a tape beyond 2^31 elements, is that of the last steps alone."""
    layer = rk.LSTM(INPUTS, H, seed=0, dtype="bfloat16")
    x = _x(ml_dtypes.bfloat16)
    _, state = layer(x[:-TAIL])
    dy = np.zeros((T, B, H), ml_dtypes.bfloat16)
    dy[-TAIL:] = 0.5
    y, _, tape = layer.forward(x)
    whole = layer.backward(tape, dy)
    assert y.size * 5 > 2**31
    del tape
    tail, _, tape = layer.forward(x[-TAIL:], state)
    alone = layer.backward(tape, dy[-TAIL:])
    assert np.array_equal(y[-TAIL:], tail) and np.array_equal(whole.x[-TAIL:], alone.x)
    assert np.isfinite(whole.params["weight_hh_l0"].astype(np.float32)).all()
