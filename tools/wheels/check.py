"""Checks of finished wheels: what auditwheel says, and tests where there is no compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from build import ROOT

# Tests of kernels and of bits: they need no compiler, and the second needs torch.
_TESTS = ("test_plain.py", "test_same_bits.py")


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


def run_tests(wheel: Path, version: str, target: str, build: Path, *, site: Path | None) -> None:
    """Installs the wheel in an environment of its own, whose PATH has nothing else, and runs the tests there."""
    if target == "aarch64-linux":
        print("  tests: see tools/wheels/emulate.py")
        return
    python = shutil.which(f"python{version}") or _pyenv(version)
    if target != "x86_64-linux" or not python:
        print(f"  tests: left out, no Python {version} for {target} here")
        return
    with tempfile.TemporaryDirectory() as scratch:
        venv = Path(scratch) / "venv"
        subprocess.run([python, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "-q", "--only-binary", ":all:", wheel, "pytest"], check=True)
        copy = Path(scratch) / "tests"
        shutil.copytree(ROOT / "tests", copy, ignore=shutil.ignore_patterns("__pycache__"))
        env = {"PATH": str(venv / "bin"), "PYTHONPATH": os.pathsep.join(filter(None, [str(copy), str(site or "")]))}
        code = "import rnnkern._core as c; print(' ', c.cpu_features(), '|', *(n for n, why in c.kernels() if not why))"
        subprocess.run([venv / "bin/python", "-c", code], check=True, env=env, cwd=scratch)
        tests = [
            path for name in _TESTS if site or name != "test_same_bits.py" for path in (copy / "kernels").glob(name)
        ]
        subprocess.run(
            [venv / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
            check=True,
            env=env,
            cwd=scratch,
        )
        print(f"  Python {version}: tests passed")


def _pyenv(version: str) -> str | None:
    found = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python{version}"))
    return str(found[-1]) if found else None
