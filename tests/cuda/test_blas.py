"""The large products of the CUDA build (cuda/blas.cpp) without a GPU, against NumPy: over a cuBLASLt of plain loops
that is strict about what it is given (blas/fake_cublaslt.c), and the twin that stands for all of it where kernels
run on the host (simt/blas.cpp). One program runs both (blas/driver.cpp).

Numbers are small integers, so that every precision has to give the exact sum; what rounds is tested by itself.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from native import EXECUTOR, INCLUDES, ROOT, run, scratch, tool
from rnnkern import _cuda_libs

pytestmark = pytest.mark.executor

HERE = Path(__file__).parent / "blas"
PRECISIONS = {
    "bf16": (ml_dtypes.bfloat16, np.float32),
    "f16": (np.float16, np.float32),
    "tf32": (np.float32, np.float32),
    "f32": (np.float32, np.float32),
    "f64": (np.float64, np.float64),
}
WORKSPACE = 1 << 16
OK, NOT_SUPPORTED, RUNTIME_ERROR = 0, 3, 5


# --- programs ---------------------------------------------------------------


@functools.cache
def fake(without: str = "") -> Path:
    """The library, in a folder of its own; without one of its functions, if wanted."""
    folder = scratch() / f"fake{without}"
    folder.mkdir()
    rename = [f"-D{without}=absent"] if without else []
    done = folder / "libcublasLt.so.13"
    run(
        tool("gcc"), "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared",
        "-Wl,-soname,libcublasLt.so.13", *rename, HERE / "fake_cublaslt.c", "-lm", "-o", done,
    )  # fmt: skip
    return done


@functools.cache
def driver(which: str) -> Path:
    done = scratch() / f"blas-{which}"
    flags, sources = {
        "cublaslt": (["-Ddlopen=test_dlopen"], [ROOT / "cuda" / "blas.cpp"]),
        "twin": (["-DRNNK_SIMT", "-I", ROOT / "tests/cuda"], [ROOT / "tests/cuda/simt/blas.cpp", *EXECUTOR]),
    }[which]
    run(
        tool("g++"), "-std=c++20", "-Wall", "-Wextra", "-Werror", "-O1", "-ffp-contract=off", *flags, *INCLUDES,
        "-I", ROOT, *sources, HERE / "driver.cpp", "-ldl", "-pthread", "-o", done,
    )  # fmt: skip
    return done


def say(which: str, *arguments: str | Path, **env: str | Path) -> list[str]:
    return run(driver(which), *arguments, env={k: str(v) for k, v in env.items()}).splitlines()


# --- products ---------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One product; ``pad`` elements more than needed lie between lines and between matrices."""

    precision: str
    m: int = 5
    n: int = 7
    k: int = 3
    ta: bool = False
    tb: bool = False
    accumulate: bool = False
    batch: int = 1
    same_a: bool = False
    same_b: bool = False
    pad: int = 0
    shift: int = 0  # elements of the operand from a 256-byte boundary
    workspace: int = WORKSPACE
    workspace_shift: int = 0
    device: int = 0
    over: dict[str, int] = field(default_factory=dict, hash=False)  # of the numbers that are handed over


@dataclass
class Answer:
    status: int
    text: str
    c: np.ndarray  # the whole buffer
    expected: np.ndarray


FIELDS = [
    *("precision", "m", "n", "k", "lda", "ta", "ldb", "tb", "ldc", "accumulate", "batch"),
    *("a_stride", "b_stride", "c_stride", "a_bytes", "b_bytes", "c_bytes", "shift"),
    *("workspace", "workspace_shift", "device"),
]


