"""``from_onnx``: the recurrent stack of an ONNX model as one trainable rnnkern layer.

A layer gets x, a state and lengths from its caller. To find out whether a graph computes such a layer, this file runs
the graph on random arrays and lets each recurrent node return random arrays. Each node must receive exactly the arrays
that a layer of such a stack would receive. So the importer accepts every way to write the operators between the nodes,
and it never guesses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from . import backend
from .backend import Prepared, Values, values_of
from .nodes import Arguments, Array, Recurrent, layer_arguments, parse
from .quantized import dequantized
from .signature import check_model, dtype_of, size_of

_UNKNOWN = 2  # the size of every axis a model leaves open: transposed axes still show, because all values differ


def from_onnx(
    source: onnx.ModelProto | onnx.NodeProto,
    weights: Mapping[str, Any] | Sequence[onnx.TensorProto] | None = None,
    *,
    opset: int | None = None,
) -> Any:
    """Return an ``rnnkern.RNN``, ``GRU`` or ``LSTM`` with the weights of a model's recurrent nodes.

    source: a model with one recurrent node, or with several that form a stack, in which each node reads the outputs of
        both directions of the node before it, as the next layer of torch.nn does. Or a single node, with ``weights``.
    weights: only for a single node: W, R, B and P under the names of the node's inputs, as a mapping to arrays or the
        initializers of a graph.
    opset: only for a single node: its opset version; None is the newest.

    The layer has batch_first=True if the layout of the node is 1 or if the model transposes its input. State and
    lengths are arguments of a call of the layer, [L*D, B, H] and [B] as in torch. Operators on the results, such as
    Squeeze and Slice, are not part of the layer. onnxruntime's DynamicQuantizeLSTM is read as the LSTM that its
    integers stand for.

    Raises NotImplementedError for any other operator; for nodes that form no stack, such as a decoder that starts from
    the state of an encoder; for directions with different activations, which the backend runs as two layers; and for
    lengths or initial states that are constants other than zeros. Raises ValueError or TypeError for wrong attributes,
    shapes or dtypes of a node.
    """
    if isinstance(source, onnx.NodeProto):
        if weights is None:
            raise TypeError("weights: expected the node's weights by name, got None")
        node = parse(source, opset if opset is not None else onnx.defs.onnx_opset_version())
        return backend.make_layer(_of_node(node, values_of(weights)))
    if not isinstance(source, onnx.ModelProto):
        raise TypeError(f"source: expected an onnx.ModelProto or an onnx.NodeProto, got {type(source).__name__}")
    if weights is not None or opset is not None:
        raise TypeError("weights, opset: expected none with a model, which has its own")
    check_model(source)
    prepared = Prepared(dequantized(source), hold=False)
    return backend.make_layer(_stack(_look(prepared), prepared))


def _of_node(node: Recurrent, values: Values) -> Arguments:
    """One node's layer. values: constants under the graph's names."""
    found = {}
    for name in ("W", "R", "B", "P"):
        if name in node.inputs:
            if node.inputs[name] not in values:
                raise NotImplementedError(
                    f"{node}: {name}: expected a constant, got {node.inputs[name]!r}, of which none is known"
                )
            found[name] = values[node.inputs[name]]
    for name in ("sequence_lens", "initial_h", "initial_c"):
        value = values.get(node.inputs.get(name, ""))
        if value is not None and (name == "sequence_lens" or np.any(value)):
            raise NotImplementedError(
                f"{node}: {name}: expected an argument of the call, got a constant: a layer holds none"
            )
    if len(set(node.functions)) > 1:
        said = " and ".join(str(list(functions)) for functions in node.functions)
        raise NotImplementedError(
            f"{node}: activations: expected the same for both directions of one layer, got {said}"
        )
    (arguments,) = layer_arguments(node, *(found.get(name) for name in ("W", "R", "B", "P")))
    return arguments


class _Seen(NamedTuple):
    """The arrays that a recurrent node received, by their ONNX names, and the random arrays that it returned."""

    node: Recurrent
    given: Values
    answered: Values


def _look(prepared: Prepared) -> tuple[list[_Seen], Values]:
    """Run the graph on random arrays. Returns what each recurrent node received, in order, and the graph's inputs."""
    generator = np.random.default_rng(0)
    seen: list[_Seen] = []

    def draw(shape: tuple[int, ...], dtype: Any) -> Array:
        if np.issubdtype(dtype, np.integer):
            return generator.integers(1, 100, shape).astype(dtype)
        return generator.normal(size=shape).astype(dtype)

    def answer(node: Recurrent, given: Values, layers: Any) -> Values:
        x, (D, _, H) = given["X"], given["R"].shape
        outer = x.shape[:2]
        batch = outer[0] if node.layout else outer[1]
        y = (*outer, D, H) if node.layout else (outer[0], D, outer[1], H)
        state = (batch, D, H) if node.layout else (D, batch, H)
        shapes = dict(zip(node.output_names, (y, state, state), strict=False))
        seen.append(_Seen(node, given, {name: draw(shape, x.dtype) for name, shape in shapes.items()}))
        return seen[-1].answered

    given = {}
    for name in prepared.inputs:
        tensor = prepared.types[name].tensor_type
        if not tensor.HasField("shape"):
            raise NotImplementedError(f"input {name!r}: expected a shape (its sizes may be symbols), got none")
        sizes = [size_of(dim) for dim in tensor.shape.dim]
        shape = tuple(_UNKNOWN if size is None else size for size in sizes)
        given[name] = draw(shape, dtype_of(name, tensor))
    prepared.compute(given, compute=answer)
    if not seen:
        raise NotImplementedError("model: expected a node RNN, GRU or LSTM, got none")
    return seen, given


