"""The operators that stand around recurrent nodes in exported models: they move data and count shapes, no more.

Each is a NumPy function ``(attributes, inputs, opset) -> output`` for all opset versions; ``OPERATORS`` lists them with
the attributes they know. (onnx.reference has them too, but some of its functions take only the newest form: Unsqueeze
of opset 11 fails there in onnx 1.23.) No arithmetic on data: Mul is for the shapes that torch's exporter multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .nodes import label, operator

Array = np.ndarray[Any, Any]
Attributes = dict[str, Any]
Inputs = Sequence[Array | None]

_CASTS = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
)  # fmt: skip


_MOST = 1 << 32  # bytes of an array that is made from its shape


def array_of(tensor: onnx.TensorProto) -> Array:
    """A tensor of a model. NotImplementedError: a type that ONNX does not have; ValueError: data that do not fit."""
    try:
        return numpy_helper.to_array(tensor)
    except KeyError:
        name = tensor.name or "a constant"
        raise NotImplementedError(
            f"{name}: expected one of ONNX's tensor types, got the number {tensor.data_type}"
        ) from None


def _cast(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    target = attributes["to"]
    if target not in _CASTS:
        name = target.decode() if isinstance(target, bytes) else TensorProto.DataType.Name(target)
        raise NotImplementedError(f"Cast: to: expected a number or bool type, got {name}")
    return _array(inputs, 0).astype(helper.tensor_dtype_to_np_dtype(target))


def _concat(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    return np.concatenate([_array(inputs, i) for i in range(len(inputs))], attributes["axis"])


def _constant(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    if len(attributes) != 1:
        raise ValueError(f"Constant: expected one attribute, got {', '.join(attributes) or 'none'}")
    ((name, value),) = attributes.items()
    if name == "value":
        return array_of(value)
    return np.asarray(value, np.float32 if name.startswith("value_float") else np.int64)


def _constant_of_shape(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    value = array_of(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return np.full(_bounded(_ints(inputs, 0), value.itemsize), value.reshape(()), value.dtype)


def _expand(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    data = _array(inputs, 0)
    shape = np.broadcast_shapes(data.shape, tuple(_bounded(_ints(inputs, 1), data.itemsize)))
    return np.broadcast_to(data, shape)


def _gather(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    return np.asarray(np.take(_array(inputs, 0), _array(inputs, 1), axis=attributes.get("axis", 0)))


def _identity(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    return _array(inputs, 0)


def _mul(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    a, b = _array(inputs, 0), _array(inputs, 1)
    if a.dtype.kind not in "iu" or a.dtype != b.dtype:
        raise NotImplementedError(f"Mul: expected integers of one dtype (products of shapes), got {a.dtype}, {b.dtype}")
    return np.asarray(a * b)


def _reshape(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    data = _array(inputs, 0)
    shape = attributes["shape"] if opset < 5 else _ints(inputs, 1)
    if not attributes.get("allowzero", 0):
        shape = [data.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return data.reshape(shape)


def _shape(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    return np.array(_array(inputs, 0).shape[attributes.get("start", 0) : attributes.get("end")], np.int64)


def _slice(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    """Python's slices clamp and count from the end exactly as ONNX's."""
    data = _array(inputs, 0)
    if opset < 10:
        starts, ends, axes, steps = attributes["starts"], attributes["ends"], attributes.get("axes"), None
    else:
        starts, ends = _ints(inputs, 1), _ints(inputs, 2)
        axes, steps = (None if _absent(inputs, i) else _ints(inputs, i) for i in (3, 4))
    where = [slice(None)] * data.ndim
    axes = range(len(starts)) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        where[axis] = slice(start, end, step)
    return data[tuple(where)]


def _squeeze(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    axes = _axes(attributes, inputs, opset)
    return np.squeeze(_array(inputs, 0), None if axes is None else tuple(axes))


def _transpose(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    return np.transpose(_array(inputs, 0), attributes.get("perm"))


def _unsqueeze(attributes: Attributes, inputs: Inputs, opset: int) -> Array:
    axes = _axes(attributes, inputs, opset)
    if axes is None:
        raise ValueError("Unsqueeze: axes: expected integers, got none")
    return np.expand_dims(_array(inputs, 0), tuple(axes))


def _bounded(shape: list[int], itemsize: int) -> list[int]:
    """A shape that a model asks for. ValueError, before anything is allocated, if it is larger than any state."""
    if any(size < 0 for size in shape) or math.prod(shape) * itemsize > _MOST:
        raise ValueError(f"expected a shape of at most {_MOST} bytes, got {shape}")
    return shape


def _absent(inputs: Inputs, index: int) -> bool:
    return len(inputs) <= index or inputs[index] is None


def _array(inputs: Inputs, index: int) -> Array:
    if _absent(inputs, index):
        raise ValueError(f"expected an input {index}, got {len(inputs)} inputs")
    return inputs[index]  # type: ignore[return-value]  # _absent has looked


def _ints(inputs: Inputs, index: int) -> list[int]:
    return [int(value) for value in _array(inputs, index).reshape(-1)]


def _axes(attributes: Attributes, inputs: Inputs, opset: int) -> list[int] | None:
    """Axes of Squeeze and Unsqueeze: an attribute below opset 13, an input from there on."""
    if opset < 13:
        axes: list[int] | None = attributes.get("axes")
        return axes
    return None if _absent(inputs, 1) else _ints(inputs, 1)


# Operator -> its function and the attributes it knows. Cast's saturate and round_mode are about 8-bit floats alone.
OPERATORS: dict[str, tuple[Callable[[Attributes, Inputs, int], Array], tuple[str, ...]]] = {
    "Cast": (_cast, ("to", "saturate", "round_mode")),
    "Concat": (_concat, ("axis",)),
    "Constant": (_constant, ("value", "value_float", "value_floats", "value_int", "value_ints")),
    "ConstantOfShape": (_constant_of_shape, ("value",)),
    "Expand": (_expand, ()),
    "Gather": (_gather, ("axis",)),
    "Identity": (_identity, ()),
    "Mul": (_mul, ()),
    "Reshape": (_reshape, ("allowzero", "shape")),
    "Shape": (_shape, ("start", "end")),
    "Slice": (_slice, ("starts", "ends", "axes")),
    "Squeeze": (_squeeze, ("axes",)),
    "Transpose": (_transpose, ("perm",)),
    "Unsqueeze": (_unsqueeze, ("axes",)),
}


def compile_node(node: onnx.NodeProto, opset: int) -> Callable[[Inputs], Array]:
    """A node as a function of its inputs. NotImplementedError for an operator or attribute that is not in OPERATORS."""
    where = label(operator(node), node.name)
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        raise NotImplementedError(
            f"{where}: expected RNN, GRU, LSTM or one of {', '.join(OPERATORS)}, got operator {operator(node)}"
        )
    function, known = OPERATORS[node.op_type]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    for name in attributes:
        if name not in known:
            raise NotImplementedError(f"{where}: attribute {name!r} is not there; known: {', '.join(known) or 'none'}")

    def run(inputs: Inputs) -> Array:
        try:
            return function(attributes, inputs, opset)
        except NotImplementedError as error:
            raise NotImplementedError(f"{where}: {error}") from error
        except (ValueError, IndexError, TypeError, KeyError) as error:
            raise ValueError(f"{where}: {error}") from error

    return run
