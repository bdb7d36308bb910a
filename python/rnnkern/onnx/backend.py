"""Graphs of recurrent nodes and glue, and the interface of onnx.backend.base on top of them.

A graph is compiled to a list of steps. Steps whose inputs are all constant run once, in ``prepare``; recurrent nodes
whose weights are constant hold their layers, others make them at every call. Inputs with a default (an initializer of
their name, from IR version 4 on) count as constants, until a call gives one: then the graph is compiled once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend import base

from ..nn import layers
from . import glue, runtime
from .nodes import GATES, Arguments, Array, Recurrent, check, layer_arguments, parse
from .signature import Signature, check_model, opset_of

Values = dict[str, Array]


def make_layer(arguments: Arguments) -> Any:
    """A layer with its weights. The seed is of initial values that are replaced at once."""
    layer = getattr(layers, arguments.cell)(**arguments.keywords, seed=0)
    layer.load_state_dict(arguments.params)
    return layer


def node_layers(node: Recurrent, values: Values) -> tuple[Any, ...]:
    """The layers of a node. values: by ONNX's names, W, R and where they are given B and P."""
    return tuple(map(make_layer, layer_arguments(node, *(values.get(name) for name in ("W", "R", "B", "P")))))


def run_rnn_node(node: Recurrent, values: Values, own: tuple[Any, ...] | None = None) -> dict[str, Array]:
    """Compute a node. values: ONNX's input names -> arrays. own: its layers, or None to make them. -> Y, Y_h, Y_c.

    X [T, B, I], initial_h and initial_c [D, B, H], sequence_lens int32 [B] in [0, T]; Y [T, D, B, H], Y_h and Y_c
    [D, B, H]. With layout 1: X [B, T, I], initial_h and initial_c [B, D, H], Y [B, T, D, H], Y_h and Y_c [B, D, H]. All
    but the lengths have one dtype, that of W. TypeError and ValueError name the node and the input.
    """
    own = own or node_layers(node, values)
    dtype, H, D = own[0].dtype, own[0].hidden_size, node.directions
    x = check(
        node, "X", values["X"], (None, None, own[0].input_size), "[B, T, I]" if node.layout else "[T, B, I]", dtype
    )
    batch, seq_len = x.shape[:2] if node.layout else x.shape[1::-1]
    lengths = values.get("sequence_lens")
    if lengths is not None:
        lengths = check(node, "sequence_lens", lengths, (batch,), "[B]", np.int32)
        if lengths.size and not (lengths.min() >= 0 and lengths.max() <= seq_len):
            raise ValueError(
                f"{node}: sequence_lens: expected values in [0, T] = [0, {seq_len}], got {lengths.tolist()}"
            )
    shape, axes = ((batch, D, H), "[B, D, H]") if node.layout else ((D, batch, H), "[D, B, H]")
    states: list[Array | None] = []
    for name in ("initial_h", "initial_c")[: 2 if node.op == "LSTM" else 1]:
        given = values.get(name)
        if given is not None:
            given = check(node, name, given, shape, axes, dtype)
            given = given.swapaxes(0, 1) if node.layout else given
        states.append(given)
    if any(state is not None for state in states):  # an LSTM's layer takes both or none
        states = [np.zeros((D, batch, H), dtype) if state is None else state for state in states]
    parts = []
    for index, layer in enumerate(own):
        at = slice(None) if len(own) == 1 else slice(index, index + 1)
        mine = None if states[0] is None else tuple(state[at] for state in states if state is not None)
        parts.append(layer(x, mine if mine is None or node.op == "LSTM" else mine[0], lengths=lengths))
    y = np.concatenate([part[0] for part in parts], axis=2) if len(parts) > 1 else parts[0][0]
    y = y.reshape(*y.shape[:2], D, H)
    finals = [part[1] if node.op == "LSTM" else (part[1],) for part in parts]
    joined = [np.concatenate(each) if len(each) > 1 else each[0] for each in zip(*finals, strict=True)]
    results = {"Y": y if node.layout else y.transpose(0, 2, 1, 3)}
    for name, state in zip(("Y_h", "Y_c"), joined, strict=False):
        results[name] = (state.swapaxes(0, 1) if node.layout else state).astype(dtype, copy=False)
    return results


