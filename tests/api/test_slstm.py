"""sLSTM from outside: the paper's sums without a stabiliser, rk.sLSTM against the judge, one step at a time, errors.

Kernels, options, splits and torch's transforms have it in their own tests, as every cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rnnkern as rk
import rnnkern.torch as rt
from layer_cases import IN, LENGTHS, B, H, T, error
from problems import smooth_slstm
from rnnkern import reference

Array = np.ndarray[Any, Any]
EPS = float(np.finfo(np.float64).eps)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"heads": 3, "num_layers": 2},
    {"bias": False, "reverse": True},
    {"batch_first": True, "recompute": True},
]


def state_of(layer: Any, batch: int, rng: np.random.Generator, dtype: Any = None) -> tuple[Array, ...]:
    """(h, c, n, m), n being a sum of exponentials."""
    shape = (layer.num_layers * layer.spec.directions, batch, H)
    h, c, n, m = (rng.standard_normal(shape).astype(dtype or layer.dtype) for _ in range(4))
    return h.astype(layer.dtype), c, np.abs(n) + n.dtype.type(0.5), m


def problem(layer: Any, seed: int) -> tuple[Array, tuple[Array, ...], Array, tuple[Array, ...]]:
    """x, state, dy, dstate in the layer's layout."""
    rng = np.random.default_rng(seed)
    shape = (B, T) if layer.batch_first else (T, B)
    x, dy = (rng.standard_normal((*shape, k)).astype(layer.dtype) for k in (IN, layer.spec.directions * H))
    dstate = tuple(rng.standard_normal(s.shape).astype(layer.dtype) for s in state_of(layer, B, rng))
    return x, state_of(layer, B, rng), dy, dstate


def judge(layer: Any, x: Array, state: Any, lengths: Any, dy: Array, dstate: Any) -> dict[str, Array]:
    spec, wide = layer.spec, np.longdouble if layer.dtype == np.float64 else np.float64
    h, c = (state[0], np.concatenate(state[1:], -1)) if state else (None, None)
    params = {name: value.astype(wide) for name, value in layer.params.items()}
    y, h_n, c_n, saved = reference.stack(
        "slstm", params, x.astype(wide), h, c, lengths, num_layers=spec.num_layers, bidirectional=spec.bidirectional,
        reverse=spec.reverse, options=reference.Options(heads=spec.options.heads), train=False,
    )  # fmt: skip
    grads = reference.stack_backward(saved, dy.astype(wide), dstate[0], np.concatenate(dstate[1:], -1))
    return {"y": y, "state": (h_n, *np.split(c_n, 3, -1)), "dx": grads.pop("x"),
            "dstate": (grads.pop("h_0"), *np.split(grads.pop("c_0"), 3, -1))} | grads  # fmt: skip


# --- what it is -------------------------------------------------------------------------------------------------------


def test_it_is_the_papers_sum_of_exponentials() -> None:
    """h = o C / N with C = f C' + exp(v_i) z and N = f N' + exp(v_i), which need no stabiliser in a few steps."""
    rng = np.random.default_rng(0)
    shapes = reference.parameter_shapes("slstm", reference.Options(), IN, H)
    params = {name: rng.standard_normal(shape) / 2 for name, shape in shapes.items()}
    x, h = rng.standard_normal((T, B, IN)), np.zeros((B, H))
    C, N = np.zeros((2, B, H))
    y, _, c_n, _ = reference.layer("slstm", params, x)
    assert c_n is not None
    for t in range(T):
        v = x[t] @ params["weight_ih"].T + h @ params["weight_hh"].T + params["bias_ih"] + params["bias_hh"]
        vi, vf, vz, vo = np.split(v, 4, axis=1)
        f, o = 1 / (1 + np.exp(-vf)), 1 / (1 + np.exp(-vo))
        C, N = f * C + np.exp(vi) * np.tanh(vz), f * N + np.exp(vi)
        h = o * C / N
        assert np.abs(y[t] - h).max() <= 64 * EPS
    c, n, m = np.split(c_n, 3, axis=1)
    for kept, whole in ((c, C), (n, N)):
        assert np.abs(kept * np.exp(m) - whole).max() <= 256 * EPS * np.abs(whole).max()
    assert n.min() >= 1


