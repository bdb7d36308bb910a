"""zig as CMake's compiler: two wrapper scripts and a toolchain file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from targets import Target


def command(*arguments: str) -> list[str]:
    """A zig command line; the compiler is the package ziglang's."""
    return [sys.executable, "-m", "ziglang", *arguments]


def toolchain(target: Target, folder: Path) -> Path:
    """Writes the toolchain file for `target`, and the programs that it names, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = ["-target", target.triple]
    programs = {"c++": ["c++", *machine], "cc": ["cc", *machine], "ar": ["ar"], "ranlib": ["ranlib"], "rc": ["rc"]}
    for name, arguments in programs.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command(*arguments))} "$@"\n')
        program.chmod(0o755)
    lines = [
        f"set(CMAKE_SYSTEM_NAME {target.system})",
        f"set(CMAKE_SYSTEM_PROCESSOR {target.processor})",
        f"set(CMAKE_C_COMPILER {folder}/cc)",
        f"set(CMAKE_CXX_COMPILER {folder}/c++)",
        f"set(CMAKE_AR {folder}/ar)",
        f"set(CMAKE_RANLIB {folder}/ranlib)",
        f"set(CMAKE_RC_COMPILER {folder}/rc)",
        # zig refuses to change a run path after linking, and nothing is run from the build folder.
        "set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)",
        "set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)",
    ]
    if target.system == "Darwin":
        # zig brings its own SDK; CMake must not look for Apple's.
        lines += [
            'set(CMAKE_OSX_SYSROOT "")',
            'set(CMAKE_OSX_DEPLOYMENT_TARGET "")',
            "set(CMAKE_INSTALL_NAME_TOOL true)",
        ]
    path = folder / "toolchain.cmake"
    path.write_text("\n".join(lines) + "\n")
    return path
