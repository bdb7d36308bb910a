"""Two threads on one plan, forked children, and the team's size changing under a running kernel: the right bits, no
hang.

A child process reports through its exit status: 0 for the right bits.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from problems import Array, Problem, expand, make, parse
from rnnkern import _core
from runner import SINGLE, plan_of, run, same_bits

# Python 3.12 and later warn of every fork in a process with threads: that it is safe here is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

SetThreads = Callable[[int], None]
PROBLEMS = expand(["t6b9i17h33 state lengths"], cells=["lstm", "gru"], dtypes=["f32", "bf16"])
# Some milliseconds a call, so that others are very likely to find it running.
LONG = parse("lstm t60b24i64h64 f32 state")
# A child that hangs must not outlive the run, which pytest's faulthandler_timeout ends (pyproject.toml).
CHILD_SECONDS = 900


class Caller(threading.Thread):
    """Calls ``work`` again and again until told to stop; ``finish`` raises what the thread raised."""

    def __init__(self, work: Callable[[], None], times: int | None = None) -> None:
        super().__init__(daemon=True)
        self.work, self.times, self.calls = work, times, 0
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set() and self.calls != self.times:
                self.work()
                self.calls += 1
        except BaseException as failure:  # handed to the test's own thread by finish()
            self.failure = failure

    def finish(self, stop: bool = True) -> None:
        if stop:
            self.stop.set()
        self.join()
        if self.failure is not None:
            raise self.failure


@contextmanager
def calling(work: Callable[[], None]) -> Iterator[Caller]:
    """Another thread is inside ``work`` most of the time, and has been at least once before this begins."""
    caller = Caller(work)
    caller.start()
    while caller.calls == 0 and caller.is_alive():
        time.sleep(0.001)
    try:
        yield caller
    finally:
        caller.finish()


def in_child(work: Callable[[], None]) -> None:
    """Runs ``work`` in a forked child, which must end with status 0."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(CHILD_SECONDS)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)  # no test runner, no exit handlers: this is not their process
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with status {os.waitstatus_to_exitcode(status)}"


