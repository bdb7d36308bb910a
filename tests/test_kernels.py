"""Every kernel x cell x dtype x problem, straight on ``_core.Plan``, against the judge; the linear cell for equality.

Bounds are those of judging.py. The scalar kernel, which is slow, gets the QUICK list, the others FULL.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from judging import allowed, draws, error, judge, truth
from problems import (
    CELLS,
    DTYPES,
    FULL,
    QUICK,
    Array,
    Data,
    Problem,
    eps,
    expand,
    lay_out,
    make,
    make_integers,
    np_dtype,
    state_dtype,
)
from rnnkern import _core, reference
from runner import (
    KERNELS,
    UNAVAILABLE,
    Kept,
    Output,
    backward,
    cell_units,
    dtype_of,
    forward,
    gradients_of,
    pack,
    plan_of,
    run,
    same_bits,
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``kernel_and_problem``: problems in the outer loop, so that a problem is judged once for all kernels."""
    if "kernel_and_problem" in metafunc.fixturenames:
        quick = set(QUICK)
        pairs = [(k, p) for p in FULL for k in KERNELS if p in quick or k != "cpu_scalar"]
        metafunc.parametrize("kernel_and_problem", pairs, ids=[f"{k}: {p}" for k, p in pairs])


def close(problem: Problem, got: dict[str, Array], wanted: dict[str, Array], bounds: dict[str, float]) -> None:
    """Fails with every tensor that is further off than its bound."""
    errors = {name: error(value, wanted[name]) for name, value in got.items()}
    wrong = [
        f"{name}: error {e:.3g}, allowed {bounds[name]:.3g}" for name, e in errors.items() if not e <= bounds[name]
    ]
    assert not wrong, f"{problem}: " + "; ".join(wrong)


def equal(got: dict[str, Array], wanted: dict[str, Array]) -> None:
    """Fails with every tensor that is not the exact result, rounded once to its dtype."""
    wrong = [name for name, value in got.items() if not np.array_equal(value, wanted[name].astype(value.dtype))]
    assert not wrong, f"not exact: {', '.join(wrong)}"


# --- the judge ------------------------------------------------------------


def test_against_reference(kernel_and_problem: tuple[str, Problem]) -> None:
    kernel, problem = kernel_and_problem
    plan = plan_of(problem, kernel)
    bounds = allowed(problem)
    for draw in range(draws(problem)):
        data = make(problem, draw)
        got = run(problem, plan, data)
        assert got.keys() == bounds.keys()
        close(problem, got, truth(problem, draw, got["y"]), bounds)
        if data.lengths is not None:
            inactive_is_zero(data, got)


def inactive_is_zero(data: Data, got: dict[str, Array]) -> None:
    """y and dx past a row's end are 0; a row of length zero returns its state, and its gradient, unchanged."""
    assert data.lengths is not None
    for b, end in enumerate(data.lengths):
        assert not got["y"][end:, b].any() and not got["dx"][end:, b].any(), f"row {b} is not zero past its end {end}"
    none = data.lengths == 0
    for letter, start in (("h", data.h_0), ("c", data.c_0)):
        if f"{letter}_n" in got:
            final, dfinal = got[f"{letter}_n"][none], data.dh_n if letter == "h" else data.dc_n
            assert dfinal is not None
            assert np.array_equal(final, np.zeros_like(final) if start is None else start[0][none])
            assert np.array_equal(got[f"d{letter}_0"][none], dfinal[0][none])


def test_lists_name_every_cell_and_dtype() -> None:
    """A cell that enters cells.inc is tested without a line here, and no cell lacks a judge."""
    assert set(CELLS) <= set(reference.CELLS)
    everything = {(cell, dtype) for cell in CELLS for dtype in DTYPES}
    assert {(p.cell, p.dtype) for p in QUICK} == {(p.cell, p.dtype) for p in FULL} == everything


# --- the linear cell, exactly ------------------------------------------------------------

