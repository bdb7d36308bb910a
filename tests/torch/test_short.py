"""Plain tensors are answered by one call of the library for each pass, by frozen modules and others: the bits, shapes
and errors of the other way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rnnkern.torch as rt
from rnnkern import _core

T, B, IN, H = 5, 3, 4, 6
LAYERS: dict[str, Callable[..., Any]] = {
    "rnn": lambda **k: rt.RNN(IN, H, 2, **k),
    "gru": lambda **k: rt.GRU(IN, H, 2, bidirectional=True, **k),
    "lstm": lambda **k: rt.LSTM(IN, H, 2, **k),
    "batch first": lambda **k: rt.LSTM(IN, H, batch_first=True, bidirectional=True, **k),
    "reverse": lambda **k: rt.GRU(IN, H, reverse=True, **k),
    "options": lambda **k: rt.LSTM(IN, H, proj_size=3, peephole=True, **k),
    "rnn cell": lambda **k: rt.RNNCell(IN, H, **k),
    "gru cell": lambda **k: rt.GRUCell(IN, H, **k),
    "lstm cell": lambda **k: rt.LSTMCell(IN, H, **k),
    "slstm cell": lambda **k: rt.sLSTMCell(IN, H, **k),
}


def flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for part in value for t in flat(part)]


def arguments(module: Any, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Any]:
    """x, and a state from a call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*((T, B, IN) if module._is_layer else (B, IN)), generator=generator, dtype=dtype)
    if module.batch_first:
        x = x.transpose(0, 1).contiguous()
    with torch.no_grad():
        state = module(x)
    return x, state[1] if module._is_layer else state


class Calls:
    """How often the library's one call gave the answer."""

    def __init__(self, module: Any) -> None:
        self.count = 0
        short = module._short_of(module._weights())
        if short is not None:
            self._inner = short.inference
            module._short = short._replace(inference=self)

    def try_tensors(self, *args: Any) -> Any:
        answer = self._inner.try_tensors(*args)
        self.count += answer is not None
        return answer


def without_short_calls(module: Any) -> Any:
    copied = copy.deepcopy(module)
    copied._short_answer = lambda *_: None
    return copied


def by_the_other_way(module: Any, *args: Any) -> Any:
    """The answer of a copy that knows no short way."""
    return without_short_calls(module)(*args)


def same(got: Any, wanted: Any) -> None:
    for one, other in zip(flat(got), flat(wanted), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype and one.shape == other.shape
        assert not one.requires_grad


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "unfrozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_the_bits_of_the_other_way(name: str, dtype: torch.dtype, frozen: bool) -> None:
    module = LAYERS[name](dtype=dtype)
    x, state = arguments(module, dtype)
    short = copy.deepcopy(module)
    calls = Calls(short.freeze() if frozen else short)
    with torch.no_grad():
        for hx in (None, state):
            wanted = by_the_other_way(module, x, hx)
            same(short(x, hx), wanted)
            wide = torch.empty(*x.shape[:-1], 2 * IN, dtype=dtype)[..., ::2].copy_(x)  # strides are read as they are
            same(short(wide, hx), wanted)
    unusual = dtype is torch.bfloat16 or name == "slstm cell" or (name == "options" and not frozen)
    assert calls.count == (0 if unusual else 4)


def test_weights_are_read_at_every_call() -> None:
    """A module that is not frozen sees weights changed in place, through ``.data``, replaced, and with a stride."""
    module = rt.LSTM(IN, H, 2, bidirectional=True)
    x, state = arguments(module)
    calls = Calls(module)
    with torch.no_grad():
        before = flat(module(x, state))
        for change in (
            lambda: module.weight_hh_l0.mul_(2),
            lambda: module.weight_ih_l1_reverse.data.add_(1),
            lambda: module.bias_hh_l1.copy_(torch.ones(4 * H)),
            lambda: setattr(module, "weight_hh_l1", torch.nn.Parameter(torch.zeros(4 * H, H))),
        ):
            change()
            now = flat(module(x, state))
            assert not torch.equal(before[0], now[0])
            same(now, by_the_other_way(module, x, state))
            before = now
        assert calls.count == 5
        module.weight_ih_l0.data = torch.randn(IN, 4 * H).t()
        same(module(x, state), by_the_other_way(module, x, state))
        assert calls.count == 5  # not contiguous


def test_what_is_unusual_goes_the_other_way() -> None:
    module = rt.LSTM(IN, H, 2, dropout=0.5).eval().freeze()
    x, (h, c) = arguments(module)
    calls = Calls(module)
    with torch.no_grad():
        wanted = flat(module(x, (h, c)))
        assert calls.count == 1
        module(x, [h, c])  # a list
        module(x[:, 0], None)  # unbatched
        module(x, (h, c), lengths=[5, 2, 0])
        module(torch.nn.Parameter(x), (h, c))
        torch.func.vmap(lambda one: module(one)[0], in_dims=1)(x[:, :, None])
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x)[0].dtype == torch.bfloat16
        module.train()
        assert not torch.equal(module(x)[0], module(x)[0])  # random masks
        module.eval()
        own = {name: value.detach().clone() * 2 for name, value in module.named_parameters()}
        assert not torch.equal(torch.func.functional_call(module, own, (x, (h, c)))[0], wanted[0])
        assert calls.count == 1
        module.batch_first = True
        swapped = module(x.transpose(0, 1).contiguous(), (h, c))
        assert torch.equal(swapped[0].transpose(0, 1), wanted[0])
        module.batch_first = False
        calls = Calls(module)
        module(x, (h, c))
        assert calls.count == 1
    with pytest.raises(RuntimeError, match="frozen"):
        module(x, (h, c))  # it would record gradients of its parameters
    module.requires_grad_(False)
    x.requires_grad_()
    module(x)[0].sum().backward()
    assert x.grad is not None and calls.count == 1
    with torch.inference_mode():
        assert module(x)[0].is_inference()


