"""rnnkern.onnx as an ONNX backend: ONNX's own node tests, the glue around recurrent nodes, the interface, errors."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx.backend.test.runner import Runner

import rnnkern.onnx as ro
from onnx_graphs import PROVIDER, node_tests
from onnx_judges import EPS, error
from onnx_models import DTYPES, Array, Case, model_of, truth, with_states
from rnnkern.onnx import backend, glue

OPS = ("RNN", "GRU", "LSTM")


@pytest.mark.parametrize("test", node_tests(*OPS))
def test_onnx_own_node_tests(test: Any) -> None:
    run_node_test(test)


def run_node_test(test: Any) -> None:
    """As onnx.backend.test's runner does it, with its tolerances."""
    prepared = ro.prepare(test.model)
    for inputs, outputs in test.data_sets:
        as_arrays = [[_array(value) for value in values] for values in (inputs, outputs)]
        Runner.assert_similar_outputs(as_arrays[1], prepared.run(as_arrays[0]), rtol=test.rtol, atol=test.atol)


def _array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


GLUE = [name for name in glue.OPERATORS if name not in ("Cast", "Mul", "Identity")]


@pytest.mark.parametrize("test", node_tests(*GLUE))
def test_onnx_own_node_tests_of_the_glue(test: Any) -> None:
    """All of them, in the newest opset."""
    run_node_test(test)


def run_glue(op: str, inputs: list[Any], opset: int, **attributes: Any) -> Array:
    node = helper.make_node(op, [f"i{i}" if v is not None else "" for i, v in enumerate(inputs)], ["o"], **attributes)
    return glue.compile_node(node, opset)([None if v is None else np.asarray(v) for v in inputs])


def test_older_forms_of_the_glue() -> None:
    """Attributes that became inputs: Reshape in 5, Slice in 10, Squeeze and Unsqueeze in 13."""
    x = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    assert np.array_equal(run_glue("Squeeze", [x], 11, axes=[1]), x[:, 0])
    assert np.array_equal(run_glue("Squeeze", [x], 11), x[:, 0])
    assert np.array_equal(run_glue("Unsqueeze", [x], 11, axes=[0, -1]), x[None, ..., None])
    assert np.array_equal(run_glue("Slice", [x], 9, starts=[1, -2], ends=[2, 2**31 - 1], axes=[0, 3]), x[1:, :, :, -2:])
    assert np.array_equal(run_glue("Slice", [x, [-1], [-(2**31)], [2], [-1]], 13), x[:, :, ::-1])
    assert np.array_equal(run_glue("Slice", [x, [1], [2], None, None], 13), x[1:])
    assert np.array_equal(run_glue("Reshape", [x], 1, shape=[0, -1]), x.reshape(2, -1))
    assert np.array_equal(run_glue("Mul", [np.array([2]), np.array([3])], 13), [6])
    assert run_glue("Cast", [x], 22, to=onnx.TensorProto.BFLOAT16).dtype == DTYPES["bfloat16"]
    assert run_glue("Cast", [np.array([2.7])], 9, to=onnx.TensorProto.INT32).tolist() == [2]
    assert run_glue("Identity", [x], 14) is x


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "said"),
    [
        ("Mul", [np.ones(1), np.ones(1)], {}, "Mul: expected integers of one dtype .*float64"),
        ("Cast", [np.ones(1)], {"to": onnx.TensorProto.STRING}, "Cast: to: expected a number or bool type, got STRING"),
        ("Concat", [np.ones(1)], {"axis": 0, "new": 1}, "Concat node 'n': attribute 'new'"),
        ("Constant", [], {"value_string": "a"}, "Constant node 'n': attribute 'value_string'"),
        ("Gemm", [np.ones(1)], {}, "Gemm node 'n': expected RNN, GRU, LSTM or one of Cast, .*got operator Gemm"),
    ],
)
def test_what_is_no_glue_is_refused_by_name(op: str, inputs: list[Any], attributes: Any, said: str) -> None:
    with pytest.raises(NotImplementedError, match=said):
        run_glue(op, inputs, 13, name="n", **attributes)


@pytest.mark.parametrize("sizes", [[2**40], [2**20, 2**20], [-1]])
def test_gigantic_shapes_are_refused_before_they_are_allocated(sizes: list[int]) -> None:
    for op, inputs in (("ConstantOfShape", [sizes]), ("Expand", [np.ones(1), sizes])):
        with pytest.raises(ValueError, match=rf"{op} node 'n': expected a shape of at most 4294967296 bytes, got \["):
            run_glue(op, inputs, 13, name="n")


def test_glue_that_does_not_fit_names_its_node() -> None:
    with pytest.raises(ValueError, match="Reshape node 'n': cannot reshape"):
        run_glue("Reshape", [np.ones(6), np.array([4])], 13, name="n")


