"""Broken, truncated and hostile models: an error with a sentence, never a crash or memory without bound."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parents[1] / "support" / "onnx_hostile.py"
MEMORY = 6 << 30  # bytes of address space


def run_child(*arguments: object) -> tuple[int, int, str]:
    """-> its exit status, the last seed that it began, what it said."""
    done = subprocess.run(
        [sys.executable, CHILD, *map(str, arguments)],
        capture_output=True, text=True, errors="replace",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )  # fmt: skip
    seeds = [line for line in done.stdout.split() if line.isdigit()]
    return done.returncode, int(seeds[-1]) if seeds else -1, done.stderr[-2000:]


@pytest.mark.parametrize("part", range(3))
def test_broken_models(part: int) -> None:
    """A crash of onnxruntime alone on the same model is not ours: the next seed follows."""
    seed, end = 150 * part, 150 * (part + 1)
    while seed < end:
        status, last, said = run_child(seed, end)
        if status == 0:
            return
        alone, _, _ = run_child(last, last + 1, "alone")
        assert alone != 0, f"seed {last}: exit status {status}: {said}"
        seed = last + 1
