"""Calls that bring the input product: the bits of the call that forms it, where the product is exact.

x, weight_ih and bias_ih are small integers, the latter two divided by 8, so gx = x W^T + b is exact in every dtype:
what the kernel computes from x and what NumPy hands it as gx are the same numbers, and so must be all that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from rnnkern import _core
from runner import KERNELS

Array = np.ndarray[Any, Any]

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (rk.LSTM, {}),
    "gru": (rk.GRU, {}),
    "rnn_tanh": (rk.RNN, {}),
    "rnn_relu": (rk.RNN, {"nonlinearity": "relu"}),
    "slstm": (rk.sLSTM, {}),
    "slstm, heads": (rk.sLSTM, {"heads": 2}),
    "lstm, no bias": (rk.LSTM, {"bias": False}),
    "lstm, peepholes and projection": (rk.LSTM, {"peephole": True, "proj_size": 3}),
    "lstm, clip and zoneout": (rk.LSTM, {"clip": 0.5, "zoneout": (0.2, 0.1)}),
    "gru, reset before": (rk.GRU, {"reset_after": False}),
    "gru, recurrent dropout": (rk.GRU, {"recurrent_dropout": 0.3}),
    "independent": (rk.RNN, {"independent": True}),
    "recompute": (rk.GRU, {"recompute": True}),
    "reverse": (rk.LSTM, {"reverse": True}),
}
T, B, IN = 7, 5, 3


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, force_kernel: Callable[[str], str]) -> str:
    return force_kernel(request.param)


def exact(layer: Any, rng: np.random.Generator, batch: int = B) -> tuple[Array, Array]:
    """x and its gx; the layer gets parameters of the first layer that make the product exact."""
    made, columns = {}, []
    x = rng.integers(-2, 3, (T, batch, IN)).astype(layer.dtype)
    for suffix in ("_l0", "_l0_reverse")[: 1 + layer.bidirectional]:
        weight = layer.params["weight_ih" + suffix]
        made["weight_ih" + suffix] = (rng.integers(-1, 2, weight.shape) / 8).astype(layer.dtype)
        product = x.astype(np.float64) @ made["weight_ih" + suffix].astype(np.float64).T
        if layer.bias:
            bias = (rng.integers(-3, 4, weight.shape[:1]) / 8).astype(layer.dtype)
            made["bias_ih" + suffix] = bias
            product += bias.astype(np.float64)
        columns.append(product)
    layer.update(made)
    return x, np.concatenate(columns, -1).astype(layer.dtype)


def parts(state: Any) -> tuple[Array, ...]:
    return state if isinstance(state, tuple) else (state,)


def both(layer: Any, x: Array, gx: Array, dy: Array, **steps: Any) -> tuple[Any, Any]:
    """(y, state parts, gradients) of a training step on x, and of the same on gx."""
    answers = []
    for given in ({"x": x}, {"gx": gx}):
        layer.call = 3
        y, state, tape = layer.forward(**given, **steps)
        grads = layer.backward(tape, dy)
        answers.append((y, parts(state), grads))
    return answers[0], answers[1]


def assert_equal(layer: Any, by_x: Any, by_gx: Any) -> None:
    np.testing.assert_array_equal(by_x[0], by_gx[0])
    for one, other in zip(by_x[1], by_gx[1], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(parts(by_x[2].state), parts(by_gx[2].state), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, gradient in by_gx[2].params.items():
        if name.startswith(("weight_ih_l0", "bias_ih_l0")):
            assert not gradient.any(), name
        else:
            np.testing.assert_array_equal(by_x[2].params[name], gradient, err_msg=name)


@pytest.mark.parametrize("hidden", [4, 18, 34])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_the_call_that_forms_the_product(kind: str, hidden: int, kernel: str) -> None:
    make, options = KINDS[kind]
    rng = np.random.default_rng(hidden)
    for dtype in ("float32", "float64"):
        layer = make(IN, hidden, dtype=dtype, seed=1, **options)
        x, gx = exact(layer, rng)
        dy = rng.standard_normal((T, B, layer.spec.outputs)).astype(dtype)
        by_x, by_gx = both(layer, x, gx, dy)
        assert_equal(layer, by_x, by_gx)
        assert by_gx[2].x is None and by_x[2].gx is None
        dgx = by_gx[2].gx.astype(np.float64)
        assert dgx.shape == gx.shape
        # The products with x and W_ih give these gradients from dgx. The sums have T * B and G * H terms.
        eps = np.finfo(dtype).eps
        dw = np.einsum("tbg,tbi->gi", dgx, x.astype(np.float64))
        bound = 40 * eps * max(1.0, np.abs(dgx).sum((0, 1)).max() * 2)
        np.testing.assert_allclose(by_x[2].params["weight_ih_l0"], dw, rtol=0, atol=bound)
        dx = dgx @ layer.params["weight_ih_l0"].astype(np.float64)
        np.testing.assert_allclose(by_x[2].x, dx, rtol=0, atol=40 * eps * max(1.0, np.abs(dgx).sum(-1).max() / 8))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types(dtype: str, kernel: str) -> None:
    pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(2)
    try:
        layer = rk.GRU(IN, 20, dtype=dtype, seed=1)
    except NotImplementedError as declined:
        pytest.skip(f"{kernel}: {declined}")
    x, gx = exact(layer, rng)
    by_x, by_gx = both(layer, x, gx, rng.standard_normal((T, B, 20)).astype(layer.dtype))
    assert_equal(layer, by_x, by_gx)


@pytest.mark.parametrize("batch_first", [False, True])
def test_directions_layers_lengths_and_marks(batch_first: bool, kernel: str) -> None:
    rng = np.random.default_rng(3)
    layer = rk.LSTM(IN, 9, num_layers=3, bidirectional=True, batch_first=batch_first, dropout=0.4, seed=1)
    x, gx = exact(layer, rng)
    lengths, mask, reset = [7, 0, 3, 5, 1], rng.random((T, B)) < 0.8, rng.random((T, B)) < 0.2
    dy = rng.standard_normal((T, B, 18)).astype(np.float32)
    x[:, 1] = gx[:, 1] = np.nan  # a row of length 0 is not read
    x[~mask] = gx[~mask] = np.nan
    if batch_first:
        x, gx, dy, mask, reset = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in (x, gx, dy, mask, reset))
    by_x, by_gx = both(layer, x, gx, dy, lengths=lengths, mask=mask, reset=reset)
    assert_equal(layer, by_x, by_gx)
    dgx = by_gx[2].gx if not batch_first else by_gx[2].gx.swapaxes(0, 1)
    alive = (np.arange(T)[:, None] < np.array(lengths)) & (mask if not batch_first else mask.T)
    assert not dgx[~alive].any() and dgx[alive].any(-1).all()
    y, _ = layer(gx=gx, lengths=lengths, mask=mask, reset=reset)
    np.testing.assert_array_equal(y, layer(x, lengths=lengths, mask=mask, reset=reset)[0])


@pytest.mark.parametrize("batch", [1, 3, 70])
def test_threads_pieces_and_strides(batch: int, kernel: str, set_threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(4)
    layer = rk.LSTM(IN, 40, seed=1)
    x, gx = exact(layer, rng, batch)
    whole = layer(x)[0]
    for threads in (1, 2, 5):
        set_threads(threads)
        np.testing.assert_array_equal(layer(gx=gx)[0], whole)
    first, state = layer(gx=gx[:3])
    np.testing.assert_array_equal(np.concatenate([first, layer(gx=gx[3:], state=state)[0]]), whole)
    wide = np.zeros((T, batch, 2 * gx.shape[-1] + 1), np.float32)
    wide[..., ::2][..., :-1] = gx
    np.testing.assert_array_equal(layer(gx=wide[..., ::2][..., :-1])[0], whole)
    np.testing.assert_array_equal(layer(gx=gx[:, 0])[0], whole[:, 0])


def test_weights_in_int8() -> None:
    """The recurrent product alone is rounded, so the answer is nearer to the exact one than with x rounded, too."""
    rng = np.random.default_rng(5)
    layer = rk.GRU(64, 64, seed=1)
    x = rng.standard_normal((30, 4, 64)).astype(np.float32)
    gx = x @ layer.params["weight_ih_l0"].T + layer.params["bias_ih_l0"]
    exact_y = layer(x)[0]
    layer.quantize("int8")
    by_x, by_gx = (np.sqrt(np.mean((y - exact_y) ** 2)) for y in (layer(x)[0], layer(gx=gx)[0]))
    assert 0 < by_gx < by_x < 0.02


def test_zero_steps_and_rows() -> None:
    layer = rk.LSTM(IN, 4, seed=1)
    for shape in ((0, 2, 16), (3, 0, 16)):
        y, _, tape = layer.forward(gx=np.zeros(shape, np.float32))
        assert y.shape == (*shape[:2], 4)
        assert layer.backward(tape, y).gx.shape == shape


def test_bad_input() -> None:
    layer = rk.LSTM(IN, 4, bidirectional=True, seed=1)
    gx = np.zeros((T, B, 32), np.float32)
    with pytest.raises(TypeError, match="x, gx: expected one of them, got both"):
        layer(np.zeros((T, B, IN), np.float32), gx=gx)
    with pytest.raises(TypeError, match="x, gx: expected one of them, got neither"):
        layer()
    with pytest.raises(ValueError, match=r"gx: expected shape \[T, B, D\*G\*H\] = \[7, 5, 32\], got \[7, 5, 16\]"):
        layer(gx=gx[..., :16])
    with pytest.raises(ValueError, match=r"gx: expected \[T, B, D\*G\*H\] or unbatched"):
        layer(gx=gx[0, 0])
    with pytest.raises(TypeError, match="gx: expected dtype float32, got float64"):
        layer(gx=gx.astype(np.float64))
    with pytest.raises(NotImplementedError, match="gx: expected a layer on the CPU without layer_norm"):
        rk.LSTM(IN, 4, layer_norm=True)(gx=gx[..., :16])
    y, _, tape = layer.forward(gx=gx)
    gx[0] = 1
    with pytest.raises(ValueError, match="gx was changed since its forward"):
        layer.backward(tape, y)
    y, _, tape = layer.forward(gx=gx)
    layer.update({"weight_hh_l0": layer.params["weight_hh_l0"]})
    with pytest.raises(ValueError, match="the parameters were updated since its forward"):
        layer.backward(tape, y)


def test_a_plan_refuses_by_name() -> None:
    with pytest.raises(ValueError, match=r"input_size: with RNNK_PROBLEM_GIVEN_GX expected D\*G\*H, 32, got 16"):
        _core.Plan("lstm", "float32", 16, 4, given_gx=True, direction="both")
    with pytest.raises(NotImplementedError, match="RNNK_PROBLEM_GIVEN_GX is not for RNNK_PROBLEM_LAYER_NORM"):
        _core.Plan("gru", "float32", 12, 4, given_gx=True, layer_norm=True)
    plan = _core.Plan("gru", "float32", 12, 4, given_gx=True)
    hh, vector, ih = (np.zeros(shape, np.float32) for shape in ((12, 4), (12,), (12, 12)))
    with pytest.raises(ValueError, match=r"weights\[0\]\.weight_ih: expected NULL for this problem, got a tensor"):
        plan.pack([ih, hh, None, vector, None, None])
    with pytest.raises(ValueError, match=r"weights\[0\]\.bias_ih: expected NULL for this problem, got a tensor"):
        plan.pack([None, hh, vector, vector, None, None])
    plan.pack([None, hh, None, vector, None, None])
    of_x = _core.Plan("gru", "float32", 12, 4).pack([ih, hh, vector, vector, None, None])
    x, y = np.zeros((1, 1, 12), np.float32), np.zeros((1, 1, 4), np.float32)
    with pytest.raises(ValueError, match=r"packed: expected weights packed for .* with the input product given"):
        plan.forward(of_x, x=x, y=y)
