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
from torch.utils._python_dispatch import TorchDispatchMode

import rnnkern.torch as rt
from rnnkern.torch import autograd, composed, kernels, operators

# torch scripts its own decompositions at the first use of forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

T, B, IN, H = 4, 3, 2, 3
LENGTHS = torch.tensor([2, 4, 0])
Answer = tuple[Tensor, ...]

LAYERS: dict[str, dict[str, Any]] = {
    "RNN": {},
    "RNN relu": {"nonlinearity": "relu"},
    "GRU": {},
    "LSTM": {},
    "GRU stack": {"num_layers": 2, "bidirectional": True},
    "LSTM stack": {"num_layers": 2, "bidirectional": True, "bias": False},
    "LSTM dropout": {"num_layers": 2, "dropout": 0.5},
    "LSTM recompute": {},
}


def make(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """rnnkern's module and torch.nn's with the same parameters."""
    torch.manual_seed(0)
    kind = name.split()[0]
    module = getattr(rt, kind)(IN, H, dtype=dtype, **LAYERS[name])
    module.recompute = name.endswith("recompute")
    reference = getattr(torch.nn, kind)(IN, H, dtype=dtype, **LAYERS[name])
    reference.load_state_dict(module.state_dict())
    return module, reference


def flat(result: Any) -> Answer:
    y, state = result
    return (y, *(state if isinstance(state, tuple) else (state,)))


def given(name: str, lead: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> tuple[Tensor, Any]:
    """x and hx, with more axes in front."""
    module = make(name)[0]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*lead, T, B, IN, dtype=dtype, generator=generator)
    rows = module.num_layers * (2 if module.bidirectional else 1)
    states = [torch.randn(*lead, rows, B, H, dtype=dtype, generator=generator) for _ in range(1 + ("LSTM" in name))]
    return x, tuple(states) if len(states) == 2 else states[0]


def arguments(name: str, lengths: Tensor | None, requires_grad: bool) -> tuple[Any, ...]:
    """Of torch.ops.rnnkern.layer."""
    module = make(name)[0]
    x, hx = given(name)
    h_0, c_0 = hx if isinstance(hx, tuple) else (hx, None)
    tensors = [t if t is None else t.clone().requires_grad_(requires_grad) for t in (x, h_0, c_0)]
    params = [p.detach().clone().requires_grad_(requires_grad) for p in module._weights()]
    masks = torch.tensor([5, 6]) if module.dropout else None
    return (*tensors, params, lengths, masks, *module._options())


def near(got: Any, wanted: Any, factor: float = 64) -> None:
    """Both in float64, a few hundred operations apart."""
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        bound = factor * torch.finfo(b.dtype).eps * (1 + float(b.detach().abs().max()))
        assert float((a - b).detach().abs().max()) <= bound


# The operators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", LAYERS)
def test_operators_pass_torchs_own_checks(name: str, lengths: Tensor | None) -> None:
    """Schema, fake tensors, autograd registration and AOTAutograd with symbols, by torch.library.opcheck."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    both = [arguments(name, lengths, need) for need in (False, True)]
    for call in both:
        torch.library.opcheck(operators.layer, call, test_utils=tests)
        # Not compared between two runs: of the reserve, what a row's padding would have filled is whatever was there.
        torch.library.opcheck(operators.layer_train, call, test_utils=tests[:3])
    call = both[0]
    y, _, c_n, reserve = operators.layer_train(*call)
    dc_n = torch.ones_like(c_n) if "LSTM" in name else None
    x, h_0, c_0, params, *rest = call
    needs = [value is not None for value in (x, h_0, c_0, *params)]
    back = (torch.ones_like(y), None, dc_n, x, h_0, c_0, params, y, reserve, *rest, needs)
    torch.library.opcheck(operators.layer_backward, back, test_utils=tests[:3])


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", LAYERS)
def test_operators_give_the_bits_of_the_plain_way(name: str, lengths: Tensor | None) -> None:
    call = arguments(name, lengths, True)
    x, h_0, c_0, params, _, masks, *rest = call
    options = kernels.Options(*rest)
    spec = kernels.spec_for(options, x, params)
    rows = None if lengths is None else lengths.numpy()
    direct = autograd.Call(options, spec, rows, masks, True)
    outputs = [
        [value for value in way if value is not None and value.numel()]
        for way in (operators.layer(*call), autograd.recurrence(direct, x, h_0, c_0, params))
    ]
    inputs = [t for t in (x, h_0, c_0, *params) if t is not None]
    grads = [torch.autograd.grad([o.square().sum() for o in output], inputs) for output in outputs]
    for a, b in zip(outputs[0] + list(grads[0]), outputs[1] + list(grads[1]), strict=True):
        assert torch.equal(a, b)


def test_operators_check_their_arguments() -> None:
    x, h_0, c_0, params, _, masks, *rest = arguments("LSTM", None, False)
    wrong: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
        (RuntimeError, r"expected x \[T, B, I\] and 2 or 4 parameters", (x[0], h_0, c_0, params, None, masks)),
        (RuntimeError, r"2 or 4 parameters, got .* and 3", (x, h_0, c_0, params[:3], None, masks)),
        (RuntimeError, "weight_ih_l0: expected", (x[..., :1].contiguous(), h_0, c_0, params, None, masks)),
        (RuntimeError, "bias_hh_l0: expected", (x, h_0, c_0, [*params[:3], params[3][:-1]], None, masks)),
        (RuntimeError, "weight_ih_l0: expected .*float32", (x.float(), h_0, c_0, params, None, masks)),
        (NotImplementedError, "expected one of float32", (x.cfloat(), h_0, c_0, params, None, masks)),
        (ValueError, r"lengths\[1\]: expected 0 <= length <= T = 4, got 9", (
            x, h_0, c_0, params, torch.tensor([1, 9, 1]), masks,
        )),
        (ValueError, r"h_0: expected shape", (x, h_0[:, :1], c_0, params, None, masks)),
    ]  # fmt: skip
    for error, sentence, call in wrong:
        with pytest.raises(error, match=sentence):
            operators.layer(*call, *rest)


class Seen(TorchDispatchMode):
    """The names of rnnkern's operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "rnnkern":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def test_modes_see_one_operator_for_each_call() -> None:
    module, reference = make("LSTM stack", torch.float32)
    x, hx = given("LSTM stack", dtype=torch.float32)
    with Seen() as seen:
        y = module(x, hx)[0]
        y.sum().backward()
        with torch.no_grad():
            module(x)
        module(x.new_zeros(0, B, IN))
    assert seen.names == ["layer_train", "layer_backward", "layer", "layer_train"]
    assert torch.allclose(y, reference(x, hx)[0], atol=1e-6)


def test_tensors_of_other_classes_see_an_operator() -> None:
    names: list[str] = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(getattr(func, "__name__", str(func)))
            return super().__torch_function__(func, types, args, kwargs or {})

    module = make("GRU", torch.float32)[0]
    y = module(torch.randn(T, B, IN).as_subclass(Logged))[0]
    assert isinstance(y, Logged)
    assert any("layer" in name for name in names)


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
    got = composed.layer(x, h_0, c_0, params, lengths, kernels.masks_of(masks), kernels.Options(*rest))
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


def test_batched_cotangents_of_torchs_older_vmap() -> None:
    """Not there, and says what is."""
    module = make("LSTM")[0]
    x = given("LSTM")[0].requires_grad_()
    y = module(x)[0].sum(dim=(1, 2))
    with pytest.raises(NotImplementedError, match=r"is_grads_batched=True.*use torch.func.vmap"):
        torch.autograd.grad(y, x, torch.eye(T, dtype=torch.float64), is_grads_batched=True)
