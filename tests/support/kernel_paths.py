"""The paths of the recurrent kernels that a step's time is made of, walked in ptxas' machine code (sass_walk.py): for
the record, and for whoever mends a kernel (cuda_instances.py --path).

`message`: of a team's kernel, from the block's barrier to the store of a message's first 16 bytes (of BPTT: through
the pointwise part and the product to the first share); of solo's kernels a whole step, from the barrier to the same
barrier. `tile`: of BPTT, from one mma to the next, a result tile's share being stored between. Each of a team's also
with messages into the shared memory of a cluster instead of global memory (there: with flags, the default).

Points are source lines that end in a comment `path: NAME` (MARKS), and for dtypes those with `case RNNK_BFLOAT16:`
and the like. The code has no trace of them: the build always has -lineinfo. Instructions know their lines also where
functions are inlined and ptxas has moved them, and a mark moves with its statement.

A path is that of one row and unit of a thread, in a step that its row takes, without what is asked for at run time
(lengths, reserve, masks, options), since the cheapest way is taken; so it is a lower bound for others. A block has one
tile, so split-K is 8; a block of solo has up to 2 rows, and its weights in registers are all in use, or one fragment of
those in shared memory. In cells of several stages, optional instructions count for one stage only. `tile` has as
many copies in the code as there are fragments in registers: the middle one counts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from native import ROOT
from sass import Code, Instruction, Line
from sass_walk import LDG, AtLeast, Flow, Step, is_division, timed

DTYPES = {"BFloat16": "bfloat16", "Float16": "float16", "Tf32": "float32", "Fused<float": "float32"}  # by arithmetic
MARKS = {
    "begin": "the barrier",
    "grid": "the store of a message's 16 bytes to global memory",
    "cluster": "the same to a peer's shared memory",
    "sums": "a load of split-K's sums",
    "product": "a product of the matrix unit",
    "fetch": "a copy of gx in the background; no condition where it is not between the points",
    "state": "the store to shared memory of the new h (BPTT: of the gates' gradients) that the next product reads;"
    " also on the line of a store to global memory with which compilers merge it",
    **dict.fromkeys(
        [*DTYPES.values(), "float64"], "what is for arrays of this dtype: a way avoids the memory accesses of others"
    ),
}
SPLIT = 8  # kTeamWarps over one tile
SHARED_STORES = ("ST", "STS")
STORES = (*SHARED_STORES, "STG", "STAS")
OF_DTYPE = (*STORES, "LD", "LDS", "LDG", "F2F", "F2FP", "HADD2")  # address arithmetic before them is everyone's
BELOW = ("arithmetic.cuh", "device.cuh", "exchange.cuh", "math.h", "options.h", "step.cuh", "storage.h", "value.cuh")
PATHS = ("message", "cluster_message", "tile", "cluster_tile")


@functools.cache
def marks() -> dict[str, frozenset[Line]]:
    """By mark its lines in cuda/."""
    found: dict[str, set[Line]] = {}
    for path in sorted((ROOT / "cuda").glob("*.cuh")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            names = re.findall(r"// .*?\bpath: (\w+)$", line) + re.findall(r"^ *case RNNK_(B?FLOAT\d+):", line)
            for name in (name.lower() for name in names):
                assert name in MARKS, (
                    f"{path.name}:{number}: expected `path:` and one of {', '.join(MARKS)}, got {name}"
                )
                found.setdefault(name, set()).add((path.name, number))
    return {mark: frozenset(lines) for mark, lines in found.items()}


def marked(mark: str, *names: str) -> Callable[[Instruction], bool]:
    """Whether an instruction is one of the opcodes and comes from a line with the mark."""
    lines = marks().get(mark, frozenset())
    return lambda i: i.name in names and not i.never and not lines.isdisjoint(i.lines)


def words(mark: str, *names: str) -> Callable[[Instruction], int]:
    """How many words of 32 bits such an instruction moves."""
    is_one = marked(mark, *names)
    return lambda i: (4 if ".128" in i.opcode else 2 if ".64" in i.opcode else 1) if is_one(i) else 0


@dataclass(frozen=True)
class Kernel:
    """An instance, as cuda_instances.short() names it."""

    kind: str  # team_forward
    arithmetic: str
    cell: str
    fragments: int  # in registers (solo)

    @property
    def gates(self) -> int:
        """How many a cell of one stage has; 1 for others, which counts too little."""
        plain = re.fullmatch(r"(Lstm|Gru|Rnn)(Tanh|Relu|Of<WithOptions(, false)+>)?", self.cell)
        return {"Lstm": 4, "Gru": 3, "Rnn": 1}[plain[1]] if plain else 1

    @property
    def dtype(self) -> str:
        return next(dtype for name, dtype in DTYPES.items() if self.arithmetic.startswith(name))

    @property
    def products(self) -> int:
        """How many a warp makes between the barrier and the message."""
        if self.kind == "team_backward":
            return self.gates * (2 if self.dtype == "float32" else 1)
        return max(1, self.fragments * (self.gates if self.kind == "solo_forward" else 1))


def kernel_of(name: str) -> Kernel | None:
    """The instance, if it has paths."""
    found = re.fullmatch(r"((?:team|solo)_(?:forward|backward))_kernel<(\w+(?:<[^>]*>)?), (.*?)(?:, (\d+))?>", name)
    return Kernel(found[1], found[2], found[3], int(found[4] or 0)) if found else None


def _demands(kernel: Kernel) -> list[AtLeast]:
    solo = kernel.kind.startswith("solo")
    product = AtLeast(kernel.products, marked("product", "HMMA", "FFMA"), optional=solo and kernel.fragments == 0)
    state = AtLeast(kernel.gates if kernel.kind == "team_backward" else 1, marked("state", *SHARED_STORES))
    fetch = AtLeast(1, marked("fetch", "LDGSTS"), optional=True)
    if solo:
        return [product, state, fetch]
    gates = kernel.gates if kernel.kind == "team_forward" else 1
    sums = AtLeast(gates * SPLIT, words("sums", "LDS"))
    return [sums, state, fetch if kernel.kind == "team_forward" else product]


def paths(name: str, code: Code, ldg: int = LDG) -> dict[str, list[Step]]:
    """By path of PATHS its way, timed. The first instruction is where it begins, and does not count."""
    kernel = kernel_of(name)
    if not kernel:
        return {}
    others = [marked(dtype, *OF_DTYPE) for dtype in {*DTYPES.values(), "float64"} - {kernel.dtype}]
    points = {m: _where(code, marked(m, "BAR", "HMMA", *STORES)) for m in ("begin", "grid", "cluster", "product")}
    flow = Flow(code, {at for some in points.values() for at in some}, lambda i: any(other(i) for other in others))
    walk = functools.partial(_walked, flow, ldg)
    assert points["begin"], f"{name}: no barrier with the mark `path: begin`"
    if kernel.kind.startswith("solo"):
        outermost = min(
            len(code.instructions[at].lines) for at in points["begin"]
        )  # of stages, the one that begins a step
        begin = [at for at in points["begin"] if len(code.instructions[at].lines) == outermost]
        found = {"message": walk(begin, begin, _demands(kernel))}
    else:
        found = {}
        for exchange, prefix in (("grid", ""), ("cluster", "cluster_")):
            found[f"{prefix}message"] = walk(points["begin"], points[exchange], _demands(kernel))
            if kernel.kind == "team_backward":
                share = AtLeast(1, marked(exchange, *STORES))
                copies = [walk([at], points["product"], [share]) for at in points["product"]]
                some = sorted((way for way in copies if way), key=cycles)
                found[f"{prefix}tile"] = some[len(some) // 2] if some else None
    lost = [path for path, way in found.items() if not way]
    assert not lost, f"{name}: no way meets the marks (`path: ...` in cuda/): {', '.join(lost)}"
    return {path: way for path, way in found.items() if way}


def _where(code: Code, is_one: Callable[[Instruction], bool]) -> list[int]:
    return [at for at, i in enumerate(code.instructions) if is_one(i)]


def _walked(flow: Flow, ldg: int, begin: list[int], end: list[int], demands: list[AtLeast]) -> list[Step] | None:
    """The cheapest way from one of some instructions to one of others, through none of them."""
    first, last = ([flow.block_of[at] for at in some] for some in (begin, end))
    ways = [(b, flow.cheapest([b + 1], last, first, demands)) for b in first]
    done = [timed([*flow.steps(b, False), *way], ldg) for b, way in ways if way]
    return min(done, key=cycles) if done else None


def cycles(way: list[Step]) -> int:
    """From the issue of the first instruction to that of the last."""
    return sum(step.cycles for step in way[:-1]) + way[-1].wait


def divisions(way: list[Step]) -> int:
    return sum(is_division(step.instruction) for step in way)


def figures(name: str, code: Code) -> dict[str, int]:
    """What the record has of an instance: bytes of code, and of its paths instructions, cycles, divisions of
    integers."""
    walked = paths(name, code)
    done = {"code": 16 * len(code.instructions)}
    for path, way in walked.items():
        done |= {f"{path}_instructions": len(way) - 1, f"{path}_cycles": cycles(way)}
    if walked:
        of_cluster = {
            prefix: [way for path, way in walked.items() if path.startswith("cluster") == prefix]
            for prefix in (False, True)
        }
        done["divisions"] = max(sum(map(divisions, ways)) for ways in of_cluster.values())
    return done


# --- for reading ------------------------------------------------------------


@functools.cache
def _text(line: Line) -> str:
    """A source line."""
    for path in [ROOT / "cuda" / line[0], *(ROOT / "csrc").rglob(line[0])]:
        if path.exists():
            return path.read_text().splitlines()[line[1] - 1].strip()
    return ""


def _in_run(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """The line of the kernel's run() that an instruction comes from."""
    return lines[-2:-1]


