"""Flax on the CPU: flax.nnx.RNN around its own cells, compiled by JAX, with the time axis in front.

An LSTM is OptimizedLSTMCell, which has one product for all gates. Flax's cells have one bias, which is the sum of
torch's two; its GRUCell has none inside of the product with the reset gate, so that only a GRU without biases compares.
"""

from __future__ import annotations

from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import nnx

from rnnkern.problems import Problem

from ..data import Data, Run
from . import xla

_CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (nnx.OptimizedLSTMCell, {}),
    "gru": (nnx.GRUCell, {}),
    "rnn_tanh": (nnx.SimpleCell, {}),
    "rnn_relu": (nnx.SimpleCell, {"activation_fn": jax.nn.relu}),
}


class Peer:
    name = "flax"
    version = f"{flax.__version__} (jax {jax.__version__})"

    def __init__(self, threads: int) -> None:
        xla.hold(threads)

    def declines(self, problem: Problem, mode: str) -> str:
        if problem.cell not in _CELLS:
            return f"flax.nnx has no {problem.cell}"
        if problem.cell == "gru" and not problem.has("nobias"):
            return "flax.nnx.GRUCell has no bias in the product that its reset gate scales (b_hn)"
        return ""

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        dtype = jnp.dtype(problem.dtype)
        h_0, c_0, lengths = xla.arrays(data, dtype)
        zeros = jnp.zeros((problem.batch, problem.hidden_size), dtype)
        parts = [
            nnx.split(_rnn(problem, problem.layer_inputs[index // problem.directions], own, index), nnx.Param, ...)
            for index, own in enumerate(xla.converted("nnx", problem, data))
        ]

        def one(x: Any, index: int, own: Any) -> tuple[Any, Any]:
            graph, _, rest = parts[index]
            h, c = (zeros if state is None else state[index] for state in (h_0, c_0))
            carry = (c, h) if problem.cell == "lstm" else h
            return nnx.merge(graph, own, rest)(x, initial_carry=carry, seq_lengths=lengths)  # type: ignore[no-any-return]

        def stack(x: Any, params: Any) -> tuple[Any, Any]:
            carries: list[Any] = []
            for first in range(0, len(params), problem.directions):
                indices = range(first, first + problem.directions)
                own, ys = zip(*(one(x, index, params[index]) for index in indices), strict=True)
                carries += own
                x = jnp.concatenate(ys, axis=-1)
            if problem.cell != "lstm":
                return x, (jnp.stack(carries), None)
            c_n, h_n = (jnp.stack(states) for states in zip(*carries, strict=True))
            return x, (h_n, c_n)

        def named(grads: Any) -> dict[str, Any]:
            return xla.named("nnx", problem, [nnx.to_pure_dict(own)["cell"] for own in grads])

        network = xla.Network(stack, [params for _, params, _ in parts], named)
        return xla.prepare(data, mode, problem.dtype, network)


def _rnn(problem: Problem, inputs: int, arrays: Any, index: int) -> nnx.RNN:
    """One layer and direction. arrays: the cell's parameters as Flax has them."""
    kind, options = _CELLS[problem.cell]
    cell = kind(inputs, problem.hidden_size, dtype=jnp.dtype(problem.dtype), rngs=nnx.Rngs(0), **options)
    state = nnx.state(cell, nnx.Param)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, arrays))
    nnx.update(cell, state)
    backwards = problem.directions == 2 and index % 2 == 1
    return nnx.RNN(cell, time_major=True, return_carry=True, reverse=backwards, keep_order=True)
