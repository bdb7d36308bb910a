"""onnxruntime's DynamicQuantizeLSTM: as the LSTM that it approximates, and its weights from LSTM's.

Inputs and attributes are LSTM's, but that W [D, I, 4*H] and R [D, H, 4*H] are transposed integers, with a scale and a
zero point [D] or [D, 4*H] each (microsoft/onnxruntime, docs/ContribOperators.md).
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from onnx import numpy_helper

from .folding import Scope
from .nodes import Array, label
from .replacement import nodes_of
from .signature import opset_of

DOMAIN, OPERATOR = "com.microsoft", "DynamicQuantizeLSTM"
_W, _R, _LAST = 1, 2, 8  # positions of inputs: from _LAST on, the scale and zero point of W, then those of R
SCALES = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")


def dequantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with ONNX's LSTM in place of each DynamicQuantizeLSTM, or the model itself if it has none.

    Weights become initializers of float32. A node whose weights are not constant stays, and a UserWarning says so.
    """
    if not any(map(_is_one, nodes_of(model.graph))):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _change(Scope(changed.graph, opset_of(changed)))
    return changed


def quantized(held: dict[str, Array], layer: int) -> dict[str, Array]:
    """LSTM's inputs with W and R as int8 and their scales [D, 4*H]: rows in [-127, 127], as docs/int8.md has them."""
    result = dict(held)
    for name in ("W", "R"):
        rows = held[name]
        if not np.isfinite(rows).all():
            raise ValueError(f"layer {layer}: expected finite weights for int8, got NaN or infinity in {name}")
        scale = np.maximum(np.abs(rows).max(axis=2), np.float32(2.0**-100)) / np.float32(127)
        result[name] = np.rint(rows / scale[..., None]).astype(np.int8).swapaxes(1, 2).copy()
        result[f"{name}_scale"], result[f"{name}_zero_point"] = scale, np.zeros(scale.shape, np.int8)
    return result


def _change(scope: Scope) -> None:
    for node in scope.graph.node:
        if _is_one(node):
            try:
                weights = [_weight(node, scope, position) for position in (_W, _R)]
            except NotImplementedError as reason:
                warnings.warn(f"left as it is: {label(OPERATOR, node.name)}: {reason}", stacklevel=4)
                continue
            for position, weight in zip((_W, _R), weights, strict=True):
                name = f"{node.input[position]}.float32"
                while name in scope.names():
                    name += "_"
                scope.graph.initializer.append(numpy_helper.from_array(weight, name))
                node.input[position] = name
            node.op_type, node.domain = "LSTM", ""
            del node.input[_LAST:]
            while node.input and not node.input[-1]:
                node.input.pop()
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _change(Scope(graph, scope.opset, scope, scope.place))


def _weight(node: onnx.NodeProto, scope: Scope, position: int) -> Array:
    """W or R as LSTM has it: [D, 4*H, I] or [D, 4*H, H]."""
    names = [node.input[at] if at < len(node.input) else "" for at in _places(position)]
    if not all(names):
        raise NotImplementedError("expected a weight with its scale and zero point")
    q, scale, zero = (scope.constant(name) for name in names)
    if q.ndim != 3 or q.dtype.kind not in "iu" or scale.shape not in ((q.shape[0],), (q.shape[0], q.shape[2])):
        raise NotImplementedError(f"{names[0]}: expected integers [D, K, 4*H] and a scale [D] or [D, 4*H]")
    if zero.shape != scale.shape:
        raise NotImplementedError(f"{names[2]}: expected a zero point of the scale's shape, {list(scale.shape)}")
    columns = (q.shape[0], 1, -1)
    values = (q.astype(np.int64) - zero.astype(np.int64).reshape(columns)) * scale.reshape(columns).astype(np.float64)
    return np.ascontiguousarray(values.swapaxes(1, 2), np.float32)


def _places(position: int) -> tuple[int, int, int]:
    first = _LAST + 2 * (position - _W)
    return position, first, first + 1


def _is_one(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == OPERATOR and node.domain == DOMAIN)
