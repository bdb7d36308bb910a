"""What the contract promises of layers beside numbers: outputs, tapes, aliasing, copies, arguments, threads."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import signal
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import rnnkern as rk
from layer_cases import IN, KINDS, LENGTHS, B, H, T, problem, step
from rnnkern import _engine
from rnnkern.nn import parameters
from rnnkern.nn.tape import MEMORY


def test_out_takes_the_result() -> None:
    layer = rk.LSTM(IN, H, seed=0)
    x, state, dy, _ = problem(layer, 0)
    wanted = layer(x, state)[0]
    buffer = np.full((T, B, 2 * H), 7, np.float32)
    for out in (np.empty_like(wanted), buffer[..., ::2]):
        assert layer(x, state, out=out)[0] is out
        assert np.array_equal(out, wanted)
    assert (buffer[..., 1::2] == 7).all()
    y, _, tape = layer.forward(x, state, out=out)
    assert y is out and y.flags.writeable
    layer.backward(tape, dy)
    out[0, 0, 0] += 1
    with pytest.raises(ValueError, match="y was changed"):
        layer.backward(tape, dy)
    both = np.zeros((T, B, IN + H), np.float32)  # x and out interleaved in one buffer, without sharing an element
    both[..., :IN] = x
    layer(both[..., :IN], state, out=both[..., IN:])
    assert np.array_equal(both[..., IN:], wanted) and np.array_equal(both[..., :IN], x)


def test_results_alias_nothing() -> None:
    layer = rk.LSTM(IN, H, 2, seed=0)
    x, state, dy, dstate = problem(layer, 0)
    y, finals, tape = layer.forward(x, state)
    grads = layer.backward(tape, dy, dstate)
    arrays = [x, *state, dy, *dstate, y, *finals, grads.x, *grads.state, *grads.params.values(), *layer.params.values()]
    for i, a in enumerate(arrays):
        assert not any(np.shares_memory(a, b) for b in arrays[:i])


def test_tape_holds_what_it_refers_to() -> None:
    layer = rk.LSTM(IN, H, 2, seed=0)
    x, state, dy, dstate = problem(layer, 0)
    y, _, tape = layer.forward(x, state)
    assert not y.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        y[0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        y.flags.writeable = True
    first = layer.backward(tape, dy, dstate)
    for s in state:
        s[...] = np.nan  # the state is copied: the caller goes on with it
    second = layer.backward(tape, dy, dstate)
    assert np.array_equal(first.x, second.x)
    assert all(np.array_equal(first.params[name], second.params[name]) for name in first.params)


@pytest.mark.parametrize("change", ["element", "sign", "order", "low bit"])
def test_changed_x_is_noticed(change: str) -> None:
    layer = rk.GRU(IN, H, dtype="float64", seed=0)
    x, _, dy, _ = problem(layer, 0)
    _, _, tape = layer.forward(x)
    if change == "element":
        x[T - 1, B - 1, IN - 1] = 3
    elif change == "sign":
        x *= -1
    elif change == "order":
        x[:] = x[::-1].copy()
    else:
        x.view(np.uint64)[3, 2, 1] ^= 1
    with pytest.raises(ValueError, match="x was changed"):
        layer.backward(tape, dy)


def test_tape_of_another_layer_or_of_older_parameters() -> None:
    layer, other = rk.GRU(IN, H, seed=0), rk.GRU(IN, H, seed=0)
    x, _, dy, _ = problem(layer, 0)
    _, _, tape = layer.forward(x)
    with pytest.raises(ValueError, match=r"tape: .*another"):
        other.backward(tape, dy)
    layer.update({"bias_hh_l0": layer.params["bias_hh_l0"]})
    with pytest.raises(ValueError, match=r"tape: .*updated"):
        layer.backward(tape, dy)


@pytest.mark.parametrize("needs", [(False, False), (True, False), (False, True)], ids=["", "x", "state"])
@pytest.mark.parametrize("wanted", ["none", "all", "top", "hh"])
def test_backward_computes_what_is_needed_and_no_less(needs: tuple[bool, bool], wanted: str) -> None:
    """The scheduler's flags: what is asked for has the bits of a full backward, the rest is None."""
    layer = rk.LSTM(IN, H, 3, bidirectional=True, dropout=0.5, seed=0)
    spec, x = layer.spec, problem(layer, 0)[0]
    packed = _engine.pack(spec, list(layer.params.values()))
    memory = MEMORY._replace(empty=lambda shape, dtype: np.full(shape, np.nan, dtype))  # what is not written shows
    reserve = _engine.new_reserve(spec, T, B, drop=True)
    reserve[:] = 0xFF
    inputs = _engine.Inputs(x, lengths=LENGTHS, masks=(1, 2))
    y, _, _ = _engine.forward(spec, packed, inputs, memory, reserve=reserve)
    tape = _engine.Tape(spec, inputs, y, reserve)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    above = _engine.OutputGradients(dy)
    full = _engine.backward(packed, tape, above, memory)
    flags = [
        {"none": False, "all": True, "top": "_l2" in n, "hh": "weight_hh_l1" in n}[wanted] for n in spec.param_names
    ]
    part = _engine.backward(packed, tape, above, memory, _engine.Wanted(*needs, flags))
    assert (part.x is None, part.h is None, part.c is None) == (not needs[0], not needs[1], not needs[1])
    assert [p is not None for p in part.params] == flags
    for got, all_of_it in zip(
        [part.x, part.h, part.c, *part.params], [full.x, full.h, full.c, *full.params], strict=True
    ):
        assert got is None or np.array_equal(got, all_of_it)
    assert not any(np.isnan(g).any() for g in [full.x, full.h, full.c, *full.params])
    same = _engine.backward(packed, tape, above, memory)
    assert np.array_equal(same.x, full.x) and all(map(np.array_equal, same.params, full.params))
    short = tape._replace(reserve=reserve[:64])
    with pytest.raises(ValueError, match=r"reserve_size: expected at least \d+ bytes, got 64"):
        _engine.backward(packed, short, above, memory)


