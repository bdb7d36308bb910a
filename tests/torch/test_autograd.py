"""What rnnkern.torch promises autograd: nothing computed in vain, nothing silently wrong, nothing kept for too long."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import rnnkern.torch as rt
from rnnkern import _core, _engine

# torch scripts its own decompositions at the first use of forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

T, B, IN, H = 5, 2, 3, 4


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Weak references to the memory of every reserve that a forward fills."""
    seen: list[Any] = []
    block = _core.Block

    def spy(nbytes: int) -> Any:
        made = block(nbytes)
        seen.append(weakref.ref(made))
        return made

    class Training(_core.Training):  # of short calls, whose reserve is a tensor
        def try_forward(self, *args: Any) -> Any:
            made = super().try_forward(*args)
            seen.append(weakref.ref(made[-1]))
            return made

    monkeypatch.setattr(_core, "Block", spy)
    monkeypatch.setattr(_core, "Training", Training)
    return seen


def alive(tapes: list[Any]) -> int:
    return sum(tape() is not None for tape in tapes)


# Nothing in vain ------------------------------------------------------------------------------------------------------


@pytest.fixture
def wanted_of_calls(monkeypatch: pytest.MonkeyPatch) -> list[_engine.Wanted]:
    calls: list[_engine.Wanted] = []
    backward = _engine.backward

    def spy(*args: Any) -> Any:
        calls.append(args[-1])
        return backward(*args)

    class Training(_core.Training):  # of short calls
        def try_backward(self, *args: Any) -> Any:
            x, h_0, _, *params = args[-1]
            calls.append(_engine.Wanted(x, h_0, params))
            return super().try_backward(*args)

    monkeypatch.setattr(_engine, "backward", spy)
    monkeypatch.setattr(_core, "Training", Training)
    return calls


@pytest.mark.parametrize("short", [True, False], ids=["short", "lengths"])
def test_only_what_needs_a_gradient_is_computed(short: bool, wanted_of_calls: list[_engine.Wanted]) -> None:
    module = rt.LSTM(IN, H, 2)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name == "weight_hh_l1")
    module(torch.randn(T, B, IN), lengths=None if short else [T] * B)[0].sum().backward()
    (wanted,) = wanted_of_calls
    assert not wanted.x and not wanted.state
    assert isinstance(wanted.params, list)
    assert [name for name, need in zip(module._weight_names(), wanted.params, strict=True) if need] == ["weight_hh_l1"]
    assert [name for name, parameter in module.named_parameters() if parameter.grad is not None] == ["weight_hh_l1"]


def test_a_frozen_parameter_does_not_change_the_other_gradients() -> None:
    module = rt.GRU(IN, H, 2, bidirectional=True)
    inputs = torch.randn(T, B, IN, requires_grad=True)
    everything = torch.autograd.grad(module(inputs)[0].sum(), [inputs, *module.parameters()])
    module.weight_ih_l0.requires_grad_(False)
    others = [parameter for parameter in module.parameters() if parameter.requires_grad]
    some = torch.autograd.grad(module(inputs)[0].sum(), [inputs, *others])
    assert all(torch.equal(a, b) for a, b in zip(some, [everything[0], *everything[2:]], strict=True))


def test_outputs_that_are_not_used_cost_no_gradient_of_zeros() -> None:
    module = rt.LSTM(IN, H)
    inputs = torch.randn(T, B, IN)
    output, (h_n, c_n) = module(inputs)
    from_state = torch.autograd.grad(h_n.sum(), module.weight_hh_l0, retain_graph=True)[0]
    from_output = torch.autograd.grad(output[-1].sum(), module.weight_hh_l0, retain_graph=True)[0]
    eps = torch.finfo(torch.float32).eps  # one sum in another order: a few roundings of numbers of this size
    assert torch.allclose(from_state, from_output, rtol=0, atol=16 * eps * float(from_output.abs().max()))
    assert torch.autograd.grad(c_n.sum(), module.weight_hh_l0)[0].abs().sum() > 0


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inference_keeps_nothing(context: Callable[[], Any], tapes: list[Any]) -> None:
    module = rt.LSTM(IN, H)
    with context():
        output, (h_n, c_n) = module(torch.randn(T, B, IN))
    module.requires_grad_(False)(torch.randn(T, B, IN))
    assert not tapes
    assert not any(value.requires_grad for value in (output, h_n, c_n))


# Nothing for too long -------------------------------------------------------------------------------------------------


def test_the_tape_goes_with_the_graph(tapes: list[Any]) -> None:
    module = rt.LSTM(IN, H)
    inputs = torch.randn(T, B, IN)
    gc.collect()
    gc.disable()  # what is freed below is freed by reference counts: there is no cycle
    try:
        output, states = module(inputs)
        assert alive(tapes) == 1
        del output, states
        assert alive(tapes) == 0
        output = module(inputs)[0]
        output.sum().backward(retain_graph=True)
        assert alive(tapes) == 1
        output.sum().backward()
        assert alive(tapes) == 0  # as torch frees saved tensors, though the graph itself is still there
        with pytest.raises(RuntimeError, match="second time"):
            output.sum().backward()
    finally:
        gc.enable()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_holds_no_tape_and_draws_the_same_masks(reentrant: bool, tapes: list[Any]) -> None:
    module = rt.LSTM(IN, 32, 3, dropout=0.5)
    inputs = torch.randn(T, B, IN, requires_grad=True)
    torch.manual_seed(3)
    plain = torch.autograd.grad(module(inputs)[0].square().sum(), [inputs, *module.parameters()])
    tapes.clear()
    torch.manual_seed(3)
    output = checkpoint(lambda value: module(value)[0], inputs, use_reentrant=reentrant)
    assert alive(tapes) == 0
    output.square().sum().backward()
    got = [inputs.grad, *(parameter.grad for parameter in module.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))


