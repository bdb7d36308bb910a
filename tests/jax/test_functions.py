"""rnnkern.jax's functions are the plain layers, to the bit, and their gradients; bad input is refused by name."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed")

import jax
import jax.numpy as jnp

import rnnkern as rk
import rnnkern.jax as rj

IN, H, STEPS, ROWS = 4, 6, 5, 3
LAYERS: dict[str, type[Any]] = {"rnn": rk.RNN, "gru": rk.GRU, "lstm": rk.LSTM, "slstm": rk.sLSTM}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("rnn", {}),
    ("rnn", {"independent": True}),
    ("gru", {}),
    ("gru", {"reset_after": False, "clip": 1.0}),
    ("lstm", {}),
    ("lstm", {"peephole": True, "coupled": True}),
    ("lstm", {"proj_size": 3}),
    ("lstm", {"layer_norm": True, "activations": ("hardsigmoid", "tanh", "softsign")}),
    ("slstm", {"heads": 2}),
]


def pair(cell: str, dtype: str = "float32", **options: Any) -> tuple[Any, dict[str, jax.Array]]:
    """A plain layer and its parameters as JAX's arrays."""
    layer = LAYERS[cell](IN, H, seed=1, dtype=dtype, **options)
    return layer, {name: jnp.asarray(value) for name, value in layer.params.items()}


def inputs(dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((STEPS, ROWS, IN)).astype(jnp.dtype(dtype))


def leaves(value: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(value)]


def assert_equal(got: Any, wanted: Any) -> None:
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_bits_of_the_plain_layer_and_its_gradients(cell: str, options: dict[str, Any]) -> None:
    layer, params = pair(cell, num_layers=2, bidirectional=True, **options)
    x, generator = inputs(), np.random.default_rng(2)
    lengths, reset = np.array([STEPS, 0, 3]), generator.random((STEPS, ROWS)) < 0.3
    mask = generator.random((STEPS, ROWS)) < 0.7
    marks = {"lengths": lengths, "mask": mask, "reset": reset}
    if cell in ("lstm", "gru") and options.get("layer_norm"):
        marks = {"lengths": lengths}
    state = layer(x)[1]

    def run(params: Any, x: Any, state: Any) -> Any:
        return getattr(rj, cell)(params, x, state, **marks, **options)

    y, after, tape = layer.forward(x, state, **marks)
    assert_equal(jax.jit(run)(params, x, state), (y, after))
    dy = generator.standard_normal(y.shape).astype(np.float32)
    dstate = jax.tree.map(lambda a: generator.standard_normal(a.shape).astype(a.dtype), after)
    grads = layer.backward(tape, dy, dstate)
    _, back = jax.vjp(run, params, x, state)
    dparams, dx, dinitial = back((jnp.asarray(dy), jax.tree.map(jnp.asarray, dstate)))
    assert_equal(dx, grads.x)
    assert_equal(dinitial, grads.state)
    assert_equal([dparams[name] for name in grads.params], list(grads.params.values()))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_dtypes(dtype: str) -> None:
    with jax.enable_x64() if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        layer, params = pair("lstm", dtype)
        x = inputs(dtype)
        answer = rj.lstm(params, x)
        assert_equal(answer, layer(x))
        assert answer[1][1].dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
        assert_equal(rj.lstm(params, x, answer[1])[0], layer(x, layer(x)[1])[0])  # a float32 c_0
        grads = jax.grad(lambda p: rj.lstm(p, x)[0].astype(jnp.float32).sum())(params)
        assert all(grads[name].dtype == value.dtype for name, value in params.items())


@pytest.mark.parametrize("batch_first", [False, True])
def test_layouts(batch_first: bool) -> None:
    layer, params = pair("gru", batch_first=batch_first)
    x = inputs().swapaxes(0, 1) if batch_first else inputs()
    lengths = np.array([5, 2, 0], np.int32)
    mask = np.random.default_rng(1).random(x.shape[:2]) < 0.6
    assert_equal(
        rj.gru(params, x, lengths=lengths, mask=mask, batch_first=batch_first), layer(x, lengths=lengths, mask=mask)
    )
    assert_equal(rj.gru(params, inputs()[:, 0], mask=mask.reshape(-1)[:STEPS])[0].shape, (STEPS, H))
    y, h = rj.gru(params, jnp.zeros((STEPS, 0, IN)))
    assert y.shape == (STEPS, 0, H) and h.shape == (1, 0, H)
    assert rj.gru(params, jnp.zeros((0, ROWS, IN)))[0].shape == (0, ROWS, H)
    assert jax.vmap(lambda x: rj.gru(params, x)[0])(jnp.zeros((0, STEPS, ROWS, IN))).shape == (0, STEPS, ROWS, H)


def test_reverse_and_recompute() -> None:
    layer, params = pair("lstm", reverse=True)
    x = inputs()
    assert_equal(rj.lstm(params, x, reverse=True), layer(x))

    def grads(recompute: bool) -> Any:
        return jax.grad(lambda p: (rj.lstm(p, x, reverse=True, recompute=recompute)[0] ** 2).sum())(params)

    assert_equal(grads(True), grads(False))


def test_packed_parameters() -> None:
    layer, params = pair("lstm", num_layers=2)
    x = inputs()
    packed = jax.jit(rj.pack)(params)
    assert_equal(jax.jit(rj.lstm)(packed, x), layer(x))
    assert_equal(jax.vmap(lambda x: rj.lstm(packed, x)[0])(jnp.stack([x, x])), np.stack([layer(x)[0]] * 2))
    with pytest.raises(NotImplementedError, match="params: expected parameters by name for a derivative"):
        jax.grad(lambda x: rj.lstm(packed, x)[0].sum())(jnp.asarray(x))
    with pytest.raises(ValueError, match="params: expected a pack for this cell"):
        rj.gru(packed, x)
    with pytest.raises(ValueError, match="dropout: expected 0 with packed parameters"):
        rj.lstm(packed, x, dropout=0.5)
    two = jax.vmap(rj.pack)(jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params))
    assert_equal(jax.vmap(lambda p: rj.lstm(p, x)[0])(two)[0], layer(x)[0])


