"""What a node RNN, GRU or LSTM means in rnnkern's words: pure functions, nothing is computed here.

``parse`` reads attributes, input and output names; ``layer_arguments`` turns it and its weights into the classes,
keywords and state dicts of rnnkern's layers. Schemas are onnx's own (``onnx.defs``), so each opset version has exactly
its attributes and types. T steps, B rows, I inputs, H units, D directions, G gates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from ..weights import reorder
from .activations import Activation, resolve

Array = np.ndarray[Any, Any]

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULT: dict[str, tuple[Activation, ...]] = {
    "RNN": ("Tanh",),
    "GRU": ("Sigmoid", "Tanh"),
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
}
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_OUTPUTS = ("Y", "Y_h", "Y_c")
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
}


@dataclass(frozen=True)
class Recurrent:
    """A checked node. functions: for each direction. inputs, outputs: ONNX's name -> the graph's; absent ones are not.

    dtypes: names of those its opset version allows.
    """

    op: str
    name: str
    direction: str
    hidden_size: int | None
    clip: float | None
    layout: int
    functions: tuple[tuple[Activation, ...], ...]
    coupled: bool
    reset_after: bool
    inputs: dict[str, str]
    outputs: dict[str, str]
    dtypes: tuple[str, ...]

    @property
    def directions(self) -> int:
        return _DIRECTIONS[self.direction]

    @property
    def output_names(self) -> tuple[str, ...]:
        return _OUTPUTS if self.op == "LSTM" else _OUTPUTS[:2]

    def __str__(self) -> str:
        return label(self.op, self.name)


class Arguments(NamedTuple):
    """``layer = getattr(rnnkern, cell)(**keywords); layer.load_state_dict(params)``. params are PyTorch's names."""

    cell: str
    keywords: dict[str, Any]
    params: dict[str, Array]


def label(op: str, name: str) -> str:
    """How errors name a node."""
    return f"{op} node {name!r}" if name else f"{op} node"


def parse(node: onnx.NodeProto, opset: int) -> Recurrent:
    """Read a node of the operators RNN, GRU, LSTM of an opset version.

    NotImplementedError: another operator, an attribute or an activation that is not the version's. ValueError: an
    attribute out of range, too many or too few inputs or outputs.
    """
    where = label(node.op_type, node.name)
    if node.op_type not in GATES or node.domain not in ("", "ai.onnx"):
        raise NotImplementedError(
            f"operator: expected one of {', '.join(GATES)}, got {label(operator(node), node.name)}"
        )
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        raise NotImplementedError(f"{where}: there is no such operator in opset {opset}") from None
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.name not in schema.attributes:
            raise NotImplementedError(
                f"{where}: attribute {attribute.name!r} is not one of opset {opset}, which has "
                f"{', '.join(sorted(schema.attributes))}"
            )
        expected: Any = schema.attributes[attribute.name].type  # an enum that onnx's stub does not describe
        if attribute.type != expected.value:
            got = onnx.AttributeProto.AttributeType.Name(attribute.type)
            raise TypeError(f"{where}: attribute {attribute.name!r}: expected {expected.name}, got {got}")
        found[attribute.name] = helper.get_attribute_value(attribute)
    direction = found.get("direction", b"forward").decode()
    if direction not in _DIRECTIONS:
        raise ValueError(f"{where}: direction: expected one of {', '.join(_DIRECTIONS)}, got {direction!r}")
    clip = found.get("clip")
    if clip is not None and not clip > 0:
        raise ValueError(f"{where}: clip: expected a number above 0, got {clip}")
    for name, highest in (("layout", 1), ("input_forget", 1), ("output_sequence", 1)):
        if found.get(name, 0) not in range(highest + 1):
            raise ValueError(f"{where}: {name}: expected 0 or 1, got {found[name]}")
    if found.get("hidden_size", 1) < 1:
        raise ValueError(f"{where}: hidden_size: expected at least 1, got {found['hidden_size']}")
    return Recurrent(
        op=node.op_type,
        name=node.name,
        direction=direction,
        hidden_size=found.get("hidden_size"),
        clip=None if clip is None or math.isinf(clip) else float(clip),
        layout=found.get("layout", 0),
        functions=_functions(node.op_type, found, _DIRECTIONS[direction], where),
        coupled=bool(found.get("input_forget", 0)),
        reset_after=bool(found.get("linear_before_reset", 0)),
        inputs=_present(where, "inputs", node.input, _INPUTS[: 8 if node.op_type == "LSTM" else 6], required=3),
        outputs=_present(where, "outputs", node.output, _OUTPUTS[: 3 if node.op_type == "LSTM" else 2]),
        dtypes=tuple(
            _DTYPES[kind]
            for constraint in schema.type_constraints
            if constraint.type_param_str == "T"
            for kind in constraint.allowed_type_strs
        ),
    )


def operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def _present(where: str, what: str, given: Sequence[str], names: tuple[str, ...], required: int = 0) -> dict[str, str]:
    if len(given) > len(names):
        raise ValueError(f"{where}: {what}: expected at most {len(names)} ({', '.join(names)}), got {len(given)}")
    found = {name: actual for name, actual in zip(names, given, strict=False) if actual}
    missing = [name for name in names[:required] if name not in found]
    if missing:
        raise ValueError(f"{where}: {what}: expected {', '.join(names[:required])}, got none for {', '.join(missing)}")
    return found


def _functions(op: str, found: dict[str, Any], directions: int, where: str) -> tuple[tuple[Activation, ...], ...]:
    count = len(DEFAULT[op])
    names = [name.decode() for name in found.get("activations", [])]
    if op == "RNN" and directions == 1 and names == ["Tanh", "Tanh"]:
        names = ["Tanh"]  # the schema's own default, which some exporters write out for one direction too
    if not names:
        names = [str(name) for name in DEFAULT[op]] * directions
    if len(names) != count * directions:
        raise ValueError(
            f"{where}: activations: expected {count} for each of {directions} directions, got {len(names)}: "
            f"{', '.join(names)}"
        )
    every = resolve(names, found.get("activation_alpha", []), found.get("activation_beta", []), where)
    return tuple(every[direction * count : (direction + 1) * count] for direction in range(directions))


# Weights ------------------------------------------------------------------------------------------------------------


def check(node: Recurrent, name: str, array: Any, shape: tuple[int | None, ...], axes: str, dtype: Any) -> Array:
    """An input as an array of the expected dtype (TypeError) and shape (ValueError; None: any size)."""
    array = np.asarray(array)
    if array.dtype != dtype:
        raise TypeError(f"{node}: {name}: expected dtype {np.dtype(dtype).name}, got {array.dtype.name}")
    fits = len(array.shape) == len(shape) and all(e in (None, n) for e, n in zip(shape, array.shape, strict=True))
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{node}: {name}: expected shape {axes} = [{expected}], got {list(array.shape)}")
    return array