# The backend's interface --------------------------------------------------------------------------------------------


def test_devices_and_options() -> None:
    model = model_of("LSTM").model()
    assert ro.supports_device("CPU") and not ro.supports_device("CUDA") and not ro.supports_device("CUDA:1")
    with pytest.raises(NotImplementedError, match="device: expected 'CPU', got 'CUDA'"):
        ro.prepare(model, "CUDA")
    with pytest.raises(TypeError, match="options: expected none, got threads"):
        ro.prepare(model, threads=3)
    assert issubclass(ro.Backend, onnx.backend.base.Backend)
    assert isinstance(ro.prepare(model), onnx.backend.base.BackendRep)


def with_softmax(case: Case) -> onnx.ModelProto:
    """A model with an operator that moves no data."""
    model = case.model()
    model.graph.node.append(helper.make_node("Softmax", ["Y"], ["p"], name="head"))
    model.graph.output.append(helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, [None] * 4))
    return model


def test_onnxruntime_runs_the_other_operators() -> None:
    case = model_of("LSTM")
    prepared = ro.prepare(with_softmax(case))
    assert isinstance(prepared, backend.Hosted) and PROVIDER in prepared.session.get_providers()
    got = prepared.run([case.values["X"]])
    y = np.exp(got["Y"].astype(np.float64))  # type: ignore[call-overload]
    assert error(got["p"], y / y.sum(axis=-1, keepdims=True)) < 8 * EPS["float32"]  # type: ignore[call-overload]
    assert error(got["Y"], truth(case)["Y"]) < 32 * EPS["float32"]  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="input 'X': expected dtype float32, got float64"):
        prepared.run([case.values["X"].astype(np.float64)])
    with pytest.raises(TypeError, match="run: expected no options, got threads"):
        prepared.run([case.values["X"]], threads=2)


def test_a_foreign_operator_without_onnxruntime_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    case = model_of("LSTM")
    model = with_softmax(case)
    assert ro.is_compatible(case.model()) and not ro.is_compatible(model)
    said = r"Softmax node 'head': .*got operator Softmax\. onnxruntime would run .* pip install onnxruntime"
    with pytest.raises(NotImplementedError, match=said):
        ro.prepare(model)


def test_an_operator_that_nobody_has_is_refused_by_name() -> None:
    model = with_softmax(model_of("LSTM"))
    model.graph.node[1].domain, model.graph.node[1].op_type = "com.microsoft", "NoSuchOperator"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert not ro.is_compatible(model)
    said = r"operator com\.microsoft::NoSuchOperator\. onnxruntime refuses the model, too: .*NoSuchOperator"
    with pytest.raises(NotImplementedError, match=said):
        ro.prepare(model)


def test_a_models_inputs() -> None:
    case = with_states(model_of("GRU", linear_before_reset=1), [4, 0, 2])
    prepared = ro.prepare(case.model())
    assert prepared.inputs == ("X", "sequence_lens", "initial_h") and prepared.outputs == ("Y", "Y_h")
    feeds = case.feeds()
    got = prepared.run(feeds)
    assert isinstance(got, tuple) and np.array_equal(got["Y"], got[0])  # type: ignore[call-overload]
    again = prepared.run([feeds[name] for name in prepared.inputs])
    assert all(np.array_equal(a, b) for a, b in zip(got, again, strict=True))
    for inputs, kind, said in (
        ([feeds["X"]], ValueError, r"inputs: expected 3 arrays \(X, sequence_lens, initial_h\), got 1"),
        (
            {**feeds, "W": case.values["W"]},
            ValueError,
            r"inputs: expected .* \(other initializers are fixed\), got .*W",
        ),
        ({**feeds, "X": feeds["X"].astype(np.float64)}, TypeError, "input 'X': expected dtype float32, got float64"),
        ({**feeds, "X": feeds["X"][:2]}, ValueError, r"input 'X': expected shape \[4, 3, 3\], got \[2, 3, 3\]"),
    ):
        with pytest.raises(kind, match=said):
            prepared.run(inputs)


def test_run_node() -> None:
    case = replace(model_of("LSTM"), outputs=("", "Y_h"))
    given = [case.values[name] for name in ("X", "W", "R", "B")]
    (y_h,) = ro.run_node(case.node, given)
    assert error(y_h, truth(case)["Y_h"]) <= 32 * EPS["float32"]
    assert np.array_equal(ro.run_node(case.node, case.values, opset_version=14)[0], y_h)
    (turned,) = ro.run_node(helper.make_node("Transpose", ["x"], ["y"]), [np.ones((2, 3))])
    assert turned.shape == (3, 2)
    with pytest.raises(ValueError, match="inputs: expected X, W, R, B, got 3"):
        ro.run_node(case.node, given[:3])
    with pytest.raises(onnx.checker.ValidationError):
        ro.run_node(helper.make_node("LSTM", ["X"], ["Y"]), given[:1])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0)])
