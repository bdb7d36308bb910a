"""Who takes part, and every point of problem x mode: prepare, check, time.

One point is one problem in one mode. All contenders of a point are alive together, so that their blocks can alternate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

from rnnkern import _core
from rnnkern.problems import Problem

from . import check, machine, timing
from .data import MODES, Data, Run, flops, make, refusal
from .peers import PEERS, load
from .subject import Subject


class Contender(Protocol):
    """A Subject or a Peer."""

    name: str
    version: str

    def declines(self, problem: Problem, mode: str) -> str: ...
    def prepare(self, problem: Problem, data: Data, mode: str) -> Run: ...


@dataclass(frozen=True)
class Settings:
    """What the command line decided. threads: 0 takes the CPUs this process may use. kernels: () takes the choice."""

    problems: Sequence[Problem]
    threads: int = 0
    kernels: Sequence[str] = ()
    peers: Sequence[str] = tuple(PEERS)
    modes: Sequence[str] = MODES
    plan: timing.Plan = field(default_factory=timing.Plan)
    probe: float = 0.1  # seconds of each measurement of the machine's limits

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError("problems: expected at least one")
        for problem in self.problems:
            if refusal(problem):
                raise ValueError(f"problem {str(problem)!r}: {refusal(problem)}")
        for given, known, what in ((self.peers, PEERS, "peers"), (self.modes, MODES, "modes")):
            for name in given:
                if name not in known:
                    raise ValueError(f"{what}: expected some of {', '.join(known)}, got {name!r}")
        if self.threads < 0:
            raise ValueError(f"threads: expected 1 or more, or 0 for all CPUs of this process, got {self.threads}")


@dataclass
class Entry:
    """One contender at one point."""

    name: str
    kernel: str = ""  # of rnnkern: the one that ran
    status: str = "timed"  # or "declined", "failed", "wrong"
    reason: str = ""
    checked_by: list[str] = field(default_factory=list)  # whose answers agree with it
    timing: timing.Timing | None = None
    limit: machine.Bound | None = None  # of rnnkern: the least time of a call with its kernel's instructions

    @property
    def seconds(self) -> float | None:
        """Median over the blocks, per call."""
        return median(self.timing.blocks) if self.timing else None


@dataclass
class Point:
    """One problem in one mode. others: CPUs that others used meanwhile."""

    problem: Problem
    mode: str
    flops: float
    entries: list[Entry]
    others: float | None


@dataclass
class Outcome:
    """Everything that was found; report.py turns it into a document."""

    settings: Settings
    facts: dict[str, Any]
    limits: machine.Limits
    subjects: list[str]
    peers: dict[str, str]  # name -> version, of those that took part
    missing: dict[str, str]  # name -> why it could not be loaded
    points: list[Point]

    @property
    def faults(self) -> list[str]:
        """Sentences about wrong answers and failures: reasons not to believe the table, or to look closer."""
        return [
            f"{point.problem}, {point.mode}: {entry.name} {entry.status}: {entry.reason}"
            for point in self.points
            for entry in point.entries
            if entry.status in ("wrong", "failed")
        ]


def run(settings: Settings, report: Callable[[int, int, str], None] = lambda done, of, what: None) -> Outcome:
    """The whole benchmark. report(done, of, what comes next) is called before every point, and once at the end."""
    threads = settings.threads or machine.cpus()
    threads_before = _core.get_num_threads()
    facts = machine.facts(threads)
    _core.set_num_threads(threads)
    try:
        subjects = [Subject(kernel) for kernel in settings.kernels] or [Subject()]
        peers, missing = _load_peers(settings.peers, threads)
        total = len(settings.problems) * len(settings.modes)
        report(0, total, "the machine's limits")
        limits = machine.measure(threads, settings.problems, settings.probe)
        points: list[Point] = []
        for problem in settings.problems:
            data = make(problem)
            for mode in settings.modes:
                report(len(points), total, f"{problem} {mode}")
                before = limits.refreshed(settings.probe)
                watch = machine.Watch()
                entries = run_point(problem, mode, data, [*subjects, *peers], settings.plan)
                others = watch.others()
                now = machine.mean(before, limits.refreshed(settings.probe))
                for entry in entries:
                    if entry.kernel:
                        entry.limit = machine.bound(problem, data, mode, now, entry.kernel)
                work = sum(flops(problem, data)) * (1 if mode == "inference" else 3)
                points.append(Point(problem, mode, work, entries, others))
        report(total, total, "done")
    finally:
        _core.set_num_threads(threads_before)
    names = [subject.name for subject in subjects]
    return Outcome(settings, facts, limits, names, {peer.name: peer.version for peer in peers}, missing, points)


def _load_peers(names: Iterable[str], threads: int) -> tuple[list[Contender], dict[str, str]]:
    peers: list[Contender] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            peers.append(load(name, threads))
        except ImportError as error:  # not installed, or its own libraries are not: said in the table
            missing[name] = str(error)
    return peers, missing


def run_point(
    problem: Problem, mode: str, data: Data, contenders: Sequence[Contender], plan: timing.Plan
) -> list[Entry]:
    """Prepare, check and time all contenders at one point."""
    entries: dict[str, Entry] = {}
    runs: dict[str, Run] = {}
    answers: dict[str, Mapping[str, Any]] = {}
    for contender in contenders:
        entry = entries[contender.name] = Entry(contender.name)
        reason = contender.declines(problem, mode)
        if reason:
            entry.status, entry.reason = "declined", reason
            continue
        try:
            ready = contender.prepare(problem, data, mode)
            answers[contender.name] = ready.outputs(ready.call())
        except Exception as error:  # another library's failure is a result: it is reported, and the others go on
            entry.status, entry.reason = "failed", f"{type(error).__name__}: {error}"
            continue
        runs[contender.name] = ready
        if isinstance(contender, Subject):
            entry.kernel = contender.chosen(problem)
    makers = {name: name.split("/")[0] for name in answers}
    verdict = check.judge(problem, answers, makers)
    for name, reason in verdict.wrong.items():
        entries[name].status, entries[name].reason = "wrong", reason
    for name in answers:
        entries[name].checked_by = verdict.by[name]
    calls = {name: ready.call for name, ready in runs.items() if name not in verdict.wrong}
    if calls:
        for name, result in timing.measure(calls, plan).items():
            entries[name].timing = result
    return list(entries.values())
