"""The C ABI by ctypes: names, sizes, refusals, and structs of other versions.

Everything here goes through rnnkern.h's functions; the header, the package and programs are build/test_c_package.py's.
"""

from __future__ import annotations

import ctypes as c
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from c_abi import (
    BACKWARD,
    BF16_WEIGHTS,
    BFLOAT16,
    BOTH,
    FLOAT32,
    FLOAT64,
    FORWARD,
    INT8,
    INVALID_TYPE,
    INVALID_VALUE,
    LSTM,
    NOT_SUPPORTED,
    OK,
    PARALLEL,
    SOFTSIGN,
    TANH,
    TRAIN,
    UINT8,
    Activation,
    Args,
    Dropout,
    Layer,
    P,
    Pool,
    Problem,
    Sizes,
    Tensor,
    Verdict,
    Weights,
    new,
    refused,
    tensor,
)
from native import ROOT, project_version

HEADER = ROOT / "csrc/include/rnnkern/rnnkern.h"


@pytest.fixture
def layer(lib: Any) -> Iterator[Layer]:
    made = Layer(lib, LSTM)
    assert made.pack() == OK
    yield made
    made.close()


def test_names(lib: Any) -> None:
    assert lib.rnnk_version().decode() == project_version()
    cells = [name.decode() for name in iter_names(lib.rnnk_cell_name)]
    listed = re.findall(r"^RNNK_CELL\(\d+, (\w+)", (HEADER.parent / "cells.inc").read_text(), re.M)
    assert cells == listed
    assert (lib.rnnk_cell_gates(LSTM), lib.rnnk_cell_states(LSTM)) == (4, 2)
    options = [name.decode() for name in iter_names(lambda i: lib.rnnk_cell_option(LSTM, i))]
    assert {"proj_size", "peephole", "coupled"} <= set(options) and "reset_before" not in options
    assert (lib.rnnk_cell_activations(LSTM), lib.rnnk_cell_activations(-1)) == (3, -1)
    assert lib.rnnk_cell_option(-1, 0) is None and lib.rnnk_cell_option(LSTM, -1) is None
    assert lib.rnnk_cell_gates(-1) < 0 and lib.rnnk_cell_states(len(cells)) < 0
    assert b"cpu_scalar" in iter_names(lib.rnnk_kernel_name)
    assert lib.rnnk_kernel_name(-1) is None and lib.rnnk_kernel_unavailable(99) is None
    assert lib.rnnk_kernel_weights(-1) is None


def iter_names(name_of: Any) -> list[bytes]:
    names: list[bytes] = []
    while (name := name_of(len(names))) is not None:
        names.append(name)
    return names


PROBLEMS: list[tuple[dict[str, Any], int, str]] = [
    ({"struct_size": 8}, INVALID_VALUE, rf"problem\.struct_size: expected at least {Problem.num_layers.offset}, got 8"),
    ({"cell": 99}, INVALID_VALUE, r"problem\.cell: no cell has the number 99"),
    ({"cell": -1}, INVALID_VALUE, r"problem\.cell: .*-1"),
    ({"dtype": 7}, INVALID_TYPE, r"problem\.dtype: no dtype has the number 7"),
    ({"device": 2}, INVALID_VALUE, r"problem\.device: .*got 2"),
    ({"device": 1, "device_index": 99}, NOT_SUPPORTED, r"problem\.device_index: "),
    ({"device_index": 2}, INVALID_VALUE, r"problem\.device_index: .*got 2"),
    ({"flags": 2048}, INVALID_VALUE, r"problem\.flags: unknown bits in 0x800"),
    (
        {"flags": 4},
        INVALID_VALUE,
        r"problem\.flags: RNNK_PROBLEM_TF32 is for float32 on RNNK_CUDA, got float32",
    ),
    ({"flags": 32}, INVALID_VALUE, "cell lstm has no reset_before"),
    ({"input_size": 0}, INVALID_VALUE, r"input_size: expected 1 to \d+, got 0"),
    ({"hidden_size": -5}, INVALID_VALUE, r"hidden_size: expected 1 to \d+, got -5"),
    ({"hidden_size": 1 << 40}, INVALID_VALUE, rf"hidden_size: .*got {1 << 40}"),
    ({"num_layers": -1}, INVALID_VALUE, r"num_layers: expected 1 to \d+, got -1"),
    ({"direction": 3}, INVALID_VALUE, r"problem\.direction: expected a value of rnnk_direction, got 3"),
    ({"dropout": 1.5}, INVALID_VALUE, r"dropout: expected 0 to 1, got 1\.5"),
    ({"dropout": float("nan")}, INVALID_VALUE, r"dropout: expected 0 to 1, got -?nan"),
    ({"reserved": 1}, INVALID_VALUE, r"problem\.reserved: expected 0, got 1"),
    ({"typical_batch": -1}, INVALID_VALUE, r"typical_batch: expected 0 to \d+, got -1"),
    (
        {"activations_reverse": (Activation * 3)(Activation(SOFTSIGN))},
        INVALID_VALUE,
        r"activations_reverse\[0\]: expected none for a single direction, got kind 10",
    ),
    (
        {"direction": 2, "activations_reverse": (Activation * 3)(Activation(), Activation(99))},
        INVALID_VALUE,
        r"activations_reverse\[1\]: expected a value of rnnk_activation_kind, got kind 99",
    ),
]


