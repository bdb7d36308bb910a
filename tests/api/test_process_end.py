"""The end of the process, a thread or the interpreter while kernels run: no abort, no hang, and the state whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

import rnnkern as rk

SETUP = """
import sys, os, threading, time, signal, atexit
import numpy as np, rnnkern as rk
rk.set_num_threads(2)
layer, x = rk.LSTM(64, 128, seed=0), np.ones((40, 8, 64), np.float32)
def forever():
    while True:
        layer(x)
def train_forever():
    while True:
        y, _, tape = layer.forward(x)
        layer.backward(tape, y)
def start(work, daemon=True):
    thread = threading.Thread(target=work, daemon=daemon)
    thread.start()
    time.sleep(0.05)
"""
ENDS = {
    "the main program ends": "start(forever)",
    "in training": "start(train_forever)",
    "several threads": "[start(forever) for _ in range(3)]",
    "sys.exit": "start(forever); sys.exit(0)",
    "os._exit": "start(forever); os._exit(0)",
    "an atexit handler computes": "atexit.register(lambda: layer(x)); start(forever)",
    "an atexit handler asks for threads": "atexit.register(lambda: rk.set_num_threads(1)); start(forever)",
    "arrays live on": "import builtins; builtins.kept = layer(x), layer.forward(x); start(forever)",
    "os._exit in a thread": "start(forever); start(lambda: os._exit(0)); time.sleep(60)",
    "a steady stream of steps": (
        "cell, one = rk.GRUCell(4, 8), np.ones((1, 4), np.float32)\n"
        "def steps():\n    h = np.zeros((1, 8), np.float32)\n    while True: h = cell(one, h)\n"
        "start(steps)"
    ),
    "a pack is made": (
        "def packs():\n    while True: layer.update({'weight_hh_l0': layer.params['weight_hh_l0']}); layer(x)\n"
        "start(packs)"
    ),
}


def ended(code: str, expected: int = 0) -> None:
    done = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (expected, ""), (code, done)


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_the_process_during_a_call(name: str) -> None:
    for _ in range(4):
        ended(ENDS[name])


def test_a_signal_that_kills() -> None:
    ended("start(forever); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM)


def test_tensors_of_other_libraries_outlive_the_interpreter() -> None:
    """Their memory is freed by a deleter of ours, which may be called when there is no interpreter any more."""
    pytest.importorskip("torch")
    ended("import torch; kept = layer(torch.ones(40, 8, 64)); sys.modules['torch'].kept = kept; del kept")


def run_until(stop: threading.Event, work: Callable[[], object]) -> None:
    while not stop.is_set():
        work()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_a_handler_may_call_and_change_any_layer() -> None:
    """It runs in the middle of the main thread's call, where a lock that is not re-entrant would never be got."""
    a, b = rk.LSTM(8, 16, seed=0), rk.LSTM(8, 16, seed=1)
    x, new, fired = np.ones((5, 3, 8), np.float32), a.state_dict(), 0
    names = list(new)

    def handler(*_: object) -> None:
        nonlocal fired
        fired += 1
        b.forward(x)
        b.load_state_dict(new)
        a.forward(x)
        a.update({names[-1]: np.full_like(new[names[-1]], fired)})

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for n in range(50_000):
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + n % 100))  # ever later within the calls
            a.forward(x)
            a.update({names[0]: new[names[0]]})
            if fired >= 300:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert fired >= 300
    # The handler's last update is not lost to an update that it interrupted.
    assert float(a.params[names[-1]].flat[0]) == fired


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_an_exception_out_of_a_handler_leaves_the_state_whole() -> None:
    """As Ctrl-C does: the call in which it comes ends, and the next is as good as ever."""
    layer = rk.GRU(32, 256, seed=0)
    x = np.ones((200, 8, 32), np.float32)
    wanted = layer(x)[0].tobytes()

    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for n in range(20):
            with pytest.raises(KeyboardInterrupt):
                try:
                    # Every 0.1 s again, should a destructor have swallowed the first one.
                    signal.setitimer(signal.ITIMER_REAL, 0.002 + 0.0005 * n, 0.1)
                    while True:
                        layer(x)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)  # on a busy machine the next line takes longer than that
            assert layer(x)[0].tobytes() == wanted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_out_of_a_thread_while_others_compute() -> None:
    layer = rk.LSTM(32, 64, seed=0)
    x = np.ones((30, 16, 32), np.float32)
    wanted = layer(x)[0].tobytes()
    stop = threading.Event()
    others = [threading.Thread(target=run_until, args=(stop, lambda: layer(x))) for _ in range(2)]
    statuses: list[int] = []

    def fork() -> None:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if layer(x)[0].tobytes() == wanted else 1)
            statuses.append(os.waitpid(child, 0)[1])

    for other in others:
        other.start()
    forker = threading.Thread(target=fork)
    forker.start()
    forker.join()
    stop.set()
    for other in others:
        other.join()
    assert statuses == [0] * 5


@pytest.mark.parametrize("kind", ["spawn", "forkserver"])
def test_processes_of_multiprocessing(kind: str, tmp_path: object) -> None:
    code = """
import multiprocessing, sys
import numpy as np, rnnkern as rk
def work(layer):
    return layer(np.ones((3, 2, 4), np.float32))[0].tobytes()
if __name__ == "__main__":
    layer = rk.GRU(4, 8, seed=0)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(work, [layer] * 4) == [work(layer)] * 4
"""
    program = f"{tmp_path}/program.py"
    with open(program, "w") as file:
        file.write(code)
    done = subprocess.run([sys.executable, program, kind], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_subinterpreter_is_refused_by_name() -> None:
    code = """
import _xxsubinterpreters as sub
def run(text):
    interpreter = sub.create()
    try:
        sub.run_string(interpreter, text)
    except Exception as error:
        print(error)
    sub.destroy(interpreter)
run("import sys; sys.path.insert(0, %r); import rnnkern._core")
"""
    try:
        import _xxsubinterpreters  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        pytest.skip("this Python has no module to make subinterpreters with")
    root = os.path.dirname(os.path.dirname(rk.__file__))
    done = subprocess.run([sys.executable, "-c", code % root], capture_output=True, text=True)
    assert done.returncode == 0, done
    assert "rnnkern: expected the main interpreter, got a subinterpreter" in done.stdout, done


def test_the_package_may_be_imported_again() -> None:
    """``sys.modules`` cleared, as autoreload and some test runners do, with objects of before in use."""
    code = """
def forget():
    for name in [n for n in sys.modules if n.split(".")[0] == "rnnkern"]:
        del sys.modules[name]
wanted = layer(x)[0].tobytes()
for again in range(3):
    forget()
    import rnnkern as new
    assert new is not rk
    assert new.LSTM(64, 128, seed=0)(x)[0].tobytes() == wanted
    assert layer(x)[0].tobytes() == wanted
"""
    ended(code)
