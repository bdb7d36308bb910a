"""rnnkern.onnx: nodes become layers, and the layers' kernels give what the operators' specification says.

Three judges. ``onnx_models.truth`` is the specification's equations in float64; onnxruntime holds it (where it takes a
model at all). ``StandIn`` has the interface of rnnkern's layers with all options and computes in float64: with it in
place of the kernels, a node must come out as ``truth`` says, which tests the mapping alone. The kernels themselves are
then held against ``truth``.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import rnnkern.onnx as ro
from onnx_judges import EPS, StandIn, onnxruntime_declines, onnxruntimes_reading, session, worst
from onnx_models import DEFAULTS, DTYPES, PARAMETERS, Array, Case, draw, model_of, truth, with_states
from rnnkern.onnx import activations, backend
from rnnkern.onnx.nodes import Arguments, layer_arguments, parse

SEEDS = range(300)
OPS = ("RNN", "GRU", "LSTM")


@functools.cache
def case_of(seed: int) -> Case:
    return draw(seed)


def run(case: Case, constant: bool = True) -> dict[str, Array]:
    """A case through the backend, with its weights in the model or as inputs."""
    model = case.model(constant)
    got = ro.run_model(model, case.feeds(constant))
    names = [name for name in case.outputs if name]
    outputs = dict(zip(names, got, strict=True))
    assert all(value.dtype == DTYPES[case.dtype] for value in outputs.values())
    return outputs


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """rnnkern's layers replaced by StandIn, for the mapping alone."""
    monkeypatch.setattr(backend, "make_layer", StandIn)


@pytest.mark.parametrize("op", OPS)
def test_the_judge_is_onnxruntimes(op: str) -> None:
    """Everything that onnxruntime takes. It computes in float32, also for float16, whose results it rounds once.

    32 eps: sums of up to 24 terms over up to 6 steps are 12 roundings as random ones grow, times the slopes of what is
    met on the way. The same models in NumPy's float32 are off by up to 8, onnxruntime by up to 7.
    """
    taken = 0
    for case in (case_of(seed) for seed in SEEDS if case_of(seed).op == op):
        reason = onnxruntime_declines(case)
        try:
            names = [name for name in case.outputs if name]
            got = dict(zip(names, session(case.model()).run(None, case.feeds()), strict=True))
        except Exception as refusal:
            assert reason, f"{case}: {refusal}"
            continue
        taken += 1
        bound = 32 * EPS["float32"] + (EPS["float16"] if case.dtype == "float16" else 0)
        gaps = [worst(got, wanted) for wanted in (onnxruntimes_reading(case), truth(case))]
        assert min(gaps) <= bound, f"{case}: {gaps}"
    assert taken >= 50


@pytest.mark.parametrize(
    "case",
    [
        *(
            pytest.param(model_of(op, activations=[*DEFAULTS[op][:-1], "ThresholdedRelu"]), id=f"alpha of {op} is 0")
            for op in OPS
        ),
        *(pytest.param(with_states(model_of(op, 2), [0, 4, 2]), id=f"{op} of no steps gives 0") for op in OPS),
    ],
)
def test_where_onnxruntime_differs(case: Case) -> None:
    """It answers as docs/onnx.md says of 1.31.1, and not as the specification does; or it was mended since."""
    got = dict(zip(case.outputs, session(case.model()).run(None, case.feeds()), strict=True))
    as_said, as_specified = (worst(got, wanted) for wanted in (onnxruntimes_reading(case), truth(case)))
    assert as_said <= 32 * EPS["float32"] < as_specified or as_specified <= 32 * EPS["float32"]


# The mapping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [True, False], ids=["constant weights", "weights as inputs"])
@pytest.mark.parametrize("op", OPS)
def test_nodes_become_layers(op: str, constant: bool, stand_in: None) -> None:
    """All cases in float64: only the order of sums differs. In their own dtype: beside that one rounding of results."""
    for case in (case_of(seed) for seed in SEEDS if case_of(seed).op == op):
        wanted = truth(case)
        wide = case.astype("float64")
        assert worst(run(wide, constant), truth(wide)) <= 32 * EPS["float64"], case
        assert worst(run(case, constant), wanted) <= EPS[case.dtype], case


@pytest.mark.parametrize(
    ("op", "opset"), [("RNN", 1), ("GRU", 1), ("LSTM", 1), ("GRU", 3), *((op, v) for op in OPS for v in (7, 14, 22))]
)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_every_opset_version(op: str, opset: int, direction: str, stand_in: None) -> None:
    """Opset 1's output_sequence says whether Y may be absent; it changes no number."""
    case = replace(with_states(model_of(op, 2 if direction == "bidirectional" else 1), [4, 0, 2]), opset=opset)
    attributes = {**case.attributes, "direction": direction, "clip": 0.75}
    if opset < 7:
        attributes["output_sequence"] = 1
    if op == "GRU" and opset > 1:
        attributes["linear_before_reset"] = 1
    case = replace(case, attributes=attributes).astype("float64")
    assert worst(run(case), truth(case)) <= 32 * EPS["float64"]


