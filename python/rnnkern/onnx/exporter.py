"""``to_onnx``: an rnnkern layer as an ONNX model with T and B as symbols, in a form that onnxruntime accepts.

The model has one recurrent node for each layer. Between the nodes it concatenates the directions, as the exporter of
torch.nn does. A batch-first layer gets a Transpose instead of ``layout=1``, which onnxruntime refuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..nn.layer import Layer
from ..nn.layers import GRU, LSTM, RNN
from ..nn.parameters import check_bool, check_int
from .attributes import of_node, refuse
from .nodes import Array, node_weights
from .quantized import DOMAIN, OPERATOR, SCALES, quantized


def to_onnx(
    layer: Layer,
    *,
    state: bool = False,
    lengths: bool = False,
    opset: int | None = None,
    weights: str | None = None,
) -> onnx.ModelProto:
    """Return an ONNX model of ``layer(x)``.

    Its input is x [T, B, I]. Its outputs are y [T, B, D*H], h_n and, for LSTM, c_n [L*D, B, H]. x and y are [B, T, ...]
    for a batch_first layer. T and B are symbols. All tensors have the dtype of the layer, c_n included (the layer
    itself returns c_n in float32 for half types).

    state: True adds the inputs h_0 and, for LSTM, c_0 [L*D, B, H].
    lengths: True adds the input lengths, int32 [B].
    opset: 14 or later. None is 14, or 22 for bfloat16, which earlier versions do not have.
    weights: "int8" writes onnxruntime's DynamicQuantizeLSTM, whose matrices are int8 with a scale for each row (the
        integers of ``rnnkern.LSTM.quantize``). It is for LSTM in float32 alone. None: the dtype of the layer.

    Attributes of ONNX are float32, so clip and the alpha and beta of activations are rounded to float32. The model has
    no dropout of any kind, as in inference. Raises NotImplementedError for proj_size, layer_norm, zoneout, heads and
    independent, for which ONNX has no attribute, and for int8 weights of other layers than LSTM in float32; TypeError
    for a value that is no layer; ValueError for another value of ``weights``, and int8 weights that are not finite.
    """
    if not isinstance(layer, (RNN, GRU, LSTM)):
        raise TypeError(
            f"layer: expected an rnnkern.RNN, GRU or LSTM, got {type(layer).__module__}.{type(layer).__name__}"
        )
    newest = onnx.defs.onnx_opset_version()
    least = 22 if layer.dtype.name == "bfloat16" else 14
    opset = least if opset is None else check_int("opset", opset, least, newest)
    refuse(layer._step_options, "layer")
    if weights not in (None, "int8"):
        raise ValueError(f"weights: expected 'int8' or None, got {weights!r}")
    if weights and (not isinstance(layer, LSTM) or layer.dtype.name != "float32"):
        got = f"{type(layer).__name__} in {layer.dtype.name}"
        raise NotImplementedError(f"weights='int8': onnxruntime has {OPERATOR} in float32 alone, got {got}")
    writer = _Writer(layer, check_bool("state", state), check_bool("lengths", lengths), int8=weights is not None)
    graph = writer.graph()
    onnxs = helper.make_opsetid("", opset)
    model = helper.make_model(
        graph,
        producer_name="rnnkern",
        opset_imports=[onnxs, helper.make_opsetid(DOMAIN, 1)] if weights else [onnxs],
        ir_version=helper.find_min_ir_version_for([onnxs]),
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Nodes and initializers of one model, in order."""

    def __init__(self, layer: Layer, state: bool, lengths: bool, int8: bool) -> None:
        self.layer, self.state, self.lengths, self.int8 = layer, state, lengths, int8
        self.op = next(kind.__name__ for kind in (RNN, GRU, LSTM) if isinstance(layer, kind))
        self.states = ("h", "c") if self.op == "LSTM" else ("h",)
        self.params = layer.state_dict()
        self.suffixes = ("", "_reverse") if layer.bidirectional else ("",)
        direction = "bidirectional" if layer.bidirectional else "reverse" if layer.reverse else "forward"
        self.attributes = of_node(layer._spec.cell, layer._step_options, layer.hidden_size, direction)
        self.element = helper.np_dtype_to_tensor_dtype(layer.dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def graph(self) -> onnx.GraphProto:
        layer, D, H, L = self.layer, len(self.suffixes), self.layer.hidden_size, self.layer.num_layers
        below = self.add("Transpose", ["x"], "x_time_major", perm=[1, 0, 2]) if layer.batch_first else "x"
        finals: dict[str, list[str]] = {name: [] for name in self.states}
        for index in range(L):
            y = self.recurrent(index, below, finals)
            last = index == L - 1 and not layer.batch_first
            below = self.side_by_side(y, "y" if last else f"x_{index + 1}")
        if layer.batch_first:
            self.add("Transpose", [below], "y", perm=[1, 0, 2])
        for name, parts in finals.items():
            self.add("Concat", parts, f"{name}_n", axis=0)
        steps: list[Any] = ["B", "T"] if layer.batch_first else ["T", "B"]
        every: list[Any] = [L * D, "B", H]
        inputs = [self.value("x", [*steps, layer.input_size])]
        if self.lengths:
            inputs.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, ["B"]))
        if self.state:
            inputs += [self.value(f"{name}_0", every) for name in self.states]
        outputs = [self.value("y", [*steps, D * H]), *(self.value(f"{name}_n", every) for name in self.states)]
        held = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        return helper.make_graph(self.nodes, "rnnkern", inputs, outputs, held)

    def recurrent(self, index: int, x: str, finals: dict[str, list[str]]) -> str:
        """The node of a layer. -> the name of its Y; the names of its final states go to ``finals``."""
        held = node_weights(self.op, [self.direction(index, suffix) for suffix in self.suffixes])
        if self.int8:
            held = quantized(held, index)
        names = {name: self.constant(f"{name}_{index}", array) for name, array in held.items()}
        inputs = [x, names["W"], names["R"], names.get("B", "")]
        inputs.append("lengths" if self.lengths else "")
        inputs += [self.rows(f"{name}_0", index) if self.state else "" for name in self.states]
        inputs += [""] * (self.op != "LSTM") + [names.get("P", ""), *(names.get(name, "") for name in SCALES)]
        while not inputs[-1]:
            inputs.pop()
        outputs = [f"Y_{index}", *(f"Y_{name}_{index}" for name in self.states)]
        for name, output in zip(self.states, outputs[1:], strict=True):
            finals[name].append(output)
        op, domain = (OPERATOR, DOMAIN) if self.int8 else (self.op, "")
        name = f"layer_{index}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **self.attributes))
        return outputs[0]

    def side_by_side(self, y: str, output: str) -> str:
        """Y [T, D, B, H] -> [T, B, D*H]."""
        if len(self.suffixes) == 1:
            return self.add("Squeeze", [y, self.constant("axis", np.array([1]))], output)
        swapped = self.add("Transpose", [y], f"{y}_rows", perm=[0, 2, 1, 3])
        width = 2 * self.layer.hidden_size  # not -1, which NumPy and others refuse where T or B is 0
        return self.add("Reshape", [swapped, self.constant("joined", np.array([0, 0, width]))], output)

    def rows(self, state: str, index: int) -> str:
        """A layer's rows of a state for all layers."""
        D = len(self.suffixes)
        if self.layer.num_layers == 1:
            return state
        bounds = [self.constant(f"row_{at}", np.array([at])) for at in (index * D, (index + 1) * D)]
        return self.add("Slice", [state, *bounds, self.constant("row_0", np.array([0]))], f"{state}_{index}")

    def direction(self, index: int, suffix: str) -> dict[str, Array]:
        """One direction's parameters of a layer, by their names without a suffix."""
        end = f"_l{index}{suffix}"
        return {name.removesuffix(end): array for name, array in self.params.items() if name.endswith(end)}

    def constant(self, name: str, value: Array) -> str:
        self.constants[name] = value
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def value(self, name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self.element, shape)