def check(problem: Problem, plan: Any, draw: int, wanted: dict[str, Array]) -> None:
    same_bits(run(problem, plan, make(problem, draw)), wanted, "beside others")


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_threads_share_a_plan(kernel: str, problem: Problem, set_threads: SetThreads) -> None:
    """Four callers, each with its own data: the first takes the team, the others run alone, all with the same bits."""
    set_threads(2)
    plan = plan_of(problem, kernel)
    wanted = [run(problem, plan, make(problem, draw)) for draw in range(4)]
    callers = [Caller(partial(check, problem, plan, d, wanted[d]), times=25) for d in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.finish(stop=False)
        assert caller.calls == 25


@pytest.mark.parametrize("kernel", SINGLE)
def test_two_long_calls_at_once(kernel: str, set_threads: SetThreads) -> None:
    """Calls long enough to overlap for certain."""
    set_threads(2)
    plan = plan_of(LONG, kernel)
    wanted = [run(LONG, plan, make(LONG, draw)) for draw in range(2)]
    with calling(lambda: check(LONG, plan, 0, wanted[0])) as other:
        before = other.calls
        for _ in range(5):
            check(LONG, plan, 1, wanted[1])
    assert other.calls > before


@pytest.mark.parametrize("kernel", SINGLE)
def test_a_team_outlives_its_caller(kernel: str, set_threads: SetThreads) -> None:
    """The thread that first used the team may end; the next one finds it in order."""
    set_threads(3)
    plan = plan_of(LONG, kernel)
    wanted = run(LONG, plan, make(LONG))
    for _ in range(5):
        caller = Caller(lambda: check(LONG, plan, 0, wanted), times=1)
        caller.start()
        caller.finish(stop=False)
    check(LONG, plan, 0, wanted)


@needs_fork
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forked_child(kernel: str, problem: Problem, set_threads: SetThreads) -> None:
    """After the parent used its team; the child may resize its own, and fork again; the parent goes on."""
    set_threads(2)
    plan = plan_of(problem, kernel)
    wanted = run(problem, plan, make(problem))

    def child() -> None:
        check(problem, plan, 0, wanted)
        _core.set_num_threads(3)
        check(problem, plan, 0, wanted)
        in_child(lambda: check(problem, plan, 0, wanted))

    for _ in range(3):
        in_child(child)
        check(problem, plan, 0, wanted)


@needs_fork
@pytest.mark.parametrize("kernel", SINGLE)
def test_fork_while_a_kernel_runs(kernel: str, set_threads: SetThreads) -> None:
    """Another thread is inside a kernel, with the team, when the fork happens: the child has no team, and works."""
    set_threads(2)
    plan, other = plan_of(LONG, kernel), plan_of(PROBLEMS[0], kernel)
    wanted, small = run(LONG, plan, make(LONG)), run(PROBLEMS[0], other, make(PROBLEMS[0]))

    def child() -> None:
        check(PROBLEMS[0], other, 0, small)
        check(LONG, plan, 0, wanted)
        _core.set_num_threads(3)
        check(LONG, plan, 0, wanted)

    with calling(lambda: check(LONG, plan, 0, wanted)):
        for attempt in range(12):
            in_child(child)
            time.sleep(0.0007 * attempt)  # another place inside the call each time
    check(LONG, plan, 0, wanted)


@needs_fork
@pytest.mark.parametrize("kernel", SINGLE)
def test_fork_while_the_team_is_resized(kernel: str, set_threads: SetThreads) -> None:
    """The team's own locks are free in the child, whoever held them."""
    plan = plan_of(PROBLEMS[0], kernel)
    wanted = run(PROBLEMS[0], plan, make(PROBLEMS[0]))
    sizes = iter(range(10**9))
    with calling(lambda: _core.set_num_threads(1 + next(sizes) % 3)):
        for _ in range(12):
            in_child(lambda: check(PROBLEMS[0], plan, 0, wanted))


def _in_process(problem: Problem, kernel: str, wanted: dict[str, Array]) -> None:
    signal.alarm(CHILD_SECONDS)
    check(problem, plan_of(problem, kernel), 0, wanted)


@needs_fork
@pytest.mark.parametrize("kernel", SINGLE)
def test_multiprocessing_fork(kernel: str, set_threads: SetThreads) -> None:
    """Two children of multiprocessing's fork method at once, as data loaders and pools start them."""
    set_threads(2)
    problem = PROBLEMS[0]
    wanted = run(problem, plan_of(problem, kernel), make(problem))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_in_process, args=(problem, kernel, wanted)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0, f"exit status {child.exitcode}"


@pytest.mark.parametrize("kernel", SINGLE)
def test_set_num_threads_while_a_kernel_runs(kernel: str, set_threads: SetThreads) -> None:
    """It waits for the kernel; the kernel's bits do not change; the size that was asked for last is the size."""
    plan = plan_of(LONG, kernel)
    set_threads(1)
    wanted = run(LONG, plan, make(LONG))
    with calling(lambda: check(LONG, plan, 0, wanted)):
        for threads in (2, 4, 1, 3, 7, 1, 2) * 3:
            set_threads(threads)
            assert _core.get_num_threads() == threads
            time.sleep(0.002)


@pytest.mark.parametrize(
    "problem", expand(["t2b1i1h1 state", "t3b1i2h3", "t2b2i3h5 lengths"], dtypes=["f32", "f16"]), ids=str
)
def test_more_threads_than_work(kernel: str, problem: Problem, set_threads: SetThreads) -> None:
    plan = plan_of(problem, kernel)
    set_threads(1)
    wanted = run(problem, plan, make(problem))
    set_threads(33)
    for _ in range(3):
        check(problem, plan, 0, wanted)


@pytest.mark.parametrize("threads", [0, -1])
def test_a_team_of_nobody_is_refused(threads: int) -> None:
    before = _core.get_num_threads()
    with pytest.raises(ValueError, match="threads"):
        _core.set_num_threads(threads)
    assert _core.get_num_threads() == before


MANY = """
import hashlib, time
from statistics import median
import numpy as np
import rnnkern as rk
digest, used, total = hashlib.sha256(), [], 0.0
for kind, hidden, batch, steps in ((rk.GRU, 256, 1, 200), (rk.LSTM, 128, 64, 20)):
    layer = kind(hidden, hidden, seed=0)
    x = np.random.default_rng(0).standard_normal((steps, batch, hidden)).astype(np.float32)
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        y, _, tape = layer.forward(x)
        grads = layer.backward(tape, np.ones_like(y))
        times.append(time.perf_counter() - begin)
        for array in (y, grads.x, *grads.params.values()):
            digest.update(array.tobytes())
    total += median(times)
    used += [str(c.forward_split) for c in rk.explain(layer, x).candidates if c.chosen]
print(rk.get_num_threads(), digest.hexdigest(), total, *used, sep=";")
"""


def test_many_more_threads_than_cores() -> None:
    """16 and 64 threads by RNNKERN_NUM_THREADS: the bits of one thread, and no collapse.

    A team collapses when each phase waits for a thread that has lost its core to one that spins: some milliseconds, the
    scheduler's slice, in each of the 600 phases, seconds in all. The bound is 20 times two threads' time and a second.
    """
    said = {}
    for threads in (1, 2, 16, 64):
        env = {**os.environ, "RNNKERN_NUM_THREADS": str(threads)}
        done = subprocess.run([sys.executable, "-c", MANY], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        size, digest, seconds, *used = done.stdout.strip().split(";")
        assert int(size) == threads
        said[threads] = digest, float(seconds), used
    by_units, by_rows = said[16][2]
    assert by_rows == "16 threads by rows" and by_units.endswith("by units"), "or this tests nothing"
    for threads in (16, 64):
        assert said[threads][0] == said[1][0], f"{threads} threads"
        assert said[threads][1] < 20 * said[2][1] + 1, f"{threads} threads"