class Step:
    """One node of a graph: a recurrent one (``recurrent`` is it, ``layers`` if its weights are constant) or glue."""

    def __init__(self, proto: onnx.NodeProto, opset: int) -> None:
        self.inputs: tuple[str, ...] = tuple(proto.input)  # "" where one is absent
        self.recurrent = parse(proto, opset) if proto.op_type in GATES and proto.domain in ("", "ai.onnx") else None
        self.layers: tuple[Any, ...] | None = None
        self.outputs: dict[str, str]  # ONNX's name -> the graph's
        if self.recurrent is not None:
            self.outputs, self._reads = self.recurrent.outputs, dict(self.recurrent.inputs)
        else:
            self._glue = glue.compile_node(proto, opset)
            self.outputs = {"": proto.output[0]}

    def run(self, values: Values, compute: Callable[..., dict[str, Array]] = run_rnn_node) -> Values:
        """The outputs, under the graph's names. compute: stands in for ``run_rnn_node`` (``from_onnx`` only looks)."""
        if self.recurrent is None:
            return {self.outputs[""]: self._glue([values[name] if name else None for name in self.inputs])}
        given = {name: values[actual] for name, actual in self._reads.items()}
        results = compute(self.recurrent, given, self.layers)
        return {actual: results[name] for name, actual in self.outputs.items()}

    def hold(self, constants: Values) -> None:
        """Make a recurrent node's layers where its weights are constant; they are not read again."""
        node = self.recurrent
        if node is None:
            return
        names = {name: node.inputs[name] for name in ("W", "R", "B", "P") if name in node.inputs}
        if all(actual in constants for actual in names.values()):
            self.layers = node_layers(node, {name: constants[actual] for name, actual in names.items()})
            self._reads = {name: actual for name, actual in self._reads.items() if name not in names}
            self.inputs = tuple(self._reads.values())


class Prepared(Signature, base.BackendRep):
    """A compiled model. ``inputs`` and ``outputs`` are the graph's names in order; ``defaults`` are the initializers
    that a call may replace, by name, and no inputs.
    """

    def __init__(self, model: onnx.ModelProto, hold: bool = True, given: bool = False) -> None:
        # hold: make the layers of constant weights now. given: a call will give the inputs that have defaults.
        super().__init__(model)
        graph, opset = model.graph, opset_of(model)
        if model.functions:
            names = ", ".join(function.name for function in model.functions)
            raise NotImplementedError(f"model: functions ({names}) are not there; onnx.inliner.inline_local_functions")
        if graph.sparse_initializer:
            raise NotImplementedError("model: sparse initializers are not there")
        self.constants: Values = {tensor.name: glue.array_of(tensor) for tensor in graph.initializer}
        self.defaults: Values = {name: self.constants[name] for name in self.overridable}
        self._model = model if self.defaults else None
        self._given: Prepared | None = None  # the graph without its defaults, once a call replaced one
        if given:
            self.constants = {name: value for name, value in self.constants.items() if name not in self.defaults}
        self.steps: list[Step] = []
        for proto in graph.node:
            step = Step(proto, opset)
            if step.recurrent is None and all(name in self.constants for name in step.inputs if name):
                self.constants |= step.run(self.constants)
                continue
            if hold:
                step.hold(self.constants)
            self.steps.append(step)
        read = {name for step in self.steps for name in step.inputs} | set(self.outputs)
        self.constants = {name: value for name, value in self.constants.items() if name in read}
        for value in self.constants.values():  # an output may be one of them
            value.flags.writeable = False

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """inputs: arrays in the order of ``inputs``, or a mapping of names, of which those with a default may be among
        them; -> a tuple, also indexed by output name.
        """
        if kwargs:
            raise TypeError(f"run: expected no options, got {', '.join(kwargs)}")
        given = self.take(inputs)
        values = self.compute(given) if given.keys() <= set(self.inputs) else self._replaced(given)
        outputs = (np.asarray(values[name]) for name in self.outputs)
        answer: tuple[Any, ...] = base.namedtupledict("Outputs", self.outputs)(*outputs)
        return answer

    def compute(self, given: Values, **options: Any) -> Values:
        """Every named value of the graph, from those of its inputs. options: of ``Step.run``."""
        values = {**self.constants, **given}
        for step in self.steps:
            values |= step.run(values, **options)
        return values

    def _replaced(self, given: Values) -> Values:
        """``compute`` where a call gives an input that has a default."""
        if self._given is None:
            assert self._model is not None
            self._given = Prepared(self._model, given=True)
        return self._given.compute({**self.defaults, **given})