def arguments_of(case: Case) -> tuple[Arguments, ...]:
    return layer_arguments(parse(case.node, case.opset), *(case.values.get(name) for name in ("W", "R", "B", "P")))


def blocks(*gates: float, width: int = 2, columns: int = 3) -> Array:
    """[1, len(gates)*width, columns] with each gate's rows full of its number."""
    return np.repeat(np.array(gates, np.float32), width)[None, :, None] * np.ones(columns, np.float32)


def test_gates_biases_and_peepholes_find_their_place() -> None:
    """ONNX: i o f c and z r h, B = [Wb, Rb], P = i o f. Here: i f g o and r z n, two biases, rows i f o."""
    i, o, f, c = 1.0, 2.0, 3.0, 4.0
    values = {"X": np.zeros((1, 1, 3), np.float32), "W": blocks(i, o, f, c), "R": 10 * blocks(i, o, f, c, columns=2)}
    values["B"] = np.concatenate([blocks(i, o, f, c)[..., 0], -blocks(i, o, f, c)[..., 0]], axis=1)
    values["P"] = blocks(i, o, f)[..., 0]
    (layer,) = arguments_of(Case("LSTM", 14, {}, values, ("Y",)))
    assert (layer.cell, layer.keywords["hidden_size"], layer.keywords["input_size"]) == ("LSTM", 2, 3)
    assert [float(row[0]) for row in layer.params["weight_ih_l0"][::2]] == [i, f, c, o]
    assert [float(row[0]) for row in layer.params["weight_hh_l0"][::2]] == [10 * i, 10 * f, 10 * c, 10 * o]
    assert list(layer.params["bias_ih_l0"][::2]) == [i, f, c, o]
    assert list(layer.params["bias_hh_l0"][::2]) == [-i, -f, -c, -o]
    assert layer.params["peephole_l0"].tolist() == [[i, i], [f, f], [o, o]]
    z, r, h = 1.0, 2.0, 3.0
    gru = Case("GRU", 14, {}, {"X": values["X"], "W": blocks(z, r, h), "R": blocks(z, r, h, columns=2)}, ("Y",))
    (layer,) = arguments_of(gru)
    assert [float(row[0]) for row in layer.params["weight_ih_l0"][::2]] == [r, z, h]
    assert layer.keywords["bias"] is False and "bias_ih_l0" not in layer.params


@pytest.mark.parametrize(
    ("op", "attributes", "keywords"),
    [
        ("RNN", {}, {}),
        ("RNN", {"activations": ["relu"]}, {"nonlinearity": "relu"}),
        ("RNN", {"activations": ["Tanh", "Tanh"]}, {}),
        ("RNN", {"activations": ["Softplus"]}, {"activations": ("Softplus",)}),
        ("RNN", {"direction": "reverse"}, {"reverse": True}),
        ("RNN", {"layout": 1}, {"batch_first": True}),
        ("RNN", {"clip": 0.5}, {"clip": 0.5}),
        ("RNN", {"clip": float("inf")}, {}),
        ("GRU", {"linear_before_reset": 1}, {}),
        ("GRU", {}, {"reset_after": False}),
        ("GRU", {"linear_before_reset": 2, "activations": ["SIGMOID", "tanh"]}, {}),
        ("LSTM", {"input_forget": 1}, {"coupled": True}),
        ("LSTM", {"input_forget": 0, "direction": "forward", "layout": 0}, {}),
        (
            "LSTM",
            {"activations": ["HardSigmoid", "Tanh", "LeakyRelu"], "activation_alpha": [0.25]},
            {"activations": (("HardSigmoid", 0.25, 0.5), "Tanh", ("LeakyRelu", float(np.float32(0.01))))},
        ),
    ],
)
def test_attributes_become_keywords(op: str, attributes: dict[str, Any], keywords: dict[str, Any]) -> None:
    """Neutral options are not named, so a plain node is a plain layer."""
    (layer,) = arguments_of(model_of(op, **attributes))
    plain = {"input_size": 3, "hidden_size": 5, "dtype": "float32", "bias": True}
    assert layer.keywords == {**plain, **keywords}


