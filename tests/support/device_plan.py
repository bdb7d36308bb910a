"""``_core.Plan``'s calls on a device of the C ABI, by ctypes: so the tests of kernels run on the host SIMT executor (a
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
from problems import Array

_DTYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
_FLAGS = {
    "reverse": 2, "recompute": 4, "peephole": 8, "coupled": 16, "reset_before": 32, "layer_norm": 64,
    "independent": 128, "masked": 256, "tf32": 512,
}  # fmt: skip
_CUDA, _TRAIN = 1, 2
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
            "-DRNNKERN_KERNELS=cuda_cluster;cuda_grid;cuda_stepwise;cuda_solo",
        )  # fmt: skip
        run(tool("cmake"), "--build", build, "--parallel", str(os.cpu_count()), "--target", "rnnkern")
    return c_abi.load(build / "librnnkern.so")


def _check(lib: Any, status: int) -> None:
    if status:
        raise _ERRORS.get(status, RuntimeError)(lib.rnnk_last_error().decode())


def device_problem(**values: Any) -> Any:
    given = {"cell": 3, "dtype": 2, "device": 1, "input_size": 64, "hidden_size": 64} | values
    return c_abi.new(c_abi.FullProblem, **given)


def verdicts(problem: Any, seq_len: int = 100, batch: int = 8) -> dict[str, Any]:
    library, out = simt_library(), {}
    for index in range(16):
        name = library.rnnk_kernel_name(index)
        if name is None:
            break
        verdict = c_abi.new(c_abi.Verdict)
        assert library.rnnk_explain(c.byref(problem), seq_len, batch, index, c.byref(verdict)) == 0
        out[name.decode()] = verdict
    return out


class DevicePlan:
    def __init__(
        self, lib: Any, cell: str, dtype: str, input_size: int, hidden_size: int, bias: bool = True, **options: Any
    ) -> None:
        self.lib, self._plan = lib, c.c_void_p()
        names = [lib.rnnk_cell_name(i) for i in range(16)]
        kernel = options.pop("kernel", None)
        flags = 0 if bias else 1
        for name, bit in _FLAGS.items():
            flags |= bit if options.pop(name, False) else 0
        problem = c_abi.new(
            c_abi.FullProblem, cell=names.index(cell.encode()), dtype=_DTYPES[dtype], device=_CUDA, flags=flags,
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
        name: bytes = self.lib.rnnk_plan_kernel(self._plan)
        return name.decode()

    @property
    def param_rows(self) -> int:
        return int(self.lib.rnnk_plan_param_rows(self._plan))

    def sizes(self, seq_len: int, batch: int) -> dict[str, int]:
        sizes = c_abi.new(c_abi.Sizes)
        _check(self.lib, self.lib.rnnk_plan_sizes(self._plan, seq_len, batch, c.byref(sizes)))
        return {name: getattr(sizes, name) for name, _ in sizes._fields_[1:]}

    def pack(
        self, weight_ih: Array, weight_hh: Array | None, bias_ih: Array | None, bias_hh: Array | None,
        backward: bool = True, weight_hr: Array | None = None, params: Array | None = None,
    ) -> Array:  # fmt: skip
        given = {
            "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh,
            "weight_hr": weight_hr, "params": params,
        }  # fmt: skip
        whole = {name: np.ascontiguousarray(array) for name, array in given.items() if array is not None}
        weights = c_abi.new(c_abi.FullWeights, **{name: array.ctypes.data for name, array in whole.items()})
        packed: Array = c_abi.aligned(self.sizes(0, 0)["packed"])
        packed[:] = 0xFF
        _check(
            self.lib,
            self.lib.rnnk_pack_weights(self._plan, c.byref(weights), int(backward), packed.ctypes.data, packed.size),
        )
        return packed

    def forward(
        self, packed: Array, x: Array, h_0: Array | None, c_0: Array | None, y: Array, h_n: Array | None,
        c_n: Array | None, **more: Any,
    ) -> None:  # fmt: skip
        tensors = {"x": x, "h_0": h_0, "c_0": c_0, "y": y, "h_n": h_n, "c_n": c_n}
        self._call("forward", packed, tensors, {}, more)

    def backward(
        self, packed: Array, reserve: Array, x: Array, h_0: Array | None, c_0: Array | None, y: Array,
        dy: Array | None, dh_n: Array | None, dc_n: Array | None, **more: Any,
    ) -> None:  # fmt: skip
        tensors = {"x": x, "h_0": h_0, "c_0": c_0, "y": y, "dy": dy, "dh_n": dh_n, "dc_n": dc_n}
        tensors |= {name: more.pop(name) for name in ("dx", "dh_0", "dc_0", "dh") if name in more}
        pointers = {name: more.pop(name) for name in tuple(more) if name.startswith(("dweight", "dbias", "dparams"))}
        self._call("backward", packed, tensors, pointers, more | {"reserve": reserve})

    def forward_both(self, other: DevicePlan, *calls: dict[str, Any]) -> None:
        """Each call: packed, tensors by name, and what ``forward`` takes besides."""
        one, two = (
            plan._args("forward", call.pop("packed"), call.pop("tensors"), {}, call)
            for plan, call in zip((self, other), calls, strict=True)
        )
        _check(self.lib, self.lib.rnnk_forward_both(self._plan, c.byref(one[0]), other._plan, c.byref(two[0])))

    def stack(self, which: str, above: list[DevicePlan], calls: list[dict[str, Any]]) -> None:
        """rnnk_forward_stack or rnnk_backward_stack of this layer and those above it; each call as ``forward_both``'s
        or ``backward_both``'s."""
        plans = [self, *above]
        given = [
            plan._args(which, call.pop("packed"), call.pop("tensors"), call.pop("pointers", {}), call)
            for plan, call in zip(plans, calls, strict=True)
        ]
        array = c.c_void_p * len(plans)
        args = (c.POINTER(type(given[0][0])) * len(plans))(*(c.pointer(one) for one, _held in given))
        call = getattr(self.lib, f"rnnk_{which}_stack")
        _check(self.lib, call(array(*(p._plan.value for p in plans)), args, len(plans)))

    def backward_both(self, other: DevicePlan, *calls: dict[str, Any], room: bool = True) -> None:
        """Each call: packed, tensors and pointers by name, and what ``backward`` takes besides. room: for a second
        dx."""
        one, two = (
            plan._args("backward", call.pop("packed"), call.pop("tensors"), call.pop("pointers"), call)
            for plan, call in zip((self, other), calls, strict=True)
        )
        if room:
            size = c.c_size_t()
            args = two[0]
            status = self.lib.rnnk_backward_both_workspace(
                self._plan, other._plan, args.seq_len, args.batch, c.byref(size)
            )
            _check(self.lib, status)
            workspace = c_abi.aligned(size.value)
            workspace[:] = 0xFF
            args.workspace, args.workspace_size = workspace.ctypes.data, workspace.size
        _check(self.lib, self.lib.rnnk_backward_both(self._plan, c.byref(one[0]), other._plan, c.byref(two[0])))

    def _call(self, which: str, *given: Any) -> None:
        args, _held = self._args(which, *given)
        _check(self.lib, getattr(self.lib, f"rnnk_{which}")(self._plan, c.byref(args)))

    def _args(
        self,
        which: str,
        packed: Array,
        tensors: dict[str, Array | None],
        pointers: dict[str, Array],
        more: dict[str, Any],
    ) -> tuple[Any, Any]:
        """The C struct, and what must live as long."""
        x = tensors["x"]
        assert x is not None
        T, B = x.shape[:2]
        workspace = c_abi.aligned(self.sizes(T, B)[f"workspace_{which}"])
        workspace[:] = 0xFF  # NaN: what is read before it is written shows
        args = c_abi.new(
            c_abi.FullArgs, seq_len=T, batch=B, packed=packed.ctypes.data, workspace=workspace.ctypes.data,
            workspace_size=workspace.size,
        )  # fmt: skip
        for name, array in tensors.items():
            if array is not None:
                setattr(args, name, c_abi.tensor(array, _DTYPES[array.dtype.name]))
        held = {name: more.pop(name, None) for name in ("lengths", "mask", "reset")}
        for name, array in (pointers | held).items():
            if array is not None:
                assert array.flags.c_contiguous
                setattr(args, name, array.ctypes.data)
        reserve = more.pop("reserve", None)
        if reserve is not None:
            held_reserve = reserve if reserve.size else c_abi.aligned(64)  # NumPy's empty arrays may point anywhere
            args.reserve, args.reserve_size = held_reserve.ctypes.data, reserve.size
        random = more.pop("random", None)
        if random is not None:
            args.flags |= _TRAIN
            args.seed, args.call, args.stream, args.first_step = random
        args.clip_dh = more.pop("clip_dh", 0.0)
        args.flags |= c_abi.ACCUMULATE_DX if more.pop("accumulate_dx", False) else 0
        assert not more, f"unknown arguments {sorted(more)}"
        return args, (workspace, packed, tensors, pointers, held, reserve)
