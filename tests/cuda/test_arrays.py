"""Layers and cells on arrays of a GPU, against the same ones on the CPU; what is refused, and what runs without asking
the host. Where ``_core`` has no device the calls skip, and the refusals are tested all the same.
"""

from __future__ import annotations

import copy
import ctypes
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fake_cuda
import rnnkern as rk
from fake_cuda import FakeArray, to_gpu, to_host
from rnnkern import _core, _engine
from rnnkern._arrays import libraries

T, B, IN, H = 5, 3, 4, 6
EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# Sums of at most IN + H + 1 terms below 1, T steps, L layers: far below this many roundings of the dtype.
GROWTH = 200


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Layers keep their parameters in fake arrays."""
    monkeypatch.setattr(libraries, "home", lambda: fake_cuda.LIBRARY)
    fake_cuda.log.clear()
    yield
    assert fake_cuda.streams == [7] and fake_cuda.capturing == [False]


def pair(kind: str, *args: Any, **keywords: Any) -> tuple[Any, Any]:
    """A layer on the CPU and the same one on the first GPU."""
    make = getattr(rk, kind)
    return make(*args, seed=3, **keywords), make(*args, seed=3, device="cuda", **keywords)


def numbers(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Any:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(kind)


def close(got: Any, want: Any, dtype: str = "float32") -> None:
    """The same arrays, of one structure, to the rounding of a dtype."""
    if isinstance(want, (tuple, list)):
        assert len(got) == len(want)
        for each, other in zip(got, want, strict=True):
            close(each, other, dtype)
        return
    if want is None:
        assert got is None
        return
    assert isinstance(got, FakeArray) and got.dtype == want.dtype and got.shape == want.shape
    error = np.abs(to_host(got).astype(np.float64) - np.asarray(want).astype(np.float64)).max(initial=0.0)
    bound = GROWTH * EPS[dtype] * max(1.0, np.abs(np.asarray(want).astype(np.float64)).max(initial=0.0))
    assert error <= bound, (error, bound)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "rnn": ("RNN", {"nonlinearity": "relu"}),
    "no bias": ("GRU", {"bias": False}),
    "reverse": ("LSTM", {"reverse": True}),
    "both directions": ("GRU", {"bidirectional": True}),
    "stack": ("LSTM", {"num_layers": 3}),
    "stack of both directions": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "dropout": ("LSTM", {"num_layers": 2, "dropout": 0.5, "bidirectional": True}),
    "batch first": ("LSTM", {"batch_first": True, "num_layers": 2}),
    "recompute": ("LSTM", {"recompute": True}),
    "projection": ("LSTM", {"proj_size": 4}),
    "options in rows": ("LSTM", {"peephole": True, "layer_norm": True}),
    "independent": ("RNN", {"independent": True, "bidirectional": True}),
    "independent without bias": ("RNN", {"independent": True, "bias": False}),
    "random masks": ("GRU", {"zoneout": 0.3, "recurrent_dropout": 0.2}),
    "slstm": ("sLSTM", {"bidirectional": True, "num_layers": 2}),
}


@pytest.mark.posed
@pytest.mark.parametrize("lengths", [None, "host", "device"])
@pytest.mark.parametrize("case", CASES)
def test_training_is_the_cpus(case: str, lengths: str | None) -> None:
    kind, keywords = CASES[case]
    try:
        cpu, gpu = pair(kind, IN, H, **keywords)
    except NotImplementedError as declined:
        pytest.skip(str(declined))
    rows = None if lengths is None else np.array([5, 0, 3])
    x = numbers((T, B, IN))
    if cpu.batch_first:
        x = np.ascontiguousarray(x.swapaxes(0, 1))
    leading = cpu.num_layers * (2 if cpu.bidirectional else 1)
    widths = (getattr(cpu, "proj_size", 0) or H, H, H, H)
    states = tuple(numbers((leading, B, width), seed=k) for k, width in enumerate(widths))[: cpu.spec.states]
    if len(states) > 2:  # sLSTM's n is a sum of exponentials
        states = (*states[:2], np.exp(states[2]), states[3])
    state: Any = states if len(states) > 1 else states[0]
    y, last, tape = cpu.forward(x, state, lengths=rows)
    dy, dlast = numbers(y.shape, seed=5), (tuple(map(np.ones_like, last)) if isinstance(last, tuple) else last * 2)
    want = cpu.backward(tape, dy, dlast)

    given = to_gpu(rows) if lengths == "device" else rows
    arguments = to_gpu(x), to_gpu(state), to_gpu(dy), to_gpu(dlast)
    fake_cuda.log.clear()
    y2, last2, tape2 = gpu.forward(arguments[0], arguments[1], lengths=given)
    grads = gpu.backward(tape2, arguments[2], arguments[3])
    assert "download" not in fake_cuda.log and "synchronize" not in fake_cuda.log
    assert ("upload" in fake_cuda.log) == (lengths == "host")
    close([y2, last2], [y, last])
    close([grads.x, grads.state], [want.x, want.state])
    assert list(grads.params) == list(want.params)
    close(list(grads.params.values()), list(want.params.values()))
    rk.check()


def training(layer: Any, x: Any, dy: Any, more: dict[str, Any], **how: Any) -> tuple[list[Any], list[Any]]:
    """-> (what each row has of its own, sums over time), of a training step on the GPU."""
    y, last, tape = layer.forward(to_gpu(x), **more)
    states = last if isinstance(last, tuple) else (last,)
    grads = layer.backward(tape, to_gpu(dy), last, **how)
    of_states = grads.state if isinstance(grads.state, tuple) else (grads.state,)
    own = [y, *states, *of_states, *(grads.steps or ()), *(() if grads.x is None else (grads.x,))]
    return [to_host(a) for a in own], [to_host(a) for a in grads.params.values()]


def same(got: list[Any], want: list[Any]) -> bool:
    return [a.tobytes() for a in got] == [a.tobytes() for a in want]


@pytest.mark.posed
@pytest.mark.parametrize("marked", [False, True], ids=["", "marks and lengths"])
@pytest.mark.parametrize("case", ["random masks", "projection", "options in rows", "slstm"])
def test_recompute_is_the_same_bits(case: str, marked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """4096 rows are the least segment: here 2 steps, then 7 and 7."""
    monkeypatch.setenv("RNNKERN_GPU_WAVE", "0")  # or sums over time would go by its blocks
    kind, keywords = CASES[case]
    steps, rows, rng = 16, 600, np.random.default_rng(1)
    more: dict[str, Any] = {}
    if marked:
        more = {"mask": rng.random((steps, rows)) < 0.8, "reset": rng.random((steps, rows)) < 0.2}
        more["lengths"] = np.arange(rows) % (steps + 1)
    x, results = numbers((steps, rows, IN)), []
    for recompute in (False, True):
        _, gpu = pair(kind, IN, H, **(keywords | {"num_layers": 2, "bidirectional": False, "recompute": recompute}))
        dy = numbers((steps, rows, getattr(gpu, "proj_size", 0) or H), seed=2)
        own, sums = training(gpu, x, dy, more, probe=True, clip_step=0.5)
        results.append([*own, *sums])
    assert same(*results)


_STACKS = {name: case for name, case in CASES.items() if name not in ("both directions", "recompute", "batch first")}


def _forks() -> int:
    return int(ctypes.CDLL(_core.__file__).rnnk_simt_forks())


@pytest.mark.posed
@pytest.mark.parametrize("how", ["plain", "lengths", "marks", "probe", "no x", "stepwise"])
@pytest.mark.parametrize("case", _STACKS)
def test_a_wavefront_is_layer_after_layer(case: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 steps of 20, forward and in BPTT, in an order that the streams allow."""
    kind, keywords = _STACKS[case]
    if how == "stepwise":
        monkeypatch.setenv("RNNKERN_KERNEL", "cuda_stepwise")
    keywords = keywords | {"num_layers": 3, "dropout": 0.0, "bidirectional": False}
    x, rng = numbers((20, B, IN)), np.random.default_rng(1)
    more: dict[str, Any] = {}
    if how in ("lengths", "marks"):
        more["lengths"] = np.array([20, 0, 11])
    if how == "marks":
        more |= {"mask": rng.random((20, B)) < 0.7, "reset": rng.random((20, B)) < 0.3}
    options = {"probe": True, "clip_step": 0.5} if how == "probe" else {"need_x": False} if how == "no x" else {}
    results, forks = [], []
    for steps in ("0", "8"):
        monkeypatch.setenv("RNNKERN_GPU_WAVE", steps)
        _, gpu = pair(kind, IN, H, **keywords)
        dy = numbers((20, B, getattr(gpu, "proj_size", 0) or H), seed=2)
        before = _forks()
        results.append(training(gpu, x, dy, more, **options))
        forks.append(_forks() - before)
    assert forks == [0, 4]  # two streams beside the caller's, forward and in BPTT
    assert same(results[0][0], results[1][0])
    for got, want in zip(results[1][1], results[0][1], strict=True):
        assert np.abs(got - want).max() <= GROWTH * EPS["float32"] * max(1.0, np.abs(want).max())


