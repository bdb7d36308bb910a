"""rnnkern.onnx: layers to ONNX and back, and the models that torch's exporters write."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import rnnkern as rk
import rnnkern.onnx as ro
from onnx_judges import EPS, StandIn, error, int8_saturates, session
from onnx_models import DTYPES, Array, Case, model_of, truth
from rnnkern.onnx import attributes, backend
from rnnkern.onnx.nodes import Arguments
from rnnkern.options import TABLE

OPS = ("RNN", "GRU", "LSTM")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """rnnkern's layers replaced by StandIn, for the mapping alone."""
    monkeypatch.setattr(backend, "make_layer", StandIn)


def layer_of(op: str, *args: Any, **keywords: Any) -> Any:
    return getattr(rk, op)(3, 5, *args, seed=1, **keywords)


def call(layer: Any, x: Array, states: list[Array], lengths: Any) -> list[Array]:
    state = None if not states else tuple(states) if len(states) == 2 else states[0]
    y, final = layer(x, state, lengths=lengths)
    return [y, *(final if isinstance(final, tuple) else (final,))]


@pytest.mark.parametrize(
    "keywords", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"peephole": True}]
)
def test_weights_in_int8(keywords: dict[str, Any]) -> None:
    """onnxruntime runs the model; the way back gives weights within half of a step, and from then on equal integers."""
    layer = rk.LSTM(8, 16, seed=0, **keywords)
    params = layer.state_dict()
    params["weight_hh_l0"][3] = 0  # a row without a scale of its own
    layer.load_state_dict(params)
    model = ro.to_onnx(layer, state=True, lengths=True, weights="int8")
    L = layer.num_layers * (2 if layer.bidirectional else 1)
    assert [node.op_type for node in model.graph.node].count("DynamicQuantizeLSTM") == layer.num_layers
    back = ro.from_onnx(model)
    assert repr(back) == repr(layer)
    for name, value in layer.params.items():
        step = np.abs(value).max(axis=1, keepdims=True) / 127 if "weight" in name else 0
        assert np.all(np.abs(back.params[name] - value) <= step * (0.5 + 127 * EPS["float32"])), name
    again = ro.to_onnx(back, state=True, lengths=True, weights="int8")
    integers = ({i.name: numpy_helper.to_array(i) for i in m.graph.initializer} for m in (model, again))
    assert all(
        np.array_equal(a, b) for a, b in zip(*(held.values() for held in integers), strict=True) if a.dtype.kind == "i"
    )
    x = np.random.default_rng(0).normal(size=(5, 5, 8)).astype(np.float32)
    feeds = {"x": x, "lengths": np.full(5, 5, np.int32)} | {
        f"{name}_0": np.zeros((L, 5, 16), np.float32) for name in "hc"
    }
    y = session(model).run(None, feeds)[0]
    wanted = layer(x)[0]
    assert y.shape == wanted.shape
    if not int8_saturates():
        assert 0 < np.abs(y - wanted).max() < 0.05  # its x has one scale for all rows


def test_what_int8_refuses() -> None:
    with pytest.raises(ValueError, match="weights: expected 'int8' or None, got 'int4'"):
        ro.to_onnx(rk.LSTM(2, 3), weights="int4")
    with pytest.raises(NotImplementedError, match="DynamicQuantizeLSTM in float32 alone, got GRU in float32"):
        ro.to_onnx(rk.GRU(2, 3), weights="int8")
    with pytest.raises(NotImplementedError, match="in float32 alone, got LSTM in float64"):
        ro.to_onnx(rk.LSTM(2, 3, dtype="float64"), weights="int8")
    layer = rk.LSTM(2, 3)
    params = layer.state_dict()
    params["weight_ih_l0"][0, 0] = np.inf
    layer.load_state_dict(params)
    with pytest.raises(ValueError, match="layer 0: expected finite weights for int8, got NaN or infinity in W"):
        ro.to_onnx(layer, weights="int8")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("shape", ["one", "bias=False", "deep", "bidirectional", "deep bidirectional batch_first"])
