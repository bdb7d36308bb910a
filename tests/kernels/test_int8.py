"""Weights in int8: each step against the reference on rounded operands, and the promise of same bits on every kernel.

A row of weights, of x or of h is rounded to q * scale with |q| <= 127 (csrc/cpu/int8.h). The reference multiplies the
rounded numbers in float64, which is exact but for the last bit, so a step's error is that of a few float32 operations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

import rnnkern as rk
from rnnkern import _engine as engine
from rnnkern.reference import CELLS, Array, Gru, GruBefore, Lstm, Options

UNAVAILABLE = {k.name: k.unavailable for k in rk.kernels() if k.weights == "int8"}
EPS = np.finfo(np.float32).eps

KINDS = {
    "lstm": (rk.LSTM, {}, CELLS["lstm"]),
    "gru": (rk.GRU, {}, CELLS["gru"]),
    "rnn_tanh": (rk.RNN, {}, CELLS["rnn_tanh"]),
    "rnn_relu": (rk.RNN, {"nonlinearity": "relu"}, CELLS["rnn_relu"]),
    "lstm, peepholes": (rk.LSTM, {"peephole": True}, Lstm("lstm", Options(peephole=True))),
    "lstm, projection": (rk.LSTM, {"proj_size": 7}, CELLS["lstm"]),
    "gru, reset before": (rk.GRU, {"reset_after": False}, GruBefore("gru", Options(reset_after=False))),
    "gru, layer norm": (rk.GRU, {"layer_norm": True}, Gru("gru", Options(layer_norm=True))),
}
STATES = {rk.LSTM: 2, rk.GRU: 1, rk.RNN: 1}


@pytest.fixture(params=UNAVAILABLE)
def kernel(request: pytest.FixtureRequest, force_kernel: Callable[[str], str]) -> str:
    return force_kernel(request.param)


def rounded(v: Array) -> Array:
    """Rows of v [..., K] as q * scale, in the kernels' own float32, widened."""
    most = np.maximum(np.abs(v).max(-1, keepdims=True), np.float32(2.0**-100)).astype(np.float32)
    q = np.rint(v.astype(np.float32) * (np.float32(127) / most))
    return q.astype(np.float64) * (most * np.float32(1 / 127)).astype(np.float64)


def made(kind: str, input_size: int, hidden_size: int, **more: object) -> rk.LSTM:
    layer, options, _ = KINDS[kind]
    return layer(input_size, hidden_size, seed=1, weights="int8", **options, **more)


