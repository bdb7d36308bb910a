"""Argument checks of rnnkern.train: every message names the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

FLOATS = ("float32", "float64")


def array(name: str, value: Any) -> np.ndarray:
    """``value`` as it is, if it is a NumPy array; TypeError otherwise (lists and other libraries' arrays included)."""
    if not isinstance(value, np.ndarray):
        kind = type(value)
        raise TypeError(f"{name}: expected a NumPy array, got {kind.__module__}.{kind.__qualname__}")
    return value


def shaped(name: str, value: Any, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """A NumPy array of exactly this shape and dtype (byte order included)."""
    value = array(name, value)
    if value.shape != tuple(shape):
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    if value.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {described(dtype)}, got {described(value.dtype)}")
    return value


def described(dtype: np.dtype) -> str:
    """'float32', or 'float32 (byte-swapped)' where the order is not this machine's."""
    return dtype.name if dtype.isnative else f"{dtype.name} (byte-swapped)"


def float_array(name: str, value: Any) -> np.ndarray:
    """A NumPy array of float32 or float64 in this machine's byte order."""
    value = array(name, value)
    if value.dtype not in (np.float32, np.float64) or not value.dtype.isnative:
        raise TypeError(f"{name}: expected dtype float32 or float64, got {described(value.dtype)}")
    return value


def float_dtype(name: str, value: Any) -> np.dtype:
    """The dtype of a layer: float32 or float64."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name}: expected one of {', '.join(FLOATS)}, got {value!r}") from None
    if dtype.name not in FLOATS or not dtype.isnative:
        raise TypeError(f"{name}: expected one of {', '.join(FLOATS)}, got {described(dtype)}")
    return dtype


def integers(name: str, value: Any, shape: Sequence[int] | None = None) -> np.ndarray:
    """A NumPy array of integers (not bool), of this shape if one is given."""
    value = array(name, value)
    if value.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected an integer dtype, got {described(value.dtype)}")
    if shape is not None and value.shape != tuple(shape):
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    return value


def within(name: str, value: np.ndarray, low: int, high: int) -> None:
    """Every entry in [low, high]; says where the first bad one stands."""
    bad = (value < low) | (value > high)
    if bad.any():
        where = np.argwhere(bad)[0].tolist()
        raise ValueError(f"{name}: expected values in [{low}, {high}], got {value[tuple(where)]} at {where}")


def size(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return int(value)


def number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = True
) -> float:
    """A real number in the interval from low to high; NaN never is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    value = float(value)
    if not ((low < value if open_low else low <= value) and (value < high if open_high else value <= high)):
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(f"{name}: expected a number in {left}{low:g}, {high:g}{right}, got {value:g}")
    return value
