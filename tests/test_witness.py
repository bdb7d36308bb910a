"""The shape witnesses: two cells that no shipping kernel has, run by the CPU driver's own text, forward and BPTT.

They keep the driver honest about steps of several stages (ARCHITECTURE.md, "The step"): ``gru_reset_before`` has a
second product inside the step and per-unit parameters, ``lstm_ln_proj`` has reductions over the row and a projected h.
They are compiled here, over the value types of ``cpu_scalar`` (one lane, no padding) and over four of those side by
side (padding in every buffer), and held against ``rnnkern.reference``.

Bound: 4 eps times ``judging.growth`` (independent roundings of T steps, each a sum), as for the cells of the library
that torch does not have, relative to a tensor's largest magnitude or to 1, the size of the terms where they cancel. A
layer norm passes an error on 1/std times as large, so its cell's bound is as many times larger as the smallest std of
the judge's rows says, and its sums over the row have 4 H terms.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numeric import EPS
from rnnkern import reference

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parents[1]
CELLS = ("gru_reset_before", "lstm_ln_proj")  # in the order of witness_call.cell
DTYPES = ("float32", "float64")  # in the order of rnnk_dtype
TEAM, ASCENDING, DESCENDING = range(3)  # witness_call.order
STATES = {"gru_reset_before": "h", "lstm_ln_proj": "hc"}
LN_PARAMS = ("gamma_x", "gamma_h", "beta", "gamma_c", "beta_c")  # 4 + 4 + 4 + 1 + 1 vectors of H

SIZE_FIELDS = ["input_size", "hidden_size", "output_size", "seq_len", "batch"]
INTEGERS = ["cell", "lanes", "dtype", "reverse", *SIZE_FIELDS, "tasks", "by_rows", "order"]
PARAMETERS = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "params"]
TENSORS = ["x", "h_0", "c_0", "y", "h_n", "c_n", "dy", "dh_n", "dc_n", "dx", "dh_0", "dc_0"]
POINTERS = ["lengths", *PARAMETERS, *TENSORS, *(f"d{name}" for name in PARAMETERS), "packed", "reserve", "workspace"]


class Call(ctypes.Structure):
    """struct witness_call of witness.cpp."""

    _fields_ = [(name, ctypes.c_int64) for name in INTEGERS] + [(name, ctypes.c_void_p) for name in POINTERS]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """witness.cpp, compiled with the flags that cmake/kernels.cmake gives a kernel, but for the optimisation level."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler: neither CXX is set nor is there a c++ or g++")
    build = tmp_path_factory.mktemp("witness")
    listed = re.findall(r"^RNNK_CELL\(\d+, *(\w+)", (ROOT / "csrc/include/rnnkern/cells.inc").read_text(), re.MULTILINE)
    (build / "core").mkdir()
    (build / "core/cells.generated.h").write_text("".join(f'#include "cells/{name}.h"\n' for name in listed))
    common = [*compiler.split(), "-std=c++20", "-O1", "-fPIC", "-pthread", "-ffp-contract=off"]
    common += [f"-I{folder}" for folder in (ROOT / "csrc", ROOT / "csrc/include", build)]
    driver, shared = build / "witness.o", build / "libwitness.so"
    flags = ["-fno-math-errno", "-fno-exceptions", "-c", str(ROOT / "tests/witness/witness.cpp"), "-o", str(driver)]
    for command in (
        common + flags,
        [
            *common,
            "-shared",
            *(str(ROOT / f"csrc/core/{name}.cpp") for name in ("team", "cpu")),
            str(driver),
            "-o",
            str(shared),
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(shared))


@pytest.fixture
def threads(library: ctypes.CDLL) -> Iterator[None]:
    """A team of three, whatever the machine has."""
    library.witness_threads(3)
    yield
    library.witness_threads(1)


@dataclass(frozen=True)
class Case:
    cell: str
    dtype: str
    T: int
    B: int
    features: int
    H: int
    outputs: int
    lengths: bool = False
    reverse: bool = False
    bare: bool = False  # no initial states, no gradients of the final ones

    @property
    def P(self) -> int:
        return self.outputs if self.cell == "lstm_ln_proj" else self.H


@dataclass(frozen=True)
class Data:
    params: dict[str, Array]  # by the names of the reference
    tensors: dict[str, Array] = field(default_factory=dict)  # x and, where the case has them, h_0, c_0, dy, dh_n, dc_n
    lengths: Array | None = None


@functools.lru_cache(maxsize=8)
def make(case: Case) -> Data:
    """Drawn anew for each case. Steps past a row's length hold NaN, which must not matter."""
    rng = np.random.default_rng(11)
    T, B, features, H, P = case.T, case.B, case.features, case.H, case.P
    units = reference.CELLS[case.cell].gates * H
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (units, features), "weight_hh": (units, P)}
    if case.cell == "lstm_ln_proj":
        shapes |= {"weight_hr": (P, H), **dict.fromkeys(LN_PARAMS[:3], (units,)), **dict.fromkeys(LN_PARAMS[3:], (H,))}
    else:
        shapes |= {"bias_ih": (units,), "bias_hh": (units,), "p": (3, H)}
    params = {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}
    for name in params.keys() & {"gamma_x", "gamma_h", "gamma_c"}:
        params[name] += 1
    wanted = {"x": (T, B, features), "dy": (T, B, P)}
    for state in "" if case.bare else STATES[case.cell]:
        wanted |= {f"{state}_0": (B, P if state == "h" else H), f"d{state}_n": (B, P if state == "h" else H)}
    tensors = {name: rng.standard_normal(shape) for name, shape in wanted.items()}
    lengths = None
    if case.lengths:  # in no order; always one of T and, with two rows or more, one of 0
        lengths = rng.integers(0, T + 1, B)
        lengths[-1], lengths[: B // 2 : 3] = T, 0
        for name in ("x", "dy"):
            tensors[name][np.arange(T)[:, None] >= lengths] = np.nan
    cast = {name: value.astype(case.dtype) for name, value in params.items()}
    return Data(cast, {name: value.astype(case.dtype) for name, value in tensors.items()}, lengths)


def flat(cell: str, params: dict[str, Array]) -> dict[str, Array]:
    """The reference's parameters as the driver takes them: the per-unit ones in one [kParams, H]."""
    out = {name: value for name, value in params.items() if name in PARAMETERS}
    if cell == "gru_reset_before":
        return out | {"params": params["p"]}
    H = params["gamma_c"].size
    return out | {"params": np.concatenate([params[name].reshape(-1, H) for name in LN_PARAMS])}


@functools.lru_cache(maxsize=8)
def judged(case: Case) -> tuple[dict[str, Array], float]:
    """Every result by the judge, in longdouble for float64, and the largest 1/std that a layer norm divided by."""
    wide = np.longdouble if case.dtype == "float64" else np.float64
    data = make(case)
    given = data.tensors
    y, h_n, c_n, saved = reference.layer(
        case.cell,
        {name: value.astype(wide) for name, value in data.params.items()},
        given["x"],
        given.get("h_0"),
        given.get("c_0"),
        data.lengths,
        reverse=case.reverse,
    )
    grads = reference.layer_backward(saved, given["dy"], given.get("dh_n"), given.get("dc_n"))
    states = {name: grads.pop(name) for name in ("x", "h_0", "c_0") if name in grads}
    results = {"y": y, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
    results |= {f"d{name}": value for name, value in (states | flat(case.cell, grads)).items()}
    magnified = 1.0
    if case.cell == "lstm_ln_proj":
        stds = [tape[i] for _, _, tape in saved.steps for i in (4, 6, 12)]  # of W x, R h' and c
        magnified = max([magnified, *(float(1 / std.min()) for std in stds if std.size)])
    return results, magnified


def allowed(case: Case) -> float:
    terms = case.features + (5 * case.H if case.cell == "lstm_ln_proj" else case.H) + 2
    return 4 * EPS[case.dtype] * max(1, case.T * max(terms, case.T * case.B)) ** 0.5 * judged(case)[1]


def worst(case: Case, got: dict[str, Array]) -> float:
    """The largest error of any result, in units of what is allowed."""
    wanted = judged(case)[0]
    assert got.keys() == wanted.keys()
    errors = [0.0]
    for name, value in wanted.items():
        assert np.isfinite(got[name]).all(), name
        gap = np.abs(got[name].astype(value.dtype) - value).max(initial=0)
        errors.append(float(gap / np.abs(value).max(initial=1)))
    return max(errors) / allowed(case)


def aligned(size: int) -> Array:
    """size bytes on a cache line, all ones: NaN, in either type, wherever something is read before it is written."""
    room = np.full(size + 64, 0xFF, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


def run(
    library: ctypes.CDLL,
    case: Case,
    lanes: int = 1,
    tasks: int = 1,
    by_rows: bool = True,
    order: int = TEAM,
    keep: bool = True,
    wanted: Callable[[str], bool] = lambda name: True,
) -> dict[str, Array]:
    """Pack, forward and, with ``keep``, backward for the gradients whose names are ``wanted``."""
    data = make(case)
    call = Call(
        cell=CELLS.index(case.cell), lanes=lanes, dtype=DTYPES.index(case.dtype), reverse=case.reverse,
        input_size=case.features, hidden_size=case.H, output_size=case.P, seq_len=case.T, batch=case.B,
        tasks=tasks, by_rows=by_rows, order=order,
    )  # fmt: skip
    params = flat(case.cell, data.params)
    given = {name: np.ascontiguousarray(value) for name, value in (params | data.tensors).items()}
    if data.lengths is not None:
        given["lengths"] = data.lengths.astype(np.int64)
    shapes = {"y": (case.T, case.B, case.P)}
    grads = {f"d{name}": value.shape for name, value in params.items()} | {"dx": given["x"].shape}
    for state in STATES[case.cell]:
        shape = (case.B, case.P if state == "h" else case.H)
        shapes[f"{state}_n"] = grads[f"d{state}_0"] = shape
    shapes |= {name: shape for name, shape in grads.items() if keep and wanted(name)}
    results = {name: np.full(shape, np.nan, case.dtype) for name, shape in shapes.items()}
    sizes = (ctypes.c_int64 * 3)()
    library.witness_sizes(ctypes.byref(call), sizes)
    buffers = {name: aligned(size) for name, size in zip(("packed", "reserve", "workspace"), sizes, strict=True)}
    for name, array in (given | results | buffers).items():
        setattr(call, name, array.ctypes.data)
    if not keep:
        call.reserve = None
    library.witness_pack(ctypes.byref(call))
    library.witness_forward(ctypes.byref(call))
    if keep:
        buffers["workspace"][:] = 0xFF
        library.witness_backward(ctypes.byref(call))
    return results


def same_bits(got: dict[str, Array], wanted: dict[str, Array]) -> None:
    for name, value in got.items():
        assert value.tobytes() == wanted[name].tobytes(), name


# T, B, I, H, P: P below, at and above H; H below, at and one past four lanes; then several blocks of time (the forward
# driver takes 192 rows at a time, the backward 512) and, in the last, a step of more rows than one chunk of sums.
SIZES = [(1, 1, 1, 1, 1), (5, 7, 3, 5, 2), (4, 2, 5, 8, 3), (3, 5, 2, 4, 4), (2, 3, 9, 3, 6), (5, 1, 4, 9, 8)]
LARGE = [(9, 130, 2, 3, 2), (2, 600, 3, 4, 5)]


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("sizes", SIZES + LARGE, ids=lambda sizes: "t{}b{}i{}h{}p{}".format(*sizes))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_judge(
    library: ctypes.CDLL, cell: str, dtype: str, sizes: tuple[int, ...], lengths: bool, reverse: bool, lanes: int
) -> None:
    """The outputs and every gradient."""
    case = Case(cell, dtype, *sizes, lengths=lengths, reverse=reverse)
    assert worst(case, run(library, case, lanes)) <= 1


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_absent_states(library: ctypes.CDLL, cell: str, lanes: int) -> None:
    """h_0, c_0, dh_n and dc_n that are not there count as zero."""
    case = Case(cell, "float64", 5, 7, 3, 5, 2, lengths=True, bare=True)
    assert worst(case, run(library, case, lanes)) <= 1


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0)])
def test_nothing_to_do(library: ctypes.CDLL, cell: str, T: int, B: int) -> None:
    """No steps: states and their gradients pass through, parameters have gradients of zero. The same with no rows."""
    case = Case(cell, "float32", T, B, 2, 3, 2)
    got, (wanted, _) = run(library, case), judged(case)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value.astype("float32"), err_msg=name)