_EXACT = (
    "t3b5i7h9 state",
    "t3b2i4h17 state lengths",
    "t3b5i9h33 lengths reverse",
    "t3b6i16h16 state reverse nobias",
    "t2b7i3h65 state strided",
    "t3b13i17h31 state lengths batch_first",
    "t1b1i1h1 state",
    "t2b17i33h49 state lengths reverse strided",
    "t3b1i8h64 state",
    "t7b16i2h8 lengths",
    # Products in several passes over their terms (tile.h, Walk): more terms, and more rows, than one pass takes.
    "t2b7i3h1100 state lengths",
    "t2b2i1100h5 state",
    "t1b197i3h33 state",
    # Rows in groups of 32, terms in steps of 32 (isa/amx.cpp).
    "t2b33i33h31 state",
    "t3b49i64h48 state lengths reverse",
    "t12b3i40h20 lengths",
)


@pytest.mark.parametrize("problem", expand(_EXACT, cells=["linear"]), ids=str)
def test_linear_is_exact(kernel: str, problem: Problem) -> None:
    """Layout, tails, lengths, packing, reversal, dW: on integers the answer is the answer, in every dtype."""
    data = make_integers(problem)
    wanted = judge(problem, data)
    # The states must be exact in the dtype (they are rounded at each step); sums over time and rows are rounded once.
    assert max(np.abs(wanted[name]).max() for name in ("y", "h_n", "dx", "dh_0")) <= 2 / eps(problem)
    assert max(np.abs(value).max() for value in wanted.values()) <= 2**24, "sums are held in float32 at least"
    equal(run(problem, plan_of(problem, kernel), data), wanted)


@pytest.mark.parametrize("problem", expand(["t1b6i70h33 state", "t1b17i33h65 state"], cells=["linear"]), ids=str)
def test_sums_are_at_least_float32(kernel: str, problem: Problem) -> None:
    """Half types only store: a sum that needs more of a mantissa than they have is rounded once, at its end."""
    rng = np.random.default_rng(5)

    def whole(a: Array) -> Array:
        return rng.integers(-40, 41, a.shape).astype(a.dtype)

    made = make(problem)
    assert made.h_0 is not None
    data = replace(
        made,
        params={name: whole(value) for name, value in made.params.items()},
        x=whole(made.x),
        h_0=whole(made.h_0),
        dy=whole(made.dy),
        dh_n=whole(made.dh_n),
    )
    wanted = judge(problem, data)
    assert np.abs(wanted["y"]).max() > 2**11, "the sums must not fit a half type"
    # dx and dh_0 multiply a sum of dy and dh_n that a half type still holds, so they too are rounded once.
    equal(run(problem, plan_of(problem, kernel), data), wanted)


# --- outputs that are not asked for, inputs that are absent -------------------------------------------------------


@pytest.mark.parametrize("problem", expand(["t3b5i6h17 state lengths"], dtypes=["f32", "bf16"]), ids=str)
def test_any_subset_of_gradients(kernel: str, problem: Problem) -> None:
    """Leaving outputs out changes no bit of the others."""
    plan, data = plan_of(problem, kernel), make(problem)
    packed = pack(plan, data)
    results, reserve = forward(problem, plan, packed, data)
    everything = backward(problem, plan, packed, data, results["y"], reserve)
    subsets = [(name,) for name in everything] + [tuple(gradients_of(problem)), ("dx", "dh_0")]
    for only in subsets:
        got = backward(problem, plan, packed, data, results["y"], reserve, only)
        same_bits(got, {name: everything[name] for name in only}, f"backward for {only} alone")
    y = Output(results["y"].shape, results["y"].dtype)
    plan.forward(
        packed,
        data.x,
        data.first("h_0"),
        data.first("c_0"),
        y.array,
        None,
        None,
        lengths=data.lengths,
    )
    y.check("y")
    same_bits({"y": y.array}, {"y": results["y"]}, "forward for y alone")


