"""Networks of several layers and directions: the bits of layers called one by one, whatever runs at the same time.

Directions of a layer may run at the same time, layers as a wavefront, inference in blocks of steps (csrc/network).
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from c_abi import INVALID_VALUE, LSTM, OK, Layer, P, Problem, ReserveBound, Sizes, aligned, new, refused
from one_layer import HostPlan
from problems import DTYPES
from rnnkern import _core, _engine
from rnnkern._arrays.host import MEMORY
from runner import SINGLE, UNAVAILABLE, takes

pytestmark = pytest.mark.whole

KERNELS = [name for name, reason in UNAVAILABLE.items() if not reason]
HALF = ("bfloat16", "float16")
# (T, B, I, H, which): few rows and small layers, where each thread does better with a direction of its own; and others.
DIRECTIONS = [
    (60, 1, 16, 32, "plain"),
    (40, 1, 64, 64, "lengths"),
    (30, 2, 8, 48, "mask"),
    (30, 3, 8, 24, "reset"),
    (1100, 1, 5, 20, "recompute"),
    (20, 9, 33, 40, "lengths"),
    (1, 1, 4, 8, "plain"),
    (0, 1, 4, 8, "plain"),
    (5, 0, 4, 8, "plain"),
]
Threads = Callable[[int], None]


class Bidirectional:
    """A layer of both directions, and each direction as a layer of its own."""

    def __init__(self, cell: str, dtype: str, kernel: str, size: tuple[int, int, int, int, str]) -> None:
        self.T, self.B, self.I, self.H, which = size
        self.cell, self.dtype, self.kernel, self.recompute = cell, dtype, kernel, which == "recompute"
        self.spec = spec = _engine.Spec(
            cell, dtype, self.I, self.H, bidirectional=True, kernel=kernel, recompute=self.recompute
        )
        T, B, rng = self.T, self.B, np.random.default_rng(5)
        given, state = DTYPES[dtype], DTYPES[spec.state_dtype]

        def draw(*shape: int, to: Any = given) -> Any:
            return rng.standard_normal(shape).astype(to)

        self.params = [draw(*shape) / given(4) for shape in spec.shapes]
        self.x, self.dy = draw(T, B, self.I), draw(T, B, 2 * self.H)
        self.h_0, self.dh_n = draw(2, B, self.H), draw(2, B, self.H, to=state)
        self.c_0 = draw(2, B, spec.cell_units, to=state) if spec.states > 1 else None
        self.dc_n = draw(2, B, spec.cell_units, to=state) if spec.states > 1 else None
        self.lengths = rng.integers(0, T + 1, B) if which in ("lengths", "reset") else None
        mask = rng.random((T, B)) < 0.7 if which == "mask" else None
        reset = rng.random((T, B)) < 0.2 if which == "reset" else None
        self.marks = _engine.Marks(mask, reset)

    def together(self) -> dict[str, Any]:
        spec = self.spec
        packed = _engine.pack(spec, self.params)
        reserve = _engine.new_reserve(spec, self.T, self.B, False)
        inputs = _engine.Inputs(self.x, self.h_0, self.c_0, self.lengths, None, self.marks)
        y, h_n, c_n = _engine.forward(spec, packed, inputs, MEMORY, reserve=reserve)
        above = _engine.OutputGradients(self.dy, self.dh_n, self.dc_n)
        grads = _engine.backward(packed, _engine.Tape(spec, inputs, y, reserve), above, MEMORY)
        named = {f"d{name}": value for name, value in zip(spec.param_names, grads.params, strict=True)}
        return {"y": y, "h_n": h_n, "c_n": c_n, "dx": grads.x, "dh_0": grads.h, "dc_0": grads.c} | named

    def one_by_one(self) -> dict[str, Any]:
        """dx: of each direction, in a list."""
        spec, H, kind = self.spec, self.H, self.x.dtype
        state = np.dtype(DTYPES[spec.state_dtype])
        each = len(spec.own_names)
        out: dict[str, Any] = {"y": np.empty((self.T, self.B, 2 * H), kind), "h_n": np.empty((2, self.B, H), kind)}
        cells = (2, self.B, spec.cell_units)
        out["c_n"] = np.empty(cells, state) if spec.states > 1 else None
        out |= {"dh_0": np.empty((2, self.B, H), state), "dc_0": np.empty(cells, state) if spec.states > 1 else None}
        out["dx"] = [np.zeros_like(self.x), np.zeros_like(self.x)]
        for d, direction in enumerate(("", "_reverse")):
            plan = HostPlan(
                self.cell, self.dtype, self.I, H, reverse=d == 1, kernel=self.kernel, recompute=self.recompute
            )
            packed = plan.pack(*self.params[d * each : (d + 1) * each])
            columns = slice(d * H, (d + 1) * H)
            own = {n: None if out[n] is None else out[n][d] for n in ("h_n", "c_n", "dh_0", "dc_0")}
            c_0, dc_n = (None if a is None else a[d] for a in (self.c_0, self.dc_n))
            more = {"lengths": self.lengths, "mask": self.marks.mask, "reset": self.marks.reset}
            y = out["y"][..., columns]
            reserve = aligned(plan.sizes(self.T, self.B)["reserve"])
            plan.forward(packed, self.x, self.h_0[d], c_0, y, own["h_n"], own["c_n"], reserve=reserve, **more)
            shapes = zip(spec.own_names, spec.shapes[:each], strict=True)
            grads = {f"d{name}": np.empty(shape, kind) for name, shape in shapes}
            plan.backward(
                packed, reserve, self.x, self.h_0[d], c_0, y, self.dy[..., columns], self.dh_n[d], dc_n,
                dx=out["dx"][d], dh_0=own["dh_0"], dc_0=own["dc_0"], **more, **grads,
            )  # fmt: skip
            out |= {f"{name}_l0{direction}": value for name, value in grads.items()}
        return out


@pytest.mark.parametrize(("kernel", "dtype"), [(k, d) for k in KERNELS for d in DTYPES if takes(k, d)])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "slstm"])
@pytest.mark.parametrize("size", DIRECTIONS, ids=str)
def test_two_directions_have_the_bits_of_each_alone(
    cell: str, kernel: str, size: tuple[int, int, int, int, str], dtype: str, set_threads: Threads
) -> None:
    """dx is the sum: the second direction's is added before it is rounded to a half type."""
    layer, before = Bidirectional(cell, dtype, kernel, size), _core.get_num_threads()
    set_threads(1)
    wanted = layer.one_by_one()
    one, other = wanted.pop("dx")
    dx = None if dtype in HALF else one + other
    for threads in (1, 2, 3, before):
        set_threads(threads)
        got = layer.together()
        if dx is None:
            dx = got["dx"]
            wide = one.astype(np.float32) + other.astype(np.float32)
            eps = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
            bound = 2 * eps * (np.abs(one.astype(np.float32)) + np.abs(other.astype(np.float32))) + 1e-7
            finite = np.isfinite(wide)
            gap = np.abs(dx.astype(np.float32)[finite] - wide[finite])
            assert (gap <= bound[finite]).all()
        for name, value in (wanted | {"dx": dx}).items():
            if value is None:
                assert got[name] is None
            else:
                assert got[name].tobytes() == value.tobytes(), f"{name}, {threads} threads"


