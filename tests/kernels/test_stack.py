"""Stacks of layers in one call, which may run as a wavefront: the bits of layer after layer, and no layer too early."""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from c_abi import ACCUMULATE_DX, INVALID_VALUE, LSTM, OK, Args, Layer, Tensor, refused, tensor
from problems import DTYPES
from rnnkern import _core

KERNELS = [name for name, reason in _core.kernels() if not reason]
# Few rows and small layers, where a wavefront pays from two threads on; blocks that end with the sequence, and not.
SIZES = [(16, 1, 64), (100, 1, 64), (333, 1, 128), (1000, 2, 16), (15, 1, 64), (1, 1, 64), (0, 1, 64), (40, 0, 8)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "slstm"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bits_of_layer_after_layer(
    cell: str, kernel: str, size: tuple[int, int, int], set_threads: Callable[[int], None]
) -> None:
    steps, rows, units = size
    dtype = "bfloat16" if kernel in ("cpu_amx", "cpu_avx512_bf16") else "float32"
    rng, layers = np.random.default_rng(3), 3
    kind: Any = {"lstm": rk.LSTM, "gru": rk.GRU, "rnn_tanh": rk.RNN, "slstm": rk.sLSTM}[cell]
    before = _core.get_num_threads()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RNNKERN_KERNEL", kernel)
        stack = kind(5, units, layers, dtype=dtype, seed=1)
        single = [kind(5 if k == 0 else units, units, dtype=dtype, seed=1) for k in range(layers)]
    for k, layer in enumerate(single):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layer.update({f"{name}_l0": stack.params[f"{name}_l{k}"] for name in names})
    numpy_dtype = DTYPES[dtype]
    x = rng.standard_normal((steps, rows, 5)).astype(numpy_dtype)
    h = rng.standard_normal((layers, rows, units)).astype(numpy_dtype)
    c, n, m = (rng.standard_normal((layers, rows, units)).astype(np.float32) for _ in range(3))
    behind = {"lstm": (c,), "slstm": (c, np.exp(n), m)}.get(cell, ())

    def state(k: Any) -> Any:
        return (h[k], *(part[k] for part in behind)) if behind else h[k]

    wanted_y: Any = x
    wanted = []
    for k, layer in enumerate(single):
        wanted_y, last = layer(wanted_y, state(slice(k, k + 1)))
        wanted.append(last)
    for threads in (1, 2, 3, before):
        set_threads(threads)
        y, last = stack(x, state(slice(None)))
        assert y.tobytes() == wanted_y.tobytes()
        got = last if behind else (last,)
        for part, array in enumerate(got):
            each = [w[part] if behind else w for w in wanted]
            assert array.tobytes() == np.concatenate(each).tobytes()


def stacked(lib: Any) -> tuple[Any, Any, Any, Any]:
    """Two LSTM layers of the C ABI's test, the second's x being the first's y."""
    first = Layer(lib, LSTM)
    Layer.IN, kept = first.H, Layer.IN
    second = Layer(lib, LSTM)
    Layer.IN = kept
    for layer in (first, second):
        assert layer.pack() == OK
        layer.args.reserve, layer.args.lengths = None, None
    second.args.x = tensor(first.outputs["y"])
    plans = (c.c_void_p * 2)(first.plan, second.plan)
    args = (c.POINTER(Args) * 2)(c.pointer(first.args), c.pointer(second.args))
    return first, second, plans, args


def test_c_abi(lib: Any) -> None:
    first, second, plans, args = stacked(lib)
    call = lib.rnnk_forward_stack
    assert first.call("forward") == second.call("forward") == OK
    wanted = [layer.outputs[name].copy() for layer in (first, second) for name in ("y", "h_n", "c_n")]
    for layer in (first, second):
        for name in ("y", "h_n", "c_n"):
            layer.outputs[name][:] = 7
    refused(lib, call(None, args, 2), INVALID_VALUE, "plans: expected a pointer, got NULL")
    refused(lib, call(plans, None, 2), INVALID_VALUE, "args: expected a pointer, got NULL")
    refused(lib, call(plans, args, 0), INVALID_VALUE, "layers: expected 1 to 1024, got 0")
    second.args.x = tensor(second.inputs["x"])
    refused(lib, call(plans, args, 2), INVALID_VALUE, r"args\[1\]\.x: expected what is args\[0\]\.y")
    second.args.x = tensor(first.outputs["y"])
    second.args.seq_len -= 1
    refused(lib, call(plans, args, 2), INVALID_VALUE, r"args\[1\]\.x: expected what is args\[0\]\.y")
    second.args.seq_len += 1
    assert (first.outputs["y"] == 7).all()
    assert call(plans, args, 2) == OK, lib.rnnk_last_error()
    got = [layer.outputs[name] for layer in (first, second) for name in ("y", "h_n", "c_n")]
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    for layer in (first, second):
        layer.close()


def test_c_abi_backward(lib: Any) -> None:
    first, second, plans, args = stacked(lib)
    pair = (first, second)
    for layer in pair:
        layer.outputs["reserve"][:] = 0
        layer.args.reserve = layer.outputs["reserve"].ctypes.data
        assert layer.call("forward") == OK
    first.args.dy = tensor(second.outputs["dx"])
    names = [name for name in first.outputs if name.startswith("d")]
    assert second.call("backward") == first.call("backward") == OK
    wanted = {(layer, name): layer.outputs[name].copy() for layer in pair for name in names}
    for layer in pair:
        for name in names:
            layer.outputs[name][:] = 7
    call = lib.rnnk_backward_stack
    refused(lib, call(None, args, 2), INVALID_VALUE, "plans: expected a pointer, got NULL")
    second.args.flags = ACCUMULATE_DX
    refused(lib, call(plans, args, 2), INVALID_VALUE, r"args\[1\]\.flags: expected no RNNK_ACCUMULATE_DX")
    second.args.flags = 0
    first.args.dy = tensor(first.inputs["dy"])
    refused(lib, call(plans, args, 2), INVALID_VALUE, r"args\[1\]\.dx: expected what is args\[0\]\.dy")
    first.args.dy, second.args.dx = tensor(second.outputs["dx"]), Tensor()
    refused(lib, call(plans, args, 2), INVALID_VALUE, r"args\[1\]\.dx: expected what is args\[0\]\.dy")
    second.args.dx = first.args.dy
    assert all((layer.outputs[name] == 7).all() for layer in pair for name in names)
    assert call(plans, args, 2) == OK, lib.rnnk_last_error()
    for (layer, name), value in wanted.items():
        assert layer.outputs[name].tobytes() == value.tobytes(), name
    for layer in pair:
        layer.close()


def test_stacks_too_deep_for_one_call() -> None:
    layer = rk.RNN(1, 1, 1025, seed=0)
    x = np.ones((2, 1, 1), np.float32)
    assert np.array_equal(layer(x)[0], layer.forward(x)[0])
