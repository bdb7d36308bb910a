"""How far a result may be from the judge (rnnkern.reference): for every tensor, at most

    4 * (the error torch.nn itself makes in the same dtype on the same problem) + 4 eps

where the error of a tensor is its largest absolute difference from the judge over the judge's largest magnitude. For
cells torch does not have the bound is 4 eps times ``growth``, in half types relative to at least 1. A float64 problem
is judged in numpy.longdouble.

A tensor of a few elements can be lucky: its sums cancel or they do not. Small problems are therefore drawn several
times, and the worst error of the kernel is held against the worst error of torch.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from problems import CELLS, HALF, Array, Data, Problem, eps, make
from rnnkern import reference

_TORCH: dict[str, Any] = {
    "rnn_tanh": functools.partial(torch.nn.RNN, nonlinearity="tanh"),
    "rnn_relu": functools.partial(torch.nn.RNN, nonlinearity="relu"),
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
}
_TORCH_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def draws(problem: Problem) -> int:
    """4 below 64 state elements, else 1."""
    return 4 if problem.batch * problem.hidden_size < 64 else 1


def growth(problem: Problem) -> float:
    """For the linear cell, whose errors are those of its sums; n independent roundings grow like sqrt(n).

    A state is rounded at each of T steps, and each state is a sum of K = I + H + 2 terms, an element of dW one of T*B;
    for half types the sums are made in float32, and only the T steps are rounded to the half type.
    """
    T, B, K = problem.seq_len, problem.batch, problem.input_size + problem.hidden_size + 2
    return float(T**0.5 if problem.dtype in HALF else (T * max(K, T * B)) ** 0.5)


def error(got: Array, wanted: Array) -> float:
    """max |got - wanted| / max |wanted|; 0 for two tensors of zeros (or of no elements), NaN if got has one."""
    if wanted.size == 0:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        gap, scale = np.max(np.abs(got.astype(wanted.dtype) - wanted)), np.max(np.abs(wanted))
        return 0.0 if gap == 0 else float(gap / scale)


def truth(problem: Problem, draw: int, y: Array | None = None) -> dict[str, Array]:
    """Every result of a training step, from the judge. y: the result under test, for ``judge``."""
    return judge(problem, make(problem, draw), y) if problem.cell == "rnn_relu" else _truth(problem, draw)


@functools.lru_cache(maxsize=16)
def _truth(problem: Problem, draw: int) -> dict[str, Array]:
    return judge(problem, make(problem, draw))


def judge(problem: Problem, data: Data, y_got: Array | None = None) -> dict[str, Array]:
    """The same for given data.

    relu has a kink: where rounding moves a unit from one side of 0 to the other, its slope is 0 or 1: both are right.
    The gradients of ``rnn_relu`` are those of the sides that y_got is on (y itself is held to its bound as ever).
    """
    wide = np.longdouble if problem.dtype == "float64" else np.float64
    params = {name.removesuffix("_l0"): value.astype(wide) for name, value in data.params.items()}
    y, h_n, c_n, saved = reference.layer(
        problem.cell, params, data.x, data.first("h_0"), data.first("c_0"), data.lengths, reverse=problem.has("reverse")
    )
    if problem.cell == "rnn_relu" and y_got is not None:
        sides = [(t, rows, (*tape[:2], y_got[t, rows].astype(wide))) for t, rows, tape in saved.steps]
        saved = replace(saved, steps=sides)
    grads = reference.layer_backward(saved, data.dy, data.first("dh_n"), data.first("dc_n"))
    results = {"y": y, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
    return results | {f"d{name}": value for name, value in grads.items()}


@functools.lru_cache(maxsize=64)
def allowed(problem: Problem) -> dict[str, float]:
    """The bound for each result."""
    names = truth(problem, 0).keys()
    if problem.cell not in _TORCH:
        bound = 4 * eps(problem) * growth(problem)
        if problem.dtype not in HALF and problem.cell != "slstm":  # whose c, n and m cancel in a gradient of h
            return dict.fromkeys(names, bound)
        # A kernel may round the gradients of pre-activations, which are of size 1, before it sums them: where they
        # cancel, the error is relative to them, not to their sum.
        sizes = [truth(problem, draw) for draw in range(draws(problem))]
        least = {name: min(float(np.max(np.abs(t[name]), initial=0.0)) for t in sizes) for name in names}
        return {name: bound / min(1.0, least[name]) if least[name] > 0 else bound for name in names}
    worst = dict.fromkeys(names, 0.0)
    for draw in range(draws(problem)):
        got = run_torch(problem, make(problem, draw))
        wanted = truth(problem, draw, got["y"])
        worst = {name: max(worst[name], error(got[name], wanted[name])) for name in names}
    return {name: 4 * worst[name] + 4 * eps(problem) for name in names}


def run_torch(problem: Problem, data: Data) -> dict[str, Array]:
    """The same training step on torch.nn, in the problem's dtype.

    Rows of length zero are left out (torch refuses them; they are copies), and a reverse direction is a forward one on
    rows that are turned round.
    """
    T, B, H = problem.seq_len, problem.batch, problem.hidden_size
    ends = np.full(B, T) if data.lengths is None else data.lengths
    rows = np.flatnonzero(ends)
    module = _TORCH[problem.cell](problem.input_size, H, bias=not problem.has("nobias")).to(
        _TORCH_DTYPES[problem.dtype]
    )
    module.load_state_dict({name: _tensor(value) for name, value in data.params.items()})
    turned = [_turn(a, ends) if problem.has("reverse") else a for a in (data.x, data.dy)]
    x, dy = (_tensor(a[:, rows]).to(_TORCH_DTYPES[problem.dtype]) for a in turned)
    x.requires_grad_()
    states = [
        (_tensor(s[:, rows]) if s is not None else torch.zeros(1, len(rows), H)).to(x.dtype).requires_grad_()
        for s in (data.h_0, data.c_0)[: CELLS[problem.cell][1]]
    ]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(ends[rows]), enforce_sorted=False)
    output, finals = module(x if data.lengths is None else packed, tuple(states) if len(states) == 2 else states[0])
    y = output if data.lengths is None else torch.nn.utils.rnn.pad_packed_sequence(output, total_length=T)[0]
    finals = finals if len(states) == 2 else (finals,)
    dfinals = [_tensor(s[:, rows]).to(x.dtype) for s in (data.dh_n, data.dc_n) if s is not None]
    torch.autograd.backward([y, *finals], [dy, *dfinals])

    results: dict[str, Array] = {"y": np.zeros((T, B, H)), "dx": np.zeros((T, B, problem.input_size))}
    for name, value in (("y", y), ("dx", x.grad)):
        results[name][:, rows] = _numpy(value)
        if problem.has("reverse"):
            results[name] = _turn(results[name], ends)
    for letter, state, final in zip("hc", states, finals, strict=False):
        start, dfinal = data.first(f"{letter}_0"), data.first(f"d{letter}_n")
        for name, default, value in ((f"{letter}_n", start, final[0]), (f"d{letter}_0", dfinal, state.grad)):
            results[name] = np.zeros((B, H)) if default is None else default.astype(np.float64)
            results[name][rows] = _numpy(value).reshape(len(rows), H)
    for name, value in module.named_parameters():
        results[f"d{name.removesuffix('_l0')}"] = _numpy(value.grad)
    return results


def _tensor(array: Array) -> torch.Tensor:
    """A copy; through float64, exact for every dtype, because torch does not read NumPy's bfloat16."""
    return torch.from_numpy(array.astype(np.float64))


