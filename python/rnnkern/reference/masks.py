"""The random masks: Philox4x32-10, and which word of which counter decides what.

The bits of element (t, row, unit) have key (low, high) word of ``seed`` and counter (call, stream, t, row*K + unit),
stream = layer*D + direction, K the width of what is masked; so no mask depends on how the work is split.

    word 0  dropout between layers       word 1  zoneout of h
    word 2  zoneout of c                 word 3  recurrent dropout, at t = 0 for every step
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arrays import Array


def philox4x32(counter: Array, key: Array) -> Array:
    """Philox4x32-10: counter [..., 4] and key [..., 2] of uint32 -> [..., 4] of uint32.

    Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"; the constants are Random123's.
    """
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key, np.uint64), -1, 0)
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ k0,
            product1 & low,
            (product0 >> np.uint64(32)) ^ c3 ^ k1,
            product0 & low,
        )
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def at_least(
    shape: Sequence[int], p: float, word: int, seed: int, call: int, stream: int, first_step: int = 0
) -> Array:
    """bool [T, B, K]: whether the word of each element is at least floor(p * 2**32); its t is first_step + t."""
    seq_len, batch, width = shape
    counter = np.zeros((seq_len, batch * width, 4), np.uint32)
    counter[..., 0], counter[..., 1] = call & 0xFFFFFFFF, stream
    counter[..., 2] = ((first_step + np.arange(seq_len, dtype=np.int64)) & 0xFFFFFFFF)[:, None]
    counter[..., 3] = np.arange(batch * width, dtype=np.uint64).astype(np.uint32)
    key = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32)
    bits = philox4x32(counter, key)[..., word].astype(np.uint64)
    return (bits >= np.uint64(int(p * 2**32))).reshape(shape)


def dropout_kept(shape: Sequence[int], p: float, seed: int, call: int, stream: int, first_step: int = 0) -> Array:
    """Which elements of [T, B, H] dropout between layers keeps."""
    return at_least(shape, p, 0, seed, call, stream, first_step)


def zoneout_held(
    shape: Sequence[int], z: float, state: str, seed: int, call: int, stream: int, first_step: int = 0
) -> Array:
    """Which elements of [T, B, K] zoneout leaves at their old value; state: "h" (K = P) or "c" (K = H)."""
    return ~at_least(shape, z, {"h": 1, "c": 2}[state], seed, call, stream, first_step)


def recurrent_kept(shape: Sequence[int], p: float, seed: int, call: int, stream: int) -> Array:
    """Which elements of h' [B, P] recurrent dropout keeps, in every step of the sequence."""
    return at_least((1, *shape), p, 3, seed, call, stream)[0]


def thin(x: Array, kept: Array | None, p: float) -> Array:
    """x / (1 - p) where kept, else 0; x itself where kept is None. It selects: a dropped NaN is 0. Its own gradient."""
    return x if kept is None else np.where(kept, x / (1 - p) if p < 1 else 0, 0)