@pytest.mark.parametrize("start", [0.0, 40.0])
def test_large_gates_do_not_overflow(start: float) -> None:
    """Input gates of exp(300) and forget gates of exp(-300), and a first step whose m_0 is far above it."""
    layer = rk.sLSTM(IN, H, dtype="float32", seed=0)
    x, _, dy, _ = problem(layer, 0)
    zero = np.zeros((1, B, H), np.float32)
    state = (zero, zero, zero, zero + np.float32(start))
    for bias in ((300, -300), (-300, 300), (300, 300), (-300, -300)):
        layer.update({"bias_ih_l0": np.repeat(np.float32([*bias, 0, 0]), H)})
        y, after, tape = layer.forward(x, state)
        grads = layer.backward(tape, dy)
        everything = [y, *after, grads.x, *grads.state, *grads.params.values()]
        assert all(np.isfinite(value).all() for value in everything)
        assert np.abs(y).max() <= 1, "h is a mean of values in (-1, 1) times a gate"
        wanted = judge(layer, x, state, None, dy, tuple(np.zeros_like(s) for s in after))
        # v is 300, of which a rounding is 300 eps: so far is an exponent off.
        assert error(y, wanted["y"]) <= 300 * 8 * np.finfo(np.float32).eps


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS, np.array([0, 7, 2, 0])], ids=["full", "lengths", "empty rows"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_step_against_the_judge(dtype: str, options: dict[str, Any], lengths: Any) -> None:
    """Some forty roundings a step, of sums of some thirty terms, through T steps and two layers."""
    layer = rk.sLSTM(IN, H, **options, dtype=dtype, seed=1)
    x, state, dy, dstate = problem(layer, 0)
    y, after, tape = layer.forward(x, state, lengths=lengths)
    major = (lambda a: a.swapaxes(0, 1)) if layer.batch_first else (lambda a: a)
    if dtype == "float32":  # whose m may stand on the other side of a maximum
        cells = np.concatenate([np.float64(a) for a in after[1:]], -1)
        joined = np.concatenate(dstate[1:], -1)
        smooth_slstm(None, joined, cells, H)
        dstate = (dstate[0], *np.split(joined, 3, -1))
    grads = layer.backward(tape, dy, dstate)
    wanted = judge(layer, major(x), state, lengths, major(dy), dstate)
    bound = 256 * float(np.finfo(dtype).eps)
    got = {"y": major(y), "state": after, "dx": major(grads.x), "dstate": grads.state, **grads.params}
    assert got.keys() == wanted.keys()
    for name, value in got.items():
        for one, other in (
            zip(value, wanted[name], strict=True) if isinstance(value, tuple) else [(value, wanted[name])]
        ):
            assert one.dtype == layer.dtype and one.shape == other.shape, name
            assert np.abs(one - other).max() <= bound * max(1.0, float(np.abs(other).max())), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_streaming_gives_the_bits_of_the_whole(dtype: str) -> None:
    """In pieces, unbatched, and step by step in place; c, n and m are float32 for the half types."""
    layer, cell = rk.sLSTM(IN, H, heads=3, dtype=dtype, seed=0), rk.sLSTMCell(IN, H, heads=3, dtype=dtype, seed=0)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.params.items()})
    wide = np.float32
    x, state, _, _ = problem(layer, 0)
    state = (state[0], *(s.astype(wide) for s in state[1:]))
    whole, final = layer(x, state)
    assert [s.dtype for s in final] == [layer.dtype, wide, wide, wide]
    part, pieces = state, []
    for start, stop in ((0, 1), (1, 4), (4, 4), (4, T)):
        y, part = layer(x[start:stop], part)
        pieces.append(y)
    assert np.array_equal(np.concatenate(pieces), whole)
    single = layer(x[:, 1], tuple(s[:, 1] for s in state))
    assert np.array_equal(single[0], whole[:, 1])
    assert all(np.array_equal(a, b[:, 1]) for a, b in zip(single[1], final, strict=True))
    carried = tuple(s[0].copy() for s in state)
    for t in range(T):
        fresh = cell(x[t], carried)
        assert cell.step_(x[t], carried) is carried
        assert all(map(np.array_equal, fresh, carried)) and np.array_equal(carried[0], whole[t])
    assert all(np.array_equal(a, b) and np.array_equal(a, c[0]) for a, b, c in zip(carried, fresh, final, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_stored_beside_a_c(dtype: str) -> None:
    """n_0 = 0 with c_0 and m_0 that are not: v_i alone is the stabiliser, f at most 1 and there without a slope.

    The judge's gradients of c_0, m_0 and x by differences first (n_0 has none: its zero is a jump), then the kernel's.
    """
    layer = rk.sLSTM(IN, H, dtype=dtype, seed=0)
    x, state, dy, dstate = problem(layer, 3)
    state = (state[0], state[1], np.zeros_like(state[2]), state[3] * layer.dtype.type(3))  # above and below v_i
    wanted = judge(layer, x, state, None, dy, dstate)
    params = {name.removesuffix("_l0"): value.astype(np.float64) for name, value in layer.params.items()}

    def loss(x: Array, c_0: Array, m_0: Array) -> float:
        cells = np.concatenate([c_0[0], state[2][0], m_0[0]], -1)
        y, h_n, c_n, _ = reference.layer("slstm", params, x, state[0][0], cells)
        assert c_n is not None
        return float((y * dy).sum() + (h_n * dstate[0][0]).sum() + (c_n * np.concatenate(dstate[1:], -1)[0]).sum())

    values = [a.astype(np.float64) for a in (x, state[1], state[3])]
    slopes = (wanted["dx"], wanted["dstate"][1], wanted["dstate"][3])
    tested = bounded = 0
    for which, slope in enumerate(slopes):
        for index in [tuple(i) for i in np.argwhere(np.ones(values[which].shape, bool))][::3]:
            moved = [[v.copy() for v in values] for _ in range(2)]
            moved[0][which][index] += 1e-6
            moved[1][which][index] -= 1e-6
            difference = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
            assert abs(difference - float(slope[index])) <= 1e-6 * max(1.0, abs(difference)), (which, index)
            tested, bounded = tested + (which == 2), bounded + (which == 2 and slope[index] == 0)
    assert 0 < bounded < tested, "some of m_0 lie above v_i, some below"

    y, after, tape = layer.forward(x, state)
    grads = layer.backward(tape, dy, dstate)
    bound = 256 * float(np.finfo(dtype).eps)
    got = {"y": y, "state": after, "dx": grads.x, "dstate": grads.state, **grads.params}
    for name, value in got.items():
        for one, other in (
            zip(value, wanted[name], strict=True) if isinstance(value, tuple) else [(value, wanted[name])]
        ):
            assert np.abs(one - other).max() <= bound * max(1.0, float(np.abs(other).max())), name


def test_a_step_in_place_of_mixed_libraries() -> None:
    """x of one library, the state of others, bfloat16 too: the values of the plain call."""
    for dtype, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        cell = rk.sLSTMCell(IN, H, dtype=dtype, seed=0)
        x = torch.randn(B, IN).to(kind)
        state = [torch.randn(B, H).to(kind), *(torch.rand(B, H) + 0.5 for _ in range(3))]
        wanted = cell(x, tuple(state))
        mixed = (state[0].clone(), state[1].numpy().copy(), state[2].clone(), state[3].numpy().copy())
        assert cell.step_(x, mixed) is mixed
        assert all(np.array_equal(np.asarray(a.float() if hasattr(a, "float") else a),
                                  np.asarray(b.float() if hasattr(b, "float") else b))
                   for a, b in zip(mixed, wanted, strict=True))  # fmt: skip


def test_learned_initial_state() -> None:
    """h_0, c_0, m_0 beside an n_0 of 1; their gradients are the judge's, summed over the rows."""
    layer = rk.sLSTM(IN, H, dtype="float64", seed=0)
    learner = rk.InitialState(layer)
    assert {"h_0_l0", "c_0_l0", "m_0_l0"} <= set(learner.params) and "n_0_l0" not in learner.params
    x, _, dy, _ = problem(layer, 0)
    for values in ({}, {"h_0_l0": np.full(H, 0.3), "c_0_l0": np.linspace(-1, 1, H), "m_0_l0": np.linspace(-2, 2, H)}):
        learner.update(values)
        y, _, tape = learner.forward(x)
        grads = learner.backward(tape, dy).params
        rows = [np.broadcast_to(learner.params[f"{s}_0_l0"] if s != "n" else np.ones(H), (1, B, H)) for s in "hcnm"]
        nothing = tuple(np.zeros((1, B, H)) for _ in range(4))
        wanted = judge(layer, x, tuple(rows), None, dy, nothing)
        assert np.abs(y - wanted["y"]).max() <= 64 * EPS
        for letter, slope in zip("hcnm", wanted["dstate"], strict=True):
            if letter != "n":
                mine = grads[f"{letter}_0_l0"]
                assert np.abs(mine - slope[0].sum(0)).max() <= 256 * EPS * max(1.0, float(np.abs(slope).max())), letter


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_modules_carry_what_is_behind_h_in_float32(dtype: torch.dtype) -> None:
    """So that pieces have the bits of the whole, and gradients go with them; autocast too. A half state is taken."""
    module, cell = rt.sLSTM(IN, H, dtype=dtype), rt.sLSTMCell(IN, H, dtype=dtype)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})
    x = torch.randn(T, B, IN).to(dtype)
    whole, final = module(x)
    assert [s.dtype for s in final] == [dtype] + [torch.float32] * 3
    assert all(s.is_contiguous() and s._base is None for s in final)
    first, state = module(x[:3])
    second, after = module(x[3:], state)
    assert torch.equal(torch.cat((first, second)), whole) and all(map(torch.equal, after, final))
    hx: Any = None
    for t in range(T):
        hx = cell(x[t], hx)
        assert torch.equal(hx[0], whole[t])
    assert all(torch.equal(a, b[0]) for a, b in zip(hx, final, strict=True))
    narrow = tuple(s.detach().to(dtype).requires_grad_() for s in state)
    module(x[3:], narrow)[0].float().square().sum().backward()
    assert all(s.grad is not None and s.grad.dtype == dtype and s.grad.abs().sum() > 0 for s in narrow)
    wide = rt.sLSTM(IN, H)
    wide.load_state_dict({name: value.float() for name, value in module.state_dict().items()})
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", dtype=dtype):
            again, last = wide(x.float())
            piece = wide(x[3:].float(), wide(x[:3].float())[1])[0]
        assert torch.equal(again, whole) and last[1].dtype == torch.float32 and torch.equal(piece, whole[3:])


