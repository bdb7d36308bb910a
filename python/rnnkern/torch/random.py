"""The random masks of a cell's options for the composed form: the words that the kernels draw (core/random_words.h).

Element (t, row, unit) has key ``seed`` and counter (call, stream, t, row*K + unit), K the width of what is masked; word
1 decides zoneout of h, word 2 of c, word 3 at t = 0 recurrent dropout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .options import Options

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class Masks(NamedTuple):
    """Of one layer in one direction."""

    kept: Tensor | None  # bool [B, P]: of h' in the recurrent product, in every step
    held: tuple[Tensor | None, Tensor | None]  # bool [T, B, P] and [T, B, H]: h and c stay what they were


def draw(
    options: Options, masks: tuple[int, int], stream: int, sizes: tuple[int, int, int, int], like: Tensor
) -> Masks:
    """sizes: (T, B, P, H). On the device of ``like``."""
    seq_len, batch, outputs, hidden = sizes

    def below(p: float, word: int, steps: int, width: int) -> Any:
        if not p:
            return None
        # NumPy's: a tensor made here would be wrapped by torch.func's levels.
        bits = _philox(masks[0], (masks[1], stream, np.arange(steps)[:, None], np.arange(batch * width)))[word]
        held = (bits < np.uint64(int(p * 2**32))).reshape(steps, batch, width)
        return torch.from_numpy(held).to(like.device)

    dropped = below(options.recurrent_dropout, 3, 1, outputs)
    zones = options.zoneout
    return Masks(
        None if dropped is None else ~dropped[0],
        (below(zones[0], 1, seq_len, outputs), below(zones[1], 2, seq_len, hidden)),
    )


def _philox(seed: int, counter: tuple[Any, ...]) -> tuple[Any, ...]:
    """Philox4x32-10 (Salmon et al. 2011) of counters that broadcast -> four words, each in 64 bits."""
    c0, c1, c2, c3 = (np.asarray(word).astype(np.uint64) & _LOW for word in counter)
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> _HALF) ^ c1 ^ k0, b & _LOW, (a >> _HALF) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return c0, c1, c2, c3
