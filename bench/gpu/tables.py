"""What the commands print last: short tables of what the record holds in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import geometric_mean
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..table import ratio_text
from .points import CELLS, MODES, PRECISIONS, parse


def _view(title: str, *names: str) -> Table:
    view = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        view.add_column(name, no_wrap=True)
    return view


def latencies(found: Sequence[dict[str, Any]]) -> Table:
    """One line for each measurement: the median over its cases, and the least and the largest of them."""
    view = _view("the GPU itself", "measurement", "median", "least", "largest", "unit", "cases", "failed")
    names = dict.fromkeys(entry["name"] for entry in found if entry["name"] != "device")
    for name in names:
        mine = [entry for entry in found if entry["name"] == name]
        values = sorted(entry["value"] for entry in mine if "value" in entry)
        unit = next((entry["unit"] for entry in mine if "unit" in entry), "")
        three = (values[len(values) // 2], values[0], values[-1]) if values else ()
        failed = len(mine) - len(values)
        view.add_row(name, *[f"{v:.4g}" for v in three or ()] or ["-"] * 3, unit, str(len(mine)), str(failed or ""))
    return view


def steps(found: dict[str, dict[str, Any]]) -> Table:
    """The parts of `check`. ok None: did not run, and why."""
    view = _view("check", "step", "result", "what it said")
    for name, entry in found.items():
        ok = entry["ok"]
        word = Text(
            "skipped" if ok is None else "passed" if ok else "FAILED",
            style="" if ok is None else "green" if ok else "red",
        )
        view.add_row(name, word, Text(entry["said"]))
    return view


def means(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric mean and least of the ratios of each class, cell x precision x mode, in the order of points.py."""
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


def contest(entries: Sequence[dict[str, Any]]) -> Table:
    view = _view(
        "cuDNN's time / rnnkern's (above 1: rnnkern is faster)", "class", "mode", "mean", "worst", "at", "points"
    )
    for mean in means(entries):
        name = f"{mean['cell']} {mean['precision']}"
        pair = ratio_text(mean["ratio"]), ratio_text(mean["worst"])
        view.add_row(name, mean["mode"], *pair, mean["worst_at"], str(mean["points"]))
    return view


def strategies(entries: Sequence[dict[str, Any]], mode: str) -> Table:
    """Every kernel's time at every point; the model's choice, and how much longer than the best it took."""
    entries = [entry for entry in entries if "strategies" in entry]
    names = list(dict.fromkeys(name for entry in entries for name in entry["strategies"]))
    view = _view(f"{mode}, us a step", "point", *names, "chosen", "over best")
    for entry in entries:
        times = {name: mine[mode].get("us_per_step") for name, mine in entry["strategies"].items()}
        known = {name: value for name, value in times.items() if value is not None}
        mine = [value for name, value in known.items() if name.split()[0] == entry["kernel"]]
        over = f"{mine[0] / min(known.values()):.2f}" if mine else "-"
        cells = [f"{known[name]:.3f}" if name in known else "-" for name in names]
        view.add_row(entry["point"], *cells, entry["kernel"], over)
    return view


def algorithms(entries: Sequence[dict[str, Any]]) -> Table:
    """How often the kernels of a forward call looked like which algorithm."""
    view = _view("cuDNN, forward", "class", "persistent", "fused", "stepwise", "failed")
    classes = dict.fromkeys((parse(entry["point"]).cell, parse(entry["point"]).precision) for entry in entries)
    for cell, precision in classes:
        mine = [e for e in entries if (parse(e["point"]).cell, parse(e["point"]).precision) == (cell, precision)]
        counts = Counter(entry.get("algorithm", "failed") for entry in mine)
        view.add_row(
            f"{cell} {precision}", *(str(counts[name] or "") for name in ("persistent", "fused", "stepwise", "failed"))
        )
    return view
