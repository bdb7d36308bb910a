"""Plans of networks on a device of the C ABI, by ctypes: so the tests of kernels run on the host SIMT executor (a
build with RNNKERN_CUDA=SIMT), whose device memory is NumPy's.

    lib = simt_library()
    plan = DevicePlan(lib, "lstm", "bfloat16", 3, 8, kernel="cuda_stepwise")
"""

from __future__ import annotations

import ctypes as c
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

import c_abi
from native import ROOT, alone, run, tool
from one_layer import SLOTS, OneLayer
from problems import Array

_FLAGS = {
    "recompute": 2, "tf32": 4, "peephole": 8, "coupled": 16, "reset_before": 32, "layer_norm": 64, "independent": 128,
}  # fmt: skip
_CUDA = 1
_ERRORS = {1: ValueError, 2: TypeError, 3: NotImplementedError, 4: MemoryError}


@functools.cache
def simt_library() -> Any:
    """The C library with the CUDA kernels on the executor: RNNKERN_SIMT_LIBRARY, or build/executor, brought up to date
    once a process."""
    given = os.environ.get("RNNKERN_SIMT_LIBRARY")
    if given:
        return c_abi.load(Path(given))
    build = ROOT / "build" / "executor"
    with alone(build):
        run(
            tool("cmake"), "-S", ROOT, "-B", build, "-DRNNKERN_PYTHON=OFF", "-DRNNKERN_CUDA=SIMT",
            "-DRNNKERN_KERNELS=cuda_.*",
        )  # fmt: skip
        run(tool("cmake"), "--build", build, "--parallel", str(os.cpu_count()), "--target", "rnnkern")
    return c_abi.load(build / "librnnkern.so")


def _check(lib: Any, status: int) -> None:
    if status:
        raise _ERRORS.get(status, RuntimeError)(lib.rnnk_last_error().decode())


def device_problem(**values: Any) -> Any:
    given = {"cell": 3, "dtype": 2, "device": 1, "input_size": 64, "hidden_size": 64} | values
    return c_abi.new(c_abi.Problem, **given)


def verdicts(problem: Any, seq_len: int = 100, batch: int = 8) -> dict[str, Any]:
    library, out = simt_library(), {}
    for index in range(16):
        name = library.rnnk_kernel_name(index)
        if name is None:
            break
        verdict = c_abi.new(c_abi.Verdict)
        assert library.rnnk_explain(c.byref(problem), 0, seq_len, batch, index, c.byref(verdict)) == 0
        out[name.decode()] = verdict
    return out


