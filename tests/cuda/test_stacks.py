"""Stacks of layers on the host SIMT executor: wavefronts over streams, and layers that go in turn, are the same."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import c_abi
from device_plan import DevicePlan, simt_library
from runner import DEVICE_KERNELS, same_bits

pytestmark = pytest.mark.executor


class Stack:
    """Layers of 20 units on the executor, and the calls of a training step or, without ``keep``, of inference."""

    def __init__(
        self, cell: str, kernel: str, layers: int, keep: bool, reverse: bool, lengths: Any, recompute: bool = False
    ) -> None:
        self.keep, self.lengths, self.T, self.B, self.H = keep, lengths, 300, 3, 20
        self.states, gates = (2, 4) if cell == "lstm" else (1, 3)
        self.plans = [
            DevicePlan(
                simt_library(), cell, "bfloat16", self.H, self.H, kernel=kernel, reverse=reverse, recompute=recompute
            )
            for _ in range(layers)
        ]
        self.rng = np.random.default_rng(0)
        self.shapes = {name: (gates * self.H, self.H)[:rank] for name, rank in _PARAMETERS.items()}
        self.packs = [
            plan.pack(
                *((self.numbers(shape) * np.float32(0.15)).astype(ml_dtypes.bfloat16) for shape in self.shapes.values())
            )
            for plan in self.plans
        ]
        self.x, self.dy = self.numbers((self.T, self.B, self.H)), self.numbers((self.T, self.B, self.H))
        self.first = [self.rows() for _ in range(layers)]
        self.last = [self.rows() for _ in range(layers)]

    def numbers(self, shape: tuple[int, ...], dtype: Any = ml_dtypes.bfloat16) -> Any:
        return self.rng.standard_normal(shape).astype(dtype)

    def rows(self) -> list[Any]:
        return [self.numbers((self.B, self.H)), self.numbers((self.B, self.H), np.float32)]

    def forward(self) -> list[dict[str, Any]]:
        below, calls = self.x, []
        for plan, packed, (h_0, c_0) in zip(self.plans, self.packs, self.first, strict=True):
            y = np.full((self.T, self.B, self.H), 7, ml_dtypes.bfloat16)
            tensors = {"x": below, "h_0": h_0, "c_0": c_0, "y": y, "h_n": np.zeros_like(h_0), "c_n": np.zeros_like(c_0)}
            if self.states == 1:
                tensors |= {"c_0": None, "c_n": None}
            call = {"packed": packed, "tensors": tensors, "lengths": self.lengths}
            if self.keep:
                call["reserve"] = c_abi.aligned(plan.sizes(self.T, self.B)["reserve"])
            calls.append(call)
            below = y
        return calls

    def backward(self, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of a forward whose calls these were."""
        gradients = [np.full_like(self.x, 7) for _ in self.plans]
        calls = []
        for index, call in enumerate(done):
            given = call["tensors"]
            tensors = {name: given[name] for name in ("x", "h_0", "c_0", "y")}
            tensors |= {"dy": [*gradients, self.dy][index + 1], "dx": gradients[index], "dh_n": self.last[index][0]}
            tensors |= {"dh_0": np.zeros((self.B, self.H), np.float32), "dc_n": None, "dc_0": None}
            if self.states == 2:
                tensors |= {"dc_n": self.last[index][1], "dc_0": np.zeros((self.B, self.H), np.float32)}
            pointers = {f"d{name}": np.zeros(shape, ml_dtypes.bfloat16) for name, shape in self.shapes.items()}
            more = {"lengths": self.lengths, "reserve": call.get("reserve"), "pointers": pointers}
            calls.append({"packed": call["packed"], "tensors": tensors, **more})
        return calls


_PARAMETERS = {"weight_ih": 2, "weight_hh": 2, "bias_ih": 1, "bias_hh": 1}
_LENGTHS = np.array([300, 0, 130])


