"""Runs one layer in one direction on a plan (one_layer.py), into outputs that betray what a kernel must not do.

Every output starts as NaN, so an element that is not written shows; it lies between guards and, where its layout has
gaps, among them, so a write past its end or into a gap shows too. Inputs are read-only (problems.make).

Results are dicts: y, h_n, c_n, dx, dh_0, dc_0, dweight_ih, dweight_hh, dbias_ih, dbias_hh.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from device_plan import DevicePlan, simt_library
from one_layer import HostPlan
from problems import CELLS, Array, Data, Problem, np_dtype, state_dtype

_GUARD = 32  # elements on either side: past the widest vector store

CPU_KERNELS = {k.name: k.unavailable for k in rk.kernels() if k.name.startswith("cpu_")}
# Kernels for weights in another form take other problems than all others (test_int8.py, test_bf16_weights.py).
UNAVAILABLE = {k.name: k.unavailable for k in rk.kernels() if k.name in CPU_KERNELS and not k.weights}
KERNELS = tuple(UNAVAILABLE)


# Strategies of a GPU, which tests run on the host SIMT executor (device_plan.py).
_CMAKE = (Path(__file__).resolve().parents[2] / "CMakeLists.txt").read_text()
DEVICE_KERNELS = tuple(re.findall(r"(?m)^rnnk_add_strategy\((\w+)", _CMAKE))


def plan_of(problem: Problem, kernel: str) -> Any:
    """The problem bound to the kernel; skips, with the kernel's own words, where it cannot run or declines."""
    if kernel not in DEVICE_KERNELS and UNAVAILABLE[kernel]:
        pytest.skip(f"{kernel}: {UNAVAILABLE[kernel]}")
    try:
        return bind(problem, kernel)
    except NotImplementedError as declined:
        pytest.skip(f"{kernel}: {declined}")


def bind(problem: Problem, kernel: str, make: Callable[..., Any] | None = None) -> Any:
    """The same; NotImplementedError where it declines. make: of the plan; default: new_plan."""
    return (make or new_plan)(
        kernel,
        problem.cell,
        problem.dtype,
        problem.input_size,
        problem.hidden_size,
        bias=not problem.has("nobias"),
        reverse=problem.has("reverse"),
    )


def takes(kernel: str, dtype: str) -> bool:
    """Whether this machine's build of the kernel computes the dtype."""
    try:
        HostPlan("linear", dtype, 1, 1, kernel=kernel)
    except NotImplementedError:
        return False
    return True


# Those of float32, for tests of one dtype; the first is the preferred one of this machine.
SINGLE = [kernel for kernel in KERNELS if takes(kernel, "float32")]


def new_plan(kernel: str, *args: Any, **options: Any) -> Any:
    if kernel in DEVICE_KERNELS:
        return DevicePlan(simt_library(), *args, kernel=kernel, **options)
    return HostPlan(*args, kernel=kernel, **options)


def dtype_of(kernel: str) -> str:
    """float32, or what the kernel has instead."""
    if UNAVAILABLE[kernel]:
        pytest.skip(f"{kernel}: {UNAVAILABLE[kernel]}")
    try:
        HostPlan("lstm", "float32", 1, 1, kernel=kernel)
    except NotImplementedError:
        return "bfloat16"
    return "float32"


def pack(plan: Any, data: Data, backward: bool = True) -> Any:
    p = data.params
    return plan.pack(p["weight_ih_l0"], p["weight_hh_l0"], p.get("bias_ih_l0"), p.get("bias_hh_l0"), backward=backward)


