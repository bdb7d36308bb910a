"""rnnkern.init: what each rule promises of its values, on layers and on shapes alone."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rnnkern as rk
from rnnkern import init
from rnnkern.convert import from_system, to_system

Array = np.ndarray[Any, Any]
EPS = float(np.finfo(np.float64).eps)
I, H = 24, 40  # noqa: E741 - the symbols of the documentation


def shapes(gates: int, inputs: int = I, bias: bool = True, **extra: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    own: dict[str, tuple[int, ...]] = {"weight_ih_l0": (gates * H, inputs), "weight_hh_l0": (gates * H, H)}
    own |= {"bias_ih_l0": (gates * H,), "bias_hh_l0": (gates * H,)} if bias else {}
    return own | extra


def make(layer: Any, **keywords: Any) -> dict[str, Array]:
    return init.initialise(layer, dtype=np.float64, **keywords)


# --- rules ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", [rk.RNN, rk.GRU, rk.LSTM, rk.LSTMCell])
def test_pytorch_is_what_a_layer_starts_with(kind: Any, dtype: str) -> None:
    layer = kind(3, 4, dtype=dtype, seed=7)
    values = init.pytorch(layer, seed=7)
    rules = init.initialise(layer, weight_ih="pytorch", weight_hh="pytorch", bias="pytorch", seed=7)
    for name, value in layer.params.items():
        assert values[name].dtype == layer.dtype
        assert np.array_equal(values[name], value) and np.array_equal(rules[name], value)


def test_glorot() -> None:
    """Per gate: fans I and H; jointly: I and G*H. The variance of a uniform variable on (-a, a) is a^2 / 3."""
    for rule, outputs in (("glorot", H), ("glorot_joint", 4 * H)):
        weight = make(shapes(4), weight_ih=rule)["weight_ih_l0"]
        bound = np.sqrt(6 / (I + outputs))
        assert 0.99 * bound < np.abs(weight).max() <= bound
        # The mean of n squares of it has standard deviation a^2 * sqrt(4 / 45 / n): four of them.
        assert abs(np.square(weight).mean() - bound**2 / 3) <= 4 * bound**2 * np.sqrt(4 / 45 / weight.size)


def eye(rows: Array, size: int) -> None:
    """rows @ rows.T is the identity: QR of a matrix of this size is orthogonal to some tens of eps."""
    assert rows.shape[0] == size and np.abs(rows @ rows.T - np.eye(size)).max() <= 64 * EPS


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_orthogonal_per_gate_or_jointly(gates: int) -> None:
    for block in np.split(make(shapes(gates))["weight_hh_l0"], gates):
        eye(block, H)
    joint = make(shapes(gates), weight_hh="orthogonal_joint")["weight_hh_l0"]
    eye(joint.T, H)
    assert gates == 1 or np.abs(joint[:H] @ joint[:H].T - np.eye(H)).max() > 0.1


def test_orthogonal_of_projections_and_heads() -> None:
    narrow = shapes(4, weight_hr_l0=(10, H)) | {"weight_hh_l0": (4 * H, 10)}
    values = make(narrow, weight_ih="orthogonal")
    for block in np.split(values["weight_hh_l0"], 4):
        eye(block.T, 10)
    eye(values["weight_hr_l0"], 10)
    heads = make(shapes(3) | {"weight_hh_l0": (3 * H, H // 5)}, hidden_size=H)["weight_hh_l0"]
    for block in np.split(heads, 3 * 5):
        eye(block, H // 5)
    with pytest.raises(ValueError, match="weight_hh_l0: expected a width that divides H = 40, got 7"):
        make(shapes(3) | {"weight_hh_l0": (3 * H, 7)}, hidden_size=H)


def test_orthogonal_is_uniform() -> None:
    """Without the signs of R's diagonal an entry of Q would have a preferred sign. Four deviations of 1000 coins."""
    rng = np.random.default_rng(0)
    positive = sum(init.orthogonal(rng, (2, 2), 1)[0, 0] > 0 for _ in range(1000))
    assert abs(positive - 500) <= 4 * np.sqrt(250)


