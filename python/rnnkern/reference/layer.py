"""One layer in one direction: the walk over steps, and all that surrounds a step.

That is lengths, masks and resets, which entries of R are parameters (``heads``, ``independent``), recurrent dropout and
zoneout. A step itself is cells.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arrays import Array, Params, wide
from .cells import Cell, Elman, Gru, GruBefore, Lstm, Slstm
from .masks import recurrent_kept, thin, zoneout_held
from .options import Options, check_params

_MAKE: dict[str, Callable[[Options], Cell]] = {
    "linear": lambda options: Elman("linear", options),
    "rnn_tanh": lambda options: Elman("rnn_tanh", options),
    "rnn_relu": lambda options: Elman("rnn_relu", options),
    "lstm": lambda options: Lstm("lstm", options),
    "gru": lambda options: Gru("gru", options) if options.reset_after else GruBefore("gru", options),
    "slstm": lambda options: Slstm("slstm", options),
}
CELLS: dict[str, Cell] = {name: make(Options()) for name, make in _MAKE.items()}


@dataclass(frozen=True)
class Drawn:
    """What the random masks of one call select; None: there is none."""

    kept: Array | None = None  # bool [B, P]: of h' in the recurrent product
    held_h: Array | None = None  # bool [T, B, P]: h stays what it was
    held_c: Array | None = None  # bool [T, B, H]


@dataclass(frozen=True)
class Saved:
    """What ``layer_backward`` needs: the steps in the order they ran, each with its time, its rows and its tape."""

    cell: Cell
    params: dict[str, Array]  # widened, with zeros for absent biases, and R as a full matrix [G*H, P]
    names: tuple[str, ...]  # the parameters the caller gave, whose gradients are due
    x_shape: tuple[int, int, int]
    steps: list[tuple[int, Array, Any]]
    cut: Array  # bool [T, B]: where the state was set to zero before the step
    options: Options = field(default_factory=Options)
    drawn: Drawn = field(default_factory=Drawn)

    @property
    def hidden_size(self) -> int:
        return int(self.params["weight_ih"].shape[0]) // self.cell.gates


def layer(
    cell: str,
    params: Params,
    x: Array,
    h_0: Array | None = None,
    c_0: Array | None = None,
    lengths: Sequence[int] | Array | None = None,
    reverse: bool = False,
    *,
    options: Options = Options(),  # noqa: B008 -- it is immutable
    mask: Array | None = None,
    reset: Array | None = None,
    random: tuple[int, int, int, int] | None = None,
) -> tuple[Array, Array, Array | None, Saved]:
    """One layer in one direction: x [T, B, I] -> y [T, B, P], h_n [B, P], c_n [B, H] or None, and the tape.

    c is all of the state but h: of sLSTM c n m side by side, [B, 3*H].
    params: ``parameter_shapes`` says which; biases (and beta_c) may be absent. Absent states are zero.

    Row b has ``lengths[b]`` valid steps (T if None); its y is zero after them. Forward, its final state is the one
    after its last valid step; with ``reverse`` it starts at its last valid step and ends at step 0. A row of length 0
    keeps its initial state.

    mask, bool [T, B]: where it is False the state is held, y is zero and x is not read. reset, bool [T, B]: where it is
    True the state is zero before the step is taken, in the order of the walk, whether the step is masked or not. In a
    row's padding neither is read.

    random: (seed, call, stream, first_step) draws the masks of zoneout and recurrent dropout, the counter's t being
    first_step + t. None: inference, where recurrent dropout is off and zoneout mixes, h = z*h' + (1 - z)*h.
    """
    check_params(cell, options, params)
    kind = _MAKE[cell](options)
    p = {name: wide(value) for name, value in params.items()}
    dtype = np.result_type(wide(x), *p.values())
    p = {name: value.astype(dtype) for name, value in p.items()}
    gate_units, hidden = p["weight_ih"].shape[0], p["weight_ih"].shape[0] // kind.gates
    width = p["weight_hr"].shape[0] if "weight_hr" in p else hidden
    absent = {"bias_ih": gate_units, "bias_hh": gate_units} | ({"beta_c": hidden} if options.layer_norm else {})
    p = {name: np.zeros(size, dtype) for name, size in absent.items()} | p
    p["weight_hh"] = _full(p["weight_hh"], options, kind.gates, hidden, width)

    seq_len, batch, _ = x.shape
    valid = _marks("lengths", _before(lengths, seq_len, batch), x)
    runs = valid if mask is None else valid & _marks("mask", mask, x)
    cut = np.zeros_like(valid) if reset is None else valid & _marks("reset", reset, x)
    drawn = _draw(options, random, (seq_len, batch, width), (seq_len, batch, hidden))
    z_h, z_c = dtype.type(options.zoneout[0]), dtype.type(options.zoneout[1])

    cells = max(1, kind.states - 1) * hidden
    h = np.zeros((batch, width), dtype) if h_0 is None else wide(h_0).astype(dtype)
    c = np.zeros((batch, cells), dtype) if c_0 is None else wide(c_0).astype(dtype)
    y = np.zeros((seq_len, batch, width), dtype)
    steps = []
    for t in reversed(range(seq_len)) if reverse else range(seq_len):
        h[cut[t]], c[cut[t]] = 0, 0
        rows = np.flatnonzero(runs[t])
        h_old, c_old = h[rows], c[rows]
        u = thin(h_old, _at(drawn.kept, rows), options.recurrent_dropout)
        h_new, c_new, tape = kind.forward(p, wide(x[t, rows]), h_old, u, c_old)
        h[rows] = _zoneout(h_old, h_new, z_h, _at(drawn.held_h, t, rows))
        c[rows] = _zoneout(c_old, c_new, z_c, _at(drawn.held_c, t, rows))
        y[t, rows] = h[rows]
        steps.append((t, rows, tape))
    saved = Saved(kind, p, tuple(params), x.shape, steps, cut, options, drawn)
    return y, h, c if kind.states > 1 else None, saved


def layer_backward(
    saved: Saved, dy: Array | None, dh_n: Array | None = None, dc_n: Array | None = None
) -> dict[str, Array]:
    """BPTT: gradients of ``sum(y*dy) + sum(h_n*dh_n) + sum(c_n*dc_n)``, what is absent being zero.

    Returns ``x`` [T, B, I], ``h_0`` [B, P], ``c_0`` [B, H] where the cell has one, and every parameter given to
    ``layer``. dy is not read where y is zero by definition.
    """
    p, options, drawn, hidden = saved.params, saved.options, saved.drawn, saved.hidden_size
    batch, width = saved.x_shape[1], p["weight_hh"].shape[1]
    dtype = np.result_type(*p.values())
    z_h, z_c = dtype.type(options.zoneout[0]), dtype.type(options.zoneout[1])
    dh = np.zeros((batch, width), dtype) if dh_n is None else wide(dh_n).astype(dtype)
    cells = max(1, saved.cell.states - 1) * hidden
    dc = np.zeros((batch, cells), dtype) if dc_n is None else wide(dc_n).astype(dtype)
    dx = np.zeros(saved.x_shape, dtype)
    grads = {name: np.zeros(p[name].shape, dtype) for name in p}
    for t, rows, tape in reversed(saved.steps):
        dh_t = dh[rows] if dy is None else dh[rows] + wide(dy[t, rows])
        dh_old, dh_new = _zoneout_backward(dh_t, z_h, _at(drawn.held_h, t, rows))
        dc_old, dc_new = _zoneout_backward(dc[rows], z_c, _at(drawn.held_c, t, rows))
        step = saved.cell.backward(p, tape, dh_new, dc_new)
        dx[t, rows] = step.x
        dh[rows] = dh_old + step.h + thin(step.u, _at(drawn.kept, rows), options.recurrent_dropout)
        dc[rows] = dc_old + step.c
        dh[saved.cut[t]], dc[saved.cut[t]] = 0, 0
        for name, value in step.params.items():
            grads[name] += value
    grads["weight_hh"] = _parameters_of(grads["weight_hh"], options, saved.cell.gates, hidden, width)
    out = {"x": dx, "h_0": dh} | ({"c_0": dc} if saved.cell.states > 1 else {})
    return out | {name: grads[name] for name in saved.names}


def nearest_kink(saved: Saved) -> float:
    """The smallest distance of any activation's input from a kink of it (``Activation.kinks``): inf where none has one.

    A result that is off by more may stand on the other side, where another slope is right.
    """
    return min(
        (
            float(np.abs(v - kink).min(initial=np.inf))
            for _, _, tape in saved.steps
            for activation, v in saved.cell.activated(saved.params, tape)
            for kink in activation.kinks()
        ),
        default=np.inf,
    )


def _before(lengths: Sequence[int] | Array | None, seq_len: int, batch: int) -> Array:
    """bool [T, B]: the valid steps."""
    ends = np.full(batch, seq_len) if lengths is None else np.asarray(lengths)
    return np.arange(seq_len)[:, None] < ends


def _marks(name: str, marks: Array, x: Array) -> Array:
    marks = np.asarray(marks)
    if marks.dtype != bool or marks.shape != x.shape[:2]:
        raise ValueError(f"{name}: expected bool {x.shape[:2]}, got {marks.dtype} {marks.shape}")
    return marks


def _at(marks: Array | None, *index: Any) -> Array | None:
    return None if marks is None else marks[index]


def _draw(
    options: Options, random: tuple[int, int, int, int] | None, h_shape: Sequence[int], c_shape: Sequence[int]
) -> Drawn:
    if random is None:
        return Drawn()
    (z_h, z_c), p = options.zoneout, options.recurrent_dropout
    return Drawn(
        recurrent_kept(h_shape[1:], p, *random[:3]) if p else None,
        zoneout_held(h_shape, z_h, "h", *random) if z_h else None,
        zoneout_held(c_shape, z_c, "c", *random) if z_c else None,
    )


def _zoneout(old: Array, new: Array, z: Any, held: Array | None) -> Array:
    """Krueger et al. 2016, arXiv 1606.01305: the old value where it is held; without a draw, the expectation."""
    if held is not None:
        return np.where(held, old, new)
    return z * old + (1 - z) * new if z else new


def _zoneout_backward(d: Array, z: Any, held: Array | None) -> tuple[Array, Array]:
    """The gradients of the old and of the new value."""
    if held is not None:
        return np.where(held, d, 0), np.where(held, 0, d)
    return (z * d, (1 - z) * d) if z else (np.zeros_like(d), d)


def _blocks(options: Options, gates: int, hidden: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of R that belong together: a head's units, gate by gate, read the same head's part of h'."""
    rows, columns = hidden // options.heads, width // options.heads
    for gate in range(gates):
        for head in range(options.heads):
            start = gate * hidden + head * rows
            yield slice(start, start + rows), slice(head * columns, (head + 1) * columns)


def _full(weight_hh: Array, options: Options, gates: int, hidden: int, width: int) -> Array:
    """R [G*H, P] of the parameters [G*H, P/heads] or, where units are independent, [H]."""
    if options.independent:
        return np.diag(weight_hh)
    full = np.zeros((gates * hidden, width), weight_hh.dtype)
    for rows, columns in _blocks(options, gates, hidden, width):
        full[rows, columns] = weight_hh[rows]
    return full


def _parameters_of(full: Array, options: Options, gates: int, hidden: int, width: int) -> Array:
    """The entries of the gradient of R that are those of parameters, in their shape."""
    if options.independent:
        return np.diag(full).copy()
    out = np.zeros((gates * hidden, width // options.heads), full.dtype)
    for rows, columns in _blocks(options, gates, hidden, width):
        out[rows] = full[rows, columns]
    return out
