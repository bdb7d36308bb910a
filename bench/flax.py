"""Flax's time over rnnkern's: `python -m bench.flax --json out.json` (from a checkout, with jax and flax).

Each point is flax.nnx.RNN and rnnkern.jax.nnx.RNN around the same cell under jit, T = 50, in alternating blocks: the
forward, and the value with the gradient of x and every parameter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import nnx

import rnnkern.jax.nnx

from .timing import ratio

CELLS: Final = ("OptimizedLSTMCell", "GRUCell", "SimpleCell")
HIDDEN: Final = (64, 128, 256, 512)
BATCH: Final = (1, 32)
STEPS: Final = 50


def done(function: Callable[..., Any], *arguments: Any) -> None:
    jax.block_until_ready(function(*arguments))


def measure(seconds: float) -> Iterator[dict[str, Any]]:
    for name in CELLS:
        for hidden in HIDDEN:
            for batch in BATCH:
                cell = getattr(nnx, name)(hidden, hidden, rngs=nnx.Rngs(0))
                x = jax.random.normal(jax.random.key(0), (batch, STEPS, hidden))
                forward, both = [], []
                for library in (nnx.RNN, rnnkern.jax.nnx.RNN):
                    graph, state = nnx.split(library(cell))

                    def call(state: Any, x: Any, graph: Any = graph) -> Any:
                        return nnx.merge(graph, state)(x)

                    def loss(state: Any, x: Any, call: Any = call) -> Any:
                        return jnp.square(call(state, x)).sum()

                    run, back = jax.jit(call), jax.jit(jax.value_and_grad(loss, (0, 1), allow_int=True))
                    forward.append(partial(done, run, state, x))
                    both.append(partial(done, back, state, x))
                yield {
                    "cell": name, "H": hidden, "B": batch,
                    "forward": ratio(forward[0], forward[1], seconds), "gradient": ratio(both[0], both[1], seconds),
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.05, help="of a block")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    points = []
    for point in measure(args.seconds):
        points.append(point)
        print("{cell:18} H={H:<4} B={B:<3} forward {forward:.2f}, gradient {gradient:.2f}".format(**point), flush=True)
    for name in CELLS:
        own = [point for point in points if point["cell"] == name]
        print(name, *(f"{what} {geometric_mean(point[what] for point in own):.2f}" for what in ("forward", "gradient")))
    if args.json:
        args.json.write_text(json.dumps({"jax": jax.__version__, "points": points}, indent=1))


if __name__ == "__main__":
    main()