def test_indrnn() -> None:
    """|u| <= 2^(1/T): T relu steps grow a gradient at most twofold."""
    vector = {"weight_ih_l0": (H, I), "weight_hh_l0": (H,), "bias_ih_l0": (H,), "bias_hh_l0": (H,)}
    bound = init.indrnn_bound(100)
    assert abs(bound**100 - 2) <= 400 * EPS and init.indrnn_bound(1, gamma=3.0) == 3.0
    u = make(vector, weight_hh=init.indrnn(100))["weight_hh_l0"]
    assert u.shape == (H,) and u.min() >= 0 and 0.8 * bound < u.max() <= bound
    last = make(vector, weight_hh=init.indrnn(100, low=0.99))["weight_hh_l0"]
    assert last.min() >= 0.99 and last.max() <= bound
    with pytest.raises(ValueError, match=r"weight_hh_l0: expected a matrix for this rule, got the shape \[40\]"):
        make(vector)
    with pytest.raises(ValueError, match=r"weight_hh_l0: expected a vector \[H\]"):
        make(shapes(1), weight_hh=init.indrnn(100))
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        init.indrnn(0)
    with pytest.raises(ValueError, match="gamma: expected a positive number"):
        init.indrnn_bound(3, gamma=0.0)
    with pytest.raises(ValueError, match="low: expected a number in"):
        init.indrnn(100, low=1.1)


# --- biases -----------------------------------------------------------------


def test_forget_bias_is_set() -> None:
    """b_f = value in bias_ih, 0 in bias_hh: it is the sum; the other rows are what ``bias`` says."""
    layer = rk.LSTM(I, H, num_layers=2, bidirectional=True)
    values = init.initialise(layer, bias="pytorch", forget_bias=1.5)
    for name in [name for name in values if name.startswith("bias")]:
        i, f, g, o = np.split(values[name], 4)
        assert (f == (1.5 if "_ih_" in name else 0)).all() and all(map(np.any, (i, g, o)))
    layer.update(values)
    assert not any(map(np.any, (v for n, v in make(shapes(4)).items() if n.startswith("bias"))))


def test_chrono_of_an_lstm() -> None:
    """b_f = log U(1, T_max - 1), b_i = -b_f: with no input the cell decays by 1/e in about U(2, T_max) steps."""
    values = make(shapes(4), chrono=100)
    i, f, g, o = np.split(values["bias_ih_l0"], 4)
    assert np.array_equal(i, -f) and not g.any() and not o.any() and not values["bias_hh_l0"].any()
    u = np.exp(f)
    assert u.min() >= 1 and u.max() <= 99 and abs(u.mean() - 50) <= 4 * 98 / np.sqrt(12 * H) and u.std() > 10
    layer = rk.LSTM(I, H, dtype="float64")
    layer.update({name: value * (name[:4] == "bias") for name, value in values.items()})
    _, (_, c) = layer(np.zeros((1, 1, I)), (np.zeros((1, 1, H)), np.ones((1, 1, H))))
    steps = 1 / (1 - c[0, 0])  # g = 0: what is left of c = 1 after a step is f
    assert np.abs(steps / (1 + u) - 1).max() <= 1600 * EPS  # 1 - f magnifies 16 eps of f by up to T_max
    assert np.array_equal(make(shapes(4), chrono=2)["bias_ih_l0"], np.zeros(4 * H))


def test_chrono_of_a_gru() -> None:
    """z keeps here, so b_z = +log(u): the state decays by 1/e in about U(2, T_max) steps, as an LSTM's cell."""
    values = make(shapes(3), chrono=100)
    r, z, n = np.split(values["bias_ih_l0"], 3)
    assert not r.any() and not n.any() and not values["bias_hh_l0"].any() and z.min() >= 0
    layer = rk.GRU(I, H, dtype="float64")
    layer.update({name: value * (name[:4] == "bias") for name, value in values.items()})
    _, h = layer(np.zeros((1, 1, I)), np.ones((1, 1, H)))
    steps = 1 / (1 - h[0, 0])
    assert np.abs(steps / (1 + np.exp(z)) - 1).max() <= 1600 * EPS
    assert steps.min() >= 2 and steps.max() <= 100 and steps.std() > 10


# --- whole layers -----------------------------------------------------------


def test_keras() -> None:
    """glorot with fan_out G*H, orthogonal over all gates at once, forget bias 1: keras/src/layers/rnn/lstm.py."""
    for gates in (1, 3, 4):
        values = init.keras(shapes(gates), dtype=np.float64)
        bound = np.sqrt(6 / (I + gates * H))
        assert 0.98 * bound < np.abs(values["weight_ih_l0"]).max() <= bound
        eye(values["weight_hh_l0"].T, H)
        ones = np.repeat([0.0, 1.0, 0.0, 0.0], H) if gates == 4 else np.zeros(gates * H)
        assert np.array_equal(values["bias_ih_l0"], ones) and not values["bias_hh_l0"].any()
    assert init.keras(shapes(4, bias=False)).keys() == {"weight_ih_l0", "weight_hh_l0"}


