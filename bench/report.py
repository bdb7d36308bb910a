"""From what was measured to what is said: ratios, shares of the limit, geometric means, and the JSON document.

A ratio is another's time divided by rnnkern's: above 1, rnnkern is faster. All times are medians over the blocks. Where
several kernels were forced, each is a subject of its own and is compared with the peers, never with its siblings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Final

from .driver import Entry, Outcome, Point
from .peers import PUBLISHED
from .subject import Subject

SCHEMA: Final = 2  # raised when a field changes its meaning or goes; new fields may come at any time

BEST: Final = "best peer"

BUSY: Final = 0.1  # CPUs; a mostly idle system's own services stay well below


@dataclass(frozen=True)
class Row:
    """One line of the table: a subject at a point."""

    point: Point
    subject: Entry
    peers: dict[str, Entry]
    ratios: dict[str, float]  # peer -> its time / rnnkern's; BEST -> the least of them
    share: float | None  # of the machine's limit: least possible time / rnnkern's


@dataclass(frozen=True)
class Mean:
    """Geometric mean of the ratios of one subject, cell and mode."""

    subject: str
    cell: str
    mode: str
    against: str
    ratio: float
    points: int


def rows(outcome: Outcome) -> list[Row]:
    return [
        _row(point, entry, outcome)
        for point in outcome.points
        for entry in point.entries
        if entry.name in outcome.subjects
    ]


def _row(point: Point, subject: Entry, outcome: Outcome) -> Row:
    peers = {entry.name: entry for entry in point.entries if entry.name in outcome.peers}
    ratios: dict[str, float] = {}
    if subject.seconds is not None:
        ratios = {name: entry.seconds / subject.seconds for name, entry in peers.items() if entry.seconds is not None}
        if ratios:
            ratios[BEST] = min(ratios.values())
    share = subject.limit.seconds / subject.seconds if subject.seconds is not None and subject.limit else None
    return Row(point, subject, peers, ratios, share)


def means(table: list[Row]) -> list[Mean]:
    """Per subject, cell and mode, against torch and against the best peer of each point."""
    found = []
    groups = dict.fromkeys((row.subject.name, row.point.problem.cell, row.point.mode) for row in table)
    for group in groups:
        members = [row for row in table if (row.subject.name, row.point.problem.cell, row.point.mode) == group]
        for against in ("torch", BEST):
            ratios = [row.ratios[against] for row in members if against in row.ratios]
            if ratios:
                found.append(Mean(*group, against, geometric_mean(ratios), len(ratios)))
    return found


def worst(table: list[Row], against: str) -> Row | None:
    """The row where rnnkern does worst against torch or BEST."""
    candidates = [row for row in table if against in row.ratios]
    return min(candidates, key=lambda row: row.ratios[against], default=None)


def spread(outcome: Outcome) -> float:
    """How noisy the run was: over all entries, the median of (median block - best block) / best block."""
    found = sorted(
        entry.seconds / min(entry.timing.blocks) - 1
        for point in outcome.points
        for entry in point.entries
        if entry.timing and entry.seconds is not None
    )
    return found[len(found) // 2] if found else 0.0


def remarks(outcome: Outcome) -> Iterator[str]:
    """What a reader must know before believing the table."""
    absent = [name for name in PUBLISHED if name not in outcome.peers]
    if absent:
        yield (
            f"Not for publication: {', '.join(absent)} did not take part; a published table has {', '.join(PUBLISHED)} "
            "(pip install 'rnnkern[bench]')."
        )
    for name, reason in outcome.missing.items():
        yield f"{name}: not available: {reason}"
    yield from outcome.faults
    unchecked = [point for point in outcome.points for e in point.entries if e.timing and not e.checked_by]
    if unchecked:
        yield f"{len(unchecked)} timings could not be checked against another library, as nobody else took part there."
    restless = {e.name for point in outcome.points for e in point.entries if e.timing and e.timing.restless}
    for name in sorted(restless):
        yield f"{name}: its threads did not fall quiet within a second; what ran next may have been disturbed."
    disturbed = [point.others for point in outcome.points if point.others is not None and point.others > BUSY]
    if disturbed:
        yield (
            f"The machine was not idle: at {len(disturbed)} of {len(outcome.points)} points others used more than "
            f"{BUSY:.0%} of a CPU, at most {max(disturbed):.0%}. Thread pools that spin suffer most from it; "
            "do not compare these times."
        )
    if spread(outcome) > 0.1:
        yield f"Noisy: the median block was typically {spread(outcome):.0%} slower than the best one."


def document(outcome: Outcome) -> dict[str, Any]:
    """The JSON document: machine facts, versions, raw blocks, and what was made of them."""
    table = rows(outcome)
    settings = outcome.settings
    return {
        "schema": SCHEMA,
        "rnnkern": Subject.version,
        "machine": outcome.facts,
        "limits": {
            "threads": outcome.limits.threads,
            "fma_gflops": outcome.limits.fma,
            "fed_fma_gflops": outcome.limits.fed,
            "read": [asdict(read) for read in outcome.limits.levels],
            "weights": [asdict(read) for read in outcome.limits.weights.values()],
        },
        "settings": {
            "modes": list(settings.modes),
            "kernels": list(settings.kernels),
            **{f"{name}_s" if name != "blocks" else name: value for name, value in asdict(settings.plan).items()},
        },
        "peers": outcome.peers,
        "missing": outcome.missing,
        "points": [_point(point) for point in outcome.points],
        "ratios": [
            {"problem": str(row.point.problem), "mode": row.point.mode, "subject": row.subject.name}
            | {"ratios": row.ratios, "share_of_limit": row.share}
            for row in table
        ],
        "geometric_means": [asdict(mean) for mean in means(table)],
        "remarks": list(remarks(outcome)),
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "problem": str(point.problem),
        "mode": point.mode,
        "flops": point.flops,
        "cpus_used_by_others": point.others,
        "entries": [_entry(entry, point.problem.seq_len) for entry in point.entries],
    }


def _entry(entry: Entry, seq_len: int) -> dict[str, Any]:
    said: dict[str, Any] = {"name": entry.name, "kernel": entry.kernel, "status": entry.status, "reason": entry.reason}
    said["checked_by"] = entry.checked_by
    if entry.limit:
        said |= {"limit_us": entry.limit.seconds * 1e6, "limited_by": entry.limit.by}
    if entry.timing and entry.seconds is not None:
        timing = entry.timing
        said |= {
            "calls_per_block": timing.calls,
            "blocks_us": [seconds * 1e6 for seconds in timing.blocks],
            "median_us": entry.seconds * 1e6,
            "min_us": min(timing.blocks) * 1e6,
            "us_per_step": entry.seconds * 1e6 / seq_len,
            "pauses_s": timing.pauses,
            "restless": timing.restless,
        }
    return said


def write_json(outcome: Outcome, path: Path) -> None:
    path.write_text(json.dumps(document(outcome), indent=1) + "\n", encoding="utf-8")
