"""Which of the collected tests run. What cannot run here, and what is for ``pytest --full``, is deselected.

The short run is a choice without chance. Each case of a test function has features: the value of each parameter, where
a problem string counts as its cell, its dtype, its sizes and its flags, and a case of options as the value of each of
them. The choice covers each value that occurs, and each pair of values of two parameters that occurs, at least once. It
is made greedily, in the order of collection, so that each process of a run makes the same one. A test marked ``whole``,
as the tests of kernels are, keeps every case.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gpu_plan
import native
import option_runs
import runner
from option_cases import Case
from problems import Problem
from rnnkern import _core
from runner import CPU_KERNELS, DEVICE_KERNELS

FULL_ONLY = ("executor", "builds", "nvcc", "gallery")  # marks of tests that the short run leaves to --full
FOR_FULL = f"for pytest --full alone ({', '.join(FULL_ONLY)})"
SMALL = 8  # a test function with no more cases keeps them all


# --- what a case is made of ---------------------------------------------------


def features(params: dict[str, Any]) -> list[tuple[str, str]]:
    """(parameter, value) for each parameter, in the order of their names."""
    return [feature for name in sorted(params) for feature in _parts(name, params[name])]


def _parts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Problem):
        cell, sizes, dtype, *flags = str(value).split()
        yield from ((f"{name}.cell", cell), (f"{name}.dtype", dtype), (f"{name}.sizes", sizes))
        yield f"{name}.flags", " ".join(flags)
    elif isinstance(value, Case):
        yield f"{name}.cell", value.cell
        yield f"{name}.sizes", f"t{value.T}b{value.B}h{value.H}"
        yield from ((f"{name}.{option}", str(chosen)) for option, chosen in value.row)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _parts(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"{name}.{member}", "given") for member in sorted(map(str, value)))
    elif isinstance(value, tuple) and any(isinstance(part, Problem) for part in value):
        for index, part in enumerate(value):
            yield from _parts(f"{name}.{index}", part)
    else:
        yield name, str(value)


# A kernel has an instance of its code for each cell and dtype: what ends with these goes three by three.
_INSTANCE = ("kernel", "kernel_and_problem.0", "cell", "dtype")


def pairwise(cases: list[list[tuple[str, str]]]) -> set[int]:
    """Indices of cases that hold each feature, and each pair of features, that any of them holds."""
    missing = [
        {(feature,) for feature in case}
        | set(itertools.combinations(case, 2))
        | set(itertools.combinations([part for part in case if part[0].endswith(_INSTANCE)], 3))
        for case in cases
    ]
    covered: set[Any] = set()
    chosen = set()
    # The gain of a case only falls, so that the first of the queue whose gain is up to date is the best.
    queue = [(-len(parts), index) for index, parts in enumerate(missing)]
    heapq.heapify(queue)
    while queue:
        stated, index = heapq.heappop(queue)
        gain = len(missing[index] - covered)
        if gain == 0:
            continue
        if -stated != gain:
            heapq.heappush(queue, (-gain, index))
            continue
        chosen.add(index)
        covered |= missing[index]
    return chosen


# --- what cannot run here ----------------------------------------------------------


def obstacle(item: pytest.Item, full: bool) -> str:
    """Why this test is not for this run, as the end of "N tests ..."; empty where it is."""
    marks = {mark.name for mark in item.iter_markers()}
    if "nvcc" in marks and not native.found("nvcc"):
        return "that need nvcc"
    if "gpu" in marks and _no_gpu():
        return f"that need a GPU ({_no_gpu()})"
    if "posed" in marks and not _on_executor():
        return "that need Python's module on the executor (.ci/simt)"
    params = list(_parameters(item).values())
    given = [part for value in params for part in (value if isinstance(value, tuple) else (value,))]
    names = [part if isinstance(part, str) else getattr(part, "name", None) for part in given]
    for name in names:
        if isinstance(name, str) and CPU_KERNELS.get(name):
            return f"that need {name} ({CPU_KERNELS[name]})"
    if not full and marks & set(FULL_ONLY):
        return FOR_FULL
    kernels = [
        name for name in names if name in CPU_KERNELS or (name in DEVICE_KERNELS and marks & {"executor", "gpu"})
    ]
    if not kernels:
        return ""
    make = gpu_plan.new_plan if "gpu" in marks else runner.new_plan
    return "that their kernel declines" if _declined(kernels[0], _parameters(item), make) else ""


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


@functools.cache
def _no_gpu() -> str:
    from rnnkern.bench.gpu.record import refusal

    return refusal() or ""


@functools.cache
def _on_executor() -> bool:
    return _core.device_count() > 0 and "SIMT" in _core.device_info(0)["name"]


def _declined(kernel: str, params: dict[str, Any], make: Callable[..., Any]) -> bool:
    try:
        for value in params.values():
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Problem):
                    runner.bind(part, kernel, make)
                elif isinstance(part, Case) and "dtype" in params:
                    option_runs.bind(part, params["dtype"], kernel, make)
    except NotImplementedError:
        return True
    return False


# --- pytest's hooks, which conftest.py imports ------------------------------------------------

LEFT_OUT = pytest.StashKey[Counter[str]]()
CHOSEN = pytest.StashKey[tuple[int, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every test, not the short choice among them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Cases that the command line names, by an id in brackets, all run."""
    if any("[" in argument for argument in config.args):
        return
    full = config.getoption("full")
    left_out: Counter[str] = Counter()
    functions: dict[str, list[pytest.Item]] = {}
    dropped = []
    for item in items:
        if why := obstacle(item, full):
            left_out[why] += 1
            dropped.append(item)
        else:
            functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {item.nodeid for cases in functions.values() for item in (cases if full else choose(cases))}
    config.stash[LEFT_OUT], config.stash[CHOSEN] = left_out, (len(kept), len(items) - len(dropped) + left_out[FOR_FULL])
    dropped += [item for cases in functions.values() for item in cases if item.nodeid not in kept]
    items[:] = [item for item in items if item.nodeid in kept]
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def choose(cases: list[pytest.Item]) -> list[pytest.Item]:
    """The short choice among the cases of one test function."""
    if len(cases) <= SMALL or cases[0].get_closest_marker("whole"):
        return cases
    chosen = pairwise([features(_parameters(case)) for case in cases])
    return [case for index, case in enumerate(cases) if index in chosen]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With pytest-xdist it is a worker that has chosen."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and CHOSEN in session.config.stash:
        output["choice"] = session.config.stash[CHOSEN], dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    if "choice" in getattr(node, "workeroutput", {}):
        chosen, left_out = node.workeroutput["choice"]
        node.config.stash[CHOSEN], node.config.stash[LEFT_OUT] = tuple(chosen), Counter(left_out)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if CHOSEN not in config.stash:
        return
    chosen, of = config.stash[CHOSEN]
    for why, count in config.stash[LEFT_OUT].items():
        terminalreporter.write_line(f"left out: {count} tests {why}")
    if not config.getoption("full"):
        terminalreporter.write_line(f"short choice: {chosen} of {of} tests; pytest --full runs all")
