"""Code that the peers on JAX's CPU backend share: settings, a compiled call or training step, results in NumPy.

A training step is one compiled function, which computes the outputs and, by jax.vjp, the gradients. JAX's CPU backend
reads its number of threads from the variable NPROC when it starts, so `hold` must be called before that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnkern.convert import from_system, to_system
from rnnkern.problems import Problem

from ..data import Array, Data, Run


def hold(threads: int) -> None:
    """Sets up JAX's CPU backend, before it starts, with that many threads and float64. Every array states its dtype."""
    os.environ["NPROC"] = str(threads)
    if not jax.config.jax_platforms:  # what JAX_PLATFORMS said
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)


@dataclass(frozen=True)
class Network:
    """A problem in a library on JAX.

    call: (x, params) -> y, and (h_n, c_n) [L*D, B, H], c_n None where there is none. x [T, B, I], y [T, B, D*H], or
        with batch_first [B, T, I], [B, T, D*H].
    params: a tree of JAX arrays. named: a tree like it -> arrays by torch's names.
    """

    call: Callable[[Any, Any], Any]
    params: Any
    named: Callable[[Any], Mapping[str, Any]]
    batch_first: bool = False


def arrays(data: Data, dtype: Any) -> tuple[Any, Any, Any]:
    """h_0, c_0 and the lengths as JAX arrays; None where the problem has none."""
    h_0, c_0 = (None if state is None else jnp.asarray(state, dtype) for state in (data.h_0, data.c_0))
    return h_0, c_0, None if data.lengths is None else jnp.asarray(data.lengths)


def prepare(data: Data, mode: str, dtype: str, network: Network) -> Run:
    """Compiles the network's call or its training step."""

    def turned(array: Any) -> Any:
        return array.swapaxes(0, 1) if network.batch_first else array

    x, dy = (turned(jnp.asarray(array, jnp.dtype(dtype))) for array in (data.x, data.dy))
    jax.block_until_ready((x, dy))

    def step(x: Any, params: Any) -> Any:
        y, pull, states = jax.vjp(network.call, x, params, has_aux=True)
        return y, states, pull(dy)

    compiled = jax.jit(step if mode == "training" else network.call)

    def outputs(result: Any) -> dict[str, Array]:
        y, (h_n, c_n), *grads = result
        out = {"y": _valid(turned(y), data.lengths), "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
        if grads:
            dx, dparams = grads[0]
            named = network.named(dparams)
            out |= {"dx": turned(dx)} | {f"d{name}": named[name] for name in data.params}
        return {name: np.asarray(value, np.float64) for name, value in out.items()}

    return Run(lambda: jax.block_until_ready(compiled(x, network.params)), outputs)


def _valid(y: Any, lengths: Array | None) -> Any:
    """y [T, B, .], zero past each row's length: Flax computes on there, Keras repeats the last output."""
    return y if lengths is None else jnp.where((jnp.arange(len(y))[:, None] < lengths)[..., None], y, 0)


def converted(system: str, problem: Problem, data: Data) -> list[Any]:
    """Converts the parameters to a system of rnnkern.convert. Where that has one bias for two, it is their sum."""
    return to_system(system, _cell(problem), data.params, **_shape(problem))


def named(system: str, problem: Problem, grads: list[Any]) -> dict[str, Any]:
    """Converts gradients, which the system holds like its parameters, to torch's names."""
    grads = jax.tree.map(np.asarray, grads)
    found = from_system(system, _cell(problem), grads, **_shape(problem))
    if problem.cell != "gru":  # one bias is the sum of two, so its gradient is the gradient of both
        found |= {name: found[name.replace("_hh", "_ih")] for name in found if name.startswith("bias_hh")}
    return found


def _cell(problem: Problem) -> str:
    return problem.cell.split("_")[0]


def _shape(problem: Problem) -> dict[str, Any]:
    return {"num_layers": problem.num_layers, "bidirectional": problem.directions == 2}
