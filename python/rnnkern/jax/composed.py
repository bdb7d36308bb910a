"""The network in JAX's own operations: what runs where a transform has no kernel. Many times slower than one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..steps import Masks, Steps
from .network import Array, Network, Operands, spread, varying

_LOW = 0xFFFF


class _Operations:
    """``rnnkern.steps.Operations``."""

    sigmoid = staticmethod(jax.nn.sigmoid)
    tanh = staticmethod(jnp.tanh)
    relu = staticmethod(jax.nn.relu)
    exp = staticmethod(jnp.exp)
    expm1 = staticmethod(jnp.expm1)
    logsigmoid = staticmethod(jax.nn.log_sigmoid)
    rsqrt = staticmethod(jax.lax.rsqrt)
    clamp = staticmethod(jnp.clip)
    where = staticmethod(jnp.where)

    def chunk(self, v: Array, parts: int) -> Sequence[Array]:
        return jnp.split(v, parts, -1)

    def concatenate(self, parts: Sequence[Array]) -> Array:
        return jnp.concatenate(parts, -1)

    def mean(self, v: Array) -> Array:
        return v.mean(-1, keepdims=True)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        product = jnp.matmul(x, weight.T, precision=jax.lax.Precision.HIGHEST)
        return product if bias is None else product + bias

    def heads(self, h: Array, weight: Array, heads: int) -> Array:
        units = h.shape[-1] // heads
        blocks = weight.reshape(-1, heads, units, units)  # [G, heads, units out, units in]
        product = jnp.einsum("bek,geuk->bgeu", h.reshape(-1, heads, units), blocks, precision=jax.lax.Precision.HIGHEST)
        return product.reshape(h.shape[0], -1)

    def like(self, v: Array, other: Array) -> Array:
        return v.astype(other.dtype)


_steps = Steps(_Operations())  # type: ignore[arg-type]  # JAX's functions have more arguments


class _Walk(NamedTuple):
    """The part that all layers and directions of a call share."""

    network: Network
    operands: Operands
    alive: Array | None  # bool [T, B, 1]: the steps before a row's end; None: all
    live: Array | None  # and not masked


def layer(network: Network, operands: Operands) -> tuple[Array, ...]:
    """-> y, h_n, c_n where there is one, as ``calls.forward``."""
    spec = network.spec
    x, batch, seq_len = operands.x, operands.x.shape[1], operands.x.shape[0]
    alive, live = _present(operands, seq_len)
    if live is not None:
        x = jnp.where(live, x, 0)  # what is not read may not even meet a zero gradient
    count = spec.num_layers * spec.directions
    h_0 = jnp.zeros((count, batch, spec.outputs), spec.dtype) if operands.h_0 is None else operands.h_0
    initial: tuple[Array, ...] = (h_0,)
    if spec.states > 1:
        zeros = jnp.zeros((count, batch, spec.cell_units), network.state_dtype())
        initial = (h_0, zeros if operands.c_0 is None else operands.c_0.astype(network.state_dtype()))
    axes = varying(jax.tree.leaves(operands))
    initial = tuple(spread(s, axes) for s in initial)
    params = network.own_params(operands.weights)
    walk = _Walk(network, operands, alive, live)
    last: list[tuple[Array, ...]] = []
    for index in range(spec.num_layers):
        outcome = []
        for direction in range(spec.directions):
            at = index * spec.directions + direction
            back = direction == 1 or spec.reverse
            y, state = _direction(walk, params[at], x, tuple(s[at] for s in initial), at, back)
            outcome.append(y)
            last.append(state)
        x = jnp.concatenate(outcome, -1)
        if operands.random is not None and spec.dropout > 0 and index < spec.num_layers - 1:
            x = x * _between_layers(network, operands.random, index, x)
    return (x, *(jnp.stack([state[k] for state in last]) for k in range(len(initial))))


def _direction(
    walk: _Walk, params: dict[str, Array], x: Array, state: tuple[Array, ...], at: int, back: bool
) -> tuple[Array, tuple[Array, ...]]:
    """One layer in one direction, at = layer * D + direction -> y [T, B, P], the states at the end."""
    network, operands, alive, live = walk
    spec = network.spec
    options = None if spec.options == type(spec.options)() else spec.options
    masks = None
    if operands.random is not None and spec.options.random:
        masks = _masks(network, operands.random, at, x.shape[0], x.shape[1])
    gx, step = _steps.stepper(spec.cell, options, params, x, masks)
    borders = None if operands.reset is None else _borders(operands.reset, alive, back)

    def body(state: tuple[Array, ...], given: dict[str, Any]) -> tuple[tuple[Array, ...], Array]:
        if "border" in given:
            state = tuple(jnp.where(given["border"], 0, s) for s in state)
        new = step(given["gx"], state, given["t"])
        new = tuple(n.astype(s.dtype) for n, s in zip(new, state, strict=True))
        if "live" not in given:
            return new, new[0]
        held = tuple(jnp.where(given["live"], n, s) for n, s in zip(new, state, strict=True))
        return held, jnp.where(given["live"], new[0], 0)

    given = {"gx": gx, "t": jnp.arange(x.shape[0])}
    given |= {} if borders is None else {"border": borders}
    given |= {} if live is None else {"live": live}
    state, y = jax.lax.scan(body, state, given, reverse=back)
    return y, state


def _present(operands: Operands, seq_len: int) -> tuple[Array | None, Array | None]:
    """bool [T, B, 1]: which steps are before their row's end, and which of them are taken; None: all."""
    alive = None
    if operands.lengths is not None:
        alive = jnp.arange(seq_len)[:, None, None] < operands.lengths[None, :, None]
    if operands.mask is None:
        return alive, alive
    mask = operands.mask[..., None]
    return alive, mask if alive is None else alive & mask


