"""Many cores by a model: the splits over threads that the library chooses, and better ones: `python -m bench.model`.

    python -m bench.model [--cores 1,2,...,64] [--hidden 64,...] [--batch 1,...] [--cells lstm,...] [--all]

It measures nothing. It predicts a step of a layer in float32, I = H, split into n tasks by rows, by units, or into a
grid of both, which the library does not have. The choice itself is the library's (``rnnk_explain``), in this process,
for numbers of threads that may exceed the machine's cores. csrc/cpu/schedule.h answers within a microsecond; counted
here are also loads, the shapes of tiles, the first-level cache, and servers of two kinds.

Sources. Cache rates: EPYC, a Zen 5 core (48 bytes a cycle from the second level, 27 from the third, 15 from memory);
Xeon, the library's measured rate beyond the second level (core/costs.h). A line from another core: 23 ns within a group
of 8 cores and 107 ns beyond it (EPYC 7R13), 51 ns (Xeon 8375C): github.com/nviennot/core-to-core-latency. The team's
barrier is centralised, a counter and a flag, so its cost is linear: what two threads were measured to take, and for
each further one a passage of the counter's line, because contended atomic operations queue (H. Schweizer, M. Besta,
T. Hoefler, "Evaluating the Cost of Atomic Operations on Modern Architectures", 2015).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import exp, log
from typing import Final

from rnnkern import _core

from . import machine

STEPS: Final = 100
CORES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64)
HIDDEN: Final = (64, 128, 256, 512, 1024)
BATCH: Final = (1, 4, 16, 64)
CELLS: Final = {"lstm": 4, "gru": 3, "rnn_tanh": 1}  # gates
KERNELS: Final = {"cpu_avx512": (16, 24), "cpu_avx2": (8, 12), "cpu_neon": (4, 24)}  # lanes, accumulators of a tile
LINE: Final = 64  # bytes
BAD: Final = 1.15  # times the best split's time


@dataclass(frozen=True)
class Cpu:
    """A server: each core has a second-level cache, each group of cores a third. Rates are in bytes a cycle."""

    name: str
    group: int  # cores
    level3: int  # bytes of a group
    shared: float  # the third level's rate, for each core
    near_ns: float  # a line from another core of the group
    far_ns: float  # from a core of another group
    lanes: int = 8  # float32 in a vector
    tile: int = 12  # accumulators
    level1: int = 32 << 10
    level2: int = 1 << 20
    ghz: float = 3.0
    latency: float = 4  # of a multiply-add; two begin in a cycle, and so do two loads
    near: float = 48  # the second level's rate
    memory: float = 15  # for one core
    memory_total: float = 70
    lines_at_once: int = 10  # misses in flight
    job_us: float = 4  # to hand a call to a team
    pair_us: float = 0.6  # a barrier of two threads, which wait for the slower one (core/costs.h)

    def line_ns(self, cores: int) -> float:
        """A line's way between two of so many cores, on average."""
        groups = max(1.0, cores / self.group)
        return self.near_ns / groups + self.far_ns * (1 - 1 / groups)

    def barrier(self, cores: int) -> float:
        return self.ghz * (self.pair_us * 1e3 + self.line_ns(cores) * (cores - 2)) if cores > 1 else 0.0

    def gather(self, size: float, cores: int) -> float:
        """Reading bytes that other cores wrote since the last step."""
        return size / LINE / self.lines_at_once * self.line_ns(cores) * self.ghz

    def third(self, cores: int, of_group: float) -> float:
        """The rate of data too large for a second level; of_group: bytes that the cores of a group read."""
        held = _held(of_group, self.level3)
        return 1 / (held / self.shared + (1 - held) / min(self.memory, self.memory_total / cores))

    def rate(self, own: float, of_group: float, cores: int) -> float:
        """The rate of weights that are read again and again, `own` bytes by this core."""
        near = _held(own, self.level2)
        return 1 / (near / self.near + (1 - near) / self.third(cores, of_group))


def _held(size: float, cache: float) -> float:
    """The part that is still there when it is read again in order: all up to half of the cache, none at its size."""
    return min(1.0, max(0.0, 2 - 2 * size / cache))


