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
    each = len(spec.own_names)
    into, stream = None, 0
    packed = []
    for index, plan in enumerate(plans(spec)):
        own = dict(zip(spec.own_names, params[index * each : (index + 1) * each], strict=True))
        block = None
        if plan.param_rows:
            block = _vectors(spec, plan.param_rows, own, memory) if rows is None else rows[index]
            for name in vector_rows(spec.options, list(own), spec.bias):
                own.pop(name, None)
        if memory is not None and memory.gpu is not None:
            into, stream = memory.block(plan.sizes(0, 0)["packed"]), memory.gpu.stream
        packed.append(
            plan.pack(
                own["weight_ih"],
                own.get("weight_hh"),
                own.get("bias_ih"),
                own.get("bias_hh"),
                backward,
                forward,
                own.get("weight_hr"),
                block,
                into,
                stream,
            )
        )
    return tuple(packed)


def vectors(spec: Spec, params: Sequence[Array], memory: Memory | None = None) -> list[Array | None]:
    """[L*D] of ``pack``: the parameters that are one number a unit, as rows [K, H] (rnnk_weights.params), or None."""
    each = len(spec.own_names)
    return [
        _vectors(
            spec, plan.param_rows, dict(zip(spec.own_names, params[i * each : (i + 1) * each], strict=True)), memory
        )
        for i, plan in enumerate(plans(spec))
    ]


def _vectors(spec: Spec, rows: int, own: dict[str, Array], memory: Memory | None) -> Array | None:
    if not rows:
        return None
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
