"""The CUDA build without a GPU: which build CMake chooses, and what nvcc makes of every kernel instance, held to the
record (cuda/instances.tsv, written by tests/support/cuda_instances.py). All of cuda/ is compiled for sm_90 once."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import cuda_instances
import kernel_paths
import sass
import sass_walk
from cuda_instances import Figures, Instances, differences, parse, recorded, recorded_compiler, worse
from native import ROOT, once, run, tool

MOST_INSTANCES = 401  # compile time and the size of the library grow with them
# A block of solo is alone on its multiprocessor, with 255 registers a thread: cells without options keep weights there.
PLAIN_SOLO = re.compile(
    r"solo_(forward|backward)_kernel<(BFloat16|Float16|Tf32), (Lstm|Gru|RnnTanh|RnnRelu), (?!0>)\d+>$"
)


@pytest.fixture(scope="module")
def compiled() -> Instances:
    """Compiled once for the contents of cuda/ and csrc/ and the release of nvcc; in CI by .ci/cuda."""

    def make(folder: Path) -> None:
        instances = cuda_instances.measure(("sm_90",))[0]["sm_90"]
        lines = ["\t".join([*key, *cuda_instances.cells(figures, "sm_90")]) for key, figures in instances.items()]
        (folder / "instances.tsv").write_text("\n".join(lines))

    if "RNNKERN_NVCC_LOGS" in os.environ:
        return cuda_instances.kept(Path(os.environ["RNNKERN_NVCC_LOGS"]), "sm_90")
    tool("nvcc")
    name = f"cuda-{cuda_instances.compiler()}" + ("" if sass.nvdisasm() else "-without-code")
    readers = [Path(module.__file__) for module in (cuda_instances, kernel_paths, sass, sass_walk)]
    text = (
        once(name, make, ROOT / "cuda", ROOT / "cmake", ROOT / "CMakeLists.txt", *readers) / "instances.tsv"
    ).read_text()
    lines = [line.split("\t") for line in text.splitlines()]
    return {(file, kernel): cuda_instances.from_cells(figures) for file, kernel, *figures in lines}


# --- instances --------------------------------------------------------------


@pytest.mark.nvcc
def test_instances_are_the_recorded_ones(compiled: Instances) -> None:
    then = recorded()["sm_90"]
    assert sorted(compiled.keys() - then.keys()) == [], "python tests/support/cuda_instances.py --write"
    assert sorted(then.keys() - compiled.keys()) == [], "python tests/support/cuda_instances.py --write"
    assert 20 < len(compiled) <= MOST_INSTANCES


@pytest.mark.nvcc
def test_instances_take_what_is_recorded(compiled: Instances) -> None:
    """No more registers than recorded; no spill where none is recorded, and no larger one."""
    the_recorded_compiler()
    assert worse(compiled, recorded()["sm_90"], ("registers", "spill")) == []


@pytest.mark.nvcc
def test_paths_are_as_short_as_recorded(compiled: Instances) -> None:
    """No more code, and on the paths (kernel_paths.py) no more instructions, cycles and divisions of integers."""
    the_recorded_compiler()
    if not sass.nvdisasm():
        pytest.skip(sass.MISSING)
    assert all(figures.code for figures in compiled.values())
    assert worse(compiled, recorded()["sm_90"], cuda_instances.IN_CODE) == [], (
        "python tests/support/cuda_instances.py --path"
    )


def the_recorded_compiler() -> None:
    if cuda_instances.compiler() != recorded_compiler():
        pytest.skip(f"nvcc is {cuda_instances.compiler()}, the record is of {recorded_compiler()}")


@pytest.mark.nvcc
def test_weights_in_registers_do_not_spill(compiled: Instances) -> None:
    plain = {kernel: figures.spill for (_, kernel), figures in compiled.items() if PLAIN_SOLO.match(kernel)}
    assert len(plain) >= 24 and {kernel: spill for kernel, spill in plain.items() if spill} == {}


@pytest.mark.parametrize("arch", cuda_instances.ARCHITECTURES)
def test_record(arch: str) -> None:
    """What holds of the record holds without nvcc too."""
    then = recorded()[arch]
    plain = {kernel: figures.spill for (_, kernel), figures in then.items() if PLAIN_SOLO.match(kernel)}
    assert len(plain) >= 24 and {kernel: spill for kernel, spill in plain.items() if spill} == {}
    assert {file for file, _ in then} <= {path.name for path in (ROOT / "cuda").glob("*.cu")}
    assert len(then) <= MOST_INSTANCES and all(0 < figures.registers <= 255 for figures in then.values())
    for (_, kernel), figures in then.items():  # every figure that the record is to have
        walked = kernel_paths.kernel_of(kernel) if arch == "sm_90" else None
        assert (figures.code or 0) % 128 == 0 and bool(figures.code) == (arch == "sm_90")
        assert bool(figures.message_cycles) == bool(walked)
        assert bool(figures.cluster_tile_cycles) == bool(walked and walked.kind == "team_backward")


NAMES = (
    "void rnnk::gpu::k<rnnk::gpu::(anonymous namespace)::D<rnnk::B<float> >, (rnnk::P)1, 4>(rnnk::X<int>)",
    "rnnk::gpu::plain(int)",
)
SAID = f"""\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{NAMES[0]}' for 'sm_90'
ptxas info    : Function properties for {NAMES[0]}
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compiling entry function '{NAMES[1]}' for 'sm_90'
ptxas info    : Function properties for {NAMES[1]}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
"""


def test_what_ptxas_says_is_read() -> None:
    read = parse("a.cu", SAID + SAID.replace("sm_90", "sm_80"), "sm_90")
    assert read == {
        ("a.cu", "k<D<B<float>>, (P)1, 4>"): Figures(255, 20, 16, 1024),
        ("a.cu", "plain"): Figures(8, 0, 0, 0),
    }
    with pytest.raises(AssertionError, match="Compiling"):
        parse("a.cu", SAID.replace("Used 8", "Uses 8"), "sm_90")


def test_differences_are_named() -> None:
    then: Instances = {("a.cu", "f"): Figures(8, 0, 0, 0), ("a.cu", "g"): Figures(8, 0, 0, 0)}
    now: Instances = {("a.cu", "f"): Figures(9, 4, 0, 0), ("b.cu", "h"): Figures(8, 0, 0, 0)}
    assert differences(now, then) == ["gone: a.cu g", "new: b.cu h", "a.cu f: registers 8 -> 9, spill 0 -> 4"]
    assert differences(then, then) == []
    assert worse(now, then, ("registers", "spill")) == ["a.cu f: registers 8 -> 9, spill 0 -> 4"]
    assert worse(then, now, ("registers", "spill")) == []


def test_a_row_of_the_record_is_read_as_written() -> None:
    some = Figures(8, 0, 0, 0, code=128, message_cycles=7)
    assert cuda_instances.from_cells(cuda_instances.cells(some, "sm_90")) == some
    assert cuda_instances.from_cells(cuda_instances.cells(some, "sm_80")) == Figures(8, 0, 0, 0)


# --- which build ------------------------------------------------------------


def configure(build: Path, *options: str, path: Path | None = None) -> str:
    """What CMake says of CUDA; programs in `path` come first."""
    env = {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else {}
    return run(tool("cmake"), "-S", ROOT, "-B", build, "-DRNNKERN_PYTHON=OFF", *options, env=env)


def smi(folder: Path, text: str, status: int = 0) -> Path:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {status}\n")
    program.chmod(0o755)
    return folder


@pytest.mark.nvcc
@pytest.mark.parametrize(
    ("gpus", "status", "chosen"),
    [
        ("9.0\\n9.0\\n7.5\\n8.0\\n", 0, "NATIVE 90-real;80-real"),
        ("12.0\\n", 0, "NATIVE 120-real"),
        ("7.5\\n", 0, "OFF"),
        ("", 0, "OFF"),
        ("NVML library version: 580.65\\n", 18, "OFF"),
    ],
)
def test_auto_is_for_the_gpus_that_are_here(gpus: str, status: int, chosen: str, tmp_path: Path) -> None:
    said = configure(tmp_path / "build", path=smi(tmp_path, gpus, status))
    assert re.findall(r"^-- rnnkern: CUDA (.*?)\s*$", said, re.M) == [chosen]


@pytest.mark.nvcc
def test_on_is_for_the_architectures_that_are_named(tmp_path: Path) -> None:
    named = ["-DCMAKE_CUDA_ARCHITECTURES=90-real"]
    for options, chosen in (([], "ON 80-real;90"), ([], "ON 80-real;90"), (named, "ON 90-real")):
        said = configure(tmp_path / "build", "-DRNNKERN_CUDA=ON", *options)
        assert re.findall(r"^-- rnnkern: CUDA (.*?)\s*$", said, re.M) == [chosen]


def test_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="RNNKERN_CUDA: expected AUTO, ON, OFF or SIMT, got YES"):
        configure(tmp_path / "build", "-DRNNKERN_CUDA=YES")
