"""Broken models: a child process makes one from each seed and lets everything of rnnkern.onnx read it.

    python onnx_hostile.py FIRST LAST [alone]

It prints each seed before it starts. ``alone`` runs onnxruntime without rnnkern, whose own faults are not ours.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import rnnkern.onnx as ro
from onnx_graphs import in_float32, in_if, options
from onnx_models import draw, model_of

HUGE = [0, -1, 2**31 - 1, 2**31, 2**40, 2**62, -(2**62)]


def broken(seed: int) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a model with one to three faults, and feeds for it."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.2:
        model, feeds = in_if(model_of("GRU"), inside=bool(rng.random() < 0.5))
    else:
        case, constant = draw(int(rng.integers(300))), bool(rng.random() < 0.6)
        model, feeds = in_float32(case.model(constant)), case.feeds(constant)
        feeds = {name: v.astype(np.float32) if v.dtype.name == "bfloat16" else v for name, v in feeds.items()}
    for _ in range(int(rng.integers(1, 4))):
        fault = FAULTS[int(rng.integers(len(FAULTS)))]
        fault(rng, model, feeds)
    data = model.SerializeToString()
    if rng.random() < 0.1:
        data = data[: int(rng.integers(len(data)))]
    elif rng.random() < 0.1:
        changed = bytearray(data)
        for place in rng.integers(0, len(changed), 3):
            changed[place] = int(rng.integers(256))
        data = bytes(changed)
    return data, feeds


def _any(rng: Any, items: Any) -> Any:
    return items[int(rng.integers(len(items)))] if len(items) else None


def _tensor_sizes(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    tensor = _any(rng, model.graph.initializer)
    if tensor is not None and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _any(rng, [*HUGE, 1, 3, 7])


def _tensor_axes(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    tensor = _any(rng, model.graph.initializer)
    if tensor is not None:
        tensor.dims[:] = [tensor.dims[0] if tensor.dims else 1, int(np.prod([*tensor.dims[1:], 1]))]


def _tensor_type(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    tensor = _any(rng, model.graph.initializer)
    if tensor is not None:
        tensor.data_type = _any(
            rng, [TensorProto.DOUBLE, TensorProto.INT32, TensorProto.FLOAT16, 99, TensorProto.STRING]
        )


def _tensor_missing(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    tensor = _any(rng, model.graph.initializer)
    if tensor is not None:
        model.graph.initializer.remove(tensor)


def _attribute(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    node = _any(rng, model.graph.node)
    attribute = _any(rng, node.attribute)
    if attribute is None:
        node.attribute.append(helper.make_attribute("hidden_size", int(_any(rng, HUGE))))
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = _any(rng, HUGE)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = _any(rng, [float("nan"), float("inf"), -1.0, 0.0, 1e38])
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = _any(rng, [b"", b"sideways", b"\xff\xfe", b"x" * 100000])
    elif attribute.type == onnx.AttributeProto.STRINGS:
        attribute.strings[:] = [_any(rng, [b"Tanh", b"tan h", b"", b"Relu"]) for _ in range(int(rng.integers(0, 9)))]
    elif attribute.type == onnx.AttributeProto.FLOATS:
        attribute.floats[:] = rng.normal(size=int(rng.integers(0, 20))).astype(np.float32).tolist()


def _input_names(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    node = _any(rng, model.graph.node)
    if node.input:
        others = [*node.input, *node.output, "", "nothing"]  # its own output: a cycle
        node.input[int(rng.integers(len(node.input)))] = _any(rng, others)


def _more_inputs(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    node = _any(rng, model.graph.node)
    node.input.extend([_any(rng, node.input or [""])] * int(rng.integers(1, 12)))


def _outputs(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    node = _any(rng, model.graph.node)
    if rng.random() < 0.5 and node.output:
        del node.output[-1]
    else:
        node.output.extend(f"more_{i}" for i in range(int(rng.integers(1, 5))))


def _operator(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    _any(rng, model.graph.node).op_type = _any(rng, ["RNN", "GRU", "LSTM", "Identity", "None"])


def _opset(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    model.opset_import[0].version = _any(rng, [1, 3, 6, 7, 13, 14, 21, 22, 99])


def _no_shapes(rng: Any, model: onnx.ModelProto, feeds: Any) -> None:
    """Then arrays of any shape reach the kernel."""
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    for name, array in feeds.items():
        if rng.random() < 0.3:
            feeds[name] = array[..., : int(rng.integers(0, array.shape[-1] + 1))] if array.ndim else array
        elif rng.random() < 0.2 and array.ndim:
            feeds[name] = np.resize(array, rng.integers(0, 4, rng.integers(1, 6)))
        elif array.dtype == np.int32:
            feeds[name] = rng.integers(-(2**31), 2**31, array.shape, dtype=np.int32)


FAULTS = [
    *(_tensor_sizes, _tensor_axes, _tensor_type, _tensor_missing, _attribute, _input_names, _more_inputs, _outputs),
    *(_operator, _opset, _no_shapes, _no_shapes),
]


def attempt(body: Any) -> None:
    """Any exception is an answer; a crash is none."""
    try:
        body()
    except Exception as error:
        assert str(error), "an error without a sentence"


def read(data: bytes, feeds: dict[str, Any], alone: bool) -> None:
    if alone:
        own = options()
        return attempt(lambda: onnxruntime.InferenceSession(data, own).run(None, feeds))
    attempt(lambda: ro.session(data, options()).run(None, feeds))
    try:
        model = onnx.load_from_string(data)
    except Exception:
        return None
    own = options()
    own.register_custom_ops_library(ro.LIBRARY)
    attempt(lambda: onnxruntime.InferenceSession(ro.replace(model).SerializeToString(), own).run(None, feeds))
    attempt(lambda: ro.put_back(model, ro.layers(model)))
    attempt(lambda: ro.run_model(model, feeds))
    return None


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    onnxruntime.set_default_logger_severity(4)
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        print(seed, flush=True)
        read(*broken(seed), alone="alone" in sys.argv)
