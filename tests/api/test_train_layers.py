"""rnnkern.train's Linear and Embedding: gradients against finite differences, tapes, and what bad arguments get."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from numeric import DIFFERENCES, EPS, differences, near
from rnnkern import train


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (4, 2)])
def test_linear_gradients_are_those_of_finite_differences(rng, lead, bias):
    layer = train.Linear(5, 3, bias, dtype="float64", seed=1)
    x, dy = rng.standard_normal((*lead, 5)), rng.standard_normal((*lead, 3))
    y, tape = layer.forward(x)
    assert np.array_equal(y, layer(x))
    grads = layer.backward(tape, dy)
    assert list(grads.params) == list(layer.params) == ["weight"] + ["bias"] * bias
    near(grads.x, differences(lambda v: float((layer(v) * dy).sum()), x), DIFFERENCES)
    values = layer.state_dict()
    for name, grad in grads.params.items():

        def loss(value, name=name):
            layer.load_state_dict({**values, name: value})
            return float((layer(x) * dy).sum())

        near(grad, differences(loss, values[name]), DIFFERENCES)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_is_torchs(rng, dtype):
    layer = train.Linear(7, 4, dtype=dtype, seed=2)
    judge = torch.nn.Linear(7, 4, dtype=torch.float64)
    judge.load_state_dict({name: torch.tensor(value.astype(np.float64)) for name, value in layer.state_dict().items()})
    x = rng.standard_normal((6, 3, 7)).astype(dtype)
    # sums of 7 products and a bias, each rounded once
    near(layer(x), judge(torch.tensor(x.astype(np.float64))).detach().numpy(), 8 * EPS[dtype])
    assert layer(x).dtype == dtype


def test_embedding_gradient_is_that_of_finite_differences(rng):
    layer = train.Embedding(6, 3, dtype="float64", seed=3)
    x, dy = rng.integers(0, 5, (4, 7)), rng.standard_normal((4, 7, 3))  # 5 never occurs
    y, tape = layer.forward(x)
    assert np.array_equal(y, layer.params["weight"][x]) and np.array_equal(y, layer(x))
    grads = layer.backward(tape, dy)
    assert grads.x is None

    def loss(value):
        layer.update({"weight": value})
        return float((layer(x) * dy).sum())

    near(grads.params["weight"], differences(loss, layer.state_dict()["weight"]), DIFFERENCES)
    assert not grads.params["weight"][5].any()


@pytest.mark.parametrize("integer", [np.uint8, np.int16, np.int64, np.uint64])
def test_embedding_gradient_is_the_exact_sum_on_small_integers(rng, integer):
    layer = train.Embedding(9, 4, seed=0)
    x = rng.integers(0, 9, (50, 3)).astype(integer)
    dy = rng.integers(-8, 9, (50, 3, 4)).astype(np.float32)
    want = np.zeros((9, 4), np.float32)
    np.add.at(want, x, dy)
    _, tape = layer.forward(x)
    assert np.array_equal(layer.backward(tape, dy).params["weight"], want)


def make(kind: str, dtype: str = "float32"):
    """(layer, x, dy) of a kind."""
    rng = np.random.default_rng(7)
    if kind == "linear":
        return train.Linear(4, 3, dtype=dtype, seed=0), *(rng.standard_normal((5, 2, n)).astype(dtype) for n in (4, 3))
    return train.Embedding(4, 3, dtype=dtype, seed=0), rng.integers(0, 4, (5, 2)), rng.random((5, 2, 3)).astype(dtype)


@pytest.mark.parametrize("kind", ["linear", "embedding"])
class TestLayer:
    def test_the_same_tape_gives_the_same_bits_whatever_happened_to_x(self, kind):
        layer, x, dy = make(kind)
        _, tape = layer.forward(x)
        first = layer.backward(tape, dy)
        x[...] = 0
        again = layer.backward(tape, dy)
        for name, grad in first.params.items():
            assert np.array_equal(grad, again.params[name]) and not np.shares_memory(grad, again.params[name])

    def test_a_tape_of_another_layer_or_of_older_parameters_is_refused(self, kind):
        layer, x, dy = make(kind)
        other, *_ = make(kind)
        _, tape = layer.forward(x)
        with pytest.raises(ValueError, match=r"tape: .* another layer"):
            other.backward(tape, dy)
        layer.update({"weight": layer.params["weight"]})
        with pytest.raises(ValueError, match="tape: the parameters were updated"):
            layer.backward(tape, dy)
        with pytest.raises(TypeError, match=r"tape: .* got NoneType"):
            layer.backward(None, dy)

    def test_parameters_change_only_through_update_and_load_state_dict(self, kind):
        layer, *_ = make(kind)
        with pytest.raises(ValueError, match="read-only"):
            layer.params["weight"][0] = 1
        with pytest.raises(TypeError):
            layer.params["weight"] = np.zeros(1)
        mine = np.ones(layer.params["weight"].shape, np.float32)
        before = layer.params
        layer.update({"weight": mine})
        mine[...] = 2
        assert (layer.params["weight"] == 1).all() and not (before["weight"] == 1).all()
        state = layer.state_dict()
        state["weight"][...] = 3
        assert (layer.params["weight"] == 1).all()
        layer.load_state_dict(state)
        assert (layer.params["weight"] == 3).all()

    def test_a_wrong_update_is_named_and_changes_nothing(self, kind):
        layer, *_ = make(kind)
        before, shape = layer.state_dict(), layer.params["weight"].shape
        good = np.zeros(shape, np.float32)
        wrong = [
            ({"weight": good[:-1]}, ValueError, r"params\['weight'\]: expected shape"),
            (
                {"weight": good.astype(np.float64)},
                TypeError,
                r"params\['weight'\]: expected dtype float32, got float64",
            ),
            ({"weight": good.astype(">f4")}, TypeError, "byte-swapped"),
            ({"weight": good.tolist()}, TypeError, r"params\['weight'\]: expected a NumPy array, got builtins.list"),
            ({"weight": good, "gain": good}, ValueError, "got 'gain'"),
            ([("weight", good)], TypeError, "params: expected a mapping"),
        ]
        for params, error, message in wrong:
            with pytest.raises(error, match=message):
                layer.update(params)
        with pytest.raises(ValueError, match=r"state_dict: .*\['weight'.* missing"):
            layer.load_state_dict({})
        assert all(np.array_equal(value, before[name]) for name, value in layer.params.items())

    def test_strided_read_only_and_empty_inputs_work(self, kind):
        layer, x, dy = make(kind)
        wide = np.repeat(x, 2, axis=0)[::2]
        wide.flags.writeable = False
        gap = np.repeat(dy, 2, axis=-1)[..., ::2]
        _, tape = layer.forward(x)
        want = layer.backward(tape, dy)
        y, tape = layer.forward(wide)
        got = layer.backward(tape, gap)
        assert np.array_equal(y, layer(x))
        assert all(np.array_equal(got.params[name], grad) for name, grad in want.params.items())
        y, tape = layer.forward(x[:0])
        assert y.shape == (0, 2, 3)
        assert not any(grad.any() for grad in layer.backward(tape, dy[:0]).params.values())

    def test_wrong_arrays_are_named(self, kind):
        layer, x, dy = make(kind)
        with pytest.raises(TypeError, match=r"x: expected a NumPy array, got torch.Tensor"):
            layer(torch.tensor(x))
        with pytest.raises(TypeError, match=r"x: expected .*dtype.*complex64"):
            layer.forward(x.astype(np.complex64))
        _, tape = layer.forward(x)
        with pytest.raises(ValueError, match=r"dy: expected shape \[5, 2, 3\], got \[5, 2, 2\]"):
            layer.backward(tape, dy[..., :2])
        with pytest.raises(TypeError, match="dy: expected dtype float32, got float64"):
            layer.backward(tape, dy.astype(np.float64))


def test_constructors_name_a_wrong_argument():
    with pytest.raises(ValueError, match="in_features: expected at least 1, got 0"):
        train.Linear(0, 3)
    with pytest.raises(TypeError, match="out_features: expected an int, got float"):
        train.Linear(3, 3.0)
    with pytest.raises(ValueError, match="embedding_dim"):
        train.Embedding(3, -1)
    with pytest.raises(TypeError, match="dtype: expected one of float32, float64, got float16"):
        train.Embedding(3, 3, dtype=np.float16)
    with pytest.raises(ValueError, match=r"x: expected shape \[2, 4\], got \[2, 5\]"):
        train.Linear(4, 3)(np.zeros((2, 5), np.float32))
    for bad in (-1, 3):
        with pytest.raises(ValueError, match=rf"x: expected values in \[0, 2\], got {bad} at \[1\]"):
            train.Embedding(3, 3)(np.array([0, bad]))


def test_initial_values_are_torchs_distributions_and_follow_the_seed():
    a, b, c = (train.Linear(100, 400, seed=seed).params["weight"] for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert 0.099 < a.max() <= 0.1 and -0.1 <= a.min() < -0.099  # +-1/sqrt(100), 40000 draws
    weight = train.Embedding(200, 200, seed=1).params["weight"]
    # mean and standard deviation of 40000 normal draws: within five of their standard errors, 1/200 and 1/283
    assert abs(weight.mean()) < 5 / 200 and abs(weight.std() - 1) < 5 / 283