def parts(state: object) -> tuple[Array, ...]:
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("hidden", [1, 7, 16, 33, 65, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_reference_on_rounded_operands(kind: str, hidden: int, kernel: str) -> None:
    if kind == "lstm, projection" and hidden <= 7:
        hidden = 9
    inputs, rng = hidden // 2 + 1, np.random.default_rng(hidden)
    cell = KINDS[kind][2]
    layer = made(kind, inputs, hidden)
    params = {name.removesuffix("_l0"): value.astype(np.float64) for name, value in layer.params.items()}
    for name in ("weight_ih", "weight_hh", "weight_hr"):
        if name in params:
            params[name] = rounded(params[name])
    for batch in (1, 2, 5, 18, 37):
        state = None
        for _ in range(3):
            x = rng.standard_normal((1, batch, inputs), np.float32) * 10 ** rng.uniform(-3, 2, (1, batch, 1))
            x = x.astype(np.float32)
            width = layer.proj_size or hidden
            h, c = (None, None) if state is None else (*parts(state), None)[:2]
            h = np.zeros((batch, width)) if h is None else h[0].astype(np.float64)
            c = np.zeros((batch, hidden)) if c is None else c[0].astype(np.float64)
            exact = _step(cell, params, rounded(x[0]), h, c)
            y, state = layer(x, state)
            # A sum of two products, biases and two activations of slopes up to 1: some 20 roundings of numbers near 1.
            for got, want in zip((y[0], *(part[0] for part in parts(state)[1:])), exact, strict=False):
                np.testing.assert_allclose(got, want, rtol=40 * EPS, atol=40 * EPS * max(1.0, np.abs(want).max()))


def _step(cell: object, params: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """One step whose products read rounded operands; a second product reads what the first stage gives, rounded too."""
    if "weight_hr" in params:  # h = W_hr m: m is rounded where it is multiplied
        own = {name: value for name, value in params.items() if name != "weight_hr"}
        m, c, _ = cell.forward(own, x, m_of(h, own), rounded(h.astype(np.float32)), c)
        return rounded(m.astype(np.float32)) @ params["weight_hr"].T, c
    if isinstance(cell, GruBefore):
        return _reset_before(params, x, h), c
    h, c, _ = cell.forward(params, x, h, rounded(h.astype(np.float32)), c)
    return h, c


def m_of(h: Array, params: dict[str, Array]) -> Array:
    """An h' of the size that the reference expects without a projection. Its LSTM reads the operand alone."""
    return np.zeros((len(h), len(params["weight_ih"]) // 4))


def _reset_before(p: dict[str, Array], x: Array, h: Array) -> Array:
    size = h.shape[1]
    gx = x @ p["weight_ih"].T + p["bias_ih"]
    gh = rounded(h.astype(np.float32)) @ p["weight_hh"][: 2 * size].T + p["bias_hh"][: 2 * size]
    r, z = (1 / (1 + np.exp(-(gx[:, : 2 * size] + gh)))).reshape(len(h), 2, size).swapaxes(0, 1)
    operand = rounded((r * h).astype(np.float32))
    n = np.tanh(gx[:, 2 * size :] + operand @ p["weight_hh"][2 * size :].T + p["bias_hh"][2 * size :])
    return (1 - z) * n + z * h


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_relu", "lstm, projection"])
def test_bits_do_not_depend_on_company_chunks_or_threads(kind: str, kernel: str) -> None:
    rng = np.random.default_rng(3)
    layer = made(kind, 40, 70, num_layers=2)
    x = rng.standard_normal((9, 19, 40), np.float32)
    x[:, 3] *= 50  # a loud neighbour
    y, state = layer(x)
    for row in (0, 4, 18):
        alone, _ = layer(x[:, row : row + 1])
        np.testing.assert_array_equal(alone[:, 0], y[:, row])
    first, middle = layer(x[:4])
    second, end = layer(x[4:], middle)
    np.testing.assert_array_equal(np.concatenate([first, second]), y)
    for got, want in zip(parts(end), parts(state), strict=True):
        np.testing.assert_array_equal(got, want)
    before = rk.get_num_threads()
    try:
        for threads in (1, 2, 5):
            rk.set_num_threads(threads)
            np.testing.assert_array_equal(layer(x)[0], y)
    finally:
        rk.set_num_threads(before)


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (rk.LSTM, {"heads": 3}),
        (rk.GRU, {"heads": 3, "zoneout": 0.1}),
        (rk.sLSTM, {"heads": 3}),
        (rk.RNN, {"independent": True}),
        (rk.LSTM, {"layer_norm": True, "proj_size": 5}),
        (rk.LSTM, {"coupled": True, "clip": 1.0, "num_layers": 2, "bidirectional": True}),
        (rk.GRU, {"activations": ("hardsigmoid", "softsign")}),
    ],
)
def test_options_and_marks(
    layer: type[rk.LSTM], options: dict[str, object], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near float32, and a row has the bits that it has alone."""
    rng = np.random.default_rng(11)
    x = rng.standard_normal((6, 7, 20), np.float32)
    marks = {"mask": rng.random((6, 7)) < 0.7, "reset": rng.random((6, 7)) < 0.2}
    quantized = layer(20, 33, seed=1, weights="int8", **options)
    y, _ = quantized(x, **marks)
    alone, _ = quantized(x[:, 2:3], **{name: value[:, 2:3] for name, value in marks.items()})
    np.testing.assert_array_equal(alone[:, 0], y[:, 2])
    monkeypatch.delenv("RNNKERN_KERNEL")
    exact, _ = layer(20, 33, seed=1, **options)(x, **marks)
    assert 0 < np.abs(y - exact).max() < 0.06


def test_kernels_of_one_width_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sums are exact integers, and the driver is the same: which instructions multiply does not show."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((6, 21, 130), np.float32)
    by_width: dict[str, dict[str, Array]] = {"amx avx512": {}, "avxvnni avx2": {}, "neondot neon": {}}
    for name, reason in UNAVAILABLE.items():
        width = next((width for width in by_width if name.split("_")[1] in width.split()), None)
        if reason or width is None:
            continue
        monkeypatch.setenv("RNNKERN_KERNEL", name)
        by_width[width][name] = np.concatenate([made(kind, 130, 66)(x)[0] for kind in ("lstm", "gru")])
    for answers in by_width.values():
        for other in answers.values():
            np.testing.assert_array_equal(other, next(iter(answers.values())))


def test_layers_directions_and_lengths(kernel: str) -> None:
    """As parts: a layer and a direction at a time."""
    rng = np.random.default_rng(5)
    lengths = np.array([7, 0, 3, 5])
    whole = rk.GRU(20, 34, 2, bidirectional=True, seed=2, weights="int8")
    x = rng.standard_normal((7, 4, 20), np.float32)
    y, state = whole(x, lengths=lengths)
    for number in range(2):
        sides = []
        for suffix, reverse in (("", False), ("_reverse", True)):
            one = rk.GRU(x.shape[2], 34, seed=0, reverse=reverse, weights="int8")
            one.update({name: whole.params[f"{name[:-1]}{number}{suffix}"] for name in one.params})
            part, last = one(x, lengths=lengths)
            np.testing.assert_array_equal(last[0], state[2 * number + reverse])
            sides.append(part)
        x = np.concatenate(sides, -1)
    np.testing.assert_array_equal(x, y)


def test_a_cell_steps_as_its_layer(kernel: str) -> None:
    cell, x = rk.LSTMCell(12, 20, seed=1, weights="int8"), np.random.default_rng(6).standard_normal((3, 12), np.float32)
    layer = rk.LSTM(12, 20, seed=1, weights="int8")
    layer.update({f"{name}_l0": value for name, value in cell.params.items()})
    h, c = cell(x)
    y, (_, c_n) = layer(x[None])
    np.testing.assert_array_equal(h, y[0])
    np.testing.assert_array_equal(c, c_n[0])
    state = (np.zeros((3, 20), np.float32), np.zeros((3, 20), np.float32))
    cell.step_(x, state)
    np.testing.assert_array_equal(state[0], h)


def test_float16_rounds_its_float32_values(kernel: str) -> None:
    layer = rk.GRU(9, 17, seed=1, dtype="float16", weights="int8")
    wide = rk.GRU(9, 17, seed=1, weights="int8")
    wide.update({name: value.astype(np.float32) for name, value in layer.params.items()})
    x = np.random.default_rng(7).standard_normal((1, 3, 9)).astype(np.float16)
    np.testing.assert_array_equal(layer(x)[0], wide(x.astype(np.float32))[0].astype(np.float16))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_with_nan_or_infinity_is_nan_and_no_other_is(bad: float, kernel: str) -> None:
    layer, x = made("lstm", 30, 20), np.random.default_rng(8).standard_normal((4, 6, 30), np.float32)
    clean = layer(x)[0]
    x[2, 3, 17] = bad
    y = layer(x)[0]
    assert np.isnan(y[2:, 3]).all()
    np.testing.assert_array_equal(y[:2, 3], clean[:2, 3])
    others = [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(y[:, others], clean[:, others])


def test_extreme_rows(kernel: str) -> None:
    """Zero, tiny and huge rows have scales of their own."""
    layer = rk.LSTM(8, 5, seed=1, weights="int8")
    x = np.zeros((1, 4, 8), np.float32)
    x[0, 1], x[0, 2], x[0, 3] = 1e-42, 1e-20, 3e38
    y, _ = layer(x)
    np.testing.assert_array_equal(y[0, 1], y[0, 0])  # below 2^-100 beside 127 counts as zero
    np.testing.assert_array_equal(y[0, 2], y[0, 0])  # 1e-20 is lost beside the bias
    assert np.isfinite(y).all()


def test_calls_at_the_same_time(kernel: str) -> None:
    layer, x = made("gru", 64, 96), np.random.default_rng(9).standard_normal((5, 8, 64), np.float32)
    want, failed = layer(x)[0], []

    def run() -> None:
        for _ in range(20):
            if not np.array_equal(layer(x)[0], want):
                failed.append(threading.get_ident())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_quantize_changes_what_kernels_read_and_no_parameter() -> None:
    layer, x = rk.LSTM(16, 32, seed=1), np.random.default_rng(10).standard_normal((5, 3, 16), np.float32)
    exact, kept = layer(x)[0], layer.state_dict()
    assert layer.weights is None
    assert layer.quantize("int8") is layer
    assert layer.weights == "int8" and "weights='int8'" in repr(layer)
    rounded_y = layer(x)[0]
    assert 0 < np.abs(rounded_y - exact).max() < 0.02
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, kept[name])
    np.testing.assert_array_equal(rk.LSTM(16, 32, seed=1, weights="int8")(x)[0], rounded_y)
    layer.update({name: value * 0 for name, value in kept.items()})
    np.testing.assert_array_equal(layer(x)[0], np.zeros_like(exact))
    layer.load_state_dict(kept)
    np.testing.assert_array_equal(layer(x)[0], rounded_y)
    layer.quantize(None)
    np.testing.assert_array_equal(layer(x)[0], exact)


def test_a_pack_has_a_quarter_of_the_bytes() -> None:
    spec = rk.LSTM(512, 512).spec
    whole = engine.plan(spec).sizes(1, 1)["packed"]
    small = engine.plan(rk.LSTM(512, 512, weights="int8").spec).sizes(1, 1)["packed"]
    assert small < whole / 2 * 0.27  # forward alone is half


def test_what_int8_refuses() -> None:
    layer, x = rk.GRU(4, 5, weights="int8"), np.zeros((2, 3, 4), np.float32)
    with pytest.raises(NotImplementedError, match=r"forward: GRU\(.*weights in int8, which are for inference"):
        layer.forward(x)
    with pytest.raises(ValueError, match="weights: expected 'int8' or 'bf16' or None, got 'int4'"):
        rk.LSTM(4, 5, weights="int4")
    with pytest.raises(NotImplementedError, match="weights='int8': expected a layer of float32 or float16 on the CPU"):
        rk.LSTM(4, 5, dtype="float64", weights="int8")
    with pytest.raises(NotImplementedError, match="at most 130000 terms, got 140000"):
        rk.RNN(140_000, 1, weights="int8")
    with pytest.raises(NotImplementedError, match="weights in the dtype"):
        engine.plan(engine.Spec("lstm", "float32", 3, 4, weights="int8", kernel="cpu_scalar"))
    with pytest.raises(NotImplementedError, match="weights in int8"):
        engine.plan(engine.Spec("lstm", "float32", 3, 4, kernel="cpu_scalar_int8"))
    for bad in (np.nan, -np.inf):
        weights = layer.state_dict()
        weights["weight_hh_l0"][7, 2] = bad
        broken = rk.GRU(4, 5)
        broken.load_state_dict(weights)
        with pytest.raises(ValueError, match=r"weights\[0\].weight_hh: expected finite weights for int8"):
            broken.quantize()
        assert broken.weights is None
        broken(x)
