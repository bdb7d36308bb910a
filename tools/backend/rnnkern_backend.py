"""scikit-build-core, with one addition: a failed build ends with the sentence that says what is missing.

The sentences about compilers and headers are CMake's (cmake/needs.cmake); the one about a full disk is written here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator

import scikit_build_core.build as _backend
from scikit_build_core.build import (  # noqa: F401  (hooks that pip calls)
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

_MEGABYTES = 150  # of object files and modules, on the disk of the temporary folder
_KEPT = 1 << 20  # characters of output


def build_wheel(*arguments: object, **named: object) -> str:
    return _explained(_backend.build_wheel, *arguments, **named)


def build_editable(*arguments: object, **named: object) -> str:
    return _explained(_backend.build_editable, *arguments, **named)


def _explained(build: Callable[..., str], *arguments: object, **named: object) -> str:
    output: list[str] = []
    try:
        with _copied(output):
            return build(*arguments, **named)
    except BaseException as error:
        sentence = reason("".join(output), error)
        if sentence is None:
            raise
        raise SystemExit(f"\n{sentence}") from None


def reason(output: str, error: BaseException) -> str | None:
    """The sentence that explains a failed build, or None."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or re.search(r"No space left on device|Disk quota exceeded", output):
        folder = tempfile.gettempdir()
        return (
            f"rnnkern needs about {_MEGABYTES} MB to build, and the disk is full ({_free(folder)} MB are free in "
            f"{folder}): "
            "free some space, or set TMPDIR to a folder on another disk."
        )
    # CMake wraps and indents a message, and adds a blank line or the places that it came from.
    found = re.findall(r"^ *(rnnkern needs .*?)(?=\n *\n|\nCall Stack|\Z)", output, re.M | re.S)
    return " ".join(found[-1].split()) if found else None


def _free(folder: str) -> int:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free >> 20
    return 0


@contextlib.contextmanager
def _copied(output: list[str]) -> Iterator[None]:
    """Copies what this process and its children print into `output`, and prints it as well."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    read, write = os.pipe()

    def pump() -> None:
        size = 0
        while chunk := os.read(read, 65536):
            with contextlib.suppress(OSError):
                os.write(saved[0], chunk)
            output.append(chunk.decode(errors="replace"))
            size += len(chunk)
            while size > _KEPT and len(output) > 1:
                size -= len(output.pop(0))

    thread = threading.Thread(target=pump)
    thread.start()
    os.dup2(write, 1)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        thread.join()
        for descriptor in (read, *saved):
            os.close(descriptor)
