"""rnnkern.torch in captured graphs: torch.compile without a graph break, torch.export with symbols, one node a call."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnnkern.torch as rt

IN, H = 3, 5  # no size below is one of these, or one symbol would stand for both
LAYER = torch.ops.rnnkern.layer.default


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dynamo's own
        yield
    torch._dynamo.reset()


class Model(nn.Module):
    """The layer inside of other modules, with all it takes."""

    def __init__(self, layer: Any, with_lengths: bool = False) -> None:
        super().__init__()
        self.before, self.layer = nn.Linear(IN, IN), layer
        self.after = nn.Linear(H * (2 if layer.bidirectional else 1), 2)
        self.with_lengths = with_lengths

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        y, state = self.layer(torch.tanh(self.before(x)), lengths=lengths if self.with_lengths else None)
        h = state[0] if isinstance(state, tuple) else state
        return self.after(y).sum() + h.square().sum()


def layers() -> dict[str, Any]:
    return {
        "RNN": rt.RNN(IN, H),
        "GRU": rt.GRU(IN, H, 2, bidirectional=True),
        "LSTM": rt.LSTM(IN, H, batch_first=True),
        "LSTM stack": rt.LSTM(IN, H, 2, bias=False, bidirectional=True, dropout=0.5),
    }


class Nodes:
    """A backend that runs graphs as they are and counts what is in them."""

    def __init__(self) -> None:
        self.graphs = 0
        self.layers = 0

    def __call__(self, graph: Any, _: Any) -> Any:
        self.graphs += 1
        self.layers += sum(node.target in (LAYER, torch.ops.rnnkern.layer) for node in graph.graph.nodes)
        return graph.forward


@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("name", layers())
def test_one_node_and_no_break_for_any_length(name: str, with_lengths: bool) -> None:
    """fullgraph, T and B dynamic: one graph for every size, one node in it for the layer."""
    model = Model(layers()[name], with_lengths).eval()
    nodes = Nodes()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=nodes)
    with torch.no_grad():
        for seq_len, batch in ((7, 4), (9, 2), (31, 6)):
            sizes = (batch, seq_len) if model.layer.batch_first else (seq_len, batch)
            x, lengths = torch.randn(*sizes, IN), torch.randint(0, seq_len + 1, (batch,))
            assert torch.equal(compiled(x, lengths), model(x, lengths))
    assert (nodes.graphs, nodes.layers) == (1, 1)


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("name", layers())
def test_training_through_aot_autograd(name: str, recompute: bool) -> None:
    """Forward and backward are traced with symbols; the gradients are the eager ones, at every size, by one graph."""
    model = Model(layers()[name]).eval()
    model.layer.recompute = recompute
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seq_len, batch in ((7, 4), (9, 2), (31, 6)):
            sizes = (batch, seq_len) if model.layer.batch_first else (seq_len, batch)
            x = torch.randn(*sizes, IN, requires_grad=True)
            got = torch.autograd.grad(compiled(x), [x, *model.parameters()])
            wanted = torch.autograd.grad(model(x), [x, *model.parameters()])
            for a, b in zip(got, wanted, strict=True):
                assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_inductor() -> None:
    """torch's own compiler around the layer: forward and gradients."""
    model = Model(rt.GRU(IN, H, 2, bidirectional=True))
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for seq_len in (4, 9):
        x = torch.randn(seq_len, 2, IN, requires_grad=True)
        got = torch.autograd.grad(compiled(x), [x, *model.parameters()])
        wanted = torch.autograd.grad(model(x), [x, *model.parameters()])
        for a, b in zip(got, wanted, strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_dropout_in_a_graph_draws_anew_and_repeats_with_the_seed() -> None:
    module = rt.LSTM(IN, 16, 2, dropout=0.5)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 2, IN)
    torch.manual_seed(1)
    first, second = compiled(x)[0], compiled(x)[0]
    torch.manual_seed(1)
    assert torch.equal(compiled(x)[0], first)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(module(x)[0], first)


@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_cells_in_a_loop(name: str) -> None:
    cell = getattr(rt, name)(IN, H)

    def run(x: Tensor) -> Tensor:
        state = None
        for step in x.unbind():
            state = cell(step, state)
        return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]

    x = torch.randn(4, 2, IN)
    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))


