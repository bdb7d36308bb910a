"""Converted weights in the libraries themselves, where they are installed: Keras, Flax, MLX and TensorFlow.

    pip install keras flax "mlx[cpu]" tensorflow-cpu        # none of them is needed to work on rnnkern

The equations that these libraries document are held against rnnkern's everywhere, by api/test_convert_systems.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert_cases import CASES, Array, Case, H, I, judged, options, run, state_dict
from numeric import EPS, near
from rnnkern.convert import from_system, to_system

T, B = 4, 2
# float32 libraries, two layers and a few steps; XLA's and MLX's tanh and sigmoid err by several eps each.
BOUND = 64 * EPS["float32"]


def problem(case: Case, num_layers: int = 1, directions: int = 1) -> tuple[dict[str, Array], list[Any], Array, Array]:
    """The state dict, its arrays in the system, x, and what rnnkern's equations give."""
    params = state_dict(case, num_layers, directions, np.float32)
    x = np.random.default_rng(1).standard_normal((T, B, I)).astype(np.float32)
    arrays = to_system(case.system, case.cell, params, **options(case, num_layers, directions))
    wide = {name: value.astype(np.float64) for name, value in params.items()}
    return params, arrays, x, judged(case, wide, x.astype(np.float64), num_layers, directions)


def cases(system: str) -> Any:
    return pytest.mark.parametrize("case", [case for case in CASES if case.system == system], ids=str)


@pytest.mark.parametrize("directions", [1, 2])
@cases("keras")
def test_keras(case: Case, directions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # read once in a process, which the benchmark's peer needs with jax
    keras = pytest.importorskip("keras")
    _, arrays, x, wanted = problem(case, 2, directions)
    kind = {"rnn": keras.layers.SimpleRNN, "gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[case.cell]
    extra = {"reset_after": case.reset_after} if case.cell == "gru" else {}
    layers = [kind(H, return_sequences=True, **extra) for _ in range(2)]
    model = keras.Sequential([keras.layers.Bidirectional(own) if directions == 2 else own for own in layers])
    model.build((None, T, I))
    model.set_weights(arrays)
    near(model.predict(x.transpose(1, 0, 2), verbose=0).transpose(1, 0, 2), wanted, BOUND)
    back = from_system("keras", case.cell, model.get_weights(), **options(case, 2, directions))
    again = to_system("keras", case.cell, back, **options(case, 2, directions))
    assert all(np.array_equal(got, array) for got, array in zip(again, arrays, strict=True))


@pytest.mark.parametrize("optimized", [False, True])
@cases("flax")
def test_flax_linen(case: Case, optimized: bool) -> None:
    linen, jax = pytest.importorskip("flax.linen"), pytest.importorskip("jax")
    lstm = linen.OptimizedLSTMCell if optimized else linen.LSTMCell
    cell = {"rnn": linen.SimpleCell, "gru": linen.GRUCell, "lstm": lstm}[case.cell](H)
    _, (params,), x, wanted = problem(case)
    carry = cell.initialize_carry(jax.random.key(0), (B, I))
    made = cell.init(jax.random.key(0), carry, x[0])["params"]
    assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, params)
    ys = []
    for row in x:
        carry, y = cell.apply({"params": params}, carry, row)
        ys.append(y)
    near(np.stack(ys), wanted, BOUND)
    assert from_system("flax", case.cell, [made]).keys() == state_dict(case).keys()  # jax's arrays come in too


@cases("nnx")
def test_flax_nnx(case: Case) -> None:
    nnx = pytest.importorskip("flax.nnx")
    kind = {"rnn": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}[case.cell]
    cell = kind(I, H, rngs=nnx.Rngs(0))
    _, (params,), x, wanted = problem(case)
    made = nnx.to_pure_dict(nnx.state(cell, nnx.Param))
    assert {k: sorted(v) for k, v in made.items()} == {k: sorted(v) for k, v in params.items()}
    state = nnx.state(cell, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(cell, state)
    carry, ys = cell.initialize_carry((B, I), nnx.Rngs(0)), []
    for row in x:
        carry, y = cell(carry, row)
        ys.append(y)
    near(np.stack(ys), wanted, BOUND)
    assert from_system("nnx", case.cell, [made]).keys() == state_dict(case).keys()


@cases("mlx")
def test_mlx(case: Case) -> None:
    mx, nn = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.nn")
    module = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[case.cell](I, H)
    _, (params,), x, wanted = problem(case)
    made = module.parameters()
    assert {name: tuple(value.shape) for name, value in made.items()} == {k: v.shape for k, v in params.items()}
    module.load_weights([(name, mx.array(value)) for name, value in params.items()])
    y = module(mx.array(x.transpose(1, 0, 2)))
    y = y[0] if case.cell == "lstm" else y
    near(np.array(y).transpose(1, 0, 2), wanted, BOUND)
    back = from_system("mlx", case.cell, [{name: np.array(value) for name, value in module.parameters().items()}])
    assert all(np.array_equal(array, params[k]) for k, array in to_system("mlx", case.cell, back)[0].items())


@cases("tensorflow_block")
def test_tensorflow(case: Case) -> None:
    raw = pytest.importorskip("tensorflow").raw_ops
    _, arrays, x, wanted = problem(case, 2)
    none = np.zeros(H, np.float32)

    def step(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        h, c = h.astype(np.float32), c.astype(np.float32)
        if case.cell == "gru":
            return raw.GRUBlockCell(x=x, h_prev=h, **a).h.numpy(), c
        peephole = {name: a.get(name, none) for name in ("wci", "wcf", "wco")}
        out = raw.LSTMBlockCell(
            x=x, cs_prev=c, h_prev=h, w=a["w"], b=a["b"], **peephole, forget_bias=1.0, cell_clip=-1.0,
            use_peephole="wci" in a,
        )  # fmt: skip
        return out.h.numpy(), out.cs.numpy()

    near(run(step, arrays, x, 1), wanted, BOUND)
