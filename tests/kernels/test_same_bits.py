"""The promise "same bits, CPU": same build, kernel and dtype, then y, the states, dx and dstate of a row do not
depend on the thread count, on the other rows, on feeding the sequence whole or in pieces, or on whether a tape is
kept; parameters' gradients do not depend on the thread count. Nothing here has a tolerance.
"""

from __future__ import annotations

import ctypes
import itertools
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from problems import Array, Data, Problem, eps, expand, lay_out, make, parse
from rnnkern import _core, reference
from runner import Output, backward, forward, pack, plan_of, run, same_bits

pytestmark = pytest.mark.whole

SetThreads = Callable[[int], None]
PER_ROW = ("y", "h_n", "c_n", "dx", "dh_0", "dc_0")

# Large enough that a team has something to share out, by rows and by units; odd enough to have tails.
_SHARED = (
    "t5b13i33h65 state lengths",
    "t4b1i40h160 state",
    "t6b70i9h24 state reverse",
    "t40b3i5h17 state lengths",  # several blocks of time
)
SHARED = expand(_SHARED, dtypes=["f32"]) + expand(_SHARED[:2], dtypes=["f64", "bf16", "f16"])


@pytest.mark.parametrize("problem", SHARED, ids=str)
def test_thread_counts(kernel: str, problem: Problem, set_threads: SetThreads) -> None:
    """1, 2, 3, 4, 7, 16 and 64 threads: every output and every gradient, the parameters' too."""
    plan, data = plan_of(problem, kernel), make(problem)
    set_threads(1)
    alone = run(problem, plan, data)
    for threads in (2, 3, 4, 7, 16, 64):
        set_threads(threads)
        assert _core.get_num_threads() == threads
        same_bits(run(problem, plan, data), alone, f"{threads} threads")


@pytest.mark.parametrize("problem", SHARED, ids=str)
def test_rows_keep_their_bits_in_any_company(kernel: str, problem: Problem) -> None:
    """A row alone, in other batches, in another order and beside rows of other lengths."""
    plan, data = plan_of(problem, kernel), make(problem)
    together = run(problem, plan, data)
    B = problem.batch
    companies = [
        [0],
        [B - 1],
        list(range(B))[::-1],
        list(range(0, B, 2)),
        list(range(min(B, 6))),
        [0] * 3 + [B - 1] * 2,
    ]
    for rows in companies:
        apart = run(problem, plan, data.rows(rows))
        same_bits(pick(apart, slice(None)), pick(together, rows), f"rows {rows} of {B}")


@pytest.mark.parametrize("problem", expand(["t2b20i5h40 state"], dtypes=["f32"]), ids=str)
def test_rows_keep_their_bits_in_tiles_of_every_height(kernel: str, problem: Problem) -> None:
    """Kernels deal rows out to tiles of different heights, widths and sweeps: batches of 1 to 19 rows meet them all."""
    plan, data = plan_of(problem, kernel), make(problem)
    together = run(problem, plan, data)
    for count in range(1, problem.batch):
        rows = list(range(count))
        same_bits(pick(run(problem, plan, data.rows(rows)), slice(None)), pick(together, rows), f"{count} rows")


@pytest.mark.parametrize("problem", expand(["t7b5i9h17 state lengths"]), ids=str)
def test_padding_does_not_change_a_row(kernel: str, problem: Problem) -> None:
    """A row of length n in a longer batch has the bits of that row alone with T = n."""
    plan, data = plan_of(problem, kernel), make(problem)
    assert data.lengths is not None
    together = run(problem, plan, data)
    for b, end in enumerate(data.lengths):
        alone = run(problem, plan, replace(data.rows([b]).steps(0, end), lengths=None))
        wanted = pick(together, [b])
        for name in ("y", "dx"):
            wanted[name] = wanted[name][:end]
        same_bits(pick(alone, slice(None)), wanted, f"row {b} of length {end}")


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5, 6), (2, 2, 5)], ids=str)
@pytest.mark.parametrize(
    "problem", expand(["t7b5i9h17 state", "t7b5i9h17 lengths reverse", "t7b1i3h33 state lengths"]), ids=str
)
def test_pieces(kernel: str, problem: Problem, cuts: tuple[int, ...]) -> None:
    """The sequence cut at ``cuts``, an empty piece among them, states handed on and gradients of states handed back."""
    plan, data = plan_of(problem, kernel), make(problem)
    in_pieces(problem, plan, data, cuts)


@pytest.mark.parametrize(
    "problem", expand(["t150b3i4h8 state", "t150b2i5h9 state lengths reverse"], dtypes=["f32", "bf16"]), ids=str
)
def test_pieces_of_a_long_sequence(kernel: str, problem: Problem) -> None:
    """Kernels block the input product and the sums over time; the cuts fall beside any block's edge."""
    in_pieces(problem, plan_of(problem, kernel), make(problem), (1, 17, 63, 128, 149))


