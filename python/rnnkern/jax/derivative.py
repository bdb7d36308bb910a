"""Derivatives of a network call: BPTT by the kernels, everything else by the composed form.

``layer`` is a ``jax.custom_jvp`` function. Its tangent is ``tangent_p``, an operation that is linear in the tangents of
the arguments: evaluated, it is the composed form's; transposed, it is the kernels' backward. So ``grad`` runs kernels,
and forward mode and second derivatives work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from . import calls, composed
from .network import Array, Network, Operands, refuse_explicit, spread, varying

_LINEAR = ("x", "h_0", "c_0")  # of operands; and the weights


def layer(network: Network, operands: Operands) -> tuple[Array, ...]:
    """-> y, h_n, c_n where there is one."""
    refuse_explicit(operands.x)
    axes = varying(jax.tree.leaves(operands))
    return _layer(network, *_parted(jax.tree.map(partial(spread, axes=axes), operands)))  # type: ignore[no-any-return]


# Operands in two: those that a derivative may be for, and the others.


def _parted(operands: Operands) -> tuple[dict[str, Any], dict[str, Array]]:
    given = {name: value for name, value in operands._asdict().items() if value is not None}
    values = {name: given.pop(name) for name in (*_LINEAR, "weights") if name in given}
    return values, given


def _joined(values: dict[str, Any], others: dict[str, Array]) -> Operands:
    return Operands(**{"h_0": None, "c_0": None, **values, **others})


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _layer(network: Network, values: dict[str, Any], others: dict[str, Array]) -> tuple[Array, ...]:
    return calls.forward(network, False, _joined(values, others))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _train(network: Network, values: dict[str, Any], others: dict[str, Array]) -> tuple[Array, ...]:
    """The same and the reserve."""
    return calls.forward(network, True, _joined(values, others))


def _pushforward(keep: bool, network: Network, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    values, others = primals
    *answers, reserve = _train(network, values, others)
    wanted, given = _instantiated(tangents[0])
    operands = (*jax.tree.leaves(values), *jax.tree.leaves(others), *answers, reserve)
    if given:
        found = tangent_p.bind(*operands, *given, network=network, tree=_tree(values, others), wanted=wanted)
    else:
        found = [jnp.zeros_like(a) for a in answers]
    if not keep:
        return tuple(answers), tuple(found)
    return (*answers, reserve), (*found, _no_tangent(reserve))


def _instantiated(tangents: dict[str, Any]) -> tuple[tuple[int, ...], list[Array]]:
    """Places among the leaves of ``values`` whose tangents are there, and these."""
    leaves = jax.tree.leaves(tangents, is_leaf=_is_zero)
    places = tuple(i for i, leaf in enumerate(leaves) if not _is_zero(leaf))
    return places, [leaves[i] for i in places]


def _no_tangent(array: Array) -> Any:
    """The tangent of integers."""
    if hasattr(jax.custom_derivatives, "zero_from_primal"):
        return jax.custom_derivatives.zero_from_primal(array)
    return np.zeros(array.shape, jax.dtypes.float0)


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is jax.custom_derivatives.SymbolicZero


_layer.defjvp(partial(_pushforward, False), symbolic_zeros=True)
_train.defjvp(partial(_pushforward, True), symbolic_zeros=True)


# The tangent: (leaves of values and others, y, h_n, c_n, reserve, tangents of the wanted leaves) -> tangents of the
# answers --------------------------------------------------------------------------------------------------------------

tangent_p = Primitive("rnnkern_tangent")
tangent_p.multiple_results = True


def _tree(values: Any, others: Any) -> Any:
    return jax.tree.structure((values, others))


def _kept(arrays: Sequence[Any], *, network: Network, tree: Any, wanted: tuple[int, ...]) -> list[Any]:
    """y, h_n, c_n, the reserve."""
    return list(arrays[tree.num_leaves : len(arrays) - len(wanted)])


def _tangent(*arrays: Array, network: Network, tree: Any, wanted: tuple[int, ...]) -> list[Array]:
    """The composed form's."""
    leaves, given = arrays[: tree.num_leaves], arrays[len(arrays) - len(wanted) :]

    def run(*changed: Array) -> tuple[Array, ...]:
        own = list(leaves)
        for place, value in zip(wanted, changed, strict=True):
            own[place] = value
        return composed.layer(network, _joined(*jax.tree.unflatten(tree, own)))

    return list(jax.jvp(run, tuple(leaves[i] for i in wanted), tuple(given))[1])


