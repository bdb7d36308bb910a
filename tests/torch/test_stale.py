"""No stale weights: however parameters are changed, the next call computes with the new values.

Each change below is applied to a module that has just been called. The answer must be, to the bit, that of a fresh
module holding the values the changed one has by then. Most of these changes move neither the address nor torch's
version counter, so a cache keyed on either would fail here. ``freeze()`` is the one way to ask for a pack that is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

import rnnkern.torch as rt
from rnnkern import _core, _engine

T, B, IN, H = 5, 2, 3, 4
NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


def build(name: str) -> Any:
    options: dict[str, Any] = {} if name.endswith("Cell") else {"num_layers": 2, "bidirectional": True}
    return getattr(rt, name)(IN, H, **options)


def run(module: Any) -> torch.Tensor:
    """The output on a fixed input."""
    name = type(module).__name__
    shape = (B, IN) if "Cell" in name else (T, B, IN)
    inputs = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)
    result = module(inputs)
    return result if isinstance(result, torch.Tensor) else result[0]


def train(module: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    run(module).square().sum().backward()
    optimizer.step()


def data_edit(module: Any) -> None:
    for parameter in module.parameters():
        parameter.data.mul_(2)


def data_element(module: Any) -> None:
    next(module.parameters()).data[0, 0] += 1


def data_assignment(module: Any) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data * 2


def copy_under_no_grad(module: Any) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.roll(1, 0))


def numpy_alias(module: Any) -> None:
    for parameter in module.parameters():
        parameter.detach().numpy()[...] *= 2


def load_state_dict(module: Any) -> None:
    module.load_state_dict({name: value * 2 for name, value in module.state_dict().items()})


def load_state_dict_assign(module: Any) -> None:
    module.load_state_dict({name: value * 2 for name, value in module.state_dict().items()}, assign=True)


def new_parameter(module: Any) -> None:
    module.weight_ih_l0 = torch.nn.Parameter(module.weight_ih_l0.detach() * 2)


def reset_parameters(module: Any) -> None:
    torch.manual_seed(99)
    module.reset_parameters()


def sgd(module: Any) -> None:
    train(module, torch.optim.SGD(module.parameters(), lr=1.0))


def fused_sgd(module: Any) -> None:
    train(module, torch.optim.SGD(module.parameters(), lr=1.0, momentum=0.5, fused=True))


def fused_adam(module: Any) -> None:
    train(module, torch.optim.Adam(module.parameters(), lr=1.0, fused=True))


def foreach_adam(module: Any) -> None:
    train(module, torch.optim.AdamW(module.parameters(), lr=1.0, foreach=True))


def ema_swap(module: Any) -> None:
    """The usual swap before evaluation: exchange the values of weights and averages in place."""
    average = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.5)
    for mine, other in zip(module.parameters(), average.parameters(), strict=True):
        kept = mine.data.clone()
        mine.data.copy_(other.data)
        other.data.copy_(kept)


def vector_to_parameters(module: Any) -> None:
    vector = torch.nn.utils.parameters_to_vector(module.parameters())
    torch.nn.utils.vector_to_parameters(vector.detach() * 2, module.parameters())


def move_and_back(module: Any) -> None:
    data_edit(module.double())
    module.float()


CHANGES: list[Callable[[Any], None]] = [
    data_edit, data_element, data_assignment, copy_under_no_grad, numpy_alias, load_state_dict, load_state_dict_assign,
    reset_parameters, sgd, fused_sgd, fused_adam, foreach_adam, ema_swap, vector_to_parameters, move_and_back,
]  # fmt: skip


def assert_fresh(name: str, module: Any, before: torch.Tensor) -> None:
    fresh = build(name)
    fresh.load_state_dict(module.state_dict())
    after = run(module)
    assert torch.equal(after, run(fresh))
    assert not torch.equal(after, before)
    with torch.no_grad():
        assert torch.equal(run(module), after)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_change_is_seen_by_the_next_call(name: str, change: Callable[[Any], None]) -> None:
    module = build(name)
    before = run(module)
    with torch.no_grad():
        run(module)
    change(module)
    assert_fresh(name, module, before)


def test_a_new_parameter_object_is_seen() -> None:
    module = build("LSTM")
    before = run(module)
    new_parameter(module)
    assert_fresh("LSTM", module, before)


@pytest.mark.parametrize("name", NAMES)
def test_functional_call_uses_what_it_is_given_and_leaves_nothing_behind(name: str) -> None:
    module = build(name)
    before = run(module)
    doubled = copy.deepcopy(module)
    data_edit(doubled)
    shape = (B, IN) if "Cell" in name else (T, B, IN)
    inputs = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)
    given = {key: value.clone().requires_grad_() for key, value in doubled.state_dict().items()}
    for frozen in (False, True):
        if frozen:
            module.requires_grad_(False).freeze()
        result = torch.func.functional_call(module, given, (inputs,))
        result = result if isinstance(result, torch.Tensor) else result[0]
        assert torch.equal(result, run(doubled))
        result.sum().backward()
        assert all(value.grad is not None for value in given.values())
        assert torch.equal(run(module), before)


@pytest.mark.parametrize(
    "kind", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_parametrized_weights_are_computed_at_each_call(kind: Any) -> None:
    module = rt.LSTM(IN, H)
    torch.manual_seed(0)
    kind(module, "weight_hh_l0")
    module.eval()  # spectral_norm iterates in training mode, and would differ from call to call
    before = run(module)
    plain = rt.LSTM(IN, H)
    with torch.no_grad():
        plain.load_state_dict({name: getattr(module, name) for name in plain.state_dict()})
    assert torch.equal(before, run(plain))
    before.sum().backward()
    originals = list(module.parametrizations.weight_hh_l0.parameters())
    assert all(parameter.grad is not None for parameter in originals)
    with torch.no_grad():
        for parameter in originals:
            parameter.add_(torch.linspace(0, 1, parameter.numel()).view(parameter.shape))
        plain.weight_hh_l0.copy_(module.weight_hh_l0)
    after = run(module)
    assert torch.equal(after, run(plain))
    assert not torch.equal(after, before)
    with pytest.raises(RuntimeError, match="parametrization"):
        module.freeze()
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    with torch.no_grad():
        assert torch.equal(run(module.freeze()), after)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_set_by_a_hook_are_seen() -> None:
    """torch.nn.utils.weight_norm, the older one, puts a plain tensor in the Parameter's place before each call."""
    module = torch.nn.utils.weight_norm(rt.GRU(IN, H), "weight_hh_l0")
    before = run(module)
    before.sum().backward()
    assert module.weight_hh_l0_g.grad is not None
    module.weight_hh_l0_g.data.mul_(3)
    after = run(module)
    torch.nn.utils.remove_weight_norm(module, "weight_hh_l0")
    assert torch.equal(run(module), after)
    assert not torch.equal(after, before)


