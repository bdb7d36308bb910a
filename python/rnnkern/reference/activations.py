"""The eleven activations of ONNX's recurrent operators, with their slopes, and the clip before them.

Each is a function of one number with up to two constants, as onnx/defs/rnn defines it. The slope at a kink is that of
the branch that the formula names there, and 0 for Relu; at the border of ``clip`` it is the activation's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import Array


def sigmoid(v: Array) -> Array:
    """1 / (1 + exp(-v)) without overflow and with full relative precision in both tails."""
    return np.exp(-np.logaddexp(0, -v))


@dataclass(frozen=True)
class Activation:
    """f(v) for v bounded to [-clip, clip] (None: not bounded). name: ONNX's, in lower case."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.name not in FORWARD:
            raise ValueError(f"activations: expected one of {sorted(FORWARD)}, got {self.name!r}")

    def forward(self, v: Array) -> Array:
        return FORWARD[self.name](self._clipped(v), self.alpha, self.beta)

    def backward(self, v: Array, out: Array, dout: Array) -> Array:
        """dv. out: ``forward(v)``. It selects: where the slope is 0 by a branch, dout does not matter."""
        dv = BACKWARD[self.name](self._clipped(v), out, dout, self.alpha, self.beta)
        return dv if self.clip is None else np.where(np.abs(v) > self.clip, 0, dv)

    def kinks(self) -> list[float]:
        """Where the function or one of its first two derivatives jumps: no difference quotient is to straddle these."""
        alpha, beta = self.alpha, self.beta
        points = {
            "relu": [0.0],
            "leakyrelu": [0.0],
            "thresholdedrelu": [alpha],
            "hardsigmoid": [-beta / alpha, (1 - beta) / alpha] if alpha else [],
            "elu": [0.0],
            "softsign": [0.0],
        }.get(self.name, [])
        return points + ([] if self.clip is None else [-self.clip, self.clip])

    def _clipped(self, v: Array) -> Array:
        return v if self.clip is None else np.clip(v, -self.clip, self.clip)


def _elu(v: Array, a: float) -> Array:
    return np.where(v < 0, a * np.expm1(np.minimum(v, 0)), v)


# f(v, alpha, beta)
FORWARD = {
    "affine": lambda v, a, b: a * v + b,
    "elu": lambda v, a, b: _elu(v, a),
    "hardsigmoid": lambda v, a, b: np.minimum(np.maximum(a * v + b, 0), 1),
    "leakyrelu": lambda v, a, b: np.where(v < 0, a * v, v),
    "relu": lambda v, a, b: np.maximum(v, 0),
    "scaledtanh": lambda v, a, b: a * np.tanh(b * v),
    "sigmoid": lambda v, a, b: sigmoid(v),
    "softplus": lambda v, a, b: np.logaddexp(0, v),
    "softsign": lambda v, a, b: v / (1 + np.abs(v)),
    "tanh": lambda v, a, b: np.tanh(v),
    "thresholdedrelu": lambda v, a, b: np.where(v > a, v, 0),
}
# dv(v, f(v), df, alpha, beta). A NaN lets the gradient of Relu pass, as in torch. Relu's and Tanh's look at f(v) alone:
# a test of kernels hands in theirs, to be judged on the side of the kink that they are on.
BACKWARD = {
    "affine": lambda v, out, d, a, b: d * a,
    "elu": lambda v, out, d, a, b: np.where(v < 0, d * a * np.exp(np.minimum(v, 0)), d),
    "hardsigmoid": lambda v, out, d, a, b: np.where((out <= 0) | (out >= 1), 0, d * a),
    "leakyrelu": lambda v, out, d, a, b: np.where(v < 0, d * a, d),
    "relu": lambda v, out, d, a, b: np.where(out <= 0, 0, d),
    "scaledtanh": lambda v, out, d, a, b: d * a * b * (1 - np.tanh(b * v) ** 2),
    "sigmoid": lambda v, out, d, a, b: d * out * (1 - out),
    "softplus": lambda v, out, d, a, b: d * sigmoid(v),
    "softsign": lambda v, out, d, a, b: d / (1 + np.abs(v)) ** 2,
    "tanh": lambda v, out, d, a, b: d * (1 - out**2),
    "thresholdedrelu": lambda v, out, d, a, b: np.where(v > a, d, 0),
}
