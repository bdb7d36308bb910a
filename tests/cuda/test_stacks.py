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
    """Layers of 20 units on the executor as one network, and one by one."""

    T, B, H = 300, 3, 20

    def __init__(
        self, cell: str, kernel: str, layers: int, reverse: bool = False, lengths: Any = None, recompute: bool = False
    ) -> None:
        self.layers, self.lengths, self.states = layers, lengths, 2 if cell == "lstm" else 1
        gates = {"lstm": 4, "gru": 3}[cell]
        options = {"kernel": kernel, "reverse": reverse, "recompute": recompute}
        sizes = (simt_library(), cell, "bfloat16", self.H, self.H)
        self.network = DevicePlan(*sizes, num_layers=layers, **options)
        self.single = DevicePlan(*sizes, **options)
        rng = np.random.default_rng(0)

        def numbers(*shape: int, dtype: Any = ml_dtypes.bfloat16) -> Any:
            return rng.standard_normal(shape).astype(dtype)

        self.shapes = [(gates * self.H, self.H)] * 2 + [(gates * self.H,)] * 2
        self.weights = [
            [(numbers(*shape) * np.float32(0.15)).astype(ml_dtypes.bfloat16) for shape in self.shapes]
            for _ in range(layers)
        ]
        self.x, self.dy = numbers(self.T, self.B, self.H), numbers(self.T, self.B, self.H)
        rows = (layers, self.B, self.H)
        self.first = {"h_0": numbers(*rows), "c_0": numbers(*rows, dtype=np.float32)}
        self.last = {"dh_n": numbers(*rows), "dc_n": numbers(*rows, dtype=np.float32)}
        for states in (self.first, self.last):
            for name in list(states)[self.states :]:
                del states[name]

    def outputs(self, layers: int) -> dict[str, Any]:
        rows = (layers, self.B, self.H)
        out = {"y": np.full((self.T, self.B, self.H), 7, ml_dtypes.bfloat16), "h_n": np.zeros(rows, ml_dtypes.bfloat16)}
        return out | ({"c_n": np.zeros(rows, np.float32)} if self.states == 2 else {})

    def gradients(self, layers: int) -> dict[str, Any]:
        names = ("dh_0", "dc_0")[: self.states]
        out = {name: np.zeros((layers, self.B, self.H), np.float32) for name in names}
        out["dx"] = np.full_like(self.x, 7)
        own = [[np.zeros(shape, ml_dtypes.bfloat16) for shape in self.shapes] + [None, None] for _ in range(layers)]
        return out | {"gradients": [array for each in own for array in each]}

    def together(self, keep: bool) -> dict[str, Any]:
        """A training step, or inference: forward's results, and ``forks`` and ``back forks`` of streams."""
        plan, out = self.network, self.outputs(self.layers)
        packed = plan.pack_all([array for own in self.weights for array in (*own, None, None)])
        reserve = c_abi.aligned(plan.sizes(self.T, self.B)["reserve"]) if keep else None
        counts = [simt_library().rnnk_simt_forks()]
        plan.run("forward", packed, x=self.x, lengths=self.lengths, reserve=reserve, **self.first, **out)
        counts.append(simt_library().rnnk_simt_forks())
        results = out | {"forks": counts[1] - counts[0]}
        if not keep:
            return results
        grads = self.gradients(self.layers)
        plan.run(
            "backward", packed, x=self.x, y=out["y"], lengths=self.lengths, reserve=reserve, dy=self.dy, **self.first,
            **self.last, **grads,
        )  # fmt: skip
        return results | grads | {"back forks": simt_library().rnnk_simt_forks() - counts[1]}

    def one_by_one(self, keep: bool) -> dict[str, Any]:
        plan, below, done = self.single, self.x, []
        for layer, own in enumerate(self.weights):
            packed, out = plan.pack_all([*own, None, None]), self.outputs(1)
            reserve = c_abi.aligned(plan.sizes(self.T, self.B)["reserve"]) if keep else None
            first = {name: value[layer : layer + 1] for name, value in self.first.items()}
            plan.run("forward", packed, x=below, lengths=self.lengths, reserve=reserve, **first, **out)
            done.append((packed, below, first, out, reserve))
            below = out["y"]
        results = {name: np.concatenate([out[name] for *_, out, _ in done]) for name in done[0][3] if name != "y"}
        results["y"] = below
        if not keep:
            return results
        dy, grads = self.dy, []
        for layer in reversed(range(self.layers)):
            packed, x, first, out, reserve = done[layer]
            grads.insert(0, self.gradients(1))
            last = {name: value[layer : layer + 1] for name, value in self.last.items()}
            plan.run(
                "backward", packed, x=x, y=out["y"], lengths=self.lengths, reserve=reserve, dy=dy, **first, **last,
                **grads[0],
            )  # fmt: skip
            dy = grads[0]["dx"]
        results |= {name: np.concatenate([each[name] for each in grads]) for name in ("dh_0", "dc_0")[: self.states]}
        return results | {"dx": dy, "gradients": [array for each in grads for array in each["gradients"]]}

    def same(self, got: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
        """The same bits, but for sums over time, which a wavefront adds up by its blocks."""
        exact = [name for name, value in wanted.items() if name != "gradients"]
        same_bits({name: got[name] for name in exact}, {name: wanted[name] for name in exact}, what)
        for one, other in zip(got.get("gradients", ()), wanted.get("gradients", ()), strict=True):
            if other is None:
                continue
            wide = other.astype(np.float64)
            # Sums in float32, rounded once to bfloat16: an element may go to the neighbour, 2^-8 of it away.
            assert np.allclose(one.astype(np.float64), wide, rtol=2**-7, atol=2**-12 * np.abs(wide).max()), what
            assert 0 < np.abs(wide).max() < 1e6


_LENGTHS = np.array([300, 0, 130])


@pytest.mark.parametrize(
    ("cell", "kernel", "layers"),
    [("lstm", "cuda_cluster", 9), *((cell, kernel, 4) for cell in ("lstm", "gru") for kernel in DEVICE_KERNELS)],
)
def test_inference_of_a_stack_is_a_wavefront(cell: str, kernel: str, layers: int, seeded: Any) -> None:
    """The bits of layer after layer, in any order that the streams allow; where one layer fills the GPU, in turn."""
    stack = Stack(cell, kernel, layers)
    wanted = stack.one_by_one(keep=False)
    # A stream for each layer but the first, 8 layers at a time.
    streams = 0 if kernel == "cuda_stepwise" else layers - 1 - (layers > 8)
    for seed in (1, 2, 3)[: 1 if layers > 4 else 3]:
        seeded(seed)
        got = stack.together(keep=False)
        assert got["forks"] == streams
        stack.same(got, wanted, f"seed {seed}")


def test_layers_that_do_not_fit_side_by_side_go_in_turn(multiprocessors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of cuda_grid wait for each other, whichever wave is asked for."""
    monkeypatch.setenv("RNNKERN_GPU_WAVE", "64")
    forks = {}
    for count in (132, 4):
        multiprocessors(count)
        forks[count] = Stack("lstm", "cuda_grid", 3).together(keep=False)["forks"]
    assert forks == {132: 2, 4: 0}


def test_recomputing_layers_go_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """900 rows are one segment, whose reserve is nothing: a null pointer."""
    monkeypatch.setenv("RNNKERN_GPU_WAVE", "64")
    stack = Stack("gru", "cuda_solo", 2, recompute=True)
    assert stack.single.sizes(stack.T, stack.B)["reserve"] == 0
    got = stack.together(keep=True)
    assert got["forks"] == got["back forks"] == 0
    wanted = stack.one_by_one(keep=True)
    stack.same(got, wanted, "in turn")
    assert all(a is b or a.tobytes() == b.tobytes() for a, b in zip(got["gradients"], wanted["gradients"], strict=True))


def test_the_blocks_of_a_wavefront_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack("gru", "cuda_solo", 2)
    wanted = stack.one_by_one(keep=False)
    for given, streams in (("0", 0), ("77", 1), ("1000", 0)):
        monkeypatch.setenv("RNNKERN_GPU_WAVE", given)
        got = stack.together(keep=False)
        assert got["forks"] == streams
        stack.same(got, wanted, given)
    for given in ("-1", "many", "8 steps"):
        monkeypatch.setenv("RNNKERN_GPU_WAVE", given)
        with pytest.raises(ValueError, match=f'RNNKERN_GPU_WAVE: expected a number of steps, or 0 .* got "{given}"'):
            stack.together(keep=False)


@pytest.mark.parametrize(("lengths", "reverse"), [(None, False), (_LENGTHS, True)], ids=["plain", "reverse lengths"])
@pytest.mark.parametrize(("cell", "kernel"), [("lstm", "cuda_cluster"), ("lstm", "cuda_solo"), ("gru", "cuda_grid")])
def test_training_of_a_stack_is_a_wavefront(
    cell: str,
    kernel: str,
    lengths: Any,
    reverse: bool,
    seeded: Any,
) -> None:
    stack = Stack(cell, kernel, 4, reverse=reverse, lengths=lengths)
    wanted = stack.one_by_one(keep=True)
    for seed in (1, 2)[: 1 if kernel == "cuda_cluster" else 2]:  # whose peers make it slow here
        seeded(seed)
        got = stack.together(keep=True)
        assert got["forks"] == got["back forks"] == 3
        stack.same(got, wanted, f"seed {seed}")


@pytest.mark.parametrize("kernel", ["cuda_stepwise", "cuda_solo"])
def test_lengths_and_marks_of_any_layout(kernel: str) -> None:
    """int32 lengths with a stride, and masks and resets [B, T], in both directions: the bits of dense ones."""
    T, B, H, rng = 7, 3, 20, np.random.default_rng(1)
    plan = DevicePlan(simt_library(), "gru", "float32", H, H, num_layers=2, direction=2, dropout=0.25, kernel=kernel)
    weights: list[Any] = []
    for index in range(4):
        shapes = [(3 * H, H if index < 2 else 2 * H), (3 * H, H), (3 * H,), (3 * H,)]
        weights += [(rng.standard_normal(shape) * 0.2).astype(np.float32) for shape in shapes] + [None, None]
    packed = plan.pack_all(weights)
    x, dy = (rng.standard_normal((T, B, width)).astype(np.float32) for width in (H, 2 * H))
    spread = np.full((B, 2), -5, np.int32)
    spread[:, 1] = T, 3, 0
    marks = {"mask": rng.random((T, B)) < 0.7, "reset": rng.random((T, B)) < 0.3}
    turned = {name: np.ascontiguousarray(mark.T).T for name, mark in marks.items()}
    results = []
    for given in ({"lengths": spread[:, 1].astype(np.int64), **marks}, {"lengths": spread[:, 1], **turned}):
        out = {"y": np.full((T, B, 2 * H), 7, np.float32), "h_n": np.zeros((4, B, H), np.float32)}
        grads = {"dx": np.zeros_like(x), "dh_0": np.zeros((4, B, H), np.float32)}
        own = [None if w is None else np.zeros_like(w) for w in weights]
        call = {"x": x, "reserve": c_abi.aligned(plan.sizes(T, B)["reserve"]), "random": (3, 1, 0, 0), **given}
        plan.run("forward", packed, **call, **out)
        plan.run("backward", packed, **call, y=out["y"], dy=dy, gradients=own, **grads)
        results.append(out | grads | {f"gradient {i}": w for i, w in enumerate(own) if w is not None})
    same_bits(results[0], results[1], kernel)
    assert np.abs(results[0]["dx"]).max() > 0
