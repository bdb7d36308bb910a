"""The error bounds that csrc/cells states in its comments, and the check of a sweep's output against them.

python contract.py FILE: exits with a message when FILE, what tests/kernels/math/main.cpp printed, breaks a bound.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CELLS = Path(__file__).parents[3] / "csrc" / "cells"


def bounds() -> dict[str, float]:
    """Function -> ulp, read from the text, so that the number in the comment is the number in the test."""
    stated = re.findall(r"^//   (\w+) +(\d+) ulp", (CELLS / "math.h").read_text(), re.M)
    stated += re.findall(r"^//   (reciprocal)\(a\) .*, to (\d+) ulp", (CELLS / "hd.h").read_text(), re.M)
    found = {name: float(ulp) for name, ulp in stated}
    assert found.keys() == {"exp", "sigmoid", "tanh", "reciprocal"}, f"a contract is missing: {found}"
    return found


def broken(output: str) -> list[str]:
    """Every line of a sweep that breaks a bound or reports a property that does not hold."""
    stated, seen, bad = bounds(), set(), []
    for line in output.splitlines():
        if line.startswith("wrong:"):
            bad.append(line)
            continue
        function, dtype, ulp, at = line.split()
        seen.add((function, dtype))
        if not float(ulp) <= stated[function]:
            bad.append(f"{function} {dtype}: {ulp} ulp at {float.fromhex(at)!r}, stated {stated[function]:g}")
    missing = {(f, d) for f in stated for d in ("f32", "f64")} - seen
    return bad + [f"{function} {dtype}: not measured" for function, dtype in sorted(missing)]


if __name__ == "__main__":
    sys.exit("\n".join(broken(Path(sys.argv[1]).read_text())) or 0)
