"""The base of layers that see one step at a time and carry no state, such as train.Linear and train.Embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np


class PerStep:
    """A layer without a state: y_t depends on x_t alone. A Stack takes such layers beside recurrent ones.

    A subclass defines all that is declared here.
    """

    codes: ClassVar[bool] = False  # whether x holds integers below input_size, [T, B], in place of [T, B, input_size]
    input_size: int
    output_size: int
    dtype: np.dtype[Any]

    @property
    def params(self) -> Mapping[str, np.ndarray]:
        raise NotImplementedError(f"{type(self).__name__} defines no params")

    def check_input(self, x: Any) -> np.ndarray:
        """x, if the layer takes it; raises TypeError or ValueError otherwise."""
        raise NotImplementedError(f"{type(self).__name__} defines no check_input")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, tape: Any, dy: np.ndarray, *, need_x: bool = True) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no backward")