def build(case: Case, rng: np.random.Generator) -> tuple[bytes, np.ndarray, np.ndarray]:
    """What the program reads, c as it is before and c as it has to be."""
    operand, result = PRECISIONS[case.precision]

    def stored(rows: int, columns: int, transposed: bool, count: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        lines, length = (columns, rows) if transposed else (rows, columns)
        ld = length + case.pad
        stride = max(lines, 1) * ld + case.pad
        flat = np.full(max(count, 1) * stride, 99, np.float64)
        view = np.lib.stride_tricks.as_strided(flat, (count, lines, length), (stride * 8, ld * 8, 8))
        view[...] = rng.integers(-4, 5, view.shape)
        return flat, view.transpose(0, 2, 1) if transposed else view, ld, stride

    a, a_view, lda, a_stride = stored(case.m, case.k, case.ta, 1 if case.same_a else case.batch)
    b, b_view, ldb, b_stride = stored(case.k, case.n, case.tb, 1 if case.same_b else case.batch)
    c, c_view, ldc, c_stride = stored(case.m, case.n, False, case.batch)
    before = c.astype(result)
    if not case.accumulate:
        before = np.full_like(before, np.nan)  # must not be read
    product = a_view @ b_view + (c_view if case.accumulate else 0)
    after = before.copy()
    size = after.itemsize
    np.lib.stride_tricks.as_strided(after, c_view.shape, (c_stride * size, ldc * size, size))[...] = product

    numbers = {
        "precision": list(PRECISIONS).index(case.precision), "m": case.m, "n": case.n, "k": case.k,
        "lda": lda, "ta": case.ta, "ldb": ldb, "tb": case.tb, "ldc": ldc,
        "accumulate": case.accumulate, "batch": case.batch,
        "a_stride": 0 if case.same_a else a_stride, "b_stride": 0 if case.same_b else b_stride, "c_stride": c_stride,
        "a_bytes": a.size * np.dtype(operand).itemsize, "b_bytes": b.size * np.dtype(operand).itemsize,
        "c_bytes": before.nbytes, "shift": case.shift * size, "workspace": case.workspace,
        "workspace_shift": case.workspace_shift, "device": case.device,
    } | case.over  # fmt: skip
    head = struct.pack(f"<{len(FIELDS)}q", *(int(numbers[name]) for name in FIELDS))
    return head + a.astype(operand).tobytes() + b.astype(operand).tobytes() + before.tobytes(), before, after


def multiply(which: str, cases: list[Case], tmp_path: Path) -> tuple[list[Answer], dict[str, int]]:
    """All in one process; the answers, and what the fake library counted."""
    rng = np.random.default_rng(5)
    built = [build(case, rng) for case in cases]
    (tmp_path / "in").write_bytes(b"".join(data for data, *_ in built))
    env = {} if which == "twin" else {"GIVEN": fake()}
    first, *counts = say(which, tmp_path / "in", tmp_path / "out", **env)
    assert first == ""
    data, at, answers = (tmp_path / "out").read_bytes(), 0, []
    for _, before, after in built:
        status, length = struct.unpack_from("<2q", data, at)
        text = data[at + 16 : at + 16 + length].decode()
        at += 16 + length
        answers.append(Answer(status, text, np.frombuffer(data, before.dtype, before.size, at), after))
        at += before.nbytes
    assert at == len(data)
    return answers, {name: int(number) for name, number in map(str.split, counts)}


def exact(which: str, cases: list[Case], tmp_path: Path) -> dict[str, int]:
    answers, counts = multiply(which, cases, tmp_path)
    for case, answer in zip(cases, answers, strict=True):
        assert answer.status == OK, f"{case}: {answer.text}"
        np.testing.assert_array_equal(answer.c, answer.expected, err_msg=str(case))
    return counts


BOTH = pytest.mark.parametrize("which", ["cublaslt", "twin"])


@BOTH
def test_every_combination(which: str, tmp_path: Path) -> None:
    """Precisions x transpositions x adding x batches x leading dimensions x alignments, with c's padding left alone."""
    flags = (False, True)
    counts = exact(
        which,
        [
            Case(p, ta=ta, tb=tb, accumulate=add, batch=batch, pad=pad, shift=shift)
            for p, ta, tb, add, batch, pad, shift in itertools.product(
                PRECISIONS, flags, flags, flags, (1, 3), (0, 2, 5), (0, 1)
            )
        ],
        tmp_path,
    )
    assert which == "twin" or counts["handles"] == 1


@BOTH
def test_sizes_and_shared_operands(which: str, tmp_path: Path) -> None:
    sizes = itertools.product((1, 2, 16, 33), (1, 8, 31), (1, 4, 65))
    cases = [Case("f32", m=m, n=n, k=k, ta=bool(k % 2), pad=m % 3) for m, n, k in sizes]
    cases += [
        Case("bf16", batch=4, same_a=a, same_b=b, ta=a, tb=b, accumulate=a)
        for a in (False, True)
        for b in (False, True)
    ]
    exact(which, cases, tmp_path)


@BOTH
def test_nothing_to_multiply(which: str, tmp_path: Path) -> None:
    """k = 0 is an empty sum, m, n or batch = 0 nothing at all; with no workspace too."""
    empty = [
        Case(p, **{name: 0}, accumulate=add, batch=batch, pad=pad)  # type: ignore[arg-type]
        for p in ("f16", "f64")
        for name in ("m", "n", "k")
        for add in (False, True)
        for batch in (1, 2)
        for pad in (0, 3)
    ]
    apart = Case("f32", m=1, k=0, batch=3, pad=2)  # rows that touch, in matrices that do not
    exact(which, [*empty, apart, Case("f32", batch=0), Case("f32", workspace=0)], tmp_path)


@BOTH
def test_one_line_has_no_distance(which: str, tmp_path: Path) -> None:
    """A framework may give any stride to a dimension of one: ld is then nothing to go by."""
    exact(
        which,
        [
            Case("f32", m=1, over={"lda": 1, "ldc": 0}),
            Case("bf16", k=1, ta=True, over={"lda": 2}),
            Case("f64", n=1, tb=True, over={"ldb": -3}),
        ],
        tmp_path,
    )


def test_what_is_chosen_once(tmp_path: Path) -> None:
    """A search per shape and alignment, a handle per device, and descriptors of a bounded number of shapes."""
    shapes = [Case("f32", m=m) for m in range(1, 6)]
    aligned = [replace(shapes[0], shift=4), replace(shapes[0], shift=1)]  # 16 bytes: as good as 256
    added = replace(shapes[0], accumulate=True)
    counts = exact("cublaslt", [*shapes, *shapes, *aligned, added, replace(shapes[0], device=1)], tmp_path)
    assert counts == {"handles": 2, "searches": 7, "living": 7 * 4}

    many = [Case("f32", m=1, n=1, k=k) for k in range(2, 1302) if k not in (1009, 1013, 1019, 1021)]
    counts = exact("cublaslt", [*many, *many], tmp_path)
    assert counts["searches"] > 1300 and counts["living"] <= 1024 * 4


@BOTH
def test_threads(which: str) -> None:
    lines = say(which, "race", **({} if which == "twin" else {"GIVEN": fake()}))
    assert lines[:2] == ["", "0 wrong"]
    assert which == "twin" or lines[2:] == ["handles 1", "searches 512", f"living {512 * 4}"]


# --- what rounds ------------------------------------------------------------


def row(which: str, precision: str, a: list[float], b: list[float], tmp_path: Path) -> float:
    """The sum of a[i] b[i]."""
    operand, result = PRECISIONS[precision]
    case = Case(precision, m=1, n=1, k=len(a))
    data, before, _ = build(case, np.random.default_rng(0))
    head = data[: 8 * len(FIELDS)]
    (tmp_path / "in").write_bytes(head + b"".join(np.array(v, operand).tobytes() for v in (a, b)) + before.tobytes())
    assert say(which, tmp_path / "in", tmp_path / "out", **({} if which == "twin" else {"GIVEN": fake()}))[0] == ""
    return float(np.frombuffer((tmp_path / "out").read_bytes(), result, 1, 16)[0])


@BOTH
def test_precisions(which: str, tmp_path: Path) -> None:
    """What each keeps of its operands, and that sums of 16-bit products are of float."""
    small = 2.0**-12
    assert row(which, "f32", [1 + small], [1], tmp_path) == 1 + small
    assert row(which, "tf32", [1 + small], [1], tmp_path) == 1
    assert row(which, "tf32", [1 + 2.0**-10], [-3], tmp_path) == -3 * (1 + 2.0**-10)
    assert row(which, "f64", [1 + 2.0**-40], [1], tmp_path) == 1 + 2.0**-40
    for precision in ("bf16", "f16"):
        assert row(which, precision, [1, 2.0**-10], [1, 2.0**-10], tmp_path) == 1 + 2.0**-20
    assert row(which, "f16", [2.0**-24, 65504], [1, 0], tmp_path) == 2.0**-24


def test_the_twin_rounds_as_the_kernels_do(tmp_path: Path) -> None:
    """To tf32 with ties away from zero; infinity and NaN pass."""
    assert row("twin", "tf32", [-1 - 2.0**-11], [1], tmp_path) == -1 - 2.0**-10
    assert row("twin", "tf32", [np.inf], [1], tmp_path) == np.inf
    assert np.isnan(row("twin", "tf32", [np.nan], [1], tmp_path))


# --- refusals -----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("f32", over={"lda": 2}), "lines of a overlap"),
        (Case("f32", ta=True, over={"lda": 4}), "lines of a overlap"),
        (Case("f32", over={"ldb": 6}), "lines of b overlap"),
        (Case("f32", over={"ldc": 6}), "rows of c overlap"),
        (Case("f32", over={"m": -1}), "expected no negative size"),
        (Case("f32", over={"k": 2**31}), "expected sizes below 2^31"),
        (Case("f32", batch=2, over={"c_stride": 0}), "all of the batch would be written to one c"),
        (Case("f64", over={"shift": 4}), "expected operands aligned to their elements"),
        (Case("bf16", over={"shift": 2}), "expected c aligned to its elements"),
        (Case("f32", workspace_shift=16), "expected a workspace aligned to 256 bytes"),
    ],
    ids=lambda v: "" if isinstance(v, Case) else v,
)  # fmt: skip
def test_refusals(which: str, case: Case, words: str, tmp_path: Path) -> None:
    (answer,), _ = multiply(which, [case], tmp_path)
    assert answer.status == RUNTIME_ERROR and words in answer.text and "c [" in answer.text, answer.text
    assert np.isnan(answer.c).all()


