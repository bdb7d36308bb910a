"""The package rnnkern on a GPU machine, from what once.sh prepare made, or from nothing.

link    the binding, which knows Python, is compiled for this Python and linked with the archive that was carried
build   where that does not work: everything, for the GPU that is here

Imports nothing but the standard library: it runs before anything is installed.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from . import check, jobs, prepared
from .check import Outcome
from .prepared import Places

Line = Callable[[str], None]
Make = Callable[[Places, float, Line], Outcome]  # link and build: within so many seconds


def link(where: Places, limit: float, line: Line) -> Outcome:
    """The package in `site`, from what was carried. It is kept: a second call finds it."""
    end = time.monotonic() + limit
    sources = prepared.sources(where.root)
    if _linked(where) == sources:
        return _imported(limit, line, "as linked before")
    manifest = where.manifest()
    if manifest["sources"] != sources:
        raise prepared.Missing(f"{where.carried} was made of other sources: `bench/gpu/once.sh prepare` makes it anew")
    assemble(where)
    refused = _install(where, end, line)
    outcome = _compile(where, manifest["binding"], end - time.monotonic(), line)
    return _without(refused, _done(where, end, line) if outcome is None else outcome)


def build(where: Places, limit: float, line: Line) -> Outcome:
    """The same package, compiled from nothing for this machine's GPU."""
    end = time.monotonic() + limit
    for tool in ("cmake", "nvidia-smi"):
        if not shutil.which(tool):
            return {"ok": None, "said": f"{tool} is not installed"}
    if not check.nvcc():
        return {"ok": None, "said": "nvcc is not installed"}
    assemble(where)
    refused = _install(where, end, line)
    work = where.site / "build"
    making = ["cmake", "--build", str(work), "--target", "_core", "--parallel", str(os.cpu_count() or 1)]
    for command in (prepared.configure(where.root, work, ["-DRNNKERN_CUDA=AUTO"]), making):
        done = jobs.run(command, end - time.monotonic(), line)
        if done.code != 0:
            return _without(refused, check.compiled(done, limit))
    for module in work.glob("_core*"):
        if module.is_file():
            shutil.copy2(module, where.package)
    return _without(refused, _done(where, end, line))


def _done(where: Places, end: float, line: Line) -> Outcome:
    outcome = _imported(end - time.monotonic(), line, "linked")
    if outcome["ok"]:
        where.stamp.write_text(prepared.sources(where.root))
    return outcome


def _linked(where: Places) -> str:
    """The sources of the package that is there, which is for this Python; "" where there is none."""
    there = where.stamp.is_file() and (where.package / f"_core{suffix()}").is_file()
    return where.stamp.read_text() if there else ""


def suffix() -> str:
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def assemble(where: Places) -> None:
    """The package as an installation has it, by links into the checkout, without the module."""
    shutil.rmtree(where.site, ignore_errors=True)
    where.package.mkdir(parents=True)
    for path in (where.root / "python/rnnkern").iterdir():
        if not path.name.startswith(("_core.cpython", "bench", "examples", "__pycache__")):
            (where.package / path.name).symlink_to(path)
    for name in ("bench", "examples"):
        (where.package / name).symlink_to(where.root / name)


def _install(where: Places, end: float, line: Line) -> list[str]:
    """Installs the carried wheels that this Python lacks, beside the package. Returns the names of those that pip
    refuses because they are for another Python or machine."""
    lacking = {wheel.name: wheel for wheel in sorted((where.carried / "wheels").glob("*.whl")) if not _installed(wheel)}
    target = ("--target", str(where.site))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", *target]
    refused: list[str] = []
    while lacking:
        done = jobs.run([*pip, *map(str, lacking.values())], end - time.monotonic(), line)
        if done.code == 0:
            break
        named = re.search(r"(\S+\.whl) is not a supported wheel on this platform", done.tail)  # pip stops at the first
        if not named or named[1] not in lacking:
            raise prepared.Missing(f"pip does not install {', '.join(lacking)}: {done.tail}")
        refused.append(lacking.pop(named[1]).name)
    return refused


def _without(refused: list[str], outcome: Outcome) -> Outcome:
    """Adds the names of the refused wheels to the outcome's sentence."""
    names = f"; left out, for another Python or machine: {', '.join(refused)}" if refused else ""
    return outcome | {"said": f"{outcome['said']}{names}"}


def _installed(wheel: Path) -> bool:
    try:
        importlib.metadata.version(wheel.name.split("-")[0])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _compile(where: Places, made: dict[str, list[str]], limit: float, line: Line) -> Outcome | None:
    """The module. -> None, or why not. Its few sources are compiled side by side."""
    end = time.monotonic() + limit
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), "")
    if not compiler:
        return {"ok": False, "said": "no C++ compiler is installed"}
    flags = [f"-I{where.root / word[2:]}" if word.startswith("-I") else word for word in made["flags"]]
    flags += [word for folder in _headers(where) for word in ("-isystem", str(folder))]
    objects = {source: where.site / f"{Path(source).stem}.o" for source in made["sources"]}

    def compiled(source: str) -> jobs.Done:
        command = [compiler, *flags, "-c", str(where.root / source), "-o", str(objects[source])]
        return jobs.run(command, end - time.monotonic(), line)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        steps = list(pool.map(compiled, objects))
    archives = [where.carried / name for name in ("librnnk.a", "libcudart_static.a")]
    module = where.package / f"_core{suffix()}"
    linking = [compiler, "-shared", *map(str, [*objects.values(), *archives]), "-Wl,--exclude-libs,ALL"]
    if all(step.code == 0 for step in steps):
        steps.append(jobs.run([*linking, "-pthread", "-ldl", "-lrt", "-o", str(module)], end - time.monotonic(), line))
    failed = next((step for step in steps if step.code != 0), None)
    return check.compiled(failed, limit) if failed else None


def _headers(where: Places) -> tuple[Path, Path]:
    """The folders of Python.h, which is carried for a machine that has none, and of pybind11."""
    version = sysconfig.get_python_version()
    python = (Path(sysconfig.get_paths()["include"]), where.carried / "headers" / f"python{version}")
    own = next((folder for folder in python if (folder / "Python.h").is_file()), None)
    if own is None:
        raise prepared.Missing(f"Python.h is neither installed nor carried for Python {version}")
    found = importlib.util.find_spec("pybind11")  # also where _install has put it
    if not found or not found.origin:
        raise prepared.Missing("pybind11 is neither installed nor carried")
    return own, Path(found.origin).parent / "include"


_PROBE: Final = "import json, rnnkern; print(json.dumps(rnnkern.info()))"


def _imported(limit: float, line: Line, how: str) -> Outcome:
    """Whether the package imports, and has kernels for the GPU where there is one."""
    found: list[dict[str, Any]] = []
    start = time.monotonic()

    def on_line(text: str) -> None:
        line(text)
        jobs.json_lines(found.append)(text)

    done = jobs.run([sys.executable, "-c", _PROBE], limit, on_line)
    if done.code != 0 or not found:
        return check.ended(done, limit)
    info = found[0]
    reasons = {reason for name, reason in info["kernels"].items() if name.startswith("cuda_")} - {"available"}
    if info["gpus"] and reasons:
        return {"ok": False, "said": "; ".join(sorted(reasons)), "info": info}
    gpus = f"GPUs: {len(info['gpus'])}" if info["gpus"] else f"CUDA: {info['cuda']}"
    said = f"{how}; imports in {time.monotonic() - start:.1f} s; {gpus}"
    return {"ok": True, "said": said, "info": info}
