"""torch's threads for rnnkern's kernels.

Two pools on the same cores fight: torch's threads spin for milliseconds after each operation, in case of another, and a
kernel that meets at every step of time waits for the core that they hold. So rnnkern.torch runs on torch's own OpenMP
pool, through the two functions of the library that torch was linked with.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from .. import _core

_FORKED = 0x40  # PF_FORKNOEXEC of Linux: this process was forked and has executed no program since


def borrow() -> bool:
    """Run on torch's threads from now on, and on no more than torch has at this moment.

    False, and nothing changes: this torch has no OpenMP pool that can be reached; this process is a forked child, in
    which the pool's threads may not be; ``RNNKERN_TORCH_THREADS=0`` is in the environment.
    """
    if os.environ.get("RNNKERN_TORCH_THREADS", "") == "0" or _forked():
        return False
    found = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"), None)
    try:
        library = ctypes.CDLL(None if found is None else str(found))  # a handle finds what the library depends on, too
        parallel, index = library.GOMP_parallel, library.omp_get_thread_num
    except (OSError, AttributeError):
        return False
    address = [ctypes.cast(function, ctypes.c_void_p).value for function in (parallel, index)]
    _core.set_pool(address[0] or 0, address[1] or 0, min(torch.get_num_threads(), 256))
    return True


def give_back() -> None:
    """rnnkern's own threads again."""
    _core.set_pool(0)


def _forked() -> bool:
    """libgomp waits for ever in a child for the threads that its parent had."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return bool(int(fields[6]) & _FORKED)
    except (OSError, ValueError, IndexError):  # not Linux: only multiprocessing's children can be told
        import multiprocessing

        return multiprocessing.parent_process() is not None and multiprocessing.get_start_method() == "fork"
