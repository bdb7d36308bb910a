"""The data and the lists of the tests' problems; rnnkern.problems, shared with the benchmark, parses their strings.

    data = make(parse("lstm t7b3i5h8 f32 state lengths"))

Data are deterministic in (problem, draw), read-only, and laid out as the flags say: with gaps for ``strided``, with
batch outermost in memory for ``batch_first`` (still indexed [T, B, ...], which is what kernels see).
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from rnnkern import _core, reference
from rnnkern.problems import Problem, parse

Array = np.ndarray[Any, Any]

CELLS = {name: (gates, states) for name, gates, states, *_ in _core.cells()}
DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
HALF = ("bfloat16", "float16")


def np_dtype(problem: Problem) -> np.dtype[Any]:
    return np.dtype(DTYPES[problem.dtype])


def state_dtype(problem: Problem) -> np.dtype[Any]:
    """The dtype of c and of every gradient of a state: float32 where the problem's dtype is only for storage."""
    return np.dtype(np.float32) if problem.dtype in HALF else np_dtype(problem)


def eps(problem: Problem) -> float:
    """Distance from 1 to the next number of the problem's dtype."""
    return float(ml_dtypes.finfo(np_dtype(problem)).eps)


@dataclass(frozen=True)
class Data:
    """Every input of a training step. Half types: c_0, dh_n, dc_n are float32 arrays of values the half type can
    hold."""

    params: dict[str, Array]  # PyTorch's names
    x: Array  # [T, B, I]
    h_0: Array | None  # [L*D, B, H]
    c_0: Array | None
    lengths: Array | None  # int64 [B]
    dy: Array  # [T, B, D*H]
    dh_n: Array  # [L*D, B, H]
    dc_n: Array | None

    def first(self, name: str) -> Array | None:
        """h_0, c_0, dh_n or dc_n [B, H] of the first layer and direction: what a kernel sees of it."""
        states: Array | None = getattr(self, name)
        return None if states is None else states[0]

    def rows(self, rows: list[int]) -> Data:
        """The same problem for these rows alone."""

        def pick(a: Array | None) -> Array | None:
            return None if a is None else a[:, rows]

        lengths = None if self.lengths is None else np.ascontiguousarray(self.lengths[rows])
        return Data(
            self.params,
            self.x[:, rows],
            pick(self.h_0),
            pick(self.c_0),
            lengths,
            self.dy[:, rows],
            self.dh_n[:, rows],
            pick(self.dc_n),
        )

    def steps(self, start: int, stop: int) -> Data:
        """The piece of the sequence from step ``start`` to before ``stop``; the states are left to the caller."""
        lengths = None if self.lengths is None else np.clip(self.lengths - start, 0, stop - start)
        return replace(self, x=self.x[start:stop], dy=self.dy[start:stop], lengths=lengths)


def make(problem: Problem, draw: int = 0) -> Data:
    """Weights uniform in +-1/sqrt(H) as torch.nn initialises them, everything else standard normal."""
    rng = np.random.default_rng([zlib.crc32(str(problem).encode()), draw])
    dtype, bound = np_dtype(problem), problem.hidden_size**-0.5
    data = _assemble(
        problem,
        rng,
        lambda shape: rng.uniform(-bound, bound, shape).astype(dtype),
        lambda shape: rng.standard_normal(shape),
    )
    return _smooth(problem, data) if problem.cell == "slstm" else data


def smooth_slstm(c_0: Array | None, dc_n: Array | None, c_n: Array | None, H: int) -> None:
    """Makes n_0, in c_0 [..., 3*H], a sum of exponentials; and with c_n, the judge's, dm_n what rounding cannot turn.

    sLSTM's m is a maximum, so that c n m of the last step have kinks, on whose other side rounding may put a kernel.
    c exp(m) and n exp(m) have none: dm_n becomes what a loss of these gives.
    """
    if c_0 is not None:
        c_0[..., H : 2 * H] = np.abs(c_0[..., H : 2 * H]) + c_0.dtype.type(0.5)
    if dc_n is not None and c_n is not None:
        dc_n[..., 2 * H :] = dc_n[..., :H] * c_n[..., :H] + dc_n[..., H : 2 * H] * c_n[..., H : 2 * H]


# How far rounding moves a pre-activation, and more: a kink nearer than that may be crossed.
KINK = {"float32": 1e-5, "float64": 1e-13, "bfloat16": np.inf, "float16": np.inf}


def _smooth(problem: Problem, data: Data) -> Data:
    params = {name.removesuffix("_l0"): value.astype(np.float64) for name, value in data.params.items()}
    states = (data.first("h_0"), data.first("c_0"))
    _, _, c_n, saved = reference.layer("slstm", params, data.x, *states, data.lengths, problem.has("reverse"))
    assert data.dc_n is not None
    if reference.nearest_kink(saved) > KINK[problem.dtype]:
        return data
    dc_n = data.dc_n.copy()
    smooth_slstm(None, dc_n[0], c_n, problem.hidden_size)
    return replace(data, dc_n=lay_out(dc_n, "strided" if problem.has("strided") else "plain"))


