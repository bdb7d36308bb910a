"""Kernels on a host's threads: torch's OpenMP pool, and hosts that send too few, too many or late ones."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
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

WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
PARALLEL = ctypes.CFUNCTYPE(None, WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
COUNT = ctypes.CFUNCTYPE(ctypes.c_int)


def address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


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


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]) -> Iterator[None]:
    """torch's pool of three threads."""
    monkeypatch.delenv("RNNKERN_TORCH_THREADS")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    set_threads(2)
    assert threads.borrow()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("lent")
def test_the_bits_of_our_own_threads(set_threads: Callable[[int], None]) -> None:
    got = []
    for count, size in ((2, 2), (3, 3), (1, 1), (8, 3)):  # never more than torch has
        set_threads(count)
        assert rk.get_num_threads() == size
        got.append(results())
    assert rk.info()["pool"] == "lent"
    threads.give_back()
    assert rk.info()["pool"] == "own" and rk.get_num_threads() == 8
    assert all(each == results() for each in got)


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
    parallel, count = PARALLEL(host(sent)), COUNT(lambda: 5)
    _core.set_pool(address(parallel), 0, address(count))
    assert results() == wanted
    assert sent and set(sent) == {5}  # always what the host grants, whatever the job needs


def test_a_host_that_grants_less(set_threads: Callable[[int], None]) -> None:
    """At each call, to its own pool or to ours; nonsense is as good as one thread, or as the most there may be."""
    set_threads(4)
    wanted = results()
    sent: list[int] = []
    granted = 1
    parallel, count = PARALLEL(nobody_else(sent)), COUNT(lambda: granted)
    for pool in (address(parallel), 0):
        _core.set_pool(pool, 0, address(count))
        for said, size in ((1, 1), (3, 3), (0, 1), (-7, 1), (100_000, 4)):
            granted = said
            sent.clear()
            assert rk.get_num_threads() == size
            assert results() == wanted
            assert bool(sent) == (size > 1 and pool != 0)
    _core.set_pool(0)
    assert rk.get_num_threads() == 4


def test_a_stack_of_small_layers_is_one_job(set_threads: Callable[[int], None]) -> None:
    """So a wavefront it is: one row through one small layer is nothing to share, and no job at all."""
    set_threads(2)
    sent: list[int] = []
    parallel = PARALLEL(nobody_else(sent))
    _core.set_pool(address(parallel))
    x = np.zeros((2000, 1, 48), np.float32)
    rk.LSTM(48, 48)(x)
    assert sent == []
    rk.LSTM(48, 48, 2)(x)
    assert sent == [2]


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


def alone(code: str, **environment: str) -> str:
    """What a process of its own prints, with nothing in the environment but what users have. code may be spawned."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RNNKERN_TORCH_THREADS", "OMP_NUM_THREADS")}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program:
        program.write(code)
        program.flush()
        return _output(program.name, kept | environment)


def _output(program: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_borrows() -> None:
    code = """
import torch, rnnkern as rk, rnnkern.torch as rt
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), rt.LSTM(64, 128))
loss = model(torch.randn(20, 16, 64))[0].square().sum()
loss.backward()
print(rk.info()["pool"], float(loss))
"""
    lent, own = alone(code).split(), alone(code, RNNKERN_TORCH_THREADS="0").split()
    assert (lent[0], own[0]) == ("lent", "own")
    assert lent[1] == own[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this platform")
def test_a_child_that_is_the_first_to_import() -> None:
    """The parent has used torch's pool, whose threads the child has not, though nothing was lent before the fork."""
    code = """
import os, torch
torch.set_num_threads(2)
torch.randn(512, 512) @ torch.randn(512, 512)
torch.randn(1 << 20).exp()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    import rnnkern as rk, rnnkern.torch as rt
    y = rt.LSTM(64, 256)(torch.randn(20, 16, 64))[0]
    y.sum().backward()
    print(rk.info()["pool"], bool(y.isfinite().all()), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    assert alone(code).split() == ["own", "True"]


def test_torchs_number_of_threads_counts_at_every_call() -> None:
    """Set after the import, lowered and raised again, and in another thread than the one that calls."""
    code = """
import threading, time, torch, rnnkern as rk, rnnkern.torch as rt
rk.set_num_threads(8)
said = []
for count in (1, 3, 2):
    torch.set_num_threads(count)
    said.append(rk.get_num_threads())
    other = threading.Thread(target=lambda: said.append(rk.get_num_threads()))
    other.start(), other.join()
torch.set_num_threads(1)
layer, x = rt.GRU(256, 512).requires_grad_(False), torch.randn(200, 32, 256)
layer(x)
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(5):
    layer(x)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(*said, cpu < 1.2 * wall)
"""
    assert alone(code).split() == ["1", "1", "3", "3", "2", "2", "True"]
    assert alone(code, OMP_NUM_THREADS="1").split() == ["1", "1", "3", "3", "2", "2", "True"]


def test_the_workers_of_a_data_loader_have_one_thread() -> None:
    code = """
import torch, rnnkern as rk, rnnkern.torch as rt
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        y, _ = rt.LSTM(64, 256).requires_grad_(False)(torch.randn(20, 16, 64))
        return torch.tensor([rk.get_num_threads(), int(y.isfinite().all())])
if __name__ == "__main__":
    torch.set_num_threads(2)
    rk.set_num_threads(2)
    rt.LSTM(64, 256)(torch.randn(20, 16, 64))
    for kind in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(Data(), num_workers=1, batch_size=None, multiprocessing_context=kind)
        print(*(entry.tolist() for entry in loader))
"""
    assert alone(code).splitlines() == ["[1, 1] [1, 1]"] * 2


@pytest.mark.usefixtures("lent")
def test_threads_that_call_at_once() -> None:
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