@pytest.mark.posed
def test_a_deep_stack_is_the_cpus() -> None:
    """Long and deep enough for a wavefront over streams (cuda/test_stacks.py sees that it is one)."""
    cpu, gpu = pair("GRU", IN, H, num_layers=4)
    x = numbers((300, 2, IN))
    close(list(gpu(to_gpu(x))), list(cpu(x)))


@pytest.mark.posed
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_dtypes(kind: str, dtype: str) -> None:
    cpu, gpu = pair(kind, IN, H, dtype=dtype, bidirectional=True)
    x = numbers((T, B, IN), dtype)
    y, last, tape = cpu.forward(x)
    y2, last2, tape2 = gpu.forward(to_gpu(x))
    close([y2, last2], [y, last], dtype)
    want, grads = cpu.backward(tape, y), gpu.backward(tape2, y2)
    close([grads.x, grads.state, *grads.params.values()], [want.x, want.state, *want.params.values()], dtype)


@pytest.mark.posed
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("where", ["host", "device"])
def test_marks(where: str, reverse: bool) -> None:
    cpu, gpu = pair("LSTM", IN, H, bidirectional=not reverse, reverse=reverse)
    x, rng = numbers((T, B, IN)), np.random.default_rng(1)
    mask, reset, lengths = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.4, np.array([4, 5, 0])
    mask[3, 0] = reset[4, 0] = True  # in the padding: no border of the row
    state = tuple(numbers((2 - reverse, B, H), seed=k) for k in range(2))
    y, last, tape = cpu.forward(x, state, mask=mask, reset=reset, lengths=lengths)
    put = to_gpu if where == "device" else np.array
    y2, last2, tape2 = gpu.forward(to_gpu(x), to_gpu(state), mask=put(mask), reset=put(reset), lengths=put(lengths))
    close([y2, last2], [y, last])
    close(gpu.backward(tape2, to_gpu(y)).x, cpu.backward(tape, y).x)
    for name in ("mask", "reset"):
        with pytest.raises(ValueError, match=rf"{name}: expected \[T, B\] \[5, 3\], got \[2, 3\]"):
            gpu(to_gpu(x), **{name: put(np.ones((2, 3), bool))})
        with pytest.raises(TypeError, match=rf"{name}: expected bool \[T, B\], got int64"):
            gpu(to_gpu(x), **{name: put(np.ones((T, B), np.int64))})


