"""Compiling C and C++ in tests: the installed C library, and single files by hand."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rnnkern import _core

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


@functools.cache
def scratch() -> Path:
    """A directory of this session's own, removed at its end."""
    path = Path(tempfile.mkdtemp(prefix="rnnkern-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def configured() -> Path:
    """CMake's build directory of the C library with one kernel, and the generated headers in generated/."""
    build = scratch() / "library"
    run(
        tool("cmake"), "-S", ROOT, "-B", build, "-DRNNKERN_PYTHON=OFF", "-DRNNKERN_CUDA=OFF",
        "-DRNNKERN_KERNELS=cpu_scalar", f"-DCMAKE_INSTALL_PREFIX={scratch() / 'installed'}",
        "-DCMAKE_INSTALL_LIBDIR=lib",
    )  # fmt: skip
    return build


@functools.cache
def installed() -> Path:
    """Where the C library, its header, CMake package and pkg-config file are installed: RNNKERN_TEST_PREFIX, or a
    build of this session's with one kernel."""
    if given := os.environ.get("RNNKERN_TEST_PREFIX"):
        return Path(given)
    build = configured()
    run(tool("cmake"), "--build", build, "--parallel", str(os.cpu_count() or 1))
    run(tool("cmake"), "--install", build)
    return scratch() / "installed"


def c_library() -> Path:
    """A file that exports the C ABI with every CPU kernel: of RNNKERN_TEST_PREFIX, or Python's own module."""
    if given := os.environ.get("RNNKERN_TEST_PREFIX"):
        return Path(given) / "lib" / "librnnkern.so"
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
        return "aarch64" if self.name == "cpu_neon" else here if self.name == "cpu_scalar" else "x86_64"

    @property
    def compiler(self) -> str:
        """The C++ compiler that can make code for it: Debian's cross compiler for another architecture's."""
        native = KernelFile("cpu_scalar", self.source, ()).machine
        return tool("g++" if self.machine == native else f"{self.machine}-linux-gnu-g++")


def kernel_files() -> list[KernelFile]:
    """The list as CMakeLists.txt has it, every architecture's."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = re.findall(r"^\s*rnnk_add_kernel\((\w+) (\S+?)(?: FLAGS ([^)]*))?\)", text, re.M)
    return [KernelFile(name, ROOT / source, tuple(flags.split())) for name, source, flags in found]


CPU_FILES = [k for k in kernel_files() if k.source.suffix == ".cpp"]
INCLUDES = ("-I", str(CSRC), "-I", str(CSRC / "include"))
# The host SIMT executor's sources.
EXECUTOR = [
    ROOT / f"tests/cuda/simt/{part}.cpp"
    for part in ("delayed", "device", "executor", "fiber", "meetings", "runtime", "shared", "streams")
]
