"""ONNX models around recurrent nodes: subgraphs, casts, and which nodes of a session run on rnnkern."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import rnnkern.onnx as ro
from onnx_models import Array, Case

PROVIDER = "RnnkernExecutionProvider"
FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16


def options(threads: int = 1, **entries: str) -> Any:
    made = onnxruntime.SessionOptions()
    made.log_severity_level = 4
    made.intra_op_num_threads = threads
    made.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in entries.items():
        made.add_session_config_entry(f"session.{key}", value)
    return made


def taken(session: Any) -> dict[str, list[str]]:
    """The names of the nodes that each provider runs."""
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(node.name or node.op_type for node in part.get_nodes())
    return found


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs of bfloat16 as float32, with Casts: NumPy has no bfloat16 that onnxruntime takes."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, before, after = made.graph, [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == BFLOAT16:
            before.append(helper.make_node("Cast", [value.name], [value.name + "_16"], to=BFLOAT16))
            for node in graph.node:
                node.input[:] = [name + "_16" if name == value.name else name for name in node.input]
            value.type.tensor_type.elem_type = FLOAT
    for value in graph.output:
        if value.type.tensor_type.elem_type == BFLOAT16:
            for node in graph.node:
                node.output[:] = [name + "_16" if name == value.name else name for name in node.output]
            after.append(helper.make_node("Cast", [value.name + "_16"], [value.name], to=FLOAT))
            value.type.tensor_type.elem_type = FLOAT
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def run(session: Any, case: Case, constant: bool = True) -> dict[str, Array]:
    feeds = case.feeds(constant)
    wide = {name: v.astype(np.float32) if v.dtype.name == "bfloat16" else v for name, v in feeds.items()}
    return dict(zip([name for name in case.outputs if name], session.run(None, wide), strict=True))


def session_of(case: Case, constant: bool = True, **entries: str) -> Any:
    return ro.session(in_float32(case.model(constant)), options(**entries))


def node_tests(*operators: str) -> list[Any]:
    """ONNX's own node tests of these operators (their modules make them when they are imported)."""
    for operator in operators:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(f"onnx.backend.test.case.node.{operator.lower()}")
    from onnx.backend.test.case.node import _NodeTestCases

    found = [t for t in _NodeTestCases if t.model.graph.node[0].op_type in operators and len(t.model.graph.node) == 1]
    return [pytest.param(test, id=test.name) for test in sorted(found, key=lambda test: test.name)]


# Subgraphs ----------------------------------------------------------------------------------------------------------


def _value(name: str, *shape: Any, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _weights(case: Case, names: str = "WRB") -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(case.values[name], name) for name in names if name in case.values]


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def in_function(case: Case) -> onnx.ModelProto:
    """The node in a function of the model."""
    model = case.model()
    node = model.graph.node[0]
    opsets = [helper.make_opsetid("", 14)]
    model.functions.append(helper.make_function("own", "Layer", list(node.input), list(node.output), [node], opsets))
    model.graph.node[0].CopyFrom(helper.make_node("Layer", node.input, node.output, domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def in_if(case: Case, inside: bool) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A node in one branch of If. inside: its weights are initializers of the branch, otherwise of the outer graph."""
    node = helper.make_node(case.op, ["X", "W", "R", "B"], ["", "h"], "inner", **case.attributes)
    H = case.attributes["hidden_size"]
    then = helper.make_graph([node], "then", [], [_value("h", 1, None, H)], _weights(case) if inside else [])
    zero = helper.make_node("Identity", ["zeros"], ["z"])
    other = helper.make_graph([zero], "else", [], [_value("z", 1, None, H)])
    nodes = [helper.make_node("If", ["p"], ["out"], then_branch=then, else_branch=other)]
    batch = case.values["X"].shape[1]
    zeros = numpy_helper.from_array(np.zeros((1, batch, H), np.float32), "zeros")
    inputs = [_value("X", *case.values["X"].shape), _value("p", kind=TensorProto.BOOL)]
    model = _model(nodes, inputs, [_value("out", 1, None, H)], [zeros, *([] if inside else _weights(case))])
    return model, {"X": case.values["X"], "p": np.array(True)}


def in_loop(case: Case) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Three rounds of Loop, each of which carries the state of the node on."""
    H, batch = case.attributes["hidden_size"], case.values["X"].shape[1]
    node = helper.make_node(case.op, ["X", "W", "R", "B", "", "h"], ["y", "h_n"], "inner", **case.attributes)
    go_on = helper.make_node("Identity", ["go"], ["go_on"])
    body = helper.make_graph(
        [node, go_on],
        "body",
        [_value("i", kind=TensorProto.INT64), _value("go", kind=TensorProto.BOOL), _value("h", 1, batch, H)],
        [_value("go_on", kind=TensorProto.BOOL), _value("h_n", 1, batch, H), _value("y", None, 1, batch, H)],
    )
    nodes = [helper.make_node("Loop", ["n", "yes", "h_0"], ["h_last", "ys"], body=body)]
    constants = [
        numpy_helper.from_array(np.array(3), "n"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.full((1, batch, H), 0.1, np.float32), "h_0"),
    ]
    outputs = [_value("h_last", 1, batch, H), _value("ys", None, None, 1, batch, H)]
    model = _model(nodes, [_value("X", *case.values["X"].shape)], outputs, [*constants, *_weights(case)])
    return model, {"X": case.values["X"]}


def in_scan(case: Case) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Scan over three sequences."""
    H, (T, batch, inputs) = case.attributes["hidden_size"], case.values["X"].shape
    node = helper.make_node(case.op, ["x", "W", "R", "B", "", "h"], ["y", "h_n"], "inner", **case.attributes)
    body = helper.make_graph(
        [node],
        "body",
        [_value("h", 1, batch, H), _value("x", T, batch, inputs)],
        [_value("h_n", 1, batch, H), _value("y", T, 1, batch, H)],
    )
    nodes = [helper.make_node("Scan", ["h_0", "xs"], ["h_last", "ys"], body=body, num_scan_inputs=1)]
    zeros = numpy_helper.from_array(np.zeros((1, batch, H), np.float32), "h_0")
    outputs = [_value("h_last", 1, batch, H), _value("ys", 3, T, 1, batch, H)]
    model = _model(nodes, [_value("xs", 3, T, batch, inputs)], outputs, [zeros, *_weights(case)])
    return model, {"xs": np.stack([case.values["X"] * k for k in (1, 2, 3)])}
