"""The CUDA strategies on the host SIMT executor: the tests of the CPU's kernels, by the same names and bounds, and what
only a device has. (What the executor itself catches, missing barriers and the like, is cuda/test_executor.py's.)
"""

from __future__ import annotations

import ctypes as c
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import c_abi
from device_plan import DevicePlan, device_problem, simt_library, verdicts
from judging import allowed, close, draws, inactive_is_zero, judge, truth
from kernel_tests import (  # noqa: F401  (collected here, with the fixture of this module)
    test_absent_inputs_are_zeros,
    test_any_subset_of_gradients,
    test_half_states_of_either_dtype,
    test_linear_is_exact,
    test_nothing_to_do,
    test_padding_never_matters,
    test_sums_are_at_least_float32,
)
from option_cases import CASES, Case, make_case
from option_runs import compare
from option_runs import plan_of as plan_with_options
from option_runs import run as run_options
from problems import DTYPES, QUICK, Problem, eps, expand, make, np_dtype, state_dtype
from runner import DEVICE_KERNELS, Output, backward, forward, gradients_of, pack, plan_of, run, same_bits

pytestmark = pytest.mark.executor


@pytest.fixture(params=DEVICE_KERNELS)
def kernel(request: pytest.FixtureRequest, multiprocessors: Any) -> str:
    """Every strategy, forced by name, on a small device: cuda_solo then gives a block several of these few rows."""
    multiprocessors(2)
    return str(request.param)


# Beside the quick list: tiles of 16 units and of 8 and 32 rows, and what the instances of cuda_solo differ in: weights
# of up to 64 and 128 units in registers, more in shared memory.
_SIZES = (
    "t3b9i5h16 state lengths",
    "t2b33i3h15 lengths reverse",
    "t3b8i8h31 state reverse",
    "t2b5i16h64 state",
    "t2b3i8h65 state lengths",
    "t2b2i3h128 state reverse",
    "t2b2i3h129 state",
)
_PROBLEMS = (*QUICK, *expand(_SIZES))


@pytest.mark.parametrize("problem", _PROBLEMS, ids=str)
def test_against_reference(kernel: str, problem: Problem) -> None:
    plan = plan_of(problem, kernel)
    bounds = allowed(problem)
    for draw in range(draws(problem)):
        data = make(problem, draw)
        got = run(problem, plan, data)
        assert got.keys() == bounds.keys()
        close(problem, got, truth(problem, draw, got["y"]), bounds)
        if data.lengths is not None:
            inactive_is_zero(data, got)


@pytest.mark.parametrize("problem", expand(["t3b5i7h33 state lengths", "t2b3i9h64"], dtypes=["f32"]), ids=str)
def test_tf32(kernel: str, problem: Problem) -> None:
    """Operands are rounded to 10 bits of mantissa, half an eps of 2^-10 each: as for half types (``growth``)."""
    if problem.cell == "slstm" and kernel != "cuda_stepwise":
        pytest.skip("cells with options are in strict float32 there, or not at all")
    o = {"bias": not problem.has("nobias"), "reverse": problem.has("reverse")}
    plan = DevicePlan(
        simt_library(), problem.cell, "float32", problem.input_size, problem.hidden_size, kernel=kernel, tf32=True, **o
    )
    data = make(problem)
    got = run(problem, plan, data)
    wanted = judge(problem, data, got["y"])
    assert got["y"].tobytes() != run(problem, plan_of(problem, kernel), data)["y"].tobytes(), "tf32 changes nothing"
    bounds = {name: 4 * 2.0**-10 * problem.seq_len**0.5 / min(1.0, np.abs(w).max()) for name, w in wanted.items()}
    close(problem, got, wanted, bounds)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_tf32_with_a_mask(kernel: str, cell: str) -> None:
    """A mask of ones changes the instance alone, which may multiply in float32; one that packs otherwise is refused."""
    (problem,) = expand(["t5b3i4h32 state"], cells=[cell], dtypes=["f32"])
    plan, data = DevicePlan(simt_library(), cell, "float32", 4, 32, kernel=kernel, tf32=True), make(problem)
    packed = pack(plan, data)

    def y(mask: Any) -> Any:
        out = np.zeros((5, 3, 32), np.float32)
        plan.run("forward", packed, x=data.x, y=out, mask=mask)
        return out

    wanted, ones = y(None), np.ones((5, 3), np.uint8)
    if kernel == "cuda_solo":
        with pytest.raises(NotImplementedError, match="cuda_solo declines: with TF32 allowed it takes masks"):
            y(ones)
    else:
        assert np.abs(y(ones) - wanted).max() <= 8 * 2.0**-10


