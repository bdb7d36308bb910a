"""``recompute``: the same bits from a reserve that holds the states of a few steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from one_layer import HostPlan
from problems import Problem, expand, make
from runner import KERNELS, plan_of, run, same_bits

pytestmark = pytest.mark.whole

# Several segments, of which the first is short; one; steps that a batch cuts into several chunks; rows that end, or
# begin, inside segments.
_PROBLEMS = (
    "t37b64i5h17 state",
    "t37b64i5h17 state reverse",
    "t23b200i3h9 state lengths",
    "t23b200i3h9 state lengths reverse",
    "t5b600i3h8 lengths",
    "t9b2i4h16 nobias",
    "t19b130i7h33 strided",
    "t0b3i4h5 state",
    "t3b0i4h5 state",
)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("problem", expand(_PROBLEMS, dtypes=["f32", "bf16"]), ids=str)
def test_same_bits(kernel: str, problem: Problem) -> None:
    plan, data = plan_of(problem, kernel), make(problem)
    again = _plan(problem, kernel)
    same_bits(run(problem, again, data), run(problem, plan, data), "recompute")


@pytest.mark.parametrize("problem", expand(["t23b200i3h9 state lengths"], dtypes=["f64", "f16"]), ids=str)
def test_same_bits_of_the_other_dtypes(problem: Problem) -> None:
    plan, data = plan_of(problem, "cpu_scalar"), make(problem)
    same_bits(run(problem, _plan(problem, "cpu_scalar"), data), run(problem, plan, data), "recompute")


def _plan(problem: Problem, kernel: str) -> Any:
    return HostPlan(
        problem.cell, problem.dtype, problem.input_size, problem.hidden_size,
        bias=not problem.has("nobias"), reverse=problem.has("reverse"), recompute=True, kernel=kernel,
    )  # fmt: skip


def _reserve(steps: int, recompute: bool) -> int:
    """Bytes of a tape beside x and y."""
    H, B = 64, 512  # a segment may end after any step
    plan = HostPlan("lstm", "float32", 8, H, recompute=recompute)
    return int(plan.sizes(steps, B)["reserve"])


def test_memory_grows_with_the_square_root_of_time() -> None:
    short, long = _reserve(100, True), _reserve(10_000, True)
    assert 8 < long / short < 12
    assert long < _reserve(10_000, False) / 100
    assert _reserve(10_000, False) == 100 * _reserve(100, False)


@pytest.mark.parametrize(
    "masks", [{"dropout": 0.5}, {"zoneout": 0.3}, {"recurrent_dropout": 0.3}], ids=lambda m: next(iter(m))
)
@pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
def test_layers(layer: str, masks: dict[str, float]) -> None:
    """Random masks, too, are those of the steps in the whole sequence."""
    rng = np.random.default_rng(0)
    make_layer = getattr(rk, layer)
    plain = make_layer(6, 10, num_layers=2, bidirectional=True, seed=1, **masks)
    small = make_layer(6, 10, num_layers=2, bidirectional=True, seed=1, recompute=True, **masks)
    assert small.recompute and not plain.recompute
    x = rng.standard_normal((31, 70, 6)).astype(np.float32)
    dy = rng.standard_normal((31, 70, 20)).astype(np.float32)
    lengths = rng.integers(0, 32, 70)
    results = []
    for module in (plain, small):
        y, _, tape = module.forward(x, lengths=lengths)
        grads = module.backward(tape, dy)
        results.append([y, grads.x, *grads.params.values()])
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


def test_torch_module() -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(40, 65, 5, generator=torch.Generator().manual_seed(0))
    grads = []
    for recompute in (False, True):
        torch.manual_seed(1)
        module = rk.torch.LSTM(5, 9)
        module.recompute = recompute
        y, _ = module(x)
        (y * y).sum().backward()
        grads.append([y.detach(), *(p.grad for p in module.parameters())])
    assert "recompute=True" in repr(module)
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)
