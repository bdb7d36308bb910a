"""rnnkern.torch under torch's transforms: operators, second derivatives, forward mode, vmap and torch.func.

The judge is the composed form written once more here, over torch.nn's own functions, in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import rnnkern.torch as rt
from rnnkern.torch import composed, kernels, operators
from torch_cases import IN, LAYERS, LENGTHS, Answer, B, H, Seen, T, arguments, flat, given, make, near

# torch scripts its own decompositions at the first use of forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


# Second derivatives and forward mode ----------------------------------------------------------------------------------


@pytest.fixture(params=["plain", "operator"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """By the plain autograd.Function, and by the operators (a mode is on)."""
    if request.param == "plain":
        yield "plain"
    else:
        with Seen():
            yield "operator"


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", LAYERS)
def test_composed_form_is_the_kernels(name: str, lengths: Tensor | None) -> None:
    x, h_0, c_0, params, _, masks, *rest = arguments(name, lengths, False)
    around = kernels.Around(lengths, kernels.masks_of(masks))
    got = composed.layer(x, h_0, c_0, params, kernels.Options(*rest), around)
    wanted = operators.layer(x, h_0, c_0, params, lengths, masks, *rest)
    near([a for a in got if a is not None], [a for a in wanted if a.numel()])


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "GRU stack", "LSTM dropout"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.usefixtures("way")
def test_gradcheck_and_gradgradcheck(name: str, lengths: Tensor | None) -> None:
    module = make(name)[0]
    x, hx = given(name)
    names, params = zip(*module.named_parameters(), strict=True)

    def call(x: Tensor, *values: Tensor) -> Answer:
        torch.manual_seed(4)  # of the masks
        state = values[:2] if "LSTM" in name else values[0]
        rest = values[2:] if "LSTM" in name else values[1:]
        weights = dict(zip(names, rest, strict=True))
        return flat(functional_call(module, weights, (x, state), {"lengths": lengths}))

    states = hx if isinstance(hx, tuple) else (hx,)
    inputs = [t.detach().clone().requires_grad_() for t in (x, *states, *params)]
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.usefixtures("way")
def test_third_derivatives() -> None:
    module, reference = make("GRU")
    x = given("GRU")[0]
    answers = []
    for m in (module, reference):
        value = x.clone().requires_grad_()
        total = m(value)[0].square().sum()
        for _ in range(3):
            (first,) = torch.autograd.grad(total, value, create_graph=True)
            total = first.pow(3).sum()
        answers.append(first)
    near(answers[:1], answers[1:], 4096)


@pytest.mark.parametrize("batched", [False, True])
def test_derivatives_of_no_steps(batched: bool) -> None:
    """h_n is h_0 then; all other derivatives are zero, and there."""
    module = make("GRU")[0]
    x, h_0 = given("GRU")
    x, h_0 = x[:0].requires_grad_(), h_0.requires_grad_()
    y, h_n = module(x, h_0)
    seed = torch.ones(2, *h_n.shape, dtype=x.dtype) if batched else torch.ones_like(h_n)
    wanted = [x, h_0, *module.parameters()]
    first, of_h, *others = torch.autograd.grad(h_n, wanted, seed, create_graph=True, is_grads_batched=batched)
    assert torch.equal(of_h, seed) and not first.any() and not any(g.any() for g in others)
    total = y.sum() + h_n.square().sum() + of_h.sum()
    assert torch.equal(torch.autograd.grad(total, h_0)[0], 2 * h_0)


def test_second_derivatives_that_are_zero_are_there() -> None:
    module = rt.RNN(3, 4, activations=("leakyrelu",), dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    assert not torch.autograd.grad(first.sum(), x)[0].any()


def test_a_gradient_inside_of_a_checkpoint() -> None:
    """As models of energies and forces do: what is saved is asked for once."""
    module, reference = make("LSTM")
    x = given("LSTM")[0]
    answers = []
    for m in (module, reference):

        def force(x: Tensor, m: Any = m) -> Tensor:
            return torch.autograd.grad(m(x)[0].square().sum(), x, create_graph=True)[0]

        value = x.clone().requires_grad_()
        wanted = [value, *m.parameters()]
        checkpointed: Any = checkpoint(force, value, use_reentrant=False)
        answers.append(torch.autograd.grad(checkpointed.square().sum(), wanted, allow_unused=True))
    near(*(answer[:3] for answer in answers), 4096)


def test_frozen_weights_take_no_part_in_second_derivatives() -> None:
    module, reference = make("GRU")
    x = given("GRU")[0]
    answers = []
    for m in (module, reference):
        m.requires_grad_(False)
        m.weight_hh_l0.requires_grad_()
        value = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(m(value)[0].square().sum(), value, create_graph=True)
        first.square().sum().backward()
        answers.append((value.grad, m.weight_hh_l0.grad))
        assert all(p.grad is None for name, p in m.named_parameters() if name != "weight_hh_l0")
    near(*answers, 4096)


def test_first_derivatives_with_a_graph_are_the_kernels_own() -> None:
    module = make("LSTM")[0]
    x = given("LSTM")[0].requires_grad_()
    y = module(x)[0]
    (with_graph,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (without,) = torch.autograd.grad(module(x)[0].sum(), x)
    assert with_graph.requires_grad and torch.equal(with_graph, without)


def test_an_input_that_depends_on_a_parameter() -> None:
    """The derivative by a parameter counts its use in the layer once, though x leads to it as well."""
    module, reference = make("LSTM")
    answers = []
    for m in (module, reference):
        x = torch.ones(T, B, 1, dtype=torch.float64) * m.weight_ih_l0[0] ** 2
        y = m(x)[0]
        grads = torch.autograd.grad(y.square().sum(), [x, m.weight_ih_l0], create_graph=True)
        answers.append(torch.autograd.grad(sum(g.pow(2).sum() for g in grads), list(m.parameters())))
    near(*answers, 4096)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", LAYERS)
def test_forward_mode(name: str, lengths: Tensor | None) -> None:
    """Every tangent is the directional derivative, and none is zero."""
    module = make(name)[0].eval()
    x, hx = given(name)
    states = hx if isinstance(hx, tuple) else (hx,)
    names, params = zip(*module.named_parameters(), strict=True)
    primals = tuple(p.detach() for p in (x, *states, *params))
    tangents = tuple(torch.randn_like(p) for p in primals)

    def call(x: Tensor, *values: Tensor) -> Answer:
        state = values[:2] if "LSTM" in name else values[0]
        weights = dict(zip(names, values[len(states) :], strict=True))
        return flat(functional_call(module, weights, (x, state), {"lengths": lengths}))

    answers, got = jvp(call, primals, tangents)
    for i, answer in enumerate(answers):
        leaves = [p.clone().requires_grad_() for p in primals]
        seed = torch.randn_like(answer)
        grads = torch.autograd.grad((call(*leaves)[i] * seed).sum(), leaves, allow_unused=True)
        wanted = sum((g * t).sum() for g, t in zip(grads, tangents, strict=True) if g is not None)
        near([(got[i] * seed).sum()], [wanted], 4096)
        assert got[i].abs().sum() > 0
    module.train()  # with masks, if it drops
    assert all(t.isfinite().all() for t in jvp(call, primals, tangents)[1])
    module.eval()
    with forward_ad.dual_level(), torch.no_grad():
        duals = [forward_ad.make_dual(p, t) for p, t in zip(primals, tangents, strict=True)]
        near([forward_ad.unpack_dual(a).tangent for a in call(*duals)], got)
        plain = module(x)[0]  # nothing dual among its arguments: the kernel
        assert forward_ad.unpack_dual(plain).tangent is None


def test_an_operator_refuses_tangents_it_would_lose() -> None:
    module = make("LSTM")[0]
    x = given("LSTM")[0]
    with forward_ad.dual_level(), torch.no_grad():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="no forward-mode formula"):
            operators.layer(dual, None, None, module._weights(), None, None, *module._options())


@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_cells(name: str) -> None:
    torch.manual_seed(0)
    module = getattr(rt, name)(IN, H, dtype=torch.float64)
    reference = getattr(torch.nn, name)(IN, H, dtype=torch.float64)
    reference.load_state_dict(module.state_dict())
    x, t = torch.randn(2, B, IN, dtype=torch.float64)

    def first(m: Any) -> Callable[[Tensor], Tensor]:
        return lambda value: m(value)[0] if name == "LSTMCell" else m(value)

    near(jvp(first(module), (x,), (t,)), jvp(first(reference), (x,), (t,)))
    near([jacrev(first(module))(x)], [jacrev(first(reference))(x)])
    near([vmap(first(module))(x[:, None])], [first(reference)(x)[:, None]])
    module(x.requires_grad_())
    (gradient,) = torch.autograd.grad(first(module)(x).square().sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(first(reference)(x).square().sum(), x, create_graph=True)
    near(torch.autograd.grad(gradient.square().sum(), x), torch.autograd.grad(wanted.square().sum(), x), 512)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM stack"])
def test_jacobians_and_hessians(name: str) -> None:
    module, reference = make(name)
    x = given(name)[0][:2, :2]
    for transform in (jacrev, jacfwd, hessian):
        near(
            [transform(lambda v: module(v)[0].square().sum((0, 1)))(x)],
            [transform(lambda v: reference(v)[0].square().sum((0, 1)))(x)],
            1024,
        )


@pytest.mark.parametrize("name", ["RNN", "GRU"])
@pytest.mark.usefixtures("way")
def test_a_tangent_that_comes_in_above_the_layer(name: str) -> None:
    """Forward over reverse, the tangent in what follows: the gradient's own tangent must not be lost."""
    tangents = []
    for m in make(name):
        x, (head, v) = (
            given(name)[0],
            torch.randn(2, H, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
        )
        with forward_ad.dual_level():
            loss = ((m(x)[0] * forward_ad.make_dual(head.clone(), v.clone())).sum(-1) ** 2).sum()
            grads = torch.autograd.grad(loss, list(m.parameters()))
            tangents.append([forward_ad.unpack_dual(g).tangent for g in grads])
    assert all(t is not None and t.abs().sum() > 0 for t in tangents[0])
    near(*tangents, 1024)


def _first(back: Any, seed: Tensor) -> Tensor:
    return back(seed)[0]  # type: ignore[no-any-return]


def test_what_looks_on_only_after_the_forward() -> None:
    """vmap, a trace and a mode that begin above an eager layer reach its backward."""
    module, reference = make("GRU")
    answers = []
    for m in (module, reference):
        x = given("GRU")[0].requires_grad_()
        y = m(x)[0]
        seeds = torch.stack([torch.ones_like(y), 2 * torch.ones_like(y)])
        back = functools.partial(torch.autograd.grad, y, x, retain_graph=True)
        answers.append(list(make_fx(functools.partial(_first, back))(seeds[0])(seeds[1])[None]))
        if m is module:
            near([vmap(functools.partial(_first, back))(seeds)[1]], answers[0])
            with Seen() as seen:
                back(seeds[0])
            assert seen.names == ["layer_backward"]
    near(*answers, 512)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_hold_the_operator() -> None:
    """torch.jit.trace and make_fx, with lengths as an input: nothing of this call is baked in."""
    module = make("LSTM")[0].requires_grad_(False)
    x, other = torch.randn(2, T, B, IN, dtype=torch.float64).unbind()
    n, fewer = torch.tensor([4, 2, 3]), torch.tensor([1, 0, 4])

    def call(x: Tensor, lengths: Tensor) -> Tensor:
        return module(x, lengths=lengths)[0]  # type: ignore[no-any-return]

    wanted = call(other, fewer)
    assert torch.equal(make_fx(call)(x, n)(other, fewer), wanted)
    assert torch.equal(torch.jit.trace(call, (x, n))(other, fewer), wanted)


def test_fake_tensors_know_shapes_alone() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = make("LSTM", torch.float32)[0]
    with FakeTensorMode(allow_non_fake_inputs=True):
        y, (h_n, _) = module(torch.empty(50, 7, IN), lengths=torch.empty(7, dtype=torch.int64))
    assert (y.shape, h_n.shape) == ((50, 7, H), (1, 7, H))


def test_bad_lengths_are_seen_on_the_composed_form() -> None:
    module = make("GRU")[0]
    x = given("GRU")[0]
    outside = torch.tensor([9, 1, 1])
    for lengths in (lambda: outside, lambda: torch.tensor([9, 1, 1])):
        with pytest.raises(ValueError, match=r"lengths\[0\]: expected 0 <= length <= T = 4, got 9"):
            jvp(lambda v, lengths=lengths: module(v, lengths=lengths())[0], (x,), (x,))


# vmap -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "GRU stack", "LSTM stack"])
@pytest.mark.parametrize("axis", [0, 2])
def test_vmap_over_inputs_is_one_call(name: str, axis: int) -> None:
    module = make(name)[0]
    x, hx = given(name, (5,))
    states = hx if isinstance(hx, tuple) else (hx,)

    def call(x: Tensor, *states: Tensor) -> Answer:
        return flat(module(x, states if "LSTM" in name else states[0]))

    with Seen() as seen, torch.no_grad():
        got = vmap(call, in_dims=(axis, *[0] * len(states)))(x.movedim(0, axis), *states)
    assert seen.names == ["layer"]
    plain = [call(x[i], *(s[i] for s in states)) for i in range(5)]
    for k, answer in enumerate(got):
        assert torch.equal(answer, torch.stack([p[k] for p in plain]))  # a row's bits do not depend on its company
    lengths = torch.randint(0, T + 1, (5, B))
    mapped = vmap(lambda x, n: flat(module(x, lengths=n)))(x, lengths)
    plain = [flat(module(x[i], lengths=lengths[i])) for i in range(5)]
    for k, answer in enumerate(mapped):
        assert torch.equal(answer, torch.stack([p[k] for p in plain]))


@pytest.mark.parametrize("name", ["GRU", "LSTM stack"])
def test_ensembles(name: str) -> None:
    """vmap over stacked parameters: each member's own bits, with gradients."""
    members = [make(name)[0] for _ in range(3)]
    for i, member in enumerate(members):
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.add_(0.1 * i)
    params, buffers = stack_module_state(members)
    x = given(name)[0]

    def call(params: Any, x: Tensor) -> Tensor:
        return functional_call(members[0], (params, buffers), (x,))[0]

    got = vmap(call, in_dims=(0, None))(params, x)
    assert torch.equal(got, torch.stack([member(x)[0] for member in members]))
    got.square().sum().backward()
    for i, member in enumerate(members):
        member(x)[0].square().sum().backward()
        for key, parameter in member.named_parameters():
            assert torch.equal(params[key].grad[i], parameter.grad)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM", "LSTM stack"])
def test_per_sample_gradients(name: str) -> None:
    module = make(name)[0]
    x = given(name)[0]
    params = {key: value.detach() for key, value in module.named_parameters()}

    def loss(params: Any, row: Tensor) -> Tensor:
        return functional_call(module, params, (row[:, None],))[0].square().sum()

    got = vmap(grad(loss), in_dims=(None, 1))(params, x)
    for i in range(B):
        wanted = torch.autograd.grad(module(x[:, i : i + 1])[0].square().sum(), list(module.parameters()))
        for key, value in zip(params, wanted, strict=True):
            assert torch.equal(got[key][i], value)


def test_vmap_with_dropout() -> None:
    module = make("LSTM dropout")[0]
    x = given("LSTM dropout", (4,))[0]
    torch.manual_seed(1)
    same = vmap(lambda v: module(v)[0], randomness="same")(x)
    torch.manual_seed(1)
    assert torch.equal(same, torch.stack([_again(module, v) for v in x]))
    with pytest.raises(RuntimeError, match="random"):
        vmap(lambda v: module(v)[0])(x)


def _again(module: Any, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    return module(x)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_batched_cotangents_of_torchs_older_vmap(name: str) -> None:
    """``is_grads_batched=True``, and what torch builds on it: Jacobians and Hessians, one row after the other."""
    module, reference = make(name)
    x, hx = given(name)
    answers = []
    for m in (module, reference):
        value = x.clone().requires_grad_()
        output = m(value, hx)[0]
        seeds = torch.randn(5, *output.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
        wanted = [value, *m.parameters()]
        batched = torch.autograd.grad(output, wanted, seeds, is_grads_batched=True, retain_graph=True)
        rows = [torch.autograd.grad(output, wanted, seed, retain_graph=True) for seed in seeds]
        near(batched, [torch.stack(parts) for parts in zip(*rows, strict=True)], 512)

        def total(v: Tensor, m: Any = m) -> Tensor:
            return m(v, hx)[0].pow(3).sum()

        hessian = torch.autograd.functional.hessian(total, x[:2], vectorize=True)
        near([hessian], [torch.autograd.functional.hessian(total, x[:2])], 4096)
        # A graph of the batched gradients themselves.
        jacobian = torch.autograd.functional.jacobian(
            lambda v, m=m: m(v, hx)[0].sum(-1), value[:2], create_graph=True, vectorize=True
        )
        (through,) = torch.autograd.grad(jacobian.square().sum(), value)
        answers.append((*batched, hessian, through))
    near(*answers, 4096)


def test_batched_cotangents_where_operators_ran() -> None:
    module = make("LSTM")[0]
    x = given("LSTM")[0].requires_grad_()
    with Seen() as seen:
        output = module(x)[0]
    assert "layer_train" in seen.names
    seeds = torch.randn(3, *output.shape, dtype=x.dtype)
    (batched,) = torch.autograd.grad(output, x, seeds, is_grads_batched=True, retain_graph=True)
    rows = [torch.autograd.grad(output, x, seed, retain_graph=True)[0] for seed in seeds]
    near([batched], [torch.stack(rows)], 512)
