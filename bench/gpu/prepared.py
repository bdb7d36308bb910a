"""once.sh prepare: the parts of rnnkern that a GPU machine without a network needs, made where nvcc is and no GPU.

The folder to carry has librnnk.a for one compute capability, the CUDA runtime's archive, the program of latencies.cu,
wheels, headers of Python, and a manifest. linked.py makes a package of it, there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import check, jobs, record

CAPABILITY: Final = "90"
PYTHON: Final = "3.12"  # of the GPU machine: wheels and headers are for it
MOST_MIB: Final = 60.0
KERNELS: Final = "cuda_.*;cpu_avx2;cpu_scalar"  # the CPU's are what some tests compare with
# Everything that the commands import besides torch. Only what the GPU machine lacks is installed there.
WHEELS: Final = ("numpy", "pybind11", "ml_dtypes", "safetensors", "typer", "rich", "pytest", "pytest-xdist")


class Missing(Exception):
    """A sentence that names what is missing."""


@dataclass(frozen=True)
class Places:
    """root: the checkout. carried: what `prepare` makes. site: where the package is put together, and its wheels."""

    root: Path
    carried: Path
    site: Path

    @property
    def package(self) -> Path:
        return self.site / "rnnkern"

    @property
    def stamp(self) -> Path:
        """A digest of the sources of the package, which is written last."""
        return self.site / "sources"

    def manifest(self) -> dict[str, Any]:
        path = self.carried / "manifest.json"
        if not path.is_file():
            raise Missing(f"{path} is missing: `bench/gpu/once.sh prepare` makes it, on a machine with nvcc")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def places(root: Path) -> Places:
    return Places(root, root / "build/gpu/carried", root / "build/gpu/site")


def prepare(where: Places, processes: int) -> dict[str, Any]:
    """-> the manifest. Missing where a tool is, or where the folder is too large to be carried."""
    compiler = check.nvcc()
    if not compiler:
        raise Missing("nvcc is not installed: the library for the GPU is compiled here")
    work = where.root / "build/gpu/work"
    shutil.rmtree(where.carried, ignore_errors=True)
    where.carried.mkdir(parents=True)
    seconds: dict[str, float] = {}

    def timed(name: str, *commands: list[str]) -> None:
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        for command in commands:
            done = jobs.run(command, 7200)
            if done.code != 0:
                raise Missing(f"{name}: `{shlex.join(command)}` ended with status {done.code}: {done.tail}")
        seconds[name] = round(time.monotonic() - start, 1)

    options = ["-DRNNKERN_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={CAPABILITY}-real"]
    timed(
        "library",
        configure(where.root, work, [*options, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]),
        ["cmake", "--build", str(work), "--target", "rnnk", "--parallel", str(processes)],
    )
    timed("latencies", check.build(compiler, where.carried / "latencies"))
    shutil.copy2(work / "librnnk.a", where.carried)
    shutil.copy2(_runtime(work), where.carried)
    wheels = where.carried / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", PYTHON]
    timed("wheels", [*pip, "-d", str(wheels), *WHEELS])
    _headers(where.carried)
    seconds["all"] = round(sum(seconds.values()), 1)
    return write_manifest(where, binding(work, where.root), {"nvcc": compiler, "seconds": seconds})


def configure(root: Path, work: Path, options: list[str]) -> list[str]:
    import pybind11

    python = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    parts = ["-DRNNKERN_PYTHON=ON", "-DRNNKERN_SHARED=OFF", f"-DRNNKERN_KERNELS={KERNELS}"]
    return ["cmake", "-S", str(root), "-B", str(work), *ninja, *options, *parts, *python]


def _runtime(work: Path) -> Path:
    """The CUDA runtime's archive, where CMake has found the toolkit's libraries."""
    for about in work.glob("CMakeFiles/*/CMakeCUDACompiler.cmake"):
        found = re.search(r'CMAKE_CUDA_HOST_IMPLICIT_LINK_DIRECTORIES "([^"]*)"', about.read_text())
        for folder in found[1].split(";") if found else ():
            if (path := Path(folder) / "libcudart_static.a").is_file():
                return path
    raise Missing("libcudart_static.a is not in the folders of libraries that nvcc names")


def _headers(carried: Path) -> None:
    """Those of the GPU machine's Python, which may have none. Where this machine has none either, it says so."""
    from tools.wheels import headers

    try:
        found = headers.find([PYTHON], [], search=True)[PYTHON]
    except headers.Missing as missing:
        print(f"no headers are carried: {missing}")
        return
    whole = headers.of_one_machine(found, PYTHON, carried / "headers")
    if whole == found:
        shutil.copytree(found, carried / "headers" / f"python{PYTHON}")


def binding(work: Path, root: Path) -> dict[str, list[str]]:
    """The sources of the module that know Python, and the flags that CMake compiles them with."""
    sources, flags = [], list[str]()
    for entry in json.loads((work / "compile_commands.json").read_text()):
        if "/_core.dir/" not in entry["command"]:
            continue
        sources.append(str(Path(entry["file"]).relative_to(root)))
        words = [word for word in shlex.split(entry["command"]) if word.startswith(("-D", "-I", "-O", "-std", "-f"))]
        flags = [word.replace(f"-I{root}/", "-I") for word in words]
    return {"sources": sources, "flags": flags}


def sources(root: Path) -> str:
    """A digest of what the library and latencies.cu are compiled from."""
    files = [path for folder in ("csrc", "cuda", "bench/native") for path in (root / folder).rglob("*")]
    files += [root / "CMakeLists.txt", *(root / "cmake").glob("*.cmake"), *(root / "bench/gpu").glob("*.cu*")]
    digest = hashlib.sha256()
    for path in sorted(file for file in files if file.is_file() and file.suffix != ".pyc"):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def write_manifest(where: Places, made: dict[str, list[str]], about: dict[str, Any]) -> dict[str, Any]:
    sizes = {
        str(path.relative_to(where.carried)): path.stat().st_size
        for path in sorted(where.carried.rglob("*"))
        if path.is_file()
    }
    mib = round(sum(sizes.values()) / 2**20, 1)
    if mib > MOST_MIB:
        largest = max(sizes, key=lambda name: sizes[name])
        raise Missing(
            f"{where.carried}: expected at most {MOST_MIB:.0f} MiB to carry, got {mib} MiB; the largest file is "
            f"{largest} with {sizes[largest] / 2**20:.1f} MiB"
        )
    head = {"commit": record.commit(where.root), "sources": sources(where.root), "mib": mib}
    head |= {"capability": CAPABILITY, "python": PYTHON}
    manifest = head | about | {"binding": made, "bytes": sizes}
    (where.carried / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest
