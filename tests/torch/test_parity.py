"""rnnkern.torch computes what torch.nn computes: outputs and every gradient, over all options.

The judge is rnnkern.reference on the same numbers, in float64, or in numpy.longdouble for float64 modules. For every
tensor the error may be at most 4 times torch.nn's own in the same dtype plus 4 eps, both relative to the tensor's
largest magnitude. Tensors here are small, and so can be lucky: each case is drawn twice, the worst errors are compared.

ReLU has a kink: where rounding moves a unit across 0, its slope is 0 or 1, and both are right. A draw with a unit that
close to 0 is drawn again; in the half types, where there always is one, only the outputs of ReLU are compared here.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnkern.torch as rt
from rnnkern import reference

T, B, IN, H = 5, 4, 3, 6
DRAWS = 2
CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru")
CLASSES = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru": "GRU"}
DTYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
LENGTHS = {
    "packed_sorted": [5, 5, 3, 1],
    "packed_unsorted": [3, 5, 1, 4],
    "packed_equal": [5, 5, 5, 5],
    "lengths": [3, 5, 1, 4],
}


@dataclass(frozen=True)
class Case:
    cell: str
    dtype: str
    layout: str  # dense, batch_first, unbatched, packed_sorted, packed_unsorted, packed_equal, lengths
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    state: bool = True

    def __str__(self) -> str:
        words = [self.cell, self.dtype, self.layout, f"l{self.num_layers}d{1 + self.bidirectional}"]
        return "-".join(words + ["nobias"] * (not self.bias) + ["state"] * self.state)

    @property
    def batch(self) -> int:
        return 1 if self.layout == "unbatched" else B

    def make(self, library: Any) -> torch.nn.Module:
        options: dict[str, Any] = {"nonlinearity": self.cell[4:]} if self.cell.startswith("rnn") else {}
        return getattr(library, CLASSES[self.cell])(
            IN, H, self.num_layers, bias=self.bias, batch_first=self.layout == "batch_first",
            bidirectional=self.bidirectional, dtype=DTYPES[self.dtype], **options,
        )  # fmt: skip


@dataclass(frozen=True)
class Data:
    """x [T, B, I], dy [T, B, D*H]; states and their gradients [L*D, B, H], one or two of each; float64."""

    x: torch.Tensor
    states: list[torch.Tensor] | None
    dy: torch.Tensor
    dstates: list[torch.Tensor]


def make_data(case: Case, draw: int) -> Data:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case}{draw}".encode()))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DTYPES[case.dtype]).double()

    directions, count = 1 + case.bidirectional, 2 if case.cell == "lstm" else 1
    shape = (case.num_layers * directions, case.batch, H)
    states = [normal(*shape) for _ in range(count)] if case.state else None
    return Data(
        normal(T, case.batch, IN), states, normal(T, case.batch, directions * H), [normal(*shape) for _ in range(count)]
    )


def train_step(module: Any, case: Case, data: Data, extension: bool) -> dict[str, np.ndarray[Any, Any]]:
    """One forward and backward, laid out as the case says; float64 results in the judge's layout, y padded with zeros.

    extension: lengths go in as rnnkern's keyword, else (for torch.nn) as a PackedSequence.
    """
    dtype = DTYPES[case.dtype]
    x = data.x.to(dtype).requires_grad_()
    states = None if data.states is None else [state.to(dtype).requires_grad_() for state in data.states]
    dy, dstates = data.dy.to(dtype), [d.to(dtype) for d in data.dstates]
    unbatched = case.layout == "unbatched"
    hx = None if states is None else [state.squeeze(1) for state in states] if unbatched else states
    hx = None if hx is None else tuple(hx) if case.cell == "lstm" else hx[0]
    packed = case.layout.startswith("packed") or (case.layout == "lengths" and not extension)
    keywords = {}
    if packed:
        lengths = torch.tensor(LENGTHS[case.layout])
        sequence = pack_padded_sequence(x, lengths, enforce_sorted=case.layout == "packed_sorted")
        output, after = module(sequence, hx)
        assert isinstance(output, type(sequence))
        output, got_lengths = pad_packed_sequence(output, total_length=T)
        assert torch.equal(got_lengths, lengths)
    else:
        if case.layout == "lengths":
            keywords["lengths"] = LENGTHS["lengths"]
        given = x.transpose(0, 1) if case.layout == "batch_first" else x.squeeze(1) if unbatched else x
        output, after = module(given, hx, **keywords)
        assert output.shape[:-1] == given.shape[:-1]
        output = (
            output.transpose(0, 1) if case.layout == "batch_first" else output.unsqueeze(1) if unbatched else output
        )
    after = list(after) if case.cell == "lstm" else [after]
    after = [state.unsqueeze(1) for state in after] if unbatched else after
    torch.autograd.backward([output, *after], [dy, *dstates])
    results = {"y": output, "x": x.grad} | dict(zip(("h_n", "c_n"), after, strict=False))
    results |= {} if states is None else {f"{s}_0": state.grad for s, state in zip("hc", states, strict=False)}
    results |= {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(value.dtype == dtype for value in results.values())
    return {name: value.detach().double().numpy() for name, value in results.items()}


def judge(module: torch.nn.Module, case: Case, data: Data) -> dict[str, np.ndarray[Any, Any]] | None:
    """The true results; None where a ReLU is so close to its kink that its slope is not decided."""
    wide = np.longdouble if case.dtype == "f64" else np.float64

    def lift(value: torch.Tensor) -> np.ndarray[Any, Any]:
        return value.detach().double().numpy().astype(wide)

    params = {name: lift(parameter) for name, parameter in module.named_parameters()}
    states = [None, None] if data.states is None else [*map(lift, data.states), None][:2]
    y, h_n, c_n, saved = reference.stack(
        case.cell, params, lift(data.x), *states, LENGTHS.get(case.layout),
        num_layers=case.num_layers, bidirectional=case.bidirectional,
    )  # fmt: skip
    outputs = {"y": y, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
    if case.cell == "rnn_relu":
        if case.dtype in ("bf16", "f16"):
            return outputs
        if at_a_kink(saved, torch.finfo(DTYPES[case.dtype]).eps):
            return None
    grads = reference.stack_backward(saved, lift(data.dy), *map(lift, data.dstates))
    return outputs | grads


def at_a_kink(saved: reference.StackSaved, eps: float) -> bool:
    """Whether a unit's input is within 64 eps of 0, relative to the sum of the magnitudes it is made of.

    The input of a unit is a sum of at most 2*H + H + 2 = 20 products, each off by some eps from what came before.
    """
    for tape in (tape for tapes in saved.tapes for tape in tapes):
        p = tape.params
        for _, _, (x, h, _) in tape.steps:
            total = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
            size = sum(abs(a) @ abs(p[f"weight_{k}"]).T + abs(p[f"bias_{k}"]) for a, k in ((x, "ih"), (h, "hh")))
            if (abs(total) <= 64 * eps * size).any():
                return True
    return False


def assert_parity(case: Case) -> None:
    worst: dict[str, list[float]] = {}
    draws = 0
    for draw in itertools.count():
        data = make_data(case, draw)
        torch.manual_seed(draw)
        theirs = case.make(torch.nn)
        ours = case.make(rt)
        ours.load_state_dict(theirs.state_dict())
        wanted = judge(theirs, case, data)
        if wanted is None:
            continue
        results = [train_step(theirs, case, data, extension=False), train_step(ours, case, data, extension=True)]
        compare(results, wanted, worst)
        draws += 1
        if draws == DRAWS:
            break
    assert_bounded(case, worst)


def compare(results: list[dict[str, Any]], wanted: dict[str, Any], worst: dict[str, list[float]]) -> None:
    """Raise ``worst`` (name -> torch's error, rnnkern's) to the errors of these results."""
    assert results[0].keys() == results[1].keys()
    for name in results[0].keys() & wanted.keys():
        scale = np.abs(wanted[name]).max()
        errors = [float(np.abs(result[name] - wanted[name]).max() / scale) for result in results]
        worst[name] = [max(pair) for pair in zip(worst.get(name, (0.0, 0.0)), errors, strict=True)]


def assert_bounded(case: Case, worst: dict[str, list[float]]) -> None:
    assert {"y", "h_n"} <= worst.keys()
    eps = torch.finfo(DTYPES[case.dtype]).eps
    late = {name: errors for name, errors in worst.items() if not errors[1] <= 4 * errors[0] + 4 * eps}
    assert not late, f"{case}: (torch's, rnnkern's) relative errors {late}, eps {eps}"


EVERY_OPTION = [
    Case(*options)
    for options in itertools.product(
        CELLS,
        ("f64", "f32"),
        ("dense", "batch_first", "unbatched", "packed_sorted", "packed_unsorted", "packed_equal", "lengths"),
        (1, 2),
        (False, True),
        (True, False),
        (True, False),
    )
]
HALF_TYPES = [
    Case(cell, dtype, layout, 2, True)
    for cell, dtype, layout in itertools.product(CELLS, ("bf16", "f16"), ("dense", "batch_first", "packed_unsorted"))
]


@pytest.mark.parametrize("case", EVERY_OPTION, ids=str)
def test_parity_with_torch(case: Case) -> None:
    assert_parity(case)


@pytest.mark.parametrize("case", HALF_TYPES, ids=str)
def test_parity_of_half_types(case: Case) -> None:
    assert_parity(case)


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("state", [True, False], ids=["state", "zeros"])
@pytest.mark.parametrize("cell", CELLS)
def test_cells_have_parity_with_torch_over_a_loop(
    cell: str, state: bool, batched: bool, bias: bool, dtype: str
) -> None:
    """A cell in a loop is a layer, whose results the judge has; gradients come in at the first step and at the end."""
    case = Case(cell, dtype, "dense" if batched else "unbatched", bias=bias, state=state)
    options: dict[str, Any] = {"nonlinearity": cell[4:]} if cell.startswith("rnn") else {}
    worst: dict[str, list[float]] = {}
    draws = 0
    for draw in itertools.count():
        data = make_data(case, draw)
        data.dy[1:] = 0
        torch.manual_seed(draw)
        layer = case.make(torch.nn)
        wanted = judge(layer, case, data)
        if wanted is None:
            continue
        results = []
        for library in (torch.nn, rt):
            module = getattr(library, CLASSES[cell] + "Cell")(IN, H, bias=bias, dtype=DTYPES[dtype], **options)
            module.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
            results.append(loop(module, case, data))
        compare(results, wanted, worst)
        draws += 1
        if draws == DRAWS:
            break
    assert_bounded(case, worst)


def loop(module: Any, case: Case, data: Data) -> dict[str, np.ndarray[Any, Any]]:
    """``train_step`` for a cell."""
    dtype, lead = DTYPES[case.dtype], () if case.layout == "unbatched" else (case.batch,)
    x = data.x.to(dtype, copy=True).requires_grad_()
    starts = None
    if data.states is not None:
        starts = [start[0].reshape(*lead, H).to(dtype, copy=True).requires_grad_() for start in data.states]
    state = starts if starts is None or case.cell == "lstm" else starts[0]
    outputs = []
    for x_t in x:
        state = module(x_t.reshape(*lead, IN), state)
        outputs.append(state[0] if case.cell == "lstm" else state)
    states = list(state) if case.cell == "lstm" else [state]
    assert all(value.shape == (*lead, H) and value.dtype == dtype for value in (*outputs, *states))
    grads = [grad.reshape(*lead, H).to(dtype) for grad in (data.dy[0], *(dstate[0] for dstate in data.dstates))]
    torch.autograd.backward([outputs[0], *states], grads)
    results = {"y": torch.stack(outputs).reshape(T, case.batch, H), "x": x.grad}
    results |= {f"{s}_n": value.reshape(1, case.batch, H) for s, value in zip("hc", states, strict=False)}
    results |= {f"{s}_0": value.grad.reshape(1, case.batch, H) for s, value in zip("hc", starts or (), strict=False)}
    results |= {f"{name}_l0": parameter.grad for name, parameter in module.named_parameters()}
    return {name: value.detach().double().numpy() for name, value in results.items()}


@pytest.mark.parametrize("cell", CELLS[:1] + CELLS[2:])  # the kink of relu is no place for finite differences
@pytest.mark.parametrize("layout", ["dense", "batch_first", "packed_unsorted", "lengths"])
def test_gradcheck(cell: str, layout: str) -> None:
    case = Case(cell, "f64", layout, 2, True)
    module, data = case.make(rt), make_data(case, 0)
    names = [name for name, _ in module.named_parameters()]
    assert data.states is not None

    def run(x: torch.Tensor, *rest: torch.Tensor) -> list[torch.Tensor]:
        states, weights = rest[: len(data.states)], rest[len(data.states) :]
        hx = tuple(states) if cell == "lstm" else states[0]
        keywords = {"lengths": [3, 5, 0, 4]} if layout == "lengths" else {}
        given = x.transpose(0, 1) if layout == "batch_first" else x
        if layout.startswith("packed"):
            given = pack_padded_sequence(x, torch.tensor(LENGTHS[layout]), enforce_sorted=False)
        call = torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (given, hx), keywords)
        output = call[0].data if layout.startswith("packed") else call[0]
        return [output, *(call[1] if cell == "lstm" else [call[1]])]

    inputs = [data.x, *data.states, *(parameter.detach() for parameter in module.parameters())]
    torch.autograd.gradcheck(run, [value.clone().requires_grad_() for value in inputs], fast_mode=True)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_of_length_zero_and_nan_in_the_padding(cell: str) -> None:
    case = Case(cell, "f64", "dense", 2, True)
    module, data = case.make(rt), make_data(case, 0)
    lengths = torch.tensor([0, 5, 2, 0], dtype=torch.int32)
    leaves = [value.clone().requires_grad_() for value in (data.x, *data.states)]
    with torch.no_grad():
        for row, length in enumerate(lengths):
            leaves[0][length:, row] = torch.nan
    hx = tuple(leaves[1:]) if cell == "lstm" else leaves[1]
    y, after = module(leaves[0], hx, lengths=lengths)
    after = list(after) if cell == "lstm" else [after]
    dy = data.dy.clone()
    for row, length in enumerate(lengths):
        dy[length:, row] = torch.nan
    torch.autograd.backward([y, *after], [dy, *data.dstates])
    for row, length in enumerate(lengths):
        assert torch.all(y[length:, row] == 0)
        assert torch.all(leaves[0].grad[length:, row] == 0)
        if length == 0:
            for before, state, grad, dstate in zip(data.states, after, leaves[1:], data.dstates, strict=True):
                assert torch.equal(state[:, row], before[:, row])
                assert torch.equal(grad.grad[:, row], dstate[:, row])
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (4, 0), (0, 0)])
def test_no_steps_or_no_rows(cell: str, steps: int, rows: int) -> None:
    module = Case(cell, "f32", "dense", 2, True).make(rt)
    x = torch.randn(steps, rows, IN, requires_grad=True)
    h_0 = torch.randn(4, rows, H)
    y, after = module(x, (h_0, h_0) if cell == "lstm" else h_0)
    assert y.shape == (steps, rows, 2 * H)
    h_n = after[0] if cell == "lstm" else after
    assert h_n.shape == (4, rows, H)
    if steps == 0:
        assert torch.equal(h_n, h_0)
    (y.sum() + h_n.sum()).backward()
    assert x.grad.shape == x.shape
    assert all(torch.all(parameter.grad == 0) for parameter in module.parameters())


@pytest.mark.parametrize("layout", ["dense", "batch_first", "packed_unsorted"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inference_gives_the_bits_of_training(layout: str, context: Any) -> None:
    case = Case("lstm", "f32", layout, 2, True)
    module, data = case.make(rt), make_data(case, 0)
    x = data.x.float().transpose(0, 1) if layout == "batch_first" else data.x.float()
    if layout.startswith("packed"):
        x = pack_padded_sequence(x, torch.tensor(LENGTHS[layout]), enforce_sorted=False)
    trained = module(x)[0]
    with context():
        inferred = module(x)[0]
    trained, inferred = (y.data if layout.startswith("packed") else y for y in (trained, inferred))
    assert trained.requires_grad
    assert not inferred.requires_grad
    assert torch.equal(trained, inferred)