def test_one_layer_for_two_directions_unless_their_activations_differ() -> None:
    (both,) = arguments_of(model_of("GRU", 2, linear_before_reset=1))
    assert both.keywords["bidirectional"] is True and "weight_ih_l0_reverse" in both.params
    alike = model_of("GRU", 2, activations=["Elu", "Tanh"] * 2, activation_alpha=[0.5, 0.5])
    assert len(arguments_of(alike)) == 1
    one, other = arguments_of(replace(alike, attributes={**alike.attributes, "activation_alpha": [0.5, 0.6]}))
    assert one.keywords["activations"][0] == ("Elu", 0.5) and "reverse" not in one.keywords
    assert other.keywords["activations"][0] == ("Elu", float(np.float32(0.6))) and other.keywords["reverse"] is True
    assert np.array_equal(other.params["weight_ih_l0"], both.params["weight_ih_l0_reverse"])


@pytest.mark.parametrize(
    ("names", "alpha", "beta", "found"),
    [
        (["Sigmoid", "LeakyRelu", "HardSigmoid"], [1, 2], [], ["Sigmoid", ("LeakyRelu", 1), ("HardSigmoid", 2, 0.5)]),
        (["Affine", "Elu", "Affine"], [1, 2, 3], [4, 5], [("Affine", 1, 4), ("Elu", 2), ("Affine", 3, 5)]),
        (["ThresholdedRelu", "ELU"], [], [], [("ThresholdedRelu", 1.0), ("Elu", 1.0)]),
        (["HardSigmoid", "Tanh", "Tanh"], [0.5, 0, 0], [0.25, 0, 0], [("HardSigmoid", 0.5, 0.25), "Tanh", "Tanh"]),
        (["Tanh", "scaledtanh"], [2], [3], ["Tanh", ("ScaledTanh", 2, 3)]),
    ],
)  # fmt: skip
def test_alpha_and_beta_are_consumed_in_order(names: list[str], alpha: Any, beta: Any, found: list[Any]) -> None:
    assert activations.resolve(names, alpha, beta, "node") == tuple(found)


@pytest.mark.parametrize(
    ("names", "alpha", "beta", "said"),
    [
        (
            ["Tanh", "HardSigmoid"],
            [0.0, 0.3],
            [],
            "activation_alpha: expected at most 1 values, .*HardSigmoid.*, got 2",
        ),
        (["Tanh", "Relu", "Elu"], [0.5, 0.5], [], "at most 1 values, .*Elu.*, got 2"),
        (["Elu"], [0.5], [0.5, 0.5], "activation_beta: expected at most 0 values, .*no function.*, got 2"),
        (["Affine"], [0.5], [], "activation_beta: expected a value for Affine, which has no default in ONNX, got none"),
        (["Tanh", "ScaledTanh"], [], [0.5], "activation_alpha: expected a value for ScaledTanh"),
    ],
)
def test_values_that_no_function_takes_or_that_are_missing(names: list[str], alpha: Any, beta: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"node: .*{said}"):
        activations.resolve(names, alpha, beta, "node")


