"""Rules that no compiler enforces: what object files may define, who may include whom, what the cell list may hold."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from native import CPU_FILES, CSRC, INCLUDES, ROOT, KernelFile, generated, kernel_files, run, tool

CELL_LIST = [
    (int(value), name, struct)
    for value, name, struct in re.findall(
        r"^RNNK_CELL\((\d+), (\w+), (\w+)\)$", (CSRC / "include/rnnkern/cells.inc").read_text(), re.M
    )
]

# cell, type, shape
VARIANTS = re.findall(
    r"^RNNK_VARIANT\((\w+), (\w+), ([\w| ]+)\)$", (CSRC / "include/rnnkern/cells.inc").read_text(), re.M
)
TYPES = dict.fromkeys([*(kind for *_, kind in CELL_LIST), *(kind for _, kind, _ in VARIANTS)])

# --- object files ---------------------------------------------------------


@pytest.mark.builds
@pytest.mark.parametrize("kernel", CPU_FILES, ids=lambda k: k.name)
def test_kernel_objects_define_no_weak_function(kernel: KernelFile, tmp_path: Path) -> None:
    """A weak function of one ISA file may replace, at link time, its namesake of a file for lesser CPUs.

    At -O0 nothing is inlined away, so every function the file could ever emit shows. Unique data ("u", "V") is the same
    whatever the flags.
    """
    done = tmp_path / "kernel.o"
    run(
        kernel.compiler, "-std=c++20", "-O0", "-fPIC", "-fno-exceptions", "-w", "-fvisibility=hidden", *kernel.flags,
        *INCLUDES, "-I", generated(), "-c", kernel.source, "-o", done,
    )  # fmt: skip
    symbols = [line.split() for line in run(_nm(kernel), "--defined-only", done).splitlines()]
    assert [name for *_, kind, name in symbols if kind in "WT"] == []
    assert [name for *_, kind, name in symbols if kind in "DR" and name.endswith("_kernelE")], "the kernel's record"


def _nm(kernel: KernelFile) -> str:
    return tool(Path(kernel.compiler).name.removesuffix("g++") + "nm")


def test_hidden_by_default() -> None:
    """The flag is on for every object; what the library exports is tests/api/test_c_abi.py's."""
    text = (ROOT / "CMakeLists.txt").read_text()
    assert "set(CMAKE_CXX_VISIBILITY_PRESET hidden)" in text and "set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)" in text


# --- includes -------------------------------------------------------------

SOURCES = sorted(
    p
    for top in (CSRC, ROOT / "cuda", ROOT / "bench" / "native")
    for p in top.rglob("*")
    if p.suffix in (".h", ".cpp", ".cu", ".cuh")
)
# Beyond the standard library: which folders of csrc each folder may include (ARCHITECTURE.md, "Who may use whom").
FOLDERS = {
    "cells": {"cells"},
    "core": {"cells", "core", "rnnkern"},
    "cpu": {"cells", "core", "cpu", "rnnkern"},
    "cuda": {"cells", "core", "cuda", "rnnkern", "simt"},  # the executor stands in for CUDA in tests
    "include": {"rnnkern"},
    "network": {"core", "network", "rnnkern"},
    "ort": {"ort", "rnnkern"},
    "python": {"python", "pybind11", "rnnkern"},
    "bench": set(),
}
# The files on top of csrc, by name.
FILES = {
    "capi.cpp": {"core/", "network/"},
}
# Files that may include more than their folder.
MORE = {
    "csrc/python/binding.cpp": {"ort/exports.h", "probe.h"},
    "csrc/python/gpu.h": {"core/os.h"},
    "csrc/ort/layer.h": {"python/memory.h"},
    "csrc/python/memory.cpp": {"core/os.h"},
    "bench/native/probe.cpp": {"core/os.h", "probe.h", "rnnkern/rnnkern.h"},
}
# Headers of the compiler and the system that the CPU files may name.
SYSTEM = {
    *("immintrin.h", "arm_neon.h", "cpuid.h", "dlfcn.h", "pthread.h", "sched.h", "stddef.h", "stdint.h"),
    *("sys/auxv.h", "sys/mman.h", "sys/resource.h"),
    *("sys/syscall.h", "sys/sysctl.h", "unistd.h", "malloc.h", "windows.h"),
}


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.M)


def standard(name: str) -> bool:
    return re.fullmatch(r"[a-z_0-9]+", name) is not None or name in SYSTEM


