"""Keras on its jax backend: its layers through `stateless_call`, compiled by JAX as `fit` and `predict` do a model.

Keras takes its backend when it is imported, once in a process. The torch backend runs the steps one by one in Python,
several times slower: `python -m bench.keras` has figures of both. Arrays are [B, T, .], the only order that Keras has.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras

from rnnkern.problems import Problem

from ..data import Data, Run
from . import xla

if keras.config.backend() != "jax":
    raise ImportError(
        f"expected Keras on its jax backend, got {keras.config.backend()}: set KERAS_BACKEND=jax before it is imported"
    )

_LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (keras.layers.LSTM, {}),
    "gru": (keras.layers.GRU, {}),  # reset_after is Keras's default
    "rnn_tanh": (keras.layers.SimpleRNN, {}),
    "rnn_relu": (keras.layers.SimpleRNN, {"activation": "relu"}),
}


class Peer:
    name = "keras"
    version = f"{keras.__version__} (jax {jax.__version__})"

    def __init__(self, threads: int) -> None:
        xla.hold(threads)

    def declines(self, problem: Problem, mode: str) -> str:
        if problem.cell not in _LAYERS:
            return f"keras.layers has no {problem.cell}"
        if problem.cell == "gru" and problem.has("nobias") and not problem.has("lengths"):
            return "Keras's GRU on jax adds zeros of float64 in place of the biases"  # of JAX's default dtype
        return "Keras's tanh on jax is one of float32" if problem.dtype == "float64" else ""

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        dtype = jnp.dtype(problem.dtype)
        h_0, c_0, lengths = xla.arrays(data, dtype)
        mask = None if lengths is None else jnp.arange(problem.seq_len) < lengths[:, None]
        layers = [_layer(problem, inputs) for inputs in problem.layer_inputs]
        others = [[v.value for v in layer.non_trainable_variables] for layer in layers]
        flat = [jnp.asarray(array) for array in xla.converted("keras", problem, data)]
        each = len(flat) // len(layers)
        params = [flat[first : first + each] for first in range(0, len(flat), each)]

        def one(x: Any, at: int, own: Any) -> tuple[Any, ...]:
            indices = range(at * problem.directions, (at + 1) * problem.directions)
            kept = [state for state in (h_0, c_0) if state is not None]
            given = [state[index] for index in indices for state in kept]
            return layers[at].stateless_call(own, others[at], x, initial_state=given or None, mask=mask)[0]  # type: ignore[no-any-return]

        def stack(x: Any, params: Any) -> tuple[Any, Any]:
            states: list[Any] = []
            for at, own in enumerate(params):
                x, *last = one(x, at, own)
                states += last
            if problem.cell != "lstm":
                return x, (jnp.stack(states), None)
            return x, (jnp.stack(states[::2]), jnp.stack(states[1::2]))

        def named(grads: Any) -> dict[str, Any]:
            return xla.named("keras", problem, [array for own in grads for array in own])

        return xla.prepare(data, mode, problem.dtype, xla.Network(stack, params, named, batch_first=True))


def _layer(problem: Problem, inputs: int) -> Any:
    kind, options = _LAYERS[problem.cell]
    # The weights are given with each call; JAX has no orthogonal matrices in half types to begin with.
    options = options | {"use_bias": not problem.has("nobias"), "recurrent_initializer": "zeros"}
    layer = kind(problem.hidden_size, return_sequences=True, return_state=True, dtype=problem.dtype, **options)
    if problem.directions == 2:
        layer = keras.layers.Bidirectional(layer, dtype=problem.dtype)
    layer.build((problem.batch, problem.seq_len, inputs))
    return layer
