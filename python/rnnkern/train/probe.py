"""How much of the error's gradient reaches each step: the picture of vanishing and exploding gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import as_numpy
from ..parameters import check_bool, check_int


def gradient_norms(
    layer: Any, tape: Any, dy: Any, dstate: Any = None, *, index: int = -1, rows: bool = False
) -> np.ndarray:
    """Norms of dE/dh_t, E = sum(y * dy) + sum(state * dstate), for every step t: [T], or with ``rows`` [T, B].

    layer, tape, dy, dstate: as for ``layer.backward``, which does the work (any layer's). dE/dh_t is the gradient
    with respect to what layer ``index`` (-1: the last) puts out at step t, through everything it reaches: y and all
    later steps. The norm is the Euclidean one over the units of both directions, and over the rows too unless ``rows``;
    in float64, 0 past a row's end.
    Where it shrinks by a factor from each step to the one before, gradients vanish; where it grows, they explode
    (Bengio et al. 1994; Pascanu, Mikolov, Bengio 2013, arXiv 1211.5063, section 2). Errors as ``layer.backward``'s, and
    ValueError for an index that is not there.
    """
    depth = layer.num_layers
    index = check_int("index", index, -depth, depth - 1)
    axes = (2,) if check_bool("rows", rows) else (1, 2)
    grads = layer.backward(tape, dy, dstate, need_x=False, probe=True)
    steps = as_numpy(grads.steps[index], f"steps[{index}]").astype(np.float64)
    return np.asarray(np.sqrt(np.square(steps).sum(axis=axes)))