def _transposed(
    cotangents: Sequence[Any], *arrays: Any, network: Network, tree: Any, wanted: tuple[int, ...]
) -> list[Any]:
    leaves, kept = arrays[: tree.num_leaves], _kept(arrays, network=network, tree=tree, wanted=wanted)
    assert all(ad.is_undefined_primal(tangent) for tangent in arrays[len(leaves) + len(kept) :])
    values, others = jax.tree.unflatten(tree, leaves)
    dense = tuple(ad.instantiate_zeros(c) for c in cotangents)
    found = jax.tree.leaves(_backward(network, values, others, (kept[0], kept[-1]), dense))
    return [None] * (len(leaves) + len(kept)) + [found[place] for place in wanted]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _backward(
    network: Network, values: dict[str, Any], others: dict[str, Array], kept: tuple[Array, ...], cotangents: Any
) -> dict[str, Any]:
    """The gradients of ``values``, by the kernels."""
    dx, *rest = calls.backward(network, _joined(values, others), kept, cotangents)
    count = 2 if network.spec.states > 1 else 1
    found = {"x": dx, "h_0": rest[0], "c_0": rest[1] if count > 1 else None, "weights": tuple(rest[count:])}
    return {name: jax.tree.map(lambda a, v: a.astype(v.dtype), found[name], value) for name, value in values.items()}


def _backward_pushforward(network: Network, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """The gradients depend on the arguments and the cotangents; y and the reserve are functions of the arguments."""
    values, others, kept, cotangents = primals

    def run(values: Any, cotangents: Any) -> Any:
        def answer(values: Any) -> Any:
            return composed.layer(network, _joined(values, others))

        return jax.vjp(answer, values)[1](cotangents)[0]

    _, tangent = jax.jvp(run, (values, cotangents), (tangents[0], tangents[3]))
    return _backward(network, values, others, kept, cotangents), tangent


_backward.defjvp(_backward_pushforward)


def _tangent_pushforward(primals: Sequence[Any], tangents: Sequence[Any], **static: Any) -> tuple[Any, Any]:
    """The derivative of the tangent: that of the composed form. What is kept are functions of the other arguments."""
    kept = range(static["tree"].num_leaves, len(primals) - len(static["wanted"]))
    places = [i for i, t in enumerate(tangents) if type(t) is not ad.Zero and i not in kept]

    def run(*changed: Array) -> list[Array]:
        own = list(primals)
        for place, value in zip(places, changed, strict=True):
            own[place] = value
        return _tangent(*own, **static)

    answer = tangent_p.bind(*primals, **static)
    if not places:
        return answer, [ad.Zero.from_primal_value(a) for a in answer]
    return answer, jax.jvp(run, tuple(primals[i] for i in places), tuple(tangents[i] for i in places))[1]


def _batched(
    arrays: Sequence[Any], axes: Sequence[Any], *, network: Network, tree: Any, wanted: tuple[int, ...]
) -> Any:
    """With weights that are not mapped: one tangent of more rows, as ``calls.forward`` makes one call."""
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    arrays = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes, strict=True)]
    batched = [axis is not None for axis in axes]
    names = _names(network, tree, wanted)
    static = {"network": network, "tree": tree, "wanted": wanted}
    fixed = [name in (*network.weight_names, "random") for name in names]
    if size > 0 and "random" not in names and not any(b and f for b, f in zip(batched, fixed, strict=True)):
        folded = [calls.fold(name, a, b, size) for name, a, b in zip(names, arrays, batched, strict=True)]
        found = tangent_p.bind(*folded, **static)
        results = ("y", "h_n", "c_n")[: len(found)]
        return [calls.unfold(name, a, size) for name, a in zip(results, found, strict=True)], [0] * len(found)
    # Before 0.10 JAX transposes only those loops that it has linearised itself.
    each = calls.unrolled if size > 0 and jax.__version_info__ < (0, 10) else calls.in_turn
    found = each(_bound(**static), tuple(batched))(*arrays)
    return found, [0] * len(found)


@lru_cache(maxsize=256)
def _bound(**static: Any) -> Any:
    return partial(tangent_p.bind, **static)


def _names(network: Network, tree: Any, wanted: tuple[int, ...]) -> list[str]:
    """The names of the arrays of ``tangent_p``."""
    values, others = jax.tree.unflatten(tree, range(tree.num_leaves))
    own = {place: name for part in (values, others) for name, place in part.items() if name != "weights"}
    own |= dict(zip(values["weights"], network.weight_names, strict=True))
    leaves = [own[place] for place in range(tree.num_leaves)]
    kept = ("y", "h_n", *(["c_n"] if network.spec.states > 1 else []), "reserve")
    return [*leaves, *kept, *(leaves[place] for place in wanted)]


@lru_cache(maxsize=256)
def _compiled(**static: Any) -> Any:
    return jax.jit(partial(_tangent, **static))


tangent_p.def_impl(lambda *arrays, **static: _compiled(**static)(*arrays))
tangent_p.def_abstract_eval(lambda *arrays, **static: _kept(arrays, **static)[:-1])
mlir.register_lowering(tangent_p, mlir.lower_fun(_tangent, multiple_results=True))
ad.primitive_transposes[tangent_p] = _transposed
ad.primitive_jvps[tangent_p] = _tangent_pushforward
batching.primitive_batchers[tangent_p] = _batched
