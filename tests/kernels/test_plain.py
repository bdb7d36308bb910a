"""Every kernel x cell x dtype x problem, straight on a plan, against the judge; the linear cell for equality.

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

from judging import allowed, close, draws, inactive_is_zero, judge, truth
from kernel_tests import (  # noqa: F401  (collected here, with the fixture `kernel` of CPU kernels)
    test_absent_inputs_are_zeros,
    test_any_subset_of_gradients,
    test_half_states_of_either_dtype,
    test_linear_is_exact,
    test_nothing_to_do,
    test_padding_never_matters,
    test_sums_are_at_least_float32,
)
from one_layer import HostPlan
from problems import CELLS, DTYPES, FULL, QUICK, Problem, expand, lay_out, make
from rnnkern import _core, reference
from runner import KERNELS, UNAVAILABLE, Kept, dtype_of, gradients_of, plan_of, run, same_bits, takes

pytestmark = pytest.mark.whole


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``kernel_and_problem``: problems in the outer loop, so that a problem is judged once for all kernels."""
    if "kernel_and_problem" in metafunc.fixturenames:
        quick = set(QUICK)
        pairs = [(k, p) for p in FULL for k in KERNELS if p in quick or k != "cpu_scalar"]
        metafunc.parametrize("kernel_and_problem", pairs, ids=[f"{k}: {p}" for k, p in pairs])


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


def test_lists_name_every_cell_and_dtype() -> None:
    """A cell that enters cells.inc is tested without a line here, and no cell lacks a judge."""
    assert set(CELLS) <= set(reference.CELLS)
    everything = {(cell, dtype) for cell in CELLS for dtype in DTYPES}
    assert {(p.cell, p.dtype) for p in QUICK} == {(p.cell, p.dtype) for p in FULL} == everything


def test_an_infinite_state_leaves_padding_units_out_of_the_gradients(kernel: str) -> None:
    """H = 17 pads every vector but the one-lane one. An infinite h saturates the gates, whose gradients are then plain
    zeros; in the padding its product with the zero weights there is NaN, which must not reach the sums over units.
    """
    rng = np.random.default_rng(5)
    steps, rows, inputs, units = 2, 3, 4, 17
    dtype = DTYPES[dtype_of(kernel)]
    plan = HostPlan("lstm", dtype_of(kernel), inputs, units, kernel=kernel)
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
        for dtype in (dtype for dtype in DTYPES if takes(kernel, dtype)):
            assert plan_of(Problem(cell, 1, 1, 3, 4, dtype=dtype), kernel).kernel == kernel, f"{cell} {dtype}"


def test_scalar_kernel_declines_nothing() -> None:
    """It is what is always there: no machine lacks it and no plain problem is beyond it."""
    assert UNAVAILABLE["cpu_scalar"] == ""
    for cell in CELLS:
        for dtype in DTYPES:
            for bias in (True, False):
                for reverse in (True, False):
                    plan = HostPlan(cell, dtype, 5, 7, bias=bias, reverse=reverse, kernel="cpu_scalar")
                    assert plan.kernel == "cpu_scalar"


def test_free_choice_is_the_smallest_estimate() -> None:
    """Without a name the kernel that runs does not decline, and explain() estimates none faster both ways."""
    if os.environ.get("RNNKERN_KERNEL"):
        pytest.skip("RNNKERN_KERNEL is set: there is no free choice")
    plan = HostPlan("lstm", "float32", 64, 64)
    assert plan.kernel in KERNELS and not UNAVAILABLE[plan.kernel]
    verdicts = {v["name"]: v for v in _core.explain("lstm", "float32", (64, 64), (100, 16))}
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
    code = f"from rnnkern import _core; print(*_core.Plan('gru', '{dtype_of(kernel)}', 3, 4).kernels)"
    env = os.environ | {"RNNKERN_KERNEL": kernel}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kernel


def test_forced_kernel_is_never_replaced() -> None:
    with pytest.raises(ValueError, match="no_such_kernel"):
        HostPlan("gru", "float32", 3, 4, kernel="no_such_kernel")
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
    packed = HostPlan("gru", "float32", 3, 4, kernel="cpu_scalar").pack(*zeros)
    other = HostPlan("gru", "float32", 4, 4, kernel="cpu_scalar")
    x, y = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 4), np.float32)
    with pytest.raises(
        ValueError, match=r"packed: expected weights packed for float32 gru of 4 inputs .* got .* 3 inputs"
    ):
        other.forward(packed, x, None, None, y, None, None)
    with pytest.raises(ValueError, match="packed: expected weights packed for"):
        _core.Stepper(other.plan, packed, 1)


def test_half_a_pack_is_refused_where_it_is_of_no_use() -> None:
    plan = HostPlan("gru", "float32", 3, 4, kernel="cpu_scalar")
    zeros = [np.zeros(s, np.float32) for s in ((12, 3), (12, 4), (12,), (12,))]
    x, y = np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 4), np.float32)
    reserve = Kept(plan.sizes(1, 1)["reserve"]).array
    forward, backward = plan.pack(*zeros, backward=False), plan.pack(*zeros, forward=False)
    assert (forward.forward, forward.backward, backward.forward, backward.backward) == (True, False, False, True)
    with pytest.raises(ValueError, match="packed: expected weights packed with forward=True"):
        plan.forward(backward, x, None, None, y, None, None)
    with pytest.raises(ValueError, match="packed: expected weights packed with forward=True"):
        _core.Stepper(plan.plan, backward, 1)
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
    plan = HostPlan("gru", "float32", 3, 4, kernel="cpu_scalar")
    packed = plan.pack(*(np.zeros(s, np.float32) for s in ((12, 3), (12, 4), (12,), (12,))))
    x, y = np.zeros((1, 1, 3), np.float32), np.full((1, 1, 4), 7, np.float32)
    with pytest.raises(kind, match=sentence):
        plan.forward(packed, x, None, None, y, None, None, None, wrong)
    assert (y == 7).all()


class OfAnotherLibrary:
    """An array that comes by DLPack alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy exports read-only arrays from 2.1 on")
def test_a_read_only_output_of_another_library_is_refused() -> None:
    """DLPack says of an array whether it may be written to."""
    plan = HostPlan("gru", "float32", 3, 4, kernel="cpu_scalar")
    packed = plan.pack(*(np.ones(s, np.float32) for s in ((12, 3), (12, 4), (12,), (12,))))
    x, y = np.ones((1, 1, 3), np.float32), np.zeros((1, 1, 4), np.float32)
    plan.forward(packed, OfAnotherLibrary(x), None, None, OfAnotherLibrary(y), None, None)
    assert y.any()
    kept = y.copy()
    x.flags.writeable = y.flags.writeable = False  # of an input that is fine
    with pytest.raises(ValueError, match=r"y: .*read-only"):
        plan.forward(packed, OfAnotherLibrary(x), None, None, OfAnotherLibrary(y), None, None)
    assert np.array_equal(y, kept)
