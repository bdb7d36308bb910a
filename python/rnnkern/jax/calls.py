"""The library's calls as operations of XLA: forward, backward and packing, sharded over the batch without gathering it.

``vmap`` of a call whose weights are not mapped is one call with more rows; otherwise it is a call for each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from .. import _core
from .. import _engine as engine
from .network import AXES, Array, Network, Operands, spread, varying

TARGET = "rnnkern"


@lru_cache(maxsize=1)
def _register() -> None:
    jax.ffi.register_ffi_target(TARGET, _core.xla_handler(), platform="cpu")


def names_of(network: Network, operands: Operands) -> tuple[str, ...]:
    """The names of the operands that are there, weights as the library has them."""
    return tuple(
        name
        for field, value in operands._asdict().items()
        for name in (network.weight_names if field == "weights" else (field,) if value is not None else ())
    )


def flat(operands: Operands) -> list[Array]:
    return [a for value in operands if value is not None for a in (value if isinstance(value, tuple) else (value,))]


@lru_cache(maxsize=256)
def _call(network: Network, task: str, names: tuple[str, ...], results: tuple[str, ...]) -> Callable[..., Any]:
    """A function of arrays called ``names`` to the arrays ``results``, whose shapes follow from those of the others."""
    _register()
    spec = network.spec
    plan = engine.plan(spec)
    said = {"problem": plan.problem.hex(), "kernel": spec.kernel or "", "task": task}

    def run(*arrays: Array) -> tuple[Array, ...]:
        shapes = _shapes(network, names, arrays, results)
        found = jax.ffi.ffi_call(TARGET, shapes)(*arrays, **said, names=" ".join((*names, *results)))
        return tuple(found)

    # A mask depends on a row's number in the whole batch, so that a call that draws some is not split over shards.
    if task == "pack" or "random" in names:
        return run

    def batch_axes(shapes: Sequence[Any]) -> Any:
        """The axes of the mesh over which x's batch is sharded."""
        sharding = shapes[names.index("x")].sharding
        said: Any = getattr(sharding, "spec", None)
        return said[1] if said is not None and len(said) > 1 else None

    def sharding(mesh: Any, name: str, axes: Any) -> NamedSharding:
        letters = _axes(name).split()
        return NamedSharding(mesh, PartitionSpec(*(axes if letter == "b" else None for letter in letters)))

    def partition(mesh: Any, shapes: Sequence[Any], _: Any) -> Any:
        axes = batch_axes(shapes)

        def local(*arrays: Array) -> tuple[Array, ...]:
            found = run(*arrays)
            if axes is None:
                return found
            by_row = ["b" in _axes(name).split() for name in results]  # else gradients of weights
            return tuple(a if rows else jax.lax.psum(a, axes) for rows, a in zip(by_row, found, strict=True))

        own = tuple(sharding(mesh, name, axes) for name in names)
        return mesh, local, tuple(sharding(mesh, name, axes) for name in results), own

    def infer(mesh: Any, shapes: Sequence[Any], _: Any) -> Any:
        return tuple(sharding(mesh, name, batch_axes(shapes)) for name in results)

    whole = custom_partitioning(run)
    # Before JAX 0.7 there is no word for axes that must not be sharded.
    has_words = "need_replication_factors" in inspect.signature(whole.def_partition).parameters
    sides = [", ".join(_factors(name, at) for at, name in enumerate(side)) for side in (names, results)]
    others = [factor for factor in dict.fromkeys(" ".join(sides).replace(",", "").split()) if factor != "b"]
    whole.def_partition(
        partition=partition, infer_sharding_from_operands=infer, sharding_rule=" -> ".join(sides),
        **({"need_replication_factors": tuple(others)} if has_words else {}),  # in the order of their first use
    )  # fmt: skip
    return whole  # type: ignore[no-any-return]


def _axes(name: str) -> str:
    """The axes of an array by its name. Those of weights and their gradients are letters that are not b."""
    weights = {
        "weight_ih": "g i",
        "weight_hh": "g k",
        "bias_ih": "g",
        "bias_hh": "g",
        "weight_hr": "p h",
        "params": "n h",
    }
    return AXES[name] if name in AXES else weights[name.removeprefix("d")]


def _factors(name: str, at: int) -> str:
    """The axes for a sharding rule. Sizes of weights have no part in it, so that each is a factor of its own."""
    return " ".join(axis if axis == "b" else f"{axis}{name.replace('_', '')}{at}" for axis in _axes(name).split())


def _shapes(
    network: Network, names: Sequence[str], arrays: Sequence[Array], results: Sequence[str]
) -> list[jax.ShapeDtypeStruct]:
    spec = network.spec
    given = dict(zip(names, arrays, strict=True))
    if "x" not in given:
        nbytes = engine.plan(spec).sizes(0, 0)["packed"]
        return [jax.ShapeDtypeStruct((nbytes,), jnp.uint8)]
    seq_len, batch, _ = given["x"].shape
    count, state = spec.num_layers * spec.directions, network.state_dtype()
    drop = "random" in given and spec.dropout > 0 and spec.num_layers > 1
    known = {
        "y": ((seq_len, batch, spec.directions * spec.outputs), spec.dtype),
        "h_n": ((count, batch, spec.outputs), spec.dtype),
        "c_n": ((count, batch, spec.cell_units), state),
        "reserve": ((batch, network.reserve_width(seq_len, drop)), "uint8"),
        "dx": (given["x"].shape, spec.dtype),
        "dh_0": ((count, batch, spec.outputs), state),
        "dc_0": ((count, batch, spec.cell_units), state),
    }
    weights = iter(a for name, a in zip(names, arrays, strict=True) if name in network.weight_names)
    shapes = []
    for name in results:
        shape, dtype = known[name] if name in known else ((a := next(weights)).shape, a.dtype)
        shapes.append(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)))
    return shapes