def test_need_x_false_and_absent_gradients() -> None:
    layer = rk.LSTM(IN, H, seed=0)
    x, state, dy, (dh, dc) = problem(layer, 0)
    y, _, tape = layer.forward(x, state)
    full = layer.backward(tape, dy, (dh, dc))
    part = layer.backward(tape, dy, (dh, dc), need_x=False)
    assert part.x is None and np.array_equal(part.params["weight_ih_l0"], full.params["weight_ih_l0"])
    zero = np.zeros_like(dh)
    assert np.array_equal(layer.backward(tape, None, (dh, dc)).x, layer.backward(tape, np.zeros_like(y), (dh, dc)).x)
    assert np.array_equal(layer.backward(tape, dy, (None, dc)).x, layer.backward(tape, dy, (zero, dc)).x)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_tensors_come_and_go(kind: str) -> None:
    layer = KINDS[kind][0](IN, H, 2, seed=0)
    x, state, dy, dstate = problem(layer, 0)
    tensor = torch.from_numpy
    as_torch = lambda s: tuple(map(tensor, s)) if isinstance(s, tuple) else tensor(s)  # noqa: E731
    wanted = step(layer, x, state, LENGTHS, dy, dstate)
    got = step(layer, tensor(x), as_torch(state), tensor(LENGTHS), tensor(dy), as_torch(dstate))
    for name, value in got.items():
        assert isinstance(value, torch.Tensor) and np.array_equal(value.numpy(), wanted[name]), name
    y, _, tape = layer.forward(tensor(x))
    y[0] = 0  # torch has no read-only tensors, so y's content is checked
    with pytest.raises(ValueError, match="y was changed"):
        layer.backward(tape, tensor(dy))
    half = KINDS[kind][0](IN, H, dtype=torch.bfloat16, seed=0)
    y = half(torch.zeros(T, B, IN, dtype=torch.bfloat16))[0]
    assert y.dtype == torch.bfloat16 and y.shape == (T, B, H)


