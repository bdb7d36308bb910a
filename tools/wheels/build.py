"""Compiles the library for one machine, and links one module for each Python from the same objects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import windows
import zig
from headers import of_one_machine
from targets import Target

ROOT = Path(__file__).resolve().parents[2]


def compile_modules(
    target: Target, headers: dict[str, Path], folder: Path, *, jobs: int, kernels: str = "", cuda: bool = False
) -> dict[str, Path]:
    """Builds the C library and each Python's module in `folder`, and returns the modules.

    With `cuda` the host's compiler and nvcc build for the host.
    """
    headers = {version: of_one_machine(at, version, folder) for version, at in headers.items()}
    if target.system == "Windows":
        headers = {version: windows.with_import_library(version, at, folder) for version, at in headers.items()}
    suffixes = {version: target.suffix(version) for version in headers}
    modules = ";".join(f"{suffixes[version]}={at}" for version, at in headers.items())
    # -s: without symbols the modules are a sixth of the size. macOS's loader needs the symbol table.
    strip = "" if target.system == "Darwin" else "-s"
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "RNNKERN_CUDA": "ON" if cuda else "OFF",
        "RNNKERN_KERNELS": kernels,
        "RNNKERN_PYTHON_HEADERS": modules,
        "RNNKERN_SHARED": "ON",
        "CMAKE_SHARED_LINKER_FLAGS": strip,
        "CMAKE_MODULE_LINKER_FLAGS": strip,
    }
    if not cuda:
        options["CMAKE_TOOLCHAIN_FILE"] = str(zig.toolchain(target, folder / "zig"))
    if headers:
        options["pybind11_DIR"] = _output(sys.executable, "-m", "pybind11", "--cmakedir")
    _run("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *(f"-D{name}={value}" for name, value in options.items()))
    _run("cmake", "--build", folder, "--parallel", str(jobs))
    return {version: folder / "modules" / f"_core{suffix}" for version, suffix in suffixes.items()}


def install_c_library(folder: Path, to: Path) -> None:
    _run("cmake", "--install", folder, "--component", "c", "--prefix", to)


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
