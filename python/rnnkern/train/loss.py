"""Softmax cross-entropy over ragged batches, with its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays.host import take_lengths
from . import _check


def softmax_cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    lengths: Any = None,
    mask: np.ndarray | None = None,
    batch_first: bool = False,
) -> tuple[float, np.ndarray]:
    """Return the mean of -log softmax(logits)[target] over the valid steps, in nats, and its gradient.

    logits: [T, B, V] ([B, T, V] with batch_first; any [..., V] without lengths), float32 or float64.
    targets: integers in [0, V), in the shape of logits without V.
    lengths: integers [B] in [0, T]. The steps before the length of a row are valid.
    mask: bool, in the shape of targets. The steps where it is True are valid. Pass lengths, mask or neither.

    Logits and targets of other steps are never used, so they may be NaN or out of range, and the gradient there is
    zero. Without any valid step, the loss is 0.0.

    Returns (loss, dlogits). The loss is summed in float64, and dlogits = (softmax(logits) - onehot(targets)) / number
    of valid steps. (Bishop, Pattern Recognition and Machine Learning, 2006, eq. 4.108 and 4.109;
    torch.nn.functional.cross_entropy.)

    Raises TypeError for a wrong type or dtype, and ValueError for a wrong shape, length or target, before any work.
    """
    logits = _check.float_array("logits", logits)
    if logits.ndim < 1 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape [..., V] with V at least 1, got {list(logits.shape)}")
    *lead, V = logits.shape
    targets = _check.integers("targets", targets, lead)
    valid = _valid(lead, lengths, mask, batch_first)

    if valid is None:
        rows, codes = logits.reshape(-1, V), targets.reshape(-1)
    else:
        rows, codes = logits[valid], targets[valid]  # no work on padding
    bad = (codes < 0) | (codes >= V)
    if bad.any():
        raise ValueError(f"targets: expected values in [0, {V - 1}] in valid steps, got {codes[bad][0]}")
    if not codes.size:
        return 0.0, np.zeros(logits.shape, logits.dtype)

    index = np.arange(codes.size)
    with np.errstate(all="ignore"):  # NaN and infinity pass through without a word
        p = rows - rows.max(axis=-1, keepdims=True)
        picked = p[index, codes]
        np.exp(p, out=p)
        total = p.sum(axis=-1, keepdims=True)
        loss = float(np.mean(np.log(total[:, 0]) - picked, dtype=np.float64))
        p /= total
        p[index, codes] -= 1
        p /= codes.size

    if valid is None:
        return loss, p.reshape(logits.shape)
    dlogits = np.zeros(logits.shape, logits.dtype)
    dlogits[valid] = p
    return loss, dlogits


def _valid(lead: list[int], lengths: Any, mask: Any, batch_first: bool) -> np.ndarray | None:
    """Bool array of the shape ``lead``: which steps count; None for all."""
    if lengths is not None and mask is not None:
        raise ValueError("mask: expected lengths or mask, got both")
    if mask is not None:
        return _check.shaped("mask", mask, lead, np.dtype(bool))
    if lengths is None:
        return None
    if len(lead) != 2:
        raise ValueError(f"lengths: expected logits of shape [T, B, V], got {len(lead) + 1} dimensions")
    T, B = reversed(lead) if batch_first else lead
    lengths = take_lengths(lengths, B, T)
    steps = np.arange(T)
    return steps[None, :] < lengths[:, None] if batch_first else steps[:, None] < lengths[None, :]
