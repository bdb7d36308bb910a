"""The parts of `check`: what must hold on a GPU before its times mean anything. Each has a share of the budget.

A part's outcome is {"ok": True, False or None, "said": a sentence}, None when it could not run, besides what it found.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import jobs
from .points import Point, Step

LATENCIES: Final = Path(__file__).with_name("latencies.cu")

STEPS: Final = (Step("latencies", 3), Step("tests", 3), Step("same bits", 2), Step("memcheck", 2), Step("racecheck", 2))

_TIMES: Final = 100  # repetitions that must give the same bits

# One for each way in which a layer can be spread over the GPU: within an SM, over some, over all; rows beyond one tile.
REPEATED: Final = (
    Point("lstm", "bf16", 128, 16, 64),
    Point("lstm", "bf16", 256, 64, 64),
    Point("lstm", "f32", 256, 7, 64),
    Point("gru", "bf16", 1024, 16, 64),
    Point("lstm", "tf32", 512, 33, 64),
    Point("rnn_tanh", "f16", 2048, 8, 64),
)

Outcome = dict[str, Any]


def nvcc() -> str:
    """The compiler's path, "" where there is none."""
    beside = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{beside}/bin") or ""


def build(compiler: str, to: Path) -> list[str]:
    """The command that builds latencies.cu."""
    target = ("-gencode=arch=compute_90a,code=sm_90a", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra")
    return [compiler, "-O3", "-std=c++17", *target, str(LATENCIES), "-o", str(to)]


def tests() -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "--full", "-m", "gpu and not slow", "tests"]


def sanitized(sanitizer: str, tool: str) -> list[str]:
    """Small problems under a tool that looks at rnnkern's own kernels only: torch's would take all the time."""
    watched = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--kernel-name", "kns=rnnk"]
    return [*watched, sys.executable, "-m", f"{__package__}.worker", '{"do": "small"}']


def worker() -> jobs.Worker:
    return jobs.Worker([sys.executable, "-m", f"{__package__}.worker"])


@dataclass
class Check:
    """take: gets every figure at once, for the record."""

    take: Callable[[str, Any], None]

    def run(self, step: str, limit: float) -> Outcome:
        if step == "latencies":
            return self._latencies(limit)
        if step == "tests":
            return tested(jobs.run(tests(), limit), limit)
        if step == "same bits":
            return self._same_bits(limit)
        return self._sanitized(step, limit)

    def _latencies(self, limit: float) -> Outcome:
        compiler = nvcc()
        if not compiler:
            return {"ok": None, "said": "nvcc is not installed"}
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "latencies"
            built = jobs.run(build(compiler, program), limit)
            if built.code != 0:
                return _ended(built, limit) | {"said": f"does not compile: {_last(built.tail)}"}
            done = jobs.run(
                [str(program)], limit - built.seconds, jobs.json_lines(lambda line: self.take("latencies", line))
            )
        return _ended(done, limit)

    def _same_bits(self, limit: float) -> Outcome:
        each, differing, process = limit / len(REPEATED), [], worker()
        try:
            for point in REPEATED:
                try:
                    found = process.ask({"do": "repeat", "point": str(point), "times": _TIMES}, each)
                except jobs.Died as error:
                    found = {"error": str(error)}
                self.take("same bits", {"point": str(point)} | found)
                if found.get("error") or found["differing"]:
                    differing.append(f"{point}: {found.get('error') or found['differing']}")
        finally:
            process.close()
        said = "; ".join(differing) or f"{_TIMES} repetitions at {len(REPEATED)} points"
        return {"ok": not differing, "said": said}

    def _sanitized(self, tool: str, limit: float) -> Outcome:
        sanitizer = shutil.which("compute-sanitizer")
        if not sanitizer:
            return {"ok": None, "said": "compute-sanitizer is not installed"}
        # torch's cache would hide an access beyond an array that stays within the cached block.
        done = jobs.run(sanitized(sanitizer, tool), limit, environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        return _ended(done, limit)


def tested(done: jobs.Done, limit: float) -> Outcome:
    """pytest's exit status: 0 all passed, 5 nothing was collected."""
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", done.tail)
    if done.code == 5:
        return {"ok": None, "said": "no test is marked gpu", "tail": done.tail}
    if done.code is None:
        return _ended(done, limit)
    return {"ok": done.code == 0, "said": ", ".join(map(" ".join, counts)) or _last(done.tail), "tail": done.tail}


def _ended(done: jobs.Done, limit: float) -> Outcome:
    said = f"stopped after {limit:.0f} s" if done.code is None else _last(done.tail)
    return {"ok": done.code == 0, "said": said, "status": done.code, "seconds": done.seconds, "tail": done.tail}


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:200]
