"""Write the tables of docs/benchmarks.md and of README.md from the records in bench/results. Nothing is measured.

    python -m bench.page               (from a checkout; needs no build and no other package)
    python -m bench.page --check       change nothing; exit status 1 if a table differs from its record
    python -m bench.page --pictures    redraw the pictures as well (needs rnnkern and matplotlib)

A table stands between ``<!-- bench:begin KIND RECORD ... -->`` and ``<!-- bench:end -->``. KIND is a name in ``KINDS``
below and RECORD is a file in bench/results, without its ending. The prose around the tables is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "bench" / "results"
PAGES: Final = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")

_MARKED: Final = re.compile(r"(<!-- bench:begin ([^>]+?) -->\n).*?(^<!-- bench:end -->)", re.MULTILINE | re.DOTALL)
_BEST: Final = "best peer"
_NAMES: Final = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "Elman RNN", "rnn": "Elman RNN"}
_MODES: Final = ("inference", "training")


@cache
def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. The first column is text, every other one is aligned to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 and count % (1 << 20) == 0 else f"{count >> 10} KiB"


def _cell(problem: str) -> str:
    return problem.split()[0]


# --- rnnkern bench ----------------------------------------------------------------------------------------------------


def ratios(name: str, statistic: str) -> list[dict[str, Any]]:
    """Each peer's time divided by rnnkern's, at every point; statistic: ``median_us`` or ``min_us`` of the blocks."""
    found = []
    for point in record(name)["points"]:
        times = {entry["name"]: entry[statistic] for entry in point["entries"] if statistic in entry}
        if "rnnkern" in times:
            peers = {peer: us / times["rnnkern"] for peer, us in times.items() if peer != "rnnkern"}
            if peers:
                peers[_BEST] = min(peers.values())
            found.append({"problem": point["problem"], "mode": point["mode"], "ratios": peers})
    return found


def _means(name: str, against: str, statistic: str = "median_us") -> dict[tuple[str, str], tuple[float, int]]:
    """(cell, mode) -> (geometric mean, number of points)."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in ratios(name, statistic):
        if against in row["ratios"]:
            groups.setdefault((_cell(row["problem"]), row["mode"]), []).append(row["ratios"][against])
    return {group: (geometric_mean(values), len(values)) for group, values in groups.items()}


def speed(name: str) -> str:
    """The README's table: one line a cell, and the machine."""
    best, torch = _means(name, _BEST), _means(name, "torch")
    cells = dict.fromkeys(cell for cell, _ in best)
    head = ["geometric mean of 15 sizes", *(f"{mode}, against {who}" for mode in _MODES for who in ("best", "torch"))]
    points = {count for _, count in (*best.values(), *torch.values())}
    assert points == {15}, f"{name}: expected 15 points of each cell and mode, got {points}"
    rows = [
        [_NAMES[cell], *(f"{who[cell, mode][0]:.2f}x" for mode in _MODES for who in (best, torch))] for cell in cells
    ]
    facts, peers = record(name)["machine"], record(name)["peers"]
    versions = ", ".join(f"{peer} {version.partition('+')[0]}" for peer, version in peers.items())
    return (
        _table(head, rows)
        + f"\nMachine: {_cpu(facts)}, {facts['threads']} threads for every library. Peers: {versions}.\n"
    )


def _cpu(facts: dict[str, Any]) -> str:
    """``Intel Xeon, 2 cores of a virtual machine``: the CPU does not tell its model there."""
    return f"{re.sub(r'[(](R|TM)[)]| Processor$', '', facts['cpu'])}, {facts['cpus']} cores of a virtual machine"


def machine(name: str) -> str:
    """The machine's facts, its measured limits and the versions of the peers."""
    told = record(name)
    facts, limits = told["machine"], told["limits"]

    def rates(kind: str) -> str:
        return ", ".join(f"{dtype} {rate:.0f}" for dtype, rate in limits[kind].items())

    levels = ", ".join(f"{read['level']} {read['rate']:.0f}" for read in limits["read"])
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)} for every library"
    return (
        "```text\n"
        f"CPU             {facts['cpu']}, {facts['cpus']} CPUs, {threads}\n"
        f"caches          {', '.join(f'{level} {_bytes(size)}' for level, size in facts['caches'].items())}\n"
        f"registers       {rates('fma_gflops')} GFLOP/s\n"
        f"weights in L2   {rates('fed_fma_gflops')} GFLOP/s\n"
        f"reading         {levels} GB/s\n"
        f"peers           {', '.join(f'{peer} {version}' for peer, version in told['peers'].items())}\n"
        f"system          {facts['system']}, Python {facts['python']}, NumPy {facts['numpy']}\n"
        "```\n"
    )