@pytest.mark.posed
def test_inference_layouts_and_out() -> None:
    cpu, gpu = pair("LSTM", IN, H, num_layers=2, batch_first=True)
    wide = numbers((B, 2 * T, IN))
    strided = to_gpu(wide)[:, ::2]
    close(gpu(strided), cpu(wide[:, ::2]))
    close(gpu(to_gpu(wide[0])), cpu(wide[0]))
    out = to_gpu(np.zeros((B, T, H), np.float32))
    y, _ = gpu(strided, out=out)
    assert y is out
    close(out, cpu(wide[:, ::2])[0])
    with pytest.raises(ValueError, match=r"out: expected memory of its own, got an array that overlaps x"):
        gpu(out[:, :, :IN], out=out)
    close(gpu.backward(gpu.forward(strided)[2], None).x, np.zeros((B, T, IN), np.float32))


CELLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LSTMCell", {}),
    ("GRUCell", {}),
    ("RNNCell", {}),
    ("sLSTMCell", {}),
    ("LSTMCell", {"proj_size": 4}),
)


@pytest.mark.posed
def test_cells_and_steps_in_place() -> None:
    for kind, options in CELLS:
        try:
            cpu, gpu = pair(kind, IN, H, **options)
        except NotImplementedError as declined:
            pytest.skip(str(declined))
        x, width = numbers((B, IN)), options.get("proj_size", H)
        state: Any = numbers((B, width))
        if kind in ("LSTMCell", "sLSTMCell"):
            state = (state, numbers((B, H), seed=1))
        if kind == "sLSTMCell":
            state = (*state, np.exp(numbers((B, H), seed=2)), numbers((B, H), seed=3))
        want, tape = cpu.forward(x, state)
        got, tape2 = gpu.forward(to_gpu(x), to_gpu(state))
        close(got, want)
        close(gpu.backward(tape2, to_gpu(want)).x, cpu.backward(tape, want).x)
        kept = to_gpu(state)
        for _ in range(2):
            assert gpu.step_(to_gpu(x), kept) is kept
            state = cpu(x, state)
        close(kept, state)
        with pytest.raises(ValueError, match=r"overlaps"):
            shared = to_gpu(numbers((B, max(IN, H))))
            gpu.step_(shared[:, :IN], (shared[:, :width], *kept[1:]) if isinstance(kept, tuple) else shared[:, :width])


