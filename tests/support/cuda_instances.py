"""What ptxas makes of every kernel instance of cuda/*.cu, and the record of it, cuda/instances.tsv.

    python tests/support/cuda_instances.py --write     compiles for sm_90 and sm_80 and writes the record; minutes
    python tests/support/cuda_instances.py             compiles for sm_90 and prints what differs from the record
    python tests/support/cuda_instances.py --path "team_forward_kernel<BFloat16, Lstm>"
                                                       where the cycles of that kernel's paths go, line by line

Registers and spills are what ptxas says of them; bytes of code and the paths (kernel_paths.py) are read in its
machine code for sm_90, which takes nvdisasm (sass.py). Flags are those of a build with RNNKERN_CUDA=ON, which CMake
is asked for. What was compiled is kept in build/tests for as long as cuda/ and csrc/ stay as they are.
tests/build/test_cuda.py holds the code to the record.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import kernel_paths
import sass
import sass_walk
from native import ROOT, once, run, scratch, tool

RECORD = ROOT / "cuda" / "instances.tsv"
ARCHITECTURES = ("sm_90", "sm_80")


@dataclass(frozen=True)
class Figures:
    """One instance: registers a thread; bytes of spill stores and loads, of stack, of static shared memory. In the
    machine code for sm_90: bytes of code, and what kernel_paths.py says of the instance's paths; None of one that it
    has not."""

    registers: int
    spill: int
    stack: int
    shared: int
    code: int | None = None
    message_instructions: int | None = None
    message_cycles: int | None = None
    cluster_message_instructions: int | None = None
    cluster_message_cycles: int | None = None
    tile_instructions: int | None = None
    tile_cycles: int | None = None
    cluster_tile_instructions: int | None = None
    cluster_tile_cycles: int | None = None
    divisions: int | None = None


_ALL = tuple(field.name for field in dataclasses.fields(Figures))
FIGURES = {"sm_90": _ALL, "sm_80": _ALL[:4]}  # what the record has
IN_CODE = _ALL[4:]


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


def compiled(file: str, arch: str) -> Path:
    """A folder with one file's `cubin` for one architecture, what ptxas `said` and the `seconds` of processor time it
    took."""

    def make(to: Path) -> None:
        folder, command = commands()[file]
        output = ["-x", "cu", "-cubin", str(ROOT / "cuda" / file), "-o", str(to / "cubin")]
        command = [*command, f"-arch={arch}", "-Xptxas=-v", *output]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as nvcc:
            assert nvcc.stdout
            said = nvcc.stdout.read()
            _, status, used = os.wait4(nvcc.pid, 0)
            nvcc.returncode = os.waitstatus_to_exitcode(status)
        assert nvcc.returncode == 0, f"{shlex.join(command)}: exit status {nvcc.returncode}\n{said}"
        (to / "said").write_text(said)
        (to / "seconds").write_text(str(used.ru_utime + used.ru_stime))

    name = f"cuda-{compiler()}-{arch}-{Path(file).stem}"
    return once(name, make, ROOT / "cuda", ROOT / "cmake", ROOT / "CMakeLists.txt")


def codes(cubin: Path, lines: bool = True) -> Iterator[tuple[str, sass.Code]]:
    """The kernels of a cubin by name."""
    for code in sass.disassembled(cubin, lines):
        yield short(demangled(code.name).strip()), code


def with_code(instances: Instances, file: str, cubin: Path) -> Instances:
    """The instances of one file, with what is read in their machine code."""
    lines = any(kernel_paths.kernel_of(kernel) for _, kernel in instances)
    read = {(file, kernel): kernel_paths.figures(kernel, code) for kernel, code in codes(cubin, lines)}
    assert read.keys() == instances.keys(), f"{file}: the cubin has other kernels than ptxas speaks of"
    return {key: dataclasses.replace(figures, **read[key]) for key, figures in instances.items()}


def demangled(said: str) -> str:
    return subprocess.run([tool("c++filt")], input=said, stdout=subprocess.PIPE, text=True, check=True).stdout


def files() -> list[str]:
    return sorted(path.name for path in (ROOT / "cuda").glob("*.cu"))


def kept(folder: Path, arch: str) -> Instances:
    """The instances of a build that kept what ptxas said, and its cubins (.ci/cuda with RNNKERN_NVCC_LOGS)."""
    done: Instances = {}
    for file in files():
        found = parse(file, demangled((folder / file).read_text()), arch)
        (cubin,) = folder.glob(f"{Path(file).stem}.*{arch}.cubin")
        done |= with_code(found, file, cubin) if sass.nvdisasm() else found
    return done


def measure(architectures: tuple[str, ...]) -> tuple[dict[str, Instances], dict[tuple[str, str], float]]:
    """By architecture the instances of every file, and by file and architecture the seconds of processor time. Without
    nvdisasm, nothing that is read in machine code."""
    commands()  # once, before threads ask for it
    longest_first = sorted(files(), key=lambda file: -_weight(file))
    jobs = [(file, arch) for arch in architectures for file in longest_first]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        folders = dict(zip(jobs, pool.map(lambda job: compiled(*job), jobs), strict=True))
    instances: dict[str, Instances] = {arch: {} for arch in architectures}
    for (file, arch), folder in folders.items():
        found = parse(file, demangled((folder / "said").read_text()), arch)
        in_code = len(FIGURES[arch]) > 4 and sass.nvdisasm()
        instances[arch] |= with_code(found, file, folder / "cubin") if in_code else found
    return instances, {job: float((folder / "seconds").read_text()) for job, folder in folders.items()}


def _weight(file: str) -> int:
    """About how long a file takes: its record's lines, or all there is before there is a record."""
    return sum(name == file for name, _ in recorded()["sm_90"]) if RECORD.exists() else sys.maxsize


