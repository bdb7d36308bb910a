"""Fixtures shared by the tests: the kernels of this machine, the thread team's size, the C ABI."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

# Before torch is imported: its pool would spin on the cores that the kernels under test are timed out on.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# rnnkern.torch would put the whole process on torch's threads: only its own tests are to run there (_torch_threads).
os.environ.setdefault("RNNKERN_TORCH_THREADS", "0")

import pytest

from c_abi import load
from choice import (  # noqa: F401  (pytest finds its hooks here)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from native import c_library
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


@pytest.fixture(scope="session")
def lib() -> Any:
    """The C ABI by ctypes."""
    return load(c_library())


@pytest.fixture(scope="module")
def torch_threads() -> Iterator[None]:
    """Tests of rnnkern.torch, and the processes they start, run as users have it: on torch's threads, two of them."""
    import torch

    from rnnkern.torch import threads

    before, said = torch.get_num_threads(), os.environ.pop("RNNKERN_TORCH_THREADS", "0")
    torch.set_num_threads(2)
    assert threads.borrow()
    yield
    threads.give_back()
    torch.set_num_threads(before)
    os.environ["RNNKERN_TORCH_THREADS"] = said
