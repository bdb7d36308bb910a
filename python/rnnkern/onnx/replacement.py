"""``replace``: a model whose recurrent nodes are custom operators, for onnxruntime 1.17 and later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import helper

from . import activations
from .nodes import DEFAULT, GATES, Recurrent, parse
from .signature import opset_of

DOMAIN = "rnnkern"
# Attributes that are copied; those of activations are written anew, and output_sequence (opset 1) has no effect.
_KEPT = ("clip", "direction", "hidden_size", "input_forget", "layout", "linear_before_reset")


def replace(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model with every node RNN, GRU and LSTM, also of subgraphs, in the domain ``rnnkern``.

    The compiled module holds these operators::

        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(rnnkern.onnx.LIBRARY)
        session = onnxruntime.InferenceSession(rnnkern.onnx.replace(model).SerializeToString(), options)

    Raises the errors of ``prepare`` for a node whose attributes are wrong.
    """
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model: expected an onnx.ModelProto, got {type(model).__name__}")
    replaced = onnx.ModelProto()
    replaced.CopyFrom(model)
    opset = opset_of(model)
    found = [_replace(node, opset) for node in nodes_of(replaced.graph) if is_recurrent(node)]
    for function in replaced.functions:
        version = next((entry.version for entry in function.opset_import if entry.domain in ("", "ai.onnx")), opset)
        inside = [_replace(node, version) for node in walk(function.node) if is_recurrent(node)]
        if inside:
            function.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        found += inside
    if found and all(entry.domain != DOMAIN for entry in replaced.opset_import):
        replaced.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return replaced


def is_recurrent(node: onnx.NodeProto) -> bool:
    return node.op_type in GATES and node.domain in ("", "ai.onnx")


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, each followed by those of its subgraphs."""
    return walk(graph.node)


def walk(nodes: Any) -> Iterator[onnx.NodeProto]:
    """The nodes, each followed by those of its subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from nodes_of(graph)


def _replace(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    read = parse(node, opset)
    kept = [attribute for attribute in node.attribute if attribute.name in _KEPT]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(_activations(read))
    node.domain = DOMAIN
    return node


def _activations(node: Recurrent) -> list[onnx.AttributeProto]:
    """With every parameter that has a default spelled out."""
    if all(functions == DEFAULT[node.op] for functions in node.functions):
        return []
    found: dict[str, Any] = activations.attributes([entry for functions in node.functions for entry in functions])
    return [
        helper.make_attribute(name, " ".join(value) if name == "activations" else value)
        for name, value in found.items()
    ]
