"""The network of a call as a static value, and its operands as a pytree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _engine as engine
from .._engine.plans import SLOTS, places_of
from ..options import vector_rows

Array = Any  # a jax.Array or a tracer


class Operands(NamedTuple):
    """The arrays that a forward reads; None: absent, and zeros for the states."""

    x: Array  # [T, B, I]
    h_0: Array | None  # [L*D, B, P]
    c_0: Array | None  # [L*D, B, C]
    weights: tuple[Array, ...]  # by ``Network.weight_names``
    lengths: Array | None = None  # [B], int32 or int64
    mask: Array | None = None  # bool [T, B]
    reset: Array | None = None  # bool [T, B]
    random: Array | None = None  # uint32 [4]: seed (low, high), call, stream; random masks are drawn


_type_of = jax.typeof if hasattr(jax, "typeof") else jax.core.get_aval  # since JAX 0.7


def varying(arrays: Sequence[Array]) -> frozenset[str]:
    """The axes of a ``shard_map`` over which any of the arrays differs from shard to shard."""
    found: frozenset[str] = frozenset()
    for array in arrays:
        kind = _type_of(array)
        axes = getattr(kind, "manual_axis_type", None)  # since JAX 0.10; before 0.7 nothing is known
        found |= getattr(kind, "vma", frozenset()) if axes is None else axes.varying
    return found


def spread(array: Array, axes: frozenset[str]) -> Array:
    """The array as one that differs over these axes. The gradient of one that does not is then summed over them."""
    missing = tuple(sorted(axes - varying([array])))
    if not missing:
        return array
    return jax.lax.pcast(array, missing, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(array, missing)


def refuse_explicit(x: Array) -> None:
    """NotImplementedError where JAX tracks the sharding of x in its type: only Auto axes of a mesh are supported."""
    spec = getattr(getattr(_type_of(x), "sharding", None), "spec", None)
    if spec is not None and any(axis is not None for axis in spec):
        raise NotImplementedError(
            f"x: expected axes of type Auto in its mesh, got the explicit sharding {spec}; "
            "make the mesh with axis_types=(jax.sharding.AxisType.Auto,), or use jax.sharding.auto_axes"
        )


# Axes of operands and results by name; b is the batch, which alone may be sharded. Single letters are sizes.
AXES = {
    "x": "t b i", "h_0": "l b p", "c_0": "l b c", "y": "t b o", "h_n": "l b p", "c_n": "l b c", "lengths": "b",
    "mask": "t b", "reset": "t b", "random": "r", "reserve": "b q", "packed": "s",
}  # fmt: skip
AXES |= {f"d{name}": AXES[name] for name in ("x", "h_0", "c_0", "y", "h_n", "c_n")}


@dataclass(frozen=True)
class Network:
    """A network and its parameters in the library's form (rnnk_weights)."""

    spec: engine.Spec

    @cached_property
    def weight_names(self) -> tuple[str, ...]:
        """The fields of rnnk_weights, for each layer and direction one after the other."""
        rows = engine.plan(self.spec).param_rows
        return tuple(
            name
            for places in places_of(self.spec)
            for name, there in zip((*SLOTS, "params"), (*(at is not None for at in places), rows > 0), strict=True)
            if there
        )

    def weights(self, params: Mapping[str, Array]) -> tuple[Array, ...]:
        """The parameters by name, in the library's form."""
        spec, given = self.spec, [params[name] for name in self.spec.param_names]
        rows, each, found = engine.plan(spec).param_rows, len(spec.own_names), []
        for index, places in enumerate(places_of(spec)):
            found += [given[at] for at in places if at is not None]
            if rows:
                own = dict(zip(spec.own_names, given[index * each : (index + 1) * each], strict=True))
                blocks = [
                    own[name].reshape(-1, spec.hidden_size)
                    if name in own
                    else jnp.zeros((spec.rows_of(name), spec.hidden_size), spec.dtype)
                    for name in vector_rows(spec.options, list(own), spec.bias)
                ]
                found.append(jnp.concatenate(blocks))
        return tuple(found)

    def own_params(self, weights: Sequence[Array]) -> list[dict[str, Array]]:
        """The parameters of each layer and direction by their names without suffix, from ``weights``."""
        spec, left, found = self.spec, iter(weights), []
        rows = engine.plan(spec).param_rows
        for layer in range(spec.num_layers):
            shapes = spec._layer_shapes(spec.layer_input_size(layer))
            in_rows = vector_rows(spec.options, list(shapes), spec.bias)
            for _ in range(spec.directions):
                own = {name: next(left) for name in SLOTS if name in shapes and name not in in_rows}
                block: Any = next(left) if rows else None
                row = 0
                for name in in_rows:
                    count = spec.rows_of(name)
                    if name in shapes:
                        own[name] = block[row : row + count].reshape(shapes[name])
                    row += count
                found.append(own)
        return found

    def state_dtype(self) -> Any:
        return jnp.dtype(self.spec.state_dtype)

    def reserve_width(self, seq_len: int, drop: bool) -> int:
        """Bytes a row of the reserve [B, .], of which every number of rows is enough for as many, and for a stamp."""
        return -(-engine.reserve_bytes(self.spec, seq_len, 1, drop) // 64) * 64 + 64
