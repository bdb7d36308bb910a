"""``rnnkern.steps`` in torch's operations: one step of each cell, for ``composed.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from ..steps import Params, State, Steps

__all__ = ["CELLS", "Params", "State", "stepper"]


class _Operations:
    """``rnnkern.steps.Operations``."""

    sigmoid = staticmethod(torch.sigmoid)
    tanh = staticmethod(torch.tanh)
    relu = staticmethod(torch.relu)
    exp = staticmethod(torch.exp)
    expm1 = staticmethod(torch.expm1)
    rsqrt = staticmethod(torch.rsqrt)
    clamp = staticmethod(torch.clamp)
    where = staticmethod(torch.where)
    logsigmoid = staticmethod(logsigmoid)
    linear = staticmethod(linear)

    def chunk(self, v: Tensor, parts: int) -> Sequence[Tensor]:
        return v.chunk(parts, -1)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), -1)

    def mean(self, v: Tensor) -> Tensor:
        return v.mean(-1, keepdim=True)

    def heads(self, h: Tensor, weight: Tensor, heads: int) -> Tensor:
        blocks = weight.unflatten(0, (-1, heads, weight.shape[-1]))  # [G, heads, units out, units in]
        return torch.einsum("bek,geuk->bgeu", h.unflatten(-1, (heads, -1)), blocks).flatten(1)

    def like(self, v: Tensor, other: Tensor) -> Tensor:
        return v.to(other.dtype)


_steps = Steps(_Operations())  # type: ignore[arg-type]  # torch's functions have more arguments
CELLS, stepper = _steps.cells, _steps.stepper
