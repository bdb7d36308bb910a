"""torch's threads for rnnkern's kernels.

Two pools on the same cores fight: torch's threads spin for milliseconds after each operation, in case of another, and
a kernel that meets at every step of time waits for the core that they hold. So rnnkern.torch runs on torch's own
OpenMP pool, through the two functions of the library that torch was linked with.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from .. import _core


def borrow() -> bool:
    """Run on torch's threads from now on. False: this torch has no OpenMP pool that can be reached, nothing changes.

    ``RNNKERN_TORCH_THREADS=0`` in the environment keeps rnnkern's own.
    """
    if os.environ.get("RNNKERN_TORCH_THREADS", "") == "0":
        return False
    found = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"), None)
    try:
        library = ctypes.CDLL(None if found is None else str(found))  # a handle finds what the library depends on, too
        parallel, index = library.GOMP_parallel, library.omp_get_thread_num
    except (OSError, AttributeError):
        return False
    address = [ctypes.cast(function, ctypes.c_void_p).value for function in (parallel, index)]
    _core.set_pool(address[0] or 0, address[1] or 0)
    return True


def give_back() -> None:
    """rnnkern's own threads again."""
    _core.set_pool(0)
