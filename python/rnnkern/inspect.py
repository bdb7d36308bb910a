"""Looking inside: which kernels there are, which one runs and why, what the machine and the build offer."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from . import _core, ops
from .parameters import Module, check_int
from .plans import gpus_used


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel. unavailable: why this machine cannot run it, or ""."""

    name: str
    unavailable: str

    def __str__(self) -> str:
        return f"{self.name} ({self.unavailable})" if self.unavailable else self.name


@dataclass(frozen=True)
class Candidate:
    """What one kernel said of a problem. reason: why it declined or was not chosen; "" for the chosen one.

    forward_us, backward_us: its own estimates in microseconds, None where it declined.
    """

    name: str
    chosen: bool
    declined: bool
    reason: str
    forward_us: float | None
    backward_us: float | None


@dataclass(frozen=True)
class LayerExplanation:
    """The choice for one layer of a stack (both directions choose alike)."""

    layer: int
    input_size: int
    hidden_size: int
    kernel: str
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        head = f"layer {self.layer} (I = {self.input_size}, H = {self.hidden_size}): {self.kernel}"
        width = max(len(candidate.name) for candidate in self.candidates)
        return "\n".join([head, *(f"  {_line(candidate, width)}" for candidate in self.candidates)])


@dataclass(frozen=True, repr=False)
class Explanation:
    """Which kernel runs a layer on x, and why no other does. ``print`` it, or read ``kernel`` and ``candidates``.

    kernel, candidates: of the first layer. layers: of every layer of the stack. notes: what else a call meets (of
    rnnkern.torch: which transforms have no fused kernel and run on the composed form of the cell).
    """

    problem: str
    layers: tuple[LayerExplanation, ...]
    notes: tuple[str, ...] = ()

    @property
    def kernel(self) -> str:
        return self.layers[0].kernel

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return self.layers[0].candidates

    def __repr__(self) -> str:
        return "\n".join([self.problem, *map(str, self.layers), *self.notes])


def _line(candidate: Candidate, width: int) -> str:
    verdict = "chosen" if candidate.chosen else "declined" if candidate.declined else "not chosen"
    line = f"{candidate.name:<{width}}  {verdict:<10}"
    if candidate.forward_us is not None and candidate.backward_us is not None:
        line += f"  forward {candidate.forward_us:.0f} us, backward {candidate.backward_us:.0f} us"
    return f"{line}  {candidate.reason}".rstrip()


def kernels() -> list[Kernel]:
    """The compiled kernels in list order, with the reason where this machine cannot run one."""
    return [Kernel(name, unavailable) for name, unavailable in _core.kernels()]


def explain(layer: Any, x: Any) -> Explanation:
    """Which kernel runs ``layer`` on ``x``, and why each other declined or was not chosen, with the numbers.

    layer: a layer or cell of rnnkern or of rnnkern.torch. x: an array as the layer takes it, or its shape as a tuple.
    """
    notes: tuple[str, ...] = ()
    if isinstance(layer, Module):
        spec, is_layer = layer.spec, hasattr(layer, "batch_first")
    elif hasattr(layer, "_explained"):  # rnnkern.torch's, which this module must not import
        spec, is_layer, notes = layer._explained()
    else:
        raise TypeError(f"layer: expected a layer or cell of rnnkern, got {type(layer).__name__}")
    shape = tuple(x) if isinstance(x, (tuple, list)) else tuple(getattr(x, "shape", ()))
    seq_len, batch = _sizes(spec, is_layer, getattr(layer, "batch_first", False), shape)
    layers = tuple(_explain_layer(spec, index, seq_len, batch) for index in range(spec.num_layers))
    where = "" if spec.gpu is None else f" on {spec.device}"
    return Explanation(f"{layer!r}, T = {seq_len}, B = {batch}, {spec.dtype}{where}", layers, notes)


def _sizes(spec: ops.Spec, is_layer: bool, batch_first: bool, shape: tuple[Any, ...]) -> tuple[int, int]:
    ranks = (2, 3) if is_layer else (1, 2)
    if len(shape) not in ranks or shape[-1] != spec.input_size:
        expected = "[T, B, I], [B, T, I] with batch_first or [T, I]" if is_layer else "[B, I] or [I]"
        raise ValueError(f"x: expected {expected} with I = {spec.input_size}, got shape {list(shape)}")
    sizes = [check_int("x", size, 0) for size in shape[:-1]]
    if not is_layer:
        return 1, (sizes or [1])[0]
    if len(sizes) == 1:
        return sizes[0], 1
    return (sizes[1], sizes[0]) if batch_first else (sizes[0], sizes[1])


