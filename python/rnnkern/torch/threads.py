"""torch's threads for rnnkern's kernels.

Two pools on the same cores fight: torch's threads spin for milliseconds after each operation, in case of another, and a
kernel that meets at every step of time waits for the core that they hold. So rnnkern.torch runs on torch's own OpenMP
pool, through the functions of the library that torch was linked with. How many threads a call may use, torch says at
each call: ``torch.set_num_threads`` may come later, and a DataLoader's worker has one.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from .. import _core

_FORKED = 0x40  # PF_FORKNOEXEC of Linux: this process was forked and has executed no program since
# int at::get_num_threads(), as the C++ ABIs of Linux and macOS, and of Windows, write its name.
_GET_NUM_THREADS = ("_ZN2at15get_num_threadsEv", "?get_num_threads@at@@YAHXZ")


def borrow() -> bool:
    """Run on torch's threads from now on, and never on more than ``torch.get_num_threads()``.

    False: rnnkern's own threads go on, because this torch has no OpenMP pool that can be reached, because this process
    is a forked child, in which the pool's threads may not be, or because ``RNNKERN_TORCH_THREADS=0`` is in the
    environment. Only in the last case may they be more than torch's.
    """
    if os.environ.get("RNNKERN_TORCH_THREADS", "") == "0":
        return False
    files = (Path(torch.__file__).parent / "lib").glob("*torch_cpu.*")
    found = next((file for file in files if file.suffix in (".so", ".dylib", ".dll")), None)
    try:
        library = ctypes.CDLL(None if found is None else str(found))  # a handle finds what the library depends on, too
    except OSError:
        return False
    count = _address(library, *_GET_NUM_THREADS) or _address(library, "omp_get_max_threads")
    parallel, index = _address(library, "GOMP_parallel"), _address(library, "omp_get_thread_num")
    if not (parallel and index) or _forked():
        _core.set_pool(0, 0, count)
        return False
    _core.set_pool(parallel, index, count)
    return True


def _address(library: ctypes.CDLL, *names: str) -> int:
    """The address of the first of these functions that the library has; 0: it has none."""
    for name in names:
        if hasattr(library, name):
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    return 0


def give_back() -> None:
    """rnnkern's own threads again, as many as ``rnnkern.set_num_threads`` said."""
    _core.set_pool(0)


def _forked() -> bool:
    """libgomp waits for ever in a child for the threads that its parent had."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return bool(int(fields[6]) & _FORKED)
    except (OSError, ValueError, IndexError):  # not Linux: only multiprocessing's children can be told
        import multiprocessing

        return multiprocessing.parent_process() is not None and multiprocessing.get_start_method() == "fork"
