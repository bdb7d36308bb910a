"""The arrays of a problem, the same for every contender, and what a contender is asked to do with them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from rnnkern._engine.spec import Spec
from rnnkern.problems import Problem

MODES: Final = ("inference", "training")

# Flags of problems.FLAGS that the benchmark understands; the others are about interfaces, not about speed.
FLAGS: Final = frozenset({"lengths", "state", "nobias"})

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Data:
    """Inputs in the problem's dtype. Nobody may write to them."""

    x: Array  # [T, B, I]
    h_0: Array | None  # [L*D, B, H] with the flag "state"
    c_0: Array | None  # [L*D, B, C] float32 for half types; of cells with more states than h, those side by side
    lengths: Array | None  # [B] int64, 1..T, at least one of them T, with the flag "lengths"
    params: dict[str, Array]  # torch's names, shapes and gate order
    dy: Array  # [T, B, D*H] the gradient that a training step starts from; zero past each row's length


@dataclass(frozen=True)
class Run:
    """A problem made ready by a contender.

    call: the timed call; does all the work of the mode and returns something that `outputs` understands.
    outputs: what the last result of `call` says, as NumPy arrays: "y" [T, B, D*H] (zero past each row's length),
        "h_n" [L*D, B, H] and, for LSTM, "c_n"; in training also "dx" and "d" + the name of every parameter.
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], dict[str, Array]]


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        half: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return half
    return np.dtype(name)


@cache
def cells() -> dict[str, tuple[int, int]]:
    """Name -> (gates, states) of the compiled cells: the library's own list."""
    from rnnkern import _core

    return {name: (gates, states) for name, gates, states, *_ in _core.cells()}


def refusal(problem: Problem) -> str:
    """Why the benchmark cannot run this problem, or ""."""
    if problem.cell not in cells():
        return f"this build has the cells {', '.join(cells())}, got {problem.cell!r}"
    if strange := sorted(problem.flags - FLAGS):
        return f"the benchmark knows the flags {', '.join(sorted(FLAGS))}, got {', '.join(strange)}"
    if problem.seq_len < 1 or problem.batch < 1:
        return f"there is nothing to time with t{problem.seq_len} b{problem.batch}"
    return ""


def suffixes(problem: Problem) -> list[str]:
    """[L*D] the endings of torch's parameter names, in the order of its states."""
    return [f"_l{layer}{'_reverse' * d}" for layer in range(problem.num_layers) for d in range(problem.directions)]


def make(problem: Problem) -> Data:
    """Seeded by the problem's own text: the same arrays in every run and on every machine."""
    rng = np.random.default_rng(zlib.crc32(str(problem).encode()))
    dtype = numpy_dtype(problem.dtype)
    hidden, batch, steps = problem.hidden_size, problem.batch, problem.seq_len
    state_count = cells()[problem.cell][1]
    bound = hidden**-0.5  # torch's initial range

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    spec = Spec(
        problem.cell,
        problem.dtype,
        problem.input_size,
        hidden,
        problem.num_layers,
        not problem.has("nobias"),
        problem.directions == 2,
    )
    shapes = spec.param_shapes
    params = {name: rng.uniform(-bound, bound, shape).astype(dtype) for name, shape in shapes.items()}
    lengths = None
    if problem.has("lengths"):
        lengths = rng.integers(1, steps, batch, dtype=np.int64, endpoint=True)
        lengths[rng.integers(batch)] = steps
    states = (problem.num_layers * problem.directions, batch, hidden)
    h_0 = normal(*states) if problem.has("state") else None
    c_0 = normal(*states[:2], (state_count - 1) * hidden) if problem.has("state") and state_count > 1 else None
    if c_0 is not None and state_count > 2:  # sLSTM's n is a sum of exponentials
        c_0[..., hidden : 2 * hidden] = np.exp(c_0[..., hidden : 2 * hidden].astype(np.float64)).astype(dtype)
    if c_0 is not None and dtype.itemsize == 2:
        c_0 = c_0.astype(np.float32)
    dy = normal(steps, batch, problem.directions * hidden)
    if lengths is not None:
        dy[np.arange(steps)[:, None] >= lengths] = 0
    return Data(normal(steps, batch, problem.input_size), h_0, c_0, lengths, params, dy)


def flops(problem: Problem, data: Data) -> tuple[float, float]:
    """(input product, recurrent product) of one inference call; a multiply-add counts as 2. Padding costs nothing.

    2 * T * B * G*H * I and 2 * T * B * G*H * H for one layer and direction. A training step has three products for each
    of these: forward, the gradient of the operand and the gradient of the weights.
    """
    rows = float(problem.seq_len * problem.batch if data.lengths is None else data.lengths.sum())
    per_row = 2.0 * cells()[problem.cell][0] * problem.hidden_size * problem.directions
    recurrent = rows * per_row * problem.hidden_size * problem.num_layers
    return rows * per_row * sum(problem.layer_inputs), recurrent
