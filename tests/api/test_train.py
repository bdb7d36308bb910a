"""rnnkern.train's loss and clipping against torch, and a whole training loop around each layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import rnnkern as rk
from numeric import DIFFERENCES, EPS, differences, near
from rnnkern import train


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def torch_loss(logits, targets, valid):
    leaf = torch.tensor(logits.astype(np.float64), requires_grad=True)
    codes = torch.tensor(np.where(valid, targets, -100).astype(np.int64))
    loss = torch.nn.functional.cross_entropy(leaf.flatten(0, -2), codes.flatten(), ignore_index=-100)
    loss.backward()
    return loss.item(), leaf.grad.numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ["all", "lengths", "lengths batch_first", "mask"])
def test_cross_entropy_is_torchs(rng, dtype, how):
    T, B, V = 6, 4, 5
    lengths = np.array([6, 0, 3, 1])
    logits, targets = 3 * rng.standard_normal((T, B, V)).astype(dtype), rng.integers(0, V, (T, B))
    valid = {"all": np.ones((T, B), bool), "mask": rng.random((T, B)) < 0.5}.get(how, np.arange(T)[:, None] < lengths)
    options = {"mask": {"mask": valid}, "all": {}}.get(how, {"lengths": lengths})
    want_loss, want = torch_loss(logits, targets, valid)
    if "batch_first" in how:
        logits, targets, want = logits.transpose(1, 0, 2), targets.T, want.transpose(1, 0, 2)
        options["batch_first"] = True
    loss, dlogits = train.softmax_cross_entropy(logits, targets, **options)
    assert isinstance(loss, float) and dlogits.dtype == dtype
    # exp and log are good to a few eps, relative to logits of magnitude up to 12; then sums of V terms
    assert abs(loss - want_loss) <= 32 * EPS[dtype] * max(1, want_loss)
    near(dlogits, want, 32 * EPS[dtype])


def test_cross_entropy_gradient_is_that_of_finite_differences(rng):
    logits, targets = rng.standard_normal((4, 3, 5)), rng.integers(0, 5, (4, 3))
    options = {"lengths": np.array([4, 0, 2])}
    _, dlogits = train.softmax_cross_entropy(logits, targets, **options)
    near(dlogits, differences(lambda v: train.softmax_cross_entropy(v, targets, **options)[0], logits), DIFFERENCES)


def test_what_stands_in_padding_never_matters(rng):
    logits, targets = rng.standard_normal((5, 3, 4)).astype(np.float32), rng.integers(0, 4, (5, 3))
    lengths = np.array([2, 5, 0], np.uint8)
    want = train.softmax_cross_entropy(logits, targets, lengths=lengths)
    padding = np.arange(5)[:, None] >= lengths
    logits[padding], targets[padding] = np.nan, -100
    loss, dlogits = train.softmax_cross_entropy(logits, targets, lengths=lengths.tolist())
    assert loss == want[0] and np.array_equal(dlogits, want[1])
    assert not dlogits[padding].any()
    loss, dlogits = train.softmax_cross_entropy(logits, targets, lengths=np.zeros(3, int))
    assert loss == 0.0 and dlogits.shape == logits.shape and not dlogits.any()
    loss, dlogits = train.softmax_cross_entropy(logits[:0], targets[:0])
    assert loss == 0.0 and dlogits.shape == (0, 3, 4)


def test_large_logits_do_not_overflow_and_nan_passes_through():
    loss, dlogits = train.softmax_cross_entropy(np.array([[1e30, -1e30, -np.inf]], np.float32), np.array([0]))
    assert loss == 0.0 and not dlogits.any()
    loss, dlogits = train.softmax_cross_entropy(np.array([[np.nan, 0.0], [0.0, 0.0]]), np.array([0, 1]))
    assert math.isnan(loss) and np.isnan(dlogits[0]).all() and np.array_equal(dlogits[1], [0.25, -0.25])


def test_cross_entropy_names_a_wrong_argument():
    logits, targets = np.zeros((4, 2, 3), np.float32), np.zeros((4, 2), int)
    wrong = [
        ((logits.astype(np.float16), targets, {}), TypeError, "logits: expected dtype float32 or float64, got float16"),
        ((logits.tolist(), targets, {}), TypeError, "logits: expected a NumPy array"),
        ((logits, targets[:3], {}), ValueError, r"targets: expected shape \[4, 2\], got \[3, 2\]"),
        ((logits, targets.astype(float), {}), TypeError, "targets: expected an integer dtype, got float64"),
        ((logits, targets + 3, {}), ValueError, r"targets: expected values in \[0, 2\] in valid steps, got 3"),
        ((logits, targets - 1, {}), ValueError, r"targets: .* got -1"),
        (
            (logits, targets, {"lengths": np.array([5, 0])}),
            ValueError,
            r"lengths\[0\]: expected 0 <= length <= T = 4, got 5",
        ),
        (
            (logits, targets, {"lengths": np.array([1])}),
            ValueError,
            r"lengths: expected shape \[B\] = \[2\], got \[1\]",
        ),
        ((logits, targets, {"mask": targets}), TypeError, "mask: expected dtype bool"),
        ((logits, targets, {"mask": targets > 0, "lengths": targets[0]}), ValueError, "mask: .* got both"),
        ((logits[0], targets[0], {"lengths": targets[0]}), ValueError, "lengths: expected logits of shape"),
    ]
    for (a, b, options), error, message in wrong:
        with pytest.raises(error, match=message):
            train.softmax_cross_entropy(a, b, **options)


def some_grads(rng, dtype="float64"):
    return {
        "rnn": {"weight": rng.standard_normal((4, 3)).astype(dtype), "bias": rng.standard_normal(4).astype(dtype)},
        "out": {"weight": rng.standard_normal((2, 4)).astype(dtype)},
    }


def leaves(grads):
    return [value for layer in grads.values() for value in layer.values()]


def as_parameters(grads):
    out = []
    for value in leaves(grads):
        parameter = torch.nn.Parameter(torch.zeros(value.shape, dtype=torch.float64))
        parameter.grad = torch.tensor(value.astype(np.float64))
        out.append(parameter)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_clip_grad_norm_is_torchs(rng, dtype, norm_type, max_norm):
    grads = some_grads(rng, dtype)
    before = [value.copy() for value in leaves(grads)]
    judge = as_parameters(grads)
    want = float(torch.nn.utils.clip_grad_norm_(judge, max_norm, norm_type))
    clipped, norm = train.clip_grad_norm(grads, max_norm, norm_type)
    assert abs(norm - want) <= 64 * EPS["float64"] * want  # summed in float64 whatever the dtype; powers cost a few eps
    assert {name: list(layer) for name, layer in clipped.items()} == {"rnn": ["weight", "bias"], "out": ["weight"]}
    for got, parameter, old, given in zip(leaves(clipped), judge, before, leaves(grads), strict=True):
        near(got, parameter.grad.numpy(), 64 * EPS[dtype])
        assert got.dtype == dtype and np.array_equal(given, old)  # arguments are not written to


def test_clip_grad_value_is_torchs(rng):
    grads = some_grads(rng)
    judge = as_parameters(grads)
    torch.nn.utils.clip_grad_value_(judge, 0.3)
    before = [value.copy() for value in leaves(grads)]
    clipped = train.clip_grad_value(grads, 0.3)
    for got, parameter, old, given in zip(leaves(clipped), judge, before, leaves(grads), strict=True):
        assert np.array_equal(got, parameter.grad.numpy()) and np.array_equal(given, old)


def test_clipping_at_the_edges_of_float32():
    huge = {"w": np.full(4, 1e30, np.float32)}  # the square of 1e30 is no float32
    clipped, norm = train.clip_grad_norm(huge, 1.0)
    assert abs(norm - 2 * float(np.float32(1e30))) <= 4 * EPS["float64"] * norm
    near(clipped["w"], np.full(4, 0.5), 4 * EPS["float32"])
    bad = {"w": np.array([1.0, np.nan])}
    assert np.isnan(train.clip_grad_norm(bad, 1.0)[1])
    with pytest.raises(ValueError, match="grads: expected a finite norm, got nan"):
        train.clip_grad_norm(bad, 1.0, error_if_nonfinite=True)
    assert train.clip_grad_norm({}, 1.0) == ({}, 0.0)


def test_clipping_names_a_wrong_argument():
    grads = {"w": np.ones(2)}
    with pytest.raises(ValueError, match=r"max_norm: .* got -1"):
        train.clip_grad_norm(grads, -1)
    with pytest.raises(ValueError, match=r"norm_type: .* got 0"):
        train.clip_grad_norm(grads, 1, 0)
    with pytest.raises(TypeError, match=r"grads: expected a mapping of names to arrays, got list"):
        train.clip_grad_value([grads], 1)
    with pytest.raises(TypeError, match=r"grads\['rnn'\]\['w'\]: expected a floating-point dtype, got int64"):
        train.clip_grad_value({"rnn": {"w": np.ones(2, np.int64)}}, 1)
    with pytest.raises(ValueError, match=r"clip_value: .* got nan"):
        train.clip_grad_value(grads, math.nan)


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_a_layer_learns_to_recall_the_first_of_a_ragged_row(cell):
    """Name the first symbol at the end of each row: only carried state and BPTT through all of it can do that."""
    rng = np.random.default_rng(0)
    symbols, batch, longest = 4, 16, 8
    embed = train.Embedding(symbols, 8, seed=1)
    rnn = getattr(rk, cell)(8, 24, seed=2)
    out = train.Linear(24, symbols, seed=3)
    opt = train.Adam({"embed": embed, "rnn": rnn, "out": out}, lr=1e-2)
    losses = []
    for _ in range(150):
        codes = rng.integers(0, symbols, (longest, batch))
        lengths = rng.integers(1, longest + 1, batch)
        last = np.arange(longest)[:, None] == lengths - 1
        x, tape_x = embed.forward(codes)
        y, _, tape_y = rnn.forward(x, lengths=lengths)
        logits, tape_out = out.forward(y)
        loss, dlogits = train.softmax_cross_entropy(logits, np.broadcast_to(codes[0], codes.shape), mask=last)
        g_out = out.backward(tape_out, dlogits)
        g_rnn = rnn.backward(tape_y, g_out.x)
        g_embed = embed.backward(tape_x, g_rnn.x)
        grads, _ = train.clip_grad_norm({"embed": g_embed.params, "rnn": g_rnn.params, "out": g_out.params}, 1.0)
        opt.step(grads)
        losses.append(loss)
    assert np.mean(losses[:5]) > 0.9 * math.log(symbols)  # it starts by guessing
    assert np.mean(losses[-10:]) < 0.2 * math.log(symbols)  # and ends far below
