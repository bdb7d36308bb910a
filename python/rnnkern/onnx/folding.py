"""Constants of a graph and its subgraphs: initializers, and what nodes compute from constants alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from . import glue
from .nodes import Array, label

_LONGEST = 100  # nodes between an initializer and the weight that is made of it


class Scope:
    """A graph inside other graphs. A name that a subgraph does not define is one of the graph around it."""

    def __init__(self, graph: onnx.GraphProto, opset: int, outer: Scope | None = None, place: str = "") -> None:
        self.graph, self.opset, self.outer, self.place = graph, opset, outer, place
        self._held = {tensor.name: tensor for tensor in graph.initializer}
        self._made = {name: node for node in graph.node for name in node.output if name}
        self._given = {value.name for value in graph.input}
        self._known: dict[str, Array] = {}
        self._open: list[str] = []  # being computed

    def names(self) -> set[str]:
        """Every name that is taken here or further out."""
        outer = self.outer.names() if self.outer else set()
        return {*self._held, *self._made, *self._given, *(t.name for t in self.graph.initializer), *outer}

    def constant(self, name: str) -> Array:
        """The value of a name. NotImplementedError, with the name, if it is not the same in every call."""
        if name not in self._known:
            if name in self._open or len(self._open) == _LONGEST:
                raise NotImplementedError(
                    f"expected a constant, got {name!r}, a cycle or over {_LONGEST} nodes in a row"
                )
            self._open.append(name)
            try:
                self._known[name] = self._find(name)
            finally:
                self._open.pop()
        return self._known[name]

    def _find(self, name: str) -> Array:
        if name in self._held:  # the default of an input counts, too
            return glue.array_of(self._held[name])
        if name in self._given:
            raise NotImplementedError(f"expected a constant, got the input {name!r} of a graph")
        if name not in self._made:
            if self.outer is None:
                raise NotImplementedError(f"expected a constant, got {name!r}, which nothing computes")
            return self.outer.constant(name)
        node = self._made[name]
        inputs = [self.constant(each) if each else None for each in node.input]
        if node.op_type == "DequantizeLinear" and node.domain in ("", "ai.onnx"):
            return dequantize(node, inputs)
        return glue.compile_node(node, self.opset)(inputs)


def dequantize(node: onnx.NodeProto, inputs: list[Array | None]) -> Array:
    """(x - zero_point) * scale, with one scale or one for each index of an axis."""
    where = label(node.op_type, node.name)
    attributes: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if attributes.get("block_size") or attributes.get("output_dtype"):
        raise NotImplementedError(f"{where}: block_size and output_dtype are not there")
    x, scale, *zero = inputs
    if x is None or scale is None or x.dtype.kind not in "iu":
        raise NotImplementedError(f"{where}: expected integers and a scale")
    shape = [1] * x.ndim
    if scale.ndim == 1 and scale.size > 1:
        shape[attributes.get("axis", 1)] = scale.size
    points = zero[0] if zero and zero[0] is not None else np.zeros_like(scale, x.dtype)
    shifted = x.astype(np.int64) - points.astype(np.int64).reshape(shape)
    return np.asarray(shifted.astype(scale.dtype) * scale.reshape(shape))