@pytest.mark.parametrize("tf32", [False, True])
def test_where_tf32_is_allowed_a_packs_layout_depends_on_options(tf32: bool) -> None:
    """cuda_solo packs a direction with options in float32 even then, so these plans cannot read each other's packs."""
    library, softsign = simt_library(), (c_abi.Activation * 3)(c_abi.Activation(), c_abi.Activation(10))

    def layout(**options: Any) -> int:
        problem, plan = device_problem(dtype=0, direction=2, flags=4 if tf32 else 0, **options), c.c_void_p()
        status = library.rnnk_plan_create(c.byref(problem), b"cuda_solo", c.byref(plan))
        assert status == 0, library.rnnk_last_error()
        found = int(library.rnnk_plan_pack_layout(plan))
        library.rnnk_plan_destroy(plan)
        return found

    found = {layout(), layout(activations_reverse=softsign), layout(activations=softsign)}
    assert len(found) == (3 if tf32 else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_options(kernel: str, case: Case, dtype: str) -> None:
    data = make_case(case, dtype)
    compare(case, dtype, run_options(case, data, plan_with_options(case, dtype, kernel), dtype))


# --- time in blocks ------------------------------------------------------------


@pytest.mark.parametrize(
    "problem",
    expand(["t9b600i3h5 state lengths", "t9b600i3h5 lengths reverse"], cells=["lstm", "gru"], dtypes=["f32", "bf16"]),
    ids=str,
)  # fmt: skip
def test_several_blocks_of_time(kernel: str, problem: Problem) -> None:
    """4096 rows are a block of products over time: here 7 steps, then 2."""
    data = make(problem)
    close(problem, run(problem, plan_of(problem, kernel), data), truth(problem, 0), allowed(problem))


@pytest.mark.parametrize(
    "problem",
    expand(
        ["t9b600i3h20 state lengths", "t16b600i3h20 lengths reverse"], cells=["lstm", "gru"], dtypes=["f32", "bf16"]
    ) + expand(["t1b3i2h5 state", "t0b3i4h5 state", "t3b0i4h5 state"], cells=["lstm"], dtypes=["bf16"]),
    ids=str,
)  # fmt: skip
def test_recompute_is_the_same_bits(kernel: str, problem: Problem) -> None:
    """Segments of 7 steps, of which the first is short, from the states at their borders; or one segment."""
    data, plan = make(problem), plan_of(problem, kernel)
    again = DevicePlan(
        simt_library(), problem.cell, problem.dtype, problem.input_size, problem.hidden_size, kernel=kernel,
        bias=not problem.has("nobias"), reverse=problem.has("reverse"), recompute=True,
    )  # fmt: skip
    if problem.seq_len > 7:
        kept = {name: p.sizes(problem.seq_len, problem.batch)["reserve"] for name, p in (("all", plan), ("few", again))}
        assert 0 < kept["few"] < kept["all"] / 10, kept
    same_bits(run(problem, again, data), run(problem, plan, data), "recompute")


# --- bits ------------------------------------------------------------


@pytest.mark.parametrize("problem", expand(["t5b11i5h33 state lengths"], dtypes=["f32", "bf16"]), ids=str)
def test_same_bits_whatever_the_order_of_threads(kernel: str, problem: Problem, seeded: Any) -> None:
    """Run to run: no sum depends on who comes first."""
    plan, data = plan_of(problem, kernel), make(problem)
    wanted = run(problem, plan, data)
    for seed in range(1, 6):
        seeded(seed)
        same_bits(run(problem, plan, data), wanted, f"seed {seed}")


@pytest.mark.parametrize("problem", expand(["t5b11i5h33 state lengths"], dtypes=["f32", "bf16"]), ids=str)
def test_same_bits_however_rows_are_dealt(problem: Problem, multiprocessors: Any) -> None:
    """2, 4, 6 and 8 rows a block."""
    plan, data = plan_of(problem, "cuda_solo"), make(problem)
    wanted = run(problem, plan, data)
    for count in (4, 2, 1):
        multiprocessors(count)
        same_bits(run(problem, plan, data), wanted, f"{count} multiprocessors")


@pytest.mark.parametrize("layout", ["expanded", "flipped", "windows", "shifted"])
def test_strides_that_products_cannot_read(kernel: str, layout: str) -> None:
    """x that repeats itself, runs backwards or overlaps: as its copy, to the bit."""
    (problem,) = expand(["t3b4i8h5"], cells=["lstm"], dtypes=["f32"])
    base = np.random.default_rng(2).standard_normal(400).astype(np.float32)
    step = base.itemsize
    x = {
        "expanded": np.lib.stride_tricks.as_strided(base, (3, 4, 8), (0, 0, step)),
        "flipped": base[:96].reshape(3, 4, 8)[::-1, ::-1],
        "windows": np.lib.stride_tricks.as_strided(base, (3, 4, 8), (4 * 3 * step, 3 * step, step)),
        "shifted": base[1:97].reshape(3, 4, 8),
    }[layout]
    data = make(problem)
    same_bits(
        run(problem, plan_of(problem, kernel), replace(data, x=x)),
        run(problem, plan_of(problem, kernel), replace(data, x=np.ascontiguousarray(x))),
        layout,
    )


@pytest.mark.parametrize("problem", expand(["t5b11i5h33 state lengths"], dtypes=["f32", "bf16"]), ids=str)
def test_keeping_a_tape_changes_no_bit(kernel: str, problem: Problem) -> None:
    plan, data = plan_of(problem, kernel), make(problem)
    packed = pack(plan, data)
    kept, _ = forward(problem, plan, packed, data)
    same_bits(forward(problem, plan, packed, data, keep=False)[0], kept, "inference")


@pytest.mark.parametrize("problem", expand(["t4b3i5h9 state"], cells=["lstm", "gru"], dtypes=["f32", "f16"]), ids=str)
def test_backward_twice(kernel: str, problem: Problem) -> None:
    """The reserve is not written."""
    plan, data = plan_of(problem, kernel), make(problem)
    packed = pack(plan, data)
    results, reserve = forward(problem, plan, packed, data)
    before = reserve.copy()
    one = backward(problem, plan, packed, data, results["y"], reserve)
    same_bits(backward(problem, plan, packed, data, results["y"], reserve), one, "the second time")
    assert np.array_equal(before, reserve)


# --- lengths on the device ------------------------------------------------------------


@pytest.mark.parametrize("bad", [-3, 9])
def test_a_bad_length_is_clamped_and_reported_once(kernel: str, bad: int) -> None:
    (problem,) = expand(["t4b3i2h5 state lengths"], cells=["lstm"], dtypes=["f32"])
    library, data = simt_library(), make(problem)
    plan = plan_of(problem, kernel)
    assert data.lengths is not None
    clamped = replace(data, lengths=np.array([4, min(max(bad, 0), 4), 2]))
    packed = pack(plan, data)
    got, _ = forward(problem, plan, packed, replace(data, lengths=np.array([4, bad, 2])), keep=False)
    with pytest.raises(ValueError, match=r"lengths\[1\]: an earlier call on GPU 0"):
        forward(problem, plan, packed, clamped, keep=False)
    same_bits(got, forward(problem, plan, packed, clamped, keep=False)[0], "clamped")
    assert library.rnnk_device_check(0) == 0


# --- directions ------------------------------------------------------------


class BothDirections:
    """An LSTM layer of both directions on the executor, and each direction alone."""

    def __init__(self, text: str, dtype: str, kernel: str) -> None:
        (problem,) = expand([text], cells=["lstm"], dtypes=[dtype])
        self.problem, self.data = problem, make(problem)
        sizes = ("lstm", np_dtype(problem).name, problem.input_size, problem.hidden_size)
        self.plan = DevicePlan(simt_library(), *sizes, kernel=kernel, direction=2)
        self.alone = [DevicePlan(simt_library(), *sizes, kernel=kernel, reverse=back) for back in (False, True)]
        p = self.data.params
        own = [p["weight_ih_l0"], p["weight_hh_l0"], p["bias_ih_l0"], p["bias_hh_l0"], None, None]
        self.packed = self.plan.pack_all(own + own)

    def twice(self, name: str) -> Any:
        """A state of the data for each direction."""
        one = self.data.first(name)
        return None if one is None else np.stack([one, one])

    def forward(self) -> tuple[dict[str, Any], Any]:
        T, B, H = self.problem.seq_len, self.problem.batch, self.problem.hidden_size
        kind = np_dtype(self.problem)
        reserve = c_abi.aligned(self.plan.sizes(T, B)["reserve"])
        out = {"y": np.zeros((T, B, 2 * H), kind), "h_n": np.zeros((2, B, H), kind)}
        out["c_n"] = np.zeros((2, B, H), state_dtype(self.problem))
        states = {name: self.twice(name) for name in ("h_0", "c_0")}
        self.plan.run(
            "forward", self.packed, x=self.data.x, lengths=self.data.lengths, reserve=reserve, **states, **out
        )
        return out, reserve

    def backward(self, y: Any, reserve: Any, workspace: str) -> dict[str, Any]:
        p, data = self.problem, self.data
        state = state_dtype(p)
        shapes = gradients_of(p)
        grads = [[np.zeros(shape, np_dtype(p)) for shape in shapes.values()] for _ in range(2)]
        out = {"dx": np.full(data.x.shape, 7, data.x.dtype)}
        out |= {name: np.zeros((2, p.batch, p.hidden_size), state) for name in ("dh_0", "dc_0")}
        given = {name: self.twice(name) for name in ("h_0", "c_0", "dh_n", "dc_n")}
        dy = np.concatenate([data.dy, data.dy], axis=-1)
        size = self.plan.sizes(p.seq_len, p.batch)[workspace]
        self.plan.run(
            "backward", self.packed, workspace=size, x=data.x, lengths=data.lengths, y=y, dy=dy, reserve=reserve,
            gradients=[*grads[0], None, None, *grads[1], None, None], **given, **out,
        )  # fmt: skip
        named = {f"{name} {d}": grads[d][i] for d in range(2) for i, name in enumerate(shapes)}
        return out | named


def test_two_directions_go_on_two_streams() -> None:
    """The same bits as one after the other; short calls are not worth the events."""
    library = simt_library()
    for text, forks in (("t40b3i5h33 state", 1), ("t1b1i2h3 state", 0)):
        both = BothDirections(text, "bf16", "cuda_cluster")
        before = library.rnnk_simt_forks()
        got, _ = both.forward()
        assert library.rnnk_simt_forks() - before == forks, text
        for d, plan in enumerate(both.alone):
            wanted, _ = forward(both.problem, plan, pack(plan, both.data), both.data, keep=False)
            H = both.problem.hidden_size
            mine = {"y": got["y"][..., d * H : (d + 1) * H], "h_n": got["h_n"][d], "c_n": got["c_n"][d]}
            same_bits({name: mine[name] for name in wanted}, wanted, text)


def test_blocks_that_wait_for_each_other_run_together_only_where_they_fit(multiprocessors: Any) -> None:
    """Both directions of cuda_grid; clusters are placed as wholes and need no room beside each other."""
    library = simt_library()
    for kernel, count, forks in (("cuda_grid", 132, 1), ("cuda_grid", 3, 0), ("cuda_cluster", 3, 1)):
        multiprocessors(count)
        both = BothDirections("t40b3i5h33 state", "bf16", kernel)
        before = library.rnnk_simt_forks()
        both.forward()
        assert library.rnnk_simt_forks() - before == forks, (kernel, count)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "f64"])
