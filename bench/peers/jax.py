"""JAX on the CPU: the cell under lax.scan, with the input product outside the scan, as its users write it.

A training step is value-and-gradient of the same function by jax.vjp, compiled as one. The CPU client takes its number
of threads from NPROC when JAX starts its backend, which must therefore not have happened before.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from rnnkern.problems import Problem

from ..data import Array, Data, Run, suffixes

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
        os.environ["NPROC"] = str(threads)
        jax.config.update("jax_enable_x64", True)  # for float64 problems; the others state their dtypes

    def declines(self, problem: Problem, mode: str) -> str:
        if problem.cell not in _GATES:
            return f"the benchmark has no {problem.cell} written in JAX"
        return "lax.scan has no lengths of its own" if problem.has("lengths") else ""

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        dtype = jnp.dtype(problem.dtype)
        count = problem.num_layers * problem.directions
        zeros = np.zeros((count, problem.batch, problem.hidden_size))
        x, h_0, c_0, dy = (
            jnp.asarray(zeros if array is None else array, dtype) for array in (data.x, data.h_0, data.c_0, data.dy)
        )
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
            return x, (jnp.stack(h_n), jnp.stack(c_n))

        def step(x: Any, params: Any) -> Any:
            y, pull, states = jax.vjp(stack, x, params, has_aux=True)
            return y, states, pull(dy)

        compiled = jax.jit(step if mode == "training" else stack)

        def outputs(result: Any) -> dict[str, Array]:
            y, (h_n, c_n), *grads = result
            out = {"y": y, "h_n": h_n} | ({"c_n": c_n} if problem.cell == "lstm" else {})
            if grads:
                dx, dparams = grads[0]
                out |= {"dx": dx} | {f"d{name}": value for name, value in dparams.items()}
            return {name: np.asarray(value, np.float64) for name, value in out.items()}

        return Run(lambda: jax.block_until_ready(compiled(x, params)), outputs)