TRANSFORMS: dict[str, Any] = {
    "jvp": lambda call, x, t: torch.func.jvp(call, (x,), (t,))[1],
    "grad": lambda call, x, t: torch.func.grad(lambda v: call(v).square().sum())(x),
    "vmap": lambda call, x, t: torch.func.vmap(call)(torch.stack([x, t])),
    "vmap grad": lambda call, x, t: torch.func.vmap(torch.func.grad(lambda v: call(v).square().sum()))(
        torch.stack([x, t])
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_inside_of_a_graph(name: str) -> None:
    """Dynamo traces torch.func; an operator in there would have a tangent of zero."""
    module = rt.LSTM(IN, H, dtype=torch.float64)
    x, t = torch.randn(4, 2, IN, dtype=torch.float64), torch.randn(4, 2, IN, dtype=torch.float64)

    def run(x: Tensor, t: Tensor) -> Any:
        return TRANSFORMS[name](lambda v: module(v)[0], x, t)

    got, wanted = torch.compile(run, backend="aot_eager")(x, t), run(x, t)
    # Composed against the kernels, or against itself in another order: some hundred roundings of numbers of this size.
    assert float((got - wanted).abs().max()) <= 256 * torch.finfo(wanted.dtype).eps * float(wanted.abs().max()) > 0


def test_autocast_in_a_graph() -> None:
    module = rt.LSTM(IN, H)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2, IN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, wanted = compiled(x)[0], module(x)[0]
    assert got.dtype == torch.bfloat16 and torch.equal(got, wanted)


def test_frozen_modules_and_changed_weights() -> None:
    """A graph packs at every call: a change to a weight is seen, frozen or not."""
    module = rt.LSTM(IN, H).freeze()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2, IN)
    with torch.no_grad():
        before = compiled(x)[0].clone()
        assert torch.equal(before, module(x)[0])
        module.unfreeze()
        module.weight_hh_l0.mul_(2)
        assert torch.equal(compiled(x)[0], module(x)[0])
        assert not torch.equal(compiled(x)[0], before)


def test_bad_lengths_in_a_graph() -> None:
    module = rt.LSTM(IN, H)
    compiled = torch.compile(lambda x, n: module(x, lengths=n), backend="aot_eager")
    x = torch.randn(4, 2, IN)
    with pytest.raises(ValueError, match=r"lengths\[1\]: expected 0 <= length <= T = 4, got 9"):
        compiled(x, torch.tensor([1, 9]))


def test_packed_sequences_run_beside_the_graph() -> None:
    module = rt.GRU(IN, H)
    x = nn.utils.rnn.pack_sequence([torch.randn(n, IN) for n in (4, 2)])
    compiled = torch.compile(module, backend="aot_eager")
    assert torch.equal(compiled(x)[0].data, module(x)[0].data)


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("name", layers())
def test_export_save_load_run(name: str, strict: bool) -> None:
    model = Model(layers()[name]).eval()
    seq, batch = torch.export.Dim("seq", min=1, max=1000), torch.export.Dim("batch", min=1, max=100)
    dims = {0: batch, 1: seq} if model.layer.batch_first else {0: seq, 1: batch}
    program = torch.export.export(model, (torch.randn(6, 4, IN),), dynamic_shapes=(dims,), strict=strict)
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    loaded = torch.export.load(stream)
    assert sum(node.target == LAYER for node in loaded.graph.nodes) == 1
    for sizes in ((6, 4), (2, 9), (1, 1)):
        x = torch.randn(*sizes, IN)
        assert torch.allclose(loaded.module()(x), model(x), rtol=1e-6, atol=1e-6)
    inference = program.run_decompositions()
    assert sum("layer_train" in str(node.target) for node in inference.graph.nodes) == 0


def test_lists_of_lengths_are_no_constants() -> None:
    """A list's numbers are guarded by value at first; then they are symbols, and a few graphs serve every batch."""
    nodes = Nodes()
    layer = rt.GRU(IN, H)
    compiled = torch.compile(lambda x, lengths: layer(x, lengths=lengths)[0], backend=nodes, fullgraph=True)
    x = torch.randn(11, 4, IN)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        lengths = torch.randint(2, 12, (4,), generator=generator).tolist()
        assert torch.equal(compiled(x, lengths), layer(x, lengths=lengths)[0])
    assert nodes.graphs <= 3


class Loop(nn.Module):
    """A cell in a Python loop over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = rt.LSTMCell(IN, H)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[1], H)
        for step in x:
            h, c = self.cell(step, (h, c))
        return h


def test_cells_are_exported() -> None:
    loop, x = Loop(), torch.randn(5, 3, IN)
    assert torch.equal(torch.export.export(loop, (x,)).module()(x), loop(x))
    rows = {0: torch.export.Dim("rows")}
    program = torch.export.export(loop.cell, (x[0],), dynamic_shapes=(rows,))
    assert torch.equal(program.module()(x[0, :2])[0], loop.cell(x[0, :2])[0])


@pytest.mark.builds
@pytest.mark.filterwarnings("ignore")  # torch's own deprecations
def test_a_package_of_aot_inductor(tmp_path: Path) -> None:
    loop, x = Loop().eval(), torch.randn(5, 3, IN)
    with torch.no_grad():
        program = torch.export.export(loop, (x,))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "loop.pt2"))
        assert torch.equal(torch._inductor.aoti_load_package(package)(x), loop(x))