@pytest.mark.parametrize("problem", expand(["t3b5i6h17 lengths"], dtypes=["f32", "f16"]), ids=str)
def test_absent_inputs_are_zeros(kernel: str, problem: Problem) -> None:
    """h_0, c_0, dy, dh_n, dc_n that are not given count as zero, to the bit."""
    plan, data = plan_of(problem, kernel), make(problem)
    packed = pack(plan, data)
    shape = (1, problem.batch, problem.hidden_size)
    h_0, state = np.zeros(shape, np_dtype(problem)), np.zeros(shape, state_dtype(problem))
    cells = np.zeros((*shape[:2], cell_units(problem)), state_dtype(problem)) if cell_units(problem) else None
    spelled = replace(data, h_0=h_0, c_0=cells, dh_n=state, dc_n=cells, dy=np.zeros_like(data.dy))
    (absent, reserve), (given, spelled_reserve) = (
        forward(problem, plan, packed, data),
        forward(problem, plan, packed, spelled),
    )
    same_bits(absent, given, "absent initial states")
    for dy, dstate in ((data.dy, None), (None, data)):
        dh_n, dc_n = (None, None) if dstate is None else (data.first("dh_n"), data.first("dc_n"))
        out = {name: Output(s, np_dtype(problem)) for name, s in gradients_of(problem).items()}
        out["dx"] = Output(data.x.shape, np_dtype(problem))
        plan.backward(
            packed,
            reserve,
            data.x,
            None,
            None,
            absent["y"],
            dy,
            dh_n,
            dc_n,
            lengths=data.lengths,
            **{name: o.array for name, o in out.items()},
        )
        zeros = replace(
            spelled,
            dy=spelled.dy if dy is None else dy,
            dh_n=state if dh_n is None else data.dh_n,
            dc_n=data.dc_n if dc_n is not None else spelled.dc_n,
        )
        wanted = backward(problem, plan, packed, zeros, given["y"], spelled_reserve, tuple(out))
        same_bits({name: o.array for name, o in out.items()}, wanted, f"dy {'absent' if dy is None else 'given'}")


@pytest.mark.parametrize(
    "problem", expand(["t3b5i6h17 state lengths", "t4b2i33h8 strided"], dtypes=["f32", "f64", "bf16"]), ids=str
)
def test_accumulate_dx(kernel: str, problem: Problem) -> None:
    """dx += is how the second direction of a layer adds its share; past a row's end nothing is added."""
    plan, data = plan_of(problem, kernel), make(problem)
    packed = pack(plan, data)
    results, reserve = forward(problem, plan, packed, data)
    before = make(problem, draw=9).x
    out = Output(before.shape, before.dtype, "strided" if problem.has("strided") else "plain")
    out.array[...] = before
    plan.backward(
        packed,
        reserve,
        data.x,
        data.first("h_0"),
        data.first("c_0"),
        results["y"],
        data.dy,
        data.first("dh_n"),
        data.first("dc_n"),
        dx=out.array,
        accumulate_dx=True,
        lengths=data.lengths,
    )
    out.check("dx")
    wide = truth(problem, 0, results["y"])["dx"]
    wanted = wide + before.astype(wide.dtype)
    # The addition rounds once more than dx alone does: by half an eps of the sum, for which a whole one is allowed.
    bound = allowed(problem)["dx"] * np.abs(wide).max() / np.abs(wanted).max() + eps(problem)
    close(problem, {"dx": out.array}, {"dx": wanted}, {"dx": bound})
    if data.lengths is not None:
        for b, end in enumerate(data.lengths):
            assert np.array_equal(out.array[end:, b], before[end:, b]), f"row {b}: dx changed past its end {end}"


@pytest.mark.parametrize("problem", expand(["t3b5i6h17 state"], cells=["lstm"], dtypes=["bf16", "f16"]), ids=str)
def test_half_states_of_either_dtype(kernel: str, problem: Problem) -> None:
    """c_0, dh_n and dc_n may come in float32 or in the problem's dtype: the same values give the same bits."""
    plan, data = plan_of(problem, kernel), make(problem)
    assert data.c_0 is not None and data.dc_n is not None
    dtype = np_dtype(problem)
    narrow = replace(data, c_0=data.c_0.astype(dtype), dh_n=data.dh_n.astype(dtype), dc_n=data.dc_n.astype(dtype))
    same_bits(run(problem, plan, narrow), run(problem, plan, data), "states in the half type")