@pytest.mark.parametrize("change, code, sentence", PROBLEMS, ids=[sentence for *_, sentence in PROBLEMS])
def test_bad_problem(lib: Any, change: dict[str, Any], code: int, sentence: str) -> None:
    problem, plan = new(Problem, cell=LSTM, input_size=3, hidden_size=4), P(1)
    for name, value in change.items():
        setattr(problem, name, value)
    refused(lib, lib.rnnk_plan_create(c.byref(problem), None, c.byref(plan)), code, sentence)
    assert plan.value is None
    verdict = new(Verdict, declined=7)
    refused(lib, lib.rnnk_explain(c.byref(problem), 0, 1, 1, 0, c.byref(verdict)), code, sentence)
    assert verdict.declined == 7


def test_null_plan_and_kernel_names(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, plan = new(Problem, cell=LSTM, input_size=3, hidden_size=4), P()
    create = lib.rnnk_plan_create
    refused(lib, create(None, None, c.byref(plan)), INVALID_VALUE, "problem: expected a pointer, got NULL")
    refused(lib, create(c.byref(problem), None, None), INVALID_VALUE, "plan: expected a pointer, got NULL")
    unknown = r'kernel: expected one of .*cpu_scalar.*, got "cpu_abacus"'
    refused(lib, create(c.byref(problem), b"cpu_abacus", c.byref(plan)), INVALID_VALUE, unknown)
    for index, kernel in enumerate(iter_names(lib.rnnk_kernel_name)):
        if reason := lib.rnnk_kernel_unavailable(index):
            refused(lib, create(c.byref(problem), kernel, c.byref(plan)), NOT_SUPPORTED, re.escape(reason.decode()))
        else:
            # Some kernels are for bfloat16 alone, some for weights in another form alone.
            kinds = [(FLOAT32, 0), (BFLOAT16, 0), (FLOAT32, INT8), (FLOAT32, BF16_WEIGHTS)]
            taken = []
            for dtype, flags in kinds:
                p = new(Problem, cell=LSTM, dtype=dtype, flags=flags, input_size=3, hidden_size=4)
                taken.append(create(c.byref(p), kernel, c.byref(plan)) == OK)
                assert not taken[-1] or lib.rnnk_plan_kernel(plan, 0) == kernel
            form = {b"int8": [0, 0, 1, 0], b"bf16": [0, 0, 0, 1]}.get(lib.rnnk_kernel_weights(index))
            assert taken == form if form else taken in ([1, 1, 0, 0], [0, 1, 0, 0])
            lib.rnnk_plan_destroy(plan)
    lib.rnnk_plan_destroy(None)
    assert lib.rnnk_plan_kernel(None, 0) is None
    assert lib.rnnk_plan_estimate(None, 1, 1, 0) == 0


def test_sizes_and_explain(lib: Any, layer: Layer) -> None:
    sizes = new(Sizes, packed=7)
    for plan, t, b, sentence in [
        (None, 1, 1, "plan: expected a pointer, got NULL"),
        (layer.plan, -1, 1, r"seq_len: expected 0 to .*, got -1"),
        (layer.plan, 1, -2, r"batch: expected 0 to .*, got -2"),
        (layer.plan, 1 << 39, 1 << 30, r"seq_len, batch: expected at most 2\^50 numbers in all layers, got"),
    ]:
        refused(lib, lib.rnnk_plan_sizes(plan, t, b, c.byref(sizes)), INVALID_VALUE, sentence)
    sizes.struct_size = 3
    short = r"sizes\.struct_size: expected sizeof \*sizes, got 3"
    refused(lib, lib.rnnk_plan_sizes(layer.plan, 1, 1, c.byref(sizes)), INVALID_VALUE, short)
    refused(lib, lib.rnnk_plan_sizes(layer.plan, 1, 1, None), INVALID_VALUE, "sizes: expected a pointer, got NULL")
    assert sizes.packed == 7
    sizes.struct_size = Sizes.reserve.offset  # of a caller that knows the first result alone
    sizes.reserve = 7
    assert lib.rnnk_plan_sizes(layer.plan, 4, 3, c.byref(sizes)) == OK
    assert (sizes.packed, sizes.reserve) == (layer.sizes.packed, 7), "more was written than the caller's struct has"
    assert lib.rnnk_plan_kernel(layer.plan, 0) and lib.rnnk_plan_kernel(layer.plan, 1) is None
    assert lib.rnnk_plan_estimate(layer.plan, 100, 4, 1) > lib.rnnk_plan_estimate(layer.plan, 10, 4, 1) > 0

    verdict, problem = new(Verdict), c.byref(layer.problem)
    refused(lib, lib.rnnk_explain(problem, 0, 1, 1, 99, c.byref(verdict)), INVALID_VALUE, "index: .*99")
    refused(lib, lib.rnnk_explain(problem, 0, 1, 1, 0, None), INVALID_VALUE, "verdict: expected a pointer, got NULL")
    refused(lib, lib.rnnk_explain(problem, 0, -1, 1, 0, c.byref(verdict)), INVALID_VALUE, "seq_len: .*got -1")
    refused(
        lib, lib.rnnk_explain(problem, 1, 1, 1, 0, c.byref(verdict)), INVALID_VALUE, "layer: expected 0 to 0, got 1"
    )
    for index in range(len(iter_names(lib.rnnk_kernel_name))):
        assert lib.rnnk_explain(problem, 0, 10, 4, index, c.byref(verdict)) == OK
        reason = lib.rnnk_kernel_unavailable(index)
        declines = (b"", b"it computes bfloat16 alone", b"it is for weights in int8", b"it is for weights in bf16")
        assert verdict.reason in ((reason,) if reason else declines)
        assert bool(verdict.declined) == bool(verdict.reason)
        assert (verdict.forward_us > 0) == (verdict.declined == 0)
        for tasks in (verdict.forward_tasks, verdict.backward_tasks):
            assert (tasks > 0) == (verdict.declined == 0)


def test_bigger_structs_of_a_later_header_are_taken(lib: Any, layer: Layer) -> None:
    """What a later header appends is not read, in arrays of structs either."""
    later = c.sizeof(Args) + 64
    buffer = c.create_string_buffer(b"\0" * c.sizeof(Args) + b"\xff" * 64, later)
    own = c.sizeof(Weights) + 64
    weights = c.create_string_buffer(b"\xff" * own, own)
    c.memmove(weights, c.byref(layer.gradients), c.sizeof(Weights))
    c.memmove(weights, c.byref(c.c_uint32(own)), 4)
    layer.args.dweights = c.cast(weights, P)
    c.memmove(buffer, c.byref(layer.args), c.sizeof(layer.args))
    c.memmove(buffer, c.byref(c.c_uint32(later)), 4)
    assert lib.rnnk_forward(layer.plan, buffer) == OK and lib.rnnk_backward(layer.plan, buffer) == OK


def test_smaller_structs_of_an_earlier_header_are_completed(lib: Any, layer: Layer) -> None:
    """rnnk_args of a program that only infers; what it lacks is zero. Weights without the last two fields."""
    layer.args.struct_size = Args.dy.offset
    assert layer.call("forward") == OK
    layer.args.struct_size = c.sizeof(Args)
    short = c.create_string_buffer(b"\xff" * c.sizeof(Weights), c.sizeof(Weights))
    c.memmove(short, c.byref(layer.weights), Weights.weight_hr.offset)
    c.memmove(short, c.byref(c.c_uint32(Weights.weight_hr.offset)), 4)
    kept = layer.outputs["packed"].copy()
    assert lib.rnnk_pack_weights(layer.plan, short, BOTH, layer.args.packed, layer.args.packed_size, None) == OK
    assert np.array_equal(kept, layer.outputs["packed"])


def test_gradients_of_parameters_that_are_not_there_are_refused(lib: Any, layer: Layer) -> None:
    assert layer.call("forward") == OK
    room = np.full((8, 8), 7, np.float32)
    for name in ("weight_hr", "params"):
        setattr(layer.gradients[0], name, tensor(room))
        sentence = rf"dweights\[0\]\.{name}: expected NULL for this problem, got a tensor"
        refused(lib, layer.call("backward"), INVALID_VALUE, sentence)
        getattr(layer.gradients[0], name).data = None
    assert (room == 7).all()


def test_an_absent_tensor_may_have_strides(lib: Any, layer: Layer) -> None:
    """clip_dh looks at every step's gradient; where dh is absent it is stored nowhere."""
    assert layer.call("forward") == OK
    layer.args.clip_dh = 1.0
    layer.args.dx.data = None
    assert layer.call("backward") == OK


Change = Callable[[Layer], Any]


def put(name: str, value: Any) -> Change:
    return lambda layer: setattr(layer.args, name, value)


def put_dtype(name: str, dtype: int) -> Change:
    return lambda layer: setattr(getattr(layer.args, name), "dtype", dtype)


def put_reserved(name: str) -> Change:
    return lambda layer: setattr(getattr(layer.args, name), "reserved", 1)


def put_marks(name: str, dtype: type) -> Change:
    return lambda layer: setattr(layer.args, name, tensor(np.ones((layer.T, layer.B), dtype)))


def add(name: str, value: int) -> Change:
    return lambda layer: setattr(layer.args, name, getattr(layer.args, name) + value)


def length(row: int, value: int) -> Change:
    return lambda layer: layer.lengths.__setitem__(row, value)


def absent(name: str) -> Change:
    return lambda layer: setattr(getattr(layer.args, name), "data", None)


IN_BOTH, IN_FORWARD, IN_BACKWARD = ("forward", "backward"), ("forward",), ("backward",)
CALLS: list[tuple[str, Change, tuple[str, ...], int, str]] = [
    (
        "short struct",
        put("struct_size", 16),
        IN_BOTH,
        INVALID_VALUE,
        r"args\.struct_size: expected at least \d+, got 16",
    ),
    ("flags", put("flags", 0x80), IN_BOTH, INVALID_VALUE, "flags: unknown bits in 0x80"),
    ("clip_dh below 0", put("clip_dh", -1.0), IN_BOTH, INVALID_VALUE, "clip_dh: expected a bound above 0"),
    (
        "reserved",
        put_reserved("x"),
        IN_BOTH,
        INVALID_VALUE,
        "x.reserved: expected 0, got 1",
    ),
    (
        "packed small",
        add("packed_size", -1),
        IN_BOTH,
        INVALID_VALUE,
        r"packed_size: expected at least \d+ bytes, got \d+",
    ),
    ("negative T", put("seq_len", -3), IN_BOTH, INVALID_VALUE, "seq_len: expected 0 to .*got -3"),
    ("negative B", put("batch", -1), IN_BOTH, INVALID_VALUE, "batch: expected 0 to .*got -1"),
    ("length below", length(1, -1), IN_BOTH, INVALID_VALUE, r"lengths\[1\]: expected 0 to 4 \(seq_len\), got -1"),
    ("length above", length(2, 5), IN_BOTH, INVALID_VALUE, r"lengths\[2\]: expected 0 to 4 \(seq_len\), got 5"),
    (
        "lengths dtype",
        put_dtype("lengths", UINT8),
        IN_BOTH,
        INVALID_TYPE,
        "lengths: expected dtype int32 or int64, got uint8",
    ),
    ("lengths reserved", put_reserved("lengths"), IN_BOTH, INVALID_VALUE, "lengths.reserved: expected 0, got 1"),
    ("mask dtype", put_marks("mask", np.float32), IN_BOTH, INVALID_TYPE, "mask: expected dtype uint8, got float32"),
    ("reset dtype", put_marks("reset", np.int64), IN_BOTH, INVALID_TYPE, "reset: expected dtype uint8, got int64"),
    ("no x", absent("x"), IN_BOTH, INVALID_VALUE, "x: expected a tensor, got NULL"),
    ("no y", absent("y"), IN_BOTH, INVALID_VALUE, "y: expected a tensor, got NULL"),
    ("x dtype", put_dtype("x", FLOAT64), IN_BOTH, INVALID_TYPE, "x: expected dtype float32, got float64"),
    ("y dtype", put_dtype("y", BFLOAT16), IN_BOTH, INVALID_TYPE, "y: expected dtype float32, got bfloat16"),
    ("h_0 dtype", put_dtype("h_0", 9), IN_BOTH, INVALID_TYPE, "h_0: expected dtype float32, got unknown"),
    ("c_0 dtype", put_dtype("c_0", FLOAT64), IN_BOTH, INVALID_TYPE, "c_0: expected dtype float32, got float64"),
    ("h_n dtype", put_dtype("h_n", FLOAT64), IN_FORWARD, INVALID_TYPE, "h_n: expected dtype float32, got float64"),
    ("c_n dtype", put_dtype("c_n", FLOAT64), IN_FORWARD, INVALID_TYPE, "c_n: expected dtype float32, got float64"),
    ("dy dtype", put_dtype("dy", FLOAT64), IN_BACKWARD, INVALID_TYPE, "dy: expected dtype float32, got float64"),
    ("dx dtype", put_dtype("dx", FLOAT64), IN_BACKWARD, INVALID_TYPE, "dx: expected dtype float32, got float64"),
    ("dh_0 dtype", put_dtype("dh_0", FLOAT64), IN_BACKWARD, INVALID_TYPE, "dh_0: expected dtype float32, got float64"),
    ("no packed", put("packed", None), IN_BOTH, INVALID_VALUE, r"packed: expected \d+ bytes, got NULL"),
    ("packed off", add("packed", 4), IN_BOTH, INVALID_VALUE, "packed: expected a 64-byte aligned pointer, got 0x"),
    ("no workspace", put("workspace", None), IN_BOTH, INVALID_VALUE, r"workspace: expected \d+ bytes, got NULL"),
    (
        "workspace off",
        add("workspace", 8),
        IN_BOTH,
        INVALID_VALUE,
        "workspace: expected a 64-byte aligned pointer, got 0x",
    ),
    (
        "workspace small",
        put("workspace_size", 64),
        IN_BOTH,
        INVALID_VALUE,
        r"workspace_size: .*at least \d+ bytes, got 64",
    ),
    ("reserve off", add("reserve", 32), IN_BOTH, INVALID_VALUE, "reserve: expected a 64-byte aligned pointer, got 0x"),
    (
        "reserve small",
        add("reserve_size", -1),
        IN_BOTH,
        INVALID_VALUE,
        r"reserve_size: expected at least \d+ bytes, got \d+",
    ),
    ("no reserve", put("reserve", None), IN_BACKWARD, INVALID_VALUE, r"reserve: expected \d+ bytes, got NULL"),
]


@pytest.mark.parametrize(
    "change, which, code, sentence",
    [pytest.param(change, w, code, text, id=f"{w}: {name}") for name, change, ws, code, text in CALLS for w in ws],
)
def test_bad_call(lib: Any, layer: Layer, change: Change, which: str, code: int, sentence: str) -> None:
    """Refused before any work: every buffer the call may write is as it was."""
    assert layer.call("forward") == OK
    before = {name: a.copy() for name, a in layer.outputs.items()}
    change(layer)
    refused(lib, layer.call(which), code, sentence)
    assert [name for name, a in layer.outputs.items() if a.tobytes() != before[name].tobytes()] == []


def test_null_arguments(lib: Any, layer: Layer) -> None:
    for call in (lib.rnnk_forward, lib.rnnk_backward):
        refused(lib, call(None, c.byref(layer.args)), INVALID_VALUE, "plan: expected a pointer, got NULL")
        refused(lib, call(layer.plan, None), INVALID_VALUE, "args: expected a pointer, got NULL")


def test_cell_state_of_a_cell_without_one(lib: Any, layer: Layer) -> None:
    other = Layer(lib, 4)  # gru
    other.pack()
    refused(lib, other.call("forward"), INVALID_VALUE, "c_0, c_n, dc_n, dc_0: cell gru has no cell state")
    other.close()


def test_bad_weights(lib: Any, layer: Layer) -> None:
    size, packed, plan = layer.sizes.packed, layer.args.packed, layer.plan
    kept = layer.outputs["packed"].copy()

    def pack(
        sentence: str, to: Any = packed, nbytes: int = size, weights: Any = layer.weights, halves: int = 3
    ) -> None:
        given = None if weights is None else c.byref(weights)
        status = lib.rnnk_pack_weights(plan, given, halves, to, nbytes, None)
        code = INVALID_TYPE if "dtype" in sentence else INVALID_VALUE
        refused(lib, status, code, sentence)

    pack("weights: expected a pointer, got NULL", weights=None)
    pack(r"packed: expected \d+ bytes, got NULL", to=None)
    pack("packed: expected a 64-byte aligned pointer, got 0x", to=packed + 4)
    pack(rf"packed_size: expected at least {size} bytes, got {size - 1}", nbytes=size - 1)
    for wrong in (0, 4):
        pack(f"halves: expected a value of rnnk_halves, got {wrong}", halves=wrong)
    own = layer.weights[0]
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        given = getattr(own, name)
        pointer, given.data = given.data, None
        pack(rf"weights\[0\]\.{name}: expected a tensor, got NULL")
        given.data = pointer
        given.dtype = FLOAT64
        pack(rf"weights\[0\]\.{name}: expected dtype float32, got float64")
        given.dtype = FLOAT32
        given.stride[0] += 1
        pack(rf"weights\[0\]\.{name}: expected a contiguous tensor, got strides")
        given.stride[0] -= 1
    own.struct_size = 12
    pack(r"weights\.struct_size: expected at least \d+, got 12")
    own.struct_size = c.sizeof(own)
    assert np.array_equal(kept, layer.outputs["packed"])

    problem, bare = new(Problem, cell=LSTM, flags=1, input_size=layer.IN, hidden_size=layer.H), P()
    assert lib.rnnk_plan_create(c.byref(problem), None, c.byref(bare)) == OK
    status = lib.rnnk_pack_weights(bare, c.byref(layer.weights), BOTH, packed, size, None)
    refused(lib, status, INVALID_VALUE, r"weights\[0\]\.bias_ih: expected NULL with RNNK_PROBLEM_NO_BIAS, got a tensor")
    lib.rnnk_plan_destroy(bare)


def test_halves_of_a_pack(lib: Any, layer: Layer) -> None:
    """Forward's half and backward's, in either order, are the whole."""
    packed = layer.outputs["packed"]
    packed[:] = 7
    assert layer.pack(BOTH) == OK
    whole = packed.copy()
    for first, second in ((FORWARD, BACKWARD), (BACKWARD, FORWARD)):
        packed[:] = 7
        assert layer.pack(first) == OK
        assert not np.array_equal(packed, whole)
        assert layer.pack(second) == OK
        assert np.array_equal(packed, whole)


def test_a_pack_of_another_plan_is_refused(lib: Any, layer: Layer) -> None:
    """The header says whose it is; what changes no layout (which single direction, dropout, hints) may differ."""
    packed = layer.outputs["packed"]
    packed[:] = 7  # the fixture's pack has both halves
    assert layer.pack(FORWARD) == OK
    assert layer.call("forward") == OK
    before = {name: a.copy() for name, a in layer.outputs.items()}
    refused(lib, layer.call("backward"), INVALID_VALUE, "packed: expected a pack for rnnk_backward, got one without")
    assert layer.pack(BOTH) == OK
    whole, layout = packed.copy(), lib.rnnk_plan_pack_layout(layer.plan)
    packed[:8] = 0
    refused(lib, layer.call("forward"), INVALID_VALUE, "packed: expected what rnnk_pack_weights wrote, got other bytes")
    packed[:] = whole
    packed[8] ^= 1  # of the layout's number
    for which in ("forward", "backward"):
        refused(lib, layer.call(which), INVALID_VALUE, "packed: expected weights packed for this plan's kernel, cell")
    assert [n for n, a in layer.outputs.items() if n != "packed" and a.tobytes() != before[n].tobytes()] == []
    packed[:] = whole
    assert layer.call("forward") == layer.call("backward") == OK

    def layout_of(**change: float) -> int:
        plan, sizes = P(), {"cell": LSTM, "input_size": layer.IN, "hidden_size": layer.H} | change
        assert lib.rnnk_plan_create(c.byref(new(Problem, **sizes)), None, c.byref(plan)) == OK
        found = lib.rnnk_plan_pack_layout(plan)
        lib.rnnk_plan_destroy(plan)
        return int(found)

    recompute, peephole = 2, 8
    same: list[dict[str, float]] = [
        {"num_layers": 1}, {"flags": recompute}, {"direction": 1}, {"dropout": 0.5}, {"clip": 2.0},
        {"typical_batch": 9}, {"recurrent_dropout": 0.5},
    ]  # fmt: skip
    assert {layout_of(**change) for change in same} == {layout}
    others: list[dict[str, float]] = [
        {"flags": 1}, {"flags": peephole}, {"input_size": 99}, {"hidden_size": 99}, {"cell": 4}, {"dtype": 1},
        {"num_layers": 2}, {"direction": 2},
    ]  # fmt: skip
    assert len({layout, *(layout_of(**change) for change in others)}) == 1 + len(others)
    assert lib.rnnk_plan_pack_layout(None) == 0


@pytest.mark.parametrize("own", [True, False], ids=["forward has the cell's own", "reverse has the cell's own"])
def test_directions_with_different_activations(lib: Any, own: bool) -> None:
    """Each direction has the bits that it has in a network with its activations in both."""
    softsign, cells = Activation(SOFTSIGN), Activation(TANH)

    def run(**problem: Any) -> dict[str, Any]:
        layer = Layer(lib, LSTM, direction=2, **problem)
        for which in ("pack", "forward", "backward"):
            status = layer.pack() if which == "pack" else layer.call(which)
            assert status == OK, lib.rnnk_last_error()
        layer.close()
        out, H = layer.outputs, Layer.H
        each = {f"y_{d}": out["y"][..., d * H : (d + 1) * H] for d in range(2)}
        each |= {f"{name}_{d}": out[name][d] for d in range(2) for name in ("h_n", "c_n", "dh_0", "dc_0")}
        return each | {name: array for name, array in out.items() if name.startswith("dweight")}

    def of(activation: Any) -> Any:
        return (Activation * 3)(Activation(), activation)

    given = of(softsign)
    mixed = run(activations_reverse=given) if own else run(activations=given, activations_reverse=of(cells))
    both = [run(), run(activations=given)]
    for name, array in mixed.items():
        wanted, other = (both[int(name[-1]) ^ (not own)][name], both[int(name[-1]) ^ own][name])
        if own or name[-1] == "0":
            assert np.array_equal(array, wanted), name
        else:  # tanh by its name is a function called by its number
            np.testing.assert_allclose(array, wanted, rtol=0, atol=16 * np.finfo(np.float32).eps * np.abs(wanted).max())
        assert not np.allclose(array, other), f"{name} has the other direction's activations"


@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize("flags", [0, 2], ids=["", "recompute"])
def test_lengths_and_marks_of_any_layout(lib: Any, direction: int, flags: int) -> None:
    """int32 lengths with a stride, masks and resets [B, T]: the bits of dense ones."""
    rng = np.random.default_rng(0)
    T, B = Layer.T, Layer.B
    marks = {"mask": rng.random((T, B)) < 0.7, "reset": rng.random((T, B)) < 0.3}
    spread = np.full((B, 2), -9, np.int32)
    spread[:, 0] = T, 0, 2
    results = []
    for dense in (True, False):
        layer = Layer(lib, LSTM, direction=direction, num_layers=2, flags=flags, dropout=0.5)
        layer.args.flags = TRAIN
        given = {name: mask if dense else np.ascontiguousarray(mask.T).T for name, mask in marks.items()}
        for name, mask in given.items():
            setattr(layer.args, name, tensor(mask))
        if not dense:
            assert given["mask"].strides == (1, T)
            layer.args.lengths = tensor(spread[:, 0])
        for which in ("pack", "forward", "backward"):
            status = layer.pack() if which == "pack" else layer.call(which)
            assert status == OK, lib.rnnk_last_error()
        results.append(
            {name: np.array(array) for name, array in layer.outputs.items() if name not in ("packed", "reserve")}
        )
        layer.close()
    for name, array in results[0].items():
        assert np.array_equal(array, results[1][name]), name


def test_dropout(lib: Any) -> None:
    values, out = np.ones((2, 3, 50), np.float32), np.full((2, 3, 50), 7, np.float32)
    lengths = np.array([2, 1, 0], np.int64)

    def call(**change: Any) -> int:
        fields = {"p": 0.25, "seed": 5, "seq_len": 2, "batch": 3, "hidden_size": 50,
                  "lengths": tensor(lengths), "input": tensor(values), "output": tensor(out)}  # fmt: skip
        return int(lib.rnnk_dropout(c.byref(new(Dropout, **{**fields, **change}))))

    bad: list[tuple[dict[str, Any], int, str]] = [
        ({"p": 1.5}, INVALID_VALUE, "p: expected 0 to 1, got 1.5"),
        ({"p": float("nan")}, INVALID_VALUE, "p: expected 0 to 1, got .*nan"),
        ({"seq_len": -1}, INVALID_VALUE, "seq_len: expected 0 to .*got -1"),
        ({"batch": -1}, INVALID_VALUE, "batch: expected 0 to .*got -1"),
        ({"hidden_size": 0}, INVALID_VALUE, "hidden_size: expected 1 to .*got 0"),
        ({"seq_len": 1}, INVALID_VALUE, r"lengths\[0\]: expected 0 to 1 \(seq_len\), got 2"),
        ({"output": tensor(out.astype(np.float64))}, INVALID_TYPE, "in, out: .*got float32 and float64"),
    ]
    for change, code, sentence in bad:
        refused(lib, call(**change), code, sentence)
    refused(lib, lib.rnnk_dropout(None), INVALID_VALUE, "args: expected a pointer, got NULL")
    assert (out == 7).all()
    assert call() == OK
    assert set(np.unique(out)) == {0, np.float32(1 / 0.75)} and not out[1, 1:].any() and not out[0, 2].any()


def test_threads(lib: Any) -> None:
    before = lib.rnnk_get_num_threads()
    for wrong in (0, -1, 257):
        refused(lib, lib.rnnk_set_num_threads(wrong), INVALID_VALUE, f"threads: expected 1 to 256, got {wrong}")
    assert lib.rnnk_get_num_threads() == before >= 1
    assert lib.rnnk_set_num_threads(3) == OK and lib.rnnk_get_num_threads() == 3
    assert lib.rnnk_set_num_threads(before) == OK


def test_empty_calls(lib: Any, layer: Layer) -> None:
    """T = 0 and B = 0 ask for no x or y; the state passes through."""
    for name in ("x", "y", "dx", "dy"):
        absent(name)(layer)
    layer.args.lengths.data, layer.args.seq_len = None, 0
    assert layer.call("forward") == OK, lib.rnnk_last_error()
    assert np.array_equal(layer.outputs["h_n"], layer.inputs["h_0"])
    layer.args.seq_len, layer.args.batch = 4, 0
    assert layer.call("forward") == OK and layer.call("backward") == OK, lib.rnnk_last_error()
    assert not layer.outputs["dweight_ih_0"].any()


@pytest.mark.parametrize("direction", [0, 2])
def test_a_call_on_a_hosts_threads(lib: Any, direction: int) -> None:
    """rnnk_args.pool: the bits of the team's threads, on a pool and with a limit."""
    asked: list[int] = []

    @PARALLEL
    def parallel(context: int, fn: Callable[[int], None], data: int, threads: int) -> None:
        assert context == 7
        asked.append(threads)
        others = [threading.Thread(target=fn, args=(data,)) for _ in range(1, threads)]
        for other in others:
            other.start()
        fn(data)
        for other in others:
            other.join()

    class Large(Layer):
        T, B, IN, H = 9, 40, 64, 96

    results = []
    for pool in (None, new(Pool, threads=3, parallel=parallel, context=7), new(Pool, threads=2)):
        layer = Large(lib, LSTM, direction=direction)
        layer.args.lengths = Tensor()
        layer.args.pool = None if pool is None else c.addressof(pool)
        assert layer.pack() == OK
        for which in ("forward", "backward"):
            assert layer.call(which) == OK, lib.rnnk_last_error()
        results.append({name: np.array(array) for name, array in layer.outputs.items() if name != "packed"})
        layer.close()
    assert asked and set(asked) == {3}
    for other in results[1:]:
        for name in ("y", "h_n", "dx", "dweight_ih_0", "dweight_hh_0"):
            assert np.array_equal(results[0][name], other[name]), name


def test_pools_that_are_refused(lib: Any, layer: Layer) -> None:
    for pool, sentence in (
        (new(Pool, threads=0), "pool.threads: expected 1 to 256, got 0"),
        (new(Pool, threads=257), "pool.threads: expected 1 to 256, got 257"),
        (Pool(struct_size=4, threads=2), "pool.struct_size: expected at least 8, got 4"),
    ):
        layer.args.pool = c.addressof(pool)
        refused(lib, layer.call("forward"), INVALID_VALUE, sentence)
