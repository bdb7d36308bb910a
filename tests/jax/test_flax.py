"""rnnkern.jax.nnx.RNN and linen.RNN are Flax's RNN: parameters, answers, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("flax", reason="flax is not installed")

import jax
import jax.numpy as jnp
from flax import linen, nnx

import rnnkern.jax.linen
import rnnkern.jax.nnx

IN, H = 4, 6
CELLS = ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell")
LENGTHS = np.array([7, 3, 5])
CALLS: list[dict[str, Any]] = [
    {},
    {"return_carry": True},
    {"return_carry": True, "seq_lengths": LENGTHS},
    {"reverse": True},
    {"reverse": True, "seq_lengths": LENGTHS, "return_carry": True},
    {"reverse": True, "keep_order": True},
]


def close(got: Any, wanted: Any) -> None:
    """Both are sums of some ten terms in float32, along seven steps: 100 eps of the largest entry."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.abs(a - b).max() <= 100 * np.finfo(np.float32).eps * max(1.0, np.abs(b).max())


def shown(answer: Any, call: dict[str, Any]) -> Any:
    """Outputs past a row's length, where Flax computes on, are left out."""
    if "seq_lengths" not in call:
        return answer
    carry, y = answer
    valid = (np.arange(y.shape[-2])[None] < LENGTHS[:, None])[..., None]
    if call.get("reverse"):  # outputs are in the order of the walk
        return carry
    return carry, jnp.where(valid, y, 0)


@pytest.fixture
def x() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (3, 7, IN))


@pytest.mark.parametrize("name", CELLS)
def test_nnx(name: str, x: jax.Array) -> None:
    cell = getattr(nnx, name)(IN, H, rngs=nnx.Rngs(0))
    theirs, ours = nnx.RNN(cell), rnnkern.jax.nnx.RNN(cell)
    for call in CALLS:
        close(shown(ours(x, **call), call), shown(theirs(x, **call), call))
    close(ours(x.swapaxes(0, 1), time_major=True), theirs(x.swapaxes(0, 1), time_major=True))
    close(ours(x[0]), theirs(x[0]))
    close(ours(jnp.stack([x, 2 * x])), theirs(jnp.stack([x, 2 * x])))
    grads = [nnx.to_pure_dict(nnx.grad(lambda m: (m(x) ** 2).sum())(m)) for m in (ours, theirs)]
    close(*grads)
    close(nnx.jit(lambda m, x: m(x))(ours, x), theirs(x))


@pytest.mark.parametrize("name", CELLS)
def test_linen(name: str, x: jax.Array) -> None:
    theirs, ours = linen.RNN(getattr(linen, name)(H)), rnnkern.jax.linen.RNN(getattr(linen, name)(H))
    variables = theirs.init(jax.random.key(1), x)
    close(ours.init(jax.random.key(1), x), variables)
    for call in CALLS:
        close(shown(ours.apply(variables, x, **call), call), shown(theirs.apply(variables, x, **call), call))
    grads = [jax.jit(jax.grad(lambda v, m=m: (m.apply(v, x) ** 2).sum()))(variables) for m in (ours, theirs)]
    close(*grads)


def test_a_carry_of_the_caller(x: jax.Array) -> None:
    cell = nnx.OptimizedLSTMCell(IN, H, rngs=nnx.Rngs(0))
    carry = (jnp.ones((3, H)), -jnp.ones((3, H)))
    close(
        rnnkern.jax.nnx.RNN(cell)(x, initial_carry=carry, return_carry=True),
        nnx.RNN(cell)(x, initial_carry=carry, return_carry=True),
    )


def test_half_types_and_boxed_parameters(x: jax.Array) -> None:
    """Flax rounds every product and gate to bfloat16, the kernels h: a few roundings of 2^-9."""
    cell = nnx.OptimizedLSTMCell(IN, H, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    got, wanted = rnnkern.jax.nnx.RNN(cell)(x, return_carry=True), nnx.RNN(cell)(x, return_carry=True)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype == jnp.float32 and np.abs(a - b).max() <= 8 * 2.0**-9
    boxed = linen.OptimizedLSTMCell(H, kernel_init=linen.with_partitioning(linen.initializers.ones, (None, "model")))
    variables = linen.RNN(boxed).init(jax.random.key(0), x)
    close(rnnkern.jax.linen.RNN(boxed).apply(variables, x), linen.RNN(boxed).apply(variables, x))


def test_other_cells_are_refused_by_name(x: jax.Array) -> None:
    with pytest.raises(NotImplementedError, match=r"cell: expected one of Flax's LSTMCell.*got MGUCell"):
        rnnkern.jax.linen.RNN(linen.MGUCell(H)).init(jax.random.key(0), x)
    rngs = nnx.Rngs(0)
    with pytest.raises(NotImplementedError, match=r"GRUCell\.activation_fn: expected tanh, got"):
        rnnkern.jax.nnx.RNN(nnx.GRUCell(IN, H, activation_fn=jnp.sin, rngs=rngs))
    with pytest.raises(NotImplementedError, match="without residual"):
        rnnkern.jax.nnx.RNN(nnx.SimpleCell(IN, H, residual=True, rngs=rngs))
    relu = nnx.SimpleCell(IN, H, activation_fn=jax.nn.relu, rngs=rngs)
    close(rnnkern.jax.nnx.RNN(relu)(x), nnx.RNN(relu)(x))