@pytest.mark.posed
def test_parameters_go_between_host_and_gpu(tmp_path: Path) -> None:
    cpu, gpu = pair("LSTM", IN, H, layer_norm=True)
    assert gpu.device == "cuda:0" and "device='cuda:0'" in repr(gpu)
    assert all(isinstance(array, FakeArray) for array in gpu.params.values())
    rk.save(tmp_path / "w", gpu)
    for name, array in rk.load(tmp_path / "w").items():
        assert np.array_equal(array, cpu.params[name])
    other = rk.LSTM(IN, H, layer_norm=True, device="cuda", seed=8)
    other.load_state_dict(rk.load(tmp_path / "w"))
    x = numbers((T, B, IN))
    y = gpu(to_gpu(x))[0]
    assert np.array_equal(to_host(other(to_gpu(x))[0]), to_host(y))
    for twin in (copy.deepcopy(gpu), pickle.loads(pickle.dumps(gpu))):
        assert np.array_equal(to_host(twin(to_gpu(x))[0]), to_host(y))
    new = {"weight_hh_l0": cpu.params["weight_hh_l0"] * 2, "gamma_hh_l0": cpu.params["gamma_hh_l0"] * 3}
    tape = gpu.forward(to_gpu(x))[2]
    cpu.update(new)
    fake_cuda.log.clear()
    gpu.update({name: to_gpu(value) for name, value in new.items()})
    assert "download" not in fake_cuda.log and "synchronize" not in fake_cuda.log
    close(gpu(to_gpu(x))[0], cpu(x)[0])
    gpu.update(new)
    assert "synchronize" in fake_cuda.log
    with pytest.raises(ValueError, match=r"the parameters were updated"):
        gpu.backward(tape, y)
    with pytest.raises(TypeError, match=r"params\['weight_hh_l0'\]: expected dtype float32, got float64"):
        gpu.update({"weight_hh_l0": to_gpu(np.zeros((4 * H, H)))})
    with pytest.raises(ValueError, match=r"params\['weight_hh_l0'\]: expected shape weight_hh_l0 = "):
        gpu.update({"weight_hh_l0": to_gpu(np.zeros((2, H), np.float32))})


@pytest.mark.posed
def test_each_stream_has_its_own_pack() -> None:
    _, gpu = pair("GRU", IN, H)
    x = to_gpu(numbers((T, B, IN)))
    weights = gpu._weights
    first = gpu(x)[0]
    fake_cuda.streams.append(8)
    try:
        second = gpu(x)[0]
    finally:
        fake_cuda.streams.pop()
    assert set(weights._on_streams) == {7, 8}
    assert weights._on_streams[7] is not weights._on_streams[8]
    assert np.array_equal(to_host(first), to_host(second))
    for stream in range(20, 60):
        fake_cuda.streams[-1] = stream
        gpu(x)
    fake_cuda.streams[-1] = 7
    assert len(weights._on_streams) <= 8


@pytest.mark.posed
def test_while_a_graph_is_captured() -> None:
    """A pack is not kept, since it is not written before a replay; what a replay would not read again is refused."""
    _, gpu = pair("GRU", IN, H)
    x = to_gpu(numbers((T, B, IN)))
    fake_cuda.capturing[-1] = True
    try:
        gpu(x, lengths=to_gpu(np.array([1, 2, 3])))
        assert not gpu._weights._on_streams
        with pytest.raises(RuntimeError, match=r"lengths: expected an array on cuda:0 while a CUDA graph is captured"):
            gpu(x, lengths=[1, 2, 3])
        with pytest.raises(RuntimeError, match=r"mask: expected an array on cuda:0 while a CUDA graph is captured"):
            gpu(x, mask=np.zeros((T, B), bool))
    finally:
        fake_cuda.capturing[-1] = False