def test_random_masks_need_a_key_and_follow_it() -> None:
    _, params = pair("gru", num_layers=2)
    x = inputs()

    def run(key: Any) -> jax.Array:
        return rj.gru(params, x, key=key, dropout=0.5, zoneout=0.2)[0]

    one, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    assert_equal(one, again)
    assert not np.array_equal(one, other)
    assert_equal(run(None), rj.gru(params, x, dropout=0.5, zoneout=0.2)[0])
    assert not np.array_equal(run(None), one)


def test_new_parameters() -> None:
    params = rj.init(jax.random.key(0), "lstm", IN, H, 2, bidirectional=True, layer_norm=True, dtype=jnp.bfloat16)
    layer = rk.LSTM(IN, H, num_layers=2, bidirectional=True, layer_norm=True)
    assert {name: value.shape for name, value in params.items()} == {n: v.shape for n, v in layer.params.items()}
    assert all(value.dtype == jnp.bfloat16 for value in params.values())
    assert np.abs(np.asarray(params["weight_hh_l1"], np.float32)).max() <= H**-0.5
    assert (params["gamma_ih_l0"] == 1).all() and (params["beta_c_l0"] == 0).all()


def test_lengths_are_checked_when_the_call_runs() -> None:
    _, params = pair("gru")
    with pytest.raises(Exception, match=r"lengths\[1\]: expected 0 to 5 \(seq_len\), got 6"):
        jax.block_until_ready(jax.jit(rj.gru)(params, inputs(), lengths=jnp.array([5, 6, 0])))


def test_bad_input_is_refused_by_name() -> None:
    _, params = pair("lstm")
    x = inputs()
    half, state = jnp.zeros((1, 3, 6), jnp.bfloat16), jnp.zeros((1, 2, 6))
    without = {name: value for name, value in params.items() if name != "weight_hh_l0"}
    bad: list[tuple[type[Exception], str, Any]] = [
        (ValueError, r"x: expected \[T, B, 4\] or \[T, 4\], got", partial(rj.lstm, params, jnp.zeros((5, 3, 6)))),
        (TypeError, "x: expected float32 as the parameters, got int32", partial(rj.lstm, params, x.astype(np.int32))),
        (ValueError, "params: expected arrays by name", partial(rj.lstm, {}, x)),
        (ValueError, "missing or unknown: weight_hh_l0", partial(rj.lstm, without, x)),
        (ValueError, r"weight_hh_l0: expected shape \[24, 6\]", partial(rj.lstm, params | {"weight_hh_l0": x}, x)),
        (TypeError, "bias_hh_l0: expected float32", partial(rj.lstm, params | {"bias_hh_l0": np.zeros(24)}, x)),
        (ValueError, r"state: expected \(h_0, c_0\), got", partial(rj.lstm, params, x, state)),
        (ValueError, r"h_0: expected shape \[1, 3, 6\], got \[1, 2, 6\]", partial(rj.lstm, params, x, (state, state))),
        (TypeError, "h_0: expected float32, got bfloat16", partial(rj.lstm, params, x, (half, half))),
        (ValueError, r"lengths: expected shape \[B\] = \[3\]", partial(rj.lstm, params, x, lengths=jnp.arange(2))),
        (TypeError, "lengths: expected integers, got float32", partial(rj.lstm, params, x, lengths=jnp.zeros(3))),
        (TypeError, "mask: expected bool, got float32", partial(rj.lstm, params, x, mask=jnp.ones((5, 3)))),
        (ValueError, r"reset: expected shape \[5, 3\], got", partial(rj.lstm, params, x, reset=jnp.ones((3, 5), bool))),
        (TypeError, "reset_after", partial(rj.lstm, params, x, reset_after=True)),
        (ValueError, "nonlinearity", partial(rj.rnn, params, x, nonlinearity="sine")),
        (ValueError, "cell: expected", partial(rj.init, jax.random.key(0), "transformer", 2, 3)),
        (ValueError, "cell: expected", partial(rj.pack, params, "transformer")),
        (ValueError, "weight_ih_l0: expected", partial(rj.gru, params | {"weight_ih_l0": jnp.zeros(())}, x)),
        (ValueError, "weight_ih_l0: expected", partial(rj.gru, params | {"weight_ih_l0": jnp.zeros((25, 4))}, x)),
        (ValueError, "dropout", partial(rj.lstm, params, x, dropout=2.0)),
    ]  # fmt: skip
    for kind, sentence, call in bad:
        with pytest.raises(kind, match=sentence):
            call()


def test_an_old_jax_is_refused_by_name() -> None:
    program = "import jax\njax.__version_info__, jax.__version__ = (0, 5, 3), '0.5.3'\nimport rnnkern.jax"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: rnnkern.jax needs JAX 0.6 or later, got 0.5.3; install it with: pip install" in done.stderr
