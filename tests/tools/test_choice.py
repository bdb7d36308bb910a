"""The short run: what choice.py promises of it, on lists of cases and on the tests of kernels themselves."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import choice
from native import ROOT
from problems import CELLS, DTYPES, FULL
from runner import UNAVAILABLE

AXES = {"kernel": "ab", "cell": "cdef", "dtype": "gh", "size": "ijklmno", "flag": "pqr"}
CASES = [list(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]


def covered(cases: list[list[tuple[str, str]]], count: int) -> set[Any]:
    return {parts for case in cases for parts in itertools.combinations(case, count)}


def test_every_value_and_every_pair_is_chosen() -> None:
    chosen = [CASES[index] for index in choice.pairwise(CASES)]
    assert covered(chosen, 1) == covered(CASES, 1) and covered(chosen, 2) == covered(CASES, 2)
    instances = [[part for part in case if part[0] in ("kernel", "cell", "dtype")] for case in chosen]
    assert len(covered(instances, 3)) == 2 * 4 * 2
    assert len(chosen) < len(CASES) / 8


def test_pairs_that_do_not_occur_are_not_missed() -> None:
    cases = [case for case in CASES if ("kernel", "b") not in case or ("dtype", "h") not in case]
    assert covered([cases[index] for index in choice.pairwise(cases)], 2) == covered(cases, 2)


def test_what_a_case_is_made_of() -> None:
    (problem,) = [p for p in FULL if str(p) == "lstm t3b2i4h17 bf16 lengths state"]
    assert choice.features({"problem": problem, "kernel": "cpu_avx2", "given": frozenset({"mask"})}) == [
        ("given.mask", "given"), ("kernel", "cpu_avx2"), ("problem.cell", "lstm"), ("problem.sizes", "t3b2i4h17"),
        ("problem.dtype", "bf16"), ("problem.flags", "lengths state"),
    ]  # fmt: skip


def collected(*options: str, seed: str = "0") -> list[str]:
    """The tests of plain kernels that a run has."""
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "--collect-only", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, str(Path("tests/kernels/test_plain.py"))],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.fixture(scope="module")
def short() -> list[str]:
    return collected()


def test_the_short_run_is_the_same_every_time_and_part_of_the_full_one(short: list[str]) -> None:
    full = collected("--full")
    assert short == collected(seed="1") and len(short) < len(full)
    assert short == [test for test in full if test in set(short)]
    assert {test.partition("[")[0] for test in short} == {test.partition("[")[0] for test in full}


def test_the_short_run_has_every_kernel_with_every_cell_and_dtype(short: list[str]) -> None:
    names = {"float32": "f32", "float64": "f64", "bfloat16": "bf16", "float16": "f16"}
    judged = [test for test in short if "::test_against_reference[" in test]
    # A kernel that declines a dtype has no case of it; these two decline none.
    for kernel in {"cpu_scalar", "cpu_avx2"} & {name for name, why in UNAVAILABLE.items() if not why}:
        for cell, dtype in itertools.product(CELLS, DTYPES):
            assert [test for test in judged if f"{kernel}: {cell} " in test and f" {names[dtype]}" in test]