def make_integers(problem: Problem, draw: int = 0) -> Data:
    """Small integers for the linear cell: at most two +-1 in each row of W, one in each row of R, sparse x and dy.

    So every product and sum is exact in float32 whatever its order; ``exact_limit`` of the test says what still fits.
    """
    rng = np.random.default_rng([zlib.crc32(str(problem).encode()), draw])
    dtype = np_dtype(problem)

    def weight(shape: tuple[int, ...]) -> Array:
        w = np.zeros(shape)
        if len(shape) == 1:  # a bias
            return rng.integers(-1, 2, shape).astype(dtype)
        for row in w:
            row[rng.integers(0, shape[1], 1 if shape[0] == shape[1] else 2)] = rng.choice([-1, 1])
        return w.astype(dtype)

    def sparse(shape: tuple[int, ...]) -> Array:
        return rng.choice([-1.0, 0, 0, 1], shape)

    return _assemble(problem, rng, weight, sparse)


def _assemble(problem: Problem, rng: np.random.Generator, weight: Any, normal: Any) -> Data:
    gates, states = CELLS[problem.cell]
    T, B, H, D = problem.seq_len, problem.batch, problem.hidden_size, problem.directions
    dtype, wide = np_dtype(problem), state_dtype(problem)
    params: dict[str, Array] = {}
    for k, inputs in enumerate(problem.layer_inputs):
        for end in (f"_l{k}", f"_l{k}_reverse")[:D]:
            params[f"weight_ih{end}"] = weight((gates * H, inputs))
            params[f"weight_hh{end}"] = weight((gates * H, H))
            if not problem.has("nobias"):
                params[f"bias_ih{end}"], params[f"bias_hh{end}"] = weight((gates * H,)), weight((gates * H,))
    layout = "strided" if problem.has("strided") else "batch_first" if problem.has("batch_first") else "plain"
    L = problem.num_layers * D

    def state(kind: np.dtype[Any], parts: int = 1) -> Array:
        whole = normal((L, B, parts * H))
        return lay_out(whole.astype(dtype).astype(kind), "strided" if layout == "strided" else "plain")

    def cell_state() -> Array | None:
        c = state(wide, states - 1) if states > 1 else None
        if c is not None and states > 2:
            c.flags.writeable = True
            smooth_slstm(c, None, None, H)
            c.flags.writeable = False
        return c

    lengths = None
    if problem.has("lengths"):
        lengths = rng.integers(0, T + 1, B)
        lengths[:1] = T  # the ends of the range are always there
        lengths[1:][-1:] = 0
    given = problem.has("state")
    return Data(
        params={name: _frozen(value) for name, value in params.items()},
        x=lay_out(normal((T, B, problem.input_size)).astype(dtype), layout),
        h_0=state(dtype) if given else None,
        c_0=cell_state() if given else None,
        lengths=lengths,
        dy=lay_out(normal((T, B, D * H)).astype(dtype), layout),
        dh_n=state(wide),
        dc_n=state(wide, states - 1) if states > 1 else None,
    )


def lay_out(array: Array, layout: str) -> Array:
    """A read-only view equal to ``array`` [.., .., K]: plain, with gaps (strided), or second axis outermost."""
    if layout == "strided":
        base = np.full((*array.shape[:-1], 2 * array.shape[-1] + 1), np.nan, array.dtype)
        base[..., 1::2] = array
        return _frozen(base[..., 1::2])
    if layout == "batch_first":
        return _frozen(np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1))
    return _frozen(np.ascontiguousarray(array))


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array


# --- the lists ------------------------------------------------------------

# Sizes below, at and one past the vector widths (4 to 32 lanes over all ISAs and dtypes) and the tiles built of them.
_HIDDEN = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65)
_BATCH = (1, 2, 3, 5, 6, 7, 13, 16, 17)
_INPUT = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)
_STEPS = (1, 2, 3, 7)
_FLAGS = (
    "state",
    "state lengths",
    "state reverse",
    "lengths reverse",
    "nobias",
    "state strided",
    "state lengths batch_first",
)
_LARGER = (
    "t3b33i64h128 state",  # several tiles in every direction
    "t2b70i17h96 state lengths",
    "t70b3i4h9 lengths reverse",  # several blocks of time
    "t3b1i40h200 state",  # one row: split by units or not at all
    "t4b3i70h1 state lengths",
    "t150b4i5h9 state lengths",  # more rows than one chain of a weight's gradient has: over time,
    "t2b600i5h9 state",  # and in one step
)


def _shapes() -> Iterable[str]:
    """Each hidden size twice; the other sizes and the flags go round with periods that share no factor."""
    for n, h in enumerate(h for h in _HIDDEN for _ in range(2)):
        b, i, t, flags = (around[n % len(around)] for around in (_BATCH, _INPUT, _STEPS, _FLAGS))
        yield f"t{t}b{b}i{i}h{h} {flags}"


_QUICK = (
    "t7b3i5h8 state",
    "t3b2i4h17 state lengths",
    "t5b5i3h9 lengths reverse",
    "t2b7i9h16 nobias",
    "t3b6i1h7 state strided",
    "t4b4i17h33 state lengths batch_first",
    "t1b1i1h1 state",
)


def expand(
    shapes: Iterable[str], cells: Iterable[str] = tuple(CELLS), dtypes: Iterable[str] = ("f32", "f64", "bf16", "f16")
) -> list[Problem]:
    """Every shape ("t7b3i5h8 state") with every cell and dtype."""
    return [
        parse(" ".join([cell, sizes, dtype, *flags]))
        for (sizes, *flags), cell, dtype in itertools.product([shape.split() for shape in shapes], cells, dtypes)
    ]


QUICK: tuple[Problem, ...] = tuple(expand(_QUICK))
FULL: tuple[Problem, ...] = tuple(dict.fromkeys(expand((*_QUICK, *_shapes(), *_LARGER))))