def test_pruning_is_seen() -> None:
    module = rt.GRU(IN, H)
    before = run(module)
    prune.l1_unstructured(module, "weight_hh_l0", amount=0.5)
    after = run(module)
    prune.remove(module, "weight_hh_l0")
    assert torch.equal(run(module), after)
    assert not torch.equal(after, before)


def test_averaged_model_is_seen() -> None:
    module = rt.LSTM(IN, H)
    averaged = AveragedModel(module)
    averaged.update_parameters(module)
    before = run(averaged.module)
    data_edit(module)
    averaged.update_parameters(module)
    assert not torch.equal(run(averaged.module), before)
    fresh = rt.LSTM(IN, H)
    fresh.load_state_dict(averaged.module.state_dict())
    assert torch.equal(run(averaged.module), run(fresh))


# freeze() -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_freeze_packs_once_and_gives_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(name)
    with torch.no_grad():
        wanted = run(module)
        assert module.freeze() is module
        assert "frozen=True" in repr(module)

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("packed again")

        with monkeypatch.context() as patch:
            patch.setattr(_engine, "pack", refuse)
            assert torch.equal(run(module), wanted)
        assert module.unfreeze() is module
        assert "frozen" not in repr(module)
        data_edit(module)
        assert not torch.equal(run(module), wanted)


def test_a_frozen_module_keeps_its_pack_until_told_otherwise() -> None:
    """What freeze() is documented to cost; if this fails, the pack is not used and freeze() is pointless."""
    module = rt.LSTM(IN, H).freeze()
    with torch.no_grad():
        before = run(module)
        data_edit(module)
        assert torch.equal(run(module), before)
        assert not torch.equal(run(module.unfreeze()), before)


