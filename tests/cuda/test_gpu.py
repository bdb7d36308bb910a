"""The tests of cuda/test_kernels.py on a real GPU, by Python's module and with torch's memory (``pytest -m gpu``).
Where Python's module was built on the host SIMT executor (.ci/simt) the quick ones run there, which tests the tests.
"""

from __future__ import annotations

import threading

import pytest

import fake_cuda
import option_runs
import runner
from gpu_plan import GPU, GpuPlan, new_plan
from judging import allowed, close, draws, truth
from option_cases import CASES, Case, make_case
from problems import DTYPES, FULL, QUICK, Problem, expand, make
from runner import DEVICE_KERNELS, backward, forward, pack, run, same_bits

pytestmark = [] if fake_cuda.EXECUTOR else [pytest.mark.gpu]
_LARGE = ("t5b70i64h256 state lengths", "t40b33i65h130 lengths reverse", "t3b257i128h1024", "t20b8i128h128 state")
PROBLEMS = FULL + tuple(expand(_LARGE)) if GPU else QUICK


def plan_of(problem: Problem, kernel: str) -> GpuPlan:
    try:
        return runner.bind(problem, kernel, new_plan)  # type: ignore[no-any-return]
    except NotImplementedError as declined:
        pytest.skip(f"{kernel}: {declined}")


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("kernel", DEVICE_KERNELS)
def test_against_reference(kernel: str, problem: Problem) -> None:
    plan, bounds = plan_of(problem, kernel), allowed(problem)
    for draw in range(draws(problem)):
        got = run(problem, plan, make(problem, draw))
        close(problem, got, truth(problem, draw, got["y"]), bounds)


@pytest.mark.parametrize("dtype", DTYPES if GPU else ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kernel", DEVICE_KERNELS)
def test_options(kernel: str, case: Case, dtype: str) -> None:
    data = make_case(case, dtype)
    try:
        plan = option_runs.bind(case, dtype, kernel, new_plan)
    except NotImplementedError as declined:
        pytest.skip(f"{kernel}: {declined}")
    option_runs.compare(case, dtype, option_runs.run(case, data, plan, dtype))


@pytest.mark.parametrize("kernel", DEVICE_KERNELS)
@pytest.mark.parametrize(
    "problem", expand(["t9b33i16h64 state lengths"], cells=["lstm", "gru"], dtypes=["bf16"]), ids=str
)
def test_a_hundred_times_the_same_bits(kernel: str, problem: Problem) -> None:
    """On the GPU also while another stream keeps it busy."""
    plan, data = plan_of(problem, kernel), make(problem)
    stop, load = threading.Event(), None
    if GPU:
        import torch

        def busy() -> None:
            with torch.cuda.stream(torch.cuda.Stream()):
                a = torch.rand(2048, 2048, device="cuda")
                while not stop.is_set():
                    a = (a @ a).clamp(-1, 1)
                    torch.cuda.current_stream().synchronize()

        load = threading.Thread(target=busy)
        load.start()
    try:
        packed = pack(plan, data)
        wanted, reserve = forward(problem, plan, packed, data)
        gradients = backward(problem, plan, packed, data, wanted["y"], reserve)
        for _ in range(100 if GPU else 2):
            got, kept = forward(problem, plan, packed, data)
            same_bits(got, wanted, "forward")
            same_bits(backward(problem, plan, packed, data, got["y"], kept), gradients, "backward")
    finally:
        stop.set()
        if load is not None:
            load.join()


@pytest.mark.skipif(not GPU, reason="it needs a GPU's own launches")
def test_sizes_of_one_instance_on_two_threads() -> None:
    """The limit of shared memory is the kernel's: a smaller problem's launch must not take it from a larger one's."""
    problems = expand(["t3b2i16h96", "t3b2i16h128"], cells=["lstm"], dtypes=["bf16"])
    plans = [plan_of(problem, "cuda_solo") for problem in problems]
    wanted = [run(problem, plan, make(problem)) for problem, plan in zip(problems, plans, strict=True)]
    failures: list[BaseException] = []

    def repeat(i: int) -> None:
        try:
            for _ in range(50):
                same_bits(run(problems[i], plans[i], make(problems[i])), wanted[i], str(problems[i]))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=repeat, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
