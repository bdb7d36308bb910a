"""Random problems without end: every option, dtype and kernel, sizes, strides, threads, forks and calls at once.

    python -m tests.soak --minutes 30 --seed 1      # until the time is over; 0: for ever
    python -m tests.soak --seed 1 --only 4711       # one problem again, as the line of a failure says

A problem is drawn from (seed, number) alone. A single layer in one direction runs on a drawn kernel with every option
of tests/support/option_cases.py; a stack of layers runs as users call it. Both are compared with rnnkern.reference, and
their bits with those of a call on another number of threads, of calls at once, of a forked child or of arrays with
other strides. The exit status is 1 if there was a failure.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "support"))

import layer_cases
import option_cases
import option_runs
import rnnkern as rk
from option_cases import Case, allowed_together, make_case, values_of
from problems import DTYPES, HALF, Array, lay_out
from rnnkern import _core

KERNELS = [kernel.name for kernel in rk.kernels() if not kernel.unavailable and not kernel.weights]
# Sizes: mostly small, sometimes past the vectors, tiles and blocks of every kernel.
SMALL, WIDE = (1, 2, 3, 4, 5, 7, 8, 9), (15, 16, 17, 31, 33, 48, 63, 65, 96, 129)
Results = dict[str, Array]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one problem")
    given = parser.parse_args()
    if given.only is not None:
        print(check(given.seed, given.only))
        return 0
    until = time.monotonic() + (60 * given.minutes or float("inf"))
    done, failed, number = Counter[str](), 0, 0
    np.seterr(all="ignore")  # the reference's own, where a problem grows beyond bounds
    while time.monotonic() < until:
        try:
            done[check(given.seed, number).split()[0]] += 1
        except Exception as error:
            failed += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            print(f"python -m tests.soak --seed {given.seed} --only {number}  # {last.name}: {said}", flush=True)
        number += 1
    print(f"{number} problems ({', '.join(f'{n} {kind}' for kind, n in sorted(done.items()))}), {failed} failed")
    return 1 if failed else 0


def check(seed: int, number: int) -> str:
    """One problem: what it was, or an exception."""
    rng = np.random.default_rng([seed, number])
    _core.set_num_threads(int(rng.integers(1, 5)))
    return a_stack(rng) if rng.random() < 0.15 else a_layer(rng, number)


def pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def size(rng: np.random.Generator, wide: float = 0.2) -> int:
    return int(pick(rng, WIDE if rng.random() < wide else SMALL))


# A layer on a kernel ------------------------------------------------------------------------------------------------


def draw_case(rng: np.random.Generator) -> Case:
    cell = str(pick(rng, ("lstm", "lstm", "gru", "gru", "rnn_tanh", "slstm")))
    values = values_of(cell)
    few = rng.random()  # how many options are off, so that rare pairs of few and of many come up alike
    while True:
        row = {name: pick(rng, own) if rng.random() > few else own[0] for name, own in values.items()}
        if allowed_together(row):
            break
    if cell != "lstm":
        row["zoneout"] = (row["zoneout"][0], 0.0)
    units = size(rng)
    if row.get("proj_size"):
        units, row["proj_size"] = max(units, 2), 1 + int(rng.integers(max(units, 2) - 1))
    if row["heads"] > 1:
        units = row["heads"] * (1 + units // row["heads"])
    if row.get("layer_norm"):
        units = max(units, 5)  # of fewer units the standard deviation may be near 0, and errors are over it
    # Unbounded activations feed on themselves: more steps would only show how fast errors grow, up to infinity.
    steps = size(rng, 0.0 if row.get("activations") else 0.1)
    return Case(cell, tuple(row.items()), steps, size(rng), size(rng), units)


def a_layer(rng: np.random.Generator, number: int) -> str:
    case, kernel = draw_case(rng), str(pick(rng, KERNELS))
    dtypes = [name for name in DTYPES if declines(case, name, kernel) is None]
    if not dtypes:
        return "declined"
    dtype = str(pick(rng, dtypes))
    if dtype in HALF and "thresholdedrelu" in (case["activations"] or ()):
        return "jumps"  # by alpha, where rounding moves an input across
    try:
        data = make_case(case, dtype)
    except AssertionError:  # a unit is within rounding of a kink in every one of fifty draws
        return "kinked"
    if (
        max(
            np.nan_to_num(np.abs(value), nan=np.inf).max(initial=0)
            for value in option_cases.judged(case, dtype).values()
        )
        > 1e3
    ):
        return "unbounded"
    plan = option_runs.bind(case, dtype, kernel)
    got = option_runs.run(case, data, plan, dtype)
    # A layer norm passes an error on over a standard deviation, which may be tiny in a row that nobody chose; an
    # activation that is not bounded passes the rounding of h on, which shows with 8 bits of it.
    slack = 40.0 if case["layer_norm"] else 4.0 if dtype in HALF and case["activations"] else 1.0
    if slack * option_runs.bound(case, dtype) > 1:
        return "vague"
    option_runs.compare(case, dtype, got, slack)
    again(rng, got, lambda: option_runs.run(case, data, plan, dtype))
    return f"layers {case} {dtype} {kernel}"


def declines(case: Case, dtype: str, kernel: str) -> str | None:
    try:
        option_runs.bind(case, dtype, kernel)
    except NotImplementedError as reason:
        return str(reason)
    return None


def again(rng: np.random.Generator, wanted: Results, run: Callable[[], Results]) -> None:
    """The same bits under other circumstances."""
    how = float(rng.random())
    if how < 0.5:
        _core.set_num_threads(int(rng.integers(1, 5)))
        equal(run(), wanted, "another number of threads")
    elif how < 0.75:
        found: list[Any] = []
        callers = [threading.Thread(target=lambda: found.append(run())) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(found) == 3, "a call at once with others raised"
        for each in found:
            equal(each, wanted, "calls at once")
    elif how < 0.8 and hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                equal(run(), wanted, "a forked child")
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0, "a forked child has other bits, or ended"


def equal(got: Results, wanted: Results, what: str) -> None:
    wrong = [name for name in wanted if got[name].tobytes() != wanted[name].tobytes()]
    assert not wrong, f"{what}: other bits in {', '.join(wrong)}"


# A stack of layers as users call it -----------------------------------------------------------------------------------


def a_stack(rng: np.random.Generator) -> str:
    kind = str(pick(rng, ("RNN", "GRU", "LSTM")))
    layers, both = int(rng.integers(1, 4)), bool(rng.integers(2))
    T, B, inputs, units = size(rng, 0.1), size(rng), size(rng), size(rng)
    dtype = str(pick(rng, ("float32", "float64")))
    dropout = float(pick(rng, (0.0, 0.3))) if layers > 1 else 0.0
    layer = getattr(rk, kind)(
        inputs, units, layers, bidirectional=both, dropout=dropout, bias=bool(rng.integers(2)), dtype=dtype,
        seed=int(rng.integers(2**32)), recompute=bool(rng.integers(2)),
    )  # fmt: skip
    width = units * (1 + both)
    x, dy = rng.standard_normal((T, B, inputs)).astype(dtype), rng.standard_normal((T, B, width)).astype(dtype)
    lengths = rng.integers(0, T + 1, B) if rng.random() < 0.5 else None
    state, dstate = layer_cases.state_of(layer, B, rng), layer_cases.state_of(layer, B, rng)
    layer.call = 3
    got = layer_cases.step(layer, x, state, lengths, dy, dstate)
    masks = {"seed": layer.seed, "call": 3} if dropout else {}
    wanted = layer_cases.judge(layer, x, state, lengths, dy, dstate, **masks)
    # As option_runs.bound, for every layer one after the other.
    eps, terms = float(np.finfo(dtype).eps), width + inputs + units + 2
    bound = 4 * eps * (layers * T * max(terms, T * B)) ** 0.5
    for name, value in wanted.items():
        gap = float(np.abs(got[name] - value).max(initial=0) / np.abs(value).max(initial=1))
        assert gap <= bound, f"{name}: error {gap:.3g}, allowed {bound:.3g}"

    layout = str(pick(rng, ("plain", "strided", "batch_first")))

    def run() -> Results:
        # Random masks are those of the call's number, which calls at once would share: so each has a layer of its own.
        own = copy.deepcopy(layer)
        own.call = 3
        return layer_cases.step(own, lay_out(x, layout), state, lengths, lay_out(dy, layout), dstate)

    again(rng, got, run)
    return f"stacks {layer!r} {dtype}"


if __name__ == "__main__":
    sys.exit(main())
