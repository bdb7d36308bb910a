"""The random masks of a cell's options for the composed form: the words that the kernels draw (core/random_words.h).

Element (t, row, unit) has key ``seed`` and counter (call, stream, t, row*K + unit), K the width of what is masked; word
1 decides zoneout of h, word 2 of c, word 3 at t = 0 recurrent dropout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..steps import Masks
from .options import Options

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def draw(
    options: Options, masks: tuple[int, int], stream: int, sizes: tuple[int, int, int, int], like: Tensor
) -> Masks:
    """sizes: (T, B, P, H). On the device of ``like``."""
    seq_len, batch, outputs, hidden = sizes
    (z_h, z_c), rate = options.zoneout, options.recurrent_dropout

    def below(chances: dict[int, float], steps: int, width: int) -> list[Any]:
        """bool [steps, B, width] for each word: whether it is below its chance."""
        # NumPy's: a tensor made here would be wrapped by torch.func's levels.
        found = np.empty((len(chances), steps, batch * width), bool)
        for t in range(steps):
            words = _philox(masks[0], (masks[1], stream, t, np.arange(batch * width)))
            for k, (word, chance) in enumerate(chances.items()):
                np.less(words[word], np.uint64(int(chance * 2**32)), out=found[k, t])
        return [torch.from_numpy(each.reshape(steps, batch, width)).to(like.device) for each in found]

    kept = ~below({3: rate}, 1, outputs)[0][0] if rate else None
    if z_h and z_c and outputs == hidden:  # one block has both words
        return Masks(kept, tuple(below({1: z_h, 2: z_c}, seq_len, hidden)))  # type: ignore[arg-type]
    return Masks(
        kept,
        (
            below({1: z_h}, seq_len, outputs)[0] if z_h else None,
            below({2: z_c}, seq_len, hidden)[0] if z_c else None,
        ),
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
