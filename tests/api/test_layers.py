"""rk.RNN, rk.GRU, rk.LSTM: results against the judge and torch.nn over every option."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import rnnkern as rk
from layer_cases import IN, KINDS, LENGTHS, OPTIONS, H, T, error, judge, problem, run_torch, state_of, step


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_step_is_as_accurate_as_torch(kind: str, dtype: str, options: dict[str, Any], lengths: Any) -> None:
    """Every output and gradient within 4x torch's own error plus 4 eps. A tensor of few elements may be lucky in one
    draw, so the worst of four draws is held against the worst of torch's."""
    ours, theirs = KINDS[kind]
    worst: dict[str, list[float]] = {}
    for draw in range(4):
        layer = ours(IN, H, **options, dtype=dtype, seed=draw)
        module = theirs(IN, H, **options, dtype=getattr(torch, dtype))
        x, state, dy, dstate = problem(layer, draw)
        got = step(layer, x, state, lengths, dy, dstate)
        torchs = run_torch(layer, module, x, state, lengths, dy, dstate)
        major = (lambda a: a.swapaxes(0, 1)) if layer.batch_first else (lambda a: a)
        truth = judge(layer, major(x), state, lengths, major(dy), dstate)
        assert got.keys() == torchs.keys() == truth.keys()
        for name, value in got.items():
            assert value.dtype == layer.dtype and value.shape == torchs[name].shape
            wanted = major(truth[name]) if name in ("y", "dx") else truth[name]
            ours_theirs = worst.setdefault(name, [0.0, 0.0])
            ours_theirs[0] = max(ours_theirs[0], error(value, wanted))
            ours_theirs[1] = max(ours_theirs[1], error(torchs[name], wanted))
    for name, (mine, torchs_error) in worst.items():
        bound = 4 * torchs_error + 4 * np.finfo(dtype).eps
        assert mine <= bound, f"{name}: error {mine:.3g}, allowed {bound:.3g}"


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_draws_the_documented_masks(kind: str, bidirectional: bool) -> None:
    """The mask of training call k is the judge's Philox mask of (seed, k); train=False and calling draw none."""
    layer = KINDS[kind][0](IN, H, 3, dropout=0.4, bidirectional=bidirectional, dtype="float64", seed=2**63 + 5)
    x, state, dy, dstate = problem(layer, 0)
    plain = layer(x, state)[0]
    assert np.array_equal(layer.forward(x, state, train=False)[0], plain)
    assert layer.call == 0
    growth = (
        64 * np.finfo(np.float64).eps
    )  # a sum of some 30 terms at each of 7 steps and 3 layers, against 4 eps for one
    for call in (0, 1):
        got = step(layer, x, state, LENGTHS, dy, dstate)
        truth = judge(layer, x, state, LENGTHS, dy, dstate, seed=layer.seed, call=call)
        for name, value in got.items():
            assert error(value, truth[name]) <= growth, name
    assert layer.call == 2
    layer.call = 0
    again = step(layer, x, state, LENGTHS, dy, dstate)
    layer.call = 0
    assert all(np.array_equal(value, again[name]) for name, value in step(layer, x, state, LENGTHS, dy, dstate).items())
    assert not np.array_equal(layer.forward(x, state)[0], plain)


