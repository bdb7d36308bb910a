"""rnnkern.torch with the options of a cell: operators, graphs, and every transform of torch.

The composed form, which second derivatives and forward mode run on, is held against the kernels, and both against
finite differences.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import rnnkern.torch as rt
from rnnkern._engine.spec import NO_MARKS, Marks
from rnnkern.option_values import ACTIVATIONS
from rnnkern.torch import composed, kernels, operators
from torch_cases import Answer, Seen, flat, near
from torch_option_cases import CALLS, CASES, F64, IN, MARKED, RANDOM, B, H, T, arguments, call, given, make

# torch scripts its own decompositions at the first use of forward mode.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace.*:UserWarning"),
]


# Operators and graphs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["proj_size", "independent", "all of LSTM", "all of GRU", "all of sLSTM"])
def test_operators_pass_torchs_own_checks(name: str) -> None:
    module = make(name)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    marks = Marks(MARKED["mask"], MARKED["reset"])
    masks = torch.tensor([5, 6])
    call_ = arguments(module, True, marks, masks)
    torch.library.opcheck(operators.layer, call_, test_utils=tests)
    torch.library.opcheck(operators.layer_train, call_, test_utils=tests[:3])
    plain_call = arguments(module, False, marks, masks)
    x, h_0, c_0, params, lengths, masks, *said = plain_call[: -len(marks)]
    y, h_n, _, reserve = operators.layer_train(*plain_call)
    needs = [value is not None for value in (x, h_0, c_0, *params)]
    back = (
        torch.ones_like(y),
        torch.ones_like(h_n),
        None,
        x,
        h_0,
        c_0,
        params,
        y,
        reserve,
        lengths,
        masks,
        *said,
        needs,
    )
    torch.library.opcheck(operators.layer_backward, (*back, *marks), test_utils=tests[:3])
    grads = operators.layer_backward(*back, *marks)
    assert len({g.untyped_storage().data_ptr() for g in grads if g.numel()}) == sum(g.numel() > 0 for g in grads)


def test_calls_from_before_the_options() -> None:
    """A graph that was saved then holds an operator with fewer arguments."""
    module = make("reset_after")
    x, h_0, c_0, params, *_ = arguments(module, True)
    before = ("gru", 1, False, 0.0, False, False)
    wanted = operators.layer(x, h_0, c_0, params, None, None, *before, False, "")
    got = operators.layer(x, h_0, c_0, params, None, None, *before)
    assert all(map(torch.equal, got, wanted))
    grads = [torch.autograd.grad(a[0].square().sum(), [x, *params]) for a in (got, wanted)]
    assert all(map(torch.equal, *grads))
    assert not torch.equal(module(x, h_0)[0], got[0])


@pytest.fixture
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dynamo's own
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("name", ["proj_size", "independent", "reverse", "all of LSTM", "all of GRU", "all of sLSTM"])
def test_one_graph_for_every_size(name: str) -> None:
    """fullgraph, T and B dynamic, mask and reset as inputs, in training: the eager bits of outputs and gradients."""
    module = make(name, torch.float32)
    compiled = torch.compile(
        lambda x, mask, reset: call(module, x, mask=mask, reset=reset),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seq_len, batch in ((7, 5), (9, 3)):
            x, mask = torch.randn(seq_len, batch, IN, requires_grad=True), torch.rand(seq_len, batch) < 0.7
            reset = torch.rand(seq_len, batch) < 0.3
            both = []
            for way in (compiled, lambda x, mask, reset: call(module, x, mask=mask, reset=reset)):
                torch.manual_seed(3)
                answer = way(x, mask, reset)
                loss = sum(a.square().sum() for a in answer)
                both.append([*answer, *torch.autograd.grad(loss, [x, *module.parameters()])])
            assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


class Exported(torch.nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(x, mask=mask)[0]  # type: ignore[no-any-return]


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("name", ["reset_after", "all of LSTM", "all of sLSTM"])
def test_export_save_load_run(name: str) -> None:
    model = Exported(make(name, torch.float32)).eval()
    seq, batch = torch.export.Dim("seq", min=1, max=100), torch.export.Dim("batch", min=1, max=100)
    example = (torch.randn(6, 5, IN), torch.ones(6, 5, dtype=torch.bool))
    program = torch.export.export(model, example, dynamic_shapes=({0: seq, 1: batch},) * 2)
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    loaded = torch.export.load(stream)
    (node,) = [node for node in loaded.graph.nodes if node.target == torch.ops.rnnkern.layer.default]
    assert model.layer._step_text in node.args
    x, mask = torch.randn(3, 7, IN), torch.rand(3, 7) < 0.6
    assert torch.equal(loaded.module()(x, mask), model(x, mask))


# Transforms -----------------------------------------------------------------------------------------------------------


@CALLS
@pytest.mark.parametrize("name", CASES)
def test_composed_form_is_the_kernels(name: str, marked: dict[str, Any]) -> None:
    """Outputs and gradients, float64, without random masks."""
    hold_composed(make(name).eval(), Marks(marked.get("mask"), marked.get("reset")))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name: str) -> None:
    """With numbers that are not the defaults, and, where they have none, at inputs whose exponential overflows."""
    torch.manual_seed(0)
    numbers = (0.6, 0.3)[: len(ACTIVATIONS[name][2])]
    module = rt.RNN(IN, H, dtype=F64, activations=((name, *numbers),))
    hold_composed(module, NO_MARKS)
    with torch.no_grad():
        module.bias_ih_l0.copy_(torch.tensor([-800.0, 800.0, 0.0, 0.5]))
    hold_composed(module, NO_MARKS)


@CALLS
@pytest.mark.parametrize("name", RANDOM)
def test_composed_form_draws_the_kernels_masks(name: str, marked: dict[str, Any]) -> None:
    module = make(name)
    marks = Marks(marked.get("mask"), marked.get("reset"))
    hold_composed(module, marks, (2**62 + 12345, 2**32 - 1))
    outputs = [composed_form(module, marks, masks)[0] for masks in ((5, 6), (5, 7), None)]
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def composed_form(module: Any, marks: Marks, masks: tuple[int, int] | None) -> list[Tensor]:
    x, h_0, c_0, params, lengths, *_ = arguments(module, True, marks)
    answer = composed.layer(x, h_0, c_0, params, module._options(), kernels.Around(lengths, masks, marks))
    return [a for a in answer if a is not None]


def hold_composed(module: Any, marks: Marks, masks: tuple[int, int] | None = None) -> None:
    x, h_0, c_0, params, lengths, *_ = arguments(module, True, marks)
    told, drawn = module._options(), None if masks is None else torch.tensor(masks)
    wanted = operators.layer(x, h_0, c_0, params, lengths, drawn, *told, *marks)
    wanted = [a for a in wanted if a.numel()]
    got = [a for a in composed.layer(x, h_0, c_0, params, told, kernels.Around(lengths, masks, marks)) if a is not None]
    near(got, wanted)
    primals = [t for t in (x, h_0, c_0, *params) if t is not None]
    seeds = [torch.randn_like(a) for a in wanted]
    back = composed.pullback(seeds, (x, h_0, c_0, *params), told, kernels.Around(lengths, masks, marks))
    near([g for g in back if g is not None], torch.autograd.grad(wanted, primals, seeds), 512)


@pytest.mark.parametrize("name", ["proj_size", "GRU layer_norm", "independent"])
def test_gradients_by_the_operators(name: str) -> None:
    """As below where a mode is on; three that differ in states and parameters."""
    with Seen() as seen:
        test_gradcheck_and_gradgradcheck(name)
    assert {"layer_train", "layer_backward"} <= set(seen.names)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    module = make(name).eval()
    x, states = given(module)
    names, params = zip(*((k, p) for k, p in module.named_parameters() if k.endswith("_l0")), strict=True)

    def run(x: Tensor, *values: Tensor) -> Answer:
        state = values[0] if len(states) == 1 else values[: len(states)]
        weights = dict(zip(names, values[len(states) :], strict=True))
        return flat(functional_call(module, weights, (x, state), MARKED))

    inputs = [t.detach().clone().requires_grad_() for t in (x, *states, *params)]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("name", RANDOM)
def test_gradcheck_with_random_masks(name: str) -> None:
    module = make(name)
    x = given(module)[0].requires_grad_()

    def run(x: Tensor) -> Answer:
        torch.manual_seed(4)
        return call(module, x, **MARKED)

    assert torch.autograd.gradcheck(run, [x], fast_mode=True)
    assert torch.autograd.gradgradcheck(run, [x], fast_mode=True)


@pytest.mark.parametrize("name", ["proj_size", "independent", "all of LSTM", "all of GRU", "all of sLSTM"])
def test_batched_cotangents(name: str) -> None:
    """With lengths, mask, reset, and the masks that training draws."""
    module = make(name)
    x = given(module)[0].requires_grad_()
    output = call(module, x, **MARKED)[0]
    seeds = torch.randn(3, *output.shape, dtype=F64)
    wanted = [x, *module.parameters()]
    batched = torch.autograd.grad(output, wanted, seeds, is_grads_batched=True, retain_graph=True)
    rows = [torch.autograd.grad(output, wanted, seed, retain_graph=True) for seed in seeds]
    near(batched, [torch.stack(parts) for parts in zip(*rows, strict=True)], 512)


@pytest.mark.parametrize("name", CASES)
def test_forward_mode(name: str) -> None:
    """Every tangent is the directional derivative that the kernels' gradients give."""
    module = make(name).eval()
    x, states = given(module)
    values = (x, *states)
    tangents = tuple(torch.randn_like(v) for v in values)
    answer, got = jvp(lambda x, *states: call(module, x, states, **MARKED), values, tangents)
    leaves = [v.clone().requires_grad_() for v in values]
    again = call(module, leaves[0], leaves[1:], **MARKED)
    near(answer, again)
    seeds = [torch.randn_like(a) for a in again]
    grads = torch.autograd.grad(again, leaves, seeds)
    ours = sum((t * s).sum() for t, s in zip(got, seeds, strict=True))
    near([ours], [sum((t * g).sum() for t, g in zip(tangents, grads, strict=True))], 512)
    assert all(t.abs().sum() > 0 for t in got)


