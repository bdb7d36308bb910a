"""Hardware counters of the recurrent kernels, by Nsight Compute (ncu): one launch of each, in a training step."""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from . import check, jobs
from .points import Point

# T times B is one block of products over time, so that forward and BPTT are one launch each.
PROFILED: Final = {"cuda_grid": Point("lstm", "bf16", 768, 16, 256), "cuda_solo": Point("lstm", "bf16", 128, 16, 256)}
_NAMES: Final = "regex:(team|solo)_(forward|backward)_kernel"
_SECTIONS: Final = (
    *("SpeedOfLight", "LaunchStats", "Occupancy", "WarpStateStats"),
    *("SchedulerStats", "InstructionStats", "MemoryWorkloadAnalysis"),
)


def command(ncu: str) -> list[str]:
    """The GPU's clocks stay as they are."""
    sections = [word for section in _SECTIONS for word in ("--section", section)]
    request = {"do": "profile", "points": {name: str(point) for name, point in PROFILED.items()}}
    return [
        *(ncu, "--clock-control", "none", "--kernel-name", _NAMES, "--csv", *sections),
        *(*check.module("worker"), json.dumps(request)),
    ]


def parse(lines: Iterable[str]) -> dict[str, dict[str, str]]:
    """Kernel -> metric -> value with its unit, of what ncu prints with --csv between other lines."""
    rows = [line for line in lines if line.startswith('"')]
    found: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(rows):
        if metric := row.get("Metric Name"):
            value = f"{row['Metric Value']} {row['Metric Unit']}".strip()
            found.setdefault(_short(row["Kernel Name"]), {})[metric] = value
    return found


def _short(kernel: str) -> str:
    """The name without its namespaces and parameters."""
    bare = re.sub(r"\((?:anonymous namespace|int|bool)\)(?:::)?|\brnnk::(?:gpu::)?|^void ", "", kernel)
    return bare.partition("(")[0]


def measure(take: Callable[[str, Any], None], line: Callable[[str], None], limit: float) -> check.Outcome:
    """ok None where the machine lets nobody read the counters."""
    ncu = check.toolkit("ncu", *sorted(glob.glob("/opt/nvidia/nsight-compute/*"), reverse=True))
    if not ncu:
        return {"ok": None, "said": "ncu is not installed"}
    lines: list[str] = []

    def on_line(text: str) -> None:
        line(text)
        lines.append(text)

    done = jobs.run(command(ncu), limit, on_line)
    kernels = parse(lines)
    for name, metrics in kernels.items():
        take("counters", {"kernel": name, "metrics": metrics})
    if kernels:
        return check.ended(done, limit) | {"said": f"{len(kernels)} kernels"}
    errors = [text.strip() for text in lines if text.startswith("==ERROR==")]
    if done.code is None or not errors:
        return check.ended(done, limit) | ({"ok": False, "said": "ncu saw no kernel"} if done.code == 0 else {})
    return {"ok": None, "said": f"ncu reads no counters: {errors[0][:160]}"}
