"""rnnkern.flashrnn against the equations of the package, written down anew in float64, and under torch's transforms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rnnkern.flashrnn import flashrnn

FUNCTIONS = {"lstm": (4, 4, 4, 2), "slstm": (4, 4, 4, 4), "gru": (3, 3, 4, 1), "elman": (1, 1, 1, 1)}
B, T = 3, 9
# Two orders of the same few hundred operations in each of 9 steps; in gradients, sums over all steps and rows besides.
EPS = torch.finfo(torch.float64).eps
CLOSE = {"rtol": 1024 * EPS, "atol": 256 * EPS}
CLOSE_GRADIENTS = {"rtol": 2**16 * EPS, "atol": 1024 * EPS}


def step(function: str, wx: Tensor, r: Tensor, b: Tensor, states: list[Tensor]) -> list[Tensor]:
    """flashrnn/vanilla. wx [B, G, N, D], r = R h of the same form."""
    if function == "elman":
        return [torch.tanh(wx[:, 0] + r[:, 0] + b[0])]
    if function == "gru":
        reset, update = (torch.sigmoid(wx[:, i] + r[:, i + 1] + b[i + 1]) for i in range(2))
        new = torch.tanh(wx[:, 2] + b[3] + reset * (r[:, 0] + b[0]))
        return [update * states[0] + (1 - update) * new]
    i, f, z, o = (wx + r + b).unbind(1)
    if function == "lstm":
        c = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(z)
        return [torch.sigmoid(o) * torch.tanh(c), c]
    _, c, n, m = states
    kept = torch.nn.functional.logsigmoid(f) + m
    after = torch.where((n == 0).all(), i, torch.maximum(i, kept))
    entry, stays = torch.exp(i - after), torch.exp(kept - after)
    c = stays * c + entry * torch.tanh(z)
    n = torch.maximum(stays * n + entry, torch.ones_like(n))
    return [torch.sigmoid(o) * c / n, c, n, after]


def reference(function: str, Wx: Tensor, R: Tensor, b: Tensor, states: Tensor | None) -> tuple[Tensor, Tensor]:
    """h of every step [B, T, N, D], the last states [S, B, 1, N, D]."""
    count = FUNCTIONS[function][3]
    zeros = Wx.new_zeros((B, *Wx.shape[3:]))
    now = [zeros] * count if states is None else list(states[:, :, 0].unbind(0))
    every = []
    for t in range(T):
        now = step(function, Wx[:, t], torch.einsum("ghdp,bhp->bghd", R, now[0]), b, now)
        every.append(now[0])
    return torch.stack(every, 1), torch.stack(now)[:, :, None]


def problem(function: str, heads: int, units: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    gates_w, gates_r, gates_b, count = FUNCTIONS[function]
    rng = torch.Generator().manual_seed(heads * 100 + units)
    shapes = ((B, T, gates_w, heads, units), (gates_r, heads, units, units), (gates_b, heads, units))
    tensors = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    tensors[1] /= units**0.5
    states = torch.randn((count, B, 1, heads, units), generator=rng, dtype=torch.float64) / 2
    if function == "slstm":
        states[2] = states[2].abs() + 1.5
    return tuple(t.to(dtype).requires_grad_() for t in (*tensors, states))


@pytest.mark.parametrize("given_states", [False, True])
@pytest.mark.parametrize("sizes", [(1, 5), (2, 8), (3, 17)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_answers_and_gradients(function: str, sizes: tuple[int, int], given_states: bool) -> None:
    *tensors, states = problem(function, *sizes)
    given = states if given_states else None
    wanted, wanted_last = reference(function, *tensors, given)
    every, last = flashrnn(*tensors, given, function=function, backend="cuda_fused", dtype="bfloat16")
    torch.testing.assert_close(every[0], wanted, **CLOSE)
    torch.testing.assert_close(last, wanted_last, **CLOSE)
    assert len(every) == FUNCTIONS[function][3]
    rng = torch.Generator().manual_seed(1)
    dy = torch.randn(wanted.shape, generator=rng, dtype=wanted.dtype)
    dlast = torch.randn(last.shape, generator=rng, dtype=wanted.dtype)
    leaves = [*tensors, *([states] if given_states else [])]
    expected = torch.autograd.grad((wanted, wanted_last), leaves, (dy, dlast))
    found = torch.autograd.grad((every[0], last), leaves, (dy, dlast))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE_GRADIENTS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_pieces(function: str) -> None:
    Wx, R, b, _ = problem(function, 2, 6, torch.float32)
    with torch.no_grad():
        whole, last = flashrnn(Wx, R, b, function=function)
        first, state = flashrnn(Wx[:, :4], R, b, function=function)
        second, end = flashrnn(Wx[:, 4:], R, b, state, function=function)
    assert torch.equal(torch.cat([first[0], second[0]], 1), whole[0])
    assert torch.equal(end, last)


@pytest.mark.parametrize("function", ["slstm", "gru"])
def test_transforms(function: str) -> None:
    Wx, R, b, _ = problem(function, 2, 4)
    eager = flashrnn(Wx, R, b, function=function)[0][0]

    def loss(Wx: Tensor, R: Tensor, b: Tensor) -> Tensor:
        return flashrnn(Wx, R, b, function=function)[0][0].sum()

    expected = torch.autograd.grad(eager.sum(), (Wx, R, b))
    for one, other in zip(torch.func.grad(loss, (0, 1, 2))(Wx, R, b), expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE_GRADIENTS)
    mapped = torch.func.vmap(lambda wx: flashrnn(wx, R, b, function=function)[0][0])(torch.stack([Wx, 2 * Wx]))
    torch.testing.assert_close(mapped[0], eager, **CLOSE)
    assert torch.autograd.gradcheck(loss, (Wx, R, b))
    small = [t.detach()[:1, :2].requires_grad_() if i == 0 else t for i, t in enumerate((Wx, R, b))]
    assert torch.autograd.gradgradcheck(loss, small)


def test_vmap_over_states() -> None:
    Wx, R, b, states = (t.detach() for t in problem("slstm", 2, 4))
    both = torch.stack([states, 2 * states])
    mapped = torch.func.vmap(lambda s: flashrnn(Wx, R, b, s, function="slstm")[1])(both)
    for one, given in zip(mapped, both, strict=True):
        torch.testing.assert_close(one, flashrnn(Wx, R, b, given, function="slstm")[1], **CLOSE)


def test_compiled() -> None:
    tensors = problem("slstm", 2, 4)
    compiled = torch.compile(lambda *t: flashrnn(*t, function="slstm")[0][0], backend="aot_eager", fullgraph=True)
    y, wanted = compiled(*tensors), flashrnn(*tensors, function="slstm")[0][0]
    torch.testing.assert_close(y, wanted, **CLOSE)
    gradients = (torch.autograd.grad(each.sum(), tensors) for each in (y, wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, **CLOSE_GRADIENTS)


def test_states_of_zeros() -> None:
    """The package bounds no F where n = 0; with c = 0 that does not show, but in gradients of c and n it does."""
    Wx, R, b, states = (t.detach() for t in problem("slstm", 2, 4))
    zeros = torch.zeros_like(states)
    assert torch.equal(flashrnn(Wx, R, b, zeros, function="slstm")[1], flashrnn(Wx, R, b, function="slstm")[1])
    zeros[0], zeros[3] = states[0], states[3]
    y, last = reference("slstm", Wx, R, b, zeros)
    found, end = flashrnn(Wx, R, b, zeros, function="slstm")
    torch.testing.assert_close(found[0], y, **CLOSE)
    torch.testing.assert_close(end, last, **CLOSE)
    with pytest.raises(NotImplementedError, match="in states that need no gradient"):
        flashrnn(Wx, R, b, zeros.requires_grad_(), function="slstm")
    with torch.no_grad():
        flashrnn(Wx, R, b, zeros, function="slstm")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_steps_or_no_rows(function: str) -> None:
    Wx, R, b, states = (t.detach() for t in problem(function, 2, 4))
    every, last = flashrnn(Wx[:, :0], R, b, states, function=function)
    assert every[0].shape == (B, 0, 2, 4) and torch.equal(last, states)
    every, last = flashrnn(Wx[:0], R, b, function=function)
    assert every[0].shape == (0, T, 2, 4) and last.shape == (FUNCTIONS[function][3], 0, 1, 2, 4)


def test_autocast() -> None:
    Wx, R, b, states = (t.detach() for t in problem("lstm", 2, 8, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        every, last = flashrnn(Wx.bfloat16(), R, b, states)
    wanted, end = flashrnn(*(t.bfloat16() for t in (Wx, R, b, states)))
    assert torch.equal(every[0], wanted[0]) and torch.equal(last, end)


@pytest.mark.parametrize("function", ["lstm", "slstm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(dtype: torch.dtype, function: str) -> None:
    tensors = problem(function, 2, 8, dtype)
    every, last = flashrnn(*tensors, function=function)
    assert every[0].dtype == last.dtype == dtype
    wanted = reference(function, *(t.detach().double() for t in tensors))[0]
    assert (every[0].double() - wanted).abs().max() < 16 * torch.finfo(dtype).eps  # h is rounded at each of 9 steps


def test_bad_input() -> None:
    Wx, R, b, states = (t.detach() for t in problem("slstm", 2, 4))
    with pytest.raises(ValueError, match="function: expected one of lstm, slstm, gru, elman, got 'rwkv'"):
        flashrnn(Wx, R, b, function="rwkv")
    with pytest.raises(ValueError, match=r"Wx: expected \[B, T, 3, N, D\], got \[3, 9, 4, 2, 4\]"):
        flashrnn(Wx, R, b, function="gru")
    with pytest.raises(ValueError, match=r"R: expected \[4, 2, 4, 4\]"):
        flashrnn(Wx, R[:, :1], b, function="slstm")
    with pytest.raises(ValueError, match=r"states: expected \[2, 3, 1, 2, 4\], got \[4, 3, 1, 2, 4\]"):
        flashrnn(Wx, R, b, states)
    with pytest.raises(TypeError, match=r"R: expected the dtype of Wx, torch.float64, got torch.float32"):
        flashrnn(Wx, R.float(), b)
    with pytest.raises(TypeError, match="b: expected a tensor, got list"):
        flashrnn(Wx, R, [1.0])  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="config: expected None"):
        flashrnn(Wx, R, b, config={})
    with pytest.raises(ValueError, match="backend: expected one of vanilla"):
        flashrnn(Wx, R, b, backend="numpy")
    bad = states.clone()
    bad[2, 1] = 0.5
    with pytest.raises(NotImplementedError, match=r"n, states\[2\], to be at least 1 everywhere"):
        flashrnn(Wx, R, b, bad, function="slstm")
    with pytest.raises(NotImplementedError, match=r"states\[1\]: the kernels give h of every step"):
        flashrnn(Wx, R, b)[0][1]
