"""``torch.onnx.export`` of modules: a node for each layer, the module's numbers in onnxruntime, refusals by name."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import rnnkern.onnx as ro
import rnnkern.torch as rt

pytest.importorskip("onnxscript", reason="torch's exporter by torch.export needs onnxscript")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

T, B, IN, H = 7, 3, 4, 6
EXPORTERS = [(False, 14), (False, 17), (True, 18), (True, 22)]
MODULES: dict[str, Callable[[], Any]] = {
    "lstm": lambda: rt.LSTM(IN, H, 2, bidirectional=True),
    "gru": lambda: rt.GRU(IN, H, 3),
    "rnn": lambda: rt.RNN(IN, H, nonlinearity="relu", bias=False),
    "batch first": lambda: rt.GRU(IN, H, batch_first=True, bidirectional=True),
    "reverse": lambda: rt.LSTM(IN, H, reverse=True),
    "peephole": lambda: rt.LSTM(IN, H, peephole=True, coupled=True, clip=0.5),
    "reset before": lambda: rt.GRU(IN, H, reset_after=False, recurrent_dropout=0.3),
    "activations": lambda: rt.LSTM(IN, H, activations=("HardSigmoid", "Softsign", "Tanh"), bidirectional=True),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The exporters log what they do."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def flat(value: Any) -> list[Tensor]:
    if value is None:
        return []
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in flat(part)]


def export(module: Any, arguments: tuple[Any, ...], dynamo: bool, opset: int, names: list[str]) -> onnx.ModelProto:
    """With T and B as symbols."""
    first = 1 if getattr(module, "batch_first", False) else 0
    axes = {"x": {first: "T", 1 - first: "B"}, "h": {1: "B"}, "c": {1: "B"}, "lengths": {0: "B"}}
    file = io.BytesIO()
    if dynamo:
        symbols = {"T": torch.export.Dim("T", min=1), "B": torch.export.Dim("B", min=1)}
        given = {name: {axis: symbols[symbol] for axis, symbol in axes[name].items()} for name in names}
        shapes: list[Any] = [given["x"]]
        if len(arguments) > 1:
            states = tuple(given[name] for name in names if name in ("h", "c"))
            shapes.append(None if not states else states if len(states) > 1 else states[0])
        if len(arguments) > 2:
            shapes.append(given["lengths"])
        torch.onnx.export(
            module, arguments, file, input_names=names, opset_version=opset, dynamo=True, dynamic_shapes=tuple(shapes),
            verbose=False,
        )  # fmt: skip
    else:
        torch.onnx.export(
            module, arguments, file, input_names=names, opset_version=opset, dynamo=False,
            dynamic_axes={name: axes[name] for name in names},
        )  # fmt: skip
    model = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(model)
    return model


def inputs_of(module: Any, steps: int, rows: int, state: bool, lengths: bool) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(steps)
    shape = (rows, steps, IN) if module.batch_first else (steps, rows, IN)
    x = torch.randn(*shape, generator=generator)
    D = 2 if module.bidirectional else 1
    one = [torch.randn(module.num_layers * D, rows, H, generator=generator) for _ in range(2)]
    hx = None if not state else tuple(one) if isinstance(module, rt.LSTM) else one[0]
    given = (torch.arange(rows) % steps + 1,) if lengths else ()
    return (x, hx, *given) if state or lengths else (x,)


def run(model: onnx.ModelProto, arguments: tuple[Any, ...]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {given.name: value.numpy() for given, value in zip(session.get_inputs(), flat(arguments), strict=True)}
    return list(session.run(None, feeds))


def compare(model: onnx.ModelProto, module: Any, arguments: tuple[Any, ...]) -> None:
    """Both compute in float32: sums in another order, activations of other libraries."""
    with torch.no_grad():
        wanted = flat(module(*arguments))
    for got, tensor in zip(run(model, arguments), wanted, strict=True):
        assert got.shape == tuple(tensor.shape)
        assert np.abs(got - tensor.numpy()).max() < 64 * np.finfo(np.float32).eps


@pytest.mark.parametrize(("dynamo", "opset"), EXPORTERS)
@pytest.mark.parametrize("name", MODULES)
def test_layers(name: str, dynamo: bool, opset: int) -> None:
    """One node a layer; other T and B than the export's; read back, trained weights and options are the module's."""
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    model = export(module, inputs_of(module, T, B, False, False), dynamo, opset, ["x"])
    assert [node.op_type for node in model.graph.node].count(type(module).__name__) == module.num_layers
    for steps, rows in ((T, B), (2, 5), (1, 1)):
        compare(model, module, inputs_of(module, steps, rows, False, False))


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 20)])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "batch first", "reset before"])
def test_states_and_lengths(name: str, dynamo: bool, opset: int) -> None:
    """Both are inputs of the model, not constants of it."""
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    states = ["h", "c"] if isinstance(module, rt.LSTM) else ["h"]
    for names, state, lengths in ((["x", *states], True, False), (["x", *states, "lengths"], True, True)):
        model = export(module, inputs_of(module, T, B, state, lengths), dynamo, opset, names)
        assert [given.name for given in model.graph.input] == names
        for steps, rows in ((T, B), (4, 5)):
            compare(model, module, inputs_of(module, steps, rows, state, lengths))


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 20)])
@pytest.mark.parametrize("cell", [rt.RNNCell, rt.GRUCell, rt.LSTMCell])
def test_cells_in_a_loop(cell: Any, dynamo: bool, opset: int) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell(IN, H)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for t in range(3):
                state = self.cell(x[t], state)
            return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]

    torch.manual_seed(0)
    module = Loop().eval()
    x = torch.randn(3, B, IN)
    file = io.BytesIO()
    torch.onnx.export(module, (x,), file, dynamo=dynamo, opset_version=opset, **({"verbose": False} if dynamo else {}))
    compare(onnx.load_from_string(file.getvalue()), module, (x,))


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 20)])
def test_a_replaced_model_is_exported_as_before(dynamo: bool, opset: int) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(IN, H, 2, bidirectional=True), nn.Linear(2 * H, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Tagger().eval()
    x = torch.randn(T, B, IN)
    wanted = model(x)
    rt.replace(model)
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, dynamo=dynamo, opset_version=opset, **({"verbose": False} if dynamo else {}))
    (got,) = run(onnx.load_from_string(file.getvalue()), (x,))
    assert np.abs(got - wanted.detach().numpy()).max() < 64 * np.finfo(np.float32).eps


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 20)])
def test_read_back_as_a_layer(dynamo: bool, opset: int) -> None:
    torch.manual_seed(0)
    module = rt.GRU(IN, H, 2, bidirectional=True).eval()
    x = torch.randn(T, B, IN)
    layer = ro.from_onnx(export(module, (x,), dynamo, opset, ["x"]))
    with torch.no_grad():
        assert np.array_equal(layer(x.numpy())[0], module(x)[0].numpy())


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (lambda: rt.LSTM(IN, H, layer_norm=True).eval(), {}, "ONNX has no attribute for layer_norm=True"),
    (lambda: rt.LSTM(IN, H, proj_size=2), {}, "ONNX has no attribute for proj_size=2"),
    (lambda: rt.GRU(IN, H, heads=2), {}, "ONNX has no attribute for heads=2"),
    (lambda: rt.RNN(IN, H, independent=True), {}, "ONNX has no attribute for independent=True"),
    (lambda: rt.GRU(IN, H, zoneout=0.5).eval(), {}, "ONNX has no attribute for zoneout=0.5"),
    (lambda: rt.sLSTM(IN, H), {}, "ONNX has no operator for the cell slstm"),
    (lambda: rt.GRU(IN, H), {"mask": torch.ones(T, B, dtype=torch.bool)}, "no operator for mask and reset"),
    (lambda: rt.GRU(IN, H, 2, dropout=0.5).train(), {}, r"random masks of training; call eval\(\)"),
]


@pytest.mark.parametrize("dynamo", [False, True], ids=["TorchScript", "torch.export"])
@pytest.mark.parametrize(("make", "keywords", "sentence"), REFUSED, ids=[str(case[2]) for case in REFUSED])
def test_what_onnx_cannot_say_is_refused_by_name(make: Any, keywords: Any, sentence: str, dynamo: bool) -> None:
    module = make()

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module
            self.train(module.training)

        def forward(self, x: Tensor) -> Any:
            return self.inner(x, **keywords)[0]

    given = {"dynamo": dynamo, **({"verbose": False} if dynamo else {"training": torch.onnx.TrainingMode.PRESERVE})}
    with pytest.raises(Exception) as found:
        torch.onnx.export(Call(), (torch.randn(T, B, IN),), io.BytesIO(), **given)
    said, error = "", found.value
    while error is not None:  # torch.export's exporter wraps it
        said, error = f"{said}{error}\n", error.__cause__ or error.__context__  # type: ignore[assignment]
    assert re.search(sentence, said)


@pytest.mark.parametrize("dynamo", [False, True], ids=["TorchScript", "torch.export"])
def test_frozen_modules_and_half_types(dynamo: bool) -> None:
    module = rt.LSTM(IN, H).eval().freeze()
    compare(export(module, (torch.randn(T, B, IN),), dynamo, 18, ["x"]), module, (torch.randn(T, B, IN),))
    with pytest.raises(Exception) as found:
        export(rt.LSTM(IN, H, dtype=torch.bfloat16).eval(), (torch.randn(T, B, IN).bfloat16(),), dynamo, 18, ["x"])
    assert "bfloat16" in str(found.value) or "bfloat16" in str(found.value.__cause__)


def test_an_example_without_steps() -> None:
    module = rt.GRU(IN, H).eval()
    compare(export(module, (torch.randn(0, B, IN),), False, 17, ["x"]), module, (torch.randn(T, B, IN),))


def test_a_packed_sequence_is_refused_by_name() -> None:
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = rt.GRU(IN, H)

        def forward(self, x: Tensor, lengths: Tensor) -> Any:
            return self.gru(nn.utils.rnn.pack_padded_sequence(x, lengths))[1]

    with pytest.raises(NotImplementedError, match=r"PackedSequence.*lengths="):
        torch.onnx.export(Packs().eval(), (torch.randn(T, B, IN), torch.tensor([7, 5, 2])), io.BytesIO(), dynamo=False)