def _up(n: float, by: float) -> int:
    return int(-(-n // by))


EPYC: Final = Cpu("EPYC", 8, 32 << 20, 27, 23, 107)
XEON: Final = Cpu("Xeon", 64, 96 << 20, 10, 51, 51)


def kernel() -> str:
    """The float32 kernel of this machine whose choices are examined."""
    runs = {name for name, unavailable in _core.kernels() if not unavailable}
    return next(name for name in KERNELS if name in runs)


def servers() -> list[Cpu]:
    """Two servers with the vectors and second-level caches of this machine, which are what the library knows."""
    lanes, tile = KERNELS[kernel()]
    level2 = machine.caches().get("L2", 1 << 20)
    return [replace(cpu, lanes=lanes, tile=tile, level2=level2) for cpu in (EPYC, XEON)]


@dataclass(frozen=True)
class Split:
    """`rows` groups of rows, each of which shares its units between `units` tasks."""

    rows: int
    units: int

    @property
    def tasks(self) -> int:
        return self.rows * self.units

    def __str__(self) -> str:
        if min(self.rows, self.units) > 1:
            return f"{self.rows} x {self.units}"
        return f"{self.tasks} by {'rows' if self.units == 1 else 'units'}" if self.tasks > 1 else "1"


@dataclass(frozen=True)
class Layer:
    cell: str
    hidden: int
    batch: int
    backward: bool
    cpu: Cpu

    @property
    def gates(self) -> int:
        return CELLS[self.cell]

    @property
    def panels(self) -> int:
        return _up(self.hidden, self.cpu.lanes)

    @property
    def weights(self) -> float:
        """Bytes of weight_hh, and of weight_ih."""
        return 4.0 * self.gates * self.panels * self.cpu.lanes * self.hidden

    def cycles(self, split: Split) -> float:
        """The slowest task's step, of STEPS in a call."""
        cpu, gates, H = self.cpu, self.gates, self.hidden
        rows, panels = _up(self.batch, split.rows), _up(self.panels, split.units)
        written = rows * H * 4 * (gates if self.backward else 1) * (1 - 1 / split.units)  # by the other tasks
        step = 150 + cpu.gather(written, split.units) + cpu.barrier(split.units)
        step += (12 if self.backward else 20) * rows * panels * gates  # pointwise
        call = cpu.job_us * cpu.ghz * 1e3 / STEPS if split.tasks > 1 else 0
        if self.backward:
            product = self._product(rows, panels, 1, gates * H, self._rate(split, self.weights))
            return step + product + self._gradients(split.tasks) + call
        product = self._product(rows, panels, gates, H, self._rate(split, self.weights))
        block = min(STEPS, _up(192, self.batch))  # steps whose inputs are multiplied at once (layout.h)
        inputs = self._product(block * rows, panels, gates, H, self._rate(split, 2 * self.weights))
        return step + product + (inputs + cpu.barrier(split.units)) / block + call

    def _gradients(self, n: int) -> float:
        """dW and dx of a block of about 512 rows, shared by all n tasks however the steps are (gradients.h)."""
        cpu, gates, H = self.cpu, self.gates, self.hidden
        block = max(1, min(STEPS, 512 // self.batch))
        rows = block * self.batch
        pack = 4.0 * rows * (_up(gates * self.panels, n) + 2 * _up(self.panels, n))
        moved = cpu.gather(rows * (gates + 2) * H * 4 / n, n) if n > 1 else 0.0
        dw = 2 * self._product(_up(gates * H, n), self.panels, 1, rows, cpu.third(n, 2.0 * rows * H * 4))
        dx = self._product(_up(rows, n), self.panels, 1, gates * H, cpu.rate(2 * self.weights, 2 * self.weights, n))
        return (pack + moved + dw + dx + 3 * cpu.barrier(n)) / block

    def _rate(self, split: Split, weights: float) -> float:
        share = weights * _up(self.panels, split.units) / self.panels
        return self.cpu.rate(share, min(weights, share * min(self.cpu.group, split.tasks)), split.tasks)

    def _product(self, rows: int, panels: int, gates: int, terms: int, rate: float) -> float:
        """Rows by panels of `gates` vectors: each column of tiles reads its weights at `rate` the first time."""
        cpu, large = self.cpu, self.cpu.tile > 12
        wide = (
            1 if gates >= 4 else (2 if large else 1) if gates >= 2 else (4 if large else 2)
        )  # panels of a tile (tile.h)
        high = cpu.tile // (wide * gates)
        if rows <= (2 if large else 1):
            wide, high = max(wide, (9 if large else 8) // gates), rows
        wide = min(wide, panels)
        tiles, vectors = _up(rows, high), wide * gates
        tall = rows / tiles
        term = max(tall * vectors / 2, (tall + vectors) / 2, cpu.latency)  # multiply-adds, loads, too few chains
        column = vectors * terms * cpu.lanes * 4
        again = (tiles - 1) * column / cpu.near if column > cpu.level1 / 2 else 0
        return panels / wide * max(tiles * terms * term, column / rate + again)


@cache
def step_us(layer: Layer, split: Split) -> float:
    return layer.cycles(split) / layer.cpu.ghz / 1e3


def best(layer: Layer, cores: int, grid: bool = False) -> Split:
    """The fastest split; of equal ones, that with the fewest tasks. grid: of rows and units at once, too."""
    splits = [Split(n, 1) for n in range(1, min(cores, layer.batch) + 1)]
    splits += [Split(1, n) for n in range(2, min(cores, layer.panels) + 1)]
    if grid:
        shares = {_up(layer.panels, _up(layer.panels, n)) for n in range(2, cores + 1)} - {1}
        splits += [Split(r, u) for u in shares for r in range(2, min(cores // u, layer.batch) + 1)]
    return min(splits, key=lambda split: (step_us(layer, split), split.tasks))


def chosen(cell: str, hidden: int, batch: int) -> tuple[Split, Split]:
    """The library's choice forward and backward, for its present number of threads."""
    said = _core.explain(cell, "float32", (hidden, hidden), (STEPS, batch))
    verdict = next(v for v in said if v["name"] == kernel())
    ways = (verdict["forward_split"], verdict["backward_split"])
    forward, backward = (Split(1, tasks) if by == "units" else Split(tasks, 1) for tasks, by in ways)
    return forward, backward


@dataclass(frozen=True)
class Row:
    layer: Layer
    cores: int
    chosen: Split
    best: Split

    @property
    def ratio(self) -> float:
        """How many times the best split's time the library's choice takes."""
        return step_us(self.layer, self.chosen) / step_us(self.layer, self.best)

    def __str__(self) -> str:
        layer, way = self.layer, "backward" if self.layer.backward else "forward"
        problem = f"{layer.cpu.name} | {layer.cell} {way} | {layer.hidden} | {layer.batch} | {self.cores}"
        mine, other = (f"{split} | {step_us(layer, split):.2f}" for split in (self.chosen, self.best))
        return f"| {problem} | {mine} | {other} | {self.ratio:.2f} |"


HEAD: Final = """\
| server | call | H | B | cores | chosen | us a step | best | us a step | chosen / best |
|---|---|---|---|---|---|---|---|---|---|"""


def table(cores: Iterable[int], problems: Iterable[tuple[str, int, int]]) -> Iterator[Row]:
    """A row for each number of cores, problem (cell, H, B), direction of the pass and server."""
    before, problems = _core.get_num_threads(), list(problems)
    try:
        for n in cores:
            _core.set_num_threads(n)
            for problem in problems:
                for way, split in enumerate(chosen(*problem)):
                    for layer in (Layer(*problem, bool(way), cpu) for cpu in servers()):
                        yield Row(layer, n, split, best(layer, n))
    finally:
        _core.set_num_threads(before)


def mean_ratio(found: list[Row]) -> float:
    """Geometric mean."""
    return exp(sum(log(row.ratio) for row in found) / len(found))


def summary(found: list[Row]) -> Iterator[str]:
    """A line for each server and number of cores, with what a grid of rows and units would gain over the best split."""
    yield "| server | cores | chosen / best: mean | worst | above 1.15 | best / best grid: above 1.2 | most |"
    yield "|---|---|---|---|---|---|---|"
    for server, n in sorted({(row.layer.cpu.name, row.cores) for row in found}):
        these = [row for row in found if (row.layer.cpu.name, row.cores) == (server, n)]
        bad, worst = sum(row.ratio > BAD for row in these), max(row.ratio for row in these)
        gains = [step_us(r.layer, r.best) / step_us(r.layer, best(r.layer, n, grid=True)) for r in these]
        grids = sum(gain > 1.2 for gain in gains)
        ratios = f"{mean_ratio(these):.3f} | {worst:.2f} | {bad} of {len(these)}"
        yield f"| {server} | {n} | {ratios} | {grids} | {max(gains):.2f} |"


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(n) for n in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=numbers, default=CORES)
    parser.add_argument("--hidden", type=numbers, default=HIDDEN, help="H, and I")
    parser.add_argument("--batch", type=numbers, default=BATCH)
    parser.add_argument("--cells", type=lambda text: text.split(","), default=list(CELLS))
    parser.add_argument("--all", action="store_true", help="every row, not only those above 1.15")
    a = parser.parse_args()
    found = list(table(a.cores, [(c, h, b) for c in a.cells for h in a.hidden for b in a.batch]))
    print(f"{kernel()}\n\n{HEAD}")
    for row in sorted(found, key=lambda row: -row.ratio):
        if a.all or row.ratio > BAD:
            print(row)
    print("", *summary(found), sep="\n")


if __name__ == "__main__":
    main()
