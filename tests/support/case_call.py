"""A case of split_cases.py as calls of the C ABI."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

import c_abi
from rnnkern import reference
from split_cases import RANDOM, Array, Case, make, weights

NO_BIAS, RECOMPUTE, RESET_BEFORE = 1, 2, 32  # rnnk_problem.flags
FLAGS = {"peephole": 8, "coupled": 16, "layer_norm": 64, "independent": 128}


def problem_of(case: Case, recompute: bool) -> Any:
    """rnnk_problem."""
    kind, options = case.kind, case.kind.options
    cell = list(reference.CELLS).index(kind.cell)  # it has the order of cells.inc
    flags = sum(flag for name, flag in FLAGS.items() if getattr(options, name))
    flags |= (not options.reset_after) * RESET_BEFORE | case.bare * NO_BIAS | recompute * RECOMPUTE
    return c_abi.new(
        c_abi.Problem, cell=cell, dtype=c_abi.DTYPES[case.dtype], flags=flags, direction=int(case.reverse),
        input_size=case.features, hidden_size=case.H, proj_size=case.P if kind.projects else 0, heads=options.heads,
        zoneout=options.zoneout, recurrent_dropout=options.recurrent_dropout,
    )  # fmt: skip


def aligned(size: int) -> Array:
    """Bytes on a cache line, all ones: NaN, in either type, wherever something is read before it is written."""
    room = c_abi.aligned(max(size, 1))
    room[:] = 0xFF
    return room


def run_case(
    library: Any,
    kernel: bytes,
    case: Case,
    *,
    wanted: Callable[[str], bool] | None = lambda name: True,
    recompute: bool = False,
    brings: bool = False,
) -> dict[str, Array]:
    """Forward, and backward for the gradients whose names are ``wanted``; None: inference.

    brings: the calls bring the weights; otherwise they read a pack.
    """

    def check(status: int) -> None:
        assert status == c_abi.OK, library.rnnk_last_error().decode()

    problem, plan = problem_of(case, recompute), ctypes.c_void_p()
    check(library.rnnk_plan_create(ctypes.byref(problem), kernel, ctypes.byref(plan)))
    sizes = c_abi.new(c_abi.Sizes)
    check(library.rnnk_plan_sizes(plan, case.T, case.B, ctypes.byref(sizes)))
    data = make(case)
    params = {name: np.ascontiguousarray(value) for name, value in weights(case.kind, data.params).items()}
    rows = params["params"].shape[0] if "params" in params else 0
    assert library.rnnk_plan_param_rows(plan) == rows

    shapes = {"y": (case.T, case.B, case.P)}
    grads = {f"d{name}": value.shape for name, value in params.items()} | {"dx": data.tensors["x"].shape}
    for state, width in case.states.items():
        shapes[f"{state}_n"] = grads[f"d{state}_0"] = (case.B, width)
    shapes |= {name: shape for name, shape in grads.items() if wanted and wanted(name)}
    results = {name: np.full(shape, np.nan, case.dtype) for name, shape in shapes.items()}
    marks = {name: np.ascontiguousarray(value) for name, value in data.marks.items()}
    if data.lengths is not None:
        marks["lengths"] = data.lengths.astype(np.int64)
    buffers = {
        "packed": aligned(sizes.packed),
        "workspace": aligned(max(sizes.workspace_forward, sizes.workspace_backward)),
        **({"reserve": aligned(sizes.reserve)} if wanted else {}),
    }
    gradients = c_abi.new(c_abi.Weights)
    args = c_abi.new(
        c_abi.Args, seq_len=case.T, batch=case.B, flags=case.kind.train * c_abi.TRAIN,
        dweights=ctypes.addressof(gradients), **RANDOM,
    )  # fmt: skip
    for name, array in (data.tensors | results | marks | buffers).items():
        if name.startswith("d") and name[1:] in params:
            setattr(gradients, name[1:], c_abi.tensor(array))
            continue
        is_tensor = isinstance(getattr(args, name), c_abi.Tensor)
        one = array[None] if is_tensor and array.ndim == 2 and name not in marks else array  # a state, of one layer
        setattr(args, name, c_abi.tensor(one) if is_tensor else array.ctypes.data)
    for name, buffer in buffers.items():
        setattr(args, f"{name}_size", buffer.size)

    given = c_abi.new(c_abi.Weights, **{name: c_abi.tensor(value) for name, value in params.items()})
    if brings:
        args.weights = ctypes.addressof(given)
    else:
        check(library.rnnk_pack_weights(plan, ctypes.byref(given), c_abi.BOTH, args.packed, args.packed_size, None))
    check(library.rnnk_forward(plan, ctypes.byref(args)))
    if wanted:
        buffers["workspace"][:] = 0xFF
        if brings:
            buffers["packed"][:] = 0xFF
        check(library.rnnk_backward(plan, ctypes.byref(args)))
    library.rnnk_plan_destroy(plan)
    return results


def same_bits(got: dict[str, Array], wanted: dict[str, Array]) -> None:
    for name, value in got.items():
        assert value.tobytes() == wanted[name].tobytes(), name