@pytest.mark.parametrize("shift", [0, 1], ids=["aligned", "unaligned"])
def test_saved_tensor_hooks_that_copy_lead_to_the_same_gradients(shift: int, tapes: list[Any]) -> None:
    """What is saved is tensors, every byte of it: a hook may put it elsewhere and bring back a copy."""

    def copy(saved: torch.Tensor) -> torch.Tensor:
        if saved.dtype != torch.uint8:
            return saved.clone()
        room = torch.empty(saved.numel() + shift, dtype=torch.uint8)
        return room[shift:].copy_(saved)

    module = rt.GRU(IN, H, 2, dropout=0.5)
    inputs = torch.randn(T, B, IN)
    torch.manual_seed(3)
    plain = torch.autograd.grad(module(inputs)[0].sum(), list(module.parameters()))
    tapes.clear()
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(copy, lambda saved: saved):
        output = module(inputs)[0]
    assert alive(tapes) == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(torch.autograd.grad(output.sum(), list(module.parameters())), plain, strict=True)
    )


def test_backward_twice_gives_the_same_bits() -> None:
    module = rt.LSTM(IN, H, 2, bidirectional=True)
    output = module(torch.randn(T, B, IN))[0]
    first = torch.autograd.grad(output.sum(), list(module.parameters()), retain_graph=True)
    second = torch.autograd.grad(output.sum(), list(module.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Nothing silently wrong -----------------------------------------------------------------------------------------------


def change_input(module: Any, inputs: Any, output: Any) -> None:
    inputs.mul_(2)


def change_output(module: Any, inputs: Any, output: Any) -> None:
    output.detach().mul_(2)


def change_weight(module: Any, inputs: Any, output: Any) -> None:
    module.weight_hh_l0.mul_(2)


@pytest.mark.parametrize("change", [change_input, change_output, change_weight])
def test_in_place_changes_before_backward_raise(change: Callable[..., None]) -> None:
    module = rt.LSTM(IN, H)
    inputs = torch.randn(T, B, IN)
    output = module(inputs)[0]
    with torch.no_grad():
        change(module, inputs, output)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*change a clone\(\) of the output"):
        output.sum().backward()


def test_outputs_may_be_written_to_when_nothing_is_recorded() -> None:
    module = rt.LSTM(IN, H, batch_first=True).requires_grad_(False)
    output, (h_n, c_n) = module(torch.randn(B, T, IN))
    assert output.is_contiguous()
    for value in (output, h_n, c_n):
        value.add_(1)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "LSTMCell"])
def test_functorch_gradients_agree_with_autograd(name: str) -> None:
    module = getattr(rt, name)(IN, H)
    inputs = torch.randn(T, B, IN) if name != "LSTMCell" else torch.randn(B, IN)
    params = dict(module.named_parameters())

    def loss(params: dict[str, torch.Tensor], value: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, params, (value,))[0].square().sum()

    detached = {name: parameter.detach() for name, parameter in params.items()}
    got_params, got_inputs = torch.func.grad(loss, argnums=(0, 1))(detached, inputs)
    leaf = inputs.clone().requires_grad_()
    wanted = torch.autograd.grad(loss(params, leaf), [leaf, *params.values()])
    assert torch.equal(got_inputs, wanted[0])
    assert all(torch.equal(got_params[name], value) for name, value in zip(params, wanted[1:], strict=True))


def test_lazy_negation_is_seen() -> None:
    """The imaginary part of a conjugate is a view with a sign bit that DLPack does not carry."""
    module = rt.LSTM(IN, H)
    numbers = torch.complex(torch.randn(T, B, IN), torch.randn(T, B, IN))
    lazy = numbers.conj().imag
    assert lazy.is_neg()
    assert torch.equal(module(lazy)[0], module(lazy.clone())[0])


@pytest.mark.parametrize("layout", ["transposed", "every other", "broadcast"])
def test_strided_inputs_and_gradients(layout: str) -> None:
    module = rt.GRU(IN, H, 2, bidirectional=True)
    shape, view = {
        "transposed": ((IN, B, T), lambda base: base.permute(2, 1, 0)),
        "every other": ((2 * T, B, 2 * IN), lambda base: base[::2, :, ::2]),
        "broadcast": ((1, B, IN), lambda base: base.expand(T, B, IN)),
    }[layout]
    base = torch.randn(shape, requires_grad=True)
    given = view(base)
    assert not given.is_contiguous()
    leaves = [base, *module.parameters()]
    dy = torch.randn(B, 2 * H, T).permute(2, 0, 1)
    strided, dense = module(given)[0], module(given.contiguous())[0]
    assert torch.equal(strided, dense)
    got = torch.autograd.grad(strided, leaves, dy, retain_graph=True)
    wanted = torch.autograd.grad(dense, leaves, dy.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    got = torch.autograd.grad(strided.sum(), leaves, retain_graph=True)  # dy with strides of zero
    wanted = torch.autograd.grad(strided, leaves, torch.ones_like(strided))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_tied_weights_get_the_sum_of_their_gradients() -> None:
    module = rt.RNN(H, H, dtype=torch.float64)
    inputs = torch.randn(T, B, H, dtype=torch.float64)
    module.weight_hh_l0 = module.weight_ih_l0
    module(inputs)[0].sum().backward()
    tied = module.weight_ih_l0.grad
    apart = rt.RNN(H, H, dtype=torch.float64)
    apart.load_state_dict(module.state_dict())
    apart(inputs)[0].sum().backward()
    assert torch.equal(tied, apart.weight_ih_l0.grad + apart.weight_hh_l0.grad)
