"""Walks machine code: the cheapest way through a function from one instruction to another, and how long a warp alone
on its multiprocessor takes for it.

The way. Branches depend on values that nobody knows here, so the cheapest way is taken, under conditions: it passes
so many loads, products or stores that the caller names (AtLeast), which gives loops their trip counts however they are
unrolled, and avoids lines that the caller names. Every way that the kernel really takes under these conditions is
among those compared. They are compared by the sum of their blocks' cycles, each block's by itself.

The time. Instructions are issued in order, each when the stall count of the one before has passed and the scoreboards
that it waits for are down. Stall counts are ptxas' own; the rest is assumed (LATENCY, TAKEN_BRANCH, READ). It is a
lower bound: other warps, bank conflicts, misses of the instruction cache and full queues come on top, and of
divergent branches only one side is walked.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from sass import NO_SCOREBOARD, Code, Instruction

# Cycles from issue until a result's scoreboard is down. Others that have a scoreboard: OTHERWISE.
LATENCY = {"LDS": 30, "LDSM": 30, "LDC": 34, "LD": 34, "MUFU": 22, "LDGDEPBAR": 0}
OTHERWISE = 22  # conversions, shuffles, special registers: units as slow as MUFU's
LDG = 34  # a hit in the first-level cache; the caller may say another
TAKEN_BRANCH = 8
READ = 8  # until an instruction's operands have been read
AVOIDED = 1_000_000  # cycles: what a line to be avoided costs the choice of the way

State = tuple[int, tuple[int, ...]]  # a block, and how far each demand is met before it

_ENDS = {"EXIT", "RET", "BRX", "JMP"}  # without a predicate, nothing falls through; nor behind a BRA
_BRANCHES = {"BRA", "BRX", "JMP"}
_DIVISION = re.compile(r"__(?:div|rem)_[su]|__cuda_sm\d+_(?:div|rem)_[su]")


@dataclass(frozen=True)
class AtLeast:
    """A condition on a way: so much of something in all. optional: no condition where no way has any of it."""

    count: int
    passes: Callable[[Instruction], int]  # how much of it an instruction is
    optional: bool = False
    begin: int = 0

    def after(self, state: int, i: Instruction) -> int:
        return min(self.count, state + self.passes(i))

    def met(self, state: int) -> bool:
        return state == self.count


@dataclass(frozen=True)
class Step:
    """An instruction on the way; whether it branches from there; the cycles from its issue to the next one's, and those
    that it waited for scoreboards before it."""

    instruction: Instruction
    taken: bool
    stall: int = 0
    wait: int = 0

    @property
    def cycles(self) -> int:
        return self.stall + self.wait


def falls_through(i: Instruction) -> bool:
    unconditional = i.predicate in ("", "@PT")
    if i.name == "BRA":
        return not unconditional or not i.operands.startswith("`")
    return not (unconditional and i.name in _ENDS)


def is_division(i: Instruction) -> bool:
    """The start of a division of integers: a call, or the rounded-up reciprocal of the divisor made in place."""
    if i.name == "CALL":
        return bool(_DIVISION.search(i.operands))
    return i.name in ("I2F", "I2FP") and i.opcode.endswith(".RP")


def timed(way: Sequence[Step], ldg: int = LDG) -> list[Step]:
    """The same with cycles, from the issue of the first on."""
    down = [0] * NO_SCOREBOARD  # when each scoreboard is
    now, done = 0, []
    for at in way:
        i, bits = at.instruction, at.instruction.control
        ready = max([now] + [down[b] for b in range(6) if bits.waits >> b & 1])
        stall = max(bits.stall, TAKEN_BRANCH if at.taken else 1)
        done.append(Step(i, at.taken, stall, ready - now))
        if not i.never:
            latency = ldg if i.name == "LDG" else LATENCY.get(i.name, OTHERWISE)
            for scoreboard, cycles in ((bits.written, latency), (bits.read, READ)):
                if scoreboard != NO_SCOREBOARD:
                    down[scoreboard] = max(down[scoreboard], ready + cycles)
        now = ready + stall
    return done


def _reached(starts: Iterable[int], edges: Callable[[int], Iterable[int]]) -> set[int]:
    seen, todo = set(starts), list(starts)
    while todo:
        for other in edges(todo.pop()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen


class Flow:
    """A function's basic blocks. ``cuts``: instructions that are blocks of their own, so that a way can begin and end
    there. ``avoid``: instructions that the way avoids where it can."""

    def __init__(self, code: Code, cuts: Collection[int] = (), avoid: Callable[[Instruction], bool] | None = None):
        self.code, self.avoid, instructions = code, avoid, code.instructions
        leaders = {0, *code.labels.values(), *cuts, *(at + 1 for at in cuts)}
        leaders |= {
            at + 1 for at, i in enumerate(instructions) if i.name in _BRANCHES or i.name in ("CALL", "EXIT", "RET")
        }
        self.first = sorted(at for at in leaders if at < len(instructions))
        self.block_of = {at: block for block, at in enumerate(self.first)}
        self.last = [at - 1 for at in [*self.first[1:], len(instructions)]]
        self.next = [self._next(block) for block in range(len(self.first))]
        self.before: list[list[int]] = [[] for _ in self.next]
        for block, after in enumerate(self.next):
            for other, _ in after:
                self.before[other].append(block)
        self.costs: dict[int, int] = {}
        self.callees: dict[str, list[Step]] = {}

    def _next(self, block: int) -> list[tuple[int, bool]]:
        """The blocks that may follow, and whether a branch is taken to each."""
        at = self.last[block]
        i, done = self.code.instructions[at], []
        if falls_through(i) and at + 1 < len(self.code.instructions):
            done.append((block + 1, False))
        if i.name in _BRANCHES and not i.opcode.startswith("BRA.DIV"):  # warps stay together
            done += [(self.block_of[self.code.labels[label]], True) for label in i.targets]
        return done

    def cost(self, block: int) -> int:
        """The cycles of a block by itself."""
        if block not in self.costs:
            steps = self.steps(block, False)
            avoided = self.avoid and any(self.avoid(s.instruction) for s in steps)
            self.costs[block] = sum(step.cycles for step in timed(steps)) + (AVOIDED if avoided else 0)
        return self.costs[block]

    def steps(self, block: int, taken: bool) -> list[Step]:
        """A block's instructions, with those of a function that it calls."""
        some = [Step(i, False) for i in self.code.instructions[self.first[block] : self.last[block] + 1]]
        last = some[-1].instruction
        if last.name == "CALL" and last.predicate in ("", "@PT"):
            return [*some[:-1], Step(last, True), *self.called(last.targets[0])]
        return [*some[:-1], Step(last, taken)]

    def called(self, label: str) -> list[Step]:
        """The cheapest way through a function that this one calls."""
        if label not in self.callees:
            self.callees[label] = []  # of a call within itself
            ends = {b for b, at in enumerate(self.last) if self.code.instructions[at].name == "RET"}
            found = self.cheapest([self.block_of[self.code.labels[label]]], ends, set(), [])
            self.callees[label] = [*found[:-1], Step(found[-1].instruction, True)] if found else []
        return self.callees[label]

    def between(self, starts: Collection[int], ends: Collection[int], closed: Collection[int]) -> set[int]:
        """The blocks on any way from one of ``starts`` to one of ``ends``, through none of ``closed``."""
        stops = {*ends, *closed}
        ahead = _reached(starts, lambda b: () if b in stops else [other for other, _ in self.next[b]])
        return _reached(
            [b for b in ends if b in ahead], lambda b: [o for o in self.before[b] if o in ahead and o not in stops]
        )

    def cheapest(
        self, starts: Collection[int], ends: Collection[int], closed: Collection[int], demands: Sequence[AtLeast]
    ) -> list[Step] | None:
        """From the beginning of a block of ``starts`` through one of ``ends``; None where there is no way."""
        blocks = self.between(starts, ends, closed)
        inside = {b: [s.instruction for s in self.steps(b, False)] for b in blocks}
        every = [i for one in inside.values() for i in one]
        demands = [d for d in demands if not d.optional or any(d.after(d.begin, i) != d.begin for i in every)]
        changing = {
            b: [i for i in one if any(d.after(d.begin, i) != d.begin for d in demands)] for b, one in inside.items()
        }
        heap: list[tuple[int, int, State, State | None, bool]] = []
        for b in blocks & set(starts):
            heap.append((0, b, (b, tuple(d.begin for d in demands)), None, False))
        before: dict[State, tuple[State | None, bool]] = {}
        while heap:
            cost, _, state, origin, by_branch = heapq.heappop(heap)
            if state in before:
                continue
            before[state] = origin, by_branch
            block, now = state
            for i in changing[block]:
                now = tuple(d.after(s, i) for d, s in zip(demands, now, strict=True))
            if block in ends:
                if all(d.met(s) for d, s in zip(demands, now, strict=True)):
                    return self._way(state, before)
                continue
            for other, taken in self.next[block]:
                if other in blocks:
                    more = self.cost(block) + (TAKEN_BRANCH if taken else 0)
                    heapq.heappush(heap, (cost + more, len(before), (other, now), state, taken))
        return None

    def _way(self, last: State, before: dict[State, tuple[State | None, bool]]) -> list[Step]:
        blocks, taken, state = [], False, cast("State | None", last)
        while state is not None:
            blocks.append((state[0], taken))
            state, taken = before[state]
        return [step for block, taken in reversed(blocks) for step in self.steps(block, taken)]
