"""The picture: speed of everybody relative to torch, one panel per cell and mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from rnnkern.problems import Problem, parse

from .driver import Outcome
from .report import document

# Colours from the palette of Okabe and Ito, which colour-blind readers can tell apart.
_STYLE: Final = {
    "rnnkern": ("#D55E00", "o"),
    "torch": ("#0072B2", "s"),
    "onnxruntime": ("#009E73", "^"),
    "openvino": ("#CC79A7", "D"),
    "jax": ("#56B4E9", "v"),
}


_CELLS: Final = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "Elman RNN (tanh)", "rnn_relu": "Elman RNN (ReLU)"}


def draw(run: Outcome | dict[str, Any], path: Path) -> None:
    """Draws a run, or the JSON document of one, into a file; the file's ending gives the format."""
    told = run if isinstance(run, dict) else document(run)
    modes = list(dict.fromkeys(point["mode"] for point in told["points"]))
    cells = list(dict.fromkeys(parse(point["problem"]).cell for point in told["points"]))
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {(mode, cell): [] for mode in modes for cell in cells}
    for point in told["points"]:
        panels[point["mode"], parse(point["problem"]).cell].append(point)
    widest = max(len(panels[modes[0], cell]) for cell in cells)
    figure = Figure(figsize=(1.5 + len(cells) * max(2.5, 0.32 * widest), 1.6 + 3.1 * len(modes)), layout="constrained")
    axes = figure.subplots(len(modes), len(cells), squeeze=False, sharey="row")
    names = list(dict.fromkeys(entry["name"] for point in told["points"] for entry in point["entries"]))
    for line, mode in zip(axes, modes, strict=True):
        for ax, cell in zip(line, cells, strict=True):
            _panel(ax, panels[mode, cell], names, f"{_CELLS.get(cell, cell)}, {mode}")
    base = "torch" if "torch" in told["peers"] else "the fastest peer" if told["peers"] else "rnnkern"
    figure.supylabel(f"speed relative to {base} (higher is better)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    threads = told["limits"]["threads"]
    dtypes = " and ".join(dict.fromkeys(parse(point["problem"]).dtype for point in told["points"]))
    machine = f"{told['machine']['cpu']}, {threads} thread{'s' * (threads != 1)} for every library"
    figure.suptitle(f"{dtypes}, medians of the timed blocks; {machine}; B: batch size, H: hidden size", fontsize=10)
    figure.savefig(path, dpi=150)


def _seconds(point: dict[str, Any]) -> dict[str, float]:
    return {entry["name"]: entry["median_us"] for entry in point["entries"] if "median_us" in entry}


def _baseline(times: dict[str, float]) -> float | None:
    """The time that counts as 1: torch's, else the fastest peer's, else the fastest of all."""
    if "torch" in times:
        return times["torch"]
    peers = [time for name, time in times.items() if not name.startswith("rnnkern")]
    return min(peers or times.values(), default=None)


def _panel(ax: Any, points: list[dict[str, Any]], names: list[str], title: str) -> None:
    points = sorted(points, key=lambda point: parse(point["problem"]).batch)  # stable: sizes keep the list's order
    problems = [parse(point["problem"]) for point in points]
    for rank, name in enumerate(names):
        colour, marker = _STYLE.get(name, ("#000000", "oPX*h"[rank % 5]))
        where, speed = [], []
        for index, point in enumerate(points):
            times = _seconds(point)
            base = _baseline(times)
            if name in times and base is not None:
                where.append(index)
                speed.append(base / times[name])
        subject = name.startswith("rnnkern")
        ax.plot(where, speed, marker, color=colour, label=name, ms=7 if subject else 5, zorder=3 if subject else 2)
    ax.axhline(1, color="#888888", lw=0.8, zorder=1)
    for index in range(1, len(points)):
        if problems[index].batch != problems[index - 1].batch:
            ax.axvline(index - 0.5, color="#cccccc", lw=0.8, ls=":")
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color="#eeeeee", zorder=0)
    ax.set_axisbelow(True)
    ax.set_xticks(range(len(points)), [_label(problem) for problem in problems], rotation=90, fontsize=7)
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