# --- stacks ------------------------------------------------------------

# Few rows and small layers, where a wavefront pays from two threads on; blocks that end with the sequence, and not; the
# last two hand more than 4 MiB from layer to layer, so that inference goes in blocks.
STACKS = [
    (16, 1, 64), (100, 1, 64), (333, 1, 128), (1000, 2, 16), (15, 1, 64), (1, 1, 64), (0, 1, 64), (40, 0, 8),
    (700, 40, 64),
]  # fmt: skip
LONG = (70_000, 1, 17)  # one cell is enough for it


def chain(cell: str, dtype: str, units: int, kernel: str, **options: Any) -> tuple[Any, list[Any]]:
    """A stack of three layers, and the same layers alone."""
    kind: Any = {"lstm": rk.LSTM, "gru": rk.GRU, "rnn_tanh": rk.RNN, "slstm": rk.sLSTM}[cell]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RNNKERN_KERNEL", kernel)
        stack = kind(5, units, 3, dtype=dtype, seed=1, **options)
        single = [kind(5 if k == 0 else units, units, dtype=dtype, seed=1, **options) for k in range(3)]
    for k, layer in enumerate(single):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layer.update({f"{name}_l0": stack.params[f"{name}_l{k}"] for name in names})
    return stack, single


@pytest.mark.parametrize(
    ("kernel", "cell", "size"),
    [(kernel, cell, size) for kernel in KERNELS for cell in ("lstm", "gru", "rnn_tanh", "slstm") for size in STACKS]
    + [(kernel, "gru", LONG) for kernel in KERNELS if kernel != "cpu_scalar"],
    ids=str,
)
def test_bits_of_layer_after_layer(cell: str, kernel: str, size: tuple[int, int, int], set_threads: Threads) -> None:
    steps, rows, units = size
    dtype = "float32" if takes(kernel, "float32") else "bfloat16"
    rng, layers = np.random.default_rng(3), 3
    before = _core.get_num_threads()
    stack, single = chain(cell, dtype, units, kernel)
    x = rng.standard_normal((steps, rows, 5)).astype(DTYPES[dtype])
    h = rng.standard_normal((layers, rows, units)).astype(DTYPES[dtype])
    cs, n, m = (rng.standard_normal((layers, rows, units)).astype(np.float32) for _ in range(3))
    behind = {"lstm": (cs,), "slstm": (cs, np.exp(n), m)}.get(cell, ())

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
        assert y.tobytes() == wanted_y.tobytes(), threads
        got = last if behind else (last,)
        for part, array in enumerate(got):
            each = [w[part] if behind else w for w in wanted]
            assert array.tobytes() == np.concatenate(each).tobytes(), threads