def test_there_and_back(op: str, dtype: str, shape: str) -> None:
    """The model gives the layer's bits, and its numbers in onnxruntime; the way back gives its parameters."""
    keywords: dict[str, Any] = {
        "dtype": dtype,
        "bias": shape != "bias=False",
        "bidirectional": "bidirectional" in shape,
    }
    keywords |= {"batch_first": "batch_first" in shape, "num_layers": 3 if "deep" in shape else 1}
    layer = layer_of(op, **keywords)
    rng, L = np.random.default_rng(0), keywords["num_layers"] * (2 if keywords["bidirectional"] else 1)
    for T, B in ((4, 2), (1, 3)):  # one model for all
        x = rng.normal(size=(B, T, 3) if keywords["batch_first"] else (T, B, 3)).astype(DTYPES[dtype])
        states = [rng.normal(size=(L, B, 5)).astype(DTYPES[dtype]) for _ in range(2 if op == "LSTM" else 1)]
        lengths = np.arange(B, dtype=np.int32) % T + 1
        for with_state, with_lengths in ((False, False), (True, True)):
            model = ro.to_onnx(layer, state=with_state, lengths=with_lengths)
            feeds = {"x": x} | ({"lengths": lengths} if with_lengths else {})
            feeds |= {f"{name}_0": state for name, state in zip("hc", states, strict=False)} if with_state else {}
            wanted = call(layer, x, states if with_state else [], lengths if with_lengths else None)
            wanted = [value.astype(DTYPES[dtype]) for value in wanted]
            got = ro.run_model(model, feeds)
            assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
            if dtype == "float32":
                for a, b in zip(session(model).run(None, feeds), wanted, strict=True):
                    assert error(a, b.astype(np.float64)) <= 32 * EPS["float32"]
            back = ro.from_onnx(model)
            assert repr(back) == repr(layer)
            assert back.params.keys() == layer.params.keys()
            assert all(np.array_equal(back.params[name], value) for name, value in layer.params.items())


def test_relu_survives() -> None:
    layer = rk.RNN(3, 5, nonlinearity="relu", bidirectional=True, seed=1)
    back = ro.from_onnx(ro.to_onnx(layer))
    assert back.nonlinearity == "relu" and repr(back) == repr(layer)


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "reverse": ("RNN", {"reverse": True}),
    "rnn activation": ("RNN", {"activations": (("LeakyRelu", 0.25),), "bidirectional": True}),
    "clip": ("RNN", {"clip": 0.5}),
    "gru": ("GRU", {"reset_after": False, "clip": 0.5, "activations": (("HardSigmoid", 0.25, 0.5), "Softsign")}),
    "lstm": (
        "LSTM",
        {
            "peephole": True,
            "coupled": True,
            "clip": 0.75,
            "num_layers": 2,
            "bidirectional": True,
            "activations": ("Sigmoid", ("ScaledTanh", 0.5, 0.75), ("Elu", 0.5)),
        },
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_there_and_back(name: str) -> None:
    """With the options' own layers: model and way back are the layer's, to the bit."""
    op, keywords = OPTIONS[name]
    layer = layer_of(op, **keywords)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    wanted = call(layer, x, [], None)
    model = ro.to_onnx(layer)
    assert all(np.array_equal(a, b) for a, b in zip(ro.run_model(model, [x]), wanted, strict=True))
    back = ro.from_onnx(model)
    assert all(np.array_equal(back.params[key], value) for key, value in layer.params.items())
    assert all(np.array_equal(a, b) for a, b in zip(call(back, x, [], None), wanted, strict=True))


@pytest.mark.parametrize("name", OPTIONS)
def test_options_become_attributes(name: str, stand_in: None) -> None:
    """Model and way back mean what StandIn computes for them."""
    op, keywords = OPTIONS[name]
    layer = layer_of(op, **keywords)
    params = dict(layer.state_dict())
    every = {"input_size": 3, "hidden_size": 5, "dtype": "float32", "bias": True, **keywords}
    wanted = StandIn(Arguments(op, every, params))
    model = ro.to_onnx(layer)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    expected = call(wanted, x, [], None)
    # Attributes are floats of 32 bits, exact for these; results are rounded once.
    for got in (ro.run_model(model, [x]), call(ro.from_onnx(model), x, [], None)):
        assert max(error(a, b.astype(np.float64)) for a, b in zip(got, expected, strict=True)) <= EPS["float32"]
    read = ro.from_onnx(model)
    assert {key: read.k[key] for key in every} == every  # type: ignore[attr-defined]
    assert all(np.array_equal(read.params[key], value) for key, value in params.items())


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("proj_size", 2),
        ("layer_norm", True),
        ("zoneout", 0.5),
        ("zoneout", (0.0, 0.5)),
        ("heads", 5),
        ("independent", True),
    ],
)
def test_options_that_onnx_has_not(keyword: str, value: Any) -> None:
    """An option that the exporter does not know is refused, also one that is added later; none is left out."""
    assert set(attributes.EXPORTED) <= set(TABLE)
    layer = rk.RNN(3, 5, independent=True) if keyword == "independent" else rk.LSTM(3, 5, **{keyword: value})
    with pytest.raises(NotImplementedError, match=f"ONNX has no attribute for {keyword}="):
        ro.to_onnx(layer)


