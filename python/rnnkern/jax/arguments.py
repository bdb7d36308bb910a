"""From a caller's arguments to networks and operands, with every check of names, shapes and dtypes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _core
from .. import _engine as engine
from ..options import check_keywords, parse
from .network import Array, Network, Operands

_CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm", "slstm")
GATES = {name: gates for name, gates, *_ in _core.cells() if name in _CELLS}
_KEYWORDS = {"rnn_tanh": "rnn", "rnn_relu": "rnn"}
_STATES = {"lstm": ("h_0", "c_0"), "slstm": ("h_0", "c_0", "n_0", "m_0")}


class Around(NamedTuple):
    """The arguments that all functions have beside parameters, x and state."""

    lengths: Any
    mask: Any
    reset: Any
    batch_first: bool
    dropout: float
    key: Any
    reverse: bool
    recompute: bool


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Packed:
    """Parameters in the form that kernels read: what ``pack`` returns, for calls without gradients."""

    network: Network
    array: Array  # uint8 [bytes]

    def tree_flatten(self) -> tuple[tuple[Array], Network]:
        return (self.array,), self.network

    @classmethod
    def tree_unflatten(cls, network: Network, children: tuple[Array]) -> Packed:
        return cls(network, *children)


def network_of(cell: str, params: Any, around: Around, options: dict[str, Any]) -> Network:
    """The network that the parameters' names and shapes describe, or that of packed ones."""
    if isinstance(params, Packed):
        spec = params.network.spec
        again = parse(cell, spec.hidden_size, options)
        if (spec.cell, spec.options, spec.reverse) != (cell, again, around.reverse):
            raise ValueError("params: expected a pack for this cell, direction and these options")
        if around.dropout:
            raise ValueError(f"dropout: expected 0 with packed parameters, got {around.dropout}")
        return params.network
    if cell not in GATES:
        raise ValueError(f"cell: expected one of {', '.join(GATES)}, got {cell!r}")
    if not isinstance(params, Mapping) or "weight_ih_l0" not in params:
        got = ", ".join(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(f"params: expected arrays by name (weight_ih_l0, weight_hh_l0, ...), got {got or 'nothing'}")
    first = params["weight_ih_l0"]
    hidden, left = divmod(first.shape[0] if first.ndim == 2 else 0, GATES[cell])
    if left or not hidden:
        raise ValueError(f"weight_ih_l0: expected [{GATES[cell]}*H, I], got {list(first.shape)}")
    check_keywords(cell, _KEYWORDS.get(cell, cell), options)
    spec = engine.Spec(
        cell, jnp.dtype(first.dtype).name, first.shape[1], hidden,
        num_layers=sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in params),
        bias=any(name.startswith("bias") for name in params),
        bidirectional="weight_ih_l0_reverse" in params, dropout=float(around.dropout), recompute=around.recompute,
        reverse=around.reverse, options=parse(cell, hidden, options),
    )  # fmt: skip
    if set(params) != set(spec.param_names):
        wrong = sorted(set(params) ^ set(spec.param_names))
        raise ValueError(f"params: expected {', '.join(spec.param_names)}; missing or unknown: {', '.join(wrong)}")
    for name, shape in spec.param_shapes.items():
        if params[name].shape != shape:
            raise ValueError(f"{name}: expected shape {list(shape)}, got {list(params[name].shape)}")
        if params[name].dtype != first.dtype:
            raise TypeError(f"{name}: expected {first.dtype} as weight_ih_l0, got {params[name].dtype}")
    return Network(spec)


def operands_of(
    network: Network, params: Any, x: Array, state: Any, around: Around
) -> tuple[Operands, tuple[bool, bool]]:
    """The operands [T, B, ...]; whether x has a batch, and whether that is its first axis."""
    spec = network.spec
    if x.ndim not in (2, 3) or x.shape[-1] != spec.input_size:
        raise ValueError(f"x: expected [T, B, {spec.input_size}] or [T, {spec.input_size}], got {list(x.shape)}")
    if x.dtype != jnp.dtype(spec.dtype):
        raise TypeError(f"x: expected {spec.dtype} as the parameters, got {x.dtype}")
    batched = x.ndim == 3
    first = batched and around.batch_first
    walk = jnp.swapaxes(x, 0, 1) if first else x if batched else x[:, None]
    sizes = walk.shape[:2]
    mask = _marks("mask", around.mask, sizes, batched, first)
    reset = _marks("reset", around.reset, sizes, batched, first)
    h_0, others = _states(network, state, sizes[1], batched)
    weights = () if isinstance(params, Packed) else network.weights(params)
    lengths = _lengths(around.lengths, sizes[1], batched)
    return Operands(walk, h_0, others, weights, lengths, mask, reset, random_of(network, around.key)), (batched, first)


