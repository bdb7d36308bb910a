"""BPTT of both directions of a layer in one call: the bits of one after the other, at the same time or not."""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from c_abi import ACCUMULATE_DX, INVALID_VALUE, LSTM, OK, Layer, aligned, refused
from problems import DTYPES
from rnnkern import _core, ops
from rnnkern.arrays import MEMORY

KERNELS = [name for name, reason in _core.kernels() if not reason]
# (T, B, I, H, which): few rows and small layers, where each thread does better with a direction of its own; and others.
SIZES = [
    (60, 1, 16, 32, "plain"),
    (40, 1, 64, 64, "lengths"),
    (30, 2, 8, 48, "mask"),
    (1100, 1, 5, 20, "recompute"),
    (20, 9, 33, 40, "lengths"),
    (1, 1, 4, 8, "plain"),
    (0, 1, 4, 8, "plain"),
    (5, 0, 4, 8, "plain"),
]


class Bidirectional:
    """A layer, and its forward done."""

    def __init__(self, cell: str, dtype: str, kernel: str, size: tuple[int, int, int, int, str]) -> None:
        T, B, inputs, units, which = size
        self.spec = spec = ops.Spec(
            cell, dtype, inputs, units, 1, True, True, 0.0, kernel, recompute=which == "recompute"
        )
        rng = np.random.default_rng(5)
        given, state = DTYPES[dtype], DTYPES[spec.state_dtype]

        def draw(*shape: int, to: Any = given) -> Any:
            return rng.standard_normal(shape).astype(to)

        self.params = [draw(*shape) / given(4) for shape in spec.shapes]
        self.x, self.dy = draw(T, B, inputs), draw(T, B, 2 * units)
        self.h_0, self.dh_n = draw(2, B, units), draw(2, B, units, to=state)
        self.c_0 = draw(2, B, spec.cell_units, to=state) if spec.states > 1 else None
        self.dc_n = draw(2, B, spec.cell_units, to=state) if spec.states > 1 else None
        self.lengths = rng.integers(0, T + 1, B) if which == "lengths" else None
        self.marks = ops.Marks(rng.random((T, B)) < 0.7) if which == "mask" else ops.NO_MARKS
        self.packed = ops.pack(spec, self.params)
        reserve = ops.new_reserve(spec, T, B, False)
        answer = ops.forward(
            spec, self.packed, self.x, self.h_0, self.c_0, self.lengths, MEMORY, reserve=reserve, masks=None,
            marks=self.marks,
        )  # fmt: skip
        assert answer[3] is not None
        self.y, self.tape = answer[0], answer[3]

    def together(self) -> dict[str, Any]:
        grads = ops.backward(
            self.spec, self.packed, self.tape, self.dy, self.dh_n, self.dc_n, MEMORY, need_x=True, need_state=True,
            need_params=True,
        )  # fmt: skip
        named = dict(zip(self.spec.param_names, grads.params, strict=True))
        return {"dx": grads.x, "dh_0": grads.h, "dc_0": grads.c} | {f"d{name}": value for name, value in named.items()}

    def in_turn(self) -> dict[str, Any]:
        """Two calls, the second adding to dx."""
        shapes, state = dict(zip(self.spec.param_names, self.spec.shapes, strict=True)), self.dh_n.dtype
        out = {f"d{name}": np.zeros(shape, self.x.dtype) for name, shape in shapes.items()}
        out |= {"dx": np.zeros_like(self.x), "dh_0": np.zeros(self.dh_n.shape, state)}
        out["dc_0"] = None if self.dc_n is None else np.zeros(self.dc_n.shape, state)
        for direction, plan in enumerate(ops.plans(self.spec, self.marks.any)):
            names = [name for name in shapes if name.endswith("_reverse") == bool(direction)]
            own = {f"d{name.removesuffix('_reverse').removesuffix('_l0')}": out[f"d{name}"] for name in names}
            plan.backward(
                self.packed[direction], self.tape.reserves[direction], self.x, self.h_0, self.c_0, self.y, self.dy,
                self.dh_n, self.dc_n, dx=out["dx"], accumulate_dx=direction > 0, lengths=self.lengths,
                mask=self.marks.mask, place=(direction, 2), dh_0=out["dh_0"], dc_0=out["dc_0"], **own,
            )  # fmt: skip
        return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "slstm"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_bits_of_one_after_the_other(
    cell: str,
    kernel: str,
    size: tuple[int, int, int, int, str],
    dtype: str,
    set_threads: Callable[[int], None],
) -> None:
    if dtype != "bfloat16" and kernel in ("cpu_amx", "cpu_avx512_bf16"):
        return  # these compute bfloat16 alone
    layer, before = Bidirectional(cell, dtype, kernel, size), _core.get_num_threads()
    set_threads(1)
    wanted = layer.in_turn()
    for threads in (1, 2, 3, before):
        set_threads(threads)
        for name, value in layer.together().items():
            if value is None:
                assert wanted[name] is None
            else:
                assert value.tobytes() == wanted[name].tobytes(), f"{name}, {threads} threads"