def test_parameters_change_all_or_nothing() -> None:
    layer, other = rk.LSTM(IN, H, seed=0), rk.LSTM(IN, H, seed=1)
    x = problem(layer, 0)[0]
    before = layer.state_dict()
    with pytest.raises(TypeError, match="does not support item assignment"):
        layer.params["bias_hh_l0"] = before["bias_hh_l0"]
    with pytest.raises(ValueError, match="read-only"):
        layer.params["bias_hh_l0"][0] = 1
    bad = {"weight_hh_l0": np.zeros_like(before["weight_hh_l0"]), "bias_hh_l0": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"params\['bias_hh_l0'\].*\[36\].*\[3\]"):
        layer.update(bad)
    assert all(np.array_equal(value, layer.params[name]) for name, value in before.items())
    layer.load_state_dict(other.state_dict())
    assert np.array_equal(layer(x)[0], other(x)[0])
    mine = before["weight_hh_l0"]
    layer.update({"weight_hh_l0": mine})
    y = layer(x)[0]
    mine[...] = np.nan  # a copy was taken
    layer.state_dict()["weight_hh_l0"][...] = np.nan  # and given
    assert np.array_equal(layer(x)[0], y)


def test_state_dict_loads_into_torch_and_back() -> None:
    layer, module = rk.GRU(IN, H, 2, bidirectional=True), torch.nn.GRU(IN, H, 2, bidirectional=True)
    layer.load_state_dict({name: value.detach() for name, value in module.named_parameters()})
    assert list(layer.state_dict()) == [name for name, _ in module.named_parameters()]
    assert all(np.array_equal(value, layer.params[name]) for name, value in module.state_dict().items())


def test_initial_values() -> None:
    """U(-1/sqrt(H), 1/sqrt(H)): bounded by it, and with its spread (4 standard errors of a variance of n draws)."""
    layer = rk.LSTM(64, 100, 2, seed=3)
    values = np.concatenate([p.ravel() for p in layer.params.values()]).astype(np.float64)
    bound = 100**-0.5
    assert np.abs(values).max() <= bound
    assert abs(values.var() / (bound**2 / 3) - 1) < 4 * (0.8 / values.size) ** 0.5  # kurtosis 9/5: Var(s^2)/s^4 = 0.8/n
    same, double, others = (
        rk.LSTM(64, 100, 2, seed=3),
        rk.LSTM(64, 100, 2, seed=3, dtype="float64"),
        rk.LSTM(64, 100, 2),
    )
    for name, value in layer.params.items():
        assert np.array_equal(value, same.params[name])
        assert np.array_equal(value, double.params[name].astype(np.float32))
        assert not np.array_equal(value, others.params[name])
    assert others.seed != rk.LSTM(1, 1).seed


def test_copies_and_pickles_are_their_own() -> None:
    layer = rk.LSTM(IN, H, 2, dropout=0.5, seed=0)
    x = problem(layer, 0)[0]
    layer.forward(x)
    wanted = layer(x)[0]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert (twin.call, twin.seed, repr(twin)) == (1, 0, repr(layer))
        assert np.array_equal(twin(x)[0], wanted)
        twin.update({"bias_hh_l0": np.ones(4 * H, np.float32)})
    assert np.array_equal(layer(x)[0], wanted)