class DevicePlan(OneLayer):
    """A network; one layer in one direction as one_layer.py has it, or with num_layers and direction ``run``."""

    def __init__(
        self, lib: Any, cell: str, dtype: str, input_size: int, hidden_size: int, bias: bool = True, **options: Any
    ) -> None:
        self.lib, self._plan = lib, c.c_void_p()
        names = [lib.rnnk_cell_name(i) for i in range(16)]
        kernel = options.pop("kernel", None)
        flags = 0 if bias else 1
        for name, bit in _FLAGS.items():
            flags |= bit if options.pop(name, False) else 0
        if options.pop("reverse", False):
            options["direction"] = 1
        problem = c_abi.new(
            c_abi.Problem, cell=names.index(cell.encode()), dtype=c_abi.DTYPES[dtype], device=_CUDA, flags=flags,
            input_size=input_size, hidden_size=hidden_size,
        )  # fmt: skip
        for i, activation in enumerate(options.pop("activations", ())):
            kind, alpha, beta = activation
            problem.activations[i].kind, problem.activations[i].alpha, problem.activations[i].beta = kind, alpha, beta
        problem.zoneout[:] = options.pop("zoneout", (0.0, 0.0))
        for name, value in options.items():
            setattr(problem, name, value)
        _check(lib, lib.rnnk_plan_create(c.byref(problem), kernel and kernel.encode(), c.byref(self._plan)))

    def __del__(self) -> None:
        self.lib.rnnk_plan_destroy(self._plan)

    @property
    def kernel(self) -> str:
        name: bytes = self.lib.rnnk_plan_kernel(self._plan, 0)
        return name.decode()

    @property
    def param_rows(self) -> int:
        return int(self.lib.rnnk_plan_param_rows(self._plan))

    def sizes(self, seq_len: int, batch: int) -> dict[str, int]:
        sizes = c_abi.new(c_abi.Sizes)
        _check(self.lib, self.lib.rnnk_plan_sizes(self._plan, seq_len, batch, c.byref(sizes)))
        return {name: getattr(sizes, name) for name, _ in sizes._fields_[1:]}

    def _pack(self, weights: list[Array | None], forward: bool, backward: bool) -> Array:
        structs, _held = _weights([None if a is None else np.ascontiguousarray(a) for a in weights])
        packed: Array = c_abi.aligned(self.sizes(0, 0)["packed"])
        packed[:] = 0xFF
        halves = (c_abi.FORWARD if forward else 0) | (c_abi.BACKWARD if backward else 0)
        status = self.lib.rnnk_pack_weights(self._plan, c.byref(structs), halves, packed.ctypes.data, packed.size, None)
        _check(self.lib, status)
        return packed

    def pack_all(self, weights: list[Array | None]) -> Array:
        """Six arrays for each layer and direction."""
        return self._pack(weights, True, True)

    def _run(self, which: str, packed: Array, arguments: dict[str, Any]) -> None:
        self.run(which, packed, **arguments)

    def run(self, which: str, packed: Array, workspace: int | None = None, **given: Any) -> None:
        """A call with ``_core.Plan``'s keywords. workspace: its bytes; None: what the plan asks for."""
        T, B = given["x"].shape[:2]
        scratch = c_abi.aligned(self.sizes(T, B)[f"workspace_{which}"] if workspace is None else workspace)
        scratch[:] = 0xFF  # NaN: what is read before it is written shows
        args = c_abi.new(
            c_abi.Args, seq_len=T, batch=B, packed=packed.ctypes.data, packed_size=packed.size,
            workspace=scratch.ctypes.data, workspace_size=scratch.size,
        )  # fmt: skip
        held: list[Any] = [scratch, packed]
        for name, value in given.items():
            if value is None:
                continue
            if name == "reserve":
                kept = value if value.size else c_abi.aligned(64)  # NumPy's empty arrays may point anywhere
                args.reserve, args.reserve_size = kept.ctypes.data, value.size
                held.append(kept)
            elif name == "random":
                args.flags |= c_abi.TRAIN
                args.seed, args.call, args.stream, args.first_step = value
            elif name == "gradients":
                structs, arrays = _weights(value)
                args.dweights = c.cast(structs, c.c_void_p)
                held += [structs, arrays]
            elif name == "dh":
                steps = (c_abi.Tensor * len(value))(*(c_abi.tensor(each) for each in value))
                args.dh = c.cast(steps, c.c_void_p)
                held.append(steps)
            else:
                setattr(args, name, value if name == "clip_dh" else c_abi.tensor(value))
        _check(self.lib, getattr(self.lib, f"rnnk_{which}")(self._plan, c.byref(args)))


def _weights(arrays: list[Array | None]) -> tuple[Any, list[Array | None]]:
    """Six arrays for each layer and direction, as C has them; and the arrays, which must live as long."""
    structs = (c_abi.Weights * (len(arrays) // len(SLOTS)))()
    for index in range(len(structs)):
        own = zip(SLOTS, arrays[index * len(SLOTS) : (index + 1) * len(SLOTS)], strict=True)
        structs[index] = c_abi.new(
            c_abi.Weights, **{name: c_abi.tensor(array) for name, array in own if array is not None}
        )
    return structs, arrays
