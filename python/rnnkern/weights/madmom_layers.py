"""madmom's layer objects as mappings of their arrays. Used by ``rnnkern.convert``; madmom itself is not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._arrays.host import as_numpy

_GATES = ("input_gate", "forget_gate", "output_gate", "reset_gate", "update_gate", "cell")
_OF_GATE = ("weights", "recurrent_weights", "bias", "peephole_weights")


def arrays_of(cell: str, arrays: Sequence[Any], count: int) -> list[Any]:
    """The mappings of ``arrays``, in which a layer may stand for its own, and a BidirectionalLayer for its two."""
    layers: list[Any] = []
    for layer in arrays:
        both = hasattr(layer, "fwd_layer") and hasattr(layer, "bwd_layer")
        layers += [layer.fwd_layer, layer.bwd_layer] if both else [layer]
    return [layer if isinstance(layer, Mapping) else _mapping(layer) for layer in layers]


def _mapping(layer: Any) -> dict[str, Any]:
    """A layer's arrays. Initial states that are zero, as they are unless they were learned, stay away."""
    gates = [name for name in _GATES if hasattr(layer, name)]
    found: dict[str, Any] = {name: _present(getattr(layer, name)) for name in gates} if gates else _present(layer)
    if not found:
        raise TypeError(f"arrays: expected mappings or layers of madmom, got {type(layer).__name__}")
    init = getattr(layer, "init", getattr(layer, "hid_init", None))  # GRULayer's own name before madmom 0.16
    states = {"init": init, "cell_init": getattr(layer, "cell_init", None)}
    states = {name: as_numpy(value, name).reshape(-1) for name, value in states.items() if value is not None}
    return found | (states if any(np.any(value) for value in states.values()) else {})


def _present(gate: Any) -> dict[str, Any]:
    return {name: getattr(gate, name) for name in _OF_GATE if getattr(gate, name, None) is not None}