def _states(network: Network, state: Any, batch: int, batched: bool) -> tuple[Array | None, Array | None]:
    """h_0 [L*D, B, P] and c_0 [L*D, B, C], or None."""
    if state is None:
        return None, None
    spec = network.spec
    names = _STATES.get(spec.cell, ("h_0",))
    values = (state,) if len(names) == 1 else tuple(state) if isinstance(state, (tuple, list)) else ()
    if len(values) != len(names):
        raise ValueError(f"state: expected ({', '.join(names)}), got {_said(state)}")
    taken = []
    for name, value, width in zip(names, values, (spec.outputs, *[spec.hidden_size] * 3), strict=False):
        value = jnp.asarray(value)
        value = value if batched else value[:, None]
        wanted = (spec.num_layers * spec.directions, batch, width)
        if value.shape != wanted:
            shown = wanted if batched else (wanted[0], wanted[2])
            raise ValueError(
                f"{name}: expected shape {list(shown)}, got {list(value.shape if batched else value[:, 0].shape)}"
            )
        if value.dtype != jnp.dtype(spec.dtype) and (name == "h_0" or value.dtype != network.state_dtype()):
            raise TypeError(f"{name}: expected {spec.dtype}, got {value.dtype}")
        taken.append(value)
    h_0, *rest = taken
    if not rest:
        return h_0, None
    return h_0, rest[0] if len(rest) == 1 else jnp.concatenate([v.astype(network.state_dtype()) for v in rest], -1)


def _said(value: Any) -> str:
    return f"{len(value)} arrays" if isinstance(value, (tuple, list)) else type(value).__name__


def _marks(name: str, value: Any, sizes: tuple[int, int], batched: bool, batch_first: bool) -> Array | None:
    if value is None:
        return None
    value = jnp.asarray(value)
    wanted = (sizes[::-1] if batch_first else sizes) if batched else sizes[:1]
    if value.dtype != jnp.bool_:
        raise TypeError(f"{name}: expected bool, got {value.dtype}")
    if value.shape != wanted:
        raise ValueError(f"{name}: expected shape {list(wanted)}, got {list(value.shape)}")
    return (jnp.swapaxes(value, 0, 1) if batch_first else value) if batched else value[:, None]


def _lengths(value: Any, batch: int, batched: bool) -> Array | None:
    if value is None:
        return None
    if not batched:
        raise ValueError("lengths: expected None with unbatched x; pass x[:length]")
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"lengths: expected integers, got {value.dtype}")
    if value.shape != (batch,):
        raise ValueError(f"lengths: expected shape [B] = [{batch}], got {list(value.shape)}")
    return value if value.dtype in (jnp.int32, jnp.int64) else value.astype(jnp.int32)


def random_of(network: Network, key: Any) -> Array | None:
    """The four numbers from which masks are drawn; None where nothing is random."""
    spec = network.spec
    if key is None or not (spec.options.random or (spec.dropout > 0 and spec.num_layers > 1)):
        return None
    return jax.random.bits(key, (4,), jnp.uint32).at[3].set(0)


def nothing(network: Network, sizes: tuple[int, int]) -> tuple[Array, ...]:
    """The answer of a call without rows."""
    spec = network.spec
    count = spec.num_layers * spec.directions
    y = jnp.zeros((*sizes, spec.directions * spec.outputs), spec.dtype)
    h_n = jnp.zeros((count, 0, spec.outputs), spec.dtype)
    return (y, h_n, jnp.zeros((count, 0, spec.cell_units), network.state_dtype()))[: 3 if spec.states > 1 else 2]


def answer_of(network: Network, answers: tuple[Array, ...], batched: bool, batch_first: bool) -> Any:
    y, *states = answers if batched else [jnp.squeeze(a, 1) for a in answers]
    y = jnp.swapaxes(y, 0, 1) if batch_first else y
    if network.spec.cell not in _STATES:
        return y, states[0]
    parts = 1 if network.spec.cell == "lstm" else 3
    return y, (states[0], *jnp.split(states[1], parts, -1))
