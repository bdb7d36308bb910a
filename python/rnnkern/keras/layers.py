"""``inner_loop`` of Keras's recurrent layers by one call of the kernels, and the layers that have it.

Here the layer's dropout, ``training``, ``zero_output_for_mask`` and the mask are known, which ``backend.lstm`` is not
told.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from .cells import Network, NotFused, cells_of, network_of, refuse, weights_of

_backend = importlib.import_module(f".{keras.config.backend()}_backend", __package__)
_run: Callable[..., Any] = _backend.run


def check(layer: Any, training: bool) -> list[Network]:
    """The networks of a layer's cells; NotFused where Keras's own loop runs, whatever the input."""
    networks = [network_of(cell) for cell in cells_of(layer)]
    refuse(cells_of(layer), training)
    if _backend.elsewhere():
        raise NotFused(_backend.elsewhere())
    return networks


def inner_loop(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """-> the last output [B, H], outputs [B, T, H], the states. Raises NotFused where the kernels cannot do it."""
    cells = cells_of(layer)
    networks = check(layer, training)
    if len(sequences.shape) != 3 or not sequences.shape[1]:
        raise NotFused("its input is no [batch, time, features] with at least one step")
    mask = mask[0] if isinstance(mask, (list, tuple)) else mask
    if mask is not None:
        mask = ops.cast(mask, "bool")
        mask = ops.squeeze(mask, -1) if len(mask.shape) == 3 else mask
    states, after = iter(keras.tree.flatten(initial_state)), []
    y = sequences
    for cell, network in zip(cells, networks, strict=True):
        weights = weights_of(cell)
        dtype = keras.backend.standardize_dtype(weights[0].dtype)
        given = [ops.cast(next(states), dtype) for _ in range(network.states)]
        x = ops.cast(y, dtype)
        if training and cell.dropout:
            x = x * ops.cast(cell.get_dropout_mask(y[:, 0, :]), dtype)[:, None]
        y, own = _run(network, x, given, mask, weights, bool(layer.go_backwards))
        after += own
    last = own[0]
    if mask is not None:
        # Where a step is masked, Keras repeats the output before it, zero at the start; or gives zero.
        taken = mask[:, :1] if layer.go_backwards else mask[:, -1:]
        taken = taken if layer.zero_output_for_mask else ops.any(mask, 1, keepdims=True)
        last = ops.where(taken, last, ops.zeros_like(last))
    after = keras.tree.pack_sequence_as(initial_state, after)
    if not layer.return_sequences:
        return last, last[:, None], after
    if layer.go_backwards:  # outputs in the order of the walk
        y = ops.flip(y, 1)
        mask = None if mask is None else ops.flip(mask, 1)
    if mask is not None and not layer.zero_output_for_mask:
        y = _repeated(y, mask)
    return last, y, after


def _repeated(y: Any, mask: Any) -> Any:
    """y [B, T, H] with the output of the last step that was taken in place of those of masked steps."""
    steps = ops.where(mask, ops.arange(1, mask.shape[1] + 1, dtype="int32"), ops.cast(0, "int32"))
    # The largest so far: that many steps in, the last one that was taken; 0: none.
    last = ops.associative_scan(ops.maximum, steps, axis=1)
    at = ops.broadcast_to(ops.cast(ops.maximum(last - 1, 0), "int32")[..., None], ops.shape(y))
    return ops.where((last > 0)[..., None], ops.take_along_axis(y, at, 1), ops.zeros_like(y))


def either(layer: Any, own: Callable[..., Any], *arguments: Any) -> Any:
    """``inner_loop`` by the kernels, or by Keras's ``own`` where ``explain`` says so. arguments: of own."""
    try:
        return inner_loop(layer, *arguments)
    except NotFused:
        *given, training = arguments
        return own(*given, training=training)


class Fused:
    """A layer whose loop is ``either``."""

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        return either(self, super().inner_loop, sequences, initial_state, mask, training)  # type: ignore[misc]


@keras.saving.register_keras_serializable(package="rnnkern")
class LSTM(Fused, keras.layers.LSTM):
    """``keras.layers.LSTM`` on the kernels, with its arguments, weights and answers."""


@keras.saving.register_keras_serializable(package="rnnkern")
class GRU(Fused, keras.layers.GRU):
    """``keras.layers.GRU`` on the kernels, with its arguments, weights and answers, both forms of ``reset_after``."""


@keras.saving.register_keras_serializable(package="rnnkern")
class SimpleRNN(Fused, keras.layers.SimpleRNN):
    """``keras.layers.SimpleRNN`` on the kernels, with its arguments, weights and answers."""