def test_room_for_a_second_dx_is_bounded(set_threads: Callable[[int], None]) -> None:
    """Asked for where it will be used, and not with T without end; nor where memory is dear."""
    set_threads(2)

    def asked(steps: int, recompute: bool = False) -> int:
        spec = ops.Spec("lstm", "float32", 32, 32, 1, True, True, 0.0, "cpu_avx2", recompute)
        one, other = ops.plans(spec)
        return one.workspace_beside(other, steps, 1) - other.sizes(steps, 1)["workspace_backward"]

    if ("cpu_avx2", "") not in _core.kernels():
        pytest.skip("this CPU lacks AVX2")
    assert 100 * 32 * 4 <= asked(100) < 100 * 32 * 4 + 128
    assert max(asked(steps) for steps in (10**4, 10**5, 10**6)) <= 8 << 20 and asked(10**6) < 64
    assert asked(1100, recompute=True) < 64
    set_threads(1)
    assert asked(100) < 64


class Direction(Layer):
    """Of sizes where two threads do better each with a direction of its own."""

    T, B, IN, H = 60, 1, 16, 32

    def __init__(self, lib: Any, cell: int) -> None:
        super().__init__(lib, cell)
        self.args.lengths = None
        assert self.pack() == OK and self.call("forward") == OK


@pytest.fixture
def pair(lib: Any) -> Iterator[tuple[Direction, Direction]]:
    before = lib.rnnk_get_num_threads()
    assert lib.rnnk_set_num_threads(2) == OK
    one, other = Direction(lib, LSTM), Direction(lib, LSTM)
    other.args.dx, other.args.flags = one.args.dx, ACCUMULATE_DX
    yield one, other
    for layer in (one, other):
        layer.close()
    lib.rnnk_set_num_threads(before)


def both(lib: Any, one: Direction, other: Direction) -> int:
    return int(lib.rnnk_backward_both(one.plan, c.byref(one.args), other.plan, c.byref(other.args)))


def test_c_abi(lib: Any, pair: tuple[Direction, Direction]) -> None:
    """At the same time where there is room for a second dx, in turn where there is not."""
    one, other = pair
    names = [name for name in one.outputs if name.startswith("d")]
    assert one.call("backward") == other.call("backward") == OK
    wanted = {(layer, name): layer.outputs[name].copy() for layer in pair for name in names}
    size = c.c_size_t()
    assert lib.rnnk_backward_both_workspace(one.plan, other.plan, other.T, other.B, c.byref(size)) == OK
    for room in (True, False):
        workspace = aligned(size.value if room else other.sizes.workspace_backward)
        workspace[:] = 7
        other.args.workspace, other.args.workspace_size = workspace.ctypes.data, workspace.size
        for layer in pair:
            for name in names:
                layer.outputs[name][:] = 7
        assert both(lib, one, other) == OK, lib.rnnk_last_error()
        for (layer, name), value in wanted.items():
            if layer is one or name != "dx":
                assert layer.outputs[name].tobytes() == value.tobytes(), name
        apart = workspace[other.sizes.workspace_backward :]
        assert (len(apart) > 0) == room and (not room or (apart != 7).any()), "not at the same time"


def test_what_is_not_is_not_added_to(lib: Any, pair: tuple[Direction, Direction]) -> None:
    """Past a row's end dx stays as it was to the bit, where both calls add to it."""
    one, other = pair
    size = c.c_size_t()
    assert lib.rnnk_backward_both_workspace(one.plan, other.plan, other.T, other.B, c.byref(size)) == OK
    workspace = aligned(size.value)
    other.args.workspace, other.args.workspace_size = workspace.ctypes.data, workspace.size
    lengths = np.array([one.T - 2], np.int64)
    for layer in pair:
        layer.args.lengths, layer.args.flags = lengths.ctypes.data, ACCUMULATE_DX
        assert layer.call("forward") == OK
    dx = one.outputs["dx"]
    dx[:] = 1
    dx[-2:], dx[-1, 0, 0] = -0.0, 1e-40
    before = dx.copy()
    assert both(lib, one, other) == OK, lib.rnnk_last_error()
    assert dx[-2:].tobytes() == before[-2:].tobytes() and (dx[:-2] != 1).all()
    assert workspace[other.sizes.workspace_backward :].any(), "not at the same time"


def test_c_abi_refuses(lib: Any, pair: tuple[Direction, Direction]) -> None:
    one, other = pair
    one.outputs["dx"][:] = 7
    other.args.flags = 0
    refused(lib, both(lib, one, other), INVALID_VALUE, r"other_args\.flags: expected RNNK_ACCUMULATE_DX")
    other.args.flags = ACCUMULATE_DX
    other.args.dx.stride[1] += 1
    refused(lib, both(lib, one, other), INVALID_VALUE, r"other_args\.dx: expected the steps, rows, units and strides")
    other.args.dx.stride[1] -= 1
    other.args.workspace_size = other.sizes.workspace_backward - 1
    refused(lib, both(lib, one, other), INVALID_VALUE, "workspace_size: expected at least")
    refused(
        lib,
        lib.rnnk_backward_both_workspace(one.plan, other.plan, -1, 1, c.byref(c.c_size_t())),
        INVALID_VALUE,
        "seq_len: ",
    )
    refused(
        lib, lib.rnnk_backward_both(None, c.byref(one.args), other.plan, c.byref(other.args)), INVALID_VALUE, "one: "
    )
    assert (one.outputs["dx"] == 7).all()