@pytest.mark.parametrize("kind", KINDS)
def test_full_dropout_cuts_the_stack(kind: str) -> None:
    layer = KINDS[kind][0](IN, H, 2, dropout=1.0, dtype="float64", seed=0)
    x, state, dy, _ = problem(layer, 0)
    _, _, tape = layer.forward(x, state)
    grads = layer.backward(tape, dy)
    assert not grads.x.any() and not grads.params["weight_ih_l1"].any() and grads.params["weight_hh_l1"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_and_batch_first_are_views_of_the_same_bits(kind: str) -> None:
    layer, first = (KINDS[kind][0](IN, H, 2, bidirectional=True, batch_first=flag, seed=0) for flag in (False, True))
    x, state, dy, dstate = problem(layer, 0)
    whole = step(layer, x, state, LENGTHS, dy, dstate)
    turned = step(first, x.swapaxes(0, 1).copy(), state, LENGTHS, dy.swapaxes(0, 1).copy(), dstate)
    for name, value in whole.items():
        other = turned[name].swapaxes(0, 1) if name in ("y", "dx") else turned[name]
        assert np.array_equal(value, other), name

    def row(s: Any) -> Any:
        return tuple(part[:, 1] for part in s) if isinstance(s, tuple) else s[:, 1]

    single = step(layer, x[:, 1], row(state), LENGTHS[1], dy[:, 1], row(dstate))
    for name in single.keys() - {name for name in single if "weight" in name or "bias" in name}:
        assert np.array_equal(single[name], whole[name][:, 1]), name


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_gives_the_bits_of_the_whole(kind: str) -> None:
    """Also in bfloat16, whose carried c is float32 for that reason; and a tape changes no bit."""
    for dtype in ("float32", "bfloat16"):
        layer = KINDS[kind][0](IN, H, 2, dtype=dtype, seed=0)
        x, state, _, _ = problem(layer, 0)
        whole, finals = layer(x, state)
        assert np.array_equal(layer.forward(x, state)[0], whole)
        pieces = []
        for start, stop in ((0, 1), (1, 4), (4, 4), (4, T)):
            y, state = layer(x[start:stop], state)
            pieces.append(y)
        assert np.array_equal(np.concatenate(pieces), whole)
        assert all(np.array_equal(a, b) for a, b in zip(np.atleast_2d(state), np.atleast_2d(finals), strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_types(kind: str, dtype: str) -> None:
    """h, y, dx and parameter gradients in the layer's dtype, c_n and gradients of states in float32; values as good as
    rounding each stored h allows: T steps of one half-unit rounding each, in two layers."""
    layer = KINDS[kind][0](IN, H, 2, dtype=dtype, seed=0)
    x, state, dy, dstate = problem(layer, 0, np.float32)
    got = step(layer, x, state, LENGTHS, dy, dstate)
    truth = judge(layer, x, state, LENGTHS, dy, dstate)
    for name, value in got.items():
        assert value.dtype == (np.float32 if name == "c_n" or name.endswith("_d0") else layer.dtype), name
        assert error(value.astype(np.float64), truth[name]) <= 4 * T * float(ml_dtypes.finfo(layer.dtype).eps), name
    if kind == "lstm":  # both dtypes are accepted for c_0, and agree where the values do
        h_0, c_0 = state
        assert np.array_equal(layer(x, (h_0, c_0))[0], layer(x, (h_0, c_0.astype(np.float32)))[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0), ((1 << 40) - 1, 0)], ids=str)
def test_empty_inputs_give_empty_results(kind: str, shape: tuple[int, int]) -> None:
    layer = KINDS[kind][0](IN, H, 2, bidirectional=True, dropout=0.5, seed=0)
    state = state_of(layer, shape[1], np.random.default_rng(0))
    y, finals, tape = layer.forward(np.zeros((*shape, IN), np.float32), state)
    assert y.shape == (*shape, 2 * H)
    assert all(np.array_equal(a, b) for a, b in zip(np.atleast_2d(finals), np.atleast_2d(state), strict=True))
    grads = layer.backward(tape, np.zeros_like(y), state)
    assert grads.x.shape == (*shape, IN)
    assert all(np.array_equal(a, b) for a, b in zip(np.atleast_2d(grads.state), np.atleast_2d(state), strict=True))
    assert {name: g.shape for name, g in grads.params.items()} == {name: p.shape for name, p in layer.params.items()}
    assert not any(g.any() for g in grads.params.values())


def test_padding_may_hold_anything() -> None:
    layer = rk.LSTM(IN, H, 2, bidirectional=True, seed=0)
    x, state, dy, dstate = problem(layer, 0)
    lengths = np.array([3, 7, 0, 5])
    clean = step(layer, x, state, lengths, dy, dstate)
    past = np.arange(T)[:, None] >= lengths
    x[past], dy[past] = np.nan, np.inf
    dirty = step(layer, x, state, lengths, dy, dstate)
    assert all(np.array_equal(value, dirty[name]) for name, value in clean.items())
    assert not clean["y"][past].any() and not clean["dx"][past].any()
    assert np.array_equal(clean["h_n"][:, 2], state[0][:, 2]) and np.array_equal(clean["c_d0"][:, 2], dstate[1][:, 2])
    for kind in (list, np.int32, np.uint8):
        same = lengths.tolist() if kind is list else lengths.astype(kind)
        assert np.array_equal(layer(x, state, lengths=same)[0], clean["y"])


@pytest.mark.parametrize("batch_first", [False, True])
def test_strided_read_only_and_unaligned_inputs(batch_first: bool) -> None:
    layer = rk.GRU(IN, H, batch_first=batch_first, seed=0)
    x, state, _, _ = problem(layer, 0)
    wanted = layer(x, state)[0]
    gaps = np.full((*x.shape[:2], 3 * IN), np.nan, np.float32)[..., ::3]
    gaps[...] = x
    turned = x[::-1, :, ::-1].copy()[::-1, :, ::-1]  # negative strides
    record = np.zeros(x.shape, np.dtype([("pad", np.int8), ("x", np.float32)]))["x"]  # strides of 5 bytes
    record[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    for odd in (gaps, turned, record, read_only, np.asfortranarray(x)):
        assert np.array_equal(layer(odd, state)[0], wanted)
        y, _, tape = layer.forward(odd, state)
        assert np.array_equal(y, wanted)
        layer.backward(tape, np.ones_like(y))  # the content check reads odd layouts too