@pytest.mark.parametrize(
    "change", [load_state_dict, load_state_dict_assign, reset_parameters, new_parameter, move_and_back],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_changes_that_can_be_noticed_end_the_use_of_a_frozen_pack(change: Callable[[Any], None]) -> None:
    name = "LSTM"
    module = build(name).freeze()
    with torch.no_grad():
        before = run(module)
        change(module)
        assert_fresh(name, module, before)


def test_a_frozen_module_refuses_to_train() -> None:
    module = rt.LSTM(IN, H).freeze()
    with pytest.raises(RuntimeError, match=r"frozen.*unfreeze\(\)"):
        run(module)
    with torch.no_grad():
        wanted = run(module)
    module.requires_grad_(False)
    inputs = torch.linspace(-1, 1, T * B * IN).view(T, B, IN).requires_grad_()
    output = module(inputs)[0]
    assert torch.equal(output, wanted)
    output.sum().backward()
    assert inputs.grad is not None


def dropout_set(module: Any) -> None:
    module.dropout = 0.5


def recompute_set(module: Any) -> None:
    module.recompute = True


def nonlinearity_set(module: Any) -> None:
    module.mode = "RNN_RELU"


def double(module: Any) -> None:
    module.double()


def narrower(module: Any) -> None:
    module.input_size = IN - 1
    for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
        setattr(module, name, torch.nn.Parameter(getattr(module, name)[:, 1:].clone()))


def without_bias(module: Any) -> None:
    module.bias = False
    names = module._flat_weights_names
    for name in [name for name in names if name.startswith("bias")]:
        delattr(module, name)
        names.remove(name)


@pytest.mark.parametrize(
    "change", [dropout_set, recompute_set, nonlinearity_set, double, narrower, without_bias],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_what_a_call_is_is_asked_at_every_call(change: Callable[[Any], None]) -> None:
    """A module remembers the spec of its last call; it must not outlive what made it."""
    called, fresh = build("RNN"), build("RNN")
    fresh.load_state_dict(called.state_dict())
    inputs = torch.linspace(-1, 1, T * B * IN).view(T, B, IN)
    called(inputs)
    for module in (called, fresh):
        change(module)
    inputs = inputs[..., : called.input_size].to(called.weight_hh_l0.dtype)
    answers = []
    for module in (called, fresh):
        torch.manual_seed(1)
        y, h_n = module(inputs)
        answers.append((y, h_n, *torch.autograd.grad(y.square().sum(), list(module.parameters()))))
    assert all(map(torch.equal, *answers))
    specs = [module._check_weights(module._weights(), module._options())[1] for module in (called, fresh)]
    assert specs[0] == specs[1]


def test_a_forced_kernel_holds_from_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RNNKERN_KERNEL", raising=False)
    module = build("LSTM")
    first = run(module)
    monkeypatch.setenv("RNNKERN_KERNEL", "no_such_kernel")
    with pytest.raises(ValueError, match="no_such_kernel"):
        run(module)
    monkeypatch.setenv("RNNKERN_KERNEL", "cpu_scalar")
    run(module)
    monkeypatch.delenv("RNNKERN_KERNEL")
    assert torch.equal(run(module), first)


def test_what_a_module_remembers_is_neither_copied_nor_saved() -> None:
    module = build("GRU")
    run(module)
    module(torch.zeros(T, B, IN), lengths=[T] * B)
    for name in ("_known", "_short"):
        assert name in module.__dict__
        assert name not in copy.deepcopy(module).__dict__ and name not in module.__getstate__()
    module.unfreeze()
    assert "_known" not in module.__dict__ and "_short" not in module.__dict__


def test_weights_fit_or_are_looked_at_one_by_one() -> None:
    """``_core.fit`` says yes to dense tensors of the dtype and shapes in host memory alone."""
    types = (torch.Tensor, torch.nn.Parameter)
    right = [torch.zeros(3, 4), torch.nn.Parameter(torch.zeros(5))]
    shapes = ((3, 4), (5,))
    assert _core.fit(right, types, "float32", shapes) and _core.fit([], types, "float32", ())
    assert _core.fit([torch.zeros(4, 3).T, right[1]], types, "float32", shapes)
    with FakeTensorMode():
        fake = torch.zeros(3, 4)
    wrong: list[Any] = [
        torch.zeros(4, 3), torch.zeros(3, 4, 1), torch.zeros(3), torch.zeros(3, 4).double(), torch.zeros(3, 4).half(),
        torch.zeros(3, 4, device="meta"), torch.zeros(3, 4).to_sparse(), fake, right[0].numpy(), None, "no tensor",
    ]  # fmt: skip
    for other in wrong:
        assert not _core.fit([other, right[1]], types, "float32", shapes), other
    assert not _core.fit(right[:1], types, "float32", shapes)
    with pytest.raises(TypeError, match="shapes: expected tuples, got list"):
        _core.fit(right, types, "float32", ([3, 4], (5,)))  # type: ignore[arg-type]