def test_keras_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a built Keras layer has satisfies the same statements. Its QR is in float32."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    layer = keras.layers.LSTM(H)
    layer.build((None, 3, I))
    values = from_system("keras", "lstm", [np.asarray(array) for array in layer.get_weights()])
    ours = init.keras(shapes(4))
    recurrent = values["weight_hh_l0"].astype(np.float64)
    assert np.abs(recurrent.T @ recurrent - np.eye(H)).max() <= 64 * np.finfo(np.float32).eps
    assert 0.98 * np.sqrt(6 / (I + 4 * H)) < np.abs(values["weight_ih_l0"]).max() <= np.sqrt(6 / (I + 4 * H))
    assert np.array_equal(values["bias_ih_l0"], ours["bias_ih_l0"]) and len(to_system("keras", "lstm", ours)) == 3


def test_a_layer_takes_them() -> None:
    for layer in (
        rk.RNN(3, 4),
        rk.GRU(3, 4, num_layers=2, bidirectional=True),
        rk.LSTMCell(3, 4),
        rk.LSTM(3, 4, bias=False),
    ):
        values = init.initialise(layer)
        layer.load_state_dict(values)
        assert values.keys() == layer.params.keys()


def test_what_starts_neutral() -> None:
    extra = {"weight_hr_l0": (10, H), "peephole_l0": (3, H), "gamma_ih_l0": (4 * H,), "gamma_hh_l0": (4 * H,)}
    extra |= {"gamma_c_l0": (H,), "beta_c_l0": (H,)}
    narrow = shapes(4, **extra) | {"weight_hh_l0": (4 * H, 10)}
    for values in (make(narrow), init.pytorch(narrow)):
        assert all((values[f"gamma_{side}_l0"] == 1).all() for side in ("ih", "hh", "c"))
        assert not values["beta_c_l0"].any() and values["weight_hr_l0"].any()
    assert not make(narrow)["peephole_l0"].any()


def test_the_seed_decides() -> None:
    layer = shapes(4)
    one, same, other = (init.initialise(layer, seed=seed, chrono=50) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in layer)
    assert not np.array_equal(one["weight_hh_l0"], other["weight_hh_l0"])
    wide = init.initialise(layer, seed=1, chrono=50, dtype=np.float64)
    half = init.initialise(layer, seed=1, chrono=50, dtype=ml_dtypes.bfloat16)
    for name in layer:
        assert one[name].dtype == np.float32 and half[name].dtype == ml_dtypes.bfloat16
        assert np.array_equal(one[name], wide[name].astype(np.float32))
        assert np.array_equal(half[name], wide[name].astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("layer", "keywords", "said"),
    [
        (shapes(4), {"weight_ih": "he"}, r"weight_ih: expected pytorch, zeros, glorot, .* or a rule, got 'he'"),
        (shapes(4), {"bias": "glorot"}, r"bias_ih_l0: expected a matrix"),
        (shapes(3), {"forget_bias": 1.0}, r"forget_bias: expected a finite number and an LSTM, got 1.0 for gru"),
        (shapes(4), {"forget_bias": float("nan")}, r"forget_bias: expected a finite number"),
        (shapes(1), {"chrono": 10}, r"chrono: expected a T_max .*, got 10 for rnn"),
        (shapes(4), {"chrono": 1.5}, r"chrono: expected a T_max of at least 2 .*, got 1.5 for lstm"),
        (shapes(4), {"chrono": 10, "forget_bias": 1.0}, r"chrono: expected None beside forget_bias"),
        (shapes(4, bias=False), {"forget_bias": 1.0}, r"forget_bias: expected a layer with biases"),
        (shapes(3, bias=False), {"chrono": 10}, r"chrono: expected a layer with biases"),
        (shapes(2), {}, r"1, 3 or 4 gates of 40 units, got \[80\] rows"),
        (shapes(4) | {"bias_ih_l0": (3 * H,)}, {}, r"1, 3 or 4 gates of 40 units, got \[120, 160\] rows"),
        (shapes(4, gamma=(3,)), {}, r"layer: expected parameters named as .*got 'gamma'"),
        ({}, {}, r"layer: expected weight_ih and weight_hh, got nothing"),
        (
            shapes(4),
            {"weight_ih": lambda generator, shape, blocks: np.ones(3)},
            r"weight_ih_l0: expected a rule .*\[3\]",
        ),
    ],
)
def test_refused(layer: Any, keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        init.initialise(layer, **keywords)


def test_refused_kinds() -> None:
    with pytest.raises(TypeError, match="layer: expected a layer, a cell or a mapping of shapes, got int"):
        init.initialise(3)
    with pytest.raises(ValueError, match="dtype: expected None, a layer has its own"):
        init.initialise(rk.RNN(3, 4), dtype=np.float64)
    with pytest.raises(ValueError, match="hidden_size: expected None, a layer has its own, got 4"):
        init.pytorch(rk.RNN(3, 4), hidden_size=4)
