"""Structures of every kind with their data, and their judge: the same walk a second time, on rnnkern.reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import rnnkern as rk
from rnnkern import reference
from rnnkern.structure import InitialState, Merge, Pyramid, PyramidalLSTM, Stack
from rnnkern.train import Linear

Array = np.ndarray[Any, Any]
T, B, IN = 7, 4, 3
LENGTHS = np.array([5, 0, 7, 2])
D: dict[str, Any] = {"dtype": "float64"}
TWO: dict[str, Any] = {"dtype": "float64", "bidirectional": True}


def flat(state: Any) -> Iterator[Array]:
    """The arrays of a nested state."""
    if isinstance(state, tuple):
        for part in state:
            yield from flat(part)
    elif state is not None:  # a layer without a state
        yield state


def like(state: Any, arrays: Iterator[Array]) -> Any:
    if isinstance(state, tuple):
        return tuple(like(part, arrays) for part in state)
    return None if state is None else next(arrays)


def randomised(m: Any, seed: int = 9) -> Any:
    """The same with parameters that are all random (initial states start as zeros) and not small."""
    rng = np.random.default_rng(seed)
    m.update({name: (0.7 * rng.standard_normal(value.shape)).astype(value.dtype) for name, value in m.params.items()})
    return m


def problem(m: Any, seed: int = 1) -> tuple[Array, Any, Array, Any]:
    """x, state, dy, dstate."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((T, B, m.input_size)).astype(m.dtype)
    y, state = m(x)
    random = [rng.standard_normal(part.shape).astype(part.dtype) for part in (*flat(state), y, *flat(state))]
    count = len(list(flat(state)))
    return x, like(state, iter(random[:count])), random[count], like(state, iter(random[count + 1 :]))


# --- against the reference: a structure is walked a second time, in NumPy ---------------------------------------------


def alive(steps: int, lengths: Array | None) -> Array:
    """[T, B, 1]: which steps are before their row's end."""
    ends = np.full(B, steps) if lengths is None else lengths
    return (np.arange(steps)[:, None] < ends)[..., None]


