"""Builds wheels with zig for machines other than this one, or with nvcc for GPUs.

    python tools/wheels                                    x86-64 Linux, Python 3.10 to 3.13
    python tools/wheels --target aarch64-linux --check
    python tools/wheels --target x86_64-windows            the C library; with --headers FOLDER wheels too
    python tools/wheels --cuda --python 3.12               rnnkern-cuda, by nvcc and this machine's compiler

Needs: pip install ziglang cmake ninja pybind11 scikit-build-core wheel auditwheel
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import check
import headers
from build import ROOT, compile_modules, install_c_library
from package import write_wheel
from targets import TARGETS

LARGEST = 8 << 20  # bytes of a wheel without CUDA


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("tools/wheels", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--target", choices=sorted(TARGETS), default="x86_64-linux", help="the machine that wheels are for")
    add(
        "--python", nargs="+", choices=headers.VERSIONS, default=headers.VERSIONS, metavar="3.N", help="Python versions"
    )
    add(
        "--headers",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="folder with Python.h; repeat it for each version. Linux targets also look for installed\n"
        "Pythons: the headers of 64-bit Linux are the same for x86-64 and AArch64",
    )
    add("--output", type=Path, default=ROOT / "dist", metavar="FOLDER", help="where wheels go (default: dist)")
    add("--build", type=Path, metavar="FOLDER", help="where objects go (default: build/wheels-TARGET)")
    add("--kernels", default="", metavar="NAMES", help="only these kernels, semicolons between them; for trials")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="compilers side by side")
    add("--cuda", action="store_true", help="the wheel rnnkern-cuda, with kernels for sm_80, sm_90 and later GPUs")
    add("--check", action="store_true", help="also install each wheel without a compiler and run tests")
    add(
        "--site",
        type=Path,
        metavar="FOLDER",
        help="with --check: site-packages of one Python with torch,\nwhich tests of more kinds need",
    )
    return parser.parse_args()  # fmt: skip


def main() -> None:
    asked = arguments()
    target = TARGETS[asked.target]
    if asked.cuda and asked.target != "x86_64-linux":
        sys.exit("--cuda: expected --target x86_64-linux, because nvcc builds for this machine")
    linux = target.system == "Linux"
    try:
        found = headers.find(asked.python, asked.headers, search=linux) if linux or asked.headers else {}
    except headers.Missing as error:
        sys.exit(str(error))
    build = asked.build or ROOT / "build" / f"wheels-{asked.target}{'-cuda' * asked.cuda}"
    modules = compile_modules(target, found, build, jobs=asked.jobs, kernels=asked.kernels, cuda=asked.cuda)
    if asked.check and not asked.cuda:
        check.run_selftest(target, build)
    if not modules:
        to = asked.output / f"rnnkern-c-{asked.target}"
        install_c_library(build, to)
        print(f"{to}: the C library; wheels need --headers FOLDER")
    for version, module in modules.items():
        name, platform = ("rnnkern-cuda", "linux_x86_64") if asked.cuda else ("rnnkern", target.platform)
        wheel = write_wheel(module, version, platform, asked.output, name=name)
        size = wheel.stat().st_size
        print(f"{wheel}: {size / 2**20:.2f} MB", flush=True)
        if size > LARGEST and not asked.cuda:
            sys.exit(f"{wheel.name}: expected at most {LARGEST >> 20} MB")
        if linux:
            print(check.policy(wheel, expected=None if asked.cuda else target.platform), flush=True)
        if asked.check:
            check.run_tests(wheel, version, target, build, site=asked.site)


try:
    main()
except subprocess.CalledProcessError as error:
    sys.exit(f"failed with status {error.returncode}: {' '.join(map(str, error.cmd))}")
