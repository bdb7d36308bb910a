"""Where cuBLASLt is when the loader's path does not lead to it: in NVIDIA's Python packages, which put it beside no
program's path, or in a toolkit. Imports nothing of those; the library itself opens what is found (cuda/blas.cpp).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_NAMES = ("libcublasLt.so.13", "libcublasLt.so.12")


def cublaslt() -> str | None:
    """The file's path, of the newest major version that is found, or None."""
    folders = list(_folders())
    for name in _NAMES:
        for folder in folders:
            if (folder / name).is_file():
                return str(folder / name)
    return None


def _folders() -> Iterator[Path]:
    # The packages share a namespace: nvidia-cublas lies in nvidia/cu13/lib, nvidia-cublas-cu12 in nvidia/cublas/lib.
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(root).glob("*/lib"))
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        if toolkit := os.environ.get(variable):
            yield Path(toolkit) / "lib64"
    yield Path(sys.prefix) / "lib"  # Conda's
    yield Path("/usr/local/cuda/lib64")
