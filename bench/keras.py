"""Keras's time over rnnkern's: `KERAS_BACKEND=torch python -m bench.keras` (from a checkout, with keras).

Each point is a layer of keras.layers and the one of rnnkern.keras with the same weights, T = 50, in alternating blocks:
the forward, and the forward with the gradient of every weight. On jax both are compiled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from statistics import geometric_mean
from typing import Any, Final

import keras
import numpy as np

import rnnkern.keras

from .timing import ratio

KINDS: Final = ("LSTM", "GRU", "SimpleRNN")
HIDDEN: Final = (64, 128, 256)
BATCH: Final = (1, 32)
STEPS: Final = 50


def on_torch(layer: Any, x: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import torch

    given = torch.from_numpy(x)

    def forward() -> Any:
        with torch.no_grad():
            return layer(given)

    def gradient() -> None:
        layer.zero_grad()
        layer(given).square().sum().backward()

    return forward, gradient


def on_jax(layer: Any, x: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import jax
    import jax.numpy as jnp

    weights, others = [v.value for v in layer.trainable_variables], [v.value for v in layer.non_trainable_variables]
    given = jnp.asarray(x)

    def call(weights: Any, x: Any) -> Any:
        return layer.stateless_call(weights, others, x)[0]

    run, back = jax.jit(call), jax.jit(jax.grad(lambda w, x: jnp.square(call(w, x)).sum()))
    return lambda: jax.block_until_ready(run(weights, given)), lambda: jax.block_until_ready(back(weights, given))


def measure(seconds: float) -> Iterator[dict[str, Any]]:
    both = {"torch": on_torch, "jax": on_jax}[keras.config.backend()]
    for kind in KINDS:
        for hidden in HIDDEN:
            for batch in BATCH:
                theirs, ours = (getattr(m, kind)(hidden, return_sequences=True) for m in (keras.layers, rnnkern.keras))
                for layer in (theirs, ours):
                    layer.build((batch, STEPS, hidden))
                ours.set_weights(theirs.get_weights())
                x = np.random.default_rng(0).standard_normal((batch, STEPS, hidden)).astype(np.float32)
                (forward, gradient), (own_forward, own_gradient) = both(theirs, x), both(ours, x)
                yield {
                    "kind": kind, "H": hidden, "B": batch, "forward": ratio(forward, own_forward, seconds),
                    "gradient": ratio(gradient, own_gradient, seconds),
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.05, help="of a block")
    args = parser.parse_args()
    points = []
    for point in measure(args.seconds):
        points.append(point)
        print("{kind:9} H={H:<3} B={B:<2} forward {forward:.2f}, gradient {gradient:.2f}".format(**point), flush=True)
    for kind in KINDS:
        own = [point for point in points if point["kind"] == kind]
        print(kind, *(f"{what} {geometric_mean(point[what] for point in own):.2f}" for what in ("forward", "gradient")))


if __name__ == "__main__":
    main()
