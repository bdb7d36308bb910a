"""The host SIMT executor's size and the order in which it runs threads, each as it was after the test."""

from __future__ import annotations

import ctypes as c
from typing import Any

import pytest

from device_plan import simt_library


@pytest.fixture
def multiprocessors() -> Any:
    """Sets how many the executor has; 132 again after the test."""
    yield simt_library().rnnk_simt_multiprocessors
    simt_library().rnnk_simt_multiprocessors(0)


@pytest.fixture
def seeded() -> Any:
    """Sets the seed of the order in which the executor runs threads; 0 again after the test."""
    library = simt_library()
    library.rnnk_simt_seed.argtypes = [c.c_uint64]
    yield library.rnnk_simt_seed
    library.rnnk_simt_seed(0)


@pytest.fixture
def unwatched() -> Any:
    """The executor looks for no races during the test."""
    simt_library().rnnk_simt_races(0)
    yield
    simt_library().rnnk_simt_races(1)