def test_bptt_of_two_directions_goes_on_two_streams(dtype: str) -> None:
    """The same bits as one after the other, if there is room for a second dx; and those of each direction alone."""
    library = simt_library()
    kernel = "cuda_cluster" if dtype in ("bf16", "f16") else "cuda_stepwise"
    both = BothDirections("t40b3i5h33 state lengths", dtype, kernel)
    out, reserve = both.forward()
    results = []
    for workspace in ("workspace_backward", "workspace_backward_least"):
        before = library.rnnk_simt_forks()
        results.append(both.backward(out["y"], reserve, workspace))
        assert library.rnnk_simt_forks() - before == (workspace == "workspace_backward")
    same_bits(results[0], results[1], "at the same time, and in turn")
    total = 0
    for d, plan in enumerate(both.alone):
        packed = pack(plan, both.data)
        given, kept = forward(both.problem, plan, packed, both.data)
        wanted = backward(both.problem, plan, packed, both.data, given["y"], kept)
        mine = {name: results[0][f"{name} {d}"] for name in wanted if name.startswith(("dw", "db"))}
        mine |= {name: results[0][name][d] for name in ("dh_0", "dc_0")}
        same_bits(mine, {name: wanted[name] for name in mine}, f"direction {d}")
        total = total + wanted["dx"].astype(np.float64)
    error = np.abs(results[0]["dx"].astype(np.float64) - total).max() / np.abs(total).max()
    assert error <= 4 * eps(both.problem)


