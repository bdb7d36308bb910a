"""The programs in C and C++, built as a reader builds them, against the installed library."""

from __future__ import annotations

from pathlib import Path

import pytest

from native import ROOT, installed, run, tool

pytestmark = pytest.mark.builds


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_the_network_learns(language: str, tmp_path: Path) -> None:
    """Each program trains a two-layer bidirectional LSTM, and its status says whether the loss fell."""
    program = ROOT / "examples" / language
    run(tool("cmake"), "-S", program, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed()}")
    run(tool("cmake"), "--build", tmp_path)
    assert "loss" in run(tmp_path / "lstm")
    source = next(program.glob("lstm.c*"))
    assert len(source.read_text().splitlines()) < 80


@pytest.mark.parametrize("standard", ["c++17", "c++20"])
def test_the_c_plus_plus_header_compiles_alone(standard: str, tmp_path: Path) -> None:
    file = tmp_path / "main.cpp"
    file.write_text("#include <rnnkern/rnnkern.hpp>\nint main() { return 0; }\n")
    run(
        tool("c++"), f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", installed() / "include",
        file,
    )  # fmt: skip
    assert len((ROOT / "csrc/include/rnnkern/rnnkern.hpp").read_text().splitlines()) <= 200
