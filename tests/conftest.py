"""Fixtures shared by the tests: the kernels of this machine, the thread team's size, and a guard against hangs."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator

# Before torch is imported: its pool would spin on the cores that the kernels under test are timed out on.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# rnnkern.torch would put the whole process on torch's threads; test_torch_threads.py does so where it is meant.
os.environ.setdefault("RNNKERN_TORCH_THREADS", "0")

import pytest

from rnnkern import _core
from runner import KERNELS, UNAVAILABLE


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """Every compiled CPU kernel by name; one this machine cannot run is skipped with its own reason."""
    if UNAVAILABLE[request.param]:
        pytest.skip(f"{request.param}: {UNAVAILABLE[request.param]}")
    return str(request.param)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """_core.set_num_threads, undone after the test."""
    before = _core.get_num_threads()
    yield _core.set_num_threads
    _core.set_num_threads(before)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """A test that deadlocks ends the run after two minutes, with every thread's stack, instead of waiting for ever."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
