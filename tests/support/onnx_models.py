"""ONNX models with one recurrent node, drawn from a seed, and what they mean: the operators' equations in NumPy.

``draw(seed)`` gives a ``Case``: a node with a random choice of attributes and inputs, and the inputs' values.
``truth(case)`` evaluates the equations of onnx/defs/rnn/defs.cc in float64 in ONNX's own order of gates, one row and
one step at a time; it shares no text with rnnkern.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

Array = np.ndarray[Any, Any]

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
INPUTS = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
OUTPUTS = ["Y", "Y_h", "Y_c"]
# Defaults are those of the operators of these names, as floats of 32 bits; Affine and ScaledTanh have no operator.
PARAMETERS: dict[str, tuple[float | None, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softsign": (),
    "Softplus": (),
    "LeakyRelu": (float(np.float32(0.01)),),
    "ThresholdedRelu": (1.0,),
    "Elu": (1.0,),
    "HardSigmoid": (float(np.float32(0.2)), 0.5),
    "Affine": (None, None),
    "ScaledTanh": (None, None),
}
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Case:
    """One node and its inputs. values: by ONNX's names, only those that are given. outputs: names, "" where absent."""

    op: str
    opset: int
    attributes: dict[str, Any]
    values: dict[str, Array]
    outputs: tuple[str, ...]

    @property
    def directions(self) -> int:
        return 2 if self.attributes.get("direction") == "bidirectional" else 1

    @property
    def dtype(self) -> str:
        return str(self.values["X"].dtype)

    @property
    def node(self) -> onnx.NodeProto:
        names = INPUTS if self.op == "LSTM" else INPUTS[:6]
        inputs = [name if name in self.values else "" for name in names]
        while not inputs[-1]:
            inputs.pop()
        return helper.make_node(self.op, inputs, list(self.outputs), name="node", **self.attributes)

    def model(self, constant: bool = True) -> onnx.ModelProto:
        """constant: W, R, B and P are initializers; otherwise they are inputs too."""
        held = [name for name in ("W", "R", "B", "P") if constant and name in self.values]
        given = [name for name in self.values if name not in held]
        graph = helper.make_graph(
            [self.node],
            "graph",
            [helper.make_tensor_value_info(n, _element(self.values[n]), self.values[n].shape) for n in given],
            [
                helper.make_tensor_value_info(name, _element(self.values["X"]), [None] * (4 if name == "Y" else 3))
                for name in filter(None, self.outputs)
            ],
            [onnx.numpy_helper.from_array(self.values[name], name) for name in held],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10 if self.opset > 20 else 8)

    def feeds(self, constant: bool = True) -> dict[str, Array]:
        return {name: v for name, v in self.values.items() if not (constant and name in ("W", "R", "B", "P"))}

    def astype(self, dtype: str) -> Case:
        """The same in another dtype (in opset 22 where it is bfloat16)."""
        values = {n: v if n == "sequence_lens" else v.astype(DTYPES[dtype]) for n, v in self.values.items()}
        return replace(self, values=values, opset=22 if dtype == "bfloat16" else self.opset)