def test_answers_are_tensors_like_any_other() -> None:
    module = rt.LSTM(IN, H).freeze()
    x, state = arguments(module)
    calls = Calls(module)
    with torch.no_grad():
        y, (h, c) = module(x, state)
    assert calls.count == 1
    for answer in (y, h, c):
        assert answer.is_contiguous() and answer.untyped_storage().resizable()
    h.resize_(0)
    torch.cat([y, y], out=h)
    assert torch.equal(h, torch.cat([y, y]))


def test_what_changed_since_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = rt.LSTMCell(IN, H).freeze()
    x, state = arguments(cell)
    with torch.no_grad():
        monkeypatch.setenv("RNNKERN_KERNEL", "cpu_scalar")
        forced = copy.deepcopy(cell).freeze()
        monkeypatch.delenv("RNNKERN_KERNEL")
        same(forced(x, state), cell(x, state))  # the kernel of this call, not that of the pack
        without = copy.deepcopy(cell)
        without.bias = False
        unfrozen = copy.deepcopy(without).unfreeze()
        same(without.freeze()(x, state), unfrozen(x, state))
        cell.weight_hh.data = cell.weight_hh.data.double()
        with pytest.raises(RuntimeError, match=r"weight_hh.*dtype"):
            cell(x, state)


def test_state_without_memory() -> None:
    module = rt.GRU(IN, H).freeze()
    x, h = arguments(module)
    h = h.clone()
    h.untyped_storage().resize_(0)
    for each in (module, copy.deepcopy(module).unfreeze()):
        with torch.no_grad(), pytest.raises((ValueError, RuntimeError), match=r"memory|storage"):
            each(x, h)


@pytest.mark.parametrize(
    ("x", "hx", "kind", "words"),
    [
        (torch.zeros(T, B, IN + 1), None, RuntimeError, "input_size"),
        (torch.zeros(T, B, IN, dtype=torch.float64), None, ValueError, "dtype"),
        (torch.zeros(T, B, IN), torch.zeros(1, B + 1, H), RuntimeError, "Expected hidden size"),
        (torch.zeros(T, B, IN), torch.zeros(1, B, H, dtype=torch.float64), RuntimeError, "dtype|type"),
        ("text", None, TypeError, "input: expected a torch.Tensor"),
    ],
)
def test_the_same_errors(x: Any, hx: Any, kind: Any, words: str) -> None:
    module = rt.GRU(IN, H)
    said = []
    for each in (module, copy.deepcopy(module).freeze()):
        with torch.no_grad(), pytest.raises(kind, match=words) as error:
            each(x, hx)
        said.append(str(error.value))
    assert said[0] == said[1]


# --- training ---------------------------------------------------------------------------------------------------------


