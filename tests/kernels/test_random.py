"""The random words of masks in every instruction set they are written for, against the portable text (which
reference/test_plain.py holds to Random123's known answers, and the kernels' tests to the reference's masks).
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from native import INCLUDES, run, tool
from rnnkern import _core

_FLAGS = {"plain": (), "AVX2": ("-mavx2",), "AVX-512": ("-mavx512f",)}
_NEEDS = {"AVX2": "avx2", "AVX-512": "avx512f"}


@pytest.mark.parametrize("name", _FLAGS)
def test_the_words_are_the_same(name: str, tmp_path: Path) -> None:
    if name != "plain" and platform.machine() != "x86_64":
        pytest.skip(f"{name} is x86's")
    if _NEEDS.get(name, "") not in _core.cpu_features():
        pytest.skip(f"this CPU has no {name}")
    program = tmp_path / "random"
    run(
        tool("g++"), "-std=c++20", "-O2", "-Wall", "-Wextra", *_FLAGS[name], *INCLUDES,
        Path(__file__).parent / "random" / "main.cpp", "-o", program,
    )  # fmt: skip
    assert run(program).strip() == f"{name}: 0 wrong"