def pick(results: dict[str, Array], rows: list[int] | slice) -> dict[str, Array]:
    """The results that belong to rows, for these rows."""
    return {
        name: value[:, rows] if value.ndim == 3 else value[rows] for name, value in results.items() if name in PER_ROW
    }


def in_pieces(problem: Problem, plan: object, data: Data, cuts: tuple[int, ...]) -> None:
    whole = run(problem, plan, data)
    packed = pack(plan, data)
    edges = [0, *cuts, problem.seq_len]
    spans = list(itertools.pairwise(edges))
    if problem.has("reverse"):  # it starts in the last piece; a row that ends before a piece passes its state through
        spans.reverse()
    done: list[tuple[Data, dict[str, Array], object]] = []
    h, c = data.h_0, data.c_0
    for start, stop in spans:
        piece = replace(data.steps(start, stop), h_0=h, c_0=c)
        results, reserve = forward(problem, plan, packed, piece)
        h, c = results["h_n"][None], results["c_n"][None] if "c_n" in results else None
        done.append((piece, results, reserve))
    got: dict[str, Array] = {name: done[-1][1][name] for name in ("h_n", "c_n") if name in whole}
    order = -1 if problem.has("reverse") else 1  # from the order the pieces ran in to the order of time
    got["y"] = np.concatenate([results["y"] for _, results, _ in done][::order])

    dh, dc, dx = data.dh_n, data.dc_n, []
    wanted = tuple(name for name in ("dx", "dh_0", "dc_0") if name in whole)
    for piece, results, reserve in reversed(done):
        grads = backward(problem, plan, packed, replace(piece, dh_n=dh, dc_n=dc), results["y"], reserve, wanted)
        dh, dc = grads["dh_0"][None], grads["dc_0"][None] if "dc_0" in grads else None
        dx.append(grads["dx"])
    got |= {name: grads[name] for name in wanted} | {"dx": np.concatenate(dx[::-1][::order])}
    same_bits(got, {name: whole[name] for name in got}, f"cut at {cuts}")


@pytest.mark.parametrize("problem", SHARED, ids=str)
def test_keeping_a_tape_changes_nothing(kernel: str, problem: Problem) -> None:
    """Inference and training forward, also with weights packed for inference alone."""
    plan, data = plan_of(problem, kernel), make(problem)
    kept, _ = forward(problem, plan, pack(plan, data), data, keep=True)
    for for_backward in (True, False):
        free, _ = forward(problem, plan, pack(plan, data, backward=for_backward), data, keep=False)
        same_bits(free, kept, f"no tape, packed with backward={for_backward}")


@pytest.mark.parametrize("problem", SHARED, ids=str)
def test_backward_twice(kernel: str, problem: Problem) -> None:
    """Backward does not use up what it reads, and another backward in between does not disturb it."""
    plan, data, other = plan_of(problem, kernel), make(problem), make(problem, draw=1)
    packed = pack(plan, data)
    results, reserve = forward(problem, plan, packed, data)
    first = backward(problem, plan, packed, data, results["y"], reserve)
    run(problem, plan, other)
    same_bits(backward(problem, plan, packed, data, results["y"], reserve), first, "the second backward")


@pytest.mark.parametrize("problem", expand(["t5b6i9h17 state lengths"]), ids=str)
def test_layouts_are_the_same(kernel: str, problem: Problem) -> None:
    """Where things lie in memory is not part of the sum: strided and batch-first arrays give the bits of plain ones."""
    plan, data = plan_of(problem, kernel), make(problem)
    plain = run(problem, plan, data)
    for layout in ("strided", "batch_first"):
        flagged = replace(problem, flags=problem.flags | {layout})  # the outputs' layout follows the flag
        moved = replace(data, x=lay_out(data.x, layout), dy=lay_out(data.dy, layout))
        same_bits(run(flagged, plan, moved), plain, layout)
    backwards = replace(data, x=np.ascontiguousarray(data.x[::-1])[::-1])
    assert backwards.x.strides[0] < 0
    same_bits(run(problem, plan, backwards), plain, "a negative stride")


# --- dropout ------------------------------------------------------------

_DROPOUT = (
    "linear t5b7i1h33 f32",
    "linear t5b7i1h33 f64 lengths",
    "linear t5b7i1h33 bf16 strided",
    "linear t3b2i1h200 f16 batch_first",
    "linear t1b1i1h1 f32",
)


