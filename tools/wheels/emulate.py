"""An AArch64 Python that runs here under qemu-user: Debian's own, unpacked in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = ("numpy", "ml_dtypes", "safetensors", "pytest")


def debian_python(folder: Path) -> tuple[str, list[str]]:
    """Downloads Debian's Python into `folder`, once; returns its version and the command that runs it."""
    root = folder / "root"
    if not any(root.glob("usr/bin/python3.*")):
        _unpack(folder, root, ("python3-minimal", "libpython3-stdlib", "libstdc++6"))
    (program,) = root.glob("usr/bin/python3.*")
    return program.name.removeprefix("python"), ["qemu-aarch64", "-L", str(root), str(program)]


def packages(wheel: Path, version: str, folder: Path) -> Path:
    """A folder with the contents of `wheel`, and of what it and the tests need."""
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in (17, 26, 27, 28)] + ["manylinux2014_aarch64"]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", folder, "--only-binary", ":all:"),
            *("--python-version", version, "--implementation", "cp"),
            *(part for platform in platforms for part in ("--platform", platform)),
            *(wheel, *_PACKAGES),
        ],
        check=True,
    )
    return folder


def _unpack(folder: Path, root: Path, names: Sequence[str]) -> None:
    """apt downloads for another architecture; this system's own package lists are not touched."""
    for part in ("state/lists/partial", "cache/archives/partial", "root"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "state/status").touch()
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state/status",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "-y", "--no-install-recommends", "--download-only", *names], check=True)
    for package in sorted((folder / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)
