"""rnnkern.onnx.layers and put_back: the recurrent nodes of any model as trainable layers, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_judges
import rnnkern as rk
import rnnkern.onnx as ro
from onnx_graphs import in_function, in_if, in_loop, in_scan
from onnx_judges import EPS, worst
from onnx_models import Array, Case, draw, model_of, truth

OPS = ("RNN", "GRU", "LSTM")


@pytest.mark.parametrize("op", OPS)
def test_there_and_back_with_every_attribute(op: str) -> None:
    """Weights that went through layers are the same arrays, so the model computes the same."""
    for case in (draw(seed) for seed in range(120)):
        if case.op == op:
            model = case.model()
            found = ro.layers(model)
            assert list(found) == ["node"]
            back = ro.put_back(model, found)
            held = {t.name: numpy_helper.to_array(t) for t in back.graph.initializer}
            names = dict(zip(("X", "W", "R", "B", "", "", "", "P"), back.graph.node[0].input, strict=False))
            for name in ("W", "R", "B", "P"):
                if name in case.values:
                    assert np.array_equal(held[names[name]], case.values[name]), (case, name)
            assert len(held) == len(model.graph.initializer)
            got = ro.run_model(back, case.feeds())
            outputs = dict(zip([name for name in case.outputs if name], got, strict=True))
            assert worst(outputs, truth(case)) <= 64 * EPS[case.dtype]


def test_a_layer_computes_its_node() -> None:
    case = model_of("LSTM", 2)
    y, (h_n, c_n) = ro.layers(case.model())["node"](case.values["X"])
    got = {"Y": y.reshape(4, 3, 2, 5).transpose(0, 2, 1, 3), "Y_h": h_n, "Y_c": c_n}
    assert worst(got, truth(case)) <= 32 * EPS["float32"]


def test_directions_with_different_activations_are_two_layers() -> None:
    case = model_of("RNN", 2, activations=["Tanh", "Relu"])
    model = case.model()
    forward, reverse = ro.layers(model)["node"]
    assert not forward.reverse and reverse.reverse
    reverse.load_state_dict({name: 2 * value for name, value in reverse.state_dict().items()})
    back = ro.put_back(model, {"node": (forward, reverse)})
    after = next(numpy_helper.to_array(t) for t in back.graph.initializer if t.name == back.graph.node[0].input[2])
    assert np.array_equal(after, case.values["R"] * np.array([1, 2], np.float32)[:, None, None])
    with pytest.raises(ValueError, match=r"trained\['node'\]: expected 2 layers, got 1"):
        ro.put_back(model, {"node": forward})


@pytest.mark.parametrize("where", ["if", "if, its own weights", "loop", "scan"])
def test_subgraphs(where: str) -> None:
    """Trained weights reach a node of a subgraph, whose old weights may lie in a graph outside."""
    case = model_of("GRU", linear_before_reset=1)
    builders = {"loop": in_loop, "scan": in_scan}
    model, feeds = builders[where](case) if where in builders else in_if(case, inside="own" in where)
    found = ro.layers(model)
    ((key, layer),) = found.items()
    assert key.endswith("/inner") and ("then_branch" in key or "body" in key)
    layer.load_state_dict({name: value / 2 for name, value in layer.state_dict().items()})
    halved = {name: case.values[name] / 2 for name in ("W", "R", "B")}
    expected = Case(case.op, case.opset, case.attributes, {**case.values, **halved}, case.outputs)
    wanted, _ = builders[where](expected) if where in builders else in_if(expected, inside="own" in where)
    back = ro.put_back(model, found)
    assert back.ByteSize() < 1.2 * model.ByteSize(), "the old weights are gone"
    onnx.checker.check_model(back)
    for a, b in zip(*(onnx_judges.session(each).run(None, feeds) for each in (back, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)


# Chains of constants -------------------------------------------------------------------------------------------------


def test_a_function_of_the_model() -> None:
    case = model_of("LSTM")
    model = in_function(case)
    ((key, layer),) = ro.layers(model).items()
    layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})
    back = ro.put_back(model, {key: layer})
    assert model.functions and not back.functions
    held = {t.name: numpy_helper.to_array(t) for t in back.graph.initializer}
    assert any(np.array_equal(value, 2 * case.values["R"]) for value in held.values())
    (node,) = (node for node in back.graph.node if node.op_type == "LSTM")
    assert node.domain == ""
    got = dict(zip(("Y", "Y_h", "Y_c"), onnx_judges.session(back).run(None, case.feeds()), strict=True))
    y, (h_n, _) = layer(case.values["X"])
    assert (
        np.abs(got["Y"][:, 0] - y).max() < 64 * EPS["float32"] and np.abs(got["Y_h"] - h_n).max() < 64 * EPS["float32"]
    )


def test_a_function_of_another_opset_is_left_out() -> None:
    model = in_function(model_of("LSTM"))
    model.functions[0].opset_import[0].version = 15
    with pytest.warns(UserWarning, match="left out: the nodes of function 'Layer', whose opset is not the model's"):
        assert ro.layers(model) == {}


def chained(case: Case, nodes: list[Any], held: dict[str, Array], made: str = "R") -> onnx.ModelProto:
    """A case whose weight `made` is what the nodes compute from the held arrays."""
    model = case.model()
    graph = model.graph
    graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == made))
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    every = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(every)
    return model


def chains() -> dict[str, tuple[list[Any], dict[str, Array]]]:
    """Each makes R [1, 15, 5] of a GRU."""
    R = model_of("GRU").values["R"]
    node, ints = helper.make_node, lambda *values: np.array(values, np.int64)
    quantised = np.clip(np.round(R / 0.02), -128, 127).astype(np.int8)
    rows = np.linspace(0.01, 0.03, 15, dtype=np.float32)
    return {
        "Unsqueeze": ([node("Unsqueeze", ["r", "a"], ["R"])], {"r": R[0], "a": ints(0)}),
        "Squeeze": ([node("Squeeze", ["r", "a"], ["R"])], {"r": R[None], "a": ints(1)}),
        "Concat": ([node("Concat", ["r", "s"], ["R"], axis=1)], {"r": R[:, :5], "s": R[:, 5:]}),
        "Slice": (
            [node("Slice", ["r", "b", "e", "a"], ["R"])],
            {"r": np.concatenate([R, R]), "b": ints(0), "e": ints(1), "a": ints(0)},
        ),
        "Transpose": ([node("Transpose", ["r"], ["R"], perm=[0, 2, 1])], {"r": R.swapaxes(1, 2).copy()}),
        "Cast": ([node("Cast", ["r"], ["R"], to=TensorProto.FLOAT)], {"r": R.astype(np.float64)}),
        "three nodes": (
            [
                node("Identity", ["r"], ["s"]),
                node("Transpose", ["s"], ["t"], perm=[1, 0]),
                node("Unsqueeze", ["t", "a"], ["R"]),
            ],
            {"r": R[0].T.copy(), "a": ints(0)},
        ),
        "DequantizeLinear": (
            [node("DequantizeLinear", ["r", "s", "z"], ["R"])],
            {"r": quantised, "s": np.array(0.02, np.float32), "z": np.array(3, np.int8)},
        ),
        "DequantizeLinear, a scale for each row": (
            [node("DequantizeLinear", ["r", "s"], ["R"], axis=1)], {"r": quantised, "s": rows},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("chain", chains())
def test_weights_that_nodes_compute_from_constants(chain: str) -> None:
    case = model_of("GRU", linear_before_reset=1)
    model = chained(case, *chains()[chain])
    layer = ro.layers(model)["node"]
    got, wanted = layer(case.values["X"])[0], onnx_judges.session(model).run(["Y"], case.feeds())[0]
    np.testing.assert_allclose(got, wanted[:, 0], rtol=0, atol=1e-6)
    back = ro.put_back(model, {"node": layer})
    assert [node.op_type for node in back.graph.node] == ["GRU"], "the chain is gone"
    np.testing.assert_allclose(onnx_judges.session(back).run(["Y"], case.feeds())[0], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "held", "said"),
    [
        ([helper.make_node("Identity", ["X"], ["R"])], {}, "R: expected a constant, got the input 'X' of a graph"),
        ([helper.make_node("Sin", ["r"], ["R"])], {"r": np.zeros(1)}, "R: Sin node: .*got operator Sin"),
        (
            [helper.make_node("DequantizeLinear", ["r", "s"], ["R"], block_size=2)],
            {"r": np.zeros((1, 15, 5), np.int8), "s": np.zeros((1, 15, 3), np.float32)},
            "R: DequantizeLinear node: block_size and output_dtype are not there",
        ),
        (
            [helper.make_node("Identity", ["b"], ["R"]), helper.make_node("Identity", ["R"], ["b"])],
            {},
            "R: expected a constant, got 'R', a cycle",
        ),
    ],
)
def test_a_node_without_constant_weights_is_left_out(nodes: list[Any], held: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=f"layers: left out: GRU node 'node': {said}"):
        assert ro.layers(chained(model_of("GRU"), nodes, held)) == {}


# Keys and errors -----------------------------------------------------------------------------------------------------


def stack() -> onnx.ModelProto:
    """Three nodes, of which two have the same name and one has none."""
    model = ro.to_onnx(rk.GRU(4, 4, num_layers=3, seed=0))
    nodes = [node for node in model.graph.node if node.op_type == "GRU"]
    nodes[0].name = nodes[1].name = "gru"
    nodes[2].name = ""
    return model


def test_keys() -> None:
    found = ro.layers(stack())
    assert list(found) == ["gru", "gru#2", "Y_2"]
    assert all(isinstance(layer, rk.GRU) for layer in found.values())


def test_some_of_the_layers_and_a_step_of_training() -> None:
    model = stack()
    layer = ro.layers(model)["gru#2"]
    x = np.random.default_rng(0).standard_normal((5, 2, 4)).astype(np.float32)
    y, _, tape = layer.forward(x)
    grads = layer.backward(tape, np.ones_like(y))
    layer.load_state_dict({name: value - 0.1 * grads.params[name] for name, value in layer.state_dict().items()})
    again = ro.layers(ro.put_back(model, {"gru#2": layer}))
    for key, old in ro.layers(model).items():
        for name, value in again[key].state_dict().items():
            assert np.array_equal(value, old.state_dict()[name]) == (key != "gru#2"), (key, name)


@pytest.mark.parametrize(
    ("trained", "kind", "said"),
    [
        ({"gru#3": rk.GRU(4, 4, seed=0)}, KeyError, r"expected keys of layers\(model\), gru, gru#2, Y_2, got 'gru#3'"),
        ({"gru": rk.LSTM(4, 4, seed=0)}, TypeError, r"trained\['gru'\]: expected rnnkern\.GRU, got LSTM"),
        ({"gru": 3}, TypeError, r"trained\['gru'\]: expected rnnkern\.GRU, got int"),
        ({"gru": rk.GRU(4, 5, seed=0)}, ValueError, r"weight_ih_l0: expected shape \[12, 4\], got \[15, 4\]"),
        ({"gru": rk.GRU(4, 4, bias=False, seed=0)}, ValueError, r"bias_ih_l0: expected shape \[12\], got none"),
        ({"gru": rk.GRU(4, 4, dtype="float64", seed=0)}, TypeError, r"expected dtype float32, got float64"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(trained: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        ro.put_back(stack(), trained)
    with pytest.raises(TypeError, match=r"model: expected an onnx\.ModelProto, got str"):
        ro.layers("model.onnx")  # type: ignore[arg-type]