def test_concurrent_calls_on_one_layer() -> None:
    """Four threads call, train and back-propagate on one layer: each gets the bits it gets alone, and 40 training calls
    draw 40 different masks."""
    layer = rk.LSTM(16, 32, 2, bidirectional=True, dropout=0.5, seed=0)
    x = np.random.default_rng(0).standard_normal((11, 3, 16)).astype(np.float32)
    dy = np.ones((11, 3, 64), np.float32)
    wanted = layer(x)[0]
    _, _, tape = layer.forward(x, train=False)
    grads = layer.backward(tape, dy)
    masks: list[bytes] = []
    failures: list[str] = []

    def work() -> None:
        for _ in range(10):
            if not np.array_equal(layer(x)[0], wanted):
                failures.append("forward")
            if not np.array_equal(layer.backward(tape, dy).x, grads.x):
                failures.append("backward")
            masks.append(layer.forward(x)[0].tobytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(set(masks)) == 40 and layer.call == 40


@pytest.mark.parametrize(("ours", "theirs"), [(rk.RNN, torch.nn.RNN), (rk.GRU, torch.nn.GRU), (rk.LSTM, torch.nn.LSTM)])
def test_positional_arguments_are_torchs(ours: Any, theirs: Any) -> None:
    """Every prefix of torch's positional arguments builds the same layer here (device, dtype are keywords)."""
    args: tuple[Any, ...] = (3, 4, 2) + (("relu",) if ours is rk.RNN else ()) + (False, True, 0.25, True)
    for count in range(2, len(args) + 1):
        layer, module = ours(*args[:count]), theirs(*args[:count])
        assert [(n, tuple(p.shape)) for n, p in module.named_parameters()] == [
            (n, p.shape) for n, p in layer.params.items()
        ]
        for name in (
            "input_size",
            "hidden_size",
            "num_layers",
            "bias",
            "batch_first",
            "dropout",
            "bidirectional",
            "proj_size",
        ):
            assert getattr(layer, name) == getattr(module, name)
        if ours is rk.RNN:
            assert layer.nonlinearity == module.nonlinearity
        else:
            assert repr(layer) == repr(module)
    keywords = [p.name for p in inspect.signature(ours).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert keywords[:3] == ["device", "dtype", "seed"]


@pytest.mark.parametrize(
    "dtype",
    ["float32", np.float32, np.dtype("float32"), torch.float32, None, "bfloat16", ml_dtypes.bfloat16, torch.bfloat16],
)
def test_dtypes_by_any_name(dtype: Any) -> None:
    wanted = ml_dtypes.bfloat16 if "bfloat16" in str(dtype) else np.float32
    assert rk.LSTM(2, 3, dtype=dtype, device=torch.device("cpu")).params["weight_ih_l0"].dtype == wanted


def test_forced_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """RNNKERN_KERNEL holds for layers built while it is set; a kernel that does not exist is an error, no fallback."""
    monkeypatch.delenv("RNNKERN_KERNEL", raising=False)
    free = rk.LSTM(IN, H)
    monkeypatch.setenv("RNNKERN_KERNEL", "cpu_scalar")
    forced = rk.LSTM(IN, H)
    monkeypatch.setenv("RNNKERN_KERNEL", "no_such_kernel")
    with pytest.raises((ValueError, NotImplementedError), match="no_such_kernel"):
        rk.LSTM(IN, H)
    monkeypatch.delenv("RNNKERN_KERNEL")
    assert _engine.plan(forced.spec).kernels[0] == "cpu_scalar"
    assert (forced.spec.kernel, free.spec.kernel) == ("cpu_scalar", None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12: about threads, which is the point here
def test_a_child_forked_while_the_lock_is_held_can_train() -> None:
    layer = rk.GRU(IN, H, 2, dropout=0.5, seed=0)
    x = problem(layer, 0)[0]
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with parameters._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:  # the thread that holds the lock does not exist here
        signal.alarm(60)  # a child that waits for the lock must not outlive the test
        try:
            y, _, tape = layer.forward(x)
            layer.backward(tape, y)
            layer.update(layer.state_dict())
            os._exit(0 if layer.call == 1 else 1)
        finally:
            os._exit(2)
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
