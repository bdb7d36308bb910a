"""The table on the terminal: microseconds per step, ratios, share of the machine's limit, geometric means."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .driver import Entry, Outcome
from .report import BEST, Row, means, remarks, rows, worst

_SHORT = {"timed": "", "declined": "-", "failed": "failed", "wrong": "wrong"}


def show(outcome: Outcome, console: Console) -> None:
    """Prints everything. Colours only say what the numbers say."""
    table = rows(outcome)
    console.print(Text(_machine(outcome)))
    console.print(_points(outcome, table))
    if any(row.ratios for row in table):
        console.print(_means(table))
    for against in ("torch", BEST):
        row = worst(table, against)
        if row is not None:
            where = f"{row.point.problem}, {row.point.mode}"
            console.print(Text(f"Worst point against {against}: {row.ratios[against]:.2f}x at {where}"))
    for remark in remarks(outcome):
        console.print(Text(remark, style="yellow"))


def _machine(outcome: Outcome) -> str:
    facts, limits = outcome.facts, outcome.limits
    sizes = ", ".join(f"{name} {_bytes(size)}" for name, size in facts["caches"].items())
    fma = ", ".join(f"{name} {rate:.0f}" for name, rate in limits.fma.items())
    fed = ", ".join(f"{name} {rate:.0f}" for name, rate in limits.fed.items())
    read = ", ".join(f"{read.level} {read.rate:.0f}" for read in limits.levels)
    versions = ", ".join(f"{name} {version}" for name, version in outcome.peers.items())
    return (
        f"{facts['cpu']}, {facts['cpus']} CPUs, {limits.threads} threads for everybody; {sizes}\n"
        f"Measured limits: {fma} GFLOP/s in registers; {fed} with weights from the second-level cache;\n"
        f"  reading {read} GB/s\n"
        f"Peers: {versions or 'none'}\n"
    )


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 and count % (1 << 20) == 0 else f"{count >> 10} KiB"


def _points(outcome: Outcome, table: list[Row]) -> Table:
    view = Table(title="us per step (medians)", box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("problem", no_wrap=True)
    view.add_column("mode", no_wrap=True)
    view.add_column("kernel", no_wrap=True)
    for name in ("rnnkern", *outcome.peers, "x best", "x torch", "% limit"):
        view.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(table):
        cell = row.point.problem.cell
        view.add_row(
            str(row.point.problem),
            row.point.mode,
            row.subject.kernel or row.subject.name,
            *(_time(entry, row.point.problem.seq_len) for entry in (row.subject, *row.peers.values())),
            ratio_text(row.ratios.get(BEST)),
            ratio_text(row.ratios.get("torch")),
            "" if row.share is None else f"{row.share:.0%}",
            end_section=index + 1 < len(table) and table[index + 1].point.problem.cell != cell,
        )
    return view


def _time(entry: Entry, seq_len: int) -> Text:
    if entry.seconds is None:
        return Text(_SHORT[entry.status], style="" if entry.status == "declined" else "bold red")
    value = entry.seconds * 1e6 / seq_len
    return Text(f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}")


def ratio_text(ratio: float | None) -> Text:
    if ratio is None:
        return Text("")
    return Text(f"{ratio:.2f}", style="green" if ratio >= 1 else "red")


def _means(table: list[Row]) -> Table:
    view = Table(title="geometric means (above 1: rnnkern is faster)", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("subject", "cell", "mode"):
        view.add_column(name, no_wrap=True)
    for name in ("x best", "x torch", "points"):
        view.add_column(name, justify="right")
    found = means(table)
    for subject, cell, mode in dict.fromkeys((mean.subject, mean.cell, mean.mode) for mean in found):
        group = [mean for mean in found if (mean.subject, mean.cell, mean.mode) == (subject, cell, mode)]
        ratios = {mean.against: mean.ratio for mean in group}
        points = str(max(mean.points for mean in group))
        view.add_row(subject, cell, mode, ratio_text(ratios.get(BEST)), ratio_text(ratios.get("torch")), points)
    return view
