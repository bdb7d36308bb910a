"""A network call on the arrays of Keras's numpy backend, which has no gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .. import _engine as engine
from .._arrays.host import MEMORY
from .._engine.spec import NO_MARKS, Inputs, Marks
from ..options import parse
from .cells import Network


def elsewhere() -> str:
    """Why no call can run on the kernels."""
    return ""


@lru_cache(maxsize=128)
def _spec(network: Network, dtype: str, sizes: tuple[int, int], bias: bool, reverse: bool) -> engine.Spec:
    options = parse(network.cell, sizes[1], dict(network.options))
    return engine.Spec(network.cell, dtype, *sizes, bias=bias, reverse=reverse, options=options)


def run(
    network: Network, x: Any, states: list[Any], mask: Any, weights: list[Any], reverse: bool
) -> tuple[Any, list[Any]]:
    """x [B, T, I], states [B, H], mask bool [B, T] or None -> y [B, T, H], the states after the last step."""
    spec = _spec(network, str(x.dtype), (x.shape[2], weights[1].shape[1]), len(weights) > 2, reverse)
    packed = engine.pack(spec, [np.ascontiguousarray(w) for w in weights], backward=False)
    marks = NO_MARKS if mask is None else Marks(np.ascontiguousarray(mask.T))
    h, c = states[0][None], states[1][None] if len(states) > 1 else None
    y, h_n, c_n = engine.forward(spec, packed, Inputs(x.swapaxes(0, 1), h, c, marks=marks), MEMORY)
    return y.swapaxes(0, 1), [h_n[0]] if c_n is None else [h_n[0], c_n[0].astype(x.dtype)]