class Hosted(Signature, base.BackendRep):
    """A model that onnxruntime runs with rnnkern's kernels. ``session`` is its session."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self.session = runtime.session(model)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As that of ``Prepared``."""
        if kwargs:
            raise TypeError(f"run: expected no options, got {', '.join(kwargs)}")
        outputs = self.session.run(list(self.outputs), self.take(inputs))
        answer: tuple[Any, ...] = base.namedtupledict("Outputs", self.outputs)(*outputs)
        return answer


def host(model: onnx.ModelProto, reason: NotImplementedError) -> Hosted:
    """A model that ``Prepared`` refused for a reason. If onnxruntime refuses it, too, the error has both reasons."""
    try:
        return Hosted(model)
    except (ImportError, NotImplementedError) as missing:
        raise NotImplementedError(f"{reason}. onnxruntime would run the other operators: {missing}") from reason
    except runtime.errors() as refusal:
        raise NotImplementedError(f"{reason}. onnxruntime refuses the model, too: {refusal}") from refusal


class Backend(base.Backend):
    """``onnx.backend.base.Backend`` on the CPU.

    Graphs of RNN, GRU, LSTM and the operators of ``glue.py`` run in NumPy and rnnkern; others in onnxruntime, if it is
    installed, with rnnkern's kernels.
    """

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device in ("CPU", "CPU:0")

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared | Hosted:
        """Check a model (onnx.checker) and compile it. NotImplementedError names what is not there."""
        cls._check(device, kwargs)
        check_model(model)
        try:
            return Prepared(model)
        except NotImplementedError as reason:
            return host(model, reason)

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether ``prepare`` takes the model (checked by trying)."""
        try:
            cls.prepare(model, device, **kwargs)
        except NotImplementedError:
            return False
        return True

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """inputs: arrays for the node's inputs that are not "", in order, or a mapping of names.

        opset_version=: of the node; the newest that onnx knows without it. outputs_info is not needed.
        """
        opset = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        cls._check(device, kwargs)
        super().run_node(node, inputs, device, outputs_info, opset_version=opset)
        step = Step(node, opset)
        names = list(dict.fromkeys(name for name in step.inputs if name))
        values = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
        if set(values) != set(names) or (not isinstance(inputs, Mapping) and len(inputs) != len(names)):
            raise ValueError(f"inputs: expected {', '.join(names) or 'none'}, got {len(inputs)}")
        results = step.run({name: np.asarray(value) for name, value in values.items()})
        outputs = [name for name in node.output if name]
        answer: tuple[Any, ...] = base.namedtupledict("Outputs", outputs)(*(results[name] for name in outputs))
        return answer

    @classmethod
    def _check(cls, device: str, options: Mapping[str, Any]) -> None:
        if not cls.supports_device(device):
            raise NotImplementedError(f"device: expected 'CPU', got {device!r}")
        if options:
            raise TypeError(f"options: expected none, got {', '.join(options)}")


supports_device = Backend.supports_device
prepare = Backend.prepare
is_compatible = Backend.is_compatible
run_model = Backend.run_model
run_node = Backend.run_node


def values_of(weights: Mapping[str, Any] | Sequence[onnx.TensorProto]) -> Values:
    """Arrays by name from a mapping or from a graph's initializers."""
    if isinstance(weights, Mapping):
        return {name: np.asarray(value) for name, value in weights.items()}
    return {tensor.name: glue.array_of(tensor) for tensor in weights}
