"""Where BPTT writes the gradients of parameters, and how far down it must go for those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from .options import vector_rows
from .spec import Array, Memory, Spec


@lru_cache(maxsize=128)
def _rows_of_block(spec: Spec) -> tuple[tuple[int, int] | None, ...]:
    """Of each parameter of one layer in one direction: its rows of the block that all vectors are in (plans._vectors),
    None for matrices and plain biases."""
    names = spec.own_names
    where: dict[str, tuple[int, int]] = {}
    row = 0
    for name in vector_rows(spec.options, list(names), spec.bias):
        where[name] = (row, row + spec.rows_of(name))
        row += spec.rows_of(name)
    return tuple(where.get(name) for name in names)


def new_gradients(
    spec: Spec, rows: int, index: int, needs: Sequence[bool], memory: Memory
) -> tuple[list[Array | None], dict[str, Array | None]]:
    """Of one layer in one direction: its parameters' gradients, and the same as the binding takes them."""
    places = _rows_of_block(spec)
    each = len(places)
    own = slice(index * each, (index + 1) * each)
    block = None
    if rows and any(need and place is not None for need, place in zip(needs[own], places, strict=True)):
        block = memory.empty((rows, spec.hidden_size), spec.dtype)
    grads: list[Array | None] = []
    for place, shape, need in zip(places, spec.shapes[own], needs[own], strict=True):
        if not need:
            grads.append(None)
        elif place is None:
            grads.append(memory.empty(shape, spec.dtype))
        else:
            grads.append(block[slice(*place)].reshape(shape))  # type: ignore[index]
    given: dict[str, Array | None] = {"dparams": block} if rows else {}
    for name, place, grad in zip(spec.own_names, places, grads, strict=True):
        if place is None:
            given["d" + name] = grad
    return grads, given


def lowest_layer(spec: Spec, everything: bool, needs: Sequence[bool]) -> int:
    """The lowest layer BPTT must visit; num_layers when nothing is needed. x and the states need every layer."""
    if everything:
        return 0
    per_layer = len(needs) // spec.num_layers
    return next((index // per_layer for index, need in enumerate(needs) if need), spec.num_layers)