@pytest.mark.parametrize("name", RANDOM)
def test_forward_mode_with_random_masks(name: str) -> None:
    """The answer is the kernel's under the same seed, the tangent what central differences of it give."""
    module = make(name)
    x = given(module)[0]
    direction = torch.randn_like(x)

    def run(x: Tensor) -> Tensor:
        torch.manual_seed(4)
        return module(x, **MARKED)[0]

    answer, tangent = (each.detach() for each in jvp(run, (x,), (direction,)))
    near([answer], [run(x)])
    step = 1e-6
    with torch.no_grad():
        difference = (run(x + step * direction) - run(x - step * direction)) / (2 * step)
    # The difference's own error: h^2 and eps / h, both near 1e-10 for numbers about 1.
    assert float((tangent - difference).abs().max()) < 1e-8 and float(tangent.abs().sum()) > 0


@pytest.mark.parametrize("name", ["zoneout", "recurrent_dropout"])
def test_forward_mode_with_random_masks_around_a_graph(name: str) -> None:
    """A whole graph cannot draw them, and says so; where the compiler may break it, the answer is the eager one."""
    module = make(name)
    x = given(module)[0]

    def run(x: Tensor) -> Tensor:
        return jvp(lambda v: module(v)[0], (x,), (x,))[1]  # type: ignore[no-any-return]

    torch._dynamo.reset()  # it knows functions by their code
    with pytest.raises(Exception, match=r"torch\.func inside of a graph cannot draw the masks"):
        torch.compile(run, fullgraph=True, backend="eager")(x)
    torch._dynamo.reset()
    torch.manual_seed(1)
    compiled = torch.compile(run, backend="eager")(x)
    torch.manual_seed(1)
    assert torch.equal(compiled, run(x))


