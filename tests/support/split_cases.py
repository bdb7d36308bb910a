"""Cells with options, their data and what judges them, for tests that call the C ABI (case_call.py).

Bound: 4 eps times ``judging.growth`` (independent roundings of T steps, each a sum), as for the cells of the library
that torch does not have, relative to a tensor's largest magnitude or to 1, the size of the terms where they cancel. A
layer norm passes an error on 1/std times as large, so its bound is as many times larger as the smallest std of the
judge's rows says, and its sums over the row have G*H terms, those of the LSTM's c another H.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numeric import EPS
from one_layer import marks_of_walk
from problems import smooth_slstm
from rnnkern import reference
from rnnkern.reference.cells import normalise

Array = np.ndarray[Any, Any]
RANDOM = {"seed": 2**40 + 7, "call": 3, "stream": 2, "first_step": 5}


@dataclass(frozen=True)
class Kind:
    cell: str
    options: reference.Options
    projects: bool = False
    marks: bool = False  # mask and reset are given
    train: bool = False  # random masks are drawn


def _kind(cell: str, projects: bool = False, marks: bool = False, train: bool = False, **options: Any) -> Kind:
    return Kind(cell, reference.Options(**options), projects, marks, train)


_EVERY: dict[str, Any] = {"marks": True, "train": True, "recurrent_dropout": 0.25}
_RNN, _LSTM = {**_EVERY, "zoneout": (0.3, 0.0)}, {**_EVERY, "zoneout": (0.3, 0.4)}
# Every variant of cells.inc, each at least once with all that the driver does around a step.
KINDS = {
    "rnn_heads": _kind("rnn_tanh", heads=2),
    "rnn_every": _kind("rnn_tanh", heads=3, **_RNN),
    "rnn_norm": _kind("rnn_tanh", layer_norm=True, **_RNN),
    "rnn_independent": _kind("rnn_tanh", independent=True),
    "rnn_independent_every": _kind("rnn_tanh", independent=True, **_RNN),
    "gru_before": _kind("gru", reset_after=False),
    "gru_before_every": _kind("gru", reset_after=False, heads=2, **_RNN),
    "gru_heads": _kind("gru", heads=2, marks=True, zoneout=(0.3, 0.0)),
    "gru_norm": _kind("gru", layer_norm=True),
    "gru_norm_every": _kind("gru", layer_norm=True, **_RNN),
    "lstm_peephole_every": _kind("lstm", peephole=True, **_LSTM),
    "lstm_heads": _kind("lstm", heads=2, peephole=True, coupled=True, marks=True, zoneout=(0.3, 0.4)),
    "lstm_projection": _kind("lstm", projects=True, **_LSTM),
    "lstm_norm": _kind("lstm", layer_norm=True, marks=True, zoneout=(0.3, 0.4)),
    "lstm_norm_projection": _kind("lstm", projects=True, layer_norm=True, peephole=True),
    "lstm_norm_projection_every": _kind("lstm", projects=True, layer_norm=True, peephole=True, **_LSTM),
    "slstm": _kind("slstm"),
    "slstm_every": _kind("slstm", heads=2, **_RNN),
}


PLAIN = {cell: _kind(cell) for cell in ("rnn_tanh", "rnn_relu", "gru", "lstm")}


@dataclass(frozen=True)
class Case:
    name: str  # of KINDS or PLAIN
    dtype: str
    T: int
    B: int
    features: int
    each: int  # units of a head
    outputs: int  # of a projection
    lengths: bool = False
    reverse: bool = False
    bare: bool = False  # no biases, no initial states, no gradients of the final ones

    @property
    def kind(self) -> Kind:
        return PLAIN.get(self.name) or KINDS[self.name]

    @property
    def H(self) -> int:
        return self.kind.options.heads * self.each

    @property
    def P(self) -> int:
        return self.outputs if self.kind.projects else self.H

    @property
    def states(self) -> dict[str, int]:
        """Letter -> entries; those behind h are one."""
        cells = reference.CELLS[self.kind.cell].states - 1
        return {"h": self.P} | ({"c": cells * self.H} if cells else {})


@dataclass(frozen=True)
class Data:
    params: dict[str, Array]  # by the names of the reference
    tensors: dict[str, Array] = field(default_factory=dict)  # x and, where the case has them, h_0, c_0, dy, dh_n, dc_n
    lengths: Array | None = None
    marks: dict[str, Array] = field(default_factory=dict)  # mask, reset: bool [T, B]


@functools.lru_cache(maxsize=8)
def make(case: Case) -> Data:
    """Drawn anew for each case. Steps that are not taken hold NaN, which must not matter."""
    rng = np.random.default_rng(11)
    T, B, kind = case.T, case.B, case.kind
    shapes = reference.parameter_shapes(kind.cell, kind.options, case.features, case.H, case.P if kind.projects else 0)
    params = {name: 0.5 * rng.standard_normal(shape) + name.startswith("gamma") for name, shape in shapes.items()}
    if case.bare:
        params = {name: value for name, value in params.items() if not name.startswith("bias")}
        if kind.options.independent:  # it is a row of rnnk_weights.params
            params["bias_hh"] = np.zeros(case.H)
    wanted = {"x": (T, B, case.features), "dy": (T, B, case.P)}
    for state, width in {} if case.bare else case.states.items():
        wanted |= {f"{state}_0": (B, width), f"d{state}_n": (B, width)}
    tensors = {name: rng.standard_normal(shape) for name, shape in wanted.items()}
    if kind.cell == "slstm" and not case.bare:
        smooth_slstm(tensors["c_0"], None, None, case.H)
    lengths, marks = None, {}
    unread = np.zeros((T, B), bool)
    if case.lengths:  # in no order; always one of T and, with two rows or more, one of 0
        lengths = rng.integers(0, T + 1, B)
        lengths[-1], lengths[: B // 2 : 3] = T, 0
        unread |= np.arange(T)[:, None] >= lengths
    if kind.marks:  # the second row takes no step at all
        marks = {"mask": rng.random((T, B)) < 0.7, "reset": rng.random((T, B)) < 0.3}
        marks["mask"][:, 1:2] = False
        unread |= ~marks["mask"]
    for name in ("x", "dy"):
        tensors[name][unread] = np.nan
    cast = {name: value.astype(case.dtype) for name, value in params.items()}
    return Data(cast, {name: value.astype(case.dtype) for name, value in tensors.items()}, lengths, marks)


def weights(kind: Kind, params: Mapping[str, Array]) -> dict[str, Array]:
    """The reference's parameters, or their gradients, as rnnk_weights has them."""
    rows = ["weight_hh", "bias_hh"] if kind.options.independent else ["peephole"]
    rows = [name for name in (*rows, "gamma_ih", "gamma_hh", "gamma_c", "beta_c") if name in params]
    out = {name: value for name, value in params.items() if name not in rows}
    H = params["weight_ih"].shape[0] // reference.CELLS[kind.cell].gates
    return out | ({"params": np.concatenate([params[name].reshape(-1, H) for name in rows])} if rows else {})


