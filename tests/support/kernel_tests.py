"""What holds of any kernel, on the CPU or on a device: tests that kernels/test_plain.py and cuda/test_kernels.py both
import, each with its own fixture ``kernel``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from judging import equal, judge
from problems import Array, Problem, eps, expand, make, make_integers, np_dtype, state_dtype
from runner import Output, backward, cell_units, forward, gradients_of, pack, plan_of, run, same_bits

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
