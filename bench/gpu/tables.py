"""What the commands print last: short tables of what the record holds in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from ..table import ratio_text
from . import summary
from .points import parse


def _view(title: str, *names: str) -> Table:
    view = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        view.add_column(name, no_wrap=True)
    return view


def contest(entries: list[dict[str, Any]]) -> Table:
    view = _view(
        "cuDNN's time / rnnkern's (above 1: rnnkern is faster)", "class", "mode", "mean", "worst", "at", "points"
    )
    for mean in summary.means(entries):
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
