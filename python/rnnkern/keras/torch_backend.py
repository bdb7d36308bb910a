"""A network call on the tensors of Keras's torch backend."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .._engine.spec import NO_MARKS, Marks
from ..options import parse
from ..torch.autograd import Call, by_operator, records_gradient, recurrence
from ..torch.kernels import DTYPES, Around, Options, spec_of
from ..torch.options import text_of
from .cells import Network, NotFused


def elsewhere() -> str:
    """Why no call can run on the kernels; "": tensors of this backend say where they are."""
    return ""


@lru_cache(maxsize=128)
def _options(network: Network, hidden_size: int, reverse: bool) -> Options:
    step = text_of(parse(network.cell, hidden_size, dict(network.options)))
    return Options(network.cell, 1, False, 0.0, True, False, reverse, step)


def run(
    network: Network, x: Any, states: list[Any], mask: Any, weights: list[Any], reverse: bool
) -> tuple[Any, list[Any]]:
    """x [B, T, I], states [B, H], mask bool [B, T] or None -> y [B, T, H], the states after the last step."""
    import torch

    if not x.is_cpu or x.dtype not in DTYPES:
        raise NotFused(f"its tensors are {x.dtype} on {x.device}; the kernels take floats on the CPU")
    hidden = weights[1].shape[1]
    options = _options(network, hidden, reverse)
    weights = [w.contiguous() for w in weights]
    h, c = states[0][None], states[1][None] if len(states) > 1 else None
    marks = NO_MARKS if mask is None else Marks(mask.t().contiguous(), None)
    walk = x.transpose(0, 1)
    if torch.compiler.is_compiling() or mask is not None:
        y, h_n, c_n = by_operator(options, walk, h, c, weights, Around(None, None, marks))
    else:
        spec = spec_of(options, x.dtype, x.shape[2], hidden, len(weights) > 2)
        keep = records_gradient([x, h, c, *weights])
        y, h_n, c_n = recurrence(Call(options, spec, None, None, keep), walk, h, c, weights)
    return y.transpose(0, 1), [h_n[0]] if c_n is None else [h_n[0], c_n[0]]