def test_failures_of_the_library_are_named(tmp_path: Path) -> None:
    """They name the function, the status and the shape; the next product is none the worse."""
    cases = [Case("f32", m=2, k=k, tb=True) for k in (1009, 1013, 1019, 1021)] + [Case("f32")]
    answers, counts = multiply("cublaslt", cases, tmp_path)
    assert [a.status for a in answers] == [NOT_SUPPORTED, NOT_SUPPORTED, RUNTIME_ERROR, RUNTIME_ERROR, OK]
    for answer, text in zip(
        answers,
        (
            "cublasLtMatmulAlgoGetHeuristic (cuBLASLt 130000): CUBLAS_STATUS_NOT_SUPPORTED (15) for "
            "c [2, 7] = a [2, 1009] b [1009, 7]' in float32, batch 1, ld 1009 1009 7",
            "cublasLtMatmulAlgoGetHeuristic, which knows no algorithm (",
            "cublasLtMatmulAlgoGetHeuristic's choice (cuBLASLt 130000): CUBLAS_STATUS_INTERNAL_ERROR (14) for ",
            "cublasLtMatmul (cuBLASLt 130000): CUBLAS_STATUS_EXECUTION_FAILED (13) for ",
            "",
        ),
        strict=True,
    ):
        assert answer.text.startswith(text), answer.text
    assert counts["living"] == 2 * 4  # what failed before there was an algorithm is given back