@pytest.mark.parametrize(
    ("op", "opset", "attributes", "kind", "said"),
    [
        ("LSTM", 14, {"output_sequence": 1}, NotImplementedError, "attribute 'output_sequence' is not one of opset 14"),
        ("GRU", 1, {"linear_before_reset": 1}, NotImplementedError, "'linear_before_reset' is not one of opset 1"),
        ("LSTM", 7, {"layout": 1}, NotImplementedError, "attribute 'layout' is not one of opset 7"),
        ("RNN", 14, {"zoneout": 0.5}, NotImplementedError, "attribute 'zoneout'"),
        ("RNN", 14, {"activations": ["Gelu"]}, NotImplementedError, "activations: .*got 'Gelu'"),
        ("RNN", 14, {"activations": ["Relu", "Relu"]}, ValueError, "activations: expected 1 for each of 1 .*, got 2"),
        ("LSTM", 14, {"direction": "up"}, ValueError, "direction: expected one of forward, .*got 'up'"),
        ("LSTM", 14, {"clip": 0.0}, ValueError, r"clip: expected a number above 0, got 0\.0"),
        ("LSTM", 14, {"clip": float("nan")}, ValueError, "clip: .*got nan"),
        ("LSTM", 14, {"clip": 1}, TypeError, "attribute 'clip': expected FLOAT, got INT"),
        ("LSTM", 14, {"input_forget": 2}, ValueError, "input_forget: expected 0 or 1, got 2"),
        ("GRU", 14, {"layout": 3}, ValueError, "layout: expected 0 or 1, got 3"),
        ("GRU", 14, {"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
        ("GRU", 14, {"hidden_size": 4}, ValueError, "R: expected shape .*hidden_size = 4, got"),
    ],
)
def test_attributes_are_refused_by_name(op: str, opset: int, attributes: Any, kind: Any, said: str) -> None:
    case = model_of(op)
    case = replace(case, opset=opset, attributes={**case.attributes, **attributes})
    with pytest.raises(kind, match=f"{op} node 'node': .*{said}"):
        arguments_of(case)


@pytest.mark.parametrize(
    ("name", "change", "kind", "said"),
    [
        ("W", lambda a: a[:, :-1], ValueError, r"W: expected shape \[D, 4\*H, I\] = \[1, 20, any\], got \[1, 19, 3\]"),
        ("W", lambda a: a.astype(np.int32), TypeError, "W: expected dtype float16 or float32 or float64, got int32"),
        ("W", lambda a: a.astype(DTYPES["bfloat16"]), TypeError, "W: expected dtype .*, got bfloat16"),
        ("R", lambda a: a[0], ValueError, "R: expected shape"),
        ("R", lambda a: a.astype(np.float64), TypeError, "R: expected dtype float32, got float64"),
        ("B", lambda a: a[:, 1:], ValueError, r"B: expected shape \[D, 8\*H\] = \[1, 40\], got \[1, 39\]"),
        ("X", lambda a: a[..., :2], ValueError, r"X: expected shape \[T, B, I\] = \[any, any, 3\], got \[4, 3, 2\]"),
        ("X", lambda a: a.astype(np.float64), TypeError, "X: expected dtype float32, got float64"),
        ("initial_h", lambda a: a[:, :1], ValueError, r"initial_h: expected shape \[D, B, H\] = \[1, 3, 5\]"),
        ("initial_c", lambda a: a.astype(np.float16), TypeError, "initial_c: expected dtype float32, got float16"),
        ("sequence_lens", lambda a: a.astype(np.int64), TypeError, "sequence_lens: expected dtype int32, got int64"),
        ("sequence_lens", lambda a: a + 3, ValueError, r"sequence_lens: expected values in \[0, T\] = \[0, 4\], got"),
        ("sequence_lens", lambda a: -a, ValueError, "sequence_lens: expected values in"),
        ("sequence_lens", lambda a: a[:2], ValueError, r"sequence_lens: expected shape \[B\] = \[3\], got \[2\]"),
    ],
)
def test_inputs_are_refused_by_name(name: str, change: Any, kind: Any, said: str, stand_in: None) -> None:
    case = with_states(model_of("LSTM"), [4, 2, 0])
    values = {**case.values, name: change(case.values[name])}
    with pytest.raises(kind, match=f"LSTM node 'node': {said}"):
        backend.run_rnn_node(parse(case.node, 14), values)


# The kernels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_kernels(seed: int) -> None:
    """32 eps, as the judge is held against onnxruntime.

    Half types: 4 eps. h is rounded to them, by half an eps, at each of up to 6 steps, whose errors fade.
    """
    case = case_of(seed)
    bound = 4 if case.dtype in ("float16", "bfloat16") else 32
    assert worst(run(case), truth(case)) <= bound * EPS[case.dtype]


def test_defaults_are_those_of_the_operators() -> None:
    """The table stands twice, here and there, on purpose: both say what onnx says."""
    assert activations.PARAMETERS == PARAMETERS
    with_operator = [name for name in PARAMETERS if PARAMETERS[name] and onnx.defs.has(name)]
    assert sorted(with_operator) == ["Elu", "HardSigmoid", "LeakyRelu", "ThresholdedRelu"]
    for name in with_operator:
        defaults = {key: value.default_value for key, value in onnx.defs.get_schema(name).attributes.items()}
        values = [helper.get_attribute_value(defaults[key]) for key in ("alpha", "beta") if key in defaults]
        assert tuple(values) == PARAMETERS[name]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", OPS)
def test_every_choice_of_optional_inputs(op: str, direction: str) -> None:
    """Absent in the middle ("") and at the end, in a model as in onnxruntime's eyes."""
    full = with_states(model_of(op, 2 if direction == "bidirectional" else 1), [4, 0, 2])
    full = replace(full, attributes={**full.attributes, "direction": direction})
    values = dict(full.values)
    if op == "LSTM":
        values["P"] = np.random.default_rng(5).normal(0, 0.5, (full.directions, 15)).astype(np.float32)
    optional = [name for name in ("B", "sequence_lens", "initial_h", "initial_c", "P") if name in values]
    for count in range(len(optional) + 1):
        for absent in itertools.combinations(optional, count):
            case = replace(full, values={name: value for name, value in values.items() if name not in absent})
            assert worst(run(case), truth(case)) <= 32 * EPS["float32"], absent
