"""The picture: speed of everybody relative to torch, one panel per cell and mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from rnnkern.problems import Problem

from .driver import Outcome, Point

# Colours from the palette of Okabe and Ito, which colour-blind readers can tell apart.
_STYLE: Final = {
    "rnnkern": ("#D55E00", "o"),
    "torch": ("#0072B2", "s"),
    "onnxruntime": ("#009E73", "^"),
    "openvino": ("#CC79A7", "D"),
    "jax": ("#56B4E9", "v"),
}


def draw(outcome: Outcome, path: Path) -> None:
    """Writes the picture; the file's ending says the format."""
    modes = list(dict.fromkeys(point.mode for point in outcome.points))
    cells = list(dict.fromkeys(point.problem.cell for point in outcome.points))
    widest = max(sum(1 for point in outcome.points if (point.mode, point.problem.cell) == (modes[0], c)) for c in cells)
    figure = Figure(figsize=(1.5 + len(cells) * max(2.5, 0.32 * widest), 1.6 + 3.1 * len(modes)), layout="constrained")
    axes = figure.subplots(len(modes), len(cells), squeeze=False, sharey="row")
    names = [*outcome.subjects, *outcome.peers]
    for line, mode in zip(axes, modes, strict=True):
        for ax, cell in zip(line, cells, strict=True):
            points = [point for point in outcome.points if (point.problem.cell, point.mode) == (cell, mode)]
            _panel(ax, points, names, f"{cell}, {mode}")
    base = "torch" if "torch" in outcome.peers else "the fastest peer" if outcome.peers else "rnnkern"
    figure.supylabel(f"speed relative to {base} (higher is better)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    threads = outcome.limits.threads
    figure.suptitle(f"{outcome.facts['cpu']}, {threads} thread{'s' * (threads != 1)}, medians", fontsize=10)
    figure.savefig(path, dpi=150)


def _baseline(point: Point, names: list[str]) -> float | None:
    """Seconds that count as 1: torch's, else the fastest peer's, else the fastest of all."""
    timed = {entry.name: entry.seconds for entry in point.entries if entry.seconds is not None}
    if "torch" in timed:
        return timed["torch"]
    peers = [seconds for name, seconds in timed.items() if not name.startswith("rnnkern")]
    return min(peers or timed.values(), default=None)


def _panel(ax: Any, points: list[Point], names: list[str], title: str) -> None:
    points = sorted(points, key=lambda point: point.problem.batch)  # stable: the sizes keep the order of the list
    for rank, name in enumerate(names):
        colour, marker = _STYLE.get(name, ("#000000", "oPX*h"[rank % 5]))
        where, speed = [], []
        for index, point in enumerate(points):
            base = _baseline(point, names)
            seconds = next((entry.seconds for entry in point.entries if entry.name == name), None)
            if seconds is not None and base is not None:
                where.append(index)
                speed.append(base / seconds)
        subject = name.startswith("rnnkern")
        ax.plot(where, speed, marker, color=colour, label=name, ms=7 if subject else 5, zorder=3 if subject else 2)
    ax.axhline(1, color="#888888", lw=0.8, zorder=1)
    for index in range(1, len(points)):
        if points[index].problem.batch != points[index - 1].problem.batch:
            ax.axvline(index - 0.5, color="#cccccc", lw=0.8, ls=":")
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color="#eeeeee", zorder=0)
    ax.set_axisbelow(True)
    ax.set_xticks(range(len(points)), [_label(point.problem) for point in points], rotation=90, fontsize=7)
    ax.set_xlim(-0.6, max(len(points) - 0.4, 0.6))
    ax.set_title(title, fontsize=10)


def _label(problem: Problem) -> str:
    """What tells a point from its neighbours: batch and size, then whatever is unusual."""
    said = f"B{problem.batch} H{problem.hidden_size}"
    if problem.input_size != problem.hidden_size:
        said += f" I{problem.input_size}"
    if problem.num_layers > 1 or problem.directions > 1:
        said += f" L{problem.num_layers}D{problem.directions}"
    extra = str(problem).split()[2:]
    return " ".join([said, *(word for word in extra if word != "f32")])