# --- finding the library --------------------------------------------------------


def test_where_it_is_looked_for() -> None:
    """In the process, on the loader's path, then at the given path; the first that has all functions serves."""
    good, bad = fake(), fake("cublasLtMatmulAlgoGetHeuristic")
    missing = "it has no function cublasLtMatmulAlgoGetHeuristic"
    assert say("cublaslt", LOADED=good)[0] == ""
    assert say("cublaslt", LOADER=good.parent)[0] == ""
    assert say("cublaslt", GIVEN=good)[0] == ""
    assert say("cublaslt", LOADER=bad.parent, GIVEN=good)[0] == ""

    nowhere = say("cublaslt")[0]
    assert "install NVIDIA's CUDA toolkit or the Python package nvidia-cublas" in nowhere
    assert all(f"On the loader's path libcublasLt.so.{major}: " in nowhere for major in (13, 12))
    assert nowhere.endswith("No other file was given.")
    assert f"Loaded already, libcublasLt.so.13: {missing}." in say("cublaslt", LOADED=bad)[0]
    assert f"On the loader's path libcublasLt.so.13: {missing}." in say("cublaslt", LOADER=bad.parent)[0]
    given = say("cublaslt", GIVEN=bad)[0]
    assert given.endswith(f"As given, {bad}: {missing}.")


