"""Cost against T, B, H, layers and threads: `python -m bench.scaling --json out.json --plot out.png` (from a checkout).

One problem in the middle, one quantity varied at a time, every number of threads that is a power of two up to the CPUs;
LSTM in float32, inference and training step. Blocks alternate between the numbers of threads.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from rnnkern import _core
from rnnkern.problems import Problem, parse

from . import machine, timing
from .data import MODES, make
from .subject import Subject

_MIDDLE: Final = parse("lstm t64b16i256h256")
_SWEEPS: Final[dict[str, list[int]]] = {
    "T": [1, 4, 16, 64, 256, 1024],
    "B": [1, 2, 4, 8, 16, 32, 64, 128],
    "H": [16, 32, 64, 128, 256, 512, 1024],
    "layers": [1, 2, 4],
}
_LABELS: Final = {"T": "steps T", "B": "batch size B", "H": "hidden size H", "layers": "layers"}
_FIELDS: Final = {"T": "seq_len", "B": "batch", "layers": "num_layers"}


def problem(name: str, value: int) -> Problem:
    if name == "H":
        return replace(_MIDDLE, input_size=value, hidden_size=value)
    sizes: dict[str, Any] = {_FIELDS[name]: value}
    return replace(_MIDDLE, **sizes)


def thread_counts() -> list[int]:
    return [n for n in (1 << i for i in range(9)) if n <= machine.cpus()]


def measure(plan: timing.Plan) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, values in _SWEEPS.items():
        for value in values:
            made = make(problem(name, value))
            for mode in MODES:
                call = Subject().prepare(problem(name, value), made, mode).call

                def with_threads(threads: int, call: Any = call) -> Any:
                    def run() -> None:
                        if _core.get_num_threads() != threads:
                            _core.set_num_threads(threads)
                        call()

                    return run

                times = timing.measure({str(n): with_threads(n) for n in thread_counts()}, plan)
                found += [
                    {"varied": name, "value": value, "mode": mode, "threads": int(n), "seconds": median(t.blocks)}
                    for n, t in times.items()
                ]
    return found


def draw(document: dict[str, Any], path: Path) -> None:
    """Draws the picture of a record; the file's ending gives the format."""
    from matplotlib.figure import Figure

    found, cpu = document["points"], document["machine"]["cpu"]
    figure = Figure(figsize=(4 * len(_SWEEPS), 6.4), layout="constrained")
    axes = figure.subplots(len(MODES), len(_SWEEPS), squeeze=False)
    for line, mode in zip(axes, MODES, strict=True):
        for ax, name in zip(line, _SWEEPS, strict=True):
            for threads in dict.fromkeys(r["threads"] for r in found):
                rows = [r for r in found if (r["varied"], r["mode"], r["threads"]) == (name, mode, threads)]
                label = f"{threads} thread{'s' * (threads > 1)}"
                ax.plot([r["value"] for r in rows], [r["seconds"] * 1e6 for r in rows], "o-", label=label)
            ax.set(xscale="log", yscale="log", xlabel=_LABELS[name], title=f"{mode} time against {_LABELS[name]}")
            ax.set_ylabel("microseconds per call")
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.grid(alpha=0.3)
    axes[0][0].legend(frameon=False)
    problem = parse(document["around"])
    sizes = f"T={problem.seq_len}, B={problem.batch}, H=I={problem.hidden_size}, {problem.num_layers} layer"
    figure.suptitle(f"LSTM float32, {sizes}, one size varied at a time; medians; {cpu}")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="write every point and the machine to this file")
    parser.add_argument("--plot", type=Path, required=True, help="draw the picture into this file")
    parser.add_argument("--blocks", type=int, default=5, help="number of timed blocks")
    arguments = parser.parse_args()
    found = measure(timing.Plan(blocks=arguments.blocks))
    document = {"machine": machine.facts(max(thread_counts())), "around": str(_MIDDLE), "points": found}
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    draw(document, arguments.plot)


if __name__ == "__main__":
    main()