def _kept(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A copy of what a call takes out of the dictionaries."""
    return [dict(call) for call in calls]


def _results(calls: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    flat = {}
    for index, call in enumerate(calls):
        of_call = call["tensors"] | call.get("pointers", {})
        flat |= {f"{name} of layer {index}": of_call[name] for name in names if of_call.get(name) is not None}
    return flat


@pytest.mark.parametrize(
    ("cell", "kernel", "layers"),
    [("lstm", "cuda_cluster", 9), *((cell, kernel, 4) for cell in ("lstm", "gru") for kernel in DEVICE_KERNELS)],
)
def test_inference_of_a_stack_is_a_wavefront(cell: str, kernel: str, layers: int, seeded: Any) -> None:
    """The bits of layer after layer, in any order that the streams allow; where one layer fills the GPU, in turn."""
    stack = Stack(cell, kernel, layers, keep=False, reverse=False, lengths=None)
    wanted = stack.forward()
    for plan, call in zip(stack.plans, _kept(wanted), strict=True):
        plan.forward(call["packed"], **call["tensors"])
    # A stream for each layer but the first, 8 layers at a time.
    streams = 0 if kernel == "cuda_stepwise" else layers - 1 - (layers > 8)
    names = ("y", "h_n", "c_n")
    for seed in (1, 2, 3)[: 1 if layers > 4 else 3]:
        seeded(seed)
        got = stack.forward()
        before = simt_library().rnnk_simt_forks()
        stack.plans[0].stack("forward", stack.plans[1:], _kept(got))
        assert simt_library().rnnk_simt_forks() - before == streams
        same_bits(_results(got, names), _results(wanted, names), f"seed {seed}")


def test_recomputing_layers_go_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """900 rows are one segment, whose reserve is nothing: a null pointer."""
    monkeypatch.setenv("RNNKERN_GPU_WAVE", "64")
    stack = Stack("gru", "cuda_solo", 2, keep=False, reverse=False, lengths=None, recompute=True)
    assert stack.plans[0].sizes(stack.T, stack.B)["reserve"] == 0
    done = stack.forward()
    stack.plans[0].stack("forward", stack.plans[1:], _kept(done))
    back, before = stack.backward(done), simt_library().rnnk_simt_forks()
    for plan, call in reversed(list(zip(stack.plans, _kept(back), strict=True))):
        plan._call("backward", call.pop("packed"), call.pop("tensors"), call.pop("pointers"), call)
    ours = stack.backward(done)
    stack.plans[0].stack("backward", stack.plans[1:], _kept(ours))
    assert simt_library().rnnk_simt_forks() == before
    names = ("dx", "dh_0", *(f"d{name}" for name in _PARAMETERS))
    same_bits(_results(ours, names), _results(back, names), "in turn")


def test_the_blocks_of_a_wavefront_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack("gru", "cuda_solo", 2, keep=False, reverse=False, lengths=None)
    wanted = None
    for given, streams in (("0", 0), ("77", 1), ("1000", 0)):
        monkeypatch.setenv("RNNKERN_GPU_WAVE", given)
        got, before = stack.forward(), simt_library().rnnk_simt_forks()
        stack.plans[0].stack("forward", stack.plans[1:], _kept(got))
        assert simt_library().rnnk_simt_forks() - before == streams
        results = _results(got, ("y", "h_n"))
        wanted = wanted or results
        same_bits(results, wanted, given)
    for given in ("-1", "many", "8 steps"):
        monkeypatch.setenv("RNNKERN_GPU_WAVE", given)
        with pytest.raises(ValueError, match=f'RNNKERN_GPU_WAVE: expected a number of steps, or 0 .* got "{given}"'):
            stack.plans[0].stack("forward", stack.plans[1:], stack.forward())


@pytest.mark.parametrize(("lengths", "reverse"), [(None, False), (_LENGTHS, True)], ids=["plain", "reverse lengths"])
@pytest.mark.parametrize(("cell", "kernel"), [("lstm", "cuda_cluster"), ("lstm", "cuda_solo"), ("gru", "cuda_grid")])
def test_training_of_a_stack_is_a_wavefront(
    cell: str,
    kernel: str,
    lengths: Any,
    reverse: bool,
    seeded: Any,
) -> None:
    """The same, but for sums over time, which go by the wavefront's blocks."""
    stack = Stack(cell, kernel, 4, keep=True, reverse=reverse, lengths=lengths)
    wanted = stack.forward()
    for plan, call in zip(stack.plans, _kept(wanted), strict=True):
        plan._call("forward", call.pop("packed"), call.pop("tensors"), {}, call)
    back = stack.backward(wanted)
    for plan, call in reversed(list(zip(stack.plans, _kept(back), strict=True))):
        plan._call("backward", call.pop("packed"), call.pop("tensors"), call.pop("pointers"), call)
    states, sums = ("dx", "dh_0", "dc_0"), tuple(f"d{name}" for name in _PARAMETERS)
    for seed in (1, 2)[: 1 if kernel == "cuda_cluster" else 2]:  # whose peers make it slow here
        seeded(seed)
        before = simt_library().rnnk_simt_forks()
        got = stack.forward()
        stack.plans[0].stack("forward", stack.plans[1:], _kept(got))
        same_bits(_results(got, ("y", "h_n", "c_n")), _results(wanted, ("y", "h_n", "c_n")), f"seed {seed}")
        assert simt_library().rnnk_simt_forks() - before == 3
        ours = stack.backward(got)
        stack.plans[0].stack("backward", stack.plans[1:], _kept(ours))
        assert simt_library().rnnk_simt_forks() - before == 6
        same_bits(_results(ours, states), _results(back, states), f"seed {seed}")
        for name, value in _results(ours, sums).items():
            other = _results(back, sums)[name].astype(np.float64)
            # Sums in float32, rounded once to bfloat16: an element may go to the neighbour, 2^-8 of it away.
            assert np.allclose(value.astype(np.float64), other, rtol=2**-7, atol=2**-12 * np.abs(other).max()), name
            assert 0 < np.abs(other).max() < 1e6, name