class Output:
    """A caller's buffer of some layout, between guards."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, layout: str = "plain") -> None:
        *outer, last = shape
        stored = {
            "plain": shape,
            "strided": (*outer, 2 * last + 1),
            "batch_first": (*shape[1::-1], *shape[2:]),
        }[layout]
        count = int(np.prod(stored))
        self._flat = np.full((count + 2 * _GUARD) * np.dtype(dtype).itemsize, 0xFF, np.uint8).view(dtype)
        self._mine = np.zeros(self._flat.shape, bool)

        def view(flat: Array) -> Array:
            a = flat[_GUARD : _GUARD + count].reshape(stored)
            return a[..., 1::2] if layout == "strided" else a.swapaxes(0, 1) if layout == "batch_first" else a

        self.array = view(self._flat)
        view(self._mine)[...] = True

    def check(self, name: str) -> None:
        untouched = self._flat[~self._mine].view(np.uint8)
        assert (untouched == 0xFF).all(), f"{name}: written outside its own elements"


class Kept:
    """Bytes for a reserve, and guards behind them that must stay as they are."""

    def __init__(self, nbytes: int) -> None:
        whole = np.full(nbytes + 2 * 64, 0xFF, np.uint8)
        first = -whole.ctypes.data % 64
        self.array, self._guard = whole[first : first + nbytes], whole[first + nbytes :]

    def check(self) -> None:
        assert (self._guard == 0xFF).all(), "reserve: written past its end"


def forward(problem: Problem, plan: Any, packed: Any, data: Data, keep: bool = True) -> tuple[dict[str, Array], Any]:
    """y, h_n, c_n and the reserve (None unless ``keep``)."""
    T, B, H = data.x.shape[0], data.x.shape[1], problem.hidden_size
    layout = _layout(problem)
    out = {
        "y": Output((T, B, H), np_dtype(problem), layout),
        "h_n": Output((B, H), np_dtype(problem), "strided" if layout == "strided" else "plain"),
    }
    if CELLS[problem.cell][1] > 1:
        out["c_n"] = Output(
            (B, cell_units(problem)), state_dtype(problem), "strided" if layout == "strided" else "plain"
        )
    arrays = {name: output.array for name, output in out.items()}
    reserve = Kept(plan.sizes(T, B)["reserve"]) if keep else None
    plan.forward(
        packed,
        data.x,
        data.first("h_0"),
        data.first("c_0"),
        arrays["y"],
        arrays["h_n"],
        arrays.get("c_n"),
        lengths=data.lengths,
        reserve=None if reserve is None else reserve.array,
    )
    for name, output in out.items():
        output.check(name)
    if reserve is None:
        return arrays, None
    reserve.check()
    return arrays, reserve.array


def cell_units(problem: Problem) -> int:
    """Entries a row of the states behind h, side by side."""
    return (CELLS[problem.cell][1] - 1) * problem.hidden_size


def gradients_of(problem: Problem) -> dict[str, tuple[int, ...]]:
    """The results of backward that do not depend on T and B: the parameters' gradients, with their shapes."""
    units, H = CELLS[problem.cell][0] * problem.hidden_size, problem.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"dweight_ih": (units, problem.input_size), "dweight_hh": (units, H)}
    return shapes if problem.has("nobias") else shapes | {"dbias_ih": (units,), "dbias_hh": (units,)}


def backward(
    problem: Problem, plan: Any, packed: Any, data: Data, y: Array, reserve: Any, only: tuple[str, ...] | None = None
) -> dict[str, Array]:
    """dx, dh_0, dc_0 and the parameters' gradients, or those named in ``only``."""
    T, B, H = data.x.shape[0], data.x.shape[1], problem.hidden_size
    layout = _layout(problem)
    state_layout = "strided" if layout == "strided" else "plain"
    out = {
        "dx": Output((T, B, problem.input_size), np_dtype(problem), layout),
        "dh_0": Output((B, H), state_dtype(problem), state_layout),
    }
    if CELLS[problem.cell][1] > 1:
        out["dc_0"] = Output((B, cell_units(problem)), state_dtype(problem), state_layout)
    out |= {name: Output(shape, np_dtype(problem)) for name, shape in gradients_of(problem).items()}
    if only is not None:
        out = {name: out[name] for name in only}
    y = y.view()
    y.flags.writeable = False
    arrays = {name: output.array for name, output in out.items()}
    plan.backward(
        packed,
        reserve,
        data.x,
        data.first("h_0"),
        data.first("c_0"),
        y,
        data.dy,
        data.first("dh_n"),
        data.first("dc_n"),
        lengths=data.lengths,
        **arrays,
    )
    for name, output in out.items():
        output.check(name)
    return arrays


def run(problem: Problem, plan: Any, data: Data) -> dict[str, Array]:
    """A whole training step."""
    packed = pack(plan, data)
    results, reserve = forward(problem, plan, packed, data)
    return results | backward(problem, plan, packed, data, results["y"], reserve)


def same_bits(got: dict[str, Array], wanted: dict[str, Array], what: str) -> None:
    """Fails, naming the tensors, unless both have the same bytes (NaN equals the same NaN, 0 differs from -0)."""
    assert got.keys() == wanted.keys()
    different = []
    for name, value in got.items():
        a, b = np.ascontiguousarray(value), np.ascontiguousarray(wanted[name])
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.tobytes() != b.tobytes():
            count = int((a.view(np.uint8) != b.view(np.uint8)).reshape(*a.shape, -1).any(-1).sum())
            different.append(f"{name} ({count} of {a.size} elements)")
    assert not different, f"{what}: other bits in {', '.join(different)}"


def _layout(problem: Problem) -> str:
    return "strided" if problem.has("strided") else "batch_first" if problem.has("batch_first") else "plain"
