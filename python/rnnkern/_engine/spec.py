"""A network call as data: the network (``Spec``), what training keeps of a call (``Tape``), what backward gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..options import NEUTRAL, Options, layer_shapes

Array = Any  # a NumPy array, a torch tensor, or an array of another library on a GPU (devices.py)
Bytes = Any  # uint8 [n], 64-byte aligned


def host_bytes(nbytes: int) -> Bytes:
    return np.frombuffer(memoryview(_core.Block(nbytes)), np.uint8, nbytes)


class Gpu(NamedTuple):
    """Where and how a call's work goes on a GPU."""

    stream: int  # cudaStream_t
    capturing: bool = False  # what is put on the stream is recorded in a CUDA graph and does not run yet


class Memory(NamedTuple):
    """New arrays of the caller's library, by a shape and a dtype's name.

    gpu: None in host memory, where the binding has workspaces of its own; there, ``block`` makes a reserve.
    """

    empty: Callable[[tuple[int, ...], str], Array]
    gpu: Gpu | None = None

    def block(self, nbytes: int) -> Bytes:
        """Bytes that a caller keeps."""
        if self.gpu is not None:
            return self.empty((nbytes,), "uint8")
        return host_bytes(nbytes)


_CELLS = {name: (gates, states) for name, gates, states, *_ in _core.cells()}
_KERNELS = {name for name, _ in _core.kernels()}  # cpu_... and cuda_...
STATE_DTYPE = {"float32": "float32", "float64": "float64", "bfloat16": "float32", "float16": "float32"}


def forced_kernel(device: str) -> str | None:
    """``RNNKERN_KERNEL``, which forces one device's kernels: problems of the other choose freely."""
    name = os.environ.get("RNNKERN_KERNEL") or None
    if name is not None and name in _KERNELS and name.startswith("cuda_") != (device != "cpu"):
        return None
    return name


def check_takes_gx(options: Options, device: str) -> None:
    if device != "cpu" or options.layer_norm:
        got = f"on {device}" if device != "cpu" else "with layer_norm, which normalises W_ih x"
        raise NotImplementedError(f"gx: expected a layer on the CPU without layer_norm, got one {got}")


WEIGHTS = ("int8", "bf16")


