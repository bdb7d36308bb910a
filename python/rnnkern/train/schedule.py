"""Learning rates by step."""

from __future__ import annotations

import math

from ..nn.parameters import check_int
from . import _check


def cosine_lr(step: int, steps: int, lr: float, *, warmup: int = 0) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``: it falls from ``lr`` to 0 along half a cosine.

        lr / 2 * (1 + cos(pi * step / steps)) * min(1, (step + 1) / warmup)

    (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5 without restarts.) During the first ``warmup`` steps the
    rate also rises linearly. Assign it before each step: ``opt.lr = cosine_lr(step, steps, 5e-3)``.
    ValueError for a step outside [0, steps), a negative lr or a negative warmup.
    """
    steps = check_int("steps", steps, 1)
    step = check_int("step", step, 0, steps - 1)
    lr = _check.number("lr", lr, 0.0)
    warmup = check_int("warmup", warmup, 0)
    return lr / 2 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / max(warmup, 1))
