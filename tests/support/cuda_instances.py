"""What ptxas makes of every kernel instance of cuda/*.cu, and the record of it, cuda/instances.tsv.

    python tests/support/cuda_instances.py --write     compiles for sm_90 and sm_80 and writes the record; minutes
    python tests/support/cuda_instances.py             compiles for sm_90 and prints what differs from the record

Flags are those of a build with RNNKERN_CUDA=ON, which CMake is asked for. tests/build/test_cuda.py holds the code to
the record.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from native import ROOT, run, scratch, tool

RECORD = ROOT / "cuda" / "instances.tsv"
ARCHITECTURES = ("sm_90", "sm_80")
FIGURES = ("registers", "spill", "stack", "shared")


@dataclass(frozen=True)
class Figures:
    """One instance: registers a thread; bytes of spill stores and loads, of stack, of static shared memory."""

    registers: int
    spill: int
    stack: int
    shared: int


Instances = dict[tuple[str, str], Figures]  # by file and kernel


def short(demangled: str) -> str:
    """The kernel's name and template arguments, without return type, parameters and namespaces."""
    name = re.sub(r"\(anonymous namespace\)::|\brnnk::(gpu::)?|^void |(?<=>) (?=>)", "", demangled)
    depth = 0
    for at, letter in enumerate(name):
        if letter == "(" and depth == 0 and at > 0:
            return name[:at]
        depth += (letter in "<(") - (letter in ">)")
    return name


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>[^']+)' for '(?P<arch>\w+)'\n"
    r"(?:.*\n)??.*Function properties for .*\n"
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*Used (?P<registers>\d+) registers(?P<rest>.*)\n"
)


def parse(file: str, said: str, arch: str) -> Instances:
    """What ``nvcc -Xptxas=-v`` said of one file for one architecture, names demangled."""
    found: Instances = {}
    for entry in _ENTRY.finditer(said):
        if entry["arch"] != arch:
            continue
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        key = (file, short(entry["name"]))
        assert key not in found, f"two instances by the name {key}"
        spill = int(entry["stores"]) + int(entry["loads"])
        found[key] = Figures(int(entry["registers"]), spill, int(entry["stack"]), int(shared[1]) if shared else 0)
    assert len(found) == len(re.findall(rf"Compiling entry function .* for '{arch}'", said)), said
    return found


@functools.cache
def commands() -> dict[str, tuple[Path, list[str]]]:
    """By file of cuda/: the folder to compile in and nvcc with the build's flags, but for architecture and output."""
    build = scratch() / "cuda"
    run(
        tool("cmake"), "-S", ROOT, "-B", build, "-DRNNKERN_CUDA=ON", "-DRNNKERN_PYTHON=OFF",
        "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", f"-DCMAKE_CUDA_COMPILER={tool('nvcc')}",
    )  # fmt: skip
    done = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = Path(entry["file"])
        if path.suffix == ".cu":
            words = shlex.split(entry["command"])
            kept = [word for word in words[: words.index("-x")] if not word.startswith("--generate-code")]
            done[path.name] = Path(entry["directory"]), kept
    assert set(done) == {path.name for path in (ROOT / "cuda").glob("*.cu")}
    return done


def compiled(file: str, arch: str) -> tuple[Instances, float]:
    """One file for one architecture, and the seconds of processor time it took."""
    folder, command = commands()[file]
    output = scratch() / f"{file}.{arch}.cubin"
    command = [
        *command,
        f"-arch={arch}",
        "-Xptxas=-v",
        "-x",
        "cu",
        "-cubin",
        str(ROOT / "cuda" / file),
        "-o",
        str(output),
    ]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as nvcc:
        assert nvcc.stdout
        said = nvcc.stdout.read()
        _, status, used = os.wait4(nvcc.pid, 0)
        nvcc.returncode = os.waitstatus_to_exitcode(status)
    assert nvcc.returncode == 0, f"{shlex.join(command)}: exit status {nvcc.returncode}\n{said}"
    return parse(file, demangled(said), arch), used.ru_utime + used.ru_stime


def demangled(said: str) -> str:
    return subprocess.run([tool("c++filt")], input=said, stdout=subprocess.PIPE, text=True, check=True).stdout


