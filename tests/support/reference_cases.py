"""Sizes, data and the tolerance of the tests that hold the judge's options against something else."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnnkern import reference
from rnnkern.reference import Options

Array = np.ndarray[Any, Any]

EPS = float(np.finfo(np.float64).eps)
T, B, IN, H, P = 5, 4, 3, 6, 2
LENGTHS = (5, 1, 3, 5)


def close(got: Array, wanted: Array, name: str = "", eps: float = EPS) -> None:
    """Two computations of the same sums differ by their roundings: 64 of a tensor's size are plenty for five steps."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape, name
    assert np.abs(got - wanted).max(initial=0) <= 64 * eps * max(1.0, np.abs(wanted).max(initial=0)), name


def parameters(cell: str, options: Options, rng: np.random.Generator, proj_size: int = 0) -> dict[str, Array]:
    shapes = reference.parameter_shapes(cell, options, IN, H, proj_size)
    return {name: 0.5 * rng.standard_normal(shape) + name.startswith("gamma") for name, shape in shapes.items()}


def data(cell: str, rng: np.random.Generator, width: int = H) -> tuple[Array, Array, Array | None]:
    """x, h_0, c_0."""
    x, h_0, c_0 = (rng.standard_normal(shape) for shape in ((T, B, IN), (B, width), (B, H)))
    return x, h_0, c_0 if cell == "lstm" else None
