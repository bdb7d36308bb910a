"""Finding the headers of each Python that a wheel is for. A module needs no interpreter to be built, only these."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

VERSIONS = ("3.10", "3.11", "3.12", "3.13")


class Missing(Exception):
    """A sentence that names what is missing."""


def version_of(folder: Path) -> str:
    """The version ("3.12") whose headers lie in `folder`."""
    path = folder / "patchlevel.h"
    if not path.is_file() or not (folder / "Python.h").is_file():
        raise Missing(f"--headers {folder}: expected a folder with Python.h and patchlevel.h")
    text = path.read_text()
    parts = [re.search(rf"#define\s+PY_{part}_VERSION\s+(\d+)", text) for part in ("MAJOR", "MINOR")]
    return ".".join(part[1] for part in parts if part)


def find(versions: Iterable[str], given: Iterable[Path], *, search: bool) -> dict[str, Path]:
    """The folder of each version: those given, and with `search` those of Pythons on this machine."""
    found = {version_of(folder): folder.resolve() for folder in given}
    result = {}
    for version in versions:
        folders = [found[version]] if version in found else list(_installed(version)) if search else []
        if not folders:
            raise Missing(
                f"the headers of Python {version} are missing: give their folder with --headers (Debian: "
                f"libpython{version}-dev; Fedora: python{version}-devel), or leave it out with --python"
            )
        result[version] = folders[0]
    return result


def of_one_machine(folder: Path, version: str, to: Path) -> Path:
    """The headers without the split of Debian, whose pyconfig.h includes another folder's file: a copy in `to`."""
    named = re.findall(r"#\s*include <(\S+/pyconfig\.h)>", (folder / "pyconfig.h").read_text())
    present = [folder.parent / name for name in named if (folder.parent / name).is_file()]
    if not present:
        return folder
    copy = to / f"python{version}"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    shutil.copy2(present[0], copy / "pyconfig.h")
    return copy


def _installed(version: str) -> Iterator[Path]:
    """Folders with Python.h: of the interpreter on PATH, then of pyenv's."""
    if program := shutil.which(f"python{version}"):
        code = "import sysconfig; print(sysconfig.get_path('include'))"
        done = subprocess.run([program, "-c", code], capture_output=True, text=True)
        folder = Path(done.stdout.strip())
        if done.returncode == 0 and (folder / "Python.h").is_file():
            yield folder
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for folder in sorted(pyenv.glob(f"versions/{version}.*/include/python{version}"), reverse=True):
        if (folder / "Python.h").is_file():
            yield folder