def means(name: str) -> str:
    """Geometric means by cell and mode, then the worst point."""
    return _mean_tables([name], ["median_us"])


def both_means(*names: str) -> str:
    """The same of several records, by the median of the blocks and by their minimum."""
    return _mean_tables(list(names), ["median_us", "min_us"])


def _mean_tables(names: list[str], statistics: list[str]) -> str:
    several = len(record(names[0])["peers"]) > 1
    against = [_BEST, "torch"] if several else ["torch"]
    words = {"median_us": "medians", "min_us": "minima"}
    head = ["geometric mean"]
    for who in against:
        for statistic in statistics:
            head.append(f"against {who}" + (f", {words[statistic]}" if len(statistics) > 1 else ""))
    rows = []
    for name in names:
        columns = [_means(name, who, statistic) for who in against for statistic in statistics]
        for cell, mode in columns[0]:
            counts = columns[0][cell, mode][1]
            label = f"{_NAMES[cell]} {_dtype(name)}, {mode}"
            rows.append([label, *(f"{column[cell, mode][0]:.2f}" for column in columns), str(counts)])
    text = _table([*head, "points"], rows) + "\n"
    for who in against if len(names) == 1 else against[:1]:
        for name in names:
            for statistic in statistics:
                text += f"* {_worst(name, who, statistic, len(statistics) > 1, len(names) > 1)}\n"
    return text


def _dtype(name: str) -> str:
    return {"f32": "float32", "bf16": "bfloat16"}[record(name)["points"][0]["problem"].split()[2]]


def _worst(name: str, against: str, statistic: str, say_statistic: bool, say_dtype: bool) -> str:
    row = min((r for r in ratios(name, statistic) if against in r["ratios"]), key=lambda r: r["ratios"][against])
    how = {"median_us": " by medians", "min_us": " by minima"}[statistic] if say_statistic else ""
    what = f" in {_dtype(name)}" if say_dtype else ""
    who = "torch" if against == "torch" else "the best peer"
    return f"Worst point against {who}{what}{how}: {row['ratios'][against]:.2f}x at `{row['problem']}`, {row['mode']}."