def layer_arguments(node: Recurrent, W: Any, R: Any, B: Any = None, P: Any = None) -> tuple[Arguments, ...]:
    """The layers that compute a node: one, or one for each direction where the directions' activations differ.

    W [D, G*H, I], R [D, G*H, H], B [D, 2*G*H] or None, P [D, 3*H] or None, of one dtype that the node allows. Gates go
    from ONNX's order (i o f c; z r h) to rnnkern's (i f g o; r z n), P from i o f to rows i f o. Only options that are
    not at their neutral value are named in the keywords. ValueError for a shape, TypeError for a dtype.
    """
    W, R = np.asarray(W), np.asarray(R)
    D, G = node.directions, GATES[node.op]
    if W.dtype.name not in node.dtypes:
        raise TypeError(f"{node}: W: expected dtype {' or '.join(node.dtypes)}, got {W.dtype.name}")
    if R.ndim != 3 or (node.hidden_size is not None and R.shape[2] != node.hidden_size) or R.shape[2] < 1:
        raise ValueError(
            f"{node}: R: expected shape [D, {G}*H, H] = [{D}, ...] with H = hidden_size = {node.hidden_size}, "
            f"got {list(R.shape)}"
        )
    H = R.shape[2]
    check(node, "W", W, (D, G * H, None), f"[D, {G}*H, I]", W.dtype)
    check(node, "R", R, (D, G * H, H), f"[D, {G}*H, H]", W.dtype)
    if B is not None:
        B = check(node, "B", B, (D, 2 * G * H), f"[D, {2 * G}*H]", W.dtype)
    if P is not None:
        P = check(node, "P", P, (D, 3 * H), "[D, 3*H]", W.dtype)
    params = [_params(node.op, W[d], R[d], None if B is None else B[d], None if P is None else P[d]) for d in range(D)]
    common: dict[str, Any] = {"input_size": W.shape[2], "hidden_size": H, "dtype": W.dtype.name, "bias": B is not None}
    if node.layout:
        common["batch_first"] = True
    if node.clip is not None:
        common["clip"] = node.clip
    if node.op == "GRU" and not node.reset_after:
        common["reset_after"] = False
    if node.coupled:
        common["coupled"] = True
    if P is not None:
        common["peephole"] = True
    if D == 2 and node.functions[0] == node.functions[1]:
        keywords = {**common, "bidirectional": True, **_activation_keywords(node.op, node.functions[0])}
        both = {
            f"{name}_l0{suffix}": a
            for suffix, half in zip(("", "_reverse"), params, strict=True)
            for name, a in half.items()
        }
        return (Arguments(node.op, keywords, both),)
    arguments = []
    for direction in range(D):
        keywords = {**common, **_activation_keywords(node.op, node.functions[direction])}
        if direction == 1 or node.direction == "reverse":
            keywords["reverse"] = True
        named = {f"{name}_l0": array for name, array in params[direction].items()}
        arguments.append(Arguments(node.op, keywords, named))
    return tuple(arguments)


def _params(op: str, W: Array, R: Array, B: Array | None, P: Array | None) -> dict[str, Array]:
    """One direction's parameters, without a suffix."""

    def ours(array: Array) -> Array:
        return array if op == "RNN" else reorder(array, op.lower(), "onnx", "torch")

    found = {"weight_ih": ours(W), "weight_hh": ours(R)}
    if B is not None:
        half = B.size // 2
        found |= {"bias_ih": ours(B[:half]), "bias_hh": ours(B[half:])}
    if P is not None:
        i, o, f = np.split(P, 3)
        found["peephole"] = np.stack([i, f, o])
    return found


def node_weights(op: str, directions: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The inverse of ``layer_arguments``: W, R and, where there are biases and peepholes, B and P.

    directions: the parameters of each direction under their names without a suffix (weight_ih, ...).
    """

    def theirs(array: Array) -> Array:
        return array if op == "RNN" else reorder(array, op.lower(), "torch", "onnx")

    found = {
        "W": np.stack([theirs(each["weight_ih"]) for each in directions]),
        "R": np.stack([theirs(each["weight_hh"]) for each in directions]),
    }
    if "bias_ih" in directions[0]:
        pairs = [(theirs(each["bias_ih"]), theirs(each["bias_hh"])) for each in directions]
        found["B"] = np.stack([np.concatenate(pair) for pair in pairs])
    if "peephole" in directions[0]:
        rows = [each["peephole"] for each in directions]
        found["P"] = np.stack([np.concatenate([i, o, f]) for i, f, o in rows])
    return found


def _activation_keywords(op: str, functions: tuple[Activation, ...]) -> dict[str, Any]:
    if functions == DEFAULT[op]:
        return {}
    if functions == ("Relu",) and op == "RNN":
        return {"nonlinearity": "relu"}
    return {"activations": functions}