def losses(answer: Any) -> Tensor:
    """A number that weighs every output's every element on its own."""
    return sum((t * torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in flat(answer))  # type: ignore[return-value]


def is_short(answer: Any) -> bool:
    return "ShortRecurrence" in type(flat(answer)[0].grad_fn).__name__


@pytest.mark.parametrize("used", ["all", "first", "last"])
@pytest.mark.parametrize("with_state", [True, False], ids=["state", "zeros"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("options", "slstm cell")])
def test_gradients_have_the_bits_of_the_other_way(name: str, dtype: torch.dtype, with_state: bool, used: str) -> None:
    module = LAYERS[name](dtype=dtype)
    x, state = arguments(module, dtype)
    leaves = [x, *flat(state if with_state else ())]
    for leaf in leaves:
        leaf.requires_grad_()
    results = []
    for call in (module, without_short_calls(module)):
        answer = call(x, state) if with_state else call(x)
        assert is_short(answer) == (call is module)
        parts = flat(answer)
        loss = losses({"all": parts, "first": parts[:1], "last": parts[-1:]}[used])
        results.append((*parts, *torch.autograd.grad(loss, [*leaves, *call.parameters()], allow_unused=True)))
    for got, wanted in zip(*results, strict=True):
        assert (got is None) == (wanted is None) and (got is None or torch.equal(got, wanted))


@pytest.mark.parametrize("name", ["gru", "batch first", "lstm cell", "gru cell"])
def test_what_comes_in_above_a_short_call(name: str) -> None:
    """Second derivatives, batches of gradients, hooks that copy what is saved, and gradients of another kind."""
    module = LAYERS[name](dtype=torch.float64)
    x, state = arguments(module, torch.float64)
    x.requires_grad_()
    leaves = [x, *module.parameters()]

    def second(call: Any, params: Any) -> Any:
        grads = torch.autograd.grad(losses(call(x, state)), [x, *params], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), [x, *params])  # type: ignore[arg-type]

    copied = without_short_calls(module)
    eps = torch.finfo(torch.float64).eps
    for got, wanted in zip(second(module, leaves[1:]), second(copied, list(copied.parameters())), strict=True):
        assert torch.allclose(got, wanted, rtol=64 * eps, atol=64 * eps * float(wanted.abs().max()))

    answer = flat(module(x, state))[0]
    assert is_short(answer)
    seeds = torch.randn(3, *answer.shape, dtype=answer.dtype)
    batched = torch.autograd.grad(answer, leaves, seeds, is_grads_batched=True, retain_graph=True)
    for k in range(3):
        alone = torch.autograd.grad(answer, leaves, seeds[k], retain_graph=True)
        for got, wanted in zip(batched, alone, strict=True):
            assert torch.allclose(got[k], wanted, rtol=64 * eps, atol=64 * eps * float(wanted.abs().max()))

    plain = torch.autograd.grad(answer, leaves, seeds[0], retain_graph=True)
    strange = torch._neg_view(-seeds[0])
    assert strange.is_neg()
    assert all(map(torch.equal, torch.autograd.grad(answer, leaves, strange, retain_graph=True), plain))
    apart = torch.empty(*answer.shape, 2, dtype=answer.dtype)[..., 0].copy_(seeds[0])
    assert not apart.is_contiguous()
    assert all(map(torch.equal, torch.autograd.grad(answer, leaves, apart), plain))

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        answer = flat(module(x, state))[0]
    assert all(map(torch.equal, torch.autograd.grad(answer, leaves, seeds[0]), plain))


def test_a_saved_tensor_that_changed_is_noticed() -> None:
    cell = LAYERS["gru cell"]()
    x, h = arguments(cell)
    answer = cell(x, h)
    assert is_short(answer)
    answer.mul_(2)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*clone"):
        answer.sum().backward()


@pytest.mark.parametrize("name", ["lstm", "lstm cell"])
def test_a_weight_of_another_shape_in_backward_is_refused(name: str) -> None:
    """``.data`` can be replaced after the forward, which no version counter sees."""
    module = LAYERS[name]()
    weight = next(p for key, p in module.named_parameters() if key.startswith("weight_hh"))
    loss = losses(module(*arguments(module)))
    weight.data = weight.data[:2].clone()
    with pytest.raises((RuntimeError, ValueError), match="weight_hh: expected"):
        loss.backward()
    module = LAYERS[name]()
    bias = next(p for key, p in module.named_parameters() if key.startswith("bias_ih"))
    loss = losses(module(*arguments(module)))
    bias.data = torch.zeros(1)
    with pytest.raises((RuntimeError, ValueError), match="bias_ih: expected"):
        loss.backward()


def test_a_reserve_that_comes_back_strided_is_refused() -> None:
    def apart(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, tensor], -1)[..., 0] if tensor.dtype == torch.uint8 else tensor

    cell = LAYERS["gru cell"]()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, apart):
        loss = losses(cell(*arguments(cell)))
    with pytest.raises(ValueError, match="reserve: expected one contiguous axis"):
        loss.backward()


