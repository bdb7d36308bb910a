"""rnnkern: fused recurrent kernels (LSTM, GRU, Elman, sLSTM; forward and BPTT) under a thin API with PyTorch's names.

    import numpy as np, rnnkern as rk

    lstm = rk.LSTM(64, 128, num_layers=2, bidirectional=True)
    y, (h_n, c_n) = lstm(np.zeros((100, 16, 64), np.float32))

``rnnkern.torch`` has drop-ins for torch.nn. ``import rnnkern`` imports no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _core, convert, init, weights
from .inspect import check, empty_cache, explain, get_num_threads, info, kernels, set_num_threads
from .io import load, save
from .nn.cells import GRUCell, LSTMCell, RNNCell, sLSTMCell
from .nn.layers import GRU, LSTM, RNN, sLSTM
from .padding import pad_sequence, unpad_sequence
from .structure import InitialState, Merge, Pyramid, PyramidalLSTM, Stack, truncated

if TYPE_CHECKING:
    from . import decode as decode
    from . import jax as jax
    from . import keras as keras
    from . import onnx as onnx
    from . import torch as torch
    from . import train as train

__version__ = _core.version()

# Submodules imported at first use. A framework is one file and one name here; without the framework, the file itself
# raises an ImportError that says what to install.
_LAZY = ("train", "decode", "torch", "jax", "keras", "onnx", "flashrnn")

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "InitialState",
    "LSTMCell",
    "Merge",
    "Pyramid",
    "PyramidalLSTM",
    "RNNCell",
    "Stack",
    "check",
    "convert",
    "decode",
    "empty_cache",
    "explain",
    "get_num_threads",
    "info",
    "init",
    "kernels",
    "load",
    "pad_sequence",
    "sLSTM",
    "sLSTMCell",
    "save",
    "set_num_threads",
    "train",
    "truncated",
    "unpad_sequence",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'rnnkern' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_LAZY, "__version__"})
