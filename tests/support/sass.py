"""The machine code that ptxas makes (SASS, sm_70 and later), as nvdisasm prints it: instructions, their control bits,
their source lines.

An instruction is 128 bits. ptxas schedules: bits 105 to 125 tell the hardware when the next instruction may be issued
and what to wait for. Their meaning is known from public work (Z. Jia et al., "Dissecting the NVIDIA Volta GPU
architecture via microbenchmarking", 2018; CuAssembler; turingas):

    105-108  stall: cycles until the warp's next instruction may be issued
    109      0: the scheduler prefers another warp then (yield)
    110-112  scoreboard that the result raises until it is there; 7: none
    113-115  scoreboard that the operands raise until they have been read; 7: none
    116-121  scoreboards that must be down before this instruction is issued, a bit each
    122-125  operands kept for the next instruction

Source lines come from -lineinfo, which the build always has: the code is the same with it and without.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from native import found

NO_SCOREBOARD = 7
MISSING = "nvdisasm is not installed: it comes with the CUDA toolkit, or pip install nvidia-cuda-nvdisasm"
Line = tuple[str, int]  # a source file's name, without its folder, and a line of it


@dataclass(frozen=True)
class Control:
    """What ptxas tells the hardware about one instruction."""

    stall: int
    yields: bool
    written: int  # scoreboards, or NO_SCOREBOARD
    read: int
    waits: int  # a bit for each scoreboard


def control(word: int) -> Control:
    """The control bits of an instruction of 128 bits."""
    bits = word >> 105
    return Control(bits & 15, not bits >> 4 & 1, bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63)


@dataclass(frozen=True)
class Instruction:
    """One instruction. ``lines``: its source line, then the call that this was inlined at, and so on up to the
    kernel."""

    address: int
    predicate: str  # such as "@!P0", or ""
    opcode: str  # with its suffixes, such as "STG.E.128.STRONG.GPU"
    operands: str
    control: Control
    lines: tuple[Line, ...] = ()

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def never(self) -> bool:
        """It is there for its timing alone."""
        return self.predicate == "@!PT"

    @property
    def targets(self) -> list[str]:
        """The labels of a branch, a call or a jump through a table."""
        if table := re.search(r'BRANCH_TARGETS ([^"]+)"', self.operands):
            return table[1].split(",")
        return re.findall(r"`\(([^)]+)\)", self.operands)


@dataclass(frozen=True)
class Code:
    """One function's section: a kernel, and behind it what it calls. ``labels``: indices of instructions."""

    name: str  # mangled
    instructions: list[Instruction]
    labels: dict[str, int]


# --- nvdisasm ---------------------------------------------------------------


def nvdisasm() -> str | None:
    """The program of the CUDA toolkit, or that of the package nvidia-cuda-nvdisasm beside this interpreter."""
    if path := found("nvdisasm"):
        return path
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.stem == "nvdisasm"), None)


def disassembled(cubin: Path, lines: bool = True) -> Iterator[Code]:
    """Every function of a cubin, with source lines or (faster) without; skips the test where nvdisasm is missing."""
    program = nvdisasm()
    if not program:
        pytest.skip(MISSING)
    command = [program, "--print-code", "--print-instruction-encoding", str(cubin)]
    command += ["--print-line-info-inline"] if lines else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield from parsed(process.stdout)
    assert process.returncode == 0, f"nvdisasm {cubin}: exit status {process.returncode}"


_FILE = re.compile(r'\t//## File "(?:[^"]*/)?([^"/]+)", line (\d+)')
_CODE = re.compile(
    r"\s+/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z]\S*?)(?:\s+(.*?))?\s*;\s*/\* 0x([0-9a-f]{16}) \*/"
)
_HIGH = re.compile(r"\s+/\* 0x([0-9a-f]{16}) \*/")


def parsed(text: Iterator[str]) -> Iterator[Code]:
    """The functions in nvdisasm's text. An instruction without source lines of its own has those of the one before."""
    code: Code | None = None
    lines: tuple[Line, ...] = ()
    fresh = True
    for line in text:
        if line.startswith("//-----") and ".text." in line:
            if code:
                yield code
            code, lines = Code(line.split(".text.")[1].split()[0], [], {}), ()
        elif at := _FILE.match(line):
            lines, fresh = (() if fresh else lines) + ((at[1], int(at[2])),), False
        elif code and line[0] in ".$_" and line.rstrip().endswith(":"):
            code.labels[line.rstrip()[:-1]] = len(code.instructions)
        elif code and (one := _CODE.match(line)):
            high = _HIGH.match(next(text))
            assert high, f"{code.name} {one[1]}: half an instruction"
            bits = control(int(high[1], 16) << 64 | int(one[5], 16))
            code.instructions.append(Instruction(int(one[1], 16), one[2] or "", one[3], one[4] or "", bits, lines))
            fresh = True
    if code:
        yield code