def compiler() -> str:
    """The release of nvcc, such as 13.0.88."""
    found = re.search(r"V([\d.]+)", run(tool("nvcc"), "--version"))
    assert found
    return found[1]


# --- the record -----------------------------------------------------------


def cells(figures: Figures, arch: str) -> list[str]:
    """A row's part for one architecture."""
    values = [getattr(figures, figure) for figure in FIGURES[arch]]
    return ["-" if value is None else str(value) for value in values]


def from_cells(some: list[str]) -> Figures:
    return Figures(*(None if cell == "-" else int(cell) for cell in some))  # type: ignore[arg-type]


def write(instances: dict[str, Instances], seconds: dict[tuple[str, str], float]) -> None:
    times = [
        f"# {file}: " + ", ".join(f"{arch} {seconds[file, arch]:.0f} s" for arch in ARCHITECTURES)
        for file in sorted({file for file, _ in seconds})
    ]
    lines = [
        "# Every kernel instance: registers a thread; bytes of spill stores and loads, stack and static shared memory;",
        "# bytes of machine code; on its paths (support/kernel_paths.py) instructions, cycles, divisions of integers.",
        "# By python tests/support/cuda_instances.py --write; tests/build/test_cuda.py holds the code to it.",
        f"# nvcc {compiler()}, seconds of processor time:",
        *times,
        "\t".join(["file", "kernel", *(f"{arch} {figure}" for arch in ARCHITECTURES for figure in FIGURES[arch])]),
    ]
    for key in sorted(instances[ARCHITECTURES[0]]):
        lines.append("\t".join([*key, *(cell for arch in ARCHITECTURES for cell in cells(instances[arch][key], arch))]))
    RECORD.write_text("\n".join(lines) + "\n")


@functools.cache
def recorded() -> dict[str, Instances]:
    lines = [line.split("\t") for line in RECORD.read_text().splitlines() if not line.startswith("#")]
    done: dict[str, Instances] = {arch: {} for arch in ARCHITECTURES}
    columns = {arch: [at for at, name in enumerate(lines[0]) if name.startswith(f"{arch} ")] for arch in ARCHITECTURES}
    for row in lines[1:]:
        for arch, some in columns.items():
            done[arch][row[0], row[1]] = from_cells([row[at] for at in some])
    return done


def recorded_compiler() -> str:
    found = re.search(r"^# nvcc ([\d.]+)", RECORD.read_text(), re.M)
    assert found
    return found[1]


def differences(now: Instances, then: Instances) -> list[str]:
    """What a change did to the instances, a line each; nothing where all is as recorded."""
    said = [f"{'gone' if key in then else 'new'}: {' '.join(key)}" for key in sorted(now.keys() ^ then.keys())]
    return said + _changes(now, then, lambda a, b: a != b)


def worse(now: Instances, then: Instances, figures: tuple[str, ...]) -> list[str]:
    """The instances of which one of the figures is above the recorded one, a line each."""
    return _changes(now, then, lambda a, b: a is not None and b is not None and b > a, figures)


def _changes(
    now: Instances, then: Instances, counts: Callable[[int | None, int | None], bool], figures: tuple[str, ...] = _ALL
) -> list[str]:
    said = []
    for key in sorted(now.keys() & then.keys()):
        pairs = [(figure, getattr(then[key], figure), getattr(now[key], figure)) for figure in figures]
        changed = [f"{figure} {a} -> {b}" for figure, a, b in pairs if counts(a, b)]
        if changed:
            said.append(f"{' '.join(key)}: {', '.join(changed)}")
    return said


def show_path(kernel: str, ldg: int) -> None:
    """Prints where the cycles of one kernel's paths go."""
    file = next((file for file, name in recorded()["sm_90"] if name == kernel), None)
    if not file or not kernel_paths.kernel_of(kernel):
        known = [name for _, name in recorded()["sm_90"] if kernel_paths.kernel_of(name)]
        raise SystemExit(f"--path: expected one of {', '.join(known)}, got {kernel}")
    for name, code in codes(compiled(file, "sm_90") / "cubin"):
        if name == kernel:
            kernel_paths.report(name, code, ldg)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="compile for all architectures and write the record")
    parser.add_argument("--path", metavar="KERNEL", help="print where the cycles of this kernel's paths go")
    parser.add_argument(
        "--global-load", metavar="CYCLES", type=int, default=sass_walk.LDG, help="of a load from global memory"
    )
    given = parser.parse_args()
    if given.path:
        show_path(given.path, given.global_load)
    elif given.write:
        if not sass.nvdisasm():
            raise SystemExit(f"--write: {sass.MISSING}")
        write(*measure(ARCHITECTURES))
    else:
        instances, seconds = measure(ARCHITECTURES[:1])
        print(*differences(instances[ARCHITECTURES[0]], recorded()[ARCHITECTURES[0]]), sep="\n")
        print(*(f"{file} {arch}: {t:.0f} s" for (file, arch), t in seconds.items()), sep="\n")


if __name__ == "__main__":
    main()
