"""What every file of the reference shares: array types, and the precision it computes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Params = Mapping[str, Array]
Grads = dict[str, Array]


def wide(array: Array) -> Array:
    """In float64, or in longdouble if it is that already (bfloat16 and float16 convert exactly)."""
    array = np.asarray(array)
    return array if array.dtype == np.longdouble else array.astype(np.float64)