# --- sizes of nothing, padding, NaN and infinity ------------------------------------------------------------


@pytest.mark.parametrize(
    "problem",
    expand(["t0b3i4h9 state", "t0b3i4h9 state lengths", "t2b0i4h9 state", "t0b0i4h9"], dtypes=["f32", "bf16"]),
    ids=str,
)
def test_nothing_to_do(kernel: str, problem: Problem) -> None:
    """T = 0 returns the states and passes their gradients; B = 0 returns nothing; parameters' gradients are zero."""
    plan, data = plan_of(problem, kernel), make(problem)
    got = run(problem, plan, data)
    assert got["y"].shape == (problem.seq_len, problem.batch, problem.hidden_size)
    if data.h_0 is not None:
        assert np.array_equal(got["h_n"], data.h_0[0]) and np.array_equal(got["dh_0"], data.dh_n[0])
    if data.c_0 is not None and data.dc_n is not None:
        assert np.array_equal(got["c_n"], data.c_0[0]) and np.array_equal(got["dc_0"], data.dc_n[0])
    for name in gradients_of(problem):
        assert not got[name].any(), f"{name} is not zero"


@pytest.mark.parametrize(
    "problem", expand(["t7b6i5h17 state lengths", "t7b6i5h17 state lengths reverse"], dtypes=["f32", "f16"]), ids=str
)
def test_padding_never_matters(kernel: str, problem: Problem) -> None:
    """NaN past a row's end, in x and dy, forward and backward: the same bits everywhere."""
    plan, data = plan_of(problem, kernel), make(problem)
    assert data.lengths is not None
    x, dy = data.x.copy(), data.dy.copy()
    for b, end in enumerate(data.lengths):
        x[end:, b] = dy[end:, b] = np.nan
    assert np.isnan(x).any()
    same_bits(run(problem, plan, replace(data, x=x, dy=dy)), run(problem, plan, data), "NaN in the padding")


def test_an_infinite_state_leaves_padding_units_out_of_the_gradients(kernel: str) -> None:
    """H = 17 pads every vector but the one-lane one. An infinite h saturates the gates, whose gradients are then plain
    zeros; in the padding its product with the zero weights there is NaN, which must not reach the sums over units.
    """
    rng = np.random.default_rng(5)
    steps, rows, inputs, units = 2, 3, 4, 17
    dtype = DTYPES[dtype_of(kernel)]
    plan = _core.Plan("lstm", dtype_of(kernel), inputs, units, kernel=kernel)
    weights = [
        (rng.uniform(0.1, 0.2, shape)).astype(dtype)
        for shape in ((4 * units, inputs), (4 * units, units), (4 * units,), (4 * units,))
    ]
    packed = plan.pack(*weights)
    x = rng.standard_normal((steps, rows, inputs)).astype(dtype)
    h_0, c_0 = np.zeros((rows, units), dtype), np.zeros((rows, units), np.float32)
    h_0[0, 0] = np.inf
    y, h_n, c_n = np.empty((steps, rows, units), dtype), np.empty_like(h_0), np.empty_like(c_0)
    reserve = Kept(plan.sizes(steps, rows)["reserve"]).array
    plan.forward(packed, x, h_0, c_0, y, h_n, c_n, None, reserve)
    assert np.isfinite(y.astype(np.float32)).all()
    dx, dh_0, dc_0 = np.empty_like(x), np.empty_like(c_0), np.empty_like(c_0)
    plan.backward(packed, reserve, x, h_0, c_0, y, np.ones_like(y), None, None, dx=dx, dh_0=dh_0, dc_0=dc_0)
    for name, value in (("dx", dx), ("dh_0", dh_0), ("dc_0", dc_0)):
        assert np.isfinite(value.astype(np.float32)).all(), name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    "problem", expand(["t5b4i3h17 state", "t5b4i3h17 reverse"], dtypes=["f32", "f64", "bf16"]), ids=str
)
def test_nan_and_infinity_pass_through(kernel: str, problem: Problem, bad: float) -> None:
    """One bad element of x does what IEEE arithmetic says to its own row, and nothing to the others."""
    plan, data = plan_of(problem, kernel), make(problem)
    x = data.x.copy()
    x[2, 1, 0] = bad
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = judge(problem, replace(data, x=x))
    got, clean = run(problem, plan, replace(data, x=x)), run(problem, plan, data)
    for name in ("y", "h_n", "c_n"):
        if name in got:
            for kind in (np.isnan, np.isposinf, np.isneginf):
                assert np.array_equal(kind(got[name].astype(np.float64)), kind(wanted[name])), (
                    f"{name}: other {kind.__name__}"
                )
            finite = np.isfinite(wanted[name])
            bound = 2 * allowed(problem)[name] * np.abs(wanted[name][finite]).max(initial=1)
            assert np.abs(got[name][finite].astype(np.float64) - wanted[name][finite]).max(initial=0) <= bound, name
    others = [0, 2, 3]
    for name in set(got) - set(gradients_of(problem)):
        pick = (slice(None), others) if got[name].ndim == 3 else others
        same_bits({name: got[name][pick]}, {name: clean[name][pick]}, "the rows beside the bad one")
    if np.isnan(
        bad
    ):  # an infinity's gradient is 0 * inf or 0 according to how the derivative is written; a NaN's is not
        for name, value in got.items():
            assert np.array_equal(np.isnan(value.astype(np.float64)), np.isnan(wanted[name])), f"{name}: other NaN"


