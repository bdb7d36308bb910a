"""``freeze(weights="int8")`` and ``quantize(model)``: the answers of ``rnnkern.LSTM(weights="int8")``, or a refusal."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import rnnkern as rk
import rnnkern.torch as rt

IN, H = 12, 20
MODULES = {
    "lstm": lambda: rt.LSTM(IN, H, num_layers=2, bidirectional=True),
    "gru": lambda: rt.GRU(IN, H),
    "rnn": lambda: rt.RNN(IN, H, nonlinearity="relu"),
    "lstm, projection": lambda: rt.LSTM(IN, H, proj_size=5),
    "lstm, half": lambda: rt.LSTM(IN, H, dtype=torch.float16),
}


def on_arrays(module: Any) -> Any:
    """The layer on plain arrays with the module's weights."""
    options = {"proj_size": module.proj_size} if module.mode == "LSTM" and module.proj_size else {}
    options |= {"nonlinearity": "relu"} if module.mode == "RNN_RELU" else {}
    kind = getattr(rk, type(module).__name__)
    dtype = "float16" if module.weight_ih_l0.dtype is torch.float16 else "float32"
    layer = kind(
        IN, H, num_layers=module.num_layers, bidirectional=module.bidirectional, dtype=dtype, weights="int8", **options
    )
    layer.load_state_dict({name: value.numpy() for name, value in module.state_dict().items()})
    return layer


@pytest.mark.parametrize("name", MODULES)
def test_a_frozen_module_answers_as_the_layer_on_arrays(name: str) -> None:
    module = MODULES[name]().eval().freeze(weights="int8")
    x = torch.randn(6, 3, IN).to(module.weight_ih_l0.dtype)
    lengths = torch.tensor([6, 2, 0])
    with torch.no_grad():
        y, short = module(x)[0], module(x, lengths=lengths)[0]
    layer = on_arrays(module)
    np.testing.assert_array_equal(y.numpy(), layer(x.numpy())[0])
    np.testing.assert_array_equal(short.numpy(), layer(x.numpy(), lengths=lengths.numpy())[0])
    assert "frozen='int8'" in repr(module)
    assert "kept by freeze() in int8" in repr(rk.explain(module, (6, 3, IN)))
    with torch.no_grad():
        exact = module.unfreeze()(x)[0]
    assert 0 < (y - exact).abs().max() < 0.03


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_frozen_cell(kind: str) -> None:
    cell = getattr(rt, kind)(IN, H)
    x = torch.randn(3, IN)
    with torch.no_grad():
        exact = cell(x)
        got = cell.freeze(weights="int8")(x)

    def first(answer: Any) -> Any:
        return answer[0] if isinstance(answer, tuple) else answer

    layer = getattr(rk, kind)(IN, H, weights="int8")
    layer.load_state_dict({name: value.numpy() for name, value in cell.state_dict().items()})
    np.testing.assert_array_equal(first(got).numpy(), first(layer(x.numpy())))
    assert not torch.equal(first(got), first(exact))


def test_what_a_module_in_int8_refuses() -> None:
    module = rt.LSTM(IN, H).freeze(weights="int8")
    x = torch.randn(4, 2, IN)
    with pytest.raises(RuntimeError, match="frozen"):
        module(x)
    module.requires_grad_(False)
    with pytest.raises(RuntimeError, match="weights in int8, and this call would record gradients"):
        module(x.clone().requires_grad_())
    module(x)
    with pytest.raises(NotImplementedError, match="plain eager calls alone"):
        torch.func.vmap(lambda each: module(each)[0])(x[None])
    with torch.no_grad(), pytest.raises(Exception, match="eager calls alone"):
        torch.compile(module, backend="eager", fullgraph=True)(x)
    with pytest.raises(NotImplementedError, match="weights='int8': expected a layer of float32 or float16 on the CPU"):
        rt.LSTM(IN, H, dtype=torch.float64).freeze(weights="int8")
    with pytest.raises(ValueError, match="weights: expected 'int8' or 'bf16' or None, got 'int4'"):
        rt.LSTM(IN, H).freeze(weights="int4")
    with torch.no_grad():
        module.unfreeze().weight_ih_l0[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"weights\[0\].weight_ih: expected finite weights for int8, got nan"):
        module.freeze(weights="int8")


def test_copies_are_not_frozen_and_loading_unfreezes() -> None:
    module = rt.GRU(IN, H).freeze(weights="int8")
    x = torch.randn(4, 2, IN)
    with torch.no_grad():
        rounded, exact = module(x)[0], copy.deepcopy(module)(x)[0]
        assert not torch.equal(rounded, exact)
        module.load_state_dict(module.state_dict())
        assert torch.equal(module(x)[0], exact)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.LSTM(IN, H, 2, batch_first=True)
        self.cell = torch.nn.RNNCell(H, H)
        self.own = rt.GRU(H, H)
        self.out = torch.nn.Linear(H, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.rnn(x)[0]
        return self.out(self.own(self.cell(y[:, -1])[None])[0])  # type: ignore[no-any-return]


def test_quantize_a_whole_model_and_undo() -> None:
    model, x = Model().eval(), torch.randn(5, 7, IN)
    with torch.no_grad():
        exact = model(x)
        report = rt.quantize(model)
        assert report.swapped == ("rnn", "cell") and not report.left
        rounded = model(x)
        assert 0 < (rounded - exact).abs().max() < 0.02
        report.undo()
        model.own.unfreeze()
        assert type(model.rnn) is torch.nn.LSTM
        torch.testing.assert_close(model(x), exact, rtol=0, atol=1e-6)


def test_quantize_changes_nothing_where_it_fails() -> None:
    model = Model()
    with torch.no_grad():
        model.own.weight_hh_l0[0, 0] = float("inf")
    with pytest.raises(ValueError, match="expected finite weights for int8"):
        rt.quantize(model)
    assert type(model.rnn) is torch.nn.LSTM and type(model.cell) is torch.nn.RNNCell
    assert model.own._frozen is None


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.below = torch.nn.GRU(IN, H, batch_first=True)
        self.drop = torch.nn.Dropout(0.5)
        self.above = rt.LSTM(H, H, num_layers=2, dropout=0.5)
        self.cell = torch.nn.LSTMCell(H, H)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        y = self.drop(self.below(x)[0]).transpose(0, 1)
        y, _ = self.above(torch.nn.utils.rnn.pack_sequence([y[:4, 0], y[:2, 1]]))
        state = None
        for row in torch.nn.utils.rnn.pad_packed_sequence(y)[0]:
            state = self.cell(row, state)
        return state[0] * scale  # type: ignore[index]


def test_the_error_on_data_of_each_module() -> None:
    torch.manual_seed(0)
    model, data = _Model(), (torch.randn(2, 4, IN), 2.0)
    with torch.no_grad():
        exact = model.eval().below(data[0])[0]
    model.train()
    report = rt.quantize(model, "int8", data)
    assert list(report.errors) == ["below", "above", "cell"] and all(0 < e < 0.03 for e in report.errors.values())
    assert model.training and model.drop.training and not model.below._forward_hooks
    with torch.no_grad():
        change = model.below(data[0])[0] - exact
    wanted = float(change.double().square().mean().sqrt() / exact.double().square().mean().sqrt())
    assert abs(report.errors["below"] - wanted) < 1e-9
    assert "error of below: " in str(report)
    report.undo()
    model.above.unfreeze()
    finer = rt.quantize(model, "bf16", data).errors
    assert all(finer[name] < report.errors[name] for name in finer)
    assert not rt.quantize(torch.nn.GRU(IN, H)).errors


def test_weights_in_bf16_have_the_bits_of_rounded_weights() -> None:
    torch.manual_seed(0)
    module = rt.GRU(IN, H).eval()
    x = torch.randn(5, 3, IN)
    rounded = copy.deepcopy(module)
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            weight.copy_(weight.bfloat16().float() if "weight" in name else weight)
        assert torch.equal(module.freeze(weights="bf16")(x)[0], rounded(x)[0])
    assert "frozen='bf16'" in repr(module)


class _Streaming(torch.nn.Module):
    """Keeps its state, and writes over it and over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.GRU(IN, H)
        self.register_buffer("h", torch.zeros(1, 3, H))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, h = self.rnn(x, self.h)
        self.h.copy_(h)
        x.zero_()
        return y  # type: ignore[no-any-return]


def test_data_of_models_that_write_in_place() -> None:
    torch.manual_seed(0)
    assert 0 < rt.quantize(_Streaming(), "bf16", torch.randn(5, 3, IN)).errors["rnn"] < 0.01


def test_data_in_one_packed_sequence_and_under_autocast() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(5, IN), torch.randn(2, IN)])
    assert 0 < rt.quantize(torch.nn.GRU(IN, H), "int8", packed).errors[""] < 0.05
    model = torch.nn.GRU(IN, H)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(NotImplementedError, match="runs under autocast"):
        rt.quantize(model, "int8", torch.randn(5, 3, IN))
    assert type(model) is torch.nn.GRU and not model._forward_pre_hooks


def test_a_module_that_was_frozen_stays_so_where_quantize_fails() -> None:
    model = torch.nn.ModuleList([rt.GRU(IN, H).freeze(), rt.GRU(IN, H)])
    with torch.no_grad():
        model[1].weight_hh_l0[0, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        rt.quantize(model)
    assert "frozen=True" in repr(model[0]) and "frozen" not in repr(model[1])
