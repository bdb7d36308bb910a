"""The CPU driver, split in every way: the bits do not depend on it, and the results are the judge's.

A shipping kernel chooses one split by an estimate. Here a C library of the library's own sources has two kernels whose
split the test names (splits/splits.cpp): ``lanes_1`` computes with the vectors of ``cpu_scalar`` (one lane, no
padding), ``lanes_4`` with four of those side by side (padding in every buffer). Their cells are those with options,
which have what the plain ones lack: steps of several stages, a second product inside the step, sums over a row, heads,
a projected h, states that are held, reset and thinned. The bound is that of tests/support/split_cases.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import c_abi
from case_call import run_case, same_bits
from native import INCLUDES, ROOT, once, tool
from native import run as shell
from split_cases import KINDS, Array, Case, judged, worst

pytestmark = pytest.mark.builds

KERNELS = {1: b"lanes_1", 4: b"lanes_4"}
DTYPES = ("float32", "float64")
TEAM, ASCENDING, DESCENDING = range(3)  # Split.order of splits.cpp
ALONE = (1, True, TEAM)  # tasks, by rows, order


@pytest.fixture(scope="session")
def library() -> Any:
    """The C library with the two kernels and the flags of cmake/kernels.cmake, but for the optimisation level."""
    compiler = os.environ.get("CXX") or tool("c++")

    def make(build: Path) -> None:
        (build / "core").mkdir(exist_ok=True)
        headers = sorted(path.name for path in (ROOT / "csrc/cells").glob("*.h"))
        (build / "core/cells.generated.h").write_text("".join(f'#include "cells/{name}"\n' for name in headers))
        (build / "core/kernels.generated.inc").write_text("RNNK_KERNEL(lanes_1)\nRNNK_KERNEL(lanes_4)\n")
        command = [*compiler.split(), "-std=c++20", "-fPIC", "-pthread", "-ffp-contract=off", '-DRNNK_VERSION="tests"']
        command += ["-fvisibility=hidden", "-DRNNK_BUILDING", *INCLUDES, "-I", str(build)]
        flags = ["-O1", "-fno-math-errno", "-fno-exceptions", "-Wno-psabi", "-c"]
        shell(*command, *flags, ROOT / "tests/kernels/splits/splits.cpp", "-o", build / "splits.o")
        sources = [ROOT / "csrc/capi.cpp", *(ROOT / "csrc/core").glob("*.cpp")]
        sources += (ROOT / "csrc/network").glob("*.cpp")
        shell(*command, "-shared", *sources, build / "splits.o", "-o", build / "libsplits.so")

    return c_abi.load(once("splits", make, ROOT / "tests/kernels/splits") / "libsplits.so")


@pytest.fixture
def threads(library: Any) -> Iterator[None]:
    """A team of three, whatever the machine has."""
    assert library.rnnk_set_num_threads(3) == c_abi.OK
    yield
    library.rnnk_set_num_threads(1)


def run(
    library: Any,
    case: Case,
    lanes: int = 1,
    split: tuple[int, bool, int] = ALONE,
    wanted: Callable[[str], bool] | None = lambda name: True,
    recompute: bool = False,
) -> dict[str, Array]:
    """``run_case`` on one of the two kernels, with a split."""
    library.splits_choose(*split)
    return run_case(library, KERNELS[lanes], case, wanted=wanted, recompute=recompute)


# T, B, I, units of a head, P: P below, at and above H; H below, at and one past four lanes; then several blocks of
# time (the forward driver takes 192 rows at a time, the backward 512) and, in the last, a step of more rows than one
# chunk of sums.
SIZES = [(1, 1, 1, 1, 1), (5, 7, 3, 5, 2), (4, 2, 5, 8, 3), (3, 5, 2, 4, 4), (2, 3, 9, 3, 6), (5, 1, 4, 9, 8)]
LARGE = [(9, 130, 2, 3, 2), (2, 600, 3, 4, 5)]


@pytest.mark.parametrize("lanes", KERNELS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("sizes", SIZES + LARGE, ids=lambda sizes: "t{}b{}i{}h{}p{}".format(*sizes))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_judge(
    library: Any, name: str, dtype: str, sizes: tuple[int, ...], lengths: bool, reverse: bool, lanes: int
) -> None:
    """The outputs and every gradient."""
    case = Case(name, dtype, *sizes, lengths=lengths, reverse=reverse)
    assert worst(case, run(library, case, lanes)) <= 1


@pytest.mark.parametrize("lanes", KERNELS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", KINDS)
def test_absent_tensors(library: Any, name: str, reverse: bool, lanes: int) -> None:
    """Biases, h_0, c_0, dh_n and dc_n that are not there count as zero."""
    case = Case(name, "float64", 5, 7, 3, 5, 2, lengths=True, reverse=reverse, bare=True)
    assert worst(case, run(library, case, lanes)) <= 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0)])
def test_nothing_to_do(library: Any, name: str, T: int, B: int) -> None:
    """No steps: states and their gradients pass through, parameters have gradients of zero. The same with no rows."""
    case = Case(name, "float32", T, B, 2, 3, 2)
    got, (wanted, _) = run(library, case), judged(case)
    for key, value in wanted.items():
        np.testing.assert_array_equal(got[key], value.astype("float32"), err_msg=key)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("lanes", KERNELS)
@pytest.mark.parametrize("sizes", [(5, 7, 3, 5, 2), (3, 5, 2, 9, 12), LARGE[0]], ids=str)
@pytest.mark.parametrize(("lengths", "reverse"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_splits_have_the_same_bits(
    library: Any, name: str, dtype: str, lengths: bool, reverse: bool, sizes: tuple[int, ...], lanes: int
) -> None:
    """By rows, each task alone through all steps; by units, with a barrier between stages; more tasks than threads.

    One after another in both orders: a task that reads what another writes in the same phase cannot be right in both.
    """
    case = Case(name, dtype, *sizes, lengths=lengths, reverse=reverse)
    wanted = run(library, case, lanes)
    for tasks, by_rows in ((2, True), (5, True), (1, False), (2, False), (5, False)):
        for order in (TEAM, ASCENDING, DESCENDING):
            same_bits(run(library, case, lanes, (tasks, by_rows, order)), wanted)


@pytest.mark.parametrize("lanes", KERNELS)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_asked_for_does_not_touch_the_bits(library: Any, name: str, lanes: int) -> None:
    """Inference and training forward; each gradient alone and all of them."""
    case = Case(name, "float32", 5, 7, 3, 5, 2, lengths=True)
    wanted = run(library, case, lanes)
    same_bits(run(library, case, lanes, wanted=None), wanted)
    for key in wanted:
        same_bits(run(library, case, lanes, wanted=key.__eq__), wanted)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("name", KINDS)
def test_recomputation_has_the_same_bits(library: Any, name: str, lengths: bool, reverse: bool) -> None:
    """Three segments, whose borders lie within rows, between marks and before a row's first step."""
    case = Case(name, "float32", *LARGE[0], lengths=lengths, reverse=reverse)
    same_bits(run(library, case, 4, recompute=True), run(library, case, 4))


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.options.layer_norm])
def test_lanes_have_the_same_bits(library: Any, name: str, dtype: str, lengths: bool) -> None:
    """An element of a product is one chain whatever the width; a sum over a row or a batch is not: forward alone."""
    case = Case(name, dtype, 5, 7, 3, 5, 5, lengths=lengths)
    same_bits(run(library, case, lanes=4, wanted=None), run(library, case, lanes=1))
