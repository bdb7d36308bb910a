"""The machines that wheels are built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One machine: names that zig, CMake, Python and wheels have for it."""

    triple: str  # zig's
    system: str  # CMake's
    processor: str
    platform: str  # tag in a wheel's file name
    library: str  # file that CMake makes of the C library
    module: str  # end of an extension module's file name; {version} is 310, 311, ...

    def suffix(self, version: str) -> str:
        """File name suffix of an extension module for Python `version` ("3.12")."""
        return self.module.format(version=version.replace(".", ""))


TARGETS = {
    "x86_64-linux": Target(
        "x86_64-linux-gnu.2.17", "Linux", "x86_64", "manylinux_2_17_x86_64.manylinux2014_x86_64",
        "librnnkern.so", ".cpython-{version}-x86_64-linux-gnu.so",
    ),
    "aarch64-linux": Target(
        "aarch64-linux-gnu.2.17", "Linux", "aarch64", "manylinux_2_17_aarch64.manylinux2014_aarch64",
        "librnnkern.so", ".cpython-{version}-aarch64-linux-gnu.so",
    ),
    "aarch64-macos": Target(
        "aarch64-macos.11.0", "Darwin", "arm64", "macosx_11_0_arm64",
        "librnnkern.dylib", ".cpython-{version}-darwin.so",
    ),
    "x86_64-windows": Target(
        "x86_64-windows-gnu", "Windows", "AMD64", "win_amd64",
        "librnnkern.dll", ".cp{version}-win_amd64.pyd",
    ),
}  # fmt: skip
