"""Keras by version: its activations, and the arrays of older layers, rearranged as today's layers return them.

Sources: keras/src/activations, keras/src/legacy/saving/legacy_h5_format.py (CuDNNLSTM and CuDNNGRU, and Keras 1's
layers), whose equations these are. Used by ``rnnkern.convert`` and ``rnnkern.keras``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .._arrays.host import as_numpy

Array = np.ndarray[Any, Any]

# Keras's names of the activations that the kernels have: ONNX's name, alpha and beta. hard_sigmoid is relu6(x + 3) / 6.
ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "tanh": ("tanh",),
    "sigmoid": ("sigmoid",),
    "relu": ("relu",),
    "linear": ("affine", 1.0, 0.0),
    "hard_sigmoid": ("hardsigmoid", 1 / 6, 0.5),
    "softsign": ("softsign",),
    "softplus": ("softplus",),
    "elu": ("elu", 1.0),
    "leaky_relu": ("leakyrelu", 0.2),
}
BEFORE_3: dict[str, tuple[Any, ...]] = {"hard_sigmoid": ("hardsigmoid", 0.2, 0.5)}

# Keras 1: a kernel, a recurrent kernel and a bias for each gate, in this order; and today's order.
_KERAS_1 = {"lstm": ("icfo", "ifco"), "gru reset_after=False": ("zrh", "zrh")}
_GATES = {"lstm": 4, "gru": 3}


def modern(cell: str, arrays: Sequence[Any], count: int) -> list[Any]:
    """The arrays of ``count`` layers and directions of a cell (a key of ``System.cells``), each as today's Keras.

    Older ones are recognised by their number and by a bias [2*G*H]. All others come back as they are.
    """
    given = list(arrays)
    if cell in _KERAS_1 and len(given) == 3 * len(_KERAS_1[cell][0]) * count:
        return [array for own in _apart(given, count) for array in _joined(cell, own)]
    if cell in _GATES and len(given) == 3 * count:
        return [array for own in _apart(given, count) for array in _from_cudnn(_GATES[cell], own)]
    return given


def _apart(arrays: list[Any], count: int) -> Iterator[list[Any]]:
    each = len(arrays) // count
    return (arrays[n * each : (n + 1) * each] for n in range(count))


def _joined(cell: str, arrays: list[Any]) -> list[Array]:
    """Keras 1's kernel, recurrent kernel and bias of each gate -> one of each."""
    given, order = _KERAS_1[cell]
    own = [as_numpy(array, f"arrays[{n}]") for n, array in enumerate(arrays)]
    return [np.concatenate([own[3 * given.index(gate) + kind] for gate in order], axis=-1) for kind in range(3)]


def _from_cudnn(gates: int, arrays: list[Any]) -> list[Any]:
    """CuDNNLSTM's and CuDNNGRU's arrays, whose kernels are cuDNN's matrices in the shapes of Keras' own."""
    kernel, recurrent, bias = (as_numpy(array, f"arrays[{n}]") for n, array in enumerate(arrays))
    if kernel.ndim != 2 or recurrent.ndim != 2 or bias.shape != (2 * gates * recurrent.shape[0],):
        return arrays
    kernel = _by_gate(kernel, gates, lambda k: k.T.reshape(k.shape, order="F"))
    recurrent = _by_gate(recurrent, gates, lambda k: k.T)
    return [kernel, recurrent, bias.reshape(2, -1) if gates == 3 else bias.reshape(2, -1).sum(axis=0)]


def _by_gate(kernel: Array, gates: int, change: Callable[[Array], Array]) -> Array:
    return np.hstack([change(own) for own in np.hsplit(kernel, gates)])
