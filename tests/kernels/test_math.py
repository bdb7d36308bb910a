"""The error contracts of csrc/cells: exp, sigmoid, tanh and reciprocal over each kernel's own vectors.

A small program compiled from the kernel's ISA file, with its flags, sweeps the numbers; math/sweep.h says how.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from native import CPU_FILES, INCLUDES, KernelFile, run, tool
from runner import UNAVAILABLE

HERE = Path(__file__).parent / "math"
sys.path.insert(0, str(HERE))
from contract import bounds, broken  # noqa: E402

# The others' vectors are those of cpu_avx512.
OWN_VECTORS = [kernel for kernel in CPU_FILES if "Native<" in kernel.source.read_text()]


@pytest.mark.parametrize("kernel", OWN_VECTORS, ids=lambda k: k.name)
def test_stated_errors_hold(kernel: KernelFile, tmp_path: Path) -> None:
    """8.6 million floats and 2.1 million doubles of each function, in all binades and again where they bend.

    Another architecture's vectors run under its emulator, where one is installed, on a thirtieth of the numbers.
    """
    emulator: list[str] = []
    if kernel.machine != KernelFile("cpu_scalar", kernel.source, ()).machine:
        emulator = [tool(f"qemu-{kernel.machine}"), "-L", f"/usr/{kernel.machine}-linux-gnu"]
    elif reason := UNAVAILABLE.get(kernel.name, "not built here"):
        pytest.skip(f"{kernel.name}: {reason}")
    program = tmp_path / "sweep"
    run(
        kernel.compiler, "-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", *kernel.flags,
        "-I", HERE / "stub", "-I", HERE, *INCLUDES, kernel.source, HERE / "main.cpp", "-o", program,
    )  # fmt: skip
    assert not broken(run(*emulator, program, *(["30011", "120011"] if emulator else [])))


def test_a_broken_contract_is_seen() -> None:
    names = bounds()
    good = "\n".join(f"{name} {dtype} 0.5 0x1p+0" for name in names for dtype in ("f32", "f64"))
    assert not broken(good)
    assert broken(good.replace("tanh f32 0.5", "tanh f32 4.01")) == ["tanh f32: 4.01 ulp at 1.0, stated 4"]
    assert broken(good.replace("tanh f32 0.5", "tanh f32 nan"))
    assert broken(good.replace("exp f64 0.5 0x1p+0\n", "")) == ["exp f64: not measured"]
    assert broken(f"{good}\nwrong: f32 tanh at 0x1p+0") == ["wrong: f32 tanh at 0x1p+0"]