@pytest.mark.parametrize("name", re.findall(r"^  FUNCTION\((\w+),", (ROOT / "cuda/cublaslt.h").read_text(), re.M))
def test_every_function_is_needed(name: str) -> None:
    given = say("cublaslt", GIVEN=fake(f"cublasLt{name}"))[0]
    assert given.endswith(f"it has no function cublasLt{name}.")


def test_a_product_without_the_library_says_so(tmp_path: Path) -> None:
    data, before, _ = build(Case("f32"), np.random.default_rng(0))
    (tmp_path / "in").write_bytes(data)
    say("cublaslt", tmp_path / "in", tmp_path / "out")
    status, length = struct.unpack_from("<2q", answer := (tmp_path / "out").read_bytes())
    assert status == NOT_SUPPORTED and answer[16 : 16 + length].startswith(
        b"cuBLASLt 12 or 13 cannot be opened; install "
    )
    assert np.isnan(np.frombuffer(answer, before.dtype, before.size, 16 + length)).all()


def test_python_finds_nvidias_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without importing them; the newest version, then the toolkit's."""
    twelve = tmp_path / "nvidia" / "cublas" / "lib" / "libcublasLt.so.12"
    thirteen = tmp_path / "nvidia" / "cu13" / "lib" / "libcublasLt.so.13"
    toolkit = tmp_path / "toolkit" / "lib64" / "libcublasLt.so.13"
    (tmp_path / "nvidia").mkdir()
    # Another "nvidia" of this environment comes after, as do its own paths.
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "toolkit"))
    for file in (toolkit, thirteen, twelve):
        file.parent.mkdir(parents=True)
    toolkit.touch()
    twelve.touch()
    found = _cuda_libs.cublaslt()
    assert found is not None and found.endswith(".13")  # the newer one, though the packages come first
    thirteen.touch()
    assert _cuda_libs.cublaslt() == str(thirteen)


def test_numbers_are_nvidias() -> None:
    """Every enumerator of cublaslt.h has the value it has in NVIDIA's headers, where those are installed."""
    library = _cuda_libs.cublaslt()
    roots = [Path(library).parents[1] / "include"] if library else []
    roots += [Path(root) / "include" for root in (os.environ.get("CUDA_PATH"), "/usr/local/cuda") if root]
    texts = {
        name: next((p.read_text() for root in roots if (p := root / name).is_file()), "")
        for name in ("cublasLt.h", "cublas_api.h", "library_types.h")
    }
    if not texts["cublasLt.h"] or not texts["cublas_api.h"]:
        pytest.skip(f"no cublasLt.h in {', '.join(map(str, roots))}")
    pattern = r"\b(CUBLAS(?:LT)?_[A-Z0-9_]+|CUDA_R_[A-Z0-9_]+) *= *(\d+)"
    theirs = {name: int(value) for text in texts.values() for name, value in re.findall(pattern, text)}
    ours = {name: int(value) for name, value in re.findall(pattern, (ROOT / "cuda/cublaslt.h").read_text())}
    assert len(ours) == 23
    if not texts["library_types.h"]:
        ours = {name: value for name, value in ours.items() if not name.startswith("CUDA_R_")}
    assert {name: theirs.get(name) for name in ours} == ours