def points(name: str) -> str:
    """Every point of a record as fixed-width text: microseconds a step, ratios, share of the limit."""
    told = record(name)
    shares = {(r["problem"], r["mode"]): r for r in told["ratios"]}
    peers = list(told["peers"])
    lines = [["problem", "mode", "kernel", "rnnkern", *peers, "x best", "x torch", "% limit"]]
    for point in told["points"]:
        entries = {entry["name"]: entry for entry in point["entries"]}
        made = shares.get((point["problem"], point["mode"]), {"ratios": {}, "share_of_limit": None})
        ratio = [f"{made['ratios'][who]:.2f}" if who in made["ratios"] else "" for who in (_BEST, "torch")]
        share = made["share_of_limit"]
        lines.append(
            [point["problem"], point["mode"], entries["rnnkern"]["kernel"]]
            + [_time(entries.get(who)) for who in ("rnnkern", *peers)]
            + [*ratio, "" if share is None else f"{share:.0%}"]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = []
    for line in lines:
        left = [word.ljust(width) for word, width in zip(line[:3], widths[:3], strict=True)]
        right = [word.rjust(width) for word, width in zip(line[3:], widths[3:], strict=True)]
        text.append("  ".join([*left, *right]).rstrip())
    body = "\n".join(text)
    summary = f"Every point: microseconds for one time step, medians ({len(lines) - 1} points)"
    return f'<details markdown="1"><summary>{summary}</summary>\n\n```text\n{body}\n```\n\n</details>\n'


def _time(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["status"] == "declined":
        return "-"
    if entry["status"] != "timed":
        return str(entry["status"])
    us = entry["us_per_step"]
    return f"{us:.2f}" if us < 10 else f"{us:.1f}" if us < 100 else f"{us:.0f}"


# --- bench.modules, bench.options -------------------------------------------------------------------------------------


def modules(name: str) -> str:
    """rnnkern.torch's modules, eager and compiled, against the better of torch.nn eager and compiled."""
    rows = []
    for cell in ("lstm", "gru"):
        for mode in _MODES:
            mine = [p for p in record(name)["points"] if (_cell(p["problem"]), p["mode"]) == (cell, mode)]

            def against(point: dict[str, Any], who: str) -> float:
                us: dict[str, float] = point["us"]
                return min(us["torch"], us["torch compiled"]) / us[who]

            compiled = {p["problem"]: against(p, "rnnkern compiled") for p in mine}
            worst = min(compiled, key=lambda problem: compiled[problem])
            eager = geometric_mean([against(p, "rnnkern") for p in mine])
            below = sum(ratio < 1 for ratio in compiled.values())
            rows.append(
                [
                    *(f"{_NAMES[cell]}, {mode}", f"{eager:.2f}", f"{geometric_mean(compiled.values()):.2f}"),
                    *(f"{compiled[worst]:.2f} at `{worst}`", f"{below} of {len(mine)}"),
                ]
            )
    head = ["geometric mean", "rnnkern eager", "rnnkern compiled", "worst point, compiled", "points below 1"]
    return _table(head, rows)


def compile_times(name: str) -> str:
    """Seconds from torch.compile to the first gradients, by T."""
    times = {(line["T"], line["contender"]): line["seconds"] for line in record(name)["compile"]}
    steps = list(dict.fromkeys(length for length, _ in times))
    contenders = list(dict.fromkeys(who for _, who in times))
    rows = [
        [who, *(f"{times[length, who]:.1f}" if (length, who) in times else "-" for length in steps)]
        for who in contenders
    ]
    return _table(["seconds", *(f"T = {length}" for length in steps)], rows)


def options(name: str) -> str:
    """The time of a layer with an option, divided by the time of the same layer without it."""
    return option_table(record(name)["rows"])


def option_table(rows: list[dict[str, Any]]) -> str:
    """Geometric means over the sizes, and the worst point; ``bench.options`` makes the rows."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["cell"], row["option"], row["mode"]), []).append(row)
    lines = []
    for (cell, option, mode), mine in groups.items():
        means = []
        for single in (True, False):
            some = [row["ratio"] for row in mine if (row["batch"] == 1) == single]
            means.append(f"{geometric_mean(some):.2f}" if some else "-")
        worst = max(mine, key=lambda row: float(row["ratio"]))
        at = f"{worst['ratio']:.2f} at B={worst['batch']} H={worst['size']}"
        lines.append([f"{_NAMES[cell]}, {option}, {mode}", *means, at])
    return _table(["cell, option, mode", "B = 1", "B > 1", "worst point"], lines)


KINDS: Final[dict[str, Callable[..., str]]] = {
    "speed": speed,
    "machine": machine,
    "means": means,
    "both_means": both_means,
    "points": points,
    "modules": modules,
    "compile_times": compile_times,
    "options": options,
}


def filled(text: str) -> str:
    """The page with every marked part made anew."""

    def part(match: re.Match[str]) -> str:
        kind, *names = match[2].split()
        return f"{match[1]}{KINDS[kind](*names)}{match[3]}"

    return _MARKED.sub(part, text)


def pictures() -> None:
    """The pictures of the same records."""
    from .plot import draw
    from .scaling import draw as draw_scaling

    draw(record("cpu-2-cores"), RESULTS / "cpu-2-cores.png")
    draw_scaling(record("scaling-2-cores"), RESULTS / "scaling-2-cores.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a table is out of date")
    parser.add_argument("--pictures", action="store_true", help="redraw the pictures as well")
    arguments = parser.parse_args()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = filled(text)
        if made != text and arguments.check:
            raise SystemExit(f"{page.relative_to(ROOT)}: a table differs from its record; run python -m bench.page")
        if made != text:
            page.write_text(made, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: written")
    if arguments.pictures:
        pictures()


if __name__ == "__main__":
    main()
