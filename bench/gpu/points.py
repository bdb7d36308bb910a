"""What is measured, in which order, for how long. Pure: nothing here knows a GPU, torch or the compiled library.

A point is one problem (T, B, I = H) in one precision; inference and the training step are timed together at it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Telling values stand first on every axis; `grid` visits the anchors first, then the beginnings of all axes. H = 768,
# B = 16 is the size of published figures of cuDNN and FlashRNN; cuDNN has no persistent kernel for bfloat16, GRU or
# B = 1. The anchors' sizes decide between the strategies.
CELLS: Final = ("lstm", "gru", "rnn_tanh")
PRECISIONS: Final = ("bf16", "f16", "tf32", "f32")
HIDDEN: Final = (768, 1024, 256, 128, 512, 2048, 64, 192, 160)
BATCHES: Final = (16, 1, 64, 128, 32, 8, 256, 4)
MODES: Final = ("inference", "training")

_ANCHOR_SIZES: Final = 4  # of HIDDEN, at the first batch
_ANCHOR_BATCHES: Final = 3  # of BATCHES, at the first size

SEQ_LEN: Final = 1024  # of the published figures


@dataclass(frozen=True)
class Point:
    """precision: "tf32" is float32 data multiplied in TF32, "f32" float32 throughout."""

    cell: str
    precision: str
    hidden_size: int
    batch: int
    seq_len: int = SEQ_LEN
    layers: int = 1
    directions: int = 1

    def __str__(self) -> str:
        sizes = f"t{self.seq_len}b{self.batch}i{self.hidden_size}h{self.hidden_size}"
        sizes += f"l{self.layers}" if self.layers != 1 else ""
        sizes += f"d{self.directions}" if self.directions != 1 else ""
        return f"{self.cell} {sizes} {self.precision}"

    @property
    def problem(self) -> str:
        """The problem string (rnnkern.problems), in which the way of multiplying has no word."""
        return str(self).replace("tf32", "f32")


def parse(text: str) -> Point:
    """The point that `str` gave."""
    cell, sizes, precision = text.split()
    found = re.fullmatch(r"t(\d+)b(\d+)i\d+h(\d+)(?:l(\d+))?(?:d(\d+))?", sizes)
    if not found:
        raise ValueError(f"point {text!r}: expected sizes like t5b3i8h8, got {sizes!r}")
    steps, batch, hidden, layers, directions = (int(digits or 1) for digits in found.groups())
    return Point(cell, precision, hidden, batch, steps, layers, directions)


def grid(
    cells: Sequence[str] = CELLS,
    precisions: Sequence[str] = PRECISIONS,
    hidden: Sequence[int] = HIDDEN,
    batches: Sequence[int] = BATCHES,
    seq_len: int = SEQ_LEN,
    layers: int = 1,
) -> list[Point]:
    """All combinations: the anchors, which are of the first class, then the others by the sum of their places on the
    axes. So wherever time ends, every class has had its turns."""

    def later(i: int, j: int, k: int, m: int) -> bool:
        return i + j > 0 or not ((m == 0 and k < _ANCHOR_SIZES) or (k == 0 and m < _ANCHOR_BATCHES))

    placed = [
        (later(i, j, k, m), i + j + k + m, (m, k, j, i), Point(cell, precision, size, batch, seq_len, layers))
        for i, cell in enumerate(cells)
        for j, precision in enumerate(precisions)
        for k, size in enumerate(hidden)
        for m, batch in enumerate(batches)
    ]
    return [point for *_, point in sorted(placed, key=lambda entry: entry[:3])]


class Budget:
    """Seconds that a command may take, and whether one more point fits into what is left of them."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not seconds > 0:
            raise ValueError(f"budget: expected more than 0 seconds, got {seconds}")
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds
        self._since: float | None = None
        self._longest = 0.0

    def left(self) -> float:
        return max(0.0, self._end - self._clock())

    def begin(self) -> bool:
        """A point begins, unless the longest one so far would no longer fit. Also ends the one before."""
        now = self._clock()
        if self._since is not None:
            self._longest = max(self._longest, now - self._since)
        self._since = now
        return self._end - now > self._longest


@dataclass(frozen=True)
class Step:
    """A part of a command and the weight of its share of the time."""

    name: str
    weight: float


def share(budget: Budget, steps: Sequence[Step]) -> float:
    """Seconds for the first of the `steps` still to come: what earlier ones left over is everybody's."""
    return budget.left() * steps[0].weight / sum(step.weight for step in steps)


def walk(points: Sequence[Point], budget: Budget, measure: Callable[[Point, float], Any]) -> list[Point]:
    """measure(point, seconds left) in order while the budget lasts. -> the points that were not reached."""
    for index, point in enumerate(points):
        if not budget.begin():
            return list(points[index:])
        measure(point, budget.left())
    return []