def _element(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def draw(seed: int) -> Case:
    """A case whose results are at most 8 and well conditioned: x moved by 1e-5 of itself moves none by 1e-3.

    So no gate of unbounded range lets the state explode, and ThresholdedRelu, which jumps at alpha, is not met there.
    """
    for attempt in range(100):
        case = _draw(seed, np.random.default_rng([seed, attempt]))
        with np.errstate(over="ignore", invalid="ignore"):
            results = truth(case)
            moved = truth(replace(case, values={**case.values, "X": case.values["X"].astype(np.float64) * (1 + 1e-5)}))
        large = max(float(np.max(np.abs(value), initial=0)) for value in results.values())
        change = max(float(np.max(np.abs(moved[name] - value), initial=0)) for name, value in results.items())
        if large <= 8 and change < 1e-3:
            return case
    raise AssertionError(f"seed {seed}: no case")


def _draw(seed: int, rng: np.random.Generator) -> Case:
    op = ["RNN", "GRU", "LSTM"][seed % 3]
    dtype = str(rng.choice(list(DTYPES), p=[0.79, 0.07, 0.07, 0.07]))
    opset = 22 if dtype == "bfloat16" else int(rng.choice([7, 14, 22]))
    T, B, inputs, H = (int(rng.choice(sizes)) for sizes in ([1, 2, 3, 6], [1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 8, 17]))
    chance = lambda p: bool(rng.random() < p)  # noqa: E731
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D, G = (2 if direction == "bidirectional" else 1), GATES[op]
    attributes: dict[str, Any] = {"hidden_size": H} if chance(0.9) else {}
    if direction != "forward" or chance(0.3):
        attributes["direction"] = direction
    if chance(0.4):
        attributes["clip"] = float(np.float32(rng.uniform(0.2, 1.5)))
    if chance(0.6):
        # Half types meet the jump of ThresholdedRelu too often: they do without it.
        pool = [name for name in PARAMETERS if dtype in ("float32", "float64") or name != "ThresholdedRelu"]
        attributes |= _activations(rng, pool, len(DEFAULTS[op]), D, chance(0.5))
    if op == "LSTM" and chance(0.4):
        attributes["input_forget"] = int(chance(0.7))
    if op == "GRU" and chance(0.6):
        attributes["linear_before_reset"] = int(chance(0.7))
    if opset >= 14 and chance(0.2):
        attributes["layout"] = 1
    layout = attributes.get("layout", 0)

    def normal(*shape: int) -> Array:
        return rng.normal(0, shape[-1] ** -0.5, shape).astype(DTYPES[dtype])

    values = {"X": rng.normal(size=(B, T, inputs) if layout else (T, B, inputs)).astype(DTYPES[dtype])}
    values |= {"W": normal(D, G * H, inputs), "R": normal(D, G * H, H)}
    if chance(0.7):
        values["B"] = 0.5 * rng.normal(size=(D, 2 * G * H)).astype(DTYPES[dtype])
        values["B"] = values["B"].astype(DTYPES[dtype])
    if chance(0.5):
        values["sequence_lens"] = rng.integers(0, T + 1, B).astype(np.int32)
    for name, p in (("initial_h", 0.5), ("initial_c", 0.5 if op == "LSTM" else 0)):
        if chance(p):
            values[name] = rng.normal(size=(B, D, H) if layout else (D, B, H)).astype(DTYPES[dtype])
    if op == "LSTM" and chance(0.5):
        values["P"] = rng.normal(0, 0.5, (D, 3 * H)).astype(DTYPES[dtype])
    outputs = [name if chance(0.8) else "" for name in OUTPUTS[: 3 if op == "LSTM" else 2]]
    while outputs and not outputs[-1]:
        outputs.pop()
    return Case(op, opset, attributes, values, tuple(outputs or ["Y"]))


def _activations(rng: Any, pool: list[str], count: int, directions: int, alike: bool) -> dict[str, Any]:
    """Names in any case, and values for a first part of the functions that take some: the others use defaults."""
    names = [str(name) for name in rng.choice(pool, count * directions)]
    if alike:
        names = names[:count] * directions
    attributes: dict[str, Any] = {
        "activations": [str(rng.choice([n, n.lower(), n.upper()], p=[0.8, 0.1, 0.1])) for n in names]
    }
    for which, attribute in enumerate(("activation_alpha", "activation_beta")):
        takers = [PARAMETERS[name] for name in names if len(PARAMETERS[name]) > which]
        # A list may stop early, but not before the last function without a default.
        least = max((i + 1 for i, defaults in enumerate(takers) if defaults[which] is None), default=0)
        given = int(rng.integers(least, len(takers) + 1))
        if given:
            drawn = rng.uniform(0.2, 0.8, given).astype(np.float32)
            if alike and directions == 2 and given == len(takers):
                drawn[given // 2 :] = drawn[: given // 2]
            attributes[attribute] = [float(value) for value in drawn]
    return attributes


def model_of(op: str, directions: int = 1, **attributes: Any) -> Case:
    """Fixed sizes and inputs of every kind that hold for any attributes: T = 4, B = 3, I = 3, H = 5."""
    rng = np.random.default_rng(3)
    D, G, H = directions, GATES[op], 5
    values = {"X": rng.normal(size=(4, 3, 3)), "W": rng.normal(0, 0.6, (D, G * H, 3))}
    values |= {"R": rng.normal(0, 0.4, (D, G * H, H)), "B": rng.normal(0, 0.5, (D, 2 * G * H))}
    kept = {name: value.astype(np.float32) for name, value in values.items()}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    return Case(op, 14, {"hidden_size": H, **attributes}, kept, ("Y", "Y_h", "Y_c")[: 3 if op == "LSTM" else 2])


def with_states(case: Case, lengths: list[int]) -> Case:
    rng, D = np.random.default_rng(4), case.directions
    values = {**case.values, "sequence_lens": np.array(lengths, np.int32)}
    for name in ("initial_h", "initial_c")[: 2 if case.op == "LSTM" else 1]:
        values[name] = rng.normal(size=(D, 3, 5)).astype(np.float32)
    return replace(case, values=values)


# The equations ------------------------------------------------------------------------------------------------------


def entries(case: Case) -> list[list[tuple[str, float, float]]]:
    """(name, alpha, beta) for each function of each direction: values are consumed in order by those that take some."""
    names = case.attributes.get("activations") or DEFAULTS[case.op] * case.directions
    canonical = {name.lower(): name for name in PARAMETERS}
    left = [list(case.attributes.get(name, [])) for name in ("activation_alpha", "activation_beta")]
    found = []
    for name in (canonical[str(name).lower()] for name in names):
        numbers = [left[i].pop(0) if left[i] else default for i, default in enumerate(PARAMETERS[name])]
        assert None not in numbers, "no default"
        found.append((name, *numbers, *[0.0] * (2 - len(numbers))))
    count = len(DEFAULTS[case.op])
    return [found[d * count : (d + 1) * count] for d in range(case.directions)]  # type: ignore[misc]


def activate(entry: tuple[str, float, float], x: Array) -> Array:
    """The functions of the operators' documentation. ThresholdedRelu is 0 at alpha, as in the operator of that name."""
    name, a, b = entry
    result: Array = {
        "Relu": lambda: np.maximum(x, 0),
        "Tanh": lambda: np.tanh(x),
        "Sigmoid": lambda: np.exp(-np.logaddexp(0, -x)),
        "Softsign": lambda: x / (1 + np.abs(x)),
        "Softplus": lambda: np.logaddexp(0, x),
        "LeakyRelu": lambda: np.where(x < 0, a * x, x),
        "ThresholdedRelu": lambda: np.where(x > a, x, 0),
        "Elu": lambda: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
        "HardSigmoid": lambda: np.clip(a * x + b, 0, 1),
        "Affine": lambda: a * x + b,
        "ScaledTanh": lambda: a * np.tanh(b * x),
    }[name]()
    return result


def truth(case: Case) -> dict[str, Array]:
    """Y, Y_h and, for LSTM, Y_c in float64, in the case's layout.

    The specification says of clip only "the input of activations". As in onnxruntime and OpenVINO, the cell on its way
    into an LSTM's last activation is not clipped.
    """
    wide = {name: v.astype(np.float64) for name, v in case.values.items() if name != "sequence_lens"}
    layout, D = case.attributes.get("layout", 0), case.directions
    x = wide["X"].swapaxes(0, 1) if layout else wide["X"]
    (T, B), H = x.shape[:2], wide["R"].shape[2]
    lengths = case.values.get("sequence_lens", np.full(B, T))
    states = {}
    for name in ("initial_h", "initial_c"):
        given = wide.get(name)
        states[name] = np.zeros((D, B, H)) if given is None else given.swapaxes(0, 1) if layout else given
    y, finals = np.zeros((T, D, B, H)), {"Y_h": states["initial_h"].copy(), "Y_c": states["initial_c"].copy()}
    for d in range(D):
        backwards = d == 1 or case.attributes.get("direction") == "reverse"
        for b in range(B):
            h, c = states["initial_h"][d, b], states["initial_c"][d, b]
            steps = range(int(lengths[b]))
            for t in reversed(steps) if backwards else steps:
                h, c = _step(case, wide, d, x[t, b], h, c)
                y[t, d, b] = h
            finals["Y_h"][d, b], finals["Y_c"][d, b] = h, c
    if case.op != "LSTM":
        del finals["Y_c"]
    if layout:
        y, finals = y.transpose(2, 0, 1, 3), {name: value.swapaxes(0, 1) for name, value in finals.items()}
    return {"Y": y, **finals}


def _step(case: Case, wide: dict[str, Array], d: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """One step of one row in direction d: x [I], h and c [H] -> the new h and c."""
    bound = case.attributes.get("clip", np.inf)
    G, H = GATES[case.op], h.size
    functions = entries(case)[d]
    call = [functools.partial(_clipped, entry, bound) for entry in functions]
    W, R = wide["W"][d].reshape(G, H, -1), wide["R"][d].reshape(G, H, H)
    wb, rb = wide.get("B", np.zeros((d + 1, 2 * G * H)))[d].reshape(2, G, H)
    if case.op == "RNN":
        return call[0](W[0] @ x + R[0] @ h + wb[0] + rb[0]), c
    if case.op == "GRU":
        f, g = call
        z, r = (f(W[k] @ x + R[k] @ h + wb[k] + rb[k]) for k in range(2))
        if case.attributes.get("linear_before_reset", 0):
            n = g(W[2] @ x + r * (R[2] @ h + rb[2]) + wb[2])
        else:
            n = g(W[2] @ x + R[2] @ (r * h) + rb[2] + wb[2])
        return (1 - z) * n + z * h, c
    f, g = call[:2]
    p_i, p_o, p_f = wide.get("P", np.zeros((d + 1, 3 * H)))[d].reshape(3, H)
    gate_i, gate_o, gate_f, gate_c = (W[k] @ x + R[k] @ h + wb[k] + rb[k] for k in range(4))
    i = f(gate_i + p_i * c)
    forget = 1 - i if case.attributes.get("input_forget", 0) else f(gate_f + p_f * c)
    c = forget * c + i * g(gate_c)
    return f(gate_o + p_o * c) * activate(functions[2], c), c


def _clipped(entry: tuple[str, float, float], bound: float, x: Array) -> Array:
    return activate(entry, np.clip(x, -bound, bound))