@pytest.mark.posed
def test_bad_device_lengths_are_clamped_and_reported_late() -> None:
    cpu, gpu = pair("LSTM", IN, H)
    x = numbers((T, B, IN))
    y, _ = gpu(to_gpu(x), lengths=to_gpu(np.array([9, 2, -4])))
    with pytest.raises(ValueError, match=r"length"):
        rk.check()
    rk.check()  # once
    close(y, cpu(x, lengths=[5, 2, 0])[0])
    gpu(to_gpu(x), lengths=to_gpu(np.array([1, 2, 6])))
    with pytest.raises(ValueError, match=r"length"):
        gpu(to_gpu(x))


X = numbers((T, B, IN))


@pytest.mark.posed
@pytest.mark.parametrize(
    "change, kind, said",
    [
        (
            {"x": X},
            ValueError,
            "x: expected an array on cuda:0, where the layer is, got one in host memory; nothing is",
        ),
        ({"x": [[1.0]]}, TypeError, "x: expected an array of cupy or torch or fake_cuda, got list"),
        ({"x": "cuda:1"}, ValueError, "x: expected an array on cuda:0, where the layer is, got one on cuda:1"),
        ({"x": to_gpu(X.astype(np.float64))}, TypeError, "x: expected dtype float32, got float64"),
        ({"x": to_gpu(X[0, 0])}, ValueError, r"x: expected \[T, B, I\] or unbatched"),
        ({"x": to_gpu(X[:, :, 1:])}, ValueError, r"x: expected shape \[T, B, I\] = \[5, 3, 4\], got \[5, 3, 3\]"),
        ({"state": (np.zeros((1, B, H), np.float32),) * 2}, ValueError, r"state\[0\] \(h\): .* got one in host memory"),
        ({"lengths": to_gpu(np.array([1.0, 2.0, 3.0]))}, TypeError, "lengths: expected integers, got dtype float64"),
        ({"lengths": to_gpu(np.array([1, 2]))}, ValueError, r"lengths: expected shape \[B\] = \[3\], got \[2\]"),
        ({"lengths": to_gpu(np.array([1, 2, 3]), 1)}, ValueError, "lengths: .* got one on cuda:1"),
        ({"lengths": [1, 2, 6]}, ValueError, r"lengths\[2\]: expected 0 <= length <= T = 5, got 6"),
        ({"out": np.zeros((T, B, H), np.float32)}, ValueError, "out: .* got one in host memory"),
    ],
)
def test_bad_arguments(change: dict[str, Any], kind: type[Exception], said: str) -> None:
    _, gpu = pair("LSTM", IN, H)
    arguments = {"x": to_gpu(X), **change}
    x = arguments.pop("x")
    with pytest.raises(kind, match=said):
        gpu(to_gpu(X, 1) if isinstance(x, str) else x, **arguments)


@pytest.mark.posed
def test_devices_do_not_mix() -> None:
    cpu, gpu = pair("LSTM", IN, H)
    with pytest.raises(ValueError, match=r"x: expected an array in host memory, got one on a CUDA device; nothing is"):
        cpu(to_gpu(X))
    tape = gpu.forward(to_gpu(X))[2]
    with pytest.raises(ValueError, match=r"dy: .* got one in host memory"):
        gpu.backward(tape, np.zeros((T, B, H), np.float32))
    plan, host = _engine.plan(gpu.spec), _engine.plan(cpu.spec)
    there, here = ([*map(f, cpu.params.values()), None, None] for f in (to_gpu, lambda array: array))
    with pytest.raises(ValueError, match=r"into: expected .* bytes on the GPU, got None"):
        plan.pack(there)
    with pytest.raises(ValueError, match=r"weight_ih: expected an array on cuda:0, got one in CPU memory"):
        plan.pack(here, into=fake_cuda.LIBRARY.empty((10**6,), "uint8", 0))
    with pytest.raises(ValueError, match=r"into: expected at least .* bytes, got 8"):
        plan.pack(there, into=fake_cuda.LIBRARY.empty((8,), "uint8", 0))
    with pytest.raises(ValueError, match=r"weight_ih: expected an array in CPU memory, got one on cuda:0"):
        host.pack(there)
    with pytest.raises(ValueError, match=r"packed: expected weights packed for .* on cuda:0"):
        plan.forward(host.pack(here), x=to_gpu(X), y=to_gpu(X))
    with pytest.raises(ValueError, match=r"workspace: expected .* bytes on the GPU, got None"):
        out = fake_cuda.LIBRARY.empty((T, B, H), "float32", 0)
        plan.forward(gpu._weights.packed(True, gpu._place.memory), x=to_gpu(X), y=out)
    read_only = to_gpu(np.zeros((T, B, H), np.float32))
    read_only.hidden.flags.writeable = False
    with pytest.raises(ValueError, match=r"y: expected a writable array, got a read-only one"):
        gpu(to_gpu(X), out=read_only)


