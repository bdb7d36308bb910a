"""Breaks the code on purpose, one patch at a time, and asks whether a test fails.

    python tests/mutants/run.py                 # all patches
    python tests/mutants/run.py gru onnx        # those whose name holds one of these

Each patch is applied to a copy of the last commit, what it concerns is built, and the short choice of tests runs until
the first failure. If it passes, ``pytest --full`` runs: a mutant that only --full kills shows a gap in the choice.
Patches of the GPU's strategies run the tests marked ``executor``, which belong to --full. The exit status is 1 if a
mutant survives, or survives the short choice alone. Needs the environment of the tests with cmake, ninja and pybind11.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The first word of a patch says what it breaks: the tests that probably notice run first, then the whole choice.
FIRST = {
    "kernels": ("tests/kernels",),
    "scheduler": ("tests/kernels", "tests/api"),
    "binding": ("tests/api",),
    "torch": ("tests/torch",),
    "ONNX": ("tests/onnx",),
}
PATCHES = sorted(Path(__file__).parent.glob("*.patch"))


@dataclass(frozen=True)
class Verdict:
    by: str  # the choice of tests whose run failed, or "survived"
    test: str
    seconds: float


def shell(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def must(*command: str | Path, cwd: Path) -> str:
    done = shell(*command, cwd=cwd)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


class Copy:
    """The last commit in a folder of its own, with a build of the kernels that this machine can run."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        must("git", "worktree", "add", "--detach", self.tree, "HEAD", cwd=ROOT)
        self.package = self.tree / "python/rnnkern"
        for beside in ("bench", "examples"):  # as the wheel has them
            (self.package / beside).symlink_to(self.tree / beside)
        pybind11 = must(sys.executable, "-m", "pybind11", "--cmakedir", cwd=ROOT).strip()
        options = {
            "RNNKERN_PYTHON": "ON", "RNNKERN_SHARED": "OFF", "RNNKERN_CUDA": "OFF", "RNNKERN_KERNELS": kernels(),
            "pybind11_DIR": pybind11, "Python_EXECUTABLE": sys.executable,
        }  # fmt: skip
        defined = [f"-D{name}={value}" for name, value in options.items()]
        must("cmake", "-S", self.tree, "-B", folder / "build", "-G", "Ninja", *defined, cwd=ROOT)
        self.build_folder = folder / "build"

    def build(self) -> str:
        """Builds what changed; the compiler's words if it fails."""
        done = shell("cmake", "--build", self.build_folder, cwd=self.tree)
        if done.returncode != 0:
            return done.stdout
        for module in self.build_folder.glob("_core*.so"):
            shutil.copy(module, self.package)
        return ""

    def pytest(self, *arguments: str) -> tuple[bool, str]:
        """Whether it passed, and the test that failed."""
        command = (sys.executable, "-m", "pytest", "-q", "-x", "-rfE", *arguments)
        done = shell(*command, cwd=self.tree, PYTHONPATH=str(self.tree / "python"))
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing was printed"
        return done.returncode == 0, failed[1] if failed else last


def kernels() -> str:
    """The preferred kernel of this machine, and the scalar one."""
    from rnnkern import _core

    able = {name for name, reason in _core.kernels() if not reason}
    best = next((name for name in ("cpu_avx512", "cpu_avx2", "cpu_neon") if name in able), "cpu_scalar")
    return ";".join(dict.fromkeys((best, "cpu_scalar")))


def judge(copy: Copy, patch: Path) -> Verdict:
    start = time.monotonic()
    must("git", "apply", patch, cwd=copy.tree)
    try:
        kind = patch.read_text().partition(":")[0]
        runs: list[tuple[str, tuple[str, ...]]] = [("executor", ("--full", "-m", "executor", "tests/cuda"))]
        if kind != "strategies":
            if words := copy.build():
                sys.exit(f"{patch.name}: does not compile\n{words}")
            runs = [
                ("short", ("-n", "2", *FIRST[kind])),
                ("short", ()),
                ("full", ("--full", "-m", "not executor and not nvcc")),
            ]
        for name, arguments in runs:
            passed, test = copy.pytest(*arguments)
            if not passed:
                return Verdict(name, test, time.monotonic() - start)
        return Verdict("survived", "", time.monotonic() - start)
    finally:
        must("git", "apply", "--reverse", patch, cwd=copy.tree)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names of patches; none: all of them")
    chosen = parser.parse_args().names
    patches = [patch for patch in PATCHES if not chosen or any(name in patch.name for name in chosen)]
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="rnnkern-mutants-") as folder:
        copy = Copy(Path(folder))
        try:
            if words := copy.build():
                sys.exit(words)
            passed, test = copy.pytest()
            if not passed:
                sys.exit(f"{test} fails without a mutant: nothing can be said of them")
            print("| mutant | killed by | first test that fails | s |\n|---|---|---|---|", flush=True)
            for patch in patches:
                verdict = judge(copy, patch)
                verdicts.append(verdict)
                print(f"| {patch.stem} | {verdict.by} | `{verdict.test}` | {verdict.seconds:.0f} |", flush=True)
        finally:
            must("git", "worktree", "remove", "--force", copy.tree, cwd=ROOT)
    return int(any(verdict.by in ("survived", "full") for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
