"""From specs to plans and packed weights, both of the native library; plans live in bounded caches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from . import _core
from ._cuda_libs import cublaslt
from .options import Options, vector_rows
from .spec import Array, Memory, Spec

gpus_used: set[int] = set()  # what rnnkern.check asks


@lru_cache(maxsize=1)
def _find_cublaslt() -> None:
    """Once, before the first plan of a GPU."""
    path = cublaslt()
    if path is not None:
        _core.set_cublaslt(path)


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
    gpu: int | None,
    tf32: bool,
) -> _core.Plan:
    native = options.native() | ({"masked": True} if masked else {})
    if gpu is not None:
        _find_cublaslt()
        gpus_used.add(gpu)
        native |= {"device": "cuda", "device_index": gpu, "tf32": tf32}
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
            spec.gpu,
            spec.allow_tf32,
        )
        for layer in range(spec.num_layers)
        for direction in range(spec.directions)
    )


def pack(
    spec: Spec,
    params: Sequence[Array],
    backward: bool = True,
    forward: bool = True,
    memory: Memory | None = None,
    rows: Sequence[Array | None] | None = None,
) -> tuple[_core.Packed, ...]:
    """Pack parameters given in the order of ``spec.param_names``, for forward, for backward or for both.

    memory: of a GPU's plans, where the packs go and on which stream; the parameters are contiguous there. rows: what
    ``vectors`` made of them; None makes it anew.
    """
    if spec.gpu is not None and (memory is None or memory.gpu is None):
        raise ValueError(f"memory: expected that of {spec.device}, got none")
    if len(params) != len(spec.param_names):
        raise ValueError(
            f"params: expected {len(spec.param_names)} arrays in the order of param_names, got {len(params)}"
        )
    into, stream = None, 0
    packed = []
    for index, (plan, places) in enumerate(zip(plans(spec), _places(spec), strict=True)):
        weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = [None if at is None else params[at] for at in places]
        block = None
        if plan.param_rows:
            block = _vectors(spec, index, params, memory) if rows is None else rows[index]
        if memory is not None and memory.gpu is not None:
            into, stream = memory.block(plan.sizes(0, 0)["packed"]), memory.gpu.stream
        packed.append(
            plan.pack(weight_ih, weight_hh, bias_ih, bias_hh, backward, forward, weight_hr, block, into, stream)
        )
    return tuple(packed)


@lru_cache(maxsize=128)
def _places(spec: Spec) -> tuple[tuple[int | None, ...], ...]:
    """[L*D] where each plan's weight_ih, weight_hh, bias_ih, bias_hh and weight_hr stand among the parameters; None: it
    has none, or in another form (``vectors``)."""
    names = spec.own_names
    in_block = vector_rows(spec.options, list(names), spec.bias)
    own = [
        names.index(name) if name in names and name not in in_block else None
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ]
    return tuple(
        tuple(None if at is None else index * len(names) + at for at in own)
        for index in range(spec.num_layers * spec.directions)
    )


def vectors(spec: Spec, params: Sequence[Array], memory: Memory | None = None) -> list[Array | None]:
    """[L*D] of ``pack``: the parameters that are one number a unit, as rows [K, H] (rnnk_weights.params), or None."""
    return [
        _vectors(spec, index, params, memory) if plan.param_rows else None for index, plan in enumerate(plans(spec))
    ]


def _vectors(spec: Spec, index: int, params: Sequence[Array], memory: Memory | None) -> Array:
    each = len(spec.own_names)
    own = dict(zip(spec.own_names, params[index * each : (index + 1) * each], strict=True))
    rows = plans(spec)[index].param_rows
    on_gpu = memory is not None and memory.gpu is not None
    if on_gpu:
        out = memory.empty((rows, spec.hidden_size), spec.dtype)  # type: ignore[union-attr]
        out[...] = 0
    else:
        out = np.zeros((rows, spec.hidden_size), _core.as_numpy(own["weight_ih"]).dtype)
    row = 0
    for name in vector_rows(spec.options, list(own), spec.bias):
        if name in own:  # an absent bias is zero
            block = (own[name] if on_gpu else _core.as_numpy(own[name])).reshape(-1, spec.hidden_size)
            out[row : row + len(block)] = block
        row += spec.rows_of(name)
    return out
