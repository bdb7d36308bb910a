"""torch.nn and rnnkern.torch at one point: the same weights, inputs and gradients; equal answers first, then times.

Inference is a call under inference_mode, a training step the call and torch.autograd.grad for x and every parameter.
The input product is inside for both. Times are CUDA events around blocks of calls, the blocks of the two alternating.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch

from .. import timing
from .points import Point

PLAN: Final = timing.Plan(blocks=5, block=0.02, pause=None)

_KINDS: Final = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}
_DTYPES: Final = {"bf16": torch.bfloat16, "f16": torch.float16, "tf32": torch.float32, "f32": torch.float32}

Call = Callable[[], Any]


def events(call: Call, calls: int) -> float:
    """Seconds of the GPU from before the first call to after the last (a timing.Repeat)."""
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


@dataclass(frozen=True)
class How:
    """On what, and by which clock. The tests have others."""

    device: str = "cuda"
    plan: timing.Plan = PLAN
    repeat: timing.Repeat | None = events  # None: the host's clock


@contextmanager
def multiplying(precision: str) -> Iterator[None]:
    """Whether float32 is multiplied in TF32: torch's own switches, which rnnkern.torch is held to as well."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Bout:
    """One point, its arrays and the modules of its contenders. Contenders: "cudnn" (torch.nn), "rnnkern"."""

    def __init__(self, point: Point, names: tuple[str, ...], how: How) -> None:
        self.point, self.how = point, how
        device = how.device
        dtype, size = _DTYPES[point.precision], point.hidden_size
        draw = torch.Generator(device).manual_seed(zlib.crc32(str(point).encode()))
        shape = (point.seq_len, point.batch)
        self.x = torch.randn((*shape, size), generator=draw, device=device).to(dtype)
        self.dy = torch.randn((*shape, point.directions * size), generator=draw, device=device).to(dtype)
        theirs = self._module("cudnn", dtype)
        bound = size**-0.5  # torch's initial range
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.copy_(torch.rand(weight.shape, generator=draw, device=device) * (2 * bound) - bound)
        self.modules = {"cudnn": theirs}
        if "rnnkern" in names:
            self.modules["rnnkern"] = self._module("rnnkern", dtype)
            self.modules["rnnkern"].load_state_dict(theirs.state_dict())

    def _module(self, name: str, dtype: torch.dtype) -> Any:
        if name == "rnnkern":
            import rnnkern.torch as library
        else:
            import torch.nn as library  # type: ignore[no-redef]
        kind, size = getattr(library, _KINDS[self.point.cell]), self.point.hidden_size
        both = self.point.directions == 2
        return kind(size, size, self.point.layers, bidirectional=both, dtype=dtype).to(self.how.device)

    def call(self, name: str, mode: str) -> Call:
        """The timed call: -> (y, states, gradients of x and of every parameter, or ())."""
        return _call(self.modules[name], self.x, self.dy, mode)

    def answers(self, name: str, mode: str) -> dict[str, torch.Tensor]:
        with multiplying(self.point.precision):
            return named(self.modules[name], self.call(name, mode)())

    def wrong(self, mode: str) -> dict[str, str]:
        """Contender -> how it differs from torch.nn in float32, on the same weights, by more than right answers do."""
        from rnnkern.problems import parse

        from ..check import tolerance

        # TF32 keeps the 10 bits of mantissa of float16; sums are float32 everywhere.
        problem = parse(
            self.point.problem.replace("f32", "f16") if self.point.precision == "tf32" else self.point.problem
        )
        judge = self._module("cudnn", torch.float32)
        judge.load_state_dict(self.modules["cudnn"].state_dict())
        with multiplying("f32"):
            right = named(judge, _call(judge, self.x.float(), self.dy.float(), mode)())
        found: dict[str, str] = {}
        for name in self.modules:
            for array, value in self.answers(name, mode).items():
                error, allowed = difference(value, right[array]), tolerance(problem, array)
                if not error <= allowed:
                    found[name] = f"{array} differs by {error:.1e} of its largest magnitude, {allowed:.1e} allowed"
                    break
        return found

    def times(self, mode: str, names: list[str]) -> dict[str, Any]:
        """Contender -> its figures for the record, in microseconds."""
        calls = {name: self.call(name, mode) for name in names}
        with multiplying(self.point.precision):
            times = timing.measure(calls, self.how.plan, self.how.repeat)
            issue = {name: _issue(call, self.how.device) for name, call in calls.items()}
        return {
            name: {
                "us_per_step": median(found.blocks) * 1e6 / self.point.seq_len,
                "median_us": median(found.blocks) * 1e6,
                "blocks_us": [seconds * 1e6 for seconds in found.blocks],
                "calls_per_block": found.calls,
                "issue_us": issue[name],
            }
            for name, found in times.items()
        }

    def kernels(self, name: str, mode: str) -> dict[str, int]:
        """Kernels that one call launched -> how often."""
        call = self.call(name, mode)
        with multiplying(self.point.precision):
            call()
            return launched(call)