def _numpy(tensor: torch.Tensor | None) -> Array:
    assert tensor is not None, "torch made no gradient"
    array: Array = tensor.detach().double().numpy()
    return array


def _turn(array: Array, ends: Array) -> Array:
    """[T, B, K] with the first ends[b] steps of each row in the opposite order."""
    out = array.copy()
    for b, end in enumerate(ends):
        out[:end, b] = array[:end, b][::-1]
    return out


# --- comparisons -------------------------------------------------------------


def close(problem: Problem, got: dict[str, Array], wanted: dict[str, Array], bounds: dict[str, float]) -> None:
    """Fails with every tensor that is further off than its bound."""
    errors = {name: error(value, wanted[name]) for name, value in got.items()}
    wrong = [
        f"{name}: error {e:.3g}, allowed {bounds[name]:.3g}" for name, e in errors.items() if not e <= bounds[name]
    ]
    assert not wrong, f"{problem}: " + "; ".join(wrong)


def equal(got: dict[str, Array], wanted: dict[str, Array]) -> None:
    """Fails with every tensor that is not the exact result, rounded once to its dtype."""
    wrong = [name for name, value in got.items() if not np.array_equal(value, wanted[name].astype(value.dtype))]
    assert not wrong, f"not exact: {', '.join(wrong)}"


def inactive_is_zero(data: Data, got: dict[str, Array]) -> None:
    """y and dx past a row's end are 0; a row of length zero returns its state, and its gradient, unchanged."""
    assert data.lengths is not None
    for b, end in enumerate(data.lengths):
        assert not got["y"][end:, b].any() and not got["dx"][end:, b].any(), f"row {b} is not zero past its end {end}"
    none = data.lengths == 0
    for letter, start in (("h", data.h_0), ("c", data.c_0)):
        if f"{letter}_n" in got:
            final, dfinal = got[f"{letter}_n"][none], data.dh_n if letter == "h" else data.dc_n
            assert dfinal is not None
            assert np.array_equal(final, np.zeros_like(final) if start is None else start[0][none])
            assert np.array_equal(got[f"d{letter}_0"][none], dfinal[0][none])