@pytest.mark.usefixtures("threads", "no_hang")
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("sizes", [(5, 7, 3, 5, 2), (3, 5, 2, 9, 12), LARGE[0]], ids=str)
@pytest.mark.parametrize(("lengths", "reverse"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_splits_have_the_same_bits(
    library: ctypes.CDLL, cell: str, dtype: str, lengths: bool, reverse: bool, sizes: tuple[int, ...], lanes: int
) -> None:
    """By rows, each task alone through all steps; by units, with a barrier between stages; more tasks than threads.

    One after another in both orders: a task that reads what another writes in the same phase cannot be right in both.
    """
    case = Case(cell, dtype, *sizes, lengths=lengths, reverse=reverse)
    wanted = run(library, case, lanes)
    for tasks, by_rows in ((2, True), (5, True), (1, False), (2, False), (5, False)):
        for order in (TEAM, ASCENDING, DESCENDING):
            same_bits(run(library, case, lanes, tasks, by_rows, order), wanted)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_asked_for_does_not_touch_the_bits(library: ctypes.CDLL, cell: str, lanes: int) -> None:
    """Inference and training forward; each gradient alone and all of them."""
    case = Case(cell, "float32", 5, 7, 3, 5, 2, lengths=True)
    wanted = run(library, case, lanes)
    same_bits(run(library, case, lanes, keep=False), wanted)
    for name in wanted:
        same_bits(run(library, case, lanes, wanted=name.__eq__), wanted)


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_have_the_same_bits(library: ctypes.CDLL, dtype: str, lengths: bool) -> None:
    """An element of a product is one chain whatever the width; a sum over a row or a batch is not: forward alone."""
    case = Case("gru_reset_before", dtype, 5, 7, 3, 5, 5, lengths=lengths)
    same_bits(run(library, case, lanes=4, keep=False), run(library, case, lanes=1))
