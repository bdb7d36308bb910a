"""A pytest plugin: Keras's own layers run on the kernels, for Keras's own tests. It prints how many calls did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from rnnkern.keras.cells import NotFused
from rnnkern.keras.layers import inner_loop

CALLS = {"kernels": 0, "Keras": 0}


def fused(own: Callable[..., Any]) -> Callable[..., Any]:
    def loop(self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        try:
            answer = inner_loop(self, sequences, initial_state, mask, training)
        except NotFused:
            CALLS["Keras"] += 1
            return own(self, sequences, initial_state, mask, training=training)
        CALLS["kernels"] += 1
        return answer

    return loop


for kind in (keras.layers.RNN, keras.layers.LSTM, keras.layers.GRU):
    kind.inner_loop = fused(kind.inner_loop)


def pytest_sessionfinish() -> None:
    print("\ncalls:", CALLS)
