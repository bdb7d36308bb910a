"""Gradient clipping for the gradients of one layer or of several.

``grads`` is the argument of an optimiser's ``step``: arrays by name, nested to any depth. The result has the same
structure. These functions never write to their arguments. If the norm is small enough, the gradients are returned
unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from . import _check


def clip_grad_norm(
    grads: Mapping[str, Any], max_norm: float, norm_type: float = 2.0, *, error_if_nonfinite: bool = False
) -> tuple[dict[str, Any], float]:
    """Scale all gradients by one factor so that their joint norm is at most max_norm.

    Returns (grads, norm before clipping).

    The factor is min(1, max_norm / (norm + 1e-6)), as in torch.nn.utils.clip_grad_norm_ (Pascanu, Mikolov, Bengio 2013,
    arXiv 1211.5063, algorithm 1). Sums are in float64, so float32 cannot overflow.

    norm_type: p > 0 for the p-norm, math.inf for the largest magnitude.
    error_if_nonfinite: True raises ValueError for a norm that is NaN or infinite. Otherwise such a norm makes the
        gradients NaN or zero, as in torch.

    Raises TypeError unless grads is a mapping of floating-point NumPy arrays, and ValueError for a negative max_norm.
    """
    max_norm = _check.number("max_norm", max_norm, 0.0, open_high=False)
    norm_type = _check.number("norm_type", norm_type, 0.0, open_low=True, open_high=False)
    norms = [_norm(value, norm_type) for value in _leaves(grads, "grads")]
    norm = _norm(np.array(norms), norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise ValueError(f"grads: expected a finite norm, got {norm}")
    factor = max_norm / (norm + 1e-6)
    if factor >= 1.0:
        return _map(grads, lambda value: value), norm
    with np.errstate(all="ignore"):
        return _map(grads, lambda value: value * value.dtype.type(factor)), norm


def clip_grad_value(grads: Mapping[str, Any], clip_value: float) -> dict[str, Any]:
    """Bound every entry to [-clip_value, clip_value] (torch.nn.utils.clip_grad_value_). NaN stays NaN."""
    clip_value = _check.number("clip_value", clip_value, 0.0, open_high=False)
    for _ in _leaves(grads, "grads"):
        pass  # every argument is checked before any work
    return _map(grads, lambda value: np.clip(value, -value.dtype.type(clip_value), value.dtype.type(clip_value)))


def _norm(value: np.ndarray, p: float) -> float:
    if not value.size:
        return 0.0
    with np.errstate(all="ignore"):
        if p == math.inf:
            return float(np.abs(value).max())
        flat = value.astype(np.float64).reshape(-1)
        if p == 2.0:
            return math.sqrt(float(flat @ flat))
        return float(np.sum(np.abs(flat) ** p) ** (1.0 / p))


def _leaves(grads: Any, path: str) -> Iterator[np.ndarray]:
    if not isinstance(grads, Mapping):
        raise TypeError(f"{path}: expected a mapping of names to arrays, got {type(grads).__name__}")
    for name, value in grads.items():
        where = f"{path}[{name!r}]"
        if isinstance(value, Mapping):
            yield from _leaves(value, where)
            continue
        value = _check.array(where, value)
        # Half types of layers count as floats here: NumPy's float16 and ml_dtypes.bfloat16 (kind V).
        if not (value.dtype.kind == "f" or value.dtype.name == "bfloat16") or not value.dtype.isnative:
            raise TypeError(f"{where}: expected a floating-point dtype, got {_check.described(value.dtype)}")
        yield value


def _map(grads: Mapping[str, Any], f: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    return {name: _map(v, f) if isinstance(v, Mapping) else f(v) for name, v in grads.items()}
