"""The short choice of tests: what choice.py promises of it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import choice
from problems import CELLS, DTYPES, FULL, QUICK

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
        ("given.mask", "given"), ("kernel", "cpu_avx2"), ("problem.cell", "lstm"), ("problem.dtype", "bf16"),
        ("problem.sizes", "t3b2i4h17"), ("problem.flags", "lengths state"),
    ]  # fmt: skip


def test_problems_keep_every_kernel_with_every_cell_and_dtype() -> None:
    cases: list[Any] = [
        SimpleNamespace(
            callspec=SimpleNamespace(params={"kernel": kernel, "problem": p}), get_closest_marker=lambda _: None
        )
        for kernel in ("cpu_avx2", "cpu_scalar")
        for p in (FULL if kernel == "cpu_avx2" else QUICK)
    ]
    chosen: list[Any] = choice.choose(cases)
    assert [case for case in cases if case in chosen] == chosen and len(chosen) < len(cases) / 3
    params = [case.callspec.params for case in chosen]
    kept = {(given["kernel"], given["problem"].cell, given["problem"].dtype) for given in params}
    assert len(kept) == 2 * len(CELLS) * len(DTYPES)


DIGEST = """
import choice, zlib
from problems import FULL
print(zlib.crc32(str(sorted(choice.pairwise([choice.features({"problem": p}) for p in FULL]))).encode()))
"""


def test_every_process_chooses_the_same() -> None:
    """Whatever the seed of Python's hashes, and so the order of its sets."""
    said = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in "01"
    }  # fmt: skip
    assert len(said) == 1
