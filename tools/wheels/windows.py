"""The import library of Python's DLL, which a module for Windows is linked with. It is made from a list of names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import zig

# Functions and objects that the headers declare, by pyport.h's macros. The linker takes those that a module uses.
_FUNCTION = re.compile(r"(?:PyAPI_FUNC|PyAPI_DATA)\s*\(.*?\)\s*\(?\s*\*?\s*(_?Py\w+)", re.S)


def with_import_library(version: str, headers: Path, folder: Path) -> Path:
    """A copy of the headers in `folder`, with libs/python.lib beside them."""
    copy = folder / f"python{version}"
    shutil.copytree(headers, copy, dirs_exist_ok=True)
    names: set[str] = set()
    for header in headers.rglob("*.h"):
        names.update(_FUNCTION.findall(header.read_text(errors="replace")))
    library = f"python{version.replace('.', '')}"
    definitions = copy / "libs" / "python.def"
    definitions.parent.mkdir(exist_ok=True)
    definitions.write_text("\n".join([f"LIBRARY {library}.dll", "EXPORTS", *sorted(names)]) + "\n")
    output = definitions.with_suffix(".lib")
    subprocess.run(zig.command("dlltool", "-m", "i386:x86-64", "-d", str(definitions), "-l", str(output)), check=True)
    return copy
