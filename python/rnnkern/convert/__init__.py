"""Weights of other systems: arrays both ways, and whole files of Keras.

    arrays = rk.convert.to_system("onnx", "lstm", layer.state_dict())       # [{"W": ..., "R": ..., "B": ...}]
    layer.load_state_dict(rk.convert.from_system("keras", "gru", model.get_weights()))
    layers = rk.convert.from_keras("model.keras")                           # {"encoder/lstm": rk.LSTM(...), ...}

``to_system`` and ``from_system`` convert weights only. Weights do not show activations, clip, coupled gates or the
direction of a layer, so the caller sets those in the other system. The order of states differs, too: the carry of Flax
is (c, h). ``from_keras`` reads options as well as weights.
"""

from .arrays import from_system, to_system
from .keras_models import from_keras

__all__ = ["from_keras", "from_system", "to_system"]