def test_no_steps_and_no_rows(op: str, T: int, B: int) -> None:
    """onnxruntime 1.31.1 aborts the process for a GRU of no steps."""
    case = model_of(op, 2, **({"linear_before_reset": 1} if op == "GRU" else {}))
    case = replace(case, values={**case.values, "X": case.values["X"][:T, :B]})
    got = ro.run_model(case.model(), case.feeds())
    assert got["Y"].shape == (T, 2, B, 5) and not any(value.any() for value in got)
    assert got["Y_h"].shape == (2, B, 5)


# Files that are common but not canonical: what onnxruntime accepts runs, what it refuses is refused -----------------


def unsaid(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """The model with less said of its inputs and outputs, or sizes of -1."""
    for value in model.graph.input:
        if what == "-1":
            for dim in value.type.tensor_type.shape.dim:
                dim.dim_value = -1
        if what == "inputs without a shape":
            value.type.tensor_type.ClearField("shape")
    for value in model.graph.output:
        if what == "outputs without a shape":
            value.type.tensor_type.ClearField("shape")
        if what == "outputs without a type":
            value.ClearField("type")
    return model


@pytest.mark.parametrize("what", ["-1", "inputs without a shape", "outputs without a shape", "outputs without a type"])
def test_shapes_that_are_not_said(what: str) -> None:
    case = with_states(model_of("LSTM"), [4, 0, 2])
    wanted = ro.run_model(case.model(), case.feeds())
    model = unsaid(case.model(), what)
    assert all(np.array_equal(a, b) for a, b in zip(ro.run_model(model, case.feeds()), wanted, strict=True))
    assert model == unsaid(case.model(), what)  # the check left it alone
    judge = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert len(judge.run(None, case.feeds())) == len(wanted)


def test_a_layer_of_a_model_with_sizes_of_minus_one() -> None:
    case = model_of("GRU", linear_before_reset=1)
    layer = ro.from_onnx(unsaid(case.model(), "-1"))
    x = case.values["X"]
    assert np.array_equal(layer(x)[0], ro.from_onnx(case.model())(x)[0])


def test_a_size_of_0_is_one_as_for_onnxruntime() -> None:
    case = model_of("GRU", linear_before_reset=1)
    model = case.model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0
    judge = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for run in (judge.run, lambda _, feeds: ro.run_model(model, feeds)):
        with pytest.raises(Exception, match=r"(?i)expected"):
            run(None, case.feeds())


@pytest.mark.parametrize("version", [3, 4, 8])
def test_inputs_with_a_default(version: int) -> None:
    """From IR version 4 on an initializer that is also an input is its default; before, it was fixed."""
    case = with_states(model_of("LSTM"), [4, 3, 2])
    feeds = case.feeds()
    model = case.model()
    model.ir_version = version
    model.opset_import[0].version = 7 if version == 3 else 14
    names = {value.name for value in model.graph.input}
    default = np.full_like(feeds["initial_h"], 0.25)
    model.graph.initializer.append(onnx.numpy_helper.from_array(default, "initial_h"))
    for tensor in model.graph.initializer:
        if tensor.name not in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    judge = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    prepared = ro.prepare(model)
    assert "initial_h" not in prepared.inputs
    required = {name: feeds[name] for name in prepared.inputs}
    calls = [required, {**required, "initial_h": feeds["initial_h"]}, {**required, "W": 2 * case.values["W"]}, required]
    for given in calls:
        if version < 4 and given is not required:
            with pytest.raises(ValueError, match="initializers are fixed"):
                prepared.run(given)
            continue
        for got, wanted in zip(prepared.run(given), judge.run(None, given), strict=True):
            assert error(got, wanted) <= 32 * EPS["float32"]
    if version >= 4:
        with pytest.raises(ValueError, match=r"input 'initial_h': expected shape"):
            prepared.run({**required, "initial_h": feeds["initial_h"][:, :1]})


def test_numbers_that_name_nothing() -> None:
    """A tensor's type, and an opset without the operator: found by changing bytes of models."""
    case = model_of("LSTM")
    model = case.model()
    model.graph.input[0].type.tensor_type.elem_type = 65
    with pytest.raises((NotImplementedError, onnx.checker.ValidationError), match=r"65|elem_type|type"):
        ro.run_model(model, case.feeds())
    with pytest.raises((NotImplementedError, onnx.checker.ValidationError), match=r"65|elem_type|type"):
        ro.from_onnx(model)
    with pytest.raises(NotImplementedError, match=r"LSTM node.*: there is no such operator in opset 0"):
        ro.from_onnx(case.node, case.values, opset=0)
