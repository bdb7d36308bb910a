"""Timing in alternating blocks, so that drift of the machine meets all contenders alike.

Thread pools go on spinning after a call and take the core from whoever runs next. Before every block this process waits
until its own threads are quiet: until it used next to no CPU time for a few milliseconds.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

_SLICE: Final = 0.004  # seconds of sleep over which the process's CPU time is looked at
_QUIET: Final = 0.05  # of one CPU: a spinning thread uses 1.0, this interpreter waking up uses less than 0.01
_PATIENCE: Final = 1.0  # seconds after which a pool that never sleeps is timed against all the same, and reported


@dataclass(frozen=True)
class Plan:
    """blocks: how many per contender; block: seconds each lasts at least; pause: seconds before a block, at least.

    pause None: no waiting for threads either, where nobody leaves any running.
    """

    blocks: int = 7
    block: float = 0.05
    pause: float | None = 0.02


@dataclass
class Timing:
    """What was measured of one contender."""

    calls: int  # in each block
    blocks: list[float] = field(default_factory=list)  # seconds per call, one entry per block
    pauses: list[float] = field(default_factory=list)  # seconds its threads took to fall quiet after each block
    restless: bool = False  # they did not within _PATIENCE

    def over(self, other: Timing) -> float:
        """This time divided by the other's: the median over pairs of blocks, which ran one after the other."""
        return median(a / b for a, b in zip(self.blocks, other.blocks, strict=True))


def settle(pause: float | None) -> tuple[float, bool]:
    """Wait at least `pause` and until this process's threads are quiet. -> (seconds waited, whether they are)."""
    if pause is None:
        return 0.0, True
    start = time.perf_counter()
    quiet = False
    while not quiet or time.perf_counter() - start < pause:
        if time.perf_counter() - start > max(pause, _PATIENCE):
            break
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(_SLICE)
        quiet = time.process_time() - cpu < _QUIET * (time.perf_counter() - wall)
    return time.perf_counter() - start, quiet


Repeat = Callable[[Callable[[], Any], int], float]


def _repeat(call: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def calls_for(call: Callable[[], Any], block: float, repeat: Repeat | None = None) -> int:
    """How many calls last `block` seconds. Warms up on the way."""
    repeat = repeat or _repeat
    repeat(call, 1)
    calls = 1
    while (elapsed := repeat(call, calls)) < block / 4:
        calls *= 2
    return max(1, math.ceil(calls * block / elapsed))


def measure(calls: Mapping[str, Callable[[], Any]], plan: Plan, repeat: Repeat | None = None) -> dict[str, Timing]:
    """Times every contender `plan.blocks` times, turn by turn; each round begins with the next contender.

    repeat(call, count): seconds that `count` calls take, by whatever clock their work is seen by; None: the host's.
    """
    repeat = repeat or _repeat
    names = list(calls)
    timings = {name: Timing(calls_for(calls[name], plan.block, repeat)) for name in names}
    settle(plan.pause)
    enabled = gc.isenabled()
    gc.disable()  # a collection in one contender's block is nobody's fault
    try:
        for turn in range(plan.blocks):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                call, timing = calls[name], timings[name]
                repeat(call, max(1, timing.calls // 8))  # wakes its threads, refills its caches
                timing.blocks.append(repeat(call, timing.calls) / timing.calls)
                waited, quiet = settle(plan.pause)
                timing.pauses.append(waited)
                timing.restless |= not quiet
            gc.collect()
    finally:
        if enabled:
            gc.enable()
    return timings


def ratio(one: Callable[[], Any], other: Callable[[], Any], seconds: float) -> float:
    """The time of ``one`` divided by that of ``other``, over nine blocks of each of at least ``seconds``."""
    timings = measure({"one": one, "other": other}, Plan(9, seconds, None))
    return timings["one"].over(timings["other"])