@dataclass(frozen=True)
class Spec:
    """A stack of layers of one cell: all that decides plans, parameter shapes and random masks.

    recompute: backward runs the forward again instead of keeping its gates (RNNK_PROBLEM_RECOMPUTE).
    kernel: force one by name. None takes ``RNNKERN_KERNEL`` as it is when the spec is made (so a layer keeps the kernel
    it was built with), if that is one of the device's, else the smallest estimate.
    """

    cell: str
    dtype: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    bidirectional: bool = False
    dropout: float = 0.0
    kernel: str | None = None
    recompute: bool = False
    reverse: bool = False  # one direction, each row walked from its last valid step to step 0
    options: Options = NEUTRAL
    device: str = "cpu"  # or "cuda:0", "cuda:1", ...
    allow_tf32: bool = False  # float32 on a GPU: products may round their operands to 10 bits of mantissa
    weights: str | None = None  # the form that a pack keeps them in, for inference; None: the dtype
    given_gx: bool = False  # x of a call is gx of the first layer, whose W_ih is not read (RNNK_PROBLEM_GIVEN_GX)

    def __post_init__(self) -> None:
        if self.cell not in _CELLS:
            raise ValueError(f"cell: expected one of {', '.join(_CELLS)}, got {self.cell!r}")
        if self.dtype not in STATE_DTYPE:
            raise TypeError(f"dtype: expected one of {', '.join(STATE_DTYPE)}, got {self.dtype!r}")
        for name in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.dropout <= 1.0:
            raise ValueError(f"dropout: expected a probability in [0, 1], got {self.dropout}")
        if self.reverse and self.bidirectional:
            raise ValueError("reverse: expected False where bidirectional is True, which has both directions")
        if self.allow_tf32 and (self.dtype != "float32" or self.gpu is None):
            raise ValueError(f"allow_tf32: expected False for {self.dtype} on {self.device}; TF32 is float32 on a GPU")
        if self.weights is not None:
            if self.weights not in WEIGHTS:
                raise ValueError(f"weights: expected {' or '.join(map(repr, WEIGHTS))} or None, got {self.weights!r}")
            if self.dtype not in ("float32", "float16") or self.gpu is not None:
                raise NotImplementedError(
                    f"weights={self.weights!r}: expected a layer of float32 or float16 on the CPU, "
                    f"got {self.dtype} on {self.device}"
                )
        if self.given_gx:
            check_takes_gx(self.options, self.device)
        if self.kernel is None:
            object.__setattr__(self, "kernel", forced_kernel(self.device))

    def __hash__(self) -> int:
        """Computed once: every call looks its plans up by it."""
        try:
            return self._hash  # type: ignore[attr-defined,no-any-return]
        except AttributeError:
            known = hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))
            object.__setattr__(self, "_hash", known)
            return known

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # the hash is this process's own

    @cached_property
    def gpu(self) -> int | None:
        """CUDA's number of the GPU, None for the CPU."""
        return int(self.device.partition(":")[2]) if self.device != "cpu" else None

    @cached_property
    def gates(self) -> int:
        return _CELLS[self.cell][0]

    @cached_property
    def states(self) -> int:
        """1: h; 2: h and c; 4: h, c, n and m."""
        return _CELLS[self.cell][1]

    @cached_property
    def cell_units(self) -> int:
        """Entries a row of all states behind h, which stand side by side: C = (states - 1) * H."""
        return (self.states - 1) * self.hidden_size

    @cached_property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @cached_property
    def outputs(self) -> int:
        """P: entries of h, H without a projection."""
        return self.options.proj_size or self.hidden_size

    @cached_property
    def columns(self) -> int:
        """Columns of a call's x: I, or D*G*H where it is gx."""
        return self.directions * self.gates * self.hidden_size if self.given_gx else self.input_size

    def is_read(self, layer: int, name: str) -> bool:
        """Whether a call reads a parameter, which is named as in ``own_names``."""
        return not (self.given_gx and layer == 0 and name in ("weight_ih", "bias_ih"))

    @cached_property
    def own_names(self) -> tuple[str, ...]:
        """Parameters of one layer in one direction, without suffix, in their order."""
        return tuple(self._layer_shapes(self.input_size))

    def rows_of(self, name: str) -> int:
        """How many rows of H numbers a parameter has."""
        return int(np.prod(self._layer_shapes(self.input_size).get(name, (self.hidden_size,)))) // self.hidden_size

    def _layer_shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        return layer_shapes(self.options, self.gates, self.states, input_size, self.hidden_size, self.bias)

    @cached_property
    def param_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, in the order of ``param_names``."""
        return {
            name + suffix: shape
            for layer in range(self.num_layers)
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: self.directions]
            for name, shape in self._layer_shapes(self.layer_input_size(layer)).items()
        }

    @cached_property
    def param_names(self) -> tuple[str, ...]:
        """``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ... in the order of torch's ``named_parameters()``."""
        return tuple(self.param_shapes)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.param_shapes.values())

    @cached_property
    def state_dtype(self) -> str:
        """dtype of c_n and of state gradients: float32 for half types, so that pieces give the bits of the whole."""
        return STATE_DTYPE[self.dtype]

    def layer_input_size(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.directions * self.outputs


class Marks(NamedTuple):
    """Steps of rows that are left out (mask False) or begin anew (reset True): bool [T, B], contiguous, or None.

    NumPy arrays; on a GPU, arrays of the caller's library. A reset stands before its step: nothing passes from step
    t - 1 to step t, in either direction.
    """

    mask: Any = None
    reset: Any = None


NO_MARKS = Marks()


class Inputs(NamedTuple):
    """What a forward reads, the weights excepted. Every array is checked by the caller."""

    x: Array  # [T, B, I], any strides; with given_gx, gx [T, B, D*G*H]
    h_0: Array | None = None  # [L*D, B, P]; None: zeros
    c_0: Array | None = None  # [L*D, B, C] (``Spec.cell_units``); None: zeros
    lengths: Any = (
        None  # contiguous int64 [B]: a NumPy array, or on a GPU an array there, which kernels clamp to [0, T]
    )
    masks: tuple[int, int] | None = (
        None  # (seed, call): dropout and the cell's random masks are drawn; None: they are not
    )
    marks: Marks = NO_MARKS


class Tape(NamedTuple):
    """What a training forward keeps for ``backward``. Holds references, not copies; read, never written to."""

    spec: Spec
    inputs: Inputs
    y: Array  # [T, B, D*P]
    reserve: Bytes


class OutputGradients(NamedTuple):
    """What reaches a network from above; None counts as zeros."""

    y: Array | None = None  # [T, B, D*P]
    h_n: Array | None = None  # [L*D, B, P]
    c_n: Array | None = None  # [L*D, B, C]


class Wanted(NamedTuple):
    """Which gradients ``backward`` computes; nothing is computed for the others."""

    x: bool = True
    state: bool = True
    params: Sequence[bool] | bool = True  # one flag for all, or one for each of ``Spec.param_names``
    steps: bool = False  # also of every h_t (``Gradients.steps``)
    clip_step: float = 0.0  # bound of the elements of that gradient, at each step; 0: none


EVERYTHING = Wanted()


class Gradients(NamedTuple):
    """x like the x of the call; h [L*D, B, P], c [L*D, B, C]; params aligned with ``Spec.param_names``; None where not
    asked for.

    steps: [L] each [T, B, D*P], of every h_t through all that follows it, where a probe was asked for.
    """

    x: Array | None
    h: Array | None
    c: Array | None
    params: list[Array | None]
    steps: list[Array] | None = None
