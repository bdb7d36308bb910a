"""From specs to plans, packed weights and sizes, all of the native library; plans live in a bounded cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .. import _core
from .._cuda_libs import cublaslt
from ..options import vector_rows
from .spec import Array, Bytes, Memory, Spec, host_bytes

SLOTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # rnnk_weights but for params, its last field

gpus_used: set[int] = set()  # what rnnkern.check asks


@lru_cache(maxsize=1)
def _find_cublaslt() -> None:
    """Once, before the first plan of a GPU."""
    path = cublaslt()
    if path is not None:
        _core.set_cublaslt(path)


# Bound: a plan is a few kilobytes; 256 distinct networks are more than one process uses at a time. functools.lru_cache
# is thread-safe, and holds no lock that a fork could catch taken.
@lru_cache(maxsize=256)
def plan(spec: Spec) -> _core.Plan:
    return _core.Plan(spec.cell, spec.dtype, spec.columns, spec.hidden_size, kernel=spec.kernel, **native(spec))


def native(spec: Spec) -> dict[str, object]:
    """The keywords of ``_core.Plan`` and ``_core.explain``."""
    keywords = spec.options.native() | {
        "num_layers": spec.num_layers,
        "direction": "both" if spec.bidirectional else "reverse" if spec.reverse else "forward",
        "bias": spec.bias,
        "dropout": spec.dropout,
        "recompute": spec.recompute,
        "int8": spec.weights == "int8",
        "bf16_weights": spec.weights == "bf16",
        "given_gx": spec.given_gx,
    }
    if spec.gpu is not None:
        _find_cublaslt()
        gpus_used.add(spec.gpu)
        keywords |= {"device": "cuda", "device_index": spec.gpu, "tf32": spec.allow_tf32}
    return keywords


def pack(
    spec: Spec,
    params: Sequence[Array],
    *,
    forward: bool = True,
    backward: bool = True,
    memory: Memory | None = None,
    rows: Sequence[Array | None] | None = None,
) -> _core.Packed:
    """Pack parameters given in the order of ``spec.param_names``, for forward, for backward or for both.

    memory: of a GPU's plans, where the pack goes and on which stream; the parameters are contiguous there. rows: what
    ``vectors`` made of them; None makes it anew.
    """
    if spec.gpu is not None and (memory is None or memory.gpu is None):
        raise ValueError(f"memory: expected that of {spec.device}, got none")
    if len(params) != len(spec.param_names):
        raise ValueError(
            f"params: expected {len(spec.param_names)} arrays in the order of param_names, got {len(params)}"
        )
    network = plan(spec)
    if rows is None:
        rows = vectors(spec, params, memory)
    weights: list[Array | None] = []
    for places, row in zip(places_of(spec), rows, strict=True):
        weights += [None if at is None else params[at] for at in places]
        weights.append(row)
    into, stream = None, 0
    if memory is not None and memory.gpu is not None:
        into, stream = memory.block(network.sizes(0, 0)["packed"]), memory.gpu.stream
    return network.pack(weights, forward, backward, into, stream)


@lru_cache(maxsize=128)
def places_of(spec: Spec) -> tuple[tuple[int | None, ...], ...]:
    """[L*D] where SLOTS stand among the parameters; None: there is none, it is not read, or in ``vectors``."""
    names = spec.own_names
    in_block = vector_rows(spec.options, list(names), spec.bias)
    own = [name if name in names and name not in in_block else None for name in SLOTS]
    return tuple(
        tuple(
            index * len(names) + names.index(name) if name and spec.is_read(index // spec.directions, name) else None
            for name in own
        )
        for index in range(spec.num_layers * spec.directions)
    )


def vectors(spec: Spec, params: Sequence[Array], memory: Memory | None = None) -> list[Array | None]:
    """[L*D] the parameters that are one number a unit, as rows [K, H] (rnnk_weights.params), or None."""
    count, rows = spec.num_layers * spec.directions, plan(spec).param_rows
    return [_vectors(spec, rows, index, params, memory) if rows else None for index in range(count)]


def _vectors(spec: Spec, rows: int, index: int, params: Sequence[Array], memory: Memory | None) -> Array:
    each = len(spec.own_names)
    own = dict(zip(spec.own_names, params[index * each : (index + 1) * each], strict=True))
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


@lru_cache(maxsize=128)
def _bound(spec: Spec) -> tuple[int, int, int, int, int]:
    return plan(spec).reserve_bound


def reserve_bytes(spec: Spec, seq_len: int, batch: int, drop: bool) -> int:
    """Bytes of ``forward``'s reserve (rnnk_reserve_bound). drop: with dropout between layers. T and B may be
    symbols of a compiler."""
    constant, row, dropped_row, border_row, border = _bound(spec)
    nbytes = constant + (dropped_row if drop else row) * seq_len * batch
    if spec.recompute:
        nbytes += math.ceil(1.6 * seq_len**0.5) * (border_row * batch + border)
    return nbytes


def new_reserve(spec: Spec, seq_len: int, batch: int, drop: bool, memory: Memory | None = None) -> Bytes:
    """One block of bytes, so that a framework can save, move or offload it as any tensor. memory: None for the host."""
    nbytes = reserve_bytes(spec, seq_len, batch, drop)
    return host_bytes(nbytes) if memory is None else memory.block(nbytes)
