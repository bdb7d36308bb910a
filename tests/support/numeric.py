"""Comparing arrays with bounds that are multiples of a dtype's epsilon, and gradients with finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EPS = {"float32": float(np.finfo(np.float32).eps), "float64": float(np.finfo(np.float64).eps)}


def near(got: np.ndarray, want: np.ndarray, bound: float) -> None:
    """Largest error at most ``bound`` times the largest magnitude wanted."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    scale = np.abs(want).max(initial=0.0)
    assert np.abs(got - want).max(initial=0.0) <= bound * max(scale, np.finfo(np.float64).tiny)


def differences(f: Callable[[np.ndarray], float], value: np.ndarray) -> np.ndarray:
    """Central differences of the scalar f with respect to every entry of ``value``.

    A step of eps^(1/3) balances truncation (step^2) and rounding (eps / step): both are eps^(2/3), the bound used below
    with a factor of 16 for the sums inside f.
    """
    step = EPS["float64"] ** (1 / 3)
    out = np.zeros(value.shape)
    for place in np.ndindex(value.shape):
        up, down = value.copy(), value.copy()
        up[place] += step
        down[place] -= step
        out[place] = (f(up) - f(down)) / (up[place] - down[place])
    return out


DIFFERENCES = 16 * EPS["float64"] ** (2 / 3)
