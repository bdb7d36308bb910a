"""What a training forward keeps: one block of bytes, so that a framework can save, move or offload it as it does any
tensor. It holds each plan's reserve, and for stacks the outputs of the layers below the last, before and after dropout.
Its size is a formula of T and B, which a compiler that knows them as symbols can write down.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from .plans import plans
from .spec import ITEM_SIZE, Array, Bytes, Memory, Spec, host_bytes

_LINE = 64
_PIECES = 16  # a plan's reserve has no more parts than this, each rounded up to a line


def reserve_bytes(spec: Spec, seq_len: int, batch: int, drop: bool) -> int:
    """Bytes of ``forward``'s reserve. drop: with dropout between layers (``dropping``). T and B may be symbols."""
    rows, borders, fixed = _reserve_rows(spec, drop)
    nbytes = seq_len * batch * rows + fixed
    if (
        spec.recompute
    ):  # segments have at least sqrt(0.4 T) steps (core/recompute.cpp), so there are fewer borders than this
        nbytes += math.ceil(1.6 * seq_len**0.5) * (batch * borders + 2 * _LINE * len(plans(spec)))
    return nbytes


def new_reserve(spec: Spec, seq_len: int, batch: int, drop: bool, memory: Memory | None = None) -> Bytes:
    """memory: None for host memory."""
    nbytes = reserve_bytes(spec, seq_len, batch, drop)
    return host_bytes(nbytes) if memory is None else memory.block(nbytes)


@lru_cache(maxsize=128)
def _reserve_rows(spec: Spec, drop: bool) -> tuple[int, int, int]:
    """(bytes for each row of each step, for each row of each border between segments, beside)."""
    rows = borders = 0
    if spec.recompute:
        border = ITEM_SIZE[spec.dtype] + (spec.states - 1) * ITEM_SIZE[spec.state_dtype]
        borders = len(plans(spec)) * max(spec.hidden_size, spec.outputs) * border
    else:
        rows = sum(plan.sizes(1, _LINE)["reserve"] for plan in plans(spec)) // _LINE
    below = (spec.num_layers - 1) * (2 if drop else 1)
    rows += below * spec.directions * spec.outputs * ITEM_SIZE[spec.dtype]
    return rows, borders, _LINE * (spec.num_layers * spec.directions * _PIECES + below)


def _lines(nbytes: int) -> int:
    return -(-nbytes // _LINE) * _LINE


class _Shelf(NamedTuple):
    """Where what lies in a reserve: each plan's own; outputs, and dropped outputs, of the layers below the last."""

    nbytes: int
    own: tuple[slice, ...]
    outputs: tuple[slice, ...]
    inputs: tuple[slice, ...]


@lru_cache(maxsize=256)
def _shelf(spec: Spec, seq_len: int, batch: int, drop: bool) -> _Shelf:
    at = 0

    def take(size: int) -> slice:
        nonlocal at
        at += _lines(size)
        return slice(at - _lines(size), at - _lines(size) + size)

    own = tuple(take(plan.sizes(seq_len, batch)["reserve"]) for plan in plans(spec))
    size = seq_len * batch * spec.directions * spec.outputs * ITEM_SIZE[spec.dtype]
    outputs = tuple(take(size) for _ in range(spec.num_layers - 1))
    inputs = tuple(take(size) for _ in outputs) if drop else ()
    nbytes = reserve_bytes(spec, seq_len, batch, drop)
    assert at <= nbytes, f"the reserve has {nbytes} bytes and needs {at}"
    return _Shelf(nbytes, own, outputs, inputs)


def shelves(
    spec: Spec, seq_len: int, batch: int, drop: bool, reserve: Bytes, memory: Memory
) -> tuple[tuple[Bytes, ...], list[Array], list[Array]]:
    """Of a reserve: each plan's own; the outputs of all layers but the last; the inputs of all layers but the first."""
    shelf = _shelf(spec, seq_len, batch, drop)
    if reserve.shape[0] < shelf.nbytes:
        raise ValueError(f"reserve: expected at least {shelf.nbytes} bytes, got {reserve.shape[0]}")
    shape = (seq_len, batch, spec.directions * spec.outputs)
    outputs = [memory.view(reserve[where], shape, spec.dtype) for where in shelf.outputs]
    inputs = [memory.view(reserve[where], shape, spec.dtype) for where in shelf.inputs] if drop else outputs
    return tuple(reserve[where] for where in shelf.own), outputs, inputs
