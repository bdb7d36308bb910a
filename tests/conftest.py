"""Fixtures shared by the tests: the kernels of this machine, the thread team's size, the C ABI."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

# Before torch is imported: its pool would spin on the cores that the kernels under test are timed out on.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# rnnkern.torch would put the whole process on torch's threads: only its own tests are to run there (_torch_threads).
os.environ.setdefault("RNNKERN_TORCH_THREADS", "0")

import pytest

import native
from c_abi import load
from choice import (  # noqa: F401  (pytest finds its hooks here)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from rnnkern import _core
from runner import CPU_KERNELS, KERNELS, UNAVAILABLE


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A run of everything goes on as many processes as there are cores, up to four, where pytest-xdist is installed."""
    if hasattr(config, "workerinput") or "PYTEST_XDIST_WORKER" in os.environ:
        return  # one of those processes, which must not start more
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if everything and getattr(config.option, "numprocesses", 0) is None and not config.option.tx:
        config.option.numprocesses, config.option.maxprocesses, config.option.dist = "auto", 4, "worksteal"


def pytest_collection_finish() -> None:
    """Thousands of tests are objects for the garbage collector to look at, again and again, unless they are frozen."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """A process of pytest-xdist ends without Python's exit handlers."""
    if native.scratch.cache_info().currsize:
        shutil.rmtree(native.scratch(), ignore_errors=True)


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
def force_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Forces a CPU kernel for the layers that the test makes then, and returns its name; skips where it cannot run."""

    def force(name: str) -> str:
        if CPU_KERNELS[name]:
            pytest.skip(f"{name}: {CPU_KERNELS[name]}")
        monkeypatch.setenv("RNNKERN_KERNEL", name)
        return name

    return force


@pytest.fixture(scope="session")
def lib() -> Any:
    """The C ABI by ctypes."""
    return load(native.c_library())


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
