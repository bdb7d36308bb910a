"""Inspection: the kernels, the choice for a layer, the machine and the build."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from . import _core
from . import _engine as engine
from ._engine.plans import gpus_used, native
from .nn.parameters import Module, check_int


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel.

    unavailable: the reason that it cannot run on this machine, or "".
    weights: the form of the weights of the layers that it runs: "int8", "bf16", or None for the dtype itself.
    """

    name: str
    unavailable: str
    weights: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.unavailable})" if self.unavailable else self.name


@dataclass(frozen=True)
class Split:
    """How a CPU kernel shares a call: between how many threads, and by "rows" of the batch or hidden "units"."""

    threads: int
    by: str

    def __str__(self) -> str:
        return "1 thread" if self.threads == 1 else f"{self.threads} threads by {self.by}"


@dataclass(frozen=True)
class Candidate:
    """The answer of one kernel for a problem.

    reason: why it declined or was not chosen; "" for the chosen one.
    forward_us, backward_us: its own estimates in microseconds; None if it declined.
    forward_split, backward_split: the use of the present number of threads; None if it declined, and on a GPU.
    """

    name: str
    chosen: bool
    declined: bool
    reason: str
    forward_us: float | None
    backward_us: float | None
    forward_split: Split | None = None
    backward_split: Split | None = None


@dataclass(frozen=True)
class LayerExplanation:
    """The choice for one layer of a stack. Both directions have the same choice."""

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
    """The kernel that runs a layer on x, and the reasons against the others. ``print`` it, or read its fields.

    kernel, candidates: those of the first layer.
    layers: one entry for every layer of the stack.
    notes: further facts. For rnnkern.torch: the transforms that have no fused kernel and run on the composed cell.
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
        forward, backward = (f" on {s}" if s else "" for s in (candidate.forward_split, candidate.backward_split))
        line += f"  forward {candidate.forward_us:.0f} us{forward}, backward {candidate.backward_us:.0f} us{backward}"
    return f"{line}  {candidate.reason}".rstrip()


def kernels() -> list[Kernel]:
    """The compiled kernels in order of preference, each with the reason if this machine cannot run it."""
    forms = _core.kernel_weights()
    return [Kernel(name, unavailable, forms[name] or None) for name, unavailable in _core.kernels()]


def explain(layer: Any, x: Any) -> Explanation:
    """Explain which kernel runs ``layer`` on ``x``, and why the others do not, with their estimates.

    layer: a layer or cell of rnnkern or of rnnkern.torch.
    x: an array for the layer, or its shape as a tuple.
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


def _sizes(spec: engine.Spec, is_layer: bool, batch_first: bool, shape: tuple[Any, ...]) -> tuple[int, int]:
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


def _explain_layer(spec: engine.Spec, layer: int, seq_len: int, batch: int) -> LayerExplanation:
    input_size = spec.layer_input_size(layer)
    kernel = engine.plan(spec).kernels[layer]
    sizes = (spec.input_size, spec.hidden_size)
    verdicts = _core.explain(spec.cell, spec.dtype, sizes, (seq_len, batch), layer, **native(spec))
    best = next((verdict for verdict in verdicts if verdict["name"] == kernel), None)
    candidates = []
    for verdict in verdicts:
        chosen, declined = verdict["name"] == kernel, bool(verdict["declined"])
        reason = str(verdict["reason"])
        if not (chosen or declined or reason):
            reason = _why_not(spec, kernel, verdict, best)
        estimates = (None, None) if declined else (float(verdict["forward_us"]), float(verdict["backward_us"]))
        splits = (Split(*verdict[way]) if verdict[way][0] else None for way in ("forward_split", "backward_split"))
        candidates.append(Candidate(verdict["name"], chosen, declined, reason, *estimates, *splits))
    return LayerExplanation(layer, input_size, spec.hidden_size, kernel, tuple(candidates))


def _why_not(spec: engine.Spec, kernel: str, verdict: dict[str, Any], best: dict[str, Any] | None) -> str:
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
    """Facts about the build and the machine, as a dict.

    build: the file of the native module, the cells and the Python version.
    gpus: name, capability, multiprocessors and bytes of memory of each GPU.
    cuda: "available", or the reason that it is not.
    pool: "own" for rnnkern's threads, or "lent" for threads of a host (torch's, in rnnkern.torch).

    Further keys: version, cpu, cpu_features, threads, kernels.
    """
    return {
        "version": _core.version(),
        "build": {
            "extension": str(getattr(_core, "__file__", "")),
            "cells": [name for name, *_ in _core.cells()],
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
    """Raise a late error of a GPU that was used: ValueError for a length outside [0, T], for example, which was
    clamped.

    The call does not wait for the GPU, so it misses errors of work that is still running. CPU kernels raise at once.
    """
    for index in sorted(gpus_used):
        _core.device_check(index)


def set_num_threads(threads: int) -> None:
    """Set the number of threads, the calling thread included. The call waits for a running kernel.

    If a host lends its threads (``info()["pool"]`` is "lent"), rnnkern uses at most as many as the host has. Raises
    TypeError for a value that is no int, and ValueError outside 1 to 256.
    """
    _core.set_num_threads(check_int("threads", threads, 1, 2**31 - 1))


def get_num_threads() -> int:
    """The number of threads: ``set_num_threads``, else ``RNNKERN_NUM_THREADS``, else the CPUs of this process."""
    return _core.get_num_threads()


def empty_cache() -> int:
    """Free the memory that is kept for the next call. Returns the number of bytes.

    rnnkern keeps freed tapes, packed weights and workspaces of a megabyte or more, because new memory from the system
    is slow. It keeps at most a sixteenth of the machine's memory.
    """
    return _core.empty_cache()