@pytest.mark.parametrize("kernel", DEVICE_KERNELS)
def test_resets_of_a_reverse_walk_are_made_on_the_device(kernel: str) -> None:
    """A reverse walk has the bits of a forward one over the rows turned round, marks turned and moved by a step."""
    rng = np.random.default_rng(5)
    T, B, inputs, H = 9, 3, 4, 8
    plans = [
        DevicePlan(simt_library(), "gru", "bfloat16", inputs, H, kernel=kernel, reverse=back) for back in (True, False)
    ]

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)

    weights = [draw(3 * H, inputs), draw(3 * H, H), draw(3 * H), draw(3 * H)]
    x, reset, lengths = draw(T, B, inputs), rng.random((T, B)) < 0.4, np.array([9, 5, 0])
    turned_x, turned = np.zeros_like(x), np.zeros_like(reset)
    for b, end in enumerate(lengths):
        turned_x[:end, b] = x[:end, b][::-1]
        turned[1:end, b] = reset[1:end, b][::-1]
    results = []
    for plan, given, marks in zip(plans, (x, turned_x), (reset, turned), strict=True):
        y, h_n = np.zeros((T, B, H), x.dtype), np.zeros((B, H), x.dtype)
        plan.forward(plan.pack(*weights), given, None, None, y, h_n, None, lengths=lengths, reset=marks)
        results.append((y, h_n))
    for b, end in enumerate(lengths):
        assert results[0][0][:end, b].tobytes() == results[1][0][:end, b][::-1].tobytes()
    assert results[0][1].tobytes() == results[1][1].tobytes()