def test_frozen_modules_refuse_gradients_of_parameters_and_give_others() -> None:
    cell = LAYERS["lstm cell"]().freeze()
    x, state = arguments(cell)
    with pytest.raises(RuntimeError, match="is frozen"):
        cell(x, state)
    cell.requires_grad_(False)
    x.requires_grad_()
    cell(x, state)[0].sum().backward()
    assert x.grad is not None


# --- packs that are kept ----------------------------------------------------------------------------------------------


def by_data(weight: Tensor) -> None:
    weight.data = weight.data * 2


def in_place(weight: Tensor) -> None:
    with torch.no_grad():
        weight.mul_(0.5)


def behind_torchs_back(weight: Tensor) -> None:
    weight.detach().numpy().reshape(-1)[-1] += 1


def one_bit(weight: Tensor) -> None:
    weight.detach().numpy().view("uint8").reshape(-1)[0] ^= 1


def sign_of_zero(weight: Tensor) -> None:
    weight.detach().numpy().reshape(-1)[3] *= -1


def two_swapped(weight: Tensor) -> None:
    values = weight.detach().numpy().reshape(-1)
    values[[0, 1]] = values[[1, 0]]


@pytest.mark.parametrize(
    "change", [by_data, in_place, behind_torchs_back, one_bit, sign_of_zero, two_swapped], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("which", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
@pytest.mark.parametrize("name", ["lstm cell", "batch first"])
def test_a_pack_is_kept_for_the_same_weights_alone(name: str, which: str, change: Callable[[Tensor], None]) -> None:
    """From the second call with the same bytes on; whoever changes a weight, however, the next call reads it."""
    module = LAYERS[name]()
    x, state = arguments(module)
    weight = next(p for key, p in module.named_parameters() if key.startswith(which))
    weight.detach().numpy().reshape(-1)[3] = 0.0
    with torch.no_grad():
        for _ in range(3):
            same(module(x, state), by_the_other_way(module, x, state))
        # A single step reads weights where they are; a digest is fast with AVX2.
        assert module._short.inference.keeps == (module._is_layer and "avx2" in _core.cpu_features())
        before = flat(module(x, state))
        change(weight)
        for _ in range(3):
            after = module(x, state)
            same(after, by_the_other_way(module, x, state))
        if change not in (one_bit, sign_of_zero):
            assert not all(map(torch.equal, flat(after), before))


def key_of_word(index: int) -> int:
    """csrc/python/digest.h, kKeys."""
    x = (index + 1) * 0x9E3779B97F4A7C15 % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def test_changes_that_a_product_of_halves_does_not_see() -> None:
    """Where the upper half of a word is 1 after its key, the product is the lower half: with the word itself added in
    the same lane, bits of the lower half cancel where the key has ones."""
    layer = rt.LSTM(64, 64)
    x = torch.randn(3, 2, 64)
    words = layer.weight_ih_l0.detach().numpy().view("uint32").reshape(-1, 2)
    tried = 0
    with torch.no_grad():
        for index in range(512):
            key = key_of_word(index)
            high, mask = key >> 32 ^ 1, key & 0x807FFFFF  # the exponent of the lower half stays
            if not 0x3C000000 < high & 0x7FFFFFFF < 0x3E000000 or not key & 0x80000000:
                continue
            tried += 1
            words[index] = 0x3D4CCCCD, high
            for _ in range(2):
                layer(x)
            words[index, 0] ^= mask
            same(layer(x), by_the_other_way(layer, x))
    assert tried > 2


def test_training_lets_go_of_the_pack() -> None:
    layer = LAYERS["gru"]()
    x, _ = arguments(layer)
    with torch.no_grad():
        layer(x), layer(x)
        assert layer._short.inference.keeps == ("avx2" in _core.cpu_features())
    layer(x)
    assert not layer._short.inference.keeps


def test_weights_that_change_at_every_call_are_not_packed() -> None:
    module = LAYERS["gru"]()
    x, state = arguments(module)
    with torch.no_grad():
        for step in range(4):
            module.weight_hh_l0.add_(step + 1)
            same(module(x, state), by_the_other_way(module, x, state))
            assert not module._short.inference.keeps


def test_functional_calls_share_a_module_and_no_answer() -> None:
    """Two sets of weights in turn, as EMA has them."""
    module = LAYERS["lstm"]()
    x, state = arguments(module)
    other = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    with torch.no_grad():
        wanted = [by_the_other_way(module, x, state), torch.func.functional_call(module, other, (x, state))]
        for _ in range(3):
            for _ in range(2):
                same(module(x, state), wanted[0])
            same(torch.func.functional_call(module, other, (x, state)), wanted[1])