@pytest.mark.parametrize("name", ["proj_size", "layer_norm", "reverse", "all of GRU"])
def test_vmap_over_inputs_and_marks_is_one_call(name: str) -> None:
    module = make(name).eval()
    x, states = given(module, (4,))
    mask, reset = torch.rand(4, T, B) < 0.7, torch.rand(4, T, B) < 0.3

    def run(x: Tensor, mask: Tensor, reset: Tensor, *states: Tensor) -> Answer:
        return call(module, x, states, mask=mask, reset=reset, lengths=MARKED["lengths"])

    with Seen() as seen, torch.no_grad():
        got = vmap(run, in_dims=(0, 0, 0, *[0] * len(states)))(x, mask, reset, *states)
    assert seen.names == ["layer"]
    each = [run(x[i], mask[i], reset[i], *(s[i] for s in states)) for i in range(4)]
    for k, answer in enumerate(got):
        assert torch.equal(answer, torch.stack([a[k] for a in each]))


def test_per_sample_gradients_and_ensembles() -> None:
    module = make("proj_size").eval()
    x = given(module)[0]
    params = {key: value.detach() for key, value in module.named_parameters()}
    mask = MARKED["mask"]

    def loss(params: Any, row: Tensor, keep: Tensor) -> Tensor:
        return functional_call(module, params, (row[:, None],), {"mask": keep[:, None]})[0].square().sum()

    got = vmap(grad(loss), in_dims=(None, 1, 1))(params, x, mask)
    for i in range(B):
        one = module(x[:, i : i + 1], mask=mask[:, i : i + 1])[0].square().sum()
        for key, value in zip(params, torch.autograd.grad(one, list(module.parameters())), strict=True):
            assert torch.equal(got[key][i], value)
    members = [make("peephole", seed=seed) for seed in range(3)]
    stacked, buffers = stack_module_state(members)
    together = vmap(lambda p, v: functional_call(members[0], (p, buffers), (v,))[0], in_dims=(0, None))(stacked, x)
    assert torch.equal(together, torch.stack([member(x)[0] for member in members]))


@pytest.mark.usefixtures("_fresh")
def test_a_transform_inside_of_a_graph() -> None:
    module = make("layer_norm").eval()
    x, mask = given(module)[0][:2], MARKED["mask"][:2]

    def run(x: Tensor) -> Tensor:
        return jvp(lambda v: module(v, mask=mask)[0], (x,), (x,))[1]  # type: ignore[no-any-return]

    near([torch.compile(run, backend="aot_eager")(x)], [run(x)])