def allowed(path: Path) -> set[str]:
    if path.parent == CSRC:
        return FILES[path.name]
    if path == ROOT / "cuda" / "runtime.cu":  # the one file that knows CUDA's runtime
        return {"cuda/", "cuda_runtime.h"}
    top = path.relative_to(CSRC if path.is_relative_to(CSRC) else ROOT).parts[0]
    return {f"{folder}/" for folder in FOLDERS[top]} | MORE.get(str(path.relative_to(ROOT)), set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_includes_follow_the_arrows(path: Path) -> None:
    own = [name for name in includes(path) if not standard(name)]
    may = allowed(path)
    assert [name for name in own if not any(name == m or (m[-1] == "/" and name.startswith(m)) for m in may)] == []


def test_the_rule_sees_a_wrong_include() -> None:
    assert not {"cpu/", "network/"} & allowed(CSRC / "core" / "dropout.cpp")
    assert "cpu/" not in allowed(ROOT / "cuda" / "grid.cu")
    assert allowed(CSRC / "cells" / "lstm.h") == {"cells/"}
    assert not standard("cpu/io.h") and not standard("vector.h") and standard("vector")


# --- the lists ------------------------------------------------------------


def test_cells_are_numbered_in_order() -> None:
    assert [value for value, *_ in CELL_LIST] == list(range(len(CELL_LIST)))
    assert len({name for _, name, _ in CELL_LIST}) == len({struct for *_, struct in CELL_LIST}) == len(CELL_LIST)


def test_every_cell_is_in_one_header_and_every_header_has_a_cell() -> None:
    headers = {p for p in (CSRC / "cells").glob("*.h")} - {
        CSRC / f"cells/{name}.h" for name in ("effects", "hd", "math", "options", "shape", "takes")
    }
    assert {cell for cell, *_ in VARIANTS} <= {name for _, name, _ in CELL_LIST}
    assert len({(cell, shape) for cell, _, shape in VARIANTS}) == len(VARIANTS) > 10
    found = {kind: [p for p in headers if re.search(rf"\b(struct|using) {kind}\b", p.read_text())] for kind in TYPES}
    assert all(len(where) == 1 for where in found.values()), found
    assert {where[0] for where in found.values()} == headers


def test_every_kernel_file_is_on_the_list() -> None:
    listed = {k.source for k in kernel_files()}
    assert {p for p in (CSRC / "cpu" / "isa").glob("*.cpp")} == {p for p in listed if p.suffix == ".cpp"}
    for kernel in CPU_FILES:
        assert f'"{kernel.name}"' in kernel.source.read_text()


# --- the same cells on a GPU ------------------------------------------------

_VALUE = """
#include <cmath>
#include "cells/hd.h"
struct One {  // one unit of one row: what a GPU thread holds
  using T = float;
  static constexpr int lanes = 1;
  float v;
  RNNK_HD static One set1(float x) { return {x}; }
};
RNNK_HD One operator+(One a, One b) { return {a.v + b.v}; }
RNNK_HD One operator-(One a, One b) { return {a.v - b.v}; }
RNNK_HD One operator*(One a, One b) { return {a.v * b.v}; }
RNNK_HD One operator/(One a, One b) { return {a.v / b.v}; }
RNNK_HD One operator-(One a) { return {-a.v}; }
RNNK_HD One fma(One a, One b, One c) { return {::fmaf(a.v, b.v, c.v)}; }
RNNK_HD One fmin(One a, One b) { return {a.v < b.v ? a.v : b.v}; }
RNNK_HD One fmax(One a, One b) { return {a.v > b.v ? a.v : b.v}; }
RNNK_HD One abs(One a) { return {::fabsf(a.v)}; }
RNNK_HD One rint(One a) { return {::rintf(a.v)}; }
RNNK_HD One scale2(One x, One n) { return {::scalbnf(x.v, int(n.v))}; }
RNNK_HD One reciprocal(One a) { return {1 / a.v}; }
RNNK_HD bool less(One a, One b) { return a.v < b.v; }
RNNK_HD One select(bool m, One a, One b) { return m ? a : b; }
"""
_KERNEL = """
template <class Cell, int stage>
__global__ void {struct}_kernel(rnnk::Step<Cell, One>* q) {{
  Cell::template forward<stage>(q[threadIdx.x]);
  Cell::template backward<stage>(q[threadIdx.x]);
}}
template <class Cell, int stage = Cell::kStages - 1>
void {struct}_stages() {{
  {struct}_kernel<Cell, stage><<<1, 1>>>(nullptr);
  if constexpr (stage > 0) {struct}_stages<Cell, stage - 1>();
}}
template void {struct}_stages<rnnk::{struct}>();
"""


@pytest.mark.nvcc
def test_cells_compile_for_cuda(tmp_path: Path) -> None:
    """Every cell and variant over a one-float value type, every stage forward and backward, in device code (sm_90)."""
    source = tmp_path / "cells.cu"
    headers = "".join(f'#include "{path}"\n' for path in sorted((CSRC / "cells").glob("*.h")))
    source.write_text(_VALUE + headers + "".join(_KERNEL.format(struct=kind) for kind in TYPES))
    run(tool("nvcc"), "-std=c++20", "-arch=sm_90", "-Werror", "all-warnings", *INCLUDES, "-c", source,
        "-o", tmp_path / "cells.o")  # fmt: skip


# --- functions that a reader can call -----------------------------------------

MOST = 6  # parameters; with more, a struct (CONTRIBUTING.md)
# Users call these: their arguments are torch.nn's, or each is an option of its own.
PUBLIC = {
    "cli/bench.py": {"bench"}, "convert/arrays.py": {"to_system", "from_system"}, "init.py": {"initialise"},
    "decode.py": {"generate", "beam_search", "continuations"}, "nn/layer.py": {"forward", "__call__"},
    "options.py": {"option"}, "structure/pieces.py": {"truncated"}, "train/probe.py": {"gradient_norms"},
    "jax/functions.py": {"rnn", "gru", "lstm", "slstm", "init"},
    "flashrnn.py": {"flashrnn"}, "jax/nnx.py": {"__call__"}, "jax/linen.py": {"__call__"},
    # Operators that are registered with torch, and autograd Functions, take tensors one by one.
    "torch/operators.py": {"_layer_backward"}, "torch/functional.py": {"forward"},
}  # fmt: skip


def test_python_functions_have_few_parameters() -> None:
    many = []
    package = ROOT / "python/rnnkern"
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name.startswith(("bench/", "examples/", "reference/")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name == "__init__" or node.name in PUBLIC.get(name, ()):
                continue
            args = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len(args) - (args[:1] in (["self"], ["cls"])) > MOST:
                many.append(f"{name}: {node.name}")
    assert not many


def parameters(text: str) -> Iterator[tuple[str, int]]:
    """(name, how many parameters) of each function that a C++ text defines."""
    text = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"', "", text, flags=re.DOTALL)
    for match in re.finditer(r"\b(\w+)\s*\(", text):
        at, depth, angle, commas = match.end(), 1, 0, 0
        start = at
        while at < len(text) and depth:
            c = text[at]
            depth += (c in "([{") - (c in ")]}")
            angle += (c == "<") - (c == ">" and angle > 0 and text[at - 1] != "-")
            commas += c == "," and depth == 1 and not angle
            at += 1
        if re.match(r"\s*(?:const|noexcept|override)?\s*(?:\{|->|:\s*\w+[({])", text[at : at + 60]):
            yield match[1], commas + 1 if text[start : at - 1].strip() else 0


def test_functions_of_the_core_have_few_parameters() -> None:
    """The drivers of CPUs and GPUs may have more, where fewer would cost registers."""
    assert dict(parameters("void f(int a, std::map<int, int> b) {}\nint g() const { h(1, 2); }")) == {"f": 2, "g": 0}
    files = [*CSRC.glob("*.cpp"), *(p for d in ("core", "network", "python") for p in (CSRC / d).iterdir())]
    many = {f"{p.name}: {name}" for p in files for name, count in parameters(p.read_text()) if count > MOST}
    # The functions of the C ABI are what they are.
    assert {name for name in many if ": rnnk_" not in name} == set()


# --- plain English -------------------------------------------------------------


def test_no_comment_opens_with_a_bare_of() -> None:
    """A sentence has a subject and a verb (CONTRIBUTING.md): "Of a GPU: ..." says neither what nor does what."""
    opens = re.compile(r'(?://|#|/\*|^ \*|""")\s*Of [a-z]', re.MULTILINE)
    suffixes = {".h", ".hpp", ".c", ".cpp", ".cu", ".cuh", ".py", ".pyi"}
    files = [p for top in ("csrc", "cuda", "python", "bench", "examples", "tests") for p in (ROOT / top).rglob("*")]
    assert not [str(p.relative_to(ROOT)) for p in files if p.suffix in suffixes and opens.search(p.read_text())]


# --- mutants -------------------------------------------------------------------


def test_patches_of_mutants_apply() -> None:
    """Or are applied: the runner of mutants runs this test too."""
    git, stale = tool("git"), []
    for patch in sorted((ROOT / "tests/mutants").glob("*.patch")):
        tries = ([git, "apply", "--check", *way, patch] for way in ((), ("--reverse",)))
        if all(subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode for command in tries):
            stale.append(patch.name)
    assert not stale