def kept(folder: Path, arch: str) -> Instances:
    """The instances of a build that kept what ptxas said (.ci/cuda with RNNKERN_NVCC_LOGS)."""
    files = sorted(path.name for path in (ROOT / "cuda").glob("*.cu"))
    return {k: v for file in files for k, v in parse(file, demangled((folder / file).read_text()), arch).items()}


def measure(architectures: tuple[str, ...]) -> tuple[dict[str, Instances], dict[tuple[str, str], float]]:
    """By architecture the instances of every file, and by file and architecture the seconds of processor time."""
    files = sorted(commands(), key=lambda file: -_weight(file))  # the longest first
    jobs = [(file, arch) for arch in architectures for file in files]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = dict(zip(jobs, pool.map(lambda job: compiled(*job), jobs), strict=True))
    instances = {arch: {k: v for f in files for k, v in results[f, arch][0].items()} for arch in architectures}
    return instances, {job: seconds for job, (_, seconds) in results.items()}


def _weight(file: str) -> int:
    """About how long a file takes: its record's lines, or all there is before there is a record."""
    return sum(name == file for name, _ in recorded()["sm_90"]) if RECORD.exists() else sys.maxsize


def compiler() -> str:
    """The release of nvcc, such as 13.0.88."""
    found = re.search(r"V([\d.]+)", run(tool("nvcc"), "--version"))
    assert found
    return found[1]


# --- the record -----------------------------------------------------------


def write(instances: dict[str, Instances], seconds: dict[tuple[str, str], float]) -> None:
    times = [
        f"# {file}: " + ", ".join(f"{arch} {seconds[file, arch]:.0f} s" for arch in ARCHITECTURES)
        for file in sorted({file for file, _ in seconds})
    ]
    lines = [
        "# Every kernel instance: registers a thread; bytes of spill stores and loads, stack and static shared memory.",
        "# By python tests/support/cuda_instances.py --write; tests/build/test_cuda.py holds the code to it.",
        f"# nvcc {compiler()}, seconds of processor time:",
        *times,
        "\t".join(["file", "kernel", *(f"{arch} {figure}" for arch in ARCHITECTURES for figure in FIGURES)]),
    ]
    for key in sorted(instances[ARCHITECTURES[0]]):
        figures = [getattr(instances[arch][key], figure) for arch in ARCHITECTURES for figure in FIGURES]
        lines.append("\t".join([*key, *map(str, figures)]))
    RECORD.write_text("\n".join(lines) + "\n")


@functools.cache
def recorded() -> dict[str, Instances]:
    lines = [line.split("\t") for line in RECORD.read_text().splitlines() if not line.startswith("#")]
    done: dict[str, Instances] = {arch: {} for arch in ARCHITECTURES}
    for file, kernel, *figures in lines[1:]:
        for i, arch in enumerate(ARCHITECTURES):
            part = figures[i * len(FIGURES) : (i + 1) * len(FIGURES)]
            done[arch][file, kernel] = Figures(*map(int, part))
    return done


def recorded_compiler() -> str:
    found = re.search(r"^# nvcc ([\d.]+)", RECORD.read_text(), re.M)
    assert found
    return found[1]


def differences(now: Instances, then: Instances) -> list[str]:
    """What a change did to the instances, a line each; nothing where all is as recorded."""
    said = [f"{'gone' if key in then else 'new'}: {' '.join(key)}" for key in sorted(now.keys() ^ then.keys())]
    for key in sorted(now.keys() & then.keys()):
        changed = [
            f"{figure} {getattr(then[key], figure)} -> {getattr(now[key], figure)}"
            for figure in FIGURES
            if getattr(now[key], figure) != getattr(then[key], figure)
        ]
        if changed:
            said.append(f"{' '.join(key)}: {', '.join(changed)}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="compile for all architectures and write the record")
    if parser.parse_args().write:
        write(*measure(ARCHITECTURES))
    else:
        instances, seconds = measure(ARCHITECTURES[:1])
        print(*differences(instances[ARCHITECTURES[0]], recorded()[ARCHITECTURES[0]]), sep="\n")
        print(*(f"{file} {arch}: {t:.0f} s" for (file, arch), t in seconds.items()), sep="\n")


if __name__ == "__main__":
    main()