@pytest.mark.parametrize("size", [(300, 2, 40), (600, 70, 40)], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("which", ["lengths", "mask", "reset", "all"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_blocks_know_lengths_masks_and_resets(
    cell: str, which: str, reverse: bool, size: tuple[int, int, int], set_threads: Threads
) -> None:
    """Layers at the same time, and (the larger size) in blocks one after the other, from a state that is not given."""
    steps, rows, units = size
    rng = np.random.default_rng(4)
    stack, single = chain(cell, "float32", units, SINGLE[0], reverse=reverse)
    call: dict[str, Any] = {}
    if which in ("lengths", "all"):
        call["lengths"] = rng.integers(0, steps + 1, rows)
    if which in ("mask", "all"):
        call["mask"] = rng.random((steps, rows)) < 0.8
    if which in ("reset", "all"):
        call["reset"] = rng.random((steps, rows)) < 0.1
    x = rng.standard_normal((steps, rows, 5)).astype(np.float32)
    wanted: Any = x
    for layer in single:
        wanted, _ = layer(wanted, **call)
    for threads in (1, 2, 3):
        set_threads(threads)
        assert stack(x, **call)[0].tobytes() == wanted.tobytes(), threads
        assert stack.forward(x, **call)[0].tobytes() == wanted.tobytes(), threads


def test_a_deep_stack() -> None:
    layer = rk.RNN(1, 1, 1025, seed=0)
    x = np.ones((2, 1, 1), np.float32)
    assert np.array_equal(layer(x)[0], layer.forward(x)[0])


# --- workspaces, reserves, packs ------------------------------------------------------------


class Network(Layer):
    """Its sizes are such that two threads do better each with a direction or a layer of its own."""

    T, B, IN, H = 60, 1, 16, 32

    def __init__(self, lib: Any, **problem: Any) -> None:
        super().__init__(lib, LSTM, **problem)
        self.args.lengths.data = None
        assert self.pack() == OK

    def results(self, which: str, workspace: Any) -> dict[str, bytes]:
        workspace[:] = 0xFF
        self.args.workspace, self.args.workspace_size = workspace.ctypes.data, workspace.size
        names = [name for name in self.outputs if name not in ("packed", "reserve")]
        names = [n for n in names if n.startswith("d") == (which == "backward")]
        for name in names:
            self.outputs[name][:] = 7
        assert self.call(which) == OK, self.lib.rnnk_last_error()
        return {name: self.outputs[name].tobytes() for name in names}


@pytest.fixture
def two_threads(lib: Any) -> Iterator[None]:
    before = lib.rnnk_get_num_threads()
    assert lib.rnnk_set_num_threads(2) == OK
    yield
    lib.rnnk_set_num_threads(before)


@pytest.mark.parametrize(
    "problem", [{"direction": 2}, {"num_layers": 3}, {"num_layers": 2, "direction": 2}, {"num_layers": 2, "flags": 2}],
    ids=str,
)  # fmt: skip
def test_every_workspace_gives_the_same_bits(lib: Any, two_threads: None, problem: dict[str, int]) -> None:
    """From the least on; the larger one is used, where layers or directions run at the same time."""
    network = Network(lib, **problem)
    sizes = network.sizes
    for keep in (False, True):
        network.args.reserve = network.outputs["reserve"].ctypes.data if keep else None
        for which in ("forward", *(["backward"] if keep else [])):
            least, best = getattr(sizes, f"workspace_{which}_least"), getattr(sizes, f"workspace_{which}")
            assert 0 < least <= best
            wanted = network.results(which, aligned(least))
            for size in (least + 64, (least + best) // 128 * 64, best, best + 4096):
                if size >= least:
                    assert network.results(which, aligned(size)) == wanted, (which, size)
            network.args.workspace_size = 64
            refused(lib, network.call(which), INVALID_VALUE, r"workspace_size: expected at least \d+ bytes, got 64")
    network.close()


def test_dropout_does_not_shorten_the_workspace_of_other_calls(lib: Any, two_threads: None) -> None:
    """Without RNNK_CALL_TRAIN there is no dropout, and inference goes in blocks: found by reading."""
    for layers, hidden, rows in ((12, 16, 128), (3, 64, 64)):
        plan, sizes = P(), new(Sizes)
        steps = (4 << 20) // (rows * hidden * 4) + 1  # one more than a block has
        given = new(Problem, cell=LSTM, input_size=hidden, hidden_size=hidden, num_layers=layers, dropout=0.5)
        assert lib.rnnk_plan_create(c.byref(given), None, c.byref(plan)) == OK
        assert lib.rnnk_plan_sizes(plan, steps, rows, c.byref(sizes)) == OK
        plain, without = P(), new(Sizes)
        given.dropout = 0
        assert lib.rnnk_plan_create(c.byref(given), None, c.byref(plain)) == OK
        assert lib.rnnk_plan_sizes(plain, steps, rows, c.byref(without)) == OK
        for name in ("workspace_forward", "workspace_forward_least", "workspace_backward", "workspace_backward_least"):
            assert getattr(sizes, name) >= getattr(without, name), name
        for each in (plan, plain):
            lib.rnnk_plan_destroy(each)


def test_dropout_in_pieces_draws_the_masks_of_the_whole() -> None:
    """first_step counts the steps before a piece, for dropout between layers too."""
    rng = np.random.default_rng(0)
    plan = _core.Plan("gru", "float32", 4, 6, num_layers=2, dropout=0.5)
    shapes = [(18, 4), (18, 6), (18,), (18,), None, None, (18, 6), (18, 6), (18,), (18,), None, None]
    packed = plan.pack([None if s is None else rng.standard_normal(s).astype(np.float32) for s in shapes])
    x, whole = rng.standard_normal((7, 2, 4)).astype(np.float32), np.empty((7, 2, 6), np.float32)
    plan.forward(packed, x=x, y=whole, random=(7, 1, 0, 0))
    state = np.zeros((2, 2, 6), np.float32)
    for first, last in ((0, 3), (3, 4), (4, 7)):
        y, after = np.empty((last - first, 2, 6), np.float32), np.empty_like(state)
        plan.forward(packed, x=x[first:last], h_0=state, y=y, h_n=after, random=(7, 1, 0, first))
        assert y.tobytes() == whole[first:last].tobytes()
        state = after


def test_sizes_of_many_layers_do_not_overflow(lib: Any) -> None:
    plan, sizes = P(), new(Sizes)
    wide = new(Problem, cell=LSTM, input_size=1 << 24, hidden_size=1 << 24, num_layers=1 << 16)
    status = lib.rnnk_plan_create(c.byref(wide), None, c.byref(plan))
    refused(lib, status, INVALID_VALUE, r"at most 2\^60 bytes of weights")
    deep = new(Problem, cell=LSTM, input_size=1024, hidden_size=1024, num_layers=1 << 16)
    assert lib.rnnk_plan_create(c.byref(deep), None, c.byref(plan)) == OK
    status = lib.rnnk_plan_sizes(plan, 1 << 20, 1 << 19, c.byref(sizes))
    refused(lib, status, INVALID_VALUE, r"seq_len, batch: expected at most 2\^50 numbers in all layers")
    lib.rnnk_plan_destroy(plan)


def test_a_larger_workspace_is_used(lib: Any, two_threads: None) -> None:
    """A second dx lies behind what both directions need."""
    network = Network(lib, direction=2)
    assert network.call("forward") == OK
    least, best = network.sizes.workspace_backward_least, network.sizes.workspace_backward
    assert best - least >= network.T * network.IN * 4
    workspace = aligned(best)
    workspace[:] = 0xFF
    network.args.workspace, network.args.workspace_size = workspace.ctypes.data, best
    assert network.call("backward") == OK
    assert (workspace[least:] != 0xFF).any(), "not at the same time"
    network.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_workspaces_do_not_grow_with_time(lib: Any, threads: int) -> None:
    """One direction; two hand whole sequences from layer to layer."""
    before = lib.rnnk_get_num_threads()
    assert lib.rnnk_set_num_threads(threads) == OK
    for problem in ({}, {"num_layers": 4}, {"direction": 2}):
        plan, sizes, found = P(), new(Sizes), []
        given = new(Problem, **{"cell": LSTM, "input_size": 32, "hidden_size": 32, **problem})
        assert lib.rnnk_plan_create(c.byref(given), None, c.byref(plan)) == OK
        for steps in (10**5, 10**6, 10**7):
            assert lib.rnnk_plan_sizes(plan, steps, 1, c.byref(sizes)) == OK
            found.append((sizes.workspace_forward, sizes.workspace_forward_least))
            if "num_layers" not in problem:
                found[-1] += (sizes.workspace_backward, sizes.workspace_backward_least)
        assert len(set(found)) == 1, (problem, found)
        lib.rnnk_plan_destroy(plan)
    lib.rnnk_set_num_threads(before)


@pytest.mark.parametrize("flags", [0, 2], ids=["stored", "recompute"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "slstm"])
def test_the_reserve_is_within_its_bound(lib: Any, cell: str, flags: int) -> None:
    names = [lib.rnnk_cell_name(i) for i in range(16)]
    for options in (
        {}, {"num_layers": 3, "direction": 2}, {"num_layers": 2, "dropout": 0.5}, {"dropout": 0.5}, {"dtype": 2},
        *([{"flags": flags | 64, "proj_size": 5}] if cell == "lstm" else []),
    ):  # fmt: skip
        plan, sizes, bound = P(), new(Sizes), new(ReserveBound)
        given = {"cell": names.index(cell.encode()), "input_size": 3, "hidden_size": 37, "flags": flags} | options
        assert lib.rnnk_plan_create(c.byref(new(Problem, **given)), None, c.byref(plan)) == OK
        assert lib.rnnk_plan_reserve_bound(plan, c.byref(bound)) == OK
        drops = "dropout" in options and "num_layers" in options
        for steps in (0, 1, 2, 3, 7, 50, 333, 5000, 10**5):
            for rows in (0, 1, 2, 5, 64, 700):
                assert lib.rnnk_plan_sizes(plan, steps, rows, c.byref(sizes)) == OK
                row = bound.per_row_dropped if drops else bound.per_row
                most = bound.constant + row * steps * rows
                most += int(np.ceil(1.6 * steps**0.5)) * (bound.border_row * rows + bound.border)
                assert sizes.reserve <= most, (options, steps, rows)
        lib.rnnk_plan_destroy(plan)
    refused(lib, lib.rnnk_plan_reserve_bound(None, c.byref(new(ReserveBound))), INVALID_VALUE, "plan: ")


def test_threads_do_not_choose_kernels(set_threads: Threads) -> None:
    """Or the bits would depend on them: kernels of one network are the same for 1 thread and 64."""
    chosen = set()
    for threads in (1, 2, 64):
        set_threads(threads)
        plans = [_core.Plan("lstm", dtype, 64, hidden) for dtype in ("float32", "bfloat16") for hidden in (16, 64, 700)]
        chosen.add(tuple(plan.kernels for plan in plans))
    assert len(chosen) == 1


def test_one_pack_serves_every_call_of_a_network() -> None:
    """Reverse, recompute, dropout and hints do not change the layout."""
    rng = np.random.default_rng(0)

    def plan(**options: Any) -> Any:
        return _core.Plan("gru", "float32", 4, 6, **({"num_layers": 2} | options))

    shapes = [(18, 4), (18, 6), (18,), (18,), None, None, (18, 6), (18, 6), (18,), (18,), None, None]
    weights = [None if shape is None else rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    packed, x = plan().pack(weights), rng.standard_normal((5, 2, 4)).astype(np.float32)
    for options in ({}, {"direction": "reverse"}, {"recompute": True}, {"dropout": 0.5}, {"clip": 2.0}):
        other, results = plan(**options), []
        for pack in (packed, other.pack(weights)):
            y, h_n = np.empty((5, 2, 6), np.float32), np.empty((2, 2, 6), np.float32)
            mask = np.ones((5, 2), bool)
            mask[2, 1] = False
            other.forward(pack, x=x, y=y, h_n=h_n, mask=mask)
            results.append((y.tobytes(), h_n.tobytes()))
        assert results[0] == results[1]
    for options in ({"direction": "both"}, {"num_layers": 1}, {"bias": False}, {"reset_before": True}):
        with pytest.raises(ValueError, match="packed: expected weights packed for"):
            plan(**options).forward(packed, x=x, y=np.empty((5, 2, 6), np.float32))
