"""``layers`` and ``put_back``: the recurrent nodes of any model as trainable layers, and their weights back into it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import inliner, numpy_helper

from .backend import make_layer
from .folding import Scope
from .nodes import Array, Recurrent, layer_arguments, node_weights, parse
from .quantized import dequantized
from .replacement import is_recurrent, walk
from .signature import opset_of

_WEIGHTS = {"W": 1, "R": 2, "B": 3, "P": 7}  # positions among a node's inputs


def layers(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the nodes RNN, GRU and LSTM of a model, those of subgraphs included, as trainable layers.

    The keys are the nodes' names (without one, the name of their first output), with the way to a subgraph before them:
    ``"If_3.then_branch/LSTM_7"``. Each value is an ``rnnkern.RNN``, ``GRU`` or ``LSTM`` with the node's weights, or a
    pair of them, forward and reverse, where the directions have different activations. Layers are batch-first if the
    layout of their node is 1. A model's own functions (those of its opset) are
    inlined first, so ``put_back`` returns a model without them.

    Weights may be initializers, or computed from initializers by the operators of ``docs/onnx.md`` (DequantizeLinear
    included). A node with other weights is left out, and a UserWarning says why. onnxruntime's DynamicQuantizeLSTM is
    read as the LSTM that its integers and scales stand for; ``put_back`` writes an LSTM in its place.

    Raises ValueError or TypeError for wrong attributes, shapes or dtypes of a node.
    """
    found = {}
    for key, node, scope in _recurrent(_checked(model)):
        read = parse(node, scope.opset)
        try:
            weights = _weights(read, scope)
        except NotImplementedError as reason:
            warnings.warn(f"layers: left out: {reason}", stacklevel=2)
            continue
        made = tuple(map(make_layer, layer_arguments(read, *(weights.get(name) for name in _WEIGHTS))))
        found[key] = made[0] if len(made) == 1 else made
    return found


def put_back(model: onnx.ModelProto, trained: Mapping[str, Any]) -> onnx.ModelProto:
    """Return a copy of a model with the weights of ``trained`` in place of its own.

    trained: layers as ``layers(model)`` returns them, all or some. Their weights become initializers beside their
    nodes, where each node has its own, and what only the old weights needed is removed.

    Raises KeyError for a key that ``layers`` does not have, ValueError or TypeError for a layer whose parameters do not
    have the names, shapes or dtype of the node's.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(_checked(model))
    places = {key: (node, scope) for key, node, scope in _recurrent(changed)}
    for key, given in trained.items():
        if key not in places:
            raise KeyError(f"trained: expected keys of layers(model), {', '.join(places) or 'none'}, got {key!r}")
        _write(key, *places[key], given if isinstance(given, tuple) else (given,))
    _remove_unused(changed, model)
    return changed


def _checked(model: Any) -> onnx.ModelProto:
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"model: expected an onnx.ModelProto, got {type(model).__name__}")
    if model.functions:
        model = inliner.inline_local_functions(model)
        for function in model.functions:  # of another opset than the model's
            if any(map(is_recurrent, walk(function.node))):
                said = f"layers: left out: the nodes of function {function.name!r}, whose opset is not the model's"
                warnings.warn(said, stacklevel=3)
    return dequantized(model)


class _Place(NamedTuple):
    key: str
    node: onnx.NodeProto
    scope: Scope


def _recurrent(model: onnx.ModelProto) -> list[_Place]:
    """The recurrent nodes under keys of which none stands twice."""
    found: list[_Place] = []
    for key, node, scope in _visit(Scope(model.graph, opset_of(model))):
        same = sum(each.key == key or each.key.startswith(f"{key}#") for each in found)
        found.append(_Place(f"{key}#{same + 1}" if same else key, node, scope))
    return found


def _visit(scope: Scope) -> Iterator[_Place]:
    for node in scope.graph.node:
        name = node.name or next((output for output in node.output if output), node.op_type)
        if is_recurrent(node):
            yield _Place(scope.place + name, node, scope)
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                place = f"{scope.place}{name}.{attribute.name}/"
                yield from _visit(Scope(graph, scope.opset, scope, place))


def _weights(node: Recurrent, scope: Scope) -> dict[str, Array]:
    found = {}
    for name in _WEIGHTS:
        if name in node.inputs:
            try:
                found[name] = scope.constant(node.inputs[name])
            except NotImplementedError as reason:
                raise NotImplementedError(f"{node}: {name}: {reason}") from reason
    return found


# Back into the model --------------------------------------------------------------------------------------------------


def _write(key: str, node: onnx.NodeProto, scope: Scope, given: tuple[Any, ...]) -> None:
    read = parse(node, scope.opset)
    weights = _weights(read, scope)
    expected = layer_arguments(read, *(weights.get(name) for name in _WEIGHTS))
    if len(given) != len(expected):
        raise ValueError(f"trained[{key!r}]: expected {len(expected)} layers, got {len(given)}")
    directions: list[dict[str, Array]] = []
    for layer, wanted in zip(given, expected, strict=True):
        params = _parameters(key, layer, wanted.cell)
        for name, value in wanted.params.items():
            got = params.get(name)
            if got is None or got.shape != value.shape:
                shape = "none" if got is None else list(got.shape)
                raise ValueError(f"trained[{key!r}]: {name}: expected shape {list(value.shape)}, got {shape}")
            if got.dtype != value.dtype:
                raise TypeError(f"trained[{key!r}]: {name}: expected dtype {value.dtype}, got {got.dtype}")
        for end in ("_l0", "_l0_reverse"):
            names = [name for name in wanted.params if name.endswith(end)]
            if names:
                directions.append({name.removesuffix(end): params[name] for name in names})
    for name, value in node_weights(read.op, directions).items():
        old = node.input[_WEIGHTS[name]]
        new = f"{key}.{name}"
        while new == old or new in scope.names():
            new += "_"
        scope.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), new))
        node.input[_WEIGHTS[name]] = new


def _parameters(key: str, layer: Any, cell: str) -> dict[str, Array]:
    if type(layer).__name__ != cell or not hasattr(layer, "state_dict"):
        raise TypeError(f"trained[{key!r}]: expected rnnkern.{cell}, got {type(layer).__name__}")
    return dict(layer.state_dict())


def _remove_unused(model: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """Remove nodes and initializers that nothing reads any more, and that were read in the model before."""
    once = _read_names(before.graph)
    while True:
        read = _read_names(model.graph)
        if not any([_remove(scope_graph, once - read) for scope_graph in _graphs(model.graph)]):
            return


def _remove(graph: onnx.GraphProto, names: set[str]) -> bool:
    nodes = [node for node in graph.node if node.output and all(name in names or not name for name in node.output)]
    held = [tensor for tensor in graph.initializer if tensor.name in names]
    inputs = [value for value in graph.input if value.name in {tensor.name for tensor in held}]
    for node in nodes:
        graph.node.remove(node)
    for tensor in held:
        graph.initializer.remove(tensor)
    for value in inputs:
        graph.input.remove(value)
    return bool(nodes or held)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)


def _read_names(graph: onnx.GraphProto) -> set[str]:
    return {
        name
        for each in _graphs(graph)
        for name in (*(name for node in each.node for name in node.input), *(value.name for value in each.output))
        if name
    }