@functools.lru_cache(maxsize=8)
def judged(case: Case) -> tuple[dict[str, Array], float]:
    """Every result by the judge, in longdouble for float64, and the largest 1/std that a layer norm divided by."""
    wide = np.longdouble if case.dtype == "float64" else np.float64
    kind, data = case.kind, make(case)
    given = data.tensors
    y, h_n, c_n, saved = reference.layer(
        kind.cell,
        {name: value.astype(wide) for name, value in data.params.items()},
        given["x"],
        given.get("h_0"),
        given.get("c_0"),
        data.lengths,
        case.reverse,
        options=kind.options,
        mask=data.marks.get("mask"),
        reset=marks_of_walk(data.marks.get("reset"), data.lengths, case.reverse),
        random=tuple(RANDOM.values()) if kind.train else None,  # type: ignore[arg-type]
    )
    grads = reference.layer_backward(saved, given["dy"], given.get("dh_n"), given.get("dc_n"))
    states = {name: grads.pop(name) for name in ("x", "h_0", "c_0") if name in grads}
    results = {"y": y, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
    results |= {f"d{name}": value for name, value in (states | weights(kind, grads)).items()}
    return results, max([1.0, *(float(1 / std.min()) for std in stds(saved) if std.size)])


def stds(saved: reference.Saved) -> list[Array]:
    """What every layer norm of every step divided by: W x, R h' and the LSTM's c. A row of zeros has no error."""
    if not saved.options.layer_norm:
        return []
    normed = []
    for _, _, tape in saved.steps:
        lstm = isinstance(saved.cell, reference.Lstm)
        x, u = (tape.x, tape.u) if lstm else (tape[0], tape[2 if isinstance(saved.cell, reference.Gru) else 1])
        normed += [x @ saved.params["weight_ih"].T, u @ saved.params["weight_hh"].T, *([tape.c] if lstm else [])]
    return [normalise(v)[1][v.any(axis=1)] for v in normed]


def allowed(case: Case) -> float:
    kind = case.kind
    terms = case.features + case.P + 2
    if kind.options.layer_norm:
        terms += (reference.CELLS[kind.cell].gates + (kind.cell == "lstm")) * case.H
    return 4 * EPS[case.dtype] * max(1, case.T * max(terms, case.T * case.B)) ** 0.5 * judged(case)[1]


def worst(case: Case, got: Mapping[str, Array]) -> float:
    """The largest error of any result, in units of what is allowed."""
    wanted = judged(case)[0]
    assert got.keys() == wanted.keys()
    errors = [0.0]
    for name, value in wanted.items():
        assert np.isfinite(got[name]).all(), name
        gap = np.abs(got[name].astype(value.dtype) - value).max(initial=0)
        errors.append(float(gap / np.abs(value).max(initial=1)))
    return max(errors) / allowed(case)
