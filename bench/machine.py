"""What this machine is, and the most it can do: multiply-adds in registers, reading from each level of its caches."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from rnnkern import _core
from rnnkern.problems import Problem

from .data import Data, cells, flops, numpy_dtype

_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_ASSUMED: Final = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}  # where the system does not say
_MEMORY_CAP: Final = 1 << 29  # bytes that the last level's measurement uses at most, all threads together


def cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def caches() -> dict[str, int]:
    """Bytes of the data caches that CPU 0 sees: L1 (data), L2, L3; those it has, or _ASSUMED."""
    found: dict[str, int] = {}
    for index in sorted(_CACHES.glob("index*")):
        if (index / "type").read_text().strip() == "Instruction":
            continue
        level, size = ((index / name).read_text().strip() for name in ("level", "size"))
        found[f"L{level}"] = int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]]
    return found or dict(_ASSUMED)


def cpu_model() -> str:
    """The CPU's name as the system has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def facts(threads: int) -> dict[str, Any]:
    """Machine facts for the JSON document. load_average: of the last minute, when the benchmark began."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cpus": cpus(),
        "threads": threads,
        "caches": caches(),
        "features": _core.cpu_features(),
        "kernels": {name: reason or "runs" for name, reason in _core.kernels()},
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_average": os.getloadavg()[0] if sys.platform != "win32" else None,
    }


class Watch:
    """How much CPU time others take: processes beside this one, and the host of a virtual machine (steal).

    Counted on the CPUs this process may use, in the system's ticks (10 ms). None where the system does not say.
    """

    def __init__(self) -> None:
        self._start = (time.perf_counter(), time.process_time(), _busy())

    def others(self) -> float | None:
        """CPUs in use by others, on average since this watch was made."""
        wall, own, busy = self._start
        now = _busy()
        if busy is None or now is None:
            return None
        return max(0.0, (now - busy - (time.process_time() - own)) / (time.perf_counter() - wall))


def _busy() -> float | None:
    """Seconds in which this process's CPUs were not idle, since boot (proc(5), /proc/stat)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    mine = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
    ticks = 0
    for line in stat.read_text().splitlines():
        name, *fields = line.split()
        if name in mine:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Read:
    """Reading the same bytes over and over, every thread its own."""

    level: str  # the smallest cache that holds them: "L1", "L2", "L3" or "memory"
    bytes_per_thread: int
    rate: float  # GB/s of all threads together


_FMA: Final = ("float32", "float64", "bfloat16", "float32 of 256 bits")  # in the order of bench/native/probe.h
_NARROW: Final = _FMA[3]


@dataclass(frozen=True)
class Limits:
    """The machine's own measured limits with `threads` threads."""

    threads: int
    fma: dict[str, float]  # GFLOP/s by what is computed in, one of _FMA; those that the CPU has
    levels: list[Read]  # one for each level
    weights: dict[int, Read]  # by bytes per thread: the footprints of the problems' recurrent weights
    fed: dict[str, float] = field(default_factory=dict)  # the same of float32 with operands from the caches

    def rate(self, dtype: str, kernel: str = "") -> float:
        """GFLOP/s for a problem's dtype: half types compute in float32, or in bfloat16 where that is faster.

        kernel: cpu_avx2 is held against what its own instructions can do.
        """
        if kernel == "cpu_avx2" and dtype != "float64" and _NARROW in self.fma:
            return self.fma[_NARROW]
        plain = self.fma["float64" if dtype == "float64" else "float32"]
        return max(plain, self.fma.get(dtype, 0.0))

    def refreshed(self, seconds: float) -> Limits:
        """With the multiply-add rates of this moment: a processor's clock moves within minutes."""
        return replace(self, fma={name: _once(self.threads, name, seconds) for name in self.fma})


def mean(one: Limits, other: Limits) -> Limits:
    """Between two moments."""
    return replace(one, fma={name: (rate + other.fma[name]) / 2 for name, rate in one.fma.items()})


def weight_bytes(problem: Problem) -> int:
    """Bytes of one layer's and direction's weight_hh [G*H, H], which every step reads."""
    return cells()[problem.cell][0] * problem.hidden_size**2 * numpy_dtype(problem.dtype).itemsize


def measure(threads: int, problems: Iterable[Problem], seconds: float = 0.1) -> Limits:
    """Best of three of each measurement, `seconds` each: a limit is what was reached once."""
    fma = {name: _best(_core.probe_fma, threads, code, seconds) for code, name in enumerate(_FMA)}
    fed = {name: _best(_core.probe_fed, threads, int(name == _NARROW), seconds) for name in ("float32", _NARROW)}
    sizes = caches()
    last = max(sizes)  # shared by all threads; the levels before it belong to a core
    room = {name: size // threads if name == last and last != "L1" else size for name, size in sizes.items()}

    def read(footprint: int) -> Read:
        level = next((name for name, size in room.items() if footprint <= size), "memory")
        rate = _best(_core.probe_read, threads, footprint, seconds)
        return Read(level, footprint, rate)

    # A level is measured well inside itself; the last one at four times the level before it, because a reported size
    # may be shared with other machines on the same host.
    before = [0, *room.values()]
    inside = [min(size // 2, 4 * smaller or size) for smaller, size in zip(before, room.values(), strict=False)]
    beyond = min(4 * room[last], _MEMORY_CAP // threads)
    footprints = sorted({-(-weight_bytes(problem) // threads) for problem in problems})
    return Limits(
        threads,
        {name: rate for name, rate in fma.items() if rate > 0},
        [read(footprint) for footprint in [*inside, beyond]],
        {footprint: read(footprint) for footprint in footprints},
        {name: rate for name, rate in fed.items() if rate > 0},
    )


def _once(threads: int, name: str, seconds: float) -> float:
    return _best(_core.probe_fma, threads, _FMA.index(name), seconds, 1)


def _best(probe: Callable[[int, int, float], float], threads: int, what: int, seconds: float, times: int = 3) -> float:
    """Best of some; RuntimeError when the probe got no memory or no threads (below zero, see bench/native/probe.h)."""
    rate = max(probe(threads, what, seconds) for _ in range(times))
    if rate < 0:
        raise RuntimeError(f"measuring the machine failed: no memory or no threads for {threads} threads of {what}")
    return float(rate)


@dataclass(frozen=True)
class Bound:
    """The least time of one call on this machine."""

    seconds: float
    by: str  # "FMA", or the level whose bandwidth bounds the recurrence


def bound(problem: Problem, data: Data, mode: str, limits: Limits, kernel: str = "") -> Bound:
    """FLOPs at the FMA rate, but a step of the recurrence is not faster than reading weight_hh from where it sits.

    Inference: the input product, then T steps. Training: the input product and the two or three products over time of
    its backward at the FMA rate, then T steps forward and T back. Pointwise work and barriers count as nothing.
    """
    rate = limits.rate(problem.dtype, kernel) * 1e9
    inputs, recurrent = flops(problem, data)
    read = limits.weights[-(-weight_bytes(problem) // limits.threads)]
    steps = problem.num_layers * problem.directions * problem.seq_len
    stream = steps * weight_bytes(problem) / (read.rate * 1e9)
    compute = recurrent / rate
    walk = max(compute, stream)
    parallel = inputs / rate if mode == "inference" else (3 * inputs + recurrent) / rate
    return Bound(parallel + walk * (1 if mode == "inference" else 2), read.level if stream > compute else "FMA")
