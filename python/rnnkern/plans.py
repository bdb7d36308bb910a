"""From specs to plans and packed weights, both of the native library; plans live in bounded caches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from . import _core
from .options import Options, vector_rows
from .spec import Array, Spec


# Bounds: a plan is a few hundred bytes; 256 distinct problems and 128 stacks are more than one process uses at a time.
# functools.lru_cache is thread-safe, and holds no lock that a fork could catch taken.
@lru_cache(maxsize=256)
def _plan(
    cell: str,
    dtype: str,
    input_size: int,
    hidden_size: int,
    bias: bool,
    reverse: bool,
    recompute: bool,
    kernel: str | None,
    options: Options,
    masked: bool,
) -> _core.Plan:
    native = options.native() | ({"masked": True} if masked else {})
    return _core.Plan(
        cell, dtype, input_size, hidden_size, bias=bias, reverse=reverse, recompute=recompute, kernel=kernel, **native
    )


@lru_cache(maxsize=128)
def plans(spec: Spec, masked: bool = False) -> tuple[_core.Plan, ...]:
    """[L*D] plans. Stacks that differ only in dropout or depth share theirs. masked: for calls with ``Marks``.

    Both kinds read the same packed weights.
    """
    return tuple(
        _plan(
            spec.cell,
            spec.dtype,
            spec.layer_input_size(layer),
            spec.hidden_size,
            spec.bias,
            direction == 1 or spec.reverse,
            spec.recompute,
            plans(spec)[layer * spec.directions + direction].kernel if masked else spec.kernel,
            spec.options,
            masked,
        )
        for layer in range(spec.num_layers)
        for direction in range(spec.directions)
    )


def pack(spec: Spec, params: Sequence[Array], backward: bool = True, forward: bool = True) -> tuple[_core.Packed, ...]:
    """Pack parameters given in the order of ``spec.param_names``, for forward, for backward or for both."""
    if len(params) != len(spec.param_names):
        raise ValueError(
            f"params: expected {len(spec.param_names)} arrays in the order of param_names, got {len(params)}"
        )
    each = len(spec.own_names)
    packed = []
    for index, plan in enumerate(plans(spec)):
        own = dict(zip(spec.own_names, params[index * each : (index + 1) * each], strict=True))
        vectors = None
        if plan.param_rows:
            vectors = _vectors(spec, plan.param_rows, own)
        packed.append(
            plan.pack(
                own["weight_ih"],
                own.get("weight_hh"),
                own.get("bias_ih"),
                own.get("bias_hh"),
                backward,
                forward,
                weight_hr=own.get("weight_hr"),
                params=vectors,
            )
        )
    return tuple(packed)


def _vectors(spec: Spec, rows: int, own: dict[str, Array]) -> Array:
    """The parameters that are one number a unit, as rows [K, H] (rnnk_weights.params); they leave ``own``."""
    first = _core.as_numpy(own["weight_ih"])
    out = np.zeros((rows, spec.hidden_size), first.dtype)
    row = 0
    for name in vector_rows(spec.options, list(own), spec.bias):
        if name in own:  # an absent bias is zero
            block = _core.as_numpy(own.pop(name)).reshape(-1, spec.hidden_size)
            out[row : row + len(block)] = block
        row += spec.rows_of(name)
    return out
