"""JAX on the CPU: the cell under lax.scan, with the input product outside the scan, as its users write it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rnnkern.problems import Problem

from ..data import Data, Run, suffixes
from . import xla

_GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}


def _cell(cell: str, gx: Any, h: Any, c: Any, weight: Any, bias: Any) -> tuple[Any, Any]:
    """One step. gx [B, G*H] = W x + b_ih; h, c [B, H]; weight [G*H, H]; bias [G*H]. torch's gate order."""
    gh = h @ weight.T + bias
    if cell == "lstm":
        i, f, g, o = jnp.split(gx + gh, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    if cell == "gru":
        (xr, xz, xn), (hr, hz, hn) = jnp.split(gx, 3, axis=-1), jnp.split(gh, 3, axis=-1)
        z = jax.nn.sigmoid(xz + hz)
        return (1 - z) * jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn) + z * h, c
    return (jnp.tanh if cell == "rnn_tanh" else jax.nn.relu)(gx + gh), c


class Peer:
    name = "jax"
    version = jax.__version__

    def __init__(self, threads: int) -> None:
        xla.hold(threads)

    def declines(self, problem: Problem, mode: str) -> str:
        if problem.cell not in _GATES:
            return f"the benchmark has no {problem.cell} written in JAX"
        return "lax.scan has no lengths of its own" if problem.has("lengths") else ""

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        dtype = jnp.dtype(problem.dtype)
        count = problem.num_layers * problem.directions
        zeros = jnp.zeros((count, problem.batch, problem.hidden_size), dtype)
        h_0, c_0 = (zeros if state is None else state for state in xla.arrays(data, dtype)[:2])
        params = {name: jnp.asarray(value, dtype) for name, value in data.params.items()}

        def layer(x: Any, h: Any, c: Any, params: Any, suffix: str) -> tuple[Any, Any, Any]:
            rows = _GATES[problem.cell] * problem.hidden_size
            none = jnp.zeros(rows, dtype)
            gx = x @ params["weight_ih" + suffix].T + params.get("bias_ih" + suffix, none)
            weight, bias = params["weight_hh" + suffix], params.get("bias_hh" + suffix, none)

            def step(state: Any, gx_t: Any) -> tuple[Any, Any]:
                h, c = _cell(problem.cell, gx_t, state[0], state[1], weight, bias)
                return (h, c), h

            (h, c), y = jax.lax.scan(step, (h, c), gx, reverse=suffix.endswith("_reverse"))
            return y, h, c

        def stack(x: Any, params: Any) -> tuple[Any, Any]:
            h_n, c_n = [], []
            for first in range(0, count, problem.directions):
                parts = []
                for index in range(first, first + problem.directions):
                    y, h, c = layer(x, h_0[index], c_0[index], params, suffixes(problem)[index])
                    parts.append(y)
                    h_n.append(h)
                    c_n.append(c)
                x = jnp.concatenate(parts, axis=-1)
            return x, (jnp.stack(h_n), jnp.stack(c_n) if problem.cell == "lstm" else None)

        return xla.prepare(data, mode, problem.dtype, xla.Network(stack, params, dict))