def forward(network: Network, keep: bool, operands: Operands, packed: Array | None = None) -> tuple[Array, ...]:
    """-> y, h_n, c_n where there is one, and with ``keep`` the reserve."""
    results = ("y", "h_n", *(["c_n"] if network.spec.states > 1 else []), *(["reserve"] if keep else []))
    names, arrays = names_of(network, operands), flat(operands)
    if packed is not None:
        names = (*(name for name in names if name not in network.weight_names), "packed")
        arrays = [*flat(operands._replace(weights=())), packed]
    return _spread(arrays, _mapped(network, "forward", names, results)(*arrays))


def backward(
    network: Network, operands: Operands, kept: Sequence[Array], cotangents: Sequence[Array]
) -> tuple[Array, ...]:
    """kept: y and the reserve. cotangents: of y, h_n, c_n. -> gradients of x, h_0, c_0 where there are such, weights.

    Gradients of states are there in any case, and are float32 for half types.
    """
    states = ("h", "c")[: 2 if network.spec.states > 1 else 1]
    names = (*names_of(network, operands), "y", "reserve", "dy", *(f"d{name}_n" for name in states))
    results = ("dx", *(f"d{name}_0" for name in states), *(f"d{name}" for name in network.weight_names))
    arrays = [*flat(operands), *kept, *cotangents]
    return _spread(arrays, _mapped(network, "backward", names, results)(*arrays))


def _spread(arrays: Sequence[Array], results: Sequence[Array]) -> tuple[Array, ...]:
    """Inside of ``shard_map`` the results differ from shard to shard as the arguments do, which JAX does not see."""
    axes = varying(arrays)
    return tuple(spread(a, axes) for a in results)


def pack(network: Network, weights: Sequence[Array]) -> Array:
    """The packed weights for forward calls, uint8 [.]."""
    return _mapped(network, "pack", network.weight_names, ("packed",))(*weights)[0]


@lru_cache(maxsize=256)
def _mapped(network: Network, task: str, names: tuple[str, ...], results: tuple[str, ...]) -> Callable[..., Any]:
    """``_call`` with a rule for ``vmap``."""
    call = _call(network, task, names, results)
    mapped = custom_vmap(lambda *arrays: call(*arrays))
    is_weight = [name in network.weight_names or name in ("packed", "random") for name in names]

    @mapped.def_vmap
    def rule(size: int, batched: Sequence[bool], *arrays: Array) -> tuple[Any, Any]:
        # Masks depend on a row's number, so that rows of several calls do not make one.
        may_fold = size > 0 and task == "forward" and "random" not in names
        if may_fold and not any(b and w for b, w in zip(batched, is_weight, strict=True)):
            found = mapped(*(fold(name, a, b, size) for name, a, b in zip(names, arrays, batched, strict=True)))
            return tuple(unfold(name, a, size) for name, a in zip(results, found, strict=True)), (True,) * len(results)
        return in_turn(mapped, tuple(batched))(*arrays), (True,) * len(results)

    return mapped


@lru_cache(maxsize=256)
def in_turn(call: Callable[..., Any], batched: tuple[bool, ...]) -> Callable[..., Any]:
    """``call`` for each entry of the arrays that are batched, one after the other; compiled once."""

    def one(arrays: Sequence[Array], own: list[Array]) -> Any:
        left = iter(own)
        return call(*(next(left) if b else a for a, b in zip(arrays, batched, strict=True)))

    def run(*arrays: Array) -> Any:
        return jax.lax.map(partial(one, arrays), [a for a, b in zip(arrays, batched, strict=True) if b])

    return jax.jit(run)  # type: ignore[no-any-return]


def unrolled(call: Callable[..., Any], batched: tuple[bool, ...]) -> Callable[..., Any]:
    """``in_turn`` without a loop of JAX's."""

    def run(*arrays: Array) -> Any:
        size = next(len(a) for a, b in zip(arrays, batched, strict=True) if b)
        found = [call(*(a[n] if b else a for a, b in zip(arrays, batched, strict=True))) for n in range(size)]
        return jax.tree.map(lambda *each: jnp.stack(each), *found)

    return run


def fold(name: str, array: Array, batched: bool, size: int) -> Array:
    """An array [N, ...] of N calls, or one for all, as that of a call with N times the rows."""
    axes = AXES.get(name, "").split()
    if "b" not in axes:
        return array
    at = axes.index("b")
    if not batched:
        array = jnp.broadcast_to(array, (size, *array.shape))
    array = jnp.moveaxis(array, 0, at)
    return array.reshape(*array.shape[:at], size * array.shape[at + 1], *array.shape[at + 2 :])


def unfold(name: str, array: Array, size: int) -> Array:
    """The way back: [N, ...]."""
    at = AXES[name].split().index("b")
    array = array.reshape(*array.shape[:at], size, array.shape[at] // size, *array.shape[at + 1 :])
    return jnp.moveaxis(array, at, 0)
