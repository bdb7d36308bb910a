"""Kernels on a host's threads: torch's OpenMP pool, and hosts that send too few, too many or late ones."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import rnnkern as rk
import rnnkern.torch as rt
from rnnkern import _core
from rnnkern.torch import threads

pytestmark = pytest.mark.usefixtures("no_hang")

WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
PARALLEL = ctypes.CFUNCTYPE(None, WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


@pytest.fixture(autouse=True)
def _own_afterwards() -> Iterator[None]:
    yield
    threads.give_back()


def results() -> list[bytes]:
    """A training step split by rows, one split by units, and a stack that may go as a wavefront."""
    found = []
    for kind, inputs, units, layers, steps, rows in (
        (rk.LSTM, 24, 64, 1, 10, 33),
        (rk.GRU, 16, 256, 1, 12, 1),
        (rk.LSTM, 8, 64, 2, 100, 1),
    ):
        layer = kind(inputs, units, layers, bidirectional=rows == 33, seed=0)
        x = np.random.default_rng(0).standard_normal((steps, rows, inputs)).astype(np.float32)
        y, _, tape = layer.forward(x)
        grads = layer.backward(tape, np.ones_like(y))
        found += [y.tobytes(), grads.x.tobytes(), *(g.tobytes() for g in grads.params.values()), layer(x)[0].tobytes()]
    return found


def test_the_bits_of_our_own_threads(monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]) -> None:
    monkeypatch.delenv("RNNKERN_TORCH_THREADS")
    set_threads(2)
    wanted = results()
    assert threads.borrow()
    for count in (2, 3, 1):
        set_threads(count)
        assert rk.get_num_threads() == count
        assert results() == wanted
    threads.give_back()
    set_threads(2)
    assert results() == wanted


def test_the_environment_keeps_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKERN_TORCH_THREADS", "0")
    assert not threads.borrow()


def nobody_else(sent: list[int]) -> Any:
    def parallel(work: Any, data: int, count: int, _: int) -> None:
        sent.append(count)
        work(data)

    return parallel


def everybody_and_late(sent: list[int]) -> Any:
    def parallel(work: Any, data: int, count: int, _: int) -> None:
        sent.append(count)

        def late() -> None:
            time.sleep(0.002)
            work(data)

        others = [threading.Thread(target=late) for _ in range(count + 1)]
        for other in others:
            other.start()
        work(data)
        for other in others:
            other.join()

    return parallel


@pytest.mark.parametrize("host", [nobody_else, everybody_and_late])
def test_hosts_that_send_other_numbers_of_threads(host: Any, set_threads: Callable[[int], None]) -> None:
    """Fewer: some do several tasks. More, and after the work is done: they find nothing and leave."""
    set_threads(2)
    wanted = results()
    sent: list[int] = []
    parallel = PARALLEL(host(sent))
    _core.set_pool(ctypes.cast(parallel, ctypes.c_void_p).value or 0)
    assert results() == wanted
    assert sent and set(sent) == {2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_back_to_its_own(monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]) -> None:
    """libgomp's threads are not there after a fork, and it would wait for them for ever."""
    monkeypatch.delenv("RNNKERN_TORCH_THREADS")
    set_threads(2)
    assert threads.borrow()
    wanted = results()
    child = os.fork()
    if child == 0:
        os._exit(0 if results() == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert results() == wanted


def test_import_borrows() -> None:
    """In a process of its own, where nothing says otherwise; training in company of torch's operations."""
    code = """
import torch, rnnkern.torch as rt
from rnnkern import _core
calls = []
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), rt.LSTM(64, 128))
loss = model(torch.randn(20, 16, 64))[0].square().sum()
loss.backward()
print(rt.threads.borrow(), float(loss))
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("RNNKERN_TORCH_THREADS", "OMP_NUM_THREADS")}
    answers = []
    for extra in ({}, {"RNNKERN_TORCH_THREADS": "0"}):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | extra, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout.split())
    assert [answer[0] for answer in answers] == ["True", "False"]
    assert answers[0][1] == answers[1][1]


def test_threads_that_call_at_once(monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]) -> None:
    monkeypatch.delenv("RNNKERN_TORCH_THREADS")
    set_threads(2)
    assert threads.borrow()
    module = rt.GRU(32, 128).requires_grad_(False)
    x = torch.randn(20, 9, 32)
    wanted = module(x)[0]
    wrong: list[int] = []

    def run() -> None:
        for _ in range(20):
            if not torch.equal(module(x)[0], wanted):
                wrong.append(1)

    callers = [threading.Thread(target=run) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