# --- which kernel ran ------------------------------------------------------------


def test_forced_kernel_is_the_one_that_runs(kernel: str) -> None:
    for cell in CELLS:
        for dtype in DTYPES:
            assert plan_of(Problem(cell, 1, 1, 3, 4, dtype=dtype), kernel).kernel == kernel, f"{cell} {dtype}"


def test_scalar_kernel_declines_nothing() -> None:
    """It is what is always there: no machine lacks it and no plain problem is beyond it."""
    assert UNAVAILABLE["cpu_scalar"] == ""
    for cell in CELLS:
        for dtype in DTYPES:
            for bias in (True, False):
                for reverse in (True, False):
                    plan = _core.Plan(cell, dtype, 5, 7, bias=bias, reverse=reverse, kernel="cpu_scalar")
                    assert plan.kernel == "cpu_scalar"


def test_free_choice_is_the_smallest_estimate() -> None:
    """Without a name the kernel that runs does not decline, and explain() estimates none faster both ways."""
    if os.environ.get("RNNKERN_KERNEL"):
        pytest.skip("RNNKERN_KERNEL is set: there is no free choice")
    plan = _core.Plan("lstm", "float32", 64, 64)
    assert plan.kernel in KERNELS and not UNAVAILABLE[plan.kernel]
    verdicts = {v["name"]: v for v in _core.explain("lstm", "float32", 64, 64, 100, 16)}
    assert list(verdicts) == [name for name, _ in _core.kernels()]
    chosen = verdicts[plan.kernel]
    assert not chosen["declined"]
    for name, verdict in verdicts.items():
        if verdict["declined"]:
            assert verdict["reason"], f"{name} declines and does not say why"
        else:
            assert not UNAVAILABLE.get(name), f"{name} is unavailable and says it would run"
            faster = verdict["forward_us"] < chosen["forward_us"] and verdict["backward_us"] < chosen["backward_us"]
            assert not faster, f"{name} is estimated faster than {plan.kernel}, which was chosen"


def test_environment_forces_a_kernel(kernel: str) -> None:
    code = f"from rnnkern import _core; print(_core.Plan('gru', '{dtype_of(kernel)}', 3, 4).kernel)"
    env = os.environ | {"RNNKERN_KERNEL": kernel}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kernel