def _in_kernel(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """The innermost three calls on the way to an instruction, without those within what everything calls."""
    calls = lines[:-1][::-1]
    kept = next((at for at, (file, _) in enumerate(calls) if file in BELOW), len(calls))
    return calls[:kept][-3:]


def _table(way: list[Step], place: Callable[[tuple[Line, ...]], tuple[Line, ...]]) -> dict[tuple[Line, ...], list[int]]:
    """By place: cycles, those waited, instructions, divisions of integers."""
    done: dict[tuple[Line, ...], list[int]] = {}
    for step in way[1:]:
        row = done.setdefault(place(step.instruction.lines), [0, 0, 0, 0])
        cycles = step.cycles if step is not way[-1] else step.wait
        for at, more in enumerate((cycles, step.wait, 1, is_division(step.instruction))):
            row[at] += more
    return done


def report(name: str, code: Code, ldg: int = LDG, most: int = 30) -> None:
    """Prints where the cycles of a kernel's paths go: by the lines of run(), in order, then by the lines below them,
    dearest first."""
    console = Console(width=220, highlight=False, markup=False)
    console.print(f"{name}: {16 * len(code.instructions)} bytes of code")
    for path, way in paths(name, code, ldg).items():
        begin, end = way[0].instruction, way[-1].instruction
        console.print(
            f"\n{path}: {len(way) - 1} instructions, {cycles(way)} cycles, {divisions(way)} divisions of integers, "
            f"from {begin.opcode} at {begin.address:#x} to {end.opcode} at {end.address:#x}"
        )
        dearest = sorted(_table(way, _in_kernel).items(), key=lambda row: -row[1][0])[:most]
        for title, rows in (("by line of run(), in order", list(_table(way, _in_run).items())), ("dearest", dearest)):
            table = Table("cycles", "waiting", "instructions", "divisions", "where", "source", title=title, box=SIMPLE)
            for lines, numbers in rows:
                where = " > ".join(f"{file}:{number}" for file, number in lines)
                table.add_row(*map(str, numbers), where, Text(_text(lines[-1])[:80] if lines else ""))
            console.print(table)
