"""rnnkern.train's Adam and SGD against torch.optim, their checkpoints, and what bad arguments get."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch

import rnnkern as rk
from numeric import EPS, near
from rnnkern import train


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


OPTIMIZERS = {
    "adam": (train.Adam, torch.optim.Adam, {"lr": 0.03}),
    "adam l2": (train.Adam, torch.optim.Adam, {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "adamw": (train.Adam, torch.optim.AdamW, {"lr": 0.03, "weight_decay": 0.1}),
    "sgd": (train.SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd momentum": (train.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}),
    "sgd nesterov": (train.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
}
STEPS = 12


def optimizer(name: str, layers):
    ours, _, options = OPTIMIZERS[name]
    return ours(layers, **options, **({"decoupled_weight_decay": True} if name == "adamw" else {}))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs(rng, name, dtype, monkeypatch):
    monkeypatch.setattr(train.optim, "PIECE", 7)  # several pieces and a tail in each parameter
    layers = {"a": train.Linear(5, 4, dtype=dtype, seed=0), "b": train.Embedding(3, 4, dtype=dtype, seed=1)}
    judge = {
        (layer, key): torch.nn.Parameter(torch.tensor(value.astype(np.float64)))
        for layer, it in layers.items()
        for key, value in it.params.items()
    }
    ours, theirs = optimizer(name, layers), OPTIMIZERS[name][1](judge.values(), **OPTIMIZERS[name][2])
    for step in range(STEPS):
        grads = {
            n: {k: rng.standard_normal(v.shape).astype(dtype) for k, v in it.params.items()} for n, it in layers.items()
        }
        for (layer, key), parameter in judge.items():
            parameter.grad = torch.tensor(grads[layer][key].astype(np.float64))
        if step == STEPS // 2:
            ours.lr = theirs.param_groups[0]["lr"] = 0.01
        before = {n: {k: v.copy() for k, v in g.items()} for n, g in grads.items()}
        ours.step(grads)
        theirs.step()
        assert all(np.array_equal(v, before[n][k]) for n, g in grads.items() for k, v in g.items())
    for (layer, key), parameter in judge.items():
        # each step rounds about ten times, and Adam divides by sqrt(v), which halves v's relative error
        near(layers[layer].params[key], parameter.detach().numpy(), 16 * STEPS * EPS[dtype])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loaded_optimizer_goes_on_with_the_same_bits(rng, name, tmp_path):
    def run(layers, opt, grads):
        for g in grads:
            opt.step({"a": g})
        return layers["a"].state_dict()

    grads = [{"weight": rng.standard_normal((4, 5)).astype(np.float32)} for _ in range(6)]  # the bias is left out
    whole = {"a": train.Linear(5, 4, seed=0)}
    want = run(whole, optimizer(name, whole), grads)
    first = {"a": train.Linear(5, 4, seed=0)}
    opt = optimizer(name, first)
    run(first, opt, grads[:3])
    rk.save(tmp_path / "opt.safetensors", opt.state_dict())
    second = {"a": train.Linear(5, 4, seed=9)}
    second["a"].load_state_dict(first["a"].state_dict())
    opt = optimizer(name, second)
    opt.load_state_dict(rk.load(tmp_path / "opt.safetensors"))
    got = run(second, opt, grads[3:])
    assert all(np.array_equal(value, got[key]) for key, value in want.items())
    assert np.array_equal(got["bias"], train.Linear(5, 4, seed=0).params["bias"])


def test_a_single_layer_needs_no_names(rng):
    one, two = train.Linear(3, 2, seed=0), train.Linear(3, 2, seed=0)
    grads = {"weight": rng.standard_normal((2, 3)).astype(np.float32), "bias": np.ones(2, np.float32)}
    single, named = train.Adam(one), train.Adam({"out": two})
    single.step(grads)
    named.step({"out": grads})
    assert all(np.array_equal(value, two.params[key]) for key, value in one.params.items())
    assert sorted(single.state_dict()) == sorted(key.removeprefix("out.") for key in named.state_dict())
    assert int(single.state_dict()["weight.step"]) == 1


class HalfLayer:
    """The least an optimiser asks of a layer, in bfloat16."""

    def __init__(self) -> None:
        self.params = {"w": np.ones(3, ml_dtypes.bfloat16)}

    def update(self, params):
        self.params = {**self.params, **params}


def test_half_parameters_keep_a_float32_master():
    layer, wide = HalfLayer(), train.Embedding(1, 3, seed=0)
    wide.update({"weight": np.ones((1, 3), np.float32)})
    half, full = train.SGD(layer, lr=1e-3), train.SGD(wide, lr=1e-3)
    for _ in range(100):  # each step is a quarter of bfloat16's half spacing below 1: it would round away
        half.step({"w": np.ones(3, ml_dtypes.bfloat16)})
        full.step({"weight": np.ones((1, 3), np.float32)})
    assert layer.params["w"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(layer.params["w"], wide.params["weight"][0].astype(ml_dtypes.bfloat16))
    assert np.array_equal(half.state_dict()["w.master"], wide.params["weight"][0])
    layer.update({"w": np.full(3, 2, ml_dtypes.bfloat16)})  # set from outside: the master follows
    half.step({"w": np.zeros(3, ml_dtypes.bfloat16)})
    assert (half.state_dict()["w.master"] == 2).all()
    again = train.SGD(layer, lr=1e-3)
    again.load_state_dict(half.state_dict())
    assert np.array_equal(again.state_dict()["w.master"], half.state_dict()["w.master"])


def test_wrong_gradients_are_named_and_change_nothing(rng):
    layers = {"a": train.Linear(3, 2, seed=0), "b": train.Linear(2, 2, seed=1)}
    opt = train.Adam(layers)
    good = {name: {k: np.ones_like(v) for k, v in layer.params.items()} for name, layer in layers.items()}
    opt.step(good)
    before, state = {n: layer.state_dict() for n, layer in layers.items()}, opt.state_dict()
    wrong = [
        ({**good, "c": {}}, ValueError, "grads: expected names from .*, got 'c'"),
        ({"a": good["a"], "b": {"gain": np.ones(2)}}, ValueError, r"grads\['b'\]: .* got 'gain'"),
        (
            {"a": good["a"], "b": {"bias": np.ones(3, np.float32)}},
            ValueError,
            r"\['bias'\]: expected shape",
        ),
        ({"a": good["a"], "b": {"bias": np.ones(2)}}, TypeError, r"grads\['b'\]\['bias'\]: expected dtype float32"),
        ({"a": good["a"], "b": None}, TypeError, r"grads\['b'\]: expected a mapping"),
        ([good], TypeError, "grads: expected a mapping, got list"),
    ]
    for grads, error, message in wrong:
        with pytest.raises(error, match=message):
            opt.step(grads)
    assert all(np.array_equal(v, before[n][k]) for n, layer in layers.items() for k, v in layer.params.items())
    assert all(np.array_equal(value, state[key]) for key, value in opt.state_dict().items())

    for broken, message in [
        ({**state, "a.weight.speed": state["a.weight.exp_avg"]}, "speed"),
        ({k: v for k, v in state.items() if k != "a.weight.exp_avg_sq"}, "'a.weight.exp_avg_sq', which is missing"),
        ({**state, "a.bias.exp_avg": np.zeros(3, np.float32)}, r"state_dict\['a.bias.exp_avg'\]: expected shape"),
        ({**state, "a.bias.step": np.array(0)}, r"state_dict\['a.bias.step'\]: expected values in"),
    ]:
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict(broken)
    assert all(np.array_equal(value, state[key]) for key, value in opt.state_dict().items())


def test_optimizers_name_a_wrong_argument():
    layer = train.Linear(2, 2)
    with pytest.raises(TypeError, match="layers: expected a layer with params and update, got int"):
        train.Adam(3)
    with pytest.raises(TypeError, match=r"layers\['x'\]: expected a layer"):
        train.SGD({"x": None})
    with pytest.raises(ValueError, match=r"layers: .* empty"):
        train.SGD({})
    with pytest.raises(ValueError, match=r"lr: .* got -1"):
        train.Adam(layer, lr=-1)
    with pytest.raises(ValueError, match=r"betas\[1\]: .* got 1"):
        train.Adam(layer, betas=(0.9, 1.0))
    with pytest.raises(TypeError, match="eps: expected a number, got str"):
        train.Adam(layer, eps="1e-8")
    with pytest.raises(ValueError, match="nesterov: expected a momentum above 0"):
        train.SGD(layer, nesterov=True)
    opt = train.SGD(layer)
    with pytest.raises(ValueError, match=r"lr: .* got nan"):
        opt.lr = math.nan