def judge(m: Any, x: Array, state: Any, lengths: Array | None, call: int = 0) -> tuple[Array, Any, Any]:
    """-> y, state, and a function (dy, dstate) -> (dx, dstate_0, gradients by name)."""
    if isinstance(m, Stack):
        return judge_stack(m, x, state, lengths, call)
    if isinstance(m, Merge):
        y, finals, back = judge(m._parts[0], x, state, lengths)
        f, r = np.split(y, 2, axis=2)
        one = np.ones_like(f)
        y, by_f, by_r = {
            "concat": (y, None, None),
            "sum": (f + r, one, one),
            "mean": (f / 2 + r / 2, one / 2, one / 2),
            "mul": (f * r, r, f),
        }[m.mode]
        return y, finals, lambda dy, dn: back(dy if by_f is None else np.concatenate([dy * by_f, dy * by_r], 2), dn)
    if isinstance(m, Pyramid):
        padded = np.concatenate([np.where(alive(len(x), lengths), x, 0), np.zeros((len(x) % 2, *x.shape[1:]))])
        halved = None if lengths is None else -(-lengths // 2)
        y, finals, back = judge(m._parts[0], np.concatenate([padded[0::2], padded[1::2]], axis=2), state, halved)

        def apart(dy: Array, dn: Any) -> Any:
            dx, *rest = back(dy, dn)
            steps = [half for pair in dx for half in np.split(pair, 2, axis=1)][: len(x)]
            return (np.where(alive(len(x), lengths), np.stack(steps), 0), *rest)

        return y, finals, apart
    if isinstance(m, InitialState):
        return judge_initial(m, x, state, lengths)
    if isinstance(m, Linear):
        return judge_linear(m, x, lengths)
    states = state if isinstance(state, tuple) else (state, None)
    names = {name: m.params[name] for name in m.params if name[:2] not in ("h_", "c_")}
    y, h, c, saved = reference.stack(
        m.spec.cell, names, x, *states, lengths, num_layers=m.num_layers, bidirectional=m.bidirectional
    )

    def back(dy: Array, dn: Any) -> Any:
        grads = reference.stack_backward(saved, dy, *(dn if isinstance(dn, tuple) else (dn, None)))
        starts = tuple(grads.pop(name) for name in ("h_0", "c_0") if name in grads)
        return grads.pop("x"), starts if c is not None else starts[0], grads

    return y, h if c is None else (h, c), back


def judge_linear(m: Linear, x: Array, lengths: Array | None) -> tuple[Array, Any, Any]:
    inside = alive(len(x), lengths)
    x = np.where(inside, x, 0)

    def back(dy: Array, dn: Any) -> Any:
        dy = np.where(inside, dy, 0)
        dW = np.einsum("tbo,tbi->oi", dy, x)
        return np.einsum("tbo,oi->tbi", dy, m.params["weight"]), None, {"weight": dW, "bias": dy.sum(axis=(0, 1))}

    y = np.einsum("tbi,oi->tbo", x, m.params["weight"]) + m.params["bias"]
    return np.where(inside, y, 0), None, back


def judge_stack(m: Stack, x: Array, state: Any, lengths: Array | None, call: int) -> tuple[Array, Any, Any]:
    finals, backs = [], []
    for k, part in enumerate(m.layers):
        y, final, back = judge(part, x, None if state is None else state[k], lengths)
        lengths = lengths if lengths is None or not hasattr(part, "halvings") else -(-lengths // 2**part.halvings)
        kept = None
        if m.dropout and k + 1 < len(m.layers):
            kept = reference.dropout_kept(y.shape, m.dropout, m._seed, call, k) & alive(len(y), lengths)
        inside = alive(len(y), lengths)
        x = reference.thin(y, kept, m.dropout) + (np.where(inside, x, 0) if m.residual[k] else 0)
        finals.append(final)
        backs.append((back, kept, inside))

    def all_back(dy: Array, dn: Any) -> Any:
        starts, grads = [], {}
        for k in reversed(range(len(backs))):
            back, kept, inside = backs[k]
            dx, start, own = back(reference.thin(dy, kept, m.dropout), dn[k])
            dy = dx + np.where(inside, dy, 0) if m.residual[k] else dx
            starts.insert(0, start)
            grads |= {f"{k}.{name}": value for name, value in own.items()}
        return dy, tuple(starts), grads

    return x, tuple(finals), all_back


def judge_initial(m: InitialState, x: Array, state: Any, lengths: Array | None) -> tuple[Array, Any, Any]:
    kinds = [kind for kind in ("h_0", "c_0") if f"{kind}_l0" in m.params]
    own = [[name for name in m.params if name.startswith(kind)] for kind in kinds]
    if state is None:
        parts = [np.stack([np.tile(m.params[name], (B, 1)) for name in names]) for names in own]
        start = tuple(parts) if len(parts) == 2 else parts[0]
    y, finals, back = judge(m._parts[0], x, start if state is None else state, lengths)

    def all_back(dy: Array, dn: Any) -> Any:
        dx, starts, grads = back(dy, dn)
        for names, part in zip(own, flat(starts), strict=True):
            for name, value in zip(names, part, strict=True):
                grads[name] = sum(value) if state is None else np.zeros(value.shape[1])
        return dx, starts, grads

    return y, finals, all_back


STRUCTURES: dict[str, Any] = {
    "stack": lambda: Stack(rk.LSTM(IN, 5, **D), rk.GRU(5, 4, num_layers=2, **D), rk.RNN(4, 2, **TWO)),
    "residual": lambda: Stack(rk.LSTM(4, 4, **D), rk.GRU(4, 2, **TWO), rk.RNN(4, 4, **D), residual=True),
    "one residual": lambda: Stack(
        rk.LSTM(IN, 4, **D), rk.GRU(4, 4, **D), rk.RNN(4, 2, **D), residual=[False, True, False]
    ),
    "dropout": lambda: Stack(
        rk.LSTM(4, 4, **D), rk.GRU(4, 4, **D), rk.RNN(4, 4, **D), residual=True, dropout=0.4, seed=5
    ),
    "dropped all": lambda: Stack(rk.GRU(IN, 4, **D), rk.RNN(4, 4, **D), dropout=1.0, seed=5),
    "model": lambda: Stack(
        Linear(IN, 4, **D), rk.GRU(4, 4, **D), Linear(4, 4, **D), rk.RNN(4, 2, **TWO), Linear(4, 5, **D),
        residual=[False, True, True, False, False], dropout=0.4, seed=5,
    ),
    "halved": lambda: Stack(rk.RNN(IN, 4, **D), Pyramid(Linear(8, 4, **D)), rk.RNN(4, 2, **D)),
    "concat": lambda: Merge(rk.LSTM(IN, 4, **TWO)),
    "sum": lambda: Merge(rk.LSTM(IN, 4, **TWO), "sum"),
    "mean": lambda: Merge(rk.GRU(IN, 4, **TWO), "mean"),
    "mul": lambda: Merge(rk.RNN(IN, 4, **TWO), "mul"),
    "pyramid": lambda: Pyramid(rk.GRU(2 * IN, 4, num_layers=2, **D)),
    "pyramidal": lambda: PyramidalLSTM(IN, 3, 2, **D, seed=2),
    "one way": lambda: PyramidalLSTM(IN, 3, 2, bidirectional=False, dropout=0.3, **D, seed=2),
    "listener": lambda: Stack(rk.LSTM(IN, 2, **TWO), PyramidalLSTM(4, 2, 2, dropout=0.2, **D, seed=3)),
    "initial": lambda: InitialState(rk.LSTM(IN, 4, num_layers=2, **TWO)),
    "initial h": lambda: InitialState(rk.GRU(IN, 4, **D)),
    "nested": lambda: Stack(
        Merge(InitialState(rk.LSTM(IN, 4, **TWO)), "mul"),
        InitialState(Pyramid(rk.GRU(8, 6, **D))),
        Stack(rk.RNN(6, 6, **D), Merge(rk.GRU(6, 6, **TWO), "mean"), residual=True, dropout=0.5, seed=1),
        residual=[False, False, True],
    ),
}  # fmt: skip
