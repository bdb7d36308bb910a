"""once.sh --dry runs every step without a GPU, to show that each is reached and writes its record. Its figures
mean nothing.

    python -m bench.gpu.dry worker|run ARGUMENTS      runs that module of this folder on the stand-ins

The problems are tiny, the tools of CUDA and the compiler are scripts, and torch's tensors lie on the CPU. Where the
module of rnnkern was built on the host emulator (.ci/simt), they pose as tensors of a GPU (tests/support/posing.py), so
that the CUDA kernels run; elsewhere kernels of the CPU run in their place.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from . import check, counters, linked, points, prepared, record
from .points import Point

_TESTS: Final = "tests/tools/test_gpu_commands.py"  # shrink() chooses some that need no GPU and are fast
_LATENCIES: Final = """#!/bin/sh
echo '{"name": "device", "gpu": "dry run"}'
for m in 1 2 3 4 5 6 7 8; do echo '{"name": "M'$m'", "case": "dry", "value": 1, "unit": "ns"}'; done
"""
# Stands in for a tool that runs another command: skips the tool's options, which end at the command's interpreter.
_WRAPPER: Final = """#!/bin/sh
while [ "$1" != {python} ]; do shift; done
{before}
exec "$@"
"""
_COUNTERS: Final = """
"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","void rnnk::gpu::team_forward_kernel<BFloat16, Lstm>(P)","GPU Speed Of Light","Duration","us","1.0"
"""
# Stands in for the C++ compiler: object files are empty, and the linked module is a copy of this environment's.
_COMPILER: Final = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
case "$2" in *.o) : > "$2" ;; *) cp {module} "$2" ;; esac
"""


def pretend(folder: Path, root: Path) -> prepared.Places:
    """For the process of once.py: puts stand-ins for tools first on the PATH, and writes what `prepare` would make."""
    where = prepared.Places(root, folder.resolve() / "carried", folder.resolve() / "site")
    shutil.rmtree(folder, ignore_errors=True)
    where.carried.mkdir(parents=True)
    tools = folder.resolve() / "tools"
    tools.mkdir()
    module, python = _module(), shlex.quote(sys.executable)
    scripts = {
        "c++": _COMPILER.format(module=shlex.quote(str(module))),
        "ncu": _WRAPPER.format(python=python, before=f"cat <<'END'{_COUNTERS}END"),
        "compute-sanitizer": _WRAPPER.format(python=python, before="echo ========= COMPUTE-SANITIZER"),
    }
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (where.carried / "latencies").write_text(_LATENCIES)
    prepared.write_manifest(where, {"sources": ["csrc/python/binding.cpp"], "flags": ["-O0"]}, {})
    os.environ |= {"PATH": os.pathsep.join([str(tools), os.environ["PATH"]]), "CXX": "c++"}
    shrink()
    return where


def _module() -> Path:
    found = importlib.util.find_spec("rnnkern")
    folders = found.submodule_search_locations if found else None
    modules = [path for folder in folders or () for path in Path(folder).glob(f"_core{linked.suffix()}")]
    if not modules:
        raise SystemExit("--dry: rnnkern has no module in this environment, so there is nothing to run")
    return modules[0]


def shrink() -> None:
    """Replaces plans by a few tiny points, and modules by stand-ins. Every process of a dry run calls it."""
    tiny = Point("lstm", "bf16", 24, 3, 4)
    flags = ["-S"] if sys.flags.no_site else []
    patched: dict[Any, dict[str, Any]] = {
        check: {
            "module": lambda name: [sys.executable, *flags, "-m", f"{__package__}.dry", name],
            "tests": lambda: [
                *(sys.executable, *flags, "-m", "pytest", "-q", "-p", f"{__package__}.failures"),
                *("-p", "no:cacheprovider", "-k", "a_walk_ends or steps_share or budget_of_nothing", _TESTS),
            ],
            "SMOKE": (tiny,),
            "REPEATED": (tiny,),
            "CAPTURED": (tiny,),
            "MEMCHECKED": (tiny,),
            "TOGETHER": (({}, Point("lstm", "bf16", 24, 3, 4, directions=2)), ({}, Point("gru", "bf16", 24, 3, 4, 4))),
            "TIMES": 2,
            "TOGETHER_TIMES": 2,
        },
        counters: {"PROFILED": {"": tiny}},  # by the kernel that is chosen
        linked: {"_headers": lambda where: ()},
        points: {"grid": lambda **given: [tiny]},
        record: {"refusal": lambda: "", "gpu": lambda: {"name": "dry run", "capability": "9.0", "now": {}}},
    }
    for module, values in patched.items():
        for name, value in values.items():
            assert hasattr(module, name), name
            setattr(module, name, value)


def _pose() -> bool:
    """Whether the CUDA kernels run here, on the host emulator."""
    from rnnkern import _core

    if _core.device_count() == 0 or "SIMT" not in _core.device_info(0)["name"]:
        return False
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests/support"))
    import pytest

    import posing

    posing.pose(pytest.MonkeyPatch())
    return True


def main(name: str, words: list[str]) -> int:
    shrink()
    from . import contenders, run, worker

    if name == "run":
        contenders.launched = lambda call: {"none": 1}  # torch's profiler sees kernels of a GPU alone
        run.app(words)
    from .. import timing

    if not _pose():
        worker.DEVICE = "cpu_scalar"
    how = contenders.How("cpu", timing.Plan(blocks=2, block=0.001, pause=None), None)
    return 0 if worker.serve(words or sys.stdin, how) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
