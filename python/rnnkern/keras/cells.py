"""Keras's cells as networks of the kernels: equations, options, and the layout of the weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import activations, ops

from ..weights.keras_versions import ACTIVATIONS

# Functions of Keras: each activation, and its twin in keras.ops, beside the kernels' name of it.
_ACTIVATIONS = tuple(
    ((getattr(activations, name), getattr(ops, name, None)), entry) for name, entry in ACTIVATIONS.items()
)


class NotFused(Exception):
    """Why a layer runs Keras's own loop."""


class Network(NamedTuple):
    """A cell as the kernels know it."""

    cell: str
    options: tuple[tuple[str, Any], ...]  # keywords of the step's options
    states: int


def cells_of(layer: Any) -> list[Any]:
    """The cells of a recurrent layer, the lowest first."""
    cell = layer.cell
    return list(cell.cells) if type(cell) is keras.layers.StackedRNNCells else [cell]


def refuse(cells: list[Any], training: bool) -> None:
    """NotFused where a call draws masks that the kernels do not."""
    for cell in cells if training else ():
        if cell.recurrent_dropout:
            raise NotFused("recurrent_dropout is Keras's own in training")
        if cell.dropout and getattr(cell, "dropout_mask_count", None) is not None:
            raise NotFused("with implementation=1 each gate has a dropout mask of its own")


def network_of(cell: Any) -> Network:
    """The network of one step of a cell; NotFused where the kernels have none."""
    kinds = {keras.layers.LSTMCell: _lstm, keras.layers.GRUCell: _gru, keras.layers.SimpleRNNCell: _simple}
    if type(cell) not in kinds:
        raise NotFused(f"its cell is a {type(cell).__name__}, not one of LSTMCell, GRUCell, SimpleRNNCell")
    return kinds[type(cell)](cell)


def _lstm(cell: Any) -> Network:
    chosen = [_activation(cell.recurrent_activation), *[_activation(cell.activation)] * 2]
    return Network("lstm", _options(chosen, ("sigmoid", "tanh", "tanh")), 2)


def _gru(cell: Any) -> Network:
    chosen = [_activation(cell.recurrent_activation), _activation(cell.activation)]
    options = _options(chosen, ("sigmoid", "tanh"))
    return Network("gru", options if cell.reset_after else (*options, ("reset_after", False)), 1)


def _simple(cell: Any) -> Network:
    chosen = _activation(cell.activation)
    if chosen in (("tanh",), ("relu",)):
        return Network(f"rnn_{chosen[0]}", (), 1)
    return Network("rnn_tanh", (("activations", (chosen,)),), 1)


def _activation(function: Any) -> tuple[Any, ...]:
    for known, entry in _ACTIVATIONS:
        if any(function is one for one in known):
            return entry
    raise NotFused(f"its activation {getattr(function, '__name__', function)} is none of the kernels'")


def _options(chosen: list[tuple[Any, ...]], own: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    return () if tuple(chosen) == tuple((name,) for name in own) else (("activations", tuple(chosen)),)


def weights_of(cell: Any) -> list[Any]:
    """weight_ih [G*H, I], weight_hh [G*H, H], and with biases bias_ih and bias_hh [G*H], as tensors of the backend."""
    kernel, recurrent = (ops.transpose(ops.convert_to_tensor(w)) for w in (cell.kernel, cell.recurrent_kernel))
    found = [kernel, recurrent]
    if cell.bias is not None:
        bias = ops.convert_to_tensor(cell.bias)
        # GRU's with the reset after the product is [2, 3*H]; the others have one for the input.
        found += [bias[0], bias[1]] if len(bias.shape) == 2 else [bias, ops.zeros_like(bias)]
    if isinstance(cell, keras.layers.GRUCell):  # Keras: z r h; here: r z n
        n = recurrent.shape[1]
        found = [ops.concatenate([w[n : 2 * n], w[:n], w[2 * n :]]) for w in found]
    return found
