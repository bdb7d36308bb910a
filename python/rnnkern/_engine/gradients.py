"""Where BPTT writes the gradients of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ..options import vector_rows
from .plans import SLOTS, plan
from .spec import Array, Memory, Spec


@lru_cache(maxsize=128)
def _slots(spec: Spec) -> tuple[int | None, ...]:
    """Where SLOTS stand among the parameters of one layer in one direction; None: there is none, or in the block."""
    names, places = spec.own_names, _rows_of_block(spec)
    return tuple(names.index(name) if name in names and places[names.index(name)] is None else None for name in SLOTS)


@lru_cache(maxsize=128)
def _rows_of_block(spec: Spec) -> tuple[tuple[int, int] | None, ...]:
    """For each parameter of one layer in one direction its rows of the block that all vectors are in (plans.vectors),
    None for matrices and plain biases."""
    names = spec.own_names
    where: dict[str, tuple[int, int]] = {}
    row = 0
    for name in vector_rows(spec.options, list(names), spec.bias):
        where[name] = (row, row + spec.rows_of(name))
        row += spec.rows_of(name)
    return tuple(where.get(name) for name in names)


def new_gradients(spec: Spec, needs: Sequence[bool], memory: Memory) -> tuple[list[Array | None], list[Array | None]]:
    """The parameters' gradients in the order of ``spec.param_names``, and the same as ``_core.Plan.backward`` takes
    them: six for each layer and direction."""
    places, slots, rows = _rows_of_block(spec), _slots(spec), plan(spec).param_rows
    each = len(places)
    grads: list[Array | None] = []
    given: list[Array | None] = []
    for first in range(0, len(needs), each):
        layer = first // each // spec.directions
        needed = needs[first : first + each]
        block = None
        if rows and any(need and place is not None for need, place in zip(needed, places, strict=True)):
            block = memory.empty((rows, spec.hidden_size), spec.dtype)
        own: list[Array | None] = []
        for place, shape, need in zip(places, spec.shapes[first : first + each], needed, strict=True):
            if not need:
                own.append(None)
            elif place is None:
                own.append(memory.empty(shape, spec.dtype))
            else:
                own.append(block[slice(*place)].reshape(shape))  # type: ignore[index]
        grads += own
        for name, at in zip(SLOTS, slots, strict=True):
            to = None if at is None else own[at]
            if to is not None and not spec.is_read(layer, name):
                to[...] = 0
                to = None
            given.append(to)
        given.append(block)
    return grads, given
