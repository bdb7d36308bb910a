"""The split over threads, a pure function of sizes, caches and threads (csrc/cpu/schedule.h), by its estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from one_layer import HostPlan
from rnnkern import _core
from runner import UNAVAILABLE

KERNELS = [name for name, reason in UNAVAILABLE.items() if not reason]
Estimate = Callable[..., float]


@pytest.fixture(params=KERNELS)
def estimate(request: pytest.FixtureRequest) -> Iterator[Estimate]:
    """(T, B, H, threads, backward) -> microseconds."""
    before = _core.get_num_threads()

    def of(steps: int, batch: int, hidden: int, threads: int, backward: bool = False) -> float:
        _core.set_num_threads(threads)
        plan = HostPlan("lstm", "bfloat16", hidden, hidden, kernel=request.param)
        return float(plan.estimate(steps, batch, backward))

    yield of
    _core.set_num_threads(before)


@pytest.mark.parametrize("backward", [False, True])
def test_more_threads_never_cost_more(estimate: Estimate, backward: bool) -> None:
    for steps, batch, hidden in ((1, 1, 4), (100, 1, 16), (100, 1, 512), (50, 3, 64), (20, 64, 256), (10, 500, 128)):
        times = [estimate(steps, batch, hidden, threads, backward) for threads in (1, 2, 3, 8)]
        assert times == sorted(times, reverse=True)


def test_small_work_stays_with_the_caller(estimate: Estimate) -> None:
    for steps, batch, hidden in ((1, 1, 16), (1, 8, 8), (100, 1, 8)):
        assert estimate(steps, batch, hidden, 8) == estimate(steps, batch, hidden, 1)


def test_many_rows_are_shared_out(estimate: Estimate) -> None:
    # Below a half: a share of the weights may fit into a cache that the whole does not.
    assert 0.3 < estimate(100, 64, 512, 2) / estimate(100, 64, 512, 1) < 0.6


def test_one_row_of_a_large_layer_is_shared_by_units(estimate: Estimate) -> None:
    assert estimate(100, 1, 1024, 2) < 0.7 * estimate(100, 1, 1024, 1)


def test_time_grows_with_every_size(estimate: Estimate) -> None:
    base = estimate(20, 8, 64, 2)
    assert base < estimate(40, 8, 64, 2) and base < estimate(20, 32, 64, 2) and base < estimate(20, 8, 256, 2)