def test_the_torch_module_is_the_layer() -> None:
    """Its state of four, and PackedSequence."""
    module, layer = rt.sLSTM(IN, H, 2), rk.sLSTM(IN, H, 2, seed=0)
    layer.load_state_dict(dict(module.state_dict()))
    x, state, _, _ = problem(layer, 0)
    y, after = module(torch.from_numpy(x), tuple(map(torch.from_numpy, state)))
    wanted, finals = layer(x, state)
    assert np.array_equal(y.detach(), wanted)
    assert all(np.array_equal(a.detach(), b) for a, b in zip(after, finals, strict=True))
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(x), torch.from_numpy(LENGTHS), enforce_sorted=False
    )
    got, after = module(packed, tuple(map(torch.from_numpy, state)))
    padded = torch.nn.utils.rnn.pad_packed_sequence(got, total_length=T)[0]
    wanted, finals = layer(x, state, lengths=LENGTHS)
    assert np.array_equal(padded.detach(), wanted)
    assert all(np.array_equal(a.detach(), b) for a, b in zip(after, finals, strict=True))


# --- errors -----------------------------------------------------------------------------------------------------------


def test_what_it_does_not_have_is_refused() -> None:
    for keywords in ({"clip": 1.0}, {"layer_norm": True}, {"peephole": True}, {"activations": ("tanh",)}):
        with pytest.raises(TypeError, match=next(iter(keywords))):
            rk.sLSTM(IN, H, **keywords)
    with pytest.raises(ValueError, match="zoneout: sLSTM's c does not stand alone"):
        rk.sLSTM(IN, H, zoneout=(0.1, 0.1))
    with pytest.raises(ValueError, match="heads: expected a divisor of hidden_size 9, got 2"):
        rk.sLSTM(IN, H, heads=2)
    layer = rk.sLSTM(IN, H, seed=0)
    x, state, _, _ = problem(layer, 0)
    with pytest.raises(TypeError, match=r"state: expected a tuple of four arrays \(h, c, n, m\), got 2 of them"):
        layer(x, state[:2])
    with pytest.raises(TypeError, match="got None for n"):
        layer(x, (*state[:2], None, state[3]))
    with pytest.raises(
        ValueError, match=r"state\[3\] \(m\): expected shape \[L\*D, B, H\] = \[1, 4, 9\], got \[1, 4, 8\]"
    ):
        layer(x, (*state[:3], state[3][..., 1:]))
    with pytest.raises(RuntimeError, match=r"expected hx to be a tuple \(h_0, c_0, n_0, m_0\), got 2 of them"):
        rt.sLSTM(IN, H)(torch.from_numpy(x), tuple(map(torch.from_numpy, state[:2])))
    with pytest.raises(ValueError, match=r"out: expected memory of its own, got an array that overlaps state\[2\]"):
        layer(x[:1], state, out=state[2])
    with pytest.raises(ValueError, match="chrono: expected an LSTM or a GRU"):
        rk.init.initialise(layer, chrono=10)
    with pytest.raises(RuntimeError, match="sLSTMCell: expected four hidden states, got 1"):
        rt.sLSTMCell(IN, H)(torch.from_numpy(x[0]), (torch.from_numpy(state[0][0]),))