def _explain_layer(spec: ops.Spec, layer: int, seq_len: int, batch: int) -> LayerExplanation:
    input_size = spec.layer_input_size(layer)
    kernel = ops.plans(spec)[layer * spec.directions].kernel
    where: dict[str, Any] = {}
    if spec.gpu is not None:
        where = {"device": "cuda", "device_index": spec.gpu, "tf32": spec.allow_tf32}
    verdicts = _core.explain(
        spec.cell, spec.dtype, input_size, spec.hidden_size, seq_len, batch, **spec.options.native(), **where
    )
    best = next((verdict for verdict in verdicts if verdict["name"] == kernel), None)
    candidates = []
    for verdict in verdicts:
        chosen, declined = verdict["name"] == kernel, bool(verdict["declined"])
        reason = str(verdict["reason"])
        if not (chosen or declined or reason):
            reason = _why_not(spec, kernel, verdict, best)
        estimates = (None, None) if declined else (float(verdict["forward_us"]), float(verdict["backward_us"]))
        candidates.append(Candidate(verdict["name"], chosen, declined, reason, *estimates))
    return LayerExplanation(layer, input_size, spec.hidden_size, kernel, tuple(candidates))


def _why_not(spec: ops.Spec, kernel: str, verdict: dict[str, Any], best: dict[str, Any] | None) -> str:
    if spec.kernel is not None:
        return f"{kernel} is forced"
    if best is None or best["forward_us"] + best["backward_us"] <= 0:
        return f"{kernel} was chosen"
    ratio = (verdict["forward_us"] + verdict["backward_us"]) / (best["forward_us"] + best["backward_us"])
    return (
        f"estimated {ratio:.2f}x the time of {kernel}"
        if ratio != 1
        else f"estimated equal; {kernel} comes first in the list"
    )


def info() -> dict[str, Any]:
    """The build and the machine: version, build, cpu, cpu_features, gpus, cuda, threads, pool, kernels.

    build: the native module's file, the cells and the Python it runs on. gpus: name, capability, multiprocessors and
    bytes of memory of each; cuda: "available", or why there are none. pool: whose threads run, "own", or "lent" by a
    host (rnnkern.torch: torch's).
    """
    return {
        "version": _core.version(),
        "build": {
            "extension": str(getattr(_core, "__file__", "")),
            "cells": [name for name, _, _ in _core.cells()],
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        "cpu": platform.machine(),
        "cpu_features": _core.cpu_features().split(),
        "gpus": [_core.device_info(index) for index in range(_core.device_count())],
        "cuda": _core.devices_unavailable() or "available",
        "threads": _core.get_num_threads(),
        "pool": "lent" if _core.pool_is_lent() else "own",
        "kernels": {kernel.name: kernel.unavailable or "available" for kernel in kernels()},
    }


def check() -> None:
    """Raise what a GPU that was used reported late: ValueError for a length outside [0, T], say, which was clamped.

    Waits for nothing: what a stream has still to run has not been looked at. CPU kernels raise at once, and leave
    nothing.
    """
    for index in sorted(gpus_used):
        _core.device_check(index)


def set_num_threads(threads: int) -> None:
    """Threads of the library's own team, the caller's included. Waits for a running kernel to finish.

    On threads that a host lends (``info()["pool"]``, as under rnnkern.torch) no more are used than it has.
    TypeError if it is not an int, ValueError if it is not in 1 to 256.
    """
    _core.set_num_threads(check_int("threads", threads, 1, 2**31 - 1))


def get_num_threads() -> int:
    """Threads of the team: ``set_num_threads``, else ``RNNKERN_NUM_THREADS``, else the CPUs this process may use."""
    return _core.get_num_threads()


def empty_cache() -> int:
    """Free the memory kept for the next call; returns its bytes.

    Tapes, packed weights and large workspaces of a megabyte or more are kept when they are let go of, because memory
    fresh from the system costs more time than is spent in it: at most a sixteenth of the machine's memory.
    """
    return _core.empty_cache()
