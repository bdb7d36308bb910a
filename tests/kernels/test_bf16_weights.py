"""Weights in bfloat16: the bits of a layer in float32 whose weight matrices are rounded, on every kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rnnkern as rk
from rnnkern import _core

Array = np.ndarray[Any, Any]

MATRICES = ("weight_ih", "weight_hh", "weight_hr")

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (rk.LSTM, {}),
    "gru": (rk.GRU, {}),
    "rnn": (rk.RNN, {"nonlinearity": "relu"}),
    "slstm, heads": (rk.sLSTM, {"heads": 2}),
    "lstm, projection and peepholes": (rk.LSTM, {"proj_size": 5, "peephole": True}),
    "gru, reset before": (rk.GRU, {"reset_after": False}),
    "gru, layer norm": (rk.GRU, {"layer_norm": True}),
    "independent": (rk.RNN, {"independent": True}),
}


@pytest.fixture(params=[k.name for k in rk.kernels() if k.weights == "bf16"])
def kernels(request: pytest.FixtureRequest, force_kernel: Callable[[str], str]) -> Callable[[bool], str]:
    """Forces the kernel, with True, or the one of floats that it has its driver from, with False."""
    name = force_kernel(request.param)
    return lambda own: force_kernel(name if own else name.removesuffix("_bf16_weights"))


def rounded(name: str, value: Array) -> Array:
    matrix = name.startswith(MATRICES) and value.ndim == 2
    return value.astype(ml_dtypes.bfloat16).astype(value.dtype) if matrix else value


def pair(kind: str, input_size: int, hidden: int, kernels: Any, **more: Any) -> tuple[Any, Any]:
    """The layer with weights in bfloat16, and the one whose matrices are rounded."""
    make, options = KINDS[kind]
    kernels(True)
    layer = make(input_size, hidden, seed=1, weights="bf16", **options, **more)
    kernels(False)
    exact = make(input_size, hidden, seed=1, **options, **more)
    exact.load_state_dict({name: rounded(name, value) for name, value in exact.params.items()})
    return layer, exact


def parts(state: Any) -> tuple[Array, ...]:
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("hidden", [6, 16, 34, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_rounded_weights(kind: str, hidden: int, kernels: Any) -> None:
    for input_size, batch in ((1, 1), (7, 5), (300, 13)):  # odd numbers of terms; more than a chain of 256
        layer, exact = pair(kind, input_size, hidden, kernels)
        x = np.random.default_rng(hidden).standard_normal((4, batch, input_size)).astype(np.float32)
        (y, state), (wanted, wanted_state) = layer(x), exact(x)
        np.testing.assert_array_equal(y, wanted)
        for one, other in zip(parts(state), parts(wanted_state), strict=True):
            np.testing.assert_array_equal(one, other)


def test_layers_directions_lengths_threads_and_half_types(kernels: Any, set_threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float16"):
        more: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dtype": dtype}
        layer, exact = pair("lstm", 20, 24, kernels, **more)
        x = rng.standard_normal((9, 6, 20)).astype(layer.dtype)
        lengths = [9, 0, 4, 5, 1, 9]
        wanted = exact(x, lengths=lengths)[0]
        for threads in (1, 2, 5):
            set_threads(threads)
            np.testing.assert_array_equal(layer(x, lengths=lengths)[0], wanted)
        np.testing.assert_array_equal(layer(x[:, 2:3], lengths=[4])[0], wanted[:, 2:3])


def test_weights_far_beyond_the_near_cache(kernels: Any) -> None:
    layer, exact = pair("gru", 700, 700, kernels)
    x = np.random.default_rng(1).standard_normal((3, 9, 700)).astype(np.float32)
    np.testing.assert_array_equal(layer(x)[0], exact(x)[0])


def test_back_to_the_dtype_and_not_finite(kernels: Any) -> None:
    kernels(False)
    layer = rk.GRU(4, 8, seed=1)
    x = np.ones((3, 2, 4), np.float32)
    y = layer(x)[0]
    kernels(True)
    assert not np.array_equal(layer.quantize("bf16")(x)[0], y) and layer.weights == "bf16"
    kernels(False)
    np.testing.assert_array_equal(layer.quantize(None)(x)[0], y)
    weight = layer.params["weight_hh_l0"].copy()
    weight[0, 0] = np.nan
    layer.update({"weight_hh_l0": weight})
    kernels(True)
    assert np.isnan(layer.quantize("bf16")(x)[0]).any()


def test_what_is_refused() -> None:
    layer = rk.LSTM(3, 4, weights="bf16")
    assert "weights='bf16'" in repr(layer)
    with pytest.raises(NotImplementedError, match="has weights in bf16, which are for inference"):
        layer.forward(np.zeros((2, 1, 3), np.float32))
    with pytest.raises(NotImplementedError, match="weights='bf16': expected a layer of float32 or float16 on the CPU"):
        rk.LSTM(3, 4, dtype="bfloat16", weights="bf16")
    with pytest.raises(ValueError, match="weights: expected 'int8' or 'bf16' or None, got 'bf8'"):
        layer.quantize("bf8")
    with pytest.raises(ValueError, match="expected one of RNNK_PROBLEM_INT8 and RNNK_PROBLEM_BF16_WEIGHTS, got both"):
        _core.Plan("gru", "float32", 3, 4, int8=True, bf16_weights=True)
    with pytest.raises(NotImplementedError, match="RNNK_PROBLEM_BF16_WEIGHTS is for float32 and float16"):
        _core.Plan("gru", "float64", 3, 4, bf16_weights=True)