@pytest.mark.posed
def test_looking_inside() -> None:
    _, gpu = pair("LSTM", IN, H, num_layers=2)
    facts = rk.info()
    assert facts["cuda"] == "available" and facts["gpus"][0]["name"] and facts["gpus"][0]["memory"] > 0
    said = rk.explain(gpu, to_gpu(X))
    assert said.kernel.startswith("cuda_") and "on cuda:0" in str(said)
    declined = {candidate.name for candidate in said.candidates if candidate.declined}
    assert declined >= {name for name, _ in _core.kernels() if name.startswith("cpu_")}


@pytest.mark.posed
def test_tf32_is_asked_for() -> None:
    assert rk.GRU(IN, H, device="cuda", allow_tf32=True).allow_tf32
    for wrong in ({"device": "cuda", "dtype": "float64"}, {"device": "cpu"}):
        with pytest.raises(ValueError, match=r"allow_tf32: expected False for"):
            rk.GRU(IN, H, allow_tf32=True, **wrong)  # type: ignore[arg-type]


@pytest.mark.posed
def test_the_environment_forces_one_devices_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKERN_KERNEL", "cpu_scalar")
    cpu, gpu = pair("LSTM", IN + 1, H + 1)
    assert rk.explain(cpu, (1, 1, IN + 1)).kernel == "cpu_scalar"
    assert rk.explain(gpu, (1, 1, IN + 1)).kernel.startswith("cuda_")


CHILD = """
import os, sys
sys.path[:0] = {path!r}
import numpy as np, fake_cuda, rnnkern as rk
from rnnkern._arrays import libraries
libraries.home = lambda: fake_cuda.LIBRARY
gpu, cpu = rk.LSTM(2, 3, device="cuda"), rk.LSTM(2, 3)
x = np.zeros((1, 1, 2), np.float32)
gpu(fake_cuda.to_gpu(x))
child = os.fork()
if child == 0:
    cpu(x)
    said = []
    for use in (lambda: gpu(fake_cuda.to_gpu(x)), lambda: rk.LSTM(2, 4, device="cuda"), rk.check, rk.info):
        try:
            use()
        except RuntimeError as error:
            said.append("forked" in str(error) and "spawn" in str(error))
    os._exit(0 if said == [True] * 4 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.posed
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told() -> None:
    code = CHILD.format(path=[str(Path(fake_cuda.__file__).parent), str(Path(rk.__file__).parents[1])])
    site = ["-S"] if sys.flags.no_site else []  # as this process was started: .ci/simt
    done = subprocess.run([sys.executable, *site, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Without a device ----------------------------------------------------------------------------------------------------


def test_names_of_devices() -> None:
    for name in ("abacus", "cuda:", "cuda:x", "cuda:-1"):
        with pytest.raises(ValueError, match=f"got '{name}'"):
            rk.GRUCell(IN, H, device=name)
    if _core.device_count() == 0:
        with pytest.raises(NotImplementedError, match=r"device: expected 'cpu', since .*; got 'cuda'"):
            rk.GRU(IN, H, device="cuda")
    else:
        with pytest.raises(ValueError, match=r"device: expected 'cuda:0' to 'cuda:\d+', got 'cuda:99'"):
            rk.GRU(IN, H, device="cuda:99")
    with pytest.raises((ValueError, NotImplementedError), match="device_index"):
        _core.Plan("lstm", "float32", 2, 2, device="cuda", device_index=99)
    with pytest.raises(ValueError, match='device: expected "cpu" or "cuda", got "tpu"'):
        _core.Plan("lstm", "float32", 2, 2, device="tpu")


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(libraries, "_made", {})
    with pytest.raises(ImportError, match=r"CuPy.*pip install cupy-cuda13x"):
        libraries.home()


def test_facts_without_a_device() -> None:
    facts = rk.info()
    assert len(facts["gpus"]) == _core.device_count()
    assert (facts["cuda"] == "available") == (_core.device_count() > 0)
    rk.check()