def test_forced_kernel_is_never_replaced() -> None:
    with pytest.raises(ValueError, match="no_such_kernel"):
        _core.Plan("gru", "float32", 3, 4, kernel="no_such_kernel")
    code = "from rnnkern import _core; _core.Plan('gru', 'float32', 3, 4)"
    env = os.environ | {"RNNKERN_KERNEL": "no_such_kernel"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "ValueError" in done.stderr and "no_such_kernel" in done.stderr


def test_lay_out_is_what_it_says() -> None:
    """The layouts really differ in memory, so the strided tests test strides."""
    a = np.arange(24.0).reshape(2, 3, 4)
    assert (
        lay_out(a, "strided").strides[2] == 16
        and lay_out(a, "batch_first").strides[0] < lay_out(a, "batch_first").strides[1]
    )
    for layout in ("plain", "strided", "batch_first"):
        assert np.array_equal(lay_out(a, layout), a) and not lay_out(a, layout).flags.writeable


def test_a_pack_of_another_layout_is_refused() -> None:
    zeros = [np.zeros(s, np.float32) for s in ((12, 3), (12, 4), (12,), (12,))]
    packed = _core.Plan("gru", "float32", 3, 4, kernel="cpu_scalar").pack(*zeros)
    other = _core.Plan("gru", "float32", 4, 4, kernel="cpu_scalar")
    x, y = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 4), np.float32)
    with pytest.raises(
        ValueError, match=r"packed: expected weights packed for float32 gru of 4 inputs .* got .* 3 inputs"
    ):
        other.forward(packed, x, None, None, y, None, None)
    with pytest.raises(ValueError, match="packed: expected weights packed for"):
        _core.Stepper(other, packed, 1)


def test_half_a_pack_is_refused_where_it_is_of_no_use() -> None:
    plan = _core.Plan("gru", "float32", 3, 4, kernel="cpu_scalar")
    zeros = [np.zeros(s, np.float32) for s in ((12, 3), (12, 4), (12,), (12,))]
    x, y = np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 4), np.float32)
    reserve = Kept(plan.sizes(1, 1)["reserve"]).array
    forward, backward = plan.pack(*zeros, backward=False), plan.pack(*zeros, forward=False)
    assert (forward.forward, forward.backward, backward.forward, backward.backward) == (True, False, False, True)
    with pytest.raises(ValueError, match="packed: expected weights packed with forward=True"):
        plan.forward(backward, x, None, None, y, None, None)
    with pytest.raises(ValueError, match="packed: expected weights packed with forward=True"):
        _core.Stepper(plan, backward, 1)
    with pytest.raises(ValueError, match="packed: expected weights packed with backward=True"):
        plan.backward(forward, reserve, x, None, None, y, y, None, None)
    with pytest.raises(ValueError, match="forward, backward: expected at least one"):
        plan.pack(*zeros, forward=False, backward=False)


@pytest.mark.parametrize(
    ("wrong", "kind", "sentence"),
    [
        (np.zeros(0, np.float32), TypeError, "reserve: expected a NumPy array of uint8"),
        (np.zeros((2, 64), np.uint8), ValueError, "reserve: expected one contiguous axis"),
        (np.zeros(1, np.uint8), ValueError, r"reserve(_size)?: expected"),
        (np.frombuffer(bytes(4096), np.uint8), ValueError, "reserve: expected a writeable array"),
    ],
)
def test_bad_reserves(wrong: Any, kind: Any, sentence: str) -> None:
    plan = _core.Plan("gru", "float32", 3, 4, kernel="cpu_scalar")
    packed = plan.pack(*(np.zeros(s, np.float32) for s in ((12, 3), (12, 4), (12,), (12,))))
    x, y = np.zeros((1, 1, 3), np.float32), np.full((1, 1, 4), 7, np.float32)
    with pytest.raises(kind, match=sentence):
        plan.forward(packed, x, None, None, y, None, None, None, wrong)
    assert (y == 7).all()
