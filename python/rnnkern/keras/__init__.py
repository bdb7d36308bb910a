"""Keras 3 on rnnkern's kernels: ``LSTM``, ``GRU``, ``SimpleRNN``, and ``replace`` for the layers of a model.

    from rnnkern.keras import LSTM                             # in place of keras.layers.LSTM
    report = rnnkern.keras.replace(model)                      # or the layers that a model has

The backends torch, jax and numpy are supported, on the CPU.
"""

from __future__ import annotations

try:
    import keras
except ImportError as error:
    raise ImportError("rnnkern.keras needs Keras 3; install it with: pip install keras") from error

if int(keras.__version__.partition(".")[0]) < 3:
    raise ImportError(f"rnnkern.keras needs Keras 3, got {keras.__version__}; install it with: pip install 'keras>=3'")
if keras.config.backend() not in ("torch", "jax", "numpy"):
    raise ImportError(
        f"rnnkern.keras: expected the backend torch, jax or numpy, got {keras.config.backend()}; choose one with the "
        "environment variable KERAS_BACKEND before Keras is imported"
    )

from .layers import GRU, LSTM, SimpleRNN
from .swap import Replacement, explain, replace

__all__ = ["GRU", "LSTM", "Replacement", "SimpleRNN", "explain", "replace"]
