"""The table that a call of once.sh prints last: at most MOST lines, from its record and the records of its commands.

It is plain text and needs only the standard library, because it must print where nothing is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, Final

from .points import CELLS, MODES, PRECISIONS, parse

MOST: Final = 40
_POINTS: Final = 7  # the number of points shown of a command: the six anchors and one more
_WIDTH: Final = 180


def means(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The geometric mean and the smallest ratio of each class (cell, precision, mode), in the order of points.py."""
    groups: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for entry in entries:
        point = parse(entry["point"])
        for mode in MODES:
            if "ratio" in entry.get(mode, {}):
                groups.setdefault((point.cell, point.precision, mode), []).append(
                    (entry[mode]["ratio"], entry["point"])
                )
    order = [(cell, precision, mode) for cell in CELLS for precision in PRECISIONS for mode in MODES]
    return [
        {"cell": key[0], "precision": key[1], "mode": key[2], "points": len(groups[key])}
        | {"ratio": geometric_mean([ratio for ratio, _ in groups[key]])}
        | {"worst": min(groups[key])[0], "worst_at": min(groups[key])[1]}
        for key in order
        if key in groups
    ]


def lines(document: dict[str, Any], out: Path, since: float) -> list[str]:
    """Returns a line for each step, then figures. What does not fit in MOST lines is in the records only. since: the
    time.time() at which the call began; older records in `out` belong to other calls."""
    steps = [_step(name, entry) for name, entry in document["steps"].items()]
    figures = [*_failures(document.get("failures", [])), *_latencies(document.get("latencies", []))]
    figures += _few(_strategies(_points(out, "strategies", since)))
    figures += _counters(document.get("counters", []))
    bench = _points(out, "bench", since)
    figures += [*_few(_bench(bench)), *_means(bench)]
    text = [f"{document['command']}: {document.get('gpu', {}).get('name', 'no GPU')}, {document['commit']}", *steps]
    room = MOST - len(text)
    if len(figures) > room:
        figures = [*figures[: room - 1], f"  ... {len(figures) - room + 1} more lines in the records"]
    return [line[:_WIDTH] for line in [*text, *figures]]


def _few(points: Iterator[str]) -> list[str]:
    """The first points, which are the anchors."""
    every = list(points)
    more = [f"  ... {len(every) - _POINTS} more points in the record"] if len(every) > _POINTS else []
    return [*every[:_POINTS], *more]


def _step(name: str, entry: dict[str, Any]) -> str:
    word = {True: "passed", False: "FAILED", None: "left out"}[entry["ok"]]
    said = " ".join(str(entry["said"]).split())
    return f"  {name:<11} {word:<8} {entry['seconds']:6.1f} s  {said}"


def _latencies(found: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each measurement: the median over its cases."""
    names = dict.fromkeys(entry["name"] for entry in found if entry["name"] != "device")
    for name in names:
        mine = [entry for entry in found if entry["name"] == name]
        values = [entry["value"] for entry in mine if "value" in entry]
        unit = next((entry["unit"] for entry in mine if "unit" in entry), "")
        word = (
            f"{median(values):.4g} {unit}, {min(values):.4g} to {max(values):.4g}" if values else mine[0].get("error")
        )
        yield f"  {name}: {word}"


def _failures(found: list[dict[str, Any]]) -> Iterator[str]:
    for entry in found:
        yield f"  FAILED {entry['test']}: {entry['why']}"


def _points(out: Path, command: str, since: float) -> list[dict[str, Any]]:
    """The points of the newest record of a command."""
    young = [path for path in out.rglob(f"*-{command}*.json") if path.stat().st_mtime >= since]
    paths = sorted(young, key=lambda path: path.stat().st_mtime)
    found: list[dict[str, Any]] = json.loads(paths[-1].read_text())["points"] if paths else []
    return found


def _strategies(entries: list[dict[str, Any]]) -> Iterator[str]:
    """For each point, us per step (inference/training) of every strategy; a star marks the model's choice."""
    for entry in entries:
        if "strategies" not in entry:
            yield f"  {entry['point']}: {entry.get('error', '')}"
            continue
        words = []
        for name, mine in entry["strategies"].items():
            pair = "/".join(_time(mine[mode]) for mode in MODES)
            star = "*" if name.split()[0] == entry["kernel"] else ""
            words.append(f"{star}{name.removeprefix('cuda_')} {pair}")
        yield f"  {entry['point']}: {', '.join(words)}"


def _time(figures: dict[str, Any]) -> str:
    return f"{figures['us_per_step']:.2f}" if "us_per_step" in figures else "WRONG"


def _bench(entries: list[dict[str, Any]]) -> Iterator[str]:
    """For each point, us per step of rnnkern and of cuDNN, and their ratio."""
    for entry in entries:
        words = [str(entry["error"]).splitlines()[0]] if "error" in entry else [str(entry["kernel"])]
        for mode in (mode for mode in MODES if mode in entry):
            pair = " to ".join(_time(entry[mode].get(name, {})) for name in ("rnnkern", "cudnn"))
            words.append(f"{mode} {pair}" + (f" ({entry[mode]['ratio']:.2f}x)" if "ratio" in entry[mode] else ""))
        yield f"  {entry['point']}: {', '.join(words)}"


def _means(entries: list[dict[str, Any]]) -> Iterator[str]:
    for mean in means(entries):
        name = f"{mean['cell']} {mean['precision']} {mean['mode']}"
        least = f"least {mean['worst']:.2f} at {mean['worst_at']}"
        yield f"  cuDNN / rnnkern, {name}: {mean['ratio']:.2f} ({mean['points']} points), {least}"


def _counters(found: list[dict[str, Any]]) -> Iterator[str]:
    wanted = ("Duration", "Registers Per Thread", "Compute (SM) Throughput", "L2 Hit Rate", "Executed Ipc Active")
    for entry in found:
        words = [f"{name} {entry['metrics'][name]}" for name in wanted if name in entry["metrics"]]
        yield f"  {entry['kernel']}: {', '.join(words)}"
