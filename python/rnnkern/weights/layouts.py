"""Where each system keeps each parameter: the table that ``rnnkern.convert`` reads.

A row is one array of the system: ``"its name": "parameters -> axes"``. The parameters are PyTorch's (``weight_ih``
[G*H, I], ...), each with its gates in the array's order in brackets; without brackets, all gates in the order of
``weights.ORDER``. Those of a row are joined along its first axis. The axes of a parameter are g (gates), o (its
outputs) and i (its inputs); letters without a comma between them are one axis, and 1 is an axis of length one:

    PyTorch weight_ih [G*H, I]  "weight_ih -> go,i"      Keras kernel [I, G*H]  "weight_ih -> i,go"
    oneDNN weights_layer [I, G, H]  "weight_ih -> i,g,o"     ONNX B [2*G*H]  "bias_ih + bias_hh -> go"

A minus before a parameter negates it. A slash in a name is a nested mapping, a number in it an int. A system with one
bias has a row for ``bias_ih`` only: ``convert`` adds up the two biases where a row for a gate of ``bias_hh`` is missing
and the sum is the same function.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from . import ORDER, keras_versions, madmom_layers

ONE_GATE = "h"  # the name of the only block of what has no gates: all of an RNN, weight_hr, gamma_c, beta_c, states
NO_GATES = ("weight_hr", "gamma_c", "beta_c", "h_0", "c_0")
RESET_BEFORE = "gru reset_after=False"  # the name of that GRU in the table


class System(NamedTuple):
    """A system: its rows by cell, and what holds for all of them."""

    # "flat": one list of arrays, those of layer 0, then layer 0 reverse, ...; "cells": a mapping for each layer and
    # direction; "layers": a mapping for each layer, whose arrays have the directions as an axis in front.
    holds: Literal["flat", "cells", "layers"]
    always_bias: bool  # the arrays of biases are there even in a network without
    cells: dict[str, dict[str, str]]
    leading_ones: int = 0  # of "layers": axes of length one before the directions
    forget_bias: float | None = None  # LSTM: what the system adds to the forget gate at run time, beside its bias
    # (a key of cells, arrays, layers times directions) -> the arrays of older versions as these rows describe them
    modern: Callable[[str, Sequence[Any], int], list[Any]] | None = None


# PyTorch's own, without the suffix _l{k}{_reverse}, in the order of a state dict; h_0 and c_0 are InitialState's.
TORCH = {
    "weight_ih": "weight_ih -> go,i",
    "weight_hh": "weight_hh -> go,i",
    "bias_ih": "bias_ih -> go",
    "bias_hh": "bias_hh -> go",
    "weight_hr": "weight_hr -> o,i",
    "peephole": "peephole -> g,o",
    "gamma_ih": "gamma_ih -> go",
    "gamma_hh": "gamma_hh -> go",
    "gamma_c": "gamma_c -> o",
    "beta_c": "beta_c -> o",
    "h_0": "h_0 -> o",
    "c_0": "c_0 -> o",
}
LSTM_ONLY = ("weight_hr", "peephole", "gamma_c", "beta_c", "c_0")
# Parameters of a group are in a network together, or none of them is.
GROUPS = {
    "weight": ("weight_ih", "weight_hh"),
    "bias": ("bias_ih", "bias_hh"),
    "projection": ("weight_hr",),
    "peephole": ("peephole",),
    "layer norm": ("gamma_ih", "gamma_hh", "gamma_c", "beta_c"),
    "initial state": ("h_0", "c_0"),
}
_KERAS = {"kernel": "weight_ih -> i,go", "recurrent_kernel": "weight_hh -> i,go"}
_ONEDNN = {"weights_layer": "weight_ih -> i,g,o", "weights_iter": "weight_hh -> i,g,o"}
_ONNX = {"W": "weight_ih -> go,i", "R": "weight_hh -> go,i", "B": "bias_ih + bias_hh -> go"}
_NNX = {"dense_i/kernel": "weight_ih -> i,go", "dense_h/kernel": "weight_hh -> i,go"}
_MLX = {"Wx": "weight_ih -> go,i", "Wh": "weight_hh -> go,i"}
_BIAS = {"bias": "bias_ih -> go"}
_GAMMA = {"gamma": "gamma_ih + gamma_hh -> 1,go"}


def _linen(gates: str) -> dict[str, str]:
    """A Dense for each gate and side: ``ii``, ``if``, ... and ``hi``, ``hf``, ..."""
    rows = {f"i{gate}/kernel": f"weight_ih[{gate}] -> i,o" for gate in gates}
    return rows | {f"h{gate}/kernel": f"weight_hh[{gate}] -> i,o" for gate in gates}


def _cudnn(gates: str) -> dict[str, str]:
    """linLayerID: the input side's gates, then the recurrent side's; each id a matrix and a bias."""
    rows: dict[str, str] = {}
    for number, (side, gate) in enumerate((side, gate) for side in ("ih", "hh") for gate in gates):
        rows[f"{number}/matrix"] = f"weight_{side}[{gate}] -> o,i"
        rows[f"{number}/bias"] = f"bias_{side}[{gate}] -> o"
    return rows


def _named(names: tuple[str, str, str, str], gates: dict[str, str]) -> dict[str, str]:
    """An array for each gate and kind: input and recurrent weights, bias, peephole. A gate "-z" is 1 - z there."""
    rows: dict[str, str] = {}
    kinds = ("weight_ih[{}] -> i,o", "weight_hh[{}] -> i,o", "bias_ih[{}] -> o", "peephole[{}] -> o")
    for name, text in zip(names, kinds, strict=True):
        for gate, called in gates.items():
            if "peephole" not in text or ("o" in gates and gate != "g"):
                rows[name.format(called)] = ("-" if gate.startswith("-") else "") + text.format(gate[-1])
    return rows


_MADMOM = ("{}/weights", "{}/recurrent_weights", "{}/bias", "{}/peephole_weights")
_LASAGNE = ("W_in_to_{}", "W_hid_to_{}", "b_{}", "W_cell_to_{}")

# Sources, whose names these are: keras/src/layers/rnn; flax/linen/recurrent.py and flax/nnx/nn/recurrent.py;
# onnx/defs/rnn/defs.cc; oneDNN's rnn.md (tags ldigo, ldgo, ldio with l = 1); cudnnGetRNNWeightParams; TensorFlow's
# tf.raw_ops.BlockLSTM, LSTMBlockCell and GRUBlockCell; haste's frameworks/pytorch; mlx/nn/layers/recurrent.py;
# madmom/ml/nn/layers.py; lasagne/layers/recurrent.py.
SYSTEMS: dict[str, System] = {
    "keras": System(
        "flat",
        False,
        {
            "rnn": _KERAS | _BIAS,
            "gru": _KERAS | {"bias": "bias_ih + bias_hh -> 1,go"},
            RESET_BEFORE: _KERAS | _BIAS,
            "lstm": _KERAS | _BIAS,
        },
        modern=keras_versions.modern,
    ),
    "flax": System(  # linen: LSTMCell and OptimizedLSTMCell, GRUCell, SimpleCell
        "cells",
        True,
        {
            "rnn": {"i/kernel": "weight_ih -> i,o", "i/bias": "bias_ih -> o", "h/kernel": "weight_hh -> i,o"},
            "gru": _linen("rzn")
            | {f"i{gate}/bias": f"bias_ih[{gate}] -> o" for gate in "rzn"}
            | {"hn/bias": "bias_hh[n] -> o"},
            "lstm": _linen("ifgo") | {f"h{gate}/bias": f"bias_ih[{gate}] -> o" for gate in "ifgo"},
        },
    ),
    "nnx": System(  # OptimizedLSTMCell, GRUCell (which has no b_hn, though its docstring shows one), SimpleCell
        "cells",
        True,
        {
            "rnn": _NNX | {"dense_i/bias": "bias_ih -> go"},
            "gru": _NNX | {"dense_i/bias": "bias_ih -> go"},
            "lstm": _NNX | {"dense_h/bias": "bias_ih -> go"},
        },
    ),
    "onnx": System(
        "layers",
        False,
        {"rnn": _ONNX, "gru": _ONNX, RESET_BEFORE: _ONNX, "lstm": _ONNX | {"P": "peephole -> go"}},
    ),
    # One primitive for each layer: a primitive of several layers runs each direction through all of them alone.
    "onednn": System(
        "layers",
        True,
        {
            "rnn": _ONEDNN | {"bias": "bias_ih -> g,o"},
            "gru": _ONEDNN | {"bias": "bias_ih + bias_hh[n] -> g,o"},  # lbr_gru: u r o u'
            RESET_BEFORE: _ONEDNN | {"bias": "bias_ih -> g,o"},
            "lstm": _ONEDNN
            | {
                "weights_peephole": "peephole -> g,o",
                "weights_projection": "weight_hr -> i,o",
                "bias": "bias_ih -> g,o",
            },
        },
        leading_ones=1,
    ),
    "cudnn": System(  # the mappings are the pseudo-layers
        "cells",
        False,
        {
            "rnn": _cudnn(ONE_GATE),
            "gru": _cudnn(ORDER["gru"]["cudnn"]),
            "lstm": _cudnn(ORDER["lstm"]["cudnn"]) | {"8/matrix": "weight_hr -> o,i"},
        },
    ),
    "tensorflow_block": System(
        "cells",
        True,
        {
            RESET_BEFORE: {
                "w_ru": "weight_ih[rz] + weight_hh[rz] -> i,go",
                "w_c": "weight_ih[n] + weight_hh[n] -> i,o",
                "b_ru": "bias_ih[rz] -> go",
                "b_c": "bias_ih[n] -> o",
            },
            "lstm": {"w": "weight_ih + weight_hh -> i,go", "b": "bias_ih -> go"}
            | {f"wc{gate}": f"peephole[{gate}] -> o" for gate in "ifo"},
        },
        forget_bias=1.0,
    ),
    "haste": System(  # IndRNN; GRU and LayerNormGRU; LSTM and LayerNormLSTM, whose equations are rnnkern's
        "cells",
        True,
        {
            "rnn": {"kernel": "weight_ih -> i,go", "recurrent_scale": "weight_hh -> go"} | _BIAS,
            "gru": _KERAS | _BIAS | {"recurrent_bias": "bias_hh -> go"} | _GAMMA,
            "lstm": _KERAS | _BIAS | _GAMMA | {"gamma_h": "gamma_c -> o", "beta_h": "beta_c -> o"},
        },
    ),
    "mlx": System(
        "cells",
        False,
        {
            "rnn": {"Wxh": "weight_ih -> go,i", "Whh": "weight_hh -> go,i"} | _BIAS,
            "gru": _MLX | {"b": "bias_ih -> go", "bhn": "bias_hh[n] -> o"},
            "lstm": _MLX | _BIAS,
        },
    ),
    # madmom and Lasagne: h = z * n + (1 - z) * h', the reset gate after the product, no recurrent biases.
    "madmom": System(  # RecurrentLayer, GRULayer, LSTMLayer
        "cells",
        True,
        {
            "rnn": {"weights": "weight_ih -> i,o", "recurrent_weights": "weight_hh -> i,o", "bias": "bias_ih -> o"}
            | {"init": "h_0 -> o"},
            "gru": _named(_MADMOM, {"r": "reset_gate", "-z": "update_gate", "n": "cell"}) | {"init": "h_0 -> o"},
            "lstm": _named(_MADMOM, {"i": "input_gate", "f": "forget_gate", "g": "cell", "o": "output_gate"})
            | {"init": "h_0 -> o", "cell_init": "c_0 -> o"},
        },
        modern=madmom_layers.arrays_of,
    ),
    "lasagne": System(  # RecurrentLayer, GRULayer, LSTMLayer: get_params() by name
        "cells",
        False,
        {
            "rnn": {"input_to_hidden.W": "weight_ih -> i,o", "hidden_to_hidden.W": "weight_hh -> i,o"}
            | {"input_to_hidden.b": "bias_ih -> o", "hid_init": "h_0 -> 1,o"},
            "gru": _named(_LASAGNE, {"r": "resetgate", "-z": "updategate", "n": "hidden_update"})
            | {"hid_init": "h_0 -> 1,o"},
            "lstm": _named(_LASAGNE, {"i": "ingate", "f": "forgetgate", "g": "cell", "o": "outgate"})
            | {"hid_init": "h_0 -> 1,o", "cell_init": "c_0 -> 1,o"},
        },
    ),
}


class Part(NamedTuple):
    """Some gates of one parameter, in the order in which an array has them."""

    parameter: str
    gates: str
    negated: bool = False


class Row(NamedTuple):
    """One array: the parts joined along its first axis, and the axes of each. The first row of a cell has weight_ih."""

    name: str
    parts: tuple[Part, ...]
    axes: tuple[str, ...]

    @property
    def group(self) -> str:
        return next(group for group, names in GROUPS.items() if self.parts[0].parameter in names)


@functools.cache
def rows(system: str, cell: str) -> tuple[Row, ...]:
    """The parsed rows of a system ("torch" for PyTorch's own) and a cell, a key of its ``cells``."""
    kind = cell.split()[0]
    table = TORCH if system == "torch" else SYSTEMS[system].cells[cell]
    order = ORDER[kind][system] if kind in ORDER else ONE_GATE
    parsed = []
    for name, text in table.items():
        if system == "torch" and kind != "lstm" and name in LSTM_ONLY:
            continue
        left, right = text.split(" -> ")
        parts = []
        for part in left.split(" + "):
            found = re.fullmatch(r"(-?)(\w+)(?:\[(\w+)\])?", part)
            assert found, text
            sign, parameter, gates = found.groups()
            if gates is None:
                peepholes = "".join(gate for gate in order if gate != "g")
                gates = ONE_GATE if parameter in NO_GATES else peepholes if parameter == "peephole" else order
            parts.append(Part(parameter, gates, bool(sign)))
        parsed.append(Row(name, tuple(parts), tuple(right.split(","))))
    return tuple(parsed)
