"""The attributes of a recurrent node from a layer's options: for ``to_onnx`` and for torch's exporters."""

from __future__ import annotations

from typing import Any

from ..options import TABLE, Options
from .activations import Activation, attributes, canonical
from .nodes import DEFAULT

# Options that become attributes or inputs of a node. (recurrent_dropout has no effect in inference, which is what a
# model describes; neither have dropout, seed and recompute, which are no options of a step.)
EXPORTED = ("peephole", "coupled", "clip", "activations", "reset_after", "recurrent_dropout")
OPS = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "lstm": "LSTM"}  # by the cell


def refuse(options: Options, where: str) -> None:
    """NotImplementedError for an option that ONNX has no attribute for. where: begins the sentence."""
    for name, value in options.shown().items():
        if name not in EXPORTED:
            neutral = TABLE[name].metadata["default"]
            raise NotImplementedError(
                f"{where}: ONNX has no attribute for {name}={value!r}; expected {name}={neutral!r}"
            )


def of_node(cell: str, options: Options, hidden_size: int, direction: str) -> dict[str, Any]:
    """direction: ONNX's word, "forward", "reverse" or "bidirectional". The options are not refused."""
    op = OPS[cell]
    found: dict[str, Any] = {"hidden_size": hidden_size}
    if direction != "forward":
        found["direction"] = direction
    functions = _functions(cell, options)
    if functions != DEFAULT[op]:
        found |= attributes(functions * (2 if direction == "bidirectional" else 1))
    if options.clip:
        found["clip"] = float(options.clip)
    if op == "GRU" and options.reset_after:
        found["linear_before_reset"] = 1
    if options.coupled:
        found["input_forget"] = 1
    return found


def _functions(cell: str, options: Options) -> tuple[Activation, ...]:
    given = options.shown().get("activations")
    if given is None:
        return ("Relu",) if cell == "rnn_relu" else DEFAULT[OPS[cell]]
    spelled = [(entry,) if isinstance(entry, str) else tuple(entry) for entry in given]
    named = [(canonical(entry[0], "layer"), *entry[1:]) for entry in spelled]
    return tuple(entry if len(entry) > 1 else entry[0] for entry in named)
