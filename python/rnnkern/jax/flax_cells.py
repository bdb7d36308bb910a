"""Flax's cells as networks, and the forms of Flax's arguments, for ``nnx.RNN`` and ``linen.RNN``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import functions
from .network import Array

# By class name: the function, and the order of the gates in Flax's names (ii, hi, ...; linen's GRU ir, hr, ...).
_CELLS = {
    "LSTMCell": ("lstm", "ifgo"),
    "OptimizedLSTMCell": ("lstm", "ifgo"),
    "GRUCell": ("gru", "rzn"),
    "SimpleCell": ("rnn", ""),
}
_ACTIVATIONS: dict[str, Sequence[Callable[..., Any]]] = {
    "sigmoid": (jax.nn.sigmoid,), "tanh": (jnp.tanh, jax.nn.tanh), "relu": (jax.nn.relu,),
}  # fmt: skip


def function_of(cell: Any) -> tuple[Callable[..., Any], str]:
    """The function of this package that computes a cell of Flax, with its activations, and the gates in order.

    Raises NotImplementedError for another cell, for activations that are not the cell's own, and for a residual.
    """
    kind = type(cell).__name__
    known = _CELLS.get(kind)
    if known is None or not type(cell).__module__.startswith("flax."):
        raise NotImplementedError(f"cell: expected one of Flax's {', '.join(_CELLS)}, got {kind}; use Flax's own RNN")
    name, gates = known
    if getattr(cell, "residual", False):
        raise NotImplementedError(f"cell: expected {kind} without residual; use Flax's own RNN")
    activation = _name_of(cell.activation_fn, f"{kind}.activation_fn", ("tanh", "relu") if name == "rnn" else ("tanh",))
    if name == "rnn":
        return lambda *args, **kwargs: functions.rnn(*args, nonlinearity=activation, **kwargs), gates
    _name_of(cell.gate_fn, f"{kind}.gate_fn", ("sigmoid",))
    return getattr(functions, name), gates  # type: ignore[no-any-return]


def _name_of(given: Any, argument: str, names: Sequence[str]) -> str:
    for name in names:
        if any(given is function for function in _ACTIVATIONS[name]):
            return name
    raise NotImplementedError(f"{argument}: expected {' or '.join(names)}, got {given}; use Flax's own RNN")


def parameters(layers: Mapping[str, Mapping[str, Array]], gates: str, dtype: Any) -> dict[str, Array]:
    """The parameters of a cell by name, from its Dense layers: ``dense_i`` and ``dense_h``, or one for each gate."""
    found: dict[str, Array] = {}
    for letter, side in (("i", "ih"), ("h", "hh")):
        if f"dense_{letter}" in layers:
            own = [layers[f"dense_{letter}"]]
        elif not gates:
            own = [layers[letter]]
        else:  # nnx writes if_, because if is a word of Python
            own = [layers[name] if (name := letter + gate) in layers else layers[f"{name}_"] for gate in gates]
        found[f"weight_{side}_l0"] = jnp.concatenate([each["kernel"].T for each in own]).astype(dtype)
        biases = [each.get("bias") for each in own]
        widths = [each["kernel"].shape[1] for each in own]
        pieces = [jnp.zeros(n) if bias is None else bias for n, bias in zip(widths, biases, strict=True)]
        found[f"bias_{side}_l0"] = jnp.concatenate(pieces).astype(dtype)
    return found


class Asked(NamedTuple):
    """Flax's arguments of a call, and its ``flip_sequences``."""

    seq_lengths: Array | None
    time_major: bool
    reverse: bool
    keep_order: bool
    flip: Callable[..., Array]


def run(
    cell: Any, layers: Mapping[str, Mapping[str, Array]], inputs: Array, carry: Any, asked: Asked
) -> tuple[Any, Array]:
    """Flax's RNN: inputs [..., T, I] (time_major: [T, ..., I]), carry h [..., H] or (c, h) -> carry, outputs.

    Outputs past a row's length are zero; Flax computes on.
    """
    seq_lengths, time_major, reverse, keep_order, flip = asked
    function, gates = function_of(cell)
    dtype = cell.dtype or jnp.result_type(inputs, *jax.tree.leaves(layers))
    params = parameters(layers, gates, dtype)
    lead = inputs.shape[1:-1] if time_major else inputs.shape[:-2]
    steps, rows = inputs.shape[0] if time_major else inputs.shape[-2], math.prod(lead)
    shape = (steps, rows) if time_major else (rows, steps)
    x = inputs.reshape(*shape, inputs.shape[-1]).astype(dtype)

    def state(array: Array) -> Array:
        return array.reshape(1, rows, array.shape[-1]).astype(dtype)

    two = isinstance(carry, tuple)
    answered = jnp.result_type(dtype, *jax.tree.leaves(carry))  # Flax's: a float32 carry makes float32 of bfloat16
    given = (state(carry[1]), state(carry[0])) if two else state(carry)
    lengths = None if seq_lengths is None else jnp.broadcast_to(seq_lengths, lead).reshape(rows)
    y, last = function(params, x, given, lengths=lengths, batch_first=not time_major, reverse=reverse)
    y = y.reshape(*inputs.shape[:-1], y.shape[-1]).astype(answered)
    if reverse and not keep_order:
        y = flip(y, seq_lengths, num_batch_dims=len(lead), time_major=time_major)
    if two:
        h, c = (s.reshape(*lead, s.shape[-1]).astype(answered) for s in last)
        return (c, h), y
    return last.reshape(*lead, last.shape[-1]).astype(answered), y
