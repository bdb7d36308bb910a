"""``replace(model)``: the recurrent layers of a Keras model run on the kernels, and back; ``explain`` says which."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any

import keras

from .cells import NotFused
from .layers import Fused, check, either


@dataclass
class Replacement:
    """The report of ``replace``.

    swapped: names of the layers that run on the kernels now.
    left: name -> reason, for each recurrent layer that keeps Keras's own loop.
    """

    swapped: tuple[str, ...]
    left: dict[str, str]
    _undo: list[Any] = field(repr=False)
    _model: Any = field(repr=False)

    def undo(self) -> None:
        """Give the layers Keras's own loop back. A second call does nothing."""
        while self._undo:
            vars(self._undo.pop()).pop("inner_loop", None)
        _forget_compiled(self._model)

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)}: {', '.join(self.swapped) or 'none'}"]
        return "\n".join(lines + [f"left {name}: {reason}" for name, reason in self.left.items()])


def replace(model: Any) -> Replacement:
    """Have every LSTM, GRU, SimpleRNN, and RNN around their cells, of a model run on the kernels, in place.

    This includes layers inside of Bidirectional and of nested models. Each stays the same layer of the same class:
    what it saves stays plain Keras, and ``undo()`` of the report restores it.

    model: a Keras model or layer.

    Raises TypeError for anything else.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"model: expected a Keras model or layer, got {type(model).__name__}")
    swapped: list[Any] = []
    left: dict[str, str] = {}
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.layers.RNN) or "inner_loop" in vars(layer):
            continue
        reason = _reason_to_leave(layer)
        if reason is not None:
            left[layer.name] = reason
            continue
        # Beside Keras's tracking of attributes, which would save it.
        object.__setattr__(layer, "inner_loop", types.MethodType(_fused, layer))
        swapped.append(layer)
    _forget_compiled(model)
    return Replacement(tuple(layer.name for layer in swapped), left, swapped, model)


def _forget_compiled(model: Any) -> None:
    """Have Keras make the functions of ``predict``, ``fit`` and ``evaluate`` anew: compiled ones hold the old loop."""
    for each in model._flatten_layers():
        if isinstance(each, keras.Model):
            each.train_function = each.test_function = each.predict_function = None


def _fused(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
    own = types.MethodType(type(layer).inner_loop, layer)
    return either(layer, own, sequences, initial_state, mask, training)


def _reason_to_leave(layer: Any) -> str | None:
    if type(layer).inner_loop not in _KERAS_LOOPS:
        return f"its class {type(layer).__name__} has an inner_loop of its own"
    try:
        check(layer, False)
    except NotFused as why:
        return str(why)
    return None


_KERAS_LOOPS = tuple(
    kind.inner_loop for kind in (keras.layers.RNN, keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
)


def explain(layer: Any, *, training: bool = False) -> str:
    """Return which code runs a recurrent layer: "kernels", or "Keras's own loop: " with the reason.

    training: of a call with ``training=True``.
    """
    if not isinstance(layer, keras.layers.RNN):
        raise TypeError(f"layer: expected a recurrent layer of Keras, got {type(layer).__name__}")
    if "inner_loop" not in vars(layer) and not isinstance(layer, Fused):
        return "Keras's own loop: the layer is neither of rnnkern.keras nor replaced"
    try:
        check(layer, training)
    except NotFused as why:
        return f"Keras's own loop: {why}"
    return "kernels"
