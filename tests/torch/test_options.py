"""rnnkern.torch with the options of a cell: the plain layers' bits, torch.nn's projection, modules and refusals."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import rnnkern as rk
import rnnkern.torch as rt
from rnnkern.option_values import ACTIVATIONS
from rnnkern.options import parse
from rnnkern.torch import kernels, operators, options
from torch_cases import flat, near
from torch_option_cases import CALLS, CASES, F64, IN, MARKED, RANDOM, STATES, B, H, T, arguments, call, given, make

# What is computed -----------------------------------------------------------------------------------------------------


def plain(module: Any, name: str, seed: int = 0) -> Any:
    """The plain layer with the same parameters."""
    kind, keywords = CASES[name]
    dtype = str(module.weight_ih_l0.dtype).removeprefix("torch.")
    layer = getattr(rk, kind)(IN, H, dtype=dtype, seed=seed, **keywords)
    layer.load_state_dict({key: value.detach() for key, value in module.state_dict().items()})
    return layer


def same(got: Any, wanted: Any) -> bool:
    return torch.equal(got, wanted.to(got.dtype))


@CALLS
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_bits_of_the_plain_layer(name: str, dtype: torch.dtype, train: bool, marked: dict[str, Any]) -> None:
    """Outputs and every gradient; in training with the masks of the (seed, call) that the module drew."""
    module = make(name, dtype).train(train)
    x, states = given(module)
    leaves = [t.clone().requires_grad_() for t in (x, *states)]
    torch.manual_seed(7)
    seed, number = kernels.masks_of(kernels.draw_masks())
    torch.manual_seed(7)
    answer = call(module, leaves[0], leaves[1:], **marked)
    seeds = [torch.randn_like(a) for a in answer]
    torch.autograd.backward(answer, seeds)

    layer = plain(module, name, seed)
    layer.call = number
    state = tuple(states) if len(states) > 1 else states[0]
    y, after, tape = layer.forward(x, state, train=train, **marked)
    grads = layer.backward(tape, seeds[0], tuple(seeds[1:]) if len(states) > 1 else seeds[1])
    for got, wanted in zip(answer, flat((y, after)), strict=True):
        assert same(got, wanted)
    for leaf, wanted in zip(leaves, flat((grads.x, grads.state)), strict=True):
        assert same(leaf.grad, wanted)
    for key, parameter in module.named_parameters():
        assert same(parameter.grad, grads.params[key]), key
        assert parameter.grad.abs().sum() > 0
    other = getattr(rt, CASES[name][0])(IN, H, dtype=dtype, **CASES[name][1])
    other.load_state_dict({k: torch.from_numpy(v.astype(np.float32)).to(dtype) for k, v in layer.state_dict().items()})
    assert all(map(torch.equal, other.parameters(), module.parameters()))


def test_recomputation_has_the_same_bits() -> None:
    module = make("all of LSTM", torch.float32)
    x = given(module)[0]
    answers = []
    for module.recompute in (False, True):
        torch.manual_seed(7)
        y = call(module, x, **MARKED)
        answers.append([*y, *torch.autograd.grad(sum(a.sum() for a in y), list(module.parameters()))])
    assert all(map(torch.equal, *answers))


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one row"])
def test_marks_in_every_layout(batched: bool) -> None:
    """[B, T] with batch_first, [T] unbatched; tensors or arrays; marks that mark nothing are none."""
    module = make("layer_norm", torch.float32)
    x = given(module)[0]
    mask, reset = MARKED["mask"], MARKED["reset"]
    if not batched:
        wanted = call(module, x[:, :1], mask=mask[:, :1], reset=reset[:, :1])
        got = call(module, x[:, 0], mask=mask[:, 0].numpy(), reset=reset[:, 0])
        assert all(torch.equal(a, b.squeeze(1)) for a, b in zip(got, wanted, strict=True))
        return
    wanted = call(module, x, mask=mask, reset=reset)
    assert not wanted[0][~mask].any() and not torch.equal(wanted[0], module(x)[0])
    module.batch_first = True
    y, *states = call(module, x.transpose(0, 1), mask=mask.T, reset=reset.T.numpy())
    assert torch.equal(y.transpose(0, 1), wanted[0]) and all(map(torch.equal, states, wanted[1:]))
    all_of_it = call(module, x.transpose(0, 1), mask=torch.ones(B, T, dtype=torch.bool), reset=torch.zeros_like(mask.T))
    assert all(map(torch.equal, all_of_it, call(module, x.transpose(0, 1))))


@pytest.mark.parametrize("name", [n for n, (_, k) in CASES.items() if not {"num_layers", "reverse"} & set(k)])
def test_cells_have_the_bits_of_the_plain_cells(name: str) -> None:
    kind, keywords = CASES[name]
    if "recurrent_dropout" in keywords:
        with pytest.raises(TypeError, match="recurrent_dropout"):
            getattr(rt, f"{kind}Cell")(IN, H, **keywords)
        return
    torch.manual_seed(0)
    module = getattr(rt, f"{kind}Cell")(IN, H, **keywords)
    seed, number = kernels.masks_of(kernels.draw_masks())
    cell = getattr(rk, f"{kind}Cell")(IN, H, seed=seed, **keywords)
    cell.call = number
    cell.load_state_dict(dict(module.state_dict()))
    assert list(cell.state_dict()) == [key for key, _ in module.named_parameters()]
    x = torch.randn(B, IN, requires_grad=True)
    states = [torch.randn(B, n, requires_grad=True) for n in module._widths()[: STATES.get(kind, 1)]]
    torch.manual_seed(0)
    getattr(rt, f"{kind}Cell")(IN, H, **keywords)  # as many draws as before the masks
    answer = module(x, tuple(states) if len(states) > 1 else states[0])
    answer = answer if isinstance(answer, tuple) else (answer,)
    torch.autograd.backward(answer, [torch.ones_like(a) for a in answer])
    plain_states = [s.detach() for s in states]
    after, tape = cell.forward(x.detach(), tuple(plain_states) if len(states) > 1 else plain_states[0])
    after = after if isinstance(after, tuple) else (after,)
    ones = tuple(torch.ones_like(a) for a in after)
    grads = cell.backward(tape, ones if len(states) > 1 else ones[0])
    assert all(map(torch.equal, answer, after)) and torch.equal(x.grad, grads.x)
    for key, parameter in module.named_parameters():
        assert torch.equal(parameter.grad, grads.params[key])


PROJECTED: list[dict[str, Any]] = [
    {}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 3, "bias": False}, {"batch_first": True},
    {"num_layers": 2, "dropout": 0.0, "bidirectional": True, "batch_first": True},
]  # fmt: skip


@pytest.mark.parametrize("layout", ["dense", "no state", "unbatched", "sorted", "unsorted", "lengths"])
@pytest.mark.parametrize("keywords", PROJECTED, ids=str)
def test_parity_with_torchs_projection(keywords: dict[str, Any], layout: str) -> None:
    """Names, order, initial values, repr; outputs and gradients."""
    pair = []
    for library in (rt, torch.nn):
        torch.manual_seed(3)
        pair.append(library.LSTM(IN, H, proj_size=3, dtype=F64, **keywords))
    ours, theirs = pair
    assert repr(ours) == repr(theirs) and ours.proj_size == theirs.proj_size
    named = list(theirs.named_parameters())
    assert [(k, p.shape) for k, p in ours.named_parameters()] == [(k, p.shape) for k, p in named]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert [[tuple(w.shape) for w in ws] for ws in ours.all_weights] == [
        [tuple(w.shape) for w in ws] for ws in theirs.all_weights
    ]
    rows, first = theirs.num_layers * (2 if theirs.bidirectional else 1), theirs.batch_first
    lengths = {"sorted": [5, 3, 1], "unsorted": [2, 5, 4], "lengths": [2, 5, 4]}.get(layout)
    generator = torch.Generator().manual_seed(1)
    sizes = (T,) if layout == "unbatched" else (B, T) if first else (T, B)
    batch = () if layout == "unbatched" else (B,)
    shapes = ((*sizes, IN), (rows, *batch, 3), (rows, *batch, H))
    values = [torch.randn(*shape, dtype=F64, generator=generator) for shape in shapes]
    results = []
    for m in pair:
        x, *states = (v.clone().requires_grad_() for v in values)
        hx = None if layout == "no state" else tuple(states)
        if lengths is None:
            y, after = m(x, hx)
        elif layout == "lengths" and m is ours:
            y, after = m(x, hx, lengths=lengths)
        else:
            packed, after = m(pack_padded_sequence(x, lengths, first, enforce_sorted=layout == "sorted"), hx)
            y = pad_packed_sequence(packed, first, total_length=T)[0]
        weights = torch.randn(y.shape, dtype=F64, generator=torch.Generator().manual_seed(2))
        (y.mul(weights).sum() + after[0].square().sum() + after[1].square().sum()).backward()
        leaves = [x, *(() if hx is None else states), *m.parameters()]
        results.append([y, *after, *(leaf.grad for leaf in leaves)])
    near(*results)


def test_errors_of_a_projection_have_the_types_of_torch() -> None:
    for size in (-1, H, H + 1, "2", 2.0):
        with pytest.raises((ValueError, TypeError)) as theirs:
            torch.nn.LSTM(IN, H, proj_size=size)
        with pytest.raises(type(theirs.value)):
            rt.LSTM(IN, H, proj_size=size)
    ours, theirs_ = rt.LSTM(IN, H, proj_size=3), torch.nn.LSTM(IN, H, proj_size=3)
    x = torch.zeros(T, B, IN)
    for h, c in ((H, H), (3, 3)):
        state = (torch.zeros(1, B, h), torch.zeros(1, B, c))
        with pytest.raises(RuntimeError, match=r"Expected hidden\[") as wanted:
            theirs_(x, state)
        with pytest.raises(RuntimeError) as got:
            ours(x, state)
        assert str(got.value) == str(wanted.value)
    cell = rt.LSTMCell(IN, H, proj_size=3)
    with pytest.raises(RuntimeError, match=r"Expected hx\[0\] size \(3, 3\), got \[3, 4\]"):
        cell(x[0], (torch.zeros(B, H), torch.zeros(B, H)))


# Modules --------------------------------------------------------------------------------------------------------------


def test_initial_values() -> None:
    module = rt.LSTM(IN, H, 2, layer_norm=True, peephole=True, proj_size=3)
    bound = H**-0.5
    for key, value in module.named_parameters():
        if key.startswith("gamma"):
            assert (value == 1).all()
        elif key.startswith("beta"):
            assert (value == 0).all()
        else:
            assert float(value.detach().abs().max()) <= bound and value.unique().numel() == value.numel()
    assert [key for key, _ in module.named_parameters()] == list(module._weight_names())
    torch.manual_seed(2)
    norm = rt.GRU(IN, H, layer_norm=True)
    torch.manual_seed(2)
    neutral = rt.GRU(IN, H)
    assert all(torch.equal(value, norm.state_dict()[key]) for key, value in neutral.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_copies_and_repr(name: str) -> None:
    module = make(name, torch.float32).eval()
    x, states = given(module)
    wanted = call(module, x, states)
    shown = repr(module)
    assert eval(
        shown, {"LSTM": rt.LSTM, "GRU": rt.GRU, "RNN": rt.RNN, "sLSTM": rt.sLSTM}
    )._options() == module._options() or (
        "nonlinearity" in CASES[name][1]  # torch.nn's repr leaves it out
    )
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for other in (
        pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.load(stream, weights_only=False)
    ):  # fmt: skip
        assert repr(other) == shown and all(map(torch.equal, call(other, x, states), wanted))
    with torch.no_grad():
        assert all(map(torch.equal, call(module.freeze(), x, states, **MARKED), call(other, x, states, **MARKED)))
    for option, value in CASES[name][1].items():
        if option in ("activations", "nonlinearity"):
            continue
        assert getattr(module, option) == value
        if option in options.Options.__dataclass_fields__:
            with pytest.raises(AttributeError):
                setattr(module, option, value)


def test_options_as_a_string() -> None:
    for name, (kind, keywords) in CASES.items():
        cell = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh", "sLSTM": "slstm"}[kind]
        chosen = parse(cell, H, {k: v for k, v in keywords.items() if k in options.Options.__dataclass_fields__})
        text = options.text_of(chosen)
        assert options.options_of(cell, H, text) == chosen
        assert make(name)._step_text == text and (text != "") == (name not in ("reverse", "sLSTM"))
    for kind in ACTIVATIONS:
        chosen = parse("rnn_tanh", H, {"activations": (kind,)})
        assert options.options_of("rnn_tanh", H, options.text_of(chosen)) == chosen
    bad = [
        ("[1]", "step: expected JSON"),
        ("{", "step: expected JSON"),
        ('{"clip": -1}', "clip: expected a bound above 0"),
    ]
    for text, sentence in [*bad, ('{"gates": 1}', "step: expected names among proj_size, .* got 'gates'")]:
        with pytest.raises(ValueError, match=sentence):
            options.options_of("lstm", H, text)


@pytest.mark.parametrize("name", RANDOM)
def test_random_options_follow_the_generator(name: str) -> None:
    module = make(name, torch.float32)
    x = given(module)[0]

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return module(x)[0]

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    module.eval()
    before = torch.random.get_rng_state()
    assert torch.equal(module(x)[0], module(x)[0]) and torch.equal(before, torch.random.get_rng_state())
    module.train()
    grads = []
    for recomputed in (False, True):
        torch.manual_seed(5)
        leaf = x.clone().requires_grad_()
        y = checkpoint(lambda v: module(v)[0], leaf, use_reentrant=False) if recomputed else module(leaf)[0]
        grads.append(torch.autograd.grad(y.square().sum(), [leaf, *module.parameters()]))
    assert all(map(torch.equal, *grads))


def test_autocast() -> None:
    module = make("all of LSTM", torch.float32).eval()
    half = copy.deepcopy(module).bfloat16()
    x = given(module)[0].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = call(module, x, **MARKED)
    for got, wanted in zip(answer, call(half, x.detach().bfloat16(), **MARKED), strict=True):
        assert got.dtype == torch.bfloat16 and torch.equal(got, wanted)
    answer[0].sum().backward()
    assert {p.grad.dtype for p in (x, *module.parameters())} == {torch.float32}


xs = torch.zeros(T, B, IN)
yes = torch.ones(T, B, dtype=torch.bool)
GRU, ROWS, EYED = rt.GRU(IN, H), rt.GRU(IN, H, batch_first=True), make("peephole")
SHORT = [p[:1] if len(p) == 3 else p for p in EYED._weights()]
REFUSED: list[tuple[type[Exception], str, Any]] = [
    (TypeError, "unexpected keyword argument 'peephole'", lambda: rt.GRU(IN, H, peephole=True)),
    (TypeError, "unexpected keyword argument 'independent'", lambda: rt.LSTM(IN, H, independent=True)),
    (TypeError, "peephole: expected a bool, got int", lambda: rt.LSTM(IN, H, peephole=1)),
    (TypeError, "reverse: expected a bool, got int", lambda: rt.LSTM(IN, H, reverse=1)),
    (ValueError, "reverse: expected False where bid", lambda: rt.GRU(IN, H, bidirectional=True, reverse=True)),
    (ValueError, "clip: expected a bound above 0 or None, got -1", lambda: rt.RNN(IN, H, clip=-1)),
    (ValueError, "zoneout: GRU has no c", lambda: rt.GRU(IN, H, zoneout=(0.1, 0.1))),
    (ValueError, "heads: expected a divisor of hidden_size 4, got 3", lambda: rt.GRU(IN, H, heads=3)),
    (ValueError, "activations: expected 2 .*, got 1", lambda: rt.GRUCell(IN, H, activations=("relu",))),
    (NotImplementedError, "layer_norm and heads", lambda: rt.LSTM(IN, H, layer_norm=True, heads=2)),
    (NotImplementedError, "layer_norm and reset_after", lambda: rt.GRU(IN, H, layer_norm=True, reset_after=False)),
    (TypeError, r"mask: expected bool \[T, B\], got uint8", lambda: rt.GRU(IN, H)(xs, mask=yes.byte())),
    (TypeError, "mask: expected an array", lambda: rt.GRU(IN, H)(xs, mask=[[True]])),
    (ValueError, r"reset: expected \[T, B\] \[5, 3\], got \[3, 5\]", lambda: rt.GRU(IN, H)(xs, reset=yes.T)),
    (ValueError, r"mask: expected \[T\] \[5\], got \[5, 3\]", lambda: rt.GRU(IN, H)(xs[:, 0], mask=yes)),
    (ValueError, r"mask: expected \[B, T\] \[5, 3\], got \[3, 5\]", lambda: ROWS(xs, mask=yes.T)),
    (NotImplementedError, r"reset: .*CPU.*meta", lambda: rt.GRU(IN, H)(xs, reset=yes.to("meta"))),
    (ValueError, "mask: expected None with a PackedSequence", lambda: rt.GRU(IN, H)(
        pack_padded_sequence(xs, [T] * B), mask=yes
    )),
    # The same where their values cannot be looked at.
    (TypeError, r"mask: expected bool \[T, B\], got torch.uint8", lambda: vmap(
        lambda x, m: GRU(x, mask=m)[0])(xs[None], yes[None].byte())
    ),
    (ValueError, r"reset: expected \[T, B\] \[5, 3\], got \[3, 5\]", lambda: vmap(
        lambda x, m: GRU(x, reset=m)[0])(xs[None], yes.T[None])
    ),
    (RuntimeError, "peephole_l0: expected", lambda: operators.layer(
        *arguments(EYED)[:3], SHORT, None, None, *EYED._options()
    )),
    (RuntimeError, "and 3 or 5 parameters, got .* and 4", lambda: operators.layer(
        *arguments(EYED)[:3], EYED._weights()[:4], None, None, *EYED._options()
    )),
]  # fmt: skip


@pytest.mark.parametrize(("error", "sentence", "action"), REFUSED)
def test_refusals(error: type[Exception], sentence: str, action: Any) -> None:
    with pytest.raises(error, match=sentence):
        action()