def captured(call: Call, device: str) -> Call:
    """The call as a CUDA graph: each call of the result replays it. On the CPU, which has none, the call itself."""
    if device != "cuda":
        return call
    stream: Any = torch.cuda.Stream
    side = stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what a first call prepares must not be captured
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph: Any = torch.cuda.CUDAGraph
    kept = graph()
    with torch.cuda.graph(kept):
        result = call()

    def replay() -> Any:
        kept.replay()
        return result

    return replay


def _call(module: Any, x: torch.Tensor, dy: torch.Tensor, mode: str) -> Call:
    """Good until the next call is made of this module: cuDNN refuses gradients to a module that is not in training."""
    module.train(mode == "training")
    if mode == "inference":

        def infer() -> Any:
            with torch.inference_mode():
                return *module(x), ()

        return infer
    leaf = x.clone().requires_grad_()
    wanted = [leaf, *module.parameters()]

    def step() -> Any:
        y, states = module(leaf)
        return y, states, torch.autograd.grad(y, wanted, dy)

    return step


def named(module: Any, result: Any) -> dict[str, torch.Tensor]:
    """The arrays of a call's result, by name."""
    y, states, grads = result
    h_n, *c_n = states if isinstance(states, tuple) else (states,)
    found = {"y": y.detach(), "h_n": h_n.detach()} | ({"c_n": c_n[0].detach()} if c_n else {})
    names = ["dx", *(f"d{name}" for name, _ in module.named_parameters())]
    return found | (dict(zip(names, grads, strict=True)) if grads else {})


def difference(value: torch.Tensor, right: torch.Tensor) -> float:
    """Largest difference as a share of the largest magnitude, on the device; inf where shapes or finiteness differ."""
    if value.shape != right.shape or not bool(torch.isfinite(value).all()):
        return float("inf")
    return float((value.float() - right).abs().max() / right.abs().max())


def _issue(call: Call, device: str) -> float:
    """Microseconds in which the host hands over one call. Where they equal the median, the GPU waits for the host."""
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    if device == "cuda":
        torch.cuda.synchronize()
    return seconds * 1e6


def launched(call: Call) -> dict[str, int]:
    """Kernels of one call -> how often, by torch's profiler."""
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    counts: dict[str, int] = {}
    for event in profiler.events() or ():
        if event.device_type == DeviceType.CUDA and not event.name.startswith(("Memcpy", "Memset")):
            counts[event.name] = counts.get(event.name, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: -entry[1]))


def algorithm(kernels: dict[str, int], seq_len: int) -> str:
    """What the kernels of a forward call look like: cuDNN does not say which algorithm it took, so this is a guess.

    "persistent": one says so in its name. "stepwise": at least one launch for each step. Else "fused": few launches.
    """
    if any("persist" in name.lower() for name in kernels):
        return "persistent"
    return "stepwise" if sum(kernels.values()) >= seq_len else "fused"
