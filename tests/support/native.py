"""Compiling C and C++ in tests: the installed C library, and single files by hand."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
# A compiler or cmake may come with the system or lie beside this interpreter.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])


def found(name: str) -> str | None:
    """The program's path, if it is installed."""
    return shutil.which(name, path=_PATH)


def tool(name: str) -> str:
    """The same; skips the test where it is not installed."""
    path = found(name)
    if not path:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What the command prints; fails the test, with that text, when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PATH": _PATH, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{shlex.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}"
    return done.stdout


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time works in the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def once(name: str, make: Callable[[Path], None], *sources: Path) -> Path:
    """build/tests/NAME, as ``make`` has filled it; again where a file of the sources, or of csrc, is another."""
    folder = ROOT / "build" / "tests" / name
    files = sorted(file for top in (CSRC, *sources) for file in ([top] if top.is_file() else top.rglob("*")))
    key = hashlib.sha256(f"{sys.prefix} {sys.version}".encode())  # python and python3 of one environment are the same
    for file in files:
        if file.is_file() and file.suffix != ".pyc":
            key.update(str(file).encode() + b"\0" + file.read_bytes())
    with alone(folder):
        made = folder / "made_of"
        if not made.exists() or made.read_text() != key.hexdigest():
            make(folder)
            made.write_text(key.hexdigest())
    return folder


@functools.cache
def scratch() -> Path:
    """A directory of this session's own, removed at its end."""
    path = Path(tempfile.mkdtemp(prefix="rnnkern-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _configure(build: Path) -> None:
    run(
        tool("cmake"), "-S", ROOT, "-B", build / "library", "-DRNNKERN_PYTHON=OFF", "-DRNNKERN_CUDA=OFF",
        "-DRNNKERN_KERNELS=cpu_scalar", f"-DCMAKE_INSTALL_PREFIX={build / 'installed'}", "-DCMAKE_INSTALL_LIBDIR=lib",
    )  # fmt: skip


@functools.cache
def generated() -> Path:
    """The headers that CMake writes."""
    _configure(scratch())
    return scratch() / "library" / "generated"


@functools.cache
def installed() -> Path:
    """Where the C library, its header, CMake package and pkg-config file are installed: RNNKERN_TEST_PREFIX, or what
    is built once, with one kernel."""
    if given := os.environ.get("RNNKERN_TEST_PREFIX"):
        return Path(given)

    def make(build: Path) -> None:
        _configure(build)
        run(tool("cmake"), "--build", build / "library", "--parallel", str(os.cpu_count() or 1))
        run(tool("cmake"), "--install", build / "library")

    return once("c", make, ROOT / "CMakeLists.txt", ROOT / "cmake", ROOT / "pyproject.toml") / "installed"


def c_library() -> Path:
    """A file that exports the C ABI with every CPU kernel: of RNNKERN_TEST_PREFIX, or Python's own module."""
    if given := os.environ.get("RNNKERN_TEST_PREFIX"):
        return Path(given) / "lib" / "librnnkern.so"
    from rnnkern import _core

    return Path(_core.__file__)


def project_version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert found
    return found[1]


@dataclass(frozen=True)
class KernelFile:
    """One line of the kernel list."""

    name: str
    source: Path
    flags: tuple[str, ...]

    @property
    def machine(self) -> str:
        """The architecture it is for."""
        here = {"AMD64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
        family = self.name.removeprefix("cpu_")
        return "aarch64" if family.startswith("neon") else here if family.startswith("scalar") else "x86_64"

    @property
    def compiler(self) -> str:
        """The C++ compiler that can make code for it: Debian's cross compiler for another architecture's."""
        native = KernelFile("cpu_scalar", self.source, ()).machine
        return tool("g++" if self.machine == native else f"{self.machine}-linux-gnu-g++")


def kernel_files() -> list[KernelFile]:
    """The list as CMakeLists.txt has it, every architecture's."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = re.findall(r"^\s*rnnk_add_kernel\((\w+) (\S+?)(?: HOST \w+)?(?:\s+FLAGS ([^)]*))?\)", text, re.M)
    return [KernelFile(name, ROOT / source, tuple(flags.split())) for name, source, flags in found]


CPU_FILES = [k for k in kernel_files() if k.source.suffix == ".cpp"]
INCLUDES = ("-I", str(CSRC), "-I", str(CSRC / "include"))
# The host SIMT executor's sources.
EXECUTOR = [
    ROOT / f"tests/cuda/simt/{part}.cpp"
    for part in (
        "delayed", "device", "executor", "fiber", "history", "hooks", "meetings", "races", "runtime", "shared",
        "streams", "views",
    )
]  # fmt: skip
# How g++ compiles kernels for it, so that every access to memory is seen (hooks.cpp).
WATCHED = (
    "-fsanitize=thread,alignment", "-g1", "--param=tsan-distinguish-volatile=1",
    "--param=tsan-instrument-func-entry-exit=0",
)  # fmt: skip
