"""What a training forward of a layer or cell hands to its backward, and the checks that it still holds.

The tape refers to the caller's x and y instead of copying them, so it takes a checksum of x (and of y, where y is not a
read-only NumPy array) and compares it before BPTT. The checksum is zlib's CRC-32 of the bytes: it notices every change
within 32 neighbouring bits, any other with probability 1 - 2^-32 (sign flips and permutations too, which sums miss),
and reads 4 to 6 GB/s, that is 0.2 ms a megabyte: a few percent of a training step at I = H = 64, less above. On a GPU
there is none: the host would wait.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _engine as engine
from .._arrays.devices import Caller
from .._arrays.host import MEMORY as MEMORY
from .._arrays.host import Array

if TYPE_CHECKING:
    from .parameters import Module, Weights


@dataclass(frozen=True)
class Gradients:
    """Gradients of a layer or cell, as arrays of the library of x.

    x: like x, or None if need_x was False.
    state: like the state ((dh_0, dc_0) for LSTM, four arrays for sLSTM); float32 for bfloat16 and float16.
    params: by the names of ``state_dict``.
    gx: like gx where the forward was given one; x is then None, and the gradients of weight_ih and bias_ih of the first
        layer are zero.
    steps: with probe=True, the gradient of every h_t, [T, B, D*P] for each layer; else None.
    """

    x: Array | None
    state: Any
    params: dict[str, Array]
    steps: list[Array] | None = None  # with a probe: of every h_t, [T, B, D*P] for each layer
    gx: Array | None = None


@dataclass(frozen=True, repr=False)
class Tape:
    """The record of one training forward. Pass it to ``backward`` of the layer or cell that made it."""

    module: Module
    weights: Weights
    inner: engine.Tape
    library: Caller
    x_shape: tuple[int, ...]  # as the caller had it
    checked: tuple[tuple[str, np.ndarray[Any, Any], int], ...]  # (name, array, checksum)

    def check(self, module: Module, weights: Weights) -> None:
        """Raises ValueError unless this is a tape of ``module`` with these weights, and x and y did not change."""
        if self.module is not module:
            raise ValueError(f"tape: expected a tape of this {module!r}, got one of another {self.module!r}")
        if self.weights is not (weights.with_gx if self.inner.spec.given_gx else weights):
            raise ValueError("tape: the parameters were updated since its forward; run forward again")
        for name, array, checksum in self.checked:
            if fingerprint(array) != checksum:
                raise ValueError(f"tape: {name} was changed since its forward; BPTT needs it as it was")

    def __repr__(self) -> str:
        return f"<tape of {self.module!r}, x {list(self.x_shape)}>"


def fingerprint(array: np.ndarray[Any, Any]) -> int:
    """CRC-32 of an array's bytes, read in memory order where it is dense and from a copy where it has gaps."""
    if array.flags.c_contiguous:
        return zlib.crc32(array.view(np.uint8).data)
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    dense = np.ascontiguousarray(array.transpose(order))
    return zlib.crc32(dense.reshape(-1).view(np.uint8).data)
