"""The signature of a model's graph: its inputs with their types, those that have a default, and its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .nodes import Array


class Signature:
    """``inputs`` and ``outputs`` are the graph's names in order, ``overridable`` the inputs that have a default."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        held = {tensor.name for tensor in graph.initializer}
        types = {value.name: value.type for value in graph.input}
        # Before IR version 4 every initializer had to be named among the inputs, and was no input for that.
        self.overridable = [name for name in types if name in held] if model.ir_version >= 4 else []
        self.types = {name: kind for name, kind in types.items() if name not in held or name in self.overridable}
        for name, kind in self.types.items():
            if not kind.HasField("tensor_type"):
                raise NotImplementedError(f"input {name!r}: expected a tensor, got {kind.WhichOneof('value')}")
        self.inputs = tuple(name for name in self.types if name not in self.overridable)
        self.outputs = tuple(value.name for value in graph.output)

    def take(self, inputs: Any) -> dict[str, Array]:
        """The arrays of a call by name, with their dtypes and fixed sizes checked."""
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        else:
            given = dict(zip(self.inputs, inputs, strict=False))
            if len(inputs) != len(self.inputs):
                said = ", ".join(self.inputs) or "none"
                raise ValueError(f"inputs: expected {len(self.inputs)} arrays ({said}), got {len(inputs)}")
        if not set(self.inputs) <= set(given) <= set(self.types):
            said = ", ".join(map(str, given)) or "none"
            optional = f" and, if you like, {', '.join(self.overridable)}" if self.overridable else ""
            raise ValueError(
                f"inputs: expected {', '.join(self.inputs) or 'none'}{optional} (other initializers are fixed), "
                f"got {said}"
            )
        return {name: _fit(name, given[name], self.types[name].tensor_type) for name in self.types if name in given}


def _fit(name: str, value: Any, expected: Any) -> Array:
    """An input of the graph's declared dtype and of its fixed sizes. A size below 0 is none, as in onnxruntime."""
    array = np.asarray(value)
    dtype = dtype_of(name, expected)
    if array.dtype != dtype:
        raise TypeError(f"input {name!r}: expected dtype {dtype.name}, got {array.dtype.name}")
    if not expected.HasField("shape"):
        return array
    sizes = [size_of(dim) for dim in expected.shape.dim]
    if len(sizes) != array.ndim or any(e not in (None, n) for e, n in zip(sizes, array.shape, strict=False)):
        said = ", ".join(
            dim.dim_param or ("?" if size_of(dim) is None else str(size_of(dim))) for dim in expected.shape.dim
        )
        raise ValueError(f"input {name!r}: expected shape [{said}], got {list(array.shape)}")
    return array


def dtype_of(name: str, declared: Any) -> np.dtype[Any]:
    """The dtype of an input's declared tensor type."""
    try:
        return helper.tensor_dtype_to_np_dtype(declared.elem_type)
    except KeyError:
        raise NotImplementedError(
            f"input {name!r}: expected one of ONNX's tensor types, got the number {declared.elem_type}"
        ) from None


def size_of(dim: Any) -> int | None:
    """A fixed size of a declared shape; None: any."""
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None


def check_model(model: onnx.ModelProto) -> None:
    """``onnx.checker.check_model``; but as in onnxruntime, inputs and outputs need no shape and outputs no type."""
    graph = model.graph
    bare = [value for value in (*graph.input, *graph.output) if _is_bare(value.type)]
    if not bare and all(value.HasField("type") for value in graph.output):
        return onnx.checker.check_model(model)
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    for value in filled.graph.output:
        if not value.HasField("type"):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for value in (*filled.graph.input, *filled.graph.output):
        if _is_bare(value.type):
            value.type.tensor_type.shape.SetInParent()  # the checker compares it with nothing
    return onnx.checker.check_model(filled)


def _is_bare(kind: Any) -> bool:
    return kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape")


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model asks for."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise ValueError("model: opset_import: expected a version of ONNX's own operators, got none")
