"""How much of the error's gradient reaches each step: the picture of vanishing and exploding gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays.host import as_numpy
from ..nn.parameters import check_bool, check_int


def gradient_norms(
    layer: Any,
    tape: Any,
    dy: Any,
    dstate: Any = None,
    *,
    index: int = -1,
    rows: bool = False,
    clip_step: float | None = None,
) -> np.ndarray:
    """Norms of dE/dh_t, E = sum(y * dy) + sum(state * dstate), for every step t: [T], or [T, B] with ``rows``.

    layer, tape, dy, dstate, clip_step: as for ``layer.backward``, for any layer.
    index: the layer of the stack; -1 is the last.

    dE/dh_t is the gradient of the output of this layer at step t, through y and all later steps. The norm is Euclidean,
    over the units of both directions, and over the rows unless ``rows``; it is float64, and 0 past the end of a row.
    Gradients vanish if it shrinks by a factor at each step backward, and explode if it grows (Bengio et al. 1994;
    Pascanu, Mikolov, Bengio 2013, arXiv 1211.5063, section 2). Errors are those of ``layer.backward``, and ValueError
    for an index out of range.
    """
    depth = layer.num_layers
    index = check_int("index", index, -depth, depth - 1)
    axes = (2,) if check_bool("rows", rows) else (1, 2)
    grads = layer.backward(tape, dy, dstate, need_x=False, probe=True, clip_step=clip_step)
    steps = as_numpy(grads.steps[index], f"steps[{index}]").astype(np.float64)
    return np.asarray(np.sqrt(np.square(steps).sum(axis=axes)))