def test_to_onnx_of_what_is_no_layer() -> None:
    with pytest.raises(TypeError, match=r"layer: expected an rnnkern.RNN, GRU or LSTM, got torch"):
        ro.to_onnx(torch.nn.LSTM(3, 5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="opset: expected 22 to"):
        ro.to_onnx(rk.LSTM(3, 5, dtype="bfloat16"), opset=14)


def test_a_node_alone_and_a_model_of_one_node() -> None:
    case = replace(model_of("LSTM", 2, layout=1), outputs=("Y",))
    case = replace(case, values={**case.values, "X": case.values["X"].swapaxes(0, 1)})
    layers = [ro.from_onnx(case.model()), ro.from_onnx(case.node, case.values)]
    layers.append(ro.from_onnx(case.node, case.model().graph.initializer, opset=14))
    for layer in layers:
        y, _ = layer(case.values["X"])
        assert error(y.reshape(3, 4, 2, 5), truth(case)["Y"]) <= 32 * EPS["float32"]
        assert layer.batch_first and layer.bidirectional
    grads = layers[0].backward(layers[0].forward(case.values["X"])[2], np.ones((3, 4, 10), np.float32))
    assert grads.params["weight_ih_l0"].any()  # trainable
    with pytest.raises(TypeError, match="weights: expected the node's weights by name, got None"):
        ro.from_onnx(case.node)
    with pytest.raises(NotImplementedError, match="R: expected a constant, got 'R', of which none is known"):
        ro.from_onnx(case.node, {"W": case.values["W"]})
    with pytest.raises(NotImplementedError, match="W: expected a constant, got 'W'"):
        ro.from_onnx(case.model(constant=False))
    with pytest.raises(TypeError, match=r"source: expected an onnx.ModelProto or an onnx.NodeProto, got dict"):
        ro.from_onnx({})  # type: ignore[arg-type]


def chain(between: list[onnx.NodeProto], names: tuple[str, str], **states: str) -> onnx.ModelProto:
    """Two GRUs of 5 units, the second reading names[0] (and states); the model's output is names[1]."""
    one, two = model_of("GRU", linear_before_reset=1), model_of("GRU", linear_before_reset=1)
    rng = np.random.default_rng(5)
    held = {**one.feeds(False), "W2": rng.normal(size=(1, 15, 5)).astype(np.float32), "R2": two.values["R"]}
    held |= {"axis": np.array([1]), "h": np.ones((1, 3, 5), np.float32), "lens": np.array([4, 4, 2], np.int32)}
    held["zero"] = np.zeros((1, 3, 5), np.float32)
    x = held.pop("X")
    second = [names[0], "W2", "R2", "", states.get("lengths", ""), states.get("initial_h", "")]
    graph = helper.make_graph(
        [
            helper.make_node(
                "GRU", ["X", "W", "R", "B"], ["Y1", "H1"], linear_before_reset=1, hidden_size=5, name="one"
            ),
            *between,
            helper.make_node("GRU", second, ["Y2", "H2"], linear_before_reset=1, hidden_size=5, name="two"),
        ],
        "graph",
        [helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(names[1], onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    graph.output[0].type.tensor_type.shape.Clear()
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


SQUEEZE = helper.make_node("Squeeze", ["Y1", "axis"], ["x2"])


def test_a_stack_of_nodes_is_one_layer() -> None:
    """A missing bias is one of zeros; a constant state of zeros is none."""
    model = chain([SQUEEZE], ("x2", "Y2"), initial_h="zero")
    layer = ro.from_onnx(model)
    assert layer.num_layers == 2 and not layer.params["bias_ih_l1"].any() and layer.params["bias_ih_l0"].any()
    x = model_of("GRU").values["X"]
    assert np.array_equal(ro.run_model(model, [x])[0][:, 0], layer(x)[0])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (chain([SQUEEZE], ("x2", "Y2"), initial_h="H1"), "'two': initial_h: expected zeros, an input of the model"),
        (chain([SQUEEZE], ("x2", "Y2"), initial_h="h"), "'two': initial_h: expected an argument of"),
        (chain([SQUEEZE], ("x2", "Y2"), lengths="lens"), "'two': sequence_lens: expected an argument of the call"),
        (
            chain([SQUEEZE, helper.make_node("Transpose", ["x2"], ["t"], perm=[1, 0, 2])], ("t", "Y2")),
            "'two': X: expected the output of GRU node 'one'",
        ),
        (
            chain([SQUEEZE, helper.make_node("Slice", ["x2", "axis", "axis"], ["t"])], ("x2", "Y1")),
            None,  # what happens to results is the caller's
        ),
        (chain([helper.make_node("Relu", ["Y1"], ["r"], name="relu")], ("Y1", "r")), "Relu node 'relu': .*operator"),
        (model_of("GRU", 2, activations=["Elu", "Tanh", "Tanh", "Tanh"]).model(), "activations: expected the same for"),
        (ro.to_onnx(rk.LSTM(3, 5), state=True, lengths=True), None),
    ],
)  # fmt: skip
def test_what_is_no_stack_is_refused_by_name(model: onnx.ModelProto, said: str | None) -> None:
    if said is None:
        assert ro.from_onnx(model).hidden_size == 5
        return
    with pytest.raises(NotImplementedError, match=said):
        ro.from_onnx(model)


def test_lengths_are_an_input_of_the_model() -> None:
    case = replace(model_of("GRU", linear_before_reset=1), outputs=("Y",))
    case = replace(case, values={**case.values, "sequence_lens": np.array([4, 2, 0], np.int32)})
    model = case.model()
    assert ro.from_onnx(model).hidden_size == 5
    made = [
        helper.make_node("Shape", ["X"], ["shape"]),
        helper.make_node("Constant", [], ["rows"], value_ints=[0, 0, 0]),
        helper.make_node("Gather", ["shape", "rows"], ["long"]),
        helper.make_node("Cast", ["long"], ["sequence_lens"], to=onnx.TensorProto.INT32),
    ]
    nodes = [*made, *model.graph.node]
    del model.graph.node[:], model.graph.input[1]
    model.graph.node.extend(nodes)
    assert error(ro.run_model(model, [case.values["X"]])[0], _full(case)) <= 32 * EPS["float32"]
    with pytest.raises(NotImplementedError, match="sequence_lens: expected an input of the model, got something else"):
        ro.from_onnx(model)


def _full(case: Case) -> Array:
    """Y when every row has all steps."""
    values = {name: value for name, value in case.values.items() if name != "sequence_lens"}
    return truth(replace(case, values=values))["Y"]


# torch's exporters --------------------------------------------------------------------------------------------------

TORCH: dict[str, tuple[Any, bool]] = {
    "rnn": (lambda: torch.nn.RNN(3, 5, nonlinearity="relu"), False),
    "gru": (lambda: torch.nn.GRU(3, 5, 2, batch_first=True, bidirectional=True), False),
    "lstm": (lambda: torch.nn.LSTM(3, 5, 2, bidirectional=True), False),
    "gru with state": (lambda: torch.nn.GRU(3, 5, bias=False), True),
    "lstm with state": (lambda: torch.nn.LSTM(3, 5, 3, batch_first=True), True),
}


class Packed(torch.nn.Module):
    """Lengths by way of a PackedSequence, as torch's exporter knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 5, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        y, (h, _) = self.lstm(packed)
        return torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0], h


def export(
    module: torch.nn.Module, inputs: tuple[Any, ...], opset: int | None, batch_axes: list[int]
) -> onnx.ModelProto:
    """torch's TorchScript exporter, with the batch as a symbol."""
    names = [f"i{i}" for i in range(len(batch_axes))]
    axes = {name: {axis: "batch"} for name, axis in zip(names, batch_axes, strict=True)}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, buffer, dynamo=False, opset_version=opset, input_names=names, dynamic_axes=axes
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


@pytest.mark.parametrize("opset", [9, 12, 20])
@pytest.mark.parametrize("name", TORCH)
def test_torchs_models(name: str, opset: int) -> None:
    """Exported with a batch of 2, run with 3; the way back gives the module's own parameters."""
    make, with_state = TORCH[name]
    torch.manual_seed(0)
    module = make().eval()
    first = module.batch_first
    rows = module.num_layers * (2 if module.bidirectional else 1)

    def inputs(batch: int) -> tuple[Any, ...]:
        x = torch.randn((batch, 4, 3) if first else (4, batch, 3))
        state = [torch.randn(rows, batch, 5) for _ in range(2 if "lstm" in name else 1)]
        return (x, tuple(state) if len(state) == 2 else state[0]) if with_state else (x,)

    states = (2 if "lstm" in name else 1) if with_state else 0
    model = export(module, inputs(2), opset, [0 if first else 1] + [1] * states)
    given = inputs(3)
    with torch.no_grad():
        y, state = module(*given)
    flat = [given[0], *(given[1] if isinstance(given[1], tuple) else given[1:])] if with_state else [given[0]]
    arrays = [tensor.numpy() for tensor in flat]
    wanted = [y, *(state if isinstance(state, tuple) else (state,))]
    assert len(wanted) == len(model.graph.output)
    for got, tensor in zip(ro.run_model(model, arrays), wanted, strict=True):
        assert error(got, tensor.double().numpy()) <= 32 * EPS["float32"]
    layer = ro.from_onnx(model)
    assert layer.batch_first == first and layer.num_layers == module.num_layers
    assert layer.params.keys() == dict(module.named_parameters()).keys()
    for key, parameter in module.named_parameters():
        assert np.array_equal(layer.params[key], parameter.detach().numpy())


@pytest.mark.filterwarnings("ignore")
def test_torchs_packed_sequence() -> None:
    torch.manual_seed(0)
    module, lengths = Packed().eval(), torch.tensor([4, 3, 1])
    x = torch.randn(3, 4, 3)
    model = export(module, (torch.randn(2, 4, 3), torch.tensor([4, 2])), None, [0, 0])
    with torch.no_grad():
        wanted = module(x, lengths)
    for got, tensor in zip(ro.run_model(model, [x.numpy(), lengths.numpy()]), wanted, strict=True):
        assert error(got, tensor.double().numpy()) <= 32 * EPS["float32"]
    layer = ro.from_onnx(model)
    assert error(layer(x.numpy(), lengths=lengths.numpy())[0], wanted[0].double().numpy()) <= 32 * EPS["float32"]


@pytest.mark.parametrize("name", ["gru", "lstm with state"])
def test_the_models_of_torchs_newer_exporter(name: str) -> None:
    pytest.importorskip("onnxscript", reason="torch's exporter by torch.export needs onnxscript")
    make, with_state = TORCH[name]
    torch.manual_seed(0)
    module = make().eval()
    x = torch.randn(2, 4, 3)
    state = (torch.randn(3, 2, 5), torch.randn(3, 2, 5))
    batch = torch.export.Dim("batch")
    shapes = ({0: batch}, ({1: batch}, {1: batch})) if with_state else ({0: batch},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (x, state) if with_state else (x,), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    model = program.model_proto
    x = torch.randn(3, 4, 3)
    state = (torch.randn(3, 3, 5), torch.randn(3, 3, 5))
    with torch.no_grad():
        y, final = module(x, state) if with_state else module(x)
    arrays = [x.numpy(), *(part.numpy() for part in state)] if with_state else [x.numpy()]
    wanted = [y, *(final if isinstance(final, tuple) else (final,))]
    for got, tensor in zip(ro.run_model(model, arrays), wanted, strict=True):
        assert error(got, tensor.double().numpy()) <= 32 * EPS["float32"]
    layer = ro.from_onnx(model)
    for key, parameter in module.named_parameters():
        assert np.array_equal(layer.params[key], parameter.detach().numpy())
