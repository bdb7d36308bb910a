"""A problem as an ONNX model, for the peers that read one.

Operators RNN, GRU and LSTM, opset 14. Gate orders differ from torch's: LSTM i o f c, GRU z r h; B is [b_ih, b_hh].
GRU has linear_before_reset=1, which is torch's equation. https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rnnkern.problems import Problem
from rnnkern.weights import reorder

from ..data import Array, Data

OPERATOR = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
_ELEMENT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def _gates(problem: Problem, value: Array, dtype: str) -> Array:
    """A parameter in the model's dtype and ONNX's gate order."""
    value = value.astype(dtype)
    return value if problem.cell.startswith("rnn_") else reorder(value, problem.cell, "torch", "onnx")


def build(problem: Problem, data: Data, dtype: str) -> bytes:
    """The serialised model: inputs x, h_0, c_0, sequence_lens (those the problem has) -> y, h_n, c_n.

    dtype: of the model's tensors; a key of _ELEMENT.
    """
    element = _ELEMENT[dtype]
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: Array) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    states = ["h", "c"] if problem.cell == "lstm" else ["h"]
    count = problem.directions
    given = {name: array for name, array in inputs(problem, data, dtype).items() if name.endswith("_0")}
    for name in given:
        sizes = constant(f"{name}_split", np.full(problem.num_layers, count, np.int64))
        parts = [f"{name}_l{layer}" for layer in range(problem.num_layers)]
        nodes.append(helper.make_node("Split", [name, sizes], parts, axis=0))

    value = "x"
    for layer in range(problem.num_layers):
        names = [f"_l{layer}{'_reverse' * d}" for d in range(count)]
        for short, long in (("W", "weight_ih"), ("R", "weight_hh")):
            stacked = [_gates(problem, data.params[long + name], dtype) for name in names]
            constant(f"{short}_l{layer}", np.stack(stacked))
        operands = [value, f"W_l{layer}", f"R_l{layer}", ""]
        if not problem.has("nobias"):
            both = [
                np.concatenate([_gates(problem, data.params[bias + name], dtype) for bias in ("bias_ih", "bias_hh")])
                for name in names
            ]
            operands[3] = constant(f"B_l{layer}", np.stack(both))
        operands.append("sequence_lens" if data.lengths is not None else "")
        operands += [f"{state}_0_l{layer}" for state in states if given]
        results = [f"Y_l{layer}", *(f"{state}_n_l{layer}" for state in states)]
        while not operands[-1]:
            operands.pop()
        nodes.append(helper.make_node(OPERATOR[problem.cell], operands, results, **_attributes(problem)))
        # Y is [T, D, B, H]; the next layer and the caller want [T, B, D*H].
        nodes.append(helper.make_node("Transpose", [f"Y_l{layer}"], [f"Yt_l{layer}"], perm=[0, 2, 1, 3]))
        shape = constant(f"shape_l{layer}", np.array([problem.seq_len, problem.batch, count * problem.hidden_size]))
        value = "y" if layer == problem.num_layers - 1 else f"x_l{layer + 1}"
        nodes.append(helper.make_node("Reshape", [f"Yt_l{layer}", shape], [value]))
    for state in states:
        parts = [f"{state}_n_l{layer}" for layer in range(problem.num_layers)]
        nodes.append(helper.make_node("Concat", parts, [f"{state}_n"], axis=0))

    graph = helper.make_graph(
        nodes,
        "problem",
        [
            helper.make_tensor_value_info(name, TensorProto.INT32 if name == "sequence_lens" else element, array.shape)
            for name, array in inputs(problem, data, dtype).items()
        ],
        [helper.make_tensor_value_info(name, element, shape) for name, shape in outputs(problem).items()],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _attributes(problem: Problem) -> dict[str, Any]:
    direction = "bidirectional" if problem.directions == 2 else "forward"
    attributes: dict[str, Any] = {"hidden_size": problem.hidden_size, "direction": direction}
    if problem.cell == "gru":
        attributes["linear_before_reset"] = 1
    if problem.cell.startswith("rnn_"):
        attributes["activations"] = [problem.cell.removeprefix("rnn_").capitalize()] * problem.directions
    return attributes


def inputs(problem: Problem, data: Data, dtype: str) -> dict[str, Array]:
    """The model's inputs, contiguous."""
    given = {"x": data.x, "h_0": data.h_0, "c_0": data.c_0}
    arrays = {name: np.ascontiguousarray(array.astype(dtype)) for name, array in given.items() if array is not None}
    if data.lengths is not None:
        arrays["sequence_lens"] = data.lengths.astype(np.int32)
    return arrays


def outputs(problem: Problem) -> dict[str, tuple[int, ...]]:
    """The model's outputs and their shapes."""
    state = (problem.num_layers * problem.directions, problem.batch, problem.hidden_size)
    names = ("h_n", "c_n") if problem.cell == "lstm" else ("h_n",)
    y = (problem.seq_len, problem.batch, problem.directions * problem.hidden_size)
    return {"y": y, **dict.fromkeys(names, state)}
