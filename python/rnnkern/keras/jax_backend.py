"""A network call on the arrays of Keras's jax backend."""

from __future__ import annotations

from typing import Any

import jax

from ..jax.arguments import Around
from ..jax.functions import run as call
from .cells import Network

_NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def elsewhere() -> str:
    """Why no call can run on the kernels."""
    platform = jax.default_backend()
    return "" if platform == "cpu" else f"JAX computes on {platform}; the kernels run on the CPU"


def run(
    network: Network, x: Any, states: list[Any], mask: Any, weights: list[Any], reverse: bool
) -> tuple[Any, list[Any]]:
    """x [B, T, I], states [B, H], mask bool [B, T] or None -> y [B, T, H], the states after the last step."""
    params = dict(zip(_NAMES, weights, strict=False))
    around = Around(None, mask, None, True, 0.0, None, reverse, False)
    given = [state[None] for state in states]
    y, after = call(
        network.cell, params, x, tuple(given) if len(given) > 1 else given[0], around, dict(network.options)
    )
    return y, [state[0] for state in (after if isinstance(after, tuple) else (after,))]