@pytest.mark.parametrize("problem", [parse(text) for text in _DROPOUT], ids=str)
def test_dropout_is_the_reference_mask(problem: Problem, set_threads: SetThreads) -> None:
    """The mask is Philox's whatever the thread count, the layout, or whether it is done in place."""
    data = make(problem)
    x = data.dy  # [T, B, H]
    layout = "strided" if problem.has("strided") else "batch_first" if problem.has("batch_first") else "plain"
    for p, seed, call, stream in ((0.3, (3 << 32) | 17, 5, 2), (0.5, 2**64 - 1, 2**32 - 1, 0), (0.999, 0, 0, 1)):
        kept = reference.dropout_kept(x.shape, p, seed, call, stream)
        if data.lengths is not None:
            kept &= (np.arange(problem.seq_len)[:, None] < data.lengths)[..., None]
        bits: dict[str, Array] = {}
        for threads in (1, 2, 3, 4, 7):
            set_threads(threads)
            out = Output(x.shape, x.dtype, layout)
            _core.dropout(x, out.array, p, (seed, call, stream), lengths=data.lengths)
            out.check("out")
            bits = bits or {"out": out.array}
            same_bits({"out": out.array}, bits, f"p={p}, {threads} threads")
        got = bits["out"].astype(np.float64)
        assert np.array_equal(got != 0, kept & (np.asarray(x) != 0)), f"p={p}: another mask"
        wanted = np.where(kept, x.astype(np.float64) / (1 - p), 0)
        # The factor, the product and the store may each round once: three half eps.
        assert (np.abs(got - wanted) <= 1.5 * eps(problem) * np.abs(wanted)).all()
        place = Output(x.shape, x.dtype, layout)
        place.array[...] = x
        _core.dropout(place.array, place.array, p, (seed, call, stream), lengths=data.lengths)
        place.check("in place")
        same_bits({"out": place.array}, bits, f"p={p}, in place")


def test_dropout_of_nothing_and_everything() -> None:
    x = np.array([[[1.0, -2.0, np.nan]]], np.float32)
    out = np.full_like(x, 7)
    _core.dropout(x, out, 0.0, (1, 2, 3))
    assert out.tobytes() == x.tobytes()
    _core.dropout(x, out, 1.0, (1, 2, 3))
    assert not out.any(), "a dropped NaN is 0: masks select"


# --- the caller's floating-point modes ------------------------------------------------------------

# <fenv.h>, by machine: downward, upward, toward zero; to nearest is 0 on both.
_ROUNDING = {
    "x86_64": {"down": 0x400, "up": 0x800, "zero": 0xC00},
    "aarch64": {"down": 0x800000, "up": 0x400000, "zero": 0xC00000},
}[{"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())]
_FENV = [f"t5b13i33h65 {flags}" for flags in ("state lengths", "nobias")]


@contextmanager
def rounding(mode: int) -> Iterator[ctypes.CDLL]:
    """This thread rounds that way; what a kernel's own threads inherit is the point of the test."""
    libm = ctypes.CDLL("libm.so.6")
    assert libm.fesetround(mode) == 0
    try:
        yield libm
    finally:
        libm.fesetround(0)


@pytest.mark.parametrize("mode", _ROUNDING)
@pytest.mark.parametrize("problem", expand(_FENV, dtypes=["f32", "f64", "bf16"]), ids=str)
def test_rounding_mode(kernel: str, problem: Problem, mode: str, set_threads: SetThreads) -> None:
    """A caller who rounds upward gets the same bits, from packing to the last gradient, and his mode back."""
    plan, data = plan_of(problem, kernel), make(problem)
    wanted = run(problem, plan, data)
    with rounding(_ROUNDING[mode]) as libm:
        set_threads(1)
        set_threads(3)  # the team is born in this mode
        got = run(problem, plan, data)
        after = libm.fegetround()
    assert after == _ROUNDING[mode]
    same_bits(got, wanted, f"rounding {mode}")
    set_threads(1)
    set_threads(2)


def flushes() -> bool:
    """Whether this thread turns subnormal results into zero."""
    return not bool((np.full(4, 1.5e-38, np.float32) * np.float32(0.25)).any())


@pytest.mark.parametrize("problem", expand(["t4b13i9h65 nobias"], dtypes=["f32", "f64", "bf16"]), ids=str)
def test_flush_mode(kernel: str, problem: Problem, set_threads: SetThreads) -> None:
    """On subnormal numbers: the same bits whether the caller flushes them to zero or not, and his mode back."""
    plan, made = plan_of(problem, kernel), make(problem)
    tiny = 1e-308 if problem.dtype == "float64" else 1e-38

    def small(a: Array) -> Array:
        return (a.astype(np.float64) * tiny).astype(a.dtype)

    dc_n = None if made.dc_n is None else small(made.dc_n)
    data = replace(made, x=small(made.x), dy=small(made.dy), dh_n=small(made.dh_n), dc_n=dc_n)
    set_threads(2)
    wanted = run(problem, plan, data)
    assert not flushes()
    try:
        assert torch.set_flush_denormal(True) and flushes()
        set_threads(3)
        got = run(problem, plan, data)
        assert flushes(), "the caller's flush mode was not given back"
    finally:
        torch.set_flush_denormal(False)
    same_bits(got, wanted, "flushing subnormals")