def _stack(looked: tuple[list[_Seen], Values], prepared: Prepared) -> Arguments:
    """One layer's arguments for nodes that form a stack, or NotImplementedError saying which does not and why."""
    seen, inputs = looked
    parts = [_of_node(each.node, prepared.constants) for each in seen]
    first = seen[0]
    batch_first = _reads_an_input(first, inputs)
    lengths = first.given.get("sequence_lens")
    if lengths is not None and not any(np.array_equal(value, lengths) for value in inputs.values()):
        raise NotImplementedError(f"{first.node}: sequence_lens: expected an input of the model, got something else")
    for index, each in enumerate(seen):
        if index:
            _reads_the_layer_below(seen[index - 1], each)
        _reads_its_state(index, each, inputs, len(seen))
        same = [np.array_equal(each.given.get("sequence_lens", -1), first.given.get("sequence_lens", -1))]
        same += [name in first.node.inputs for name in each.node.inputs if name == "sequence_lens"]
        if not all(same):
            raise NotImplementedError(f"{each.node}: sequence_lens: expected those of {first.node}, got others")
    keywords = _common(seen, parts)
    keywords["batch_first"] = batch_first
    keywords["num_layers"] = len(parts)
    params: dict[str, Array] = {}
    for index, part in enumerate(parts):
        params |= {name.replace("_l0", f"_l{index}"): array for name, array in _complete(part, keywords).items()}
    return Arguments(parts[0].cell, keywords, params)


def _reads_an_input(seen: _Seen, inputs: Values) -> bool:
    """Whether the caller's x is batch-first; NotImplementedError if X is no input of the graph."""
    x = seen.given["X"]
    for value in inputs.values():
        if value.ndim == 3 and np.array_equal(value, x):
            return bool(seen.node.layout)
    for value in inputs.values():
        if value.ndim == 3 and np.array_equal(value.swapaxes(0, 1), x):
            return not seen.node.layout
    raise NotImplementedError(
        f"{seen.node}: X: expected an input of the model or its first two axes swapped, got neither"
    )


def _reads_the_layer_below(below: _Seen, seen: _Seen) -> None:
    y = below.answered["Y"]
    rows = y if below.node.layout else y.transpose(0, 2, 1, 3)  # [T, B, D, H], or [B, T, D, H]
    expected = rows.reshape(*rows.shape[:2], -1)
    if seen.node.layout != below.node.layout:
        expected = expected.swapaxes(0, 1)
    if not np.array_equal(seen.given["X"], expected):
        raise NotImplementedError(
            f"{seen.node}: X: expected the output of {below.node}, its directions side by side, as the next layer of a "
            "stack reads it, got something else"
        )


def _reads_its_state(index: int, seen: _Seen, inputs: Values, layers: int) -> None:
    """initial_h and initial_c: absent, zeros, an input of their own, or their rows of an input for all layers."""
    D = seen.node.directions
    for name in ("initial_h", "initial_c"):
        state = seen.given.get(name)
        if state is None or not np.any(state):
            continue
        for value in inputs.values():
            if np.array_equal(value, state):
                break
            axis = 1 if seen.node.layout else 0
            if value.ndim == 3 and value.shape[axis] == layers * D:
                rows = np.take(value, range(index * D, (index + 1) * D), axis)
                if np.array_equal(rows, state):
                    break
        else:
            raise NotImplementedError(
                f"{seen.node}: {name}: expected zeros, an input of the model or its rows {index * D} to "
                f"{(index + 1) * D} (of L*D), got something else, which a layer's caller cannot give"
            )


def _common(seen: Sequence[_Seen], parts: Sequence[Arguments]) -> dict[str, Any]:
    """The keywords that all layers of a stack share; NotImplementedError naming one in which they differ."""
    filled = [{**part.keywords} for part in parts]
    for name in ("bias", "peephole"):  # zeros are as good as none
        if any(keywords.get(name) for keywords in filled):
            for keywords in filled:
                keywords[name] = True
    size = filled[0]["hidden_size"] * (2 if filled[0].get("bidirectional") else 1)
    for each, part, keywords in zip(seen[1:], parts[1:], filled[1:], strict=True):
        if part.cell != parts[0].cell or keywords["input_size"] != size:
            raise NotImplementedError(
                f"{each.node}: expected {parts[0].cell} of input size {size}, as in the layer below, "
                f"got {part.cell} of {keywords['input_size']}"
            )
        for name in sorted({*filled[0], *keywords} - {"input_size", "batch_first"}):
            if keywords.get(name) != filled[0].get(name):
                raise NotImplementedError(
                    f"{each.node}: expected {name} = {filled[0].get(name)!r}, as in the layer below, "
                    f"got {keywords.get(name)!r}"
                )
    return filled[0]


def _complete(part: Arguments, keywords: Mapping[str, Any]) -> dict[str, Array]:
    """A layer's parameters, with zeros for the biases and peepholes that other layers have and it has not."""
    params = dict(part.params)
    H = keywords["hidden_size"]
    for name in [name for name in params if name.startswith("weight_ih")]:
        suffix, weight = name.removeprefix("weight_ih"), params[name]
        if keywords["bias"]:
            for bias in ("bias_ih", "bias_hh"):
                params.setdefault(bias + suffix, np.zeros(weight.shape[0], weight.dtype))
        if keywords.get("peephole"):
            params.setdefault("peephole" + suffix, np.zeros((3, H), weight.dtype))
    return params