def _borders(reset: Array, alive: Array | None, back: bool) -> Array:
    """bool [T, B, 1]: before which steps of the walk the state is zeroed. A mark in a row's padding is none of it."""
    marked = reset[..., None] if alive is None else reset[..., None] & alive
    return jnp.concatenate([marked[1:], jnp.zeros_like(marked[:1])]) if back else marked


# The kernels' random masks: Philox4x32-10 (J. Salmon et al., 2011), in 32 bits ----------------------------------------


def _product(a: int, b: Array) -> tuple[Array, Array]:
    """The high and the low half of a * b."""
    low, high = jnp.uint32(a & _LOW), jnp.uint32(a >> 16)
    b_low, b_high = b & _LOW, b >> 16
    middle = low * b_high + (low * b_low >> 16)
    carried = high * b_low + (middle & _LOW)
    return high * b_high + (middle >> 16) + (carried >> 16), jnp.uint32(a) * b


def _words(random: Array, stream: Any, t: Array, index: Array) -> tuple[Array, ...]:
    """Four words for each of the places, t and index that broadcast."""
    k0, k1 = random[0], random[1]
    shape = jnp.broadcast_shapes(t.shape, index.shape)
    c0, c1 = jnp.broadcast_to(random[2], shape), jnp.broadcast_to(random[3] + jnp.uint32(stream), shape)
    c2, c3 = jnp.broadcast_to(t.astype(jnp.uint32), shape), jnp.broadcast_to(index.astype(jnp.uint32), shape)
    for _ in range(10):
        (a_high, a_low), (b_high, b_low) = _product(0xD2511F53, c0), _product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = b_high ^ c1 ^ k0, b_low, a_high ^ c3 ^ k1, a_low
        k0, k1 = k0 + jnp.uint32(0x9E3779B9), k1 + jnp.uint32(0xBB67AE85)
    return c0, c1, c2, c3


def _below(random: Array, stream: Any, word: int, chance: float, shape: tuple[int, int, int]) -> Array:
    """bool of the shape [T, B, width]: whether a place's word is below the chance."""
    steps, batch, width = shape
    index = jnp.arange(batch * width, dtype=jnp.uint32).reshape(1, batch, width)
    t = jnp.arange(steps, dtype=jnp.uint32)[:, None, None]
    if chance >= 1:
        return jnp.ones(shape, bool)
    return _words(random, stream, t, index)[word] < jnp.uint32(int(chance * 2**32))


def _masks(network: Network, random: Array, stream: int, steps: int, batch: int) -> Masks:
    spec, options = network.spec, network.spec.options
    z_h, z_c = options.zoneout
    kept = None
    if options.recurrent_dropout:
        kept = ~_below(random, stream, 3, options.recurrent_dropout, (1, batch, spec.outputs))[0]
    held_h = _below(random, stream, 1, z_h, (steps, batch, spec.outputs)) if z_h else None
    return Masks(kept, (held_h, _below(random, stream, 2, z_c, (steps, batch, spec.hidden_size)) if z_c else None))


def _between_layers(network: Network, random: Array, index: int, x: Array) -> Array:
    """The factors by which dropout multiplies the output of a layer."""
    spec = network.spec
    p, directions = spec.dropout, spec.directions
    scale = 1 / (1 - p) if p < 1 else 0.0
    halves = [
        jnp.where(_below(random, index * directions + d, 0, p, (*x.shape[:2], spec.outputs)), 0, scale)
        for d in range(directions)
    ]
    return jnp.concatenate(halves, -1).astype(x.dtype)