# --- dropout between layers ------------------------------------------------------------

Dropout = c_abi._struct(
    "DeviceDropout", *c_abi._fields(c_abi.I32, "device device_index"), ("cuda_stream", c_abi.P), base=c_abi.Dropout
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_draws_the_cpus_masks(dtype: str, p: float) -> None:
    library = simt_library()
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5, 3, 19)).astype(DTYPES[dtype])
    lengths = np.array([5, 0, 3])
    results = []
    for device in (0, 1):
        out = Output(x.shape, x.dtype)
        args = c_abi.new(
            Dropout, call=7, stream=2, p=p, seed=1234567890123, seq_len=5, batch=3, hidden_size=19,
            lengths=c_abi.tensor(lengths), input=c_abi.tensor(x),
            output=c_abi.tensor(out.array), device=device,
        )  # fmt: skip
        assert library.rnnk_dropout(c.byref(args)) == 0, library.rnnk_last_error()
        out.check("out")
        results.append(out.array)
    same_bits({"out": results[1]}, {"out": results[0]}, "on the device")
    assert not results[0][3:, 2].any() and (p in (0.0, 1.0) or (results[0] == 0).mean() > 0.3)


# --- the choice ------------------------------------------------------------


def test_the_model_s_choice_by_size() -> None:
    """What teams decline (float64, here) goes by size too: to stepwise where a block cannot hold it."""
    wanted_of = {
        (64, 8, 2): "cuda_solo", (256, 16, 2): "cuda_cluster", (512, 8, 2): "cuda_cluster",
        (1024, 16, 2): "cuda_grid", (4096, 16, 2): "cuda_stepwise",
        (64, 8, 0): "cuda_solo", (512, 8, 0): "cuda_stepwise", (64, 8, 1): "cuda_stepwise",
    }  # fmt: skip
    for (hidden, batch, dtype), wanted in wanted_of.items():
        found = verdicts(device_problem(hidden_size=hidden, dtype=dtype), batch=batch)
        able = {name: v.forward_us for name, v in found.items() if not v.declined}
        assert min(able, key=lambda name: able[name]) == wanted, (hidden, able)


def test_solo_declines_with_the_numbers() -> None:
    reason = verdicts(device_problem(hidden_size=512))["cuda_solo"].reason.decode()
    assert "512 units needs" in reason and "232448" in reason
    assert not verdicts(device_problem(hidden_size=512, heads=8))["cuda_solo"].declined, "a head of 64 units fits"
    assert verdicts(device_problem(dtype=1))["cuda_solo"].reason == b"it has no float64"


def test_kernels_of_the_other_device_say_so() -> None:
    reasons = {name: v.reason.decode() for name, v in verdicts(device_problem(device=0)).items()}
    assert all(
        "the problem's device is the CPU" in reason for name, reason in reasons.items() if name in DEVICE_KERNELS
    )


def test_what_is_forced_and_declines_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="cuda_solo was asked for by name but declines: it has no float64"):
        DevicePlan(simt_library(), "lstm", "float64", 4, 8, kernel="cuda_solo")


def test_device_facts() -> None:
    library = simt_library()
    assert library.rnnk_device_count() == 1
    plan = c_abi.P()
    problem = device_problem(device_index=1)
    assert library.rnnk_plan_create(c.byref(problem), None, c.byref(plan)) == 1
    assert b"problem.device_index: expected 0 to 0 (there are 1 GPUs), got 1" in library.rnnk_last_error()
