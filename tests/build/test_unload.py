"""A C host that unloads the library, or ends, while the library's threads are there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from native import INCLUDES, ROOT, installed, run, tool


@pytest.mark.builds
@pytest.mark.parametrize("end", ["unload", "exit"])
def test_the_end_of_a_host(end: str, tmp_path: Path) -> None:
    source, program = ROOT / "tests/support/c/unload.c", tmp_path / "unload"
    flags = ("-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-O1", "-pthread")
    run(tool("gcc"), *flags, *INCLUDES, source, "-o", program, "-ldl")
    library = next((installed() / "lib").glob("librnnkern.so"))
    for _ in range(20):
        done = subprocess.run([program, library, end], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
