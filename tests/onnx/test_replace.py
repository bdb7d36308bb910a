"""rnnkern.onnx.replace: recurrent nodes as custom operators, for an onnxruntime without plugin execution providers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnx_judges
import rnnkern.onnx as ro
from onnx_graphs import in_float32, in_function, in_if, in_loop, in_scan, options, run
from onnx_judges import EPS, worst
from onnx_models import draw, model_of, truth

OPS = ("RNN", "GRU", "LSTM")


def replaced_session(model: onnx.ModelProto) -> Any:
    own = options()
    own.register_custom_ops_library(ro.LIBRARY)
    return onnxruntime.InferenceSession(ro.replace(model).SerializeToString(), own)


@pytest.mark.parametrize("constant", [True, False], ids=["constant weights", "weights as inputs"])
@pytest.mark.parametrize("op", OPS)
def test_every_attribute_dtype_and_layout(op: str, constant: bool) -> None:
    """ThresholdedRelu without alpha as ONNX has it, too: ``replace`` writes defaults out."""
    for case in (draw(seed) for seed in range(300)):
        if case.op == op:
            got = run(replaced_session(in_float32(case.model(constant))), case, constant)
            assert worst(got, truth(case)) <= 64 * EPS[case.dtype], case


@pytest.mark.parametrize("where", ["if", "if, its own weights", "loop", "scan"])
def test_subgraphs(where: str) -> None:
    case = model_of("GRU", activations=["HardSigmoid", "Relu"])
    builders = {"loop": in_loop, "scan": in_scan}
    model, feeds = builders[where](case) if where in builders else in_if(case, inside="own" in where)
    assert "rnnkern" in str(ro.replace(model).graph) and 'domain: "rnnkern"' not in str(model)
    wanted = onnx_judges.session(model).run(None, feeds)
    for a, b in zip(replaced_session(model).run(None, feeds), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_function_of_the_model() -> None:
    case = model_of("LSTM")
    model = in_function(case)
    assert ro.replace(model).functions[0].node[0].domain == "rnnkern"
    assert worst(run(replaced_session(model), case), truth(case)) <= 64 * EPS["float32"]


def test_a_model_without_recurrent_nodes_stays_as_it_is() -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2])], [value("y", 1, [2])])
    model = onnx.helper.make_model(graph)
    assert ro.replace(model) == model


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"model: expected an onnx\.ModelProto, got bytes"):
        ro.replace(b"")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="GRU node 'node': clip: expected a number above 0, got -1"):
        ro.replace(model_of("GRU", clip=-1.0).model())


def test_session_replaces_where_there_are_no_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    case = model_of("GRU", activations=["Sigmoid", "Affine"], activation_alpha=[0.5], activation_beta=[0.1])
    names = ("SessionOptions", "InferenceSession")
    old = SimpleNamespace(__version__="1.18.1", **{name: getattr(onnxruntime, name) for name in names})
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", old)
    session = ro.session(case.model().SerializeToString())
    assert worst(run(session, case), truth(case)) <= 64 * EPS["float32"]
