"""Checks of finished wheels: what auditwheel says, and tests where there is no compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import emulate
import zig
from build import ROOT
from targets import Target

_TORCH = ("tests/kernels/test_plain.py", "tests/kernels/test_same_bits.py")  # tests that need torch
_NUMPY = ("tests/kernels/test_options.py", "tests/kernels/test_networks.py", "tests/api/test_decode.py")


def policy(wheel: Path, expected: str | None) -> str:
    """Says which systems auditwheel finds the wheel fit for; ends the program when `expected` is not among them."""
    done = subprocess.run([sys.executable, "-m", "auditwheel", "show", wheel], capture_output=True, text=True)
    text = " ".join((done.stdout + done.stderr).split())
    found = re.search(r'platform tag: "(manylinux_(\d+)_(\d+)_\w+)"', text)
    if done.returncode != 0 or (expected and not found):
        sys.exit(f"auditwheel show {wheel.name}: {text}")
    if expected:
        most = tuple(map(int, re.match(r"manylinux_(\d+)_(\d+)", expected).groups()))
        if tuple(map(int, found.groups()[1:])) > most:
            sys.exit(f"{wheel.name}: expected {expected}, auditwheel says {found[1]}")
    return f"  auditwheel: {found[1] if found else text}"


def run_selftest(target: Target, build: Path) -> None:
    """Compiles the C library's self-test and runs it: here, under qemu-user or under wine."""
    windows = target.system == "Windows"
    program = build / f"selftest{'.exe' if windows else ''}"
    zig_cc = zig.command("cc", "-target", target.triple, "-std=c11", "-D_DEFAULT_SOURCE", "-O2")
    library = build / ("librnnkern.dll.a" if windows else target.library)
    source, include = ROOT / "tests/support/c/selftest.c", ROOT / "csrc/include"
    flags = ["-pthread", *([] if windows else ["-lm", f"-Wl,-rpath,{build.resolve()}"])]
    subprocess.run([*zig_cc, "-I", include, source, "-o", program, library, *flags], check=True)
    emulator: list[str] = []
    if target.processor == "aarch64":
        folder = build / "emulated"
        emulate.debian_python(folder)  # for its C library
        emulator = ["qemu-aarch64", "-L", str(folder / "root")]
    elif windows:
        emulator = ["wine"]
    if target.system == "Darwin" or (emulator and not shutil.which(emulator[0])):
        print(f"  self-test of C: compiled, not run ({emulator[0] if emulator else 'macOS'} is not here)", flush=True)
        return
    subprocess.run([*emulator, program], check=True, env={**os.environ, "WINEDEBUG": "-all"})


def run_tests(wheel: Path, version: str, target: Target, build: Path, *, site: Path | None) -> None:
    """Installs the wheel in an environment of its own, whose PATH has no compiler, and runs the tests there."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if target.processor == "aarch64":
            _emulated(wheel, version, build / "emulated", scratch)
        elif target.processor == "x86_64":
            _here(wheel, version, scratch, site)
        else:
            print(f"  tests: left out, there is no Python for {target.platform} here")


def _here(wheel: Path, version: str, scratch: Path, site: Path | None) -> None:
    # pyenv's first: its shims on PATH refuse versions that are not chosen.
    python = shutil.which(f"python{version}", path=os.pathsep.join([*_pyenv(version), os.environ["PATH"]]))
    if not python:
        sys.exit(f"--check: Python {version} is not installed")
    if site and f"python{version}" not in site.parts:
        site = None
    venv = scratch / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "-q", "--only-binary", ":all:", wheel, "pytest"], check=True)
    env = {"PATH": str(venv / "bin"), "PYTHONPATH": str(site or "")}
    _run([str(venv / "bin/python")], version, scratch, env, [*_NUMPY, *(_TORCH if site else ())])


def _emulated(wheel: Path, version: str, folder: Path, scratch: Path) -> None:
    own, command = emulate.debian_python(folder)
    if own != version:
        print(f"  tests: left out, Debian's Python is {own}")
        return
    site = emulate.packages(wheel, version, scratch / "site")
    _run(command, version, scratch, {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}, ["-k", "neon", *_NUMPY])


def _run(python: list[str], version: str, scratch: Path, env: dict[str, str], tests: list[str]) -> None:
    code = "import rnnkern._core as c; print(' ', c.cpu_features(), '|', *(n for n, why in c.kernels() if not why))"
    subprocess.run([*python, "-c", code], check=True, env=env, cwd=scratch)
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    pytest = [*python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    subprocess.run([*pytest, *tests], check=True, env=env, cwd=ROOT)
    print(f"  Python {version}: tests passed", flush=True)


def _pyenv(version: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [str(path) for path in sorted(root.glob(f"versions/{version}.*/bin"), reverse=True)]
