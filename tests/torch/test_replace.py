"""rnnkern.torch.replace swaps the modules of a model in place, and back."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrizations

import rnnkern.torch as rt

IN, H = 3, 4
NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


class Named(torch.nn.LSTM):
    """A subclass that changes no call."""

    def __init__(self) -> None:
        super().__init__(IN, H, dtype=torch.float64)
        self.extra = 1


class Helper:
    def helper(self) -> int:
        return 1


class Mixed(torch.nn.LSTM, Helper):
    pass


class Subclass(torch.nn.LSTM):
    def forward(self, *args: Any) -> Any:
        return super().forward(*args)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(IN, H, 2, bidirectional=True, batch_first=True)
        self.same = self.lstm
        self.nested = torch.nn.ModuleDict({"deep": torch.nn.Sequential(torch.nn.GRU(2 * H, H), torch.nn.Identity())})
        self.rnn = torch.nn.RNN(H, H, nonlinearity="relu")
        self.cell = torch.nn.LSTMCell(H, H, bias=False)
        self.unlisted = [self.rnn]  # a reference no walk over modules finds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.same(x)[0].transpose(0, 1)
        y = self.unlisted[0](self.nested["deep"][0](y)[0])[0]
        return self.cell(y[-1])[0]


def step(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    output = model(x)
    output.square().sum().backward()
    return [output.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


def assert_close(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    """Two float64 results of a chain of some 20 sums of 10 to 30 terms each: 64 eps of the largest magnitude."""
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=64 * torch.finfo(torch.float64).eps * float(b.abs().max()))


def test_a_whole_model_and_back() -> None:
    torch.manual_seed(0)  # some draws leave every ReLU dead
    model = Model().double()
    model.nested.eval()
    x = torch.randn(2, 5, IN, dtype=torch.float64)
    wanted = step(model, x)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    modules = list(model.modules())
    report = rt.replace(model)
    assert report.swapped == ("lstm", "nested.deep.0", "rnn", "cell")
    assert report.left == {}
    assert str(report) == "swapped 4: lstm, nested.deep.0, rnn, cell"
    assert type(model.lstm) is rt.LSTM
    assert model.same is model.lstm
    assert type(model.unlisted[0]) is rt.RNN
    assert not isinstance(model.lstm, torch.nn.LSTM)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert model.lstm.training
    assert not model.nested["deep"][0].training
    assert_close(step(model, x), wanted)

    optimizer.step()
    stepped = step(model, x)
    assert not torch.equal(stepped[0], wanted[0])
    again = copy.deepcopy(model)
    assert rt.replace(again).swapped == ()
    assert all(torch.equal(a, b) for a, b in zip(step(pickle.loads(pickle.dumps(model)), x), stepped, strict=True))

    report.undo()
    report.undo()
    assert type(model.lstm) is torch.nn.LSTM
    assert type(model.cell) is torch.nn.LSTMCell
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert_close(step(model, x), stepped)
    assert_close(step(pickle.loads(pickle.dumps(model)), x), stepped)
    optimizer.step()
    assert not torch.equal(step(model, x)[0], stepped[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_itself_such_a_module(name: str) -> None:
    module = getattr(torch.nn, name)(IN, H)
    keys, text = list(module.state_dict()), repr(module)
    report = rt.replace(module, always=True)
    assert report.swapped == ("",)
    assert str(report) == "swapped 1: (the model)"
    assert type(module) is getattr(rt, name)
    assert list(module.state_dict()) == keys
    assert repr(module) == text
    module.freeze()
    report.undo()
    assert type(module) is getattr(torch.nn, name)
    assert vars(module).keys() == vars(getattr(torch.nn, name)(IN, H)).keys()


def test_what_would_be_slower_is_left_with_its_figure() -> None:
    model = torch.nn.ModuleDict({"rnn": torch.nn.RNNCell(IN, H), "lstm": torch.nn.LSTMCell(IN, H)})
    report = rt.replace(model)
    assert report.swapped == ("lstm",) and type(model["rnn"]) is torch.nn.RNNCell
    assert re.search(r"RNNCell is slower here.*0\.\d\d of torch's speed.*always=True", report.left["rnn"])
    assert rt.replace(model, always=True).swapped == ("rnn",)


def test_a_projection_and_back() -> None:
    model = torch.nn.Sequential(torch.nn.LSTM(IN, H, 2, proj_size=2, dtype=torch.float64))
    module, keys, text = model[0], set(vars(model[0])), repr(model[0])
    x = torch.randn(5, 2, IN, dtype=torch.float64)
    state = (torch.randn(2, 2, 2, dtype=torch.float64), torch.randn(2, 2, H, dtype=torch.float64))

    def train() -> list[torch.Tensor]:
        model.zero_grad()
        y, (h, c) = module(x, state)
        (y.square().sum() + h.sum() + c.square().sum()).backward()
        return [y.detach(), h.detach(), c.detach(), *(p.grad.clone() for p in module.parameters())]

    wanted = train()
    report = rt.replace(model)
    assert report.swapped == ("0",) and report.left == {}
    assert type(module) is rt.LSTM and module.proj_size == 2 and repr(module) == text
    assert_close(train(), wanted)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.proj_size == 2 and torch.equal(other(x, state)[0], module(x, state)[0])
    report.undo()
    assert type(module) is torch.nn.LSTM and set(vars(module)) == keys
    assert all(torch.equal(a, b) for a, b in zip(train(), wanted, strict=True))


def test_hooks_are_carried() -> None:
    module = torch.nn.GRU(IN, H)
    calls: list[str] = []
    module.register_forward_pre_hook(lambda *args: calls.append("before"))
    module.register_forward_hook(lambda *args: calls.append("after"))
    module.weight_ih_l0.register_hook(lambda grad: calls.append("grad"))
    rt.replace(module)
    module(torch.randn(5, 2, IN))[0].sum().backward()
    assert calls == ["before", "after", "grad"]


def test_what_is_left_says_why() -> None:
    patched = torch.nn.GRU(IN, H)
    patched.forward = lambda *args: args  # type: ignore[method-assign]
    strange = torch.nn.RNNCell(IN, H)
    strange.nonlinearity = "sine"
    kept: dict[str, Any] = {
        "subclass": Subclass(IN, H),
        "mixed": Mixed(IN, H),
        "patched": patched,
        "complex": torch.nn.GRUCell(IN, H, dtype=torch.complex64),
        "strange": strange,
        "empty": torch.nn.GRUCell(IN, 0),
    }
    model = torch.nn.ModuleDict({**kept, "plain": torch.nn.LSTM(IN, H), "linear": torch.nn.Linear(IN, H)})
    classes = {name: type(module) for name, module in kept.items()}
    report = rt.replace(model)
    assert report.swapped == ("plain",)
    assert {name: type(module) for name, module in kept.items()} == classes
    reasons = {
        "subclass": "Subclass is a subclass",
        "mixed": "Mixed is a subclass with code of its own",
        "patched": "forward was replaced",
        "complex": "weight_ih has dtype torch.complex64",
        "strange": "'sine'",
        "empty": "hidden_size 0",
    }
    assert report.left.keys() == reasons.keys()
    assert all(reason in report.left[name] for name, reason in reasons.items())
    assert "left empty: input_size 3 and hidden_size 0" in str(report)


def test_undo_finds_the_modules_whatever_became_of_them() -> None:
    model = torch.nn.Sequential(torch.nn.LSTM(IN, H), torch.nn.GRU(IN, H))
    report = rt.replace(model)
    swapped, other = model
    model[0] = torch.nn.GRU(IN, H)
    parametrizations.weight_norm(swapped, "weight_hh_l0")
    other.__class__ = rt.RNN
    report.undo()
    assert torch.nn.utils.parametrize.type_before_parametrizations(swapped) is torch.nn.LSTM
    assert type(other) is rt.RNN  # somebody's own change
    assert type(model[0]) is torch.nn.GRU


def test_a_subclass_without_code_of_its_own() -> None:
    model, x = torch.nn.Sequential(Named()), torch.randn(5, 2, IN, dtype=torch.float64)
    wanted = model(x)[0]
    report = rt.replace(model)
    assert report.swapped == ("0",) and type(model[0]) is rt.LSTM and model[0].extra == 1
    assert_close([model(x)[0]], [wanted])
    report.undo()
    assert type(model[0]) is Named and torch.equal(model(x)[0], wanted)


@pytest.mark.parametrize("old", [False, True])
def test_weight_norm_of_both_kinds(old: bool) -> None:
    norm: Any = torch.nn.utils.weight_norm if old else parametrizations.weight_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older kind is deprecated
        module = norm(torch.nn.LSTM(IN, H, dtype=torch.float64), "weight_hh_l0")
    kind, x = type(module), torch.randn(5, 2, IN, dtype=torch.float64)

    def train() -> list[torch.Tensor]:
        module.zero_grad()
        y = module(x)[0]
        y.square().sum().backward()
        return [y.detach(), *(p.grad.clone() for p in module.parameters())]

    wanted = train()
    report = rt.replace(module)
    assert report.left == {} and isinstance(module, rt.LSTM)
    assert_close(train(), wanted)
    if not old:  # torch cannot copy what the older kind computes
        assert_close([copy.deepcopy(module)(x)[0]], [wanted[0]])
    report.undo()
    assert torch.nn.utils.parametrize.type_before_parametrizations(module) is torch.nn.LSTM
    assert type(module).__name__ == kind.__name__
    assert_close(train(), wanted)
    if not old:  # parametrizations may go while the module is replaced
        report = rt.replace(module)
        torch.nn.utils.parametrize.remove_parametrizations(module, "weight_hh_l0")
        assert type(module) is rt.LSTM
        report.undo()
        assert type(module) is torch.nn.LSTM
        assert_close([module(x)[0]], [wanted[0]])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_torch_jit_has_compiled_is_left_by_name() -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = torch.nn.LSTMCell(IN, H)
            self.done = torch.jit.script(torch.nn.Sequential(torch.nn.GRU(IN, H)))

        def forward(self, x: torch.Tensor) -> Any:
            return self.cell(self.done(x)[0])

    report = rt.replace(Half())
    assert report.swapped == ("cell",)
    assert report.left == {"done.0": "torch.jit has compiled its calls of aten::gru; replace the modules before that"}
    frozen = torch.jit.freeze(torch.jit.script(torch.nn.Sequential(torch.nn.LSTM(IN, H)).eval()))
    assert "compiled its calls of aten::lstm" in rt.replace(frozen).left[""]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchs_quantisation_says_what_it_leaves() -> None:
    model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(IN, H), "head": torch.nn.Linear(H, 2)})
    report = rt.replace(model)
    with pytest.warns(UserWarning, match=r"rnnkern\.torch\.LSTM keeps its dtype.*undo\(\)"):
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM, torch.nn.Linear})
    assert type(quantized["lstm"]) is rt.LSTM and type(quantized["head"]) is not torch.nn.Linear
    report.undo()
    again = torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM})
    assert type(again["lstm"]) is torch.ao.nn.quantized.dynamic.LSTM


def test_only_modules_can_be_replaced() -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got list"):
        rt.replace([torch.nn.LSTM(IN, H)])  # type: ignore[arg-type]
