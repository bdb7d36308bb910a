"""cuda_cluster and cuda_grid on the host SIMT executor, what cuda/test_kernels.py's problems do not reach: teams of
every shape, each way of telling each other, several recurrences in turn, waits that are not met.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from device_plan import DevicePlan, device_problem, simt_library, verdicts
from judging import allowed, close, inactive_is_zero, judge, truth
from option_cases import CASES, Case, make_case
from option_runs import compare
from option_runs import plan_of as plan_with_options
from option_runs import run as run_options
from problems import Problem, expand, make
from runner import backward, forward, pack, plan_of, run, same_bits

pytestmark = pytest.mark.executor

WAYS = ("cluster", "flags", "sync", "data")
_CELLS = ("lstm", "gru")


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Any:
    """team(way, shape) forces how blocks tell each other and BLOCKSxROW_TILES; returns the kernel's name."""

    def force(way: str, shape: str) -> str:
        monkeypatch.setenv("RNNKERN_GPU_TEAM", shape)
        if way == "cluster":
            return "cuda_cluster"
        monkeypatch.setenv("RNNKERN_GRID_EXCHANGE", way)
        return "cuda_grid"

    return force


def _check(problem: Problem, kernel: str) -> dict[str, Any]:
    data = make(problem)
    plan = plan_of(problem, kernel)
    got = run(problem, plan, data)
    close(problem, got, truth(problem, 0, got["y"]), allowed(problem))
    if data.lengths is not None:
        inactive_is_zero(data, got)
    return got


# Blocks with as many tiles as others, with fewer, with none (5 tiles among 4 blocks are 2, 2, 1, 0), more than a warp
# can share, a single block; 1 to 3 row tiles a block, the last one with fewer rows.
_SHAPES = ("1x1", "2x1", "3x2", "4x1", "5x3", "2x2")


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", _CELLS)
def test_teams_of_every_shape(team: Any, way: str, shape: str, cell: str) -> None:
    (problem,) = expand(["t4b19i5h70 state lengths"], cells=[cell], dtypes=["bf16"])
    _check(problem, team(way, shape))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("flags", ["state", "reverse lengths"])
@pytest.mark.parametrize("way", WAYS)
def test_few_steps(team: Any, way: str, flags: str, steps: int) -> None:
    for problem in expand([f"t{steps}b9i3h33 {flags}"], cells=list(_CELLS), dtypes=["f16"]):
        _check(problem, team(way, "3x2"))


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm"])
@pytest.mark.parametrize("way", WAYS)
def test_weights_beyond_registers(team: Any, way: str, cell: str) -> None:
    """A warp has 9 fragments of an LSTM's terms, of which it holds 8; 40 of an Elman cell's, 32 held."""
    units = 630 if cell == "rnn_tanh" else 280
    (problem,) = expand([f"t2b2i3h{units} state"], cells=[cell], dtypes=["bf16"])
    _check(problem, team(way, "5x1"))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("way", ["cluster", "data"])
def test_options(team: Any, way: str, case: Case) -> None:
    """With three blocks and two row tiles each; cuda/test_kernels.py has all dtypes, in teams of the model's size."""
    data = make_case(case, "bfloat16")
    plan = plan_with_options(case, "bfloat16", team(way, "3x2"))
    compare(case, "bfloat16", run_options(case, data, plan, "bfloat16"))


@pytest.mark.parametrize("cell", _CELLS)
@pytest.mark.parametrize("way", WAYS)
def test_tf32(team: Any, way: str, cell: str) -> None:
    """As cuda/test_kernels.py's, in larger teams."""
    (problem,) = expand(["t3b11i7h70 state lengths"], cells=[cell], dtypes=["f32"])
    kernel = team(way, "3x2")
    plan = DevicePlan(
        simt_library(), cell, "float32", problem.input_size, problem.hidden_size, kernel=kernel, tf32=True
    )
    data = make(problem)
    got = run(problem, plan, data)
    wanted = judge(problem, data, got["y"])
    bounds = {name: 4 * 2.0**-10 * problem.seq_len**0.5 / min(1.0, np.abs(w).max()) for name, w in wanted.items()}
    close(problem, got, wanted, bounds)


@pytest.mark.parametrize("way", WAYS)
def test_several_blocks_of_time(team: Any, way: str) -> None:
    """4096 rows are a block of products over time, and a launch: here 7 steps, then 2; rows end in either."""
    for flags in ("state lengths", "lengths reverse"):
        (problem,) = expand([f"t9b600i3h20 {flags}"], cells=["gru"], dtypes=["bf16"])
        _check(problem, team(way, "2x40"))


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_wait_for_the_next_launch(team: Any, way: str, multiprocessors: Any) -> None:
    """5 multiprocessors hold two teams of two blocks: three launches for 5 row tiles of a grid, one of clusters."""
    multiprocessors(5)
    (problem,) = expand(["t3b37i3h20 state lengths"], cells=["lstm"], dtypes=["bf16"])
    _check(problem, team(way, "2x1"))


# --- bits ------------------------------------------------------------


@pytest.mark.parametrize("cell", _CELLS)
def test_the_way_changes_no_bit(team: Any, cell: str) -> None:
    (problem,) = expand(["t5b11i5h70 state lengths"], cells=[cell], dtypes=["bf16"])
    got, patterns = {}, {}
    for way in WAYS:
        before = simt_library().rnnk_simt_patterns()
        got[way] = _check(problem, team(way, "3x1"))
        patterns[way] = simt_library().rnnk_simt_patterns() - before
    assert patterns == {"cluster": 0, "flags": 0, "sync": 0, "data": 1}, (
        "memory filled for data that are their own flag"
    )
    for way in WAYS[1:]:
        same_bits(got[way], got["cluster"], way)


@pytest.mark.parametrize(
    ("cell", "text", "shape"),
    [("lstm", "t5b19i5h70 state lengths", "3x2"), ("gru", "t6b3i5h70 state", "4x1")],
    ids=["", "a block without units"],  # 5 tiles among 4 blocks are 2, 2, 1, 0
)
@pytest.mark.parametrize("way", WAYS)
def test_same_bits_whatever_the_order_of_threads(
    team: Any,
    way: str,
    cell: str,
    text: str,
    shape: str,
    seeded: Any,
) -> None:
    (problem,) = expand([text], cells=[cell], dtypes=["bf16"])
    kernel = team(way, shape)
    wanted = _check(problem, kernel)
    plan, data = plan_of(problem, kernel), make(problem)
    for seed in range(1, 9):
        seeded(seed)
        same_bits(run(problem, plan, data), wanted, f"seed {seed}")


@pytest.mark.parametrize("way", WAYS)
def test_same_bits_however_rows_are_dealt(team: Any, way: str) -> None:
    (problem,) = expand(["t5b27i5h70 state lengths"], cells=["gru"], dtypes=["f16"])
    wanted = _check(problem, team(way, "3x1"))
    for row_tiles in (2, 3, 4):
        same_bits(_check(problem, team(way, f"3x{row_tiles}")), wanted, f"{row_tiles} row tiles a block")


def test_however_many_clusters_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer take more rows in turn, with the same bits; where there is room for none, a refusal."""
    monkeypatch.setenv("RNNKERN_GPU_TEAM", "4")
    library = simt_library()
    (problem,) = expand(["t5b64i5h70 state lengths"], cells=["lstm"], dtypes=["bf16"])
    results = []
    try:
        for most in (-1, 15, 8, 7, 1):
            library.rnnk_simt_clusters(most)
            results.append(_check(problem, "cuda_cluster"))
            same_bits(results[-1], results[0], f"{most} clusters")
        library.rnnk_simt_clusters(0)
        with pytest.raises(NotImplementedError, match="cuda_cluster was asked for by name but declines"):
            DevicePlan(library, "lstm", "bfloat16", 5, 70, kernel="cuda_cluster")
    finally:
        library.rnnk_simt_clusters(-1)


# --- waits that are not met ------------------------------------------------------------


@pytest.mark.parametrize("pass_", ["forward", "backward"])
@pytest.mark.parametrize("way", WAYS)
# Who has given up reads what has not come, which is a race; the sums become NaN.
@pytest.mark.usefixtures("unwatched")
def test_a_wait_that_expires_ends_in_nan_and_is_reported_once(
    team: Any, way: str, pass_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks give up at once on peers which are only slow, and go on sending to who has given up."""
    (problem,) = expand(["t60b3i5h70 state"], cells=["lstm"], dtypes=["bf16"])
    plan, data, library = plan_of(problem, team(way, "5x1")), make(problem), simt_library()
    packed = pack(plan, data)
    results, reserve = forward(problem, plan, packed, data)

    def call() -> dict[str, Any]:
        if pass_ == "forward":
            return forward(problem, plan, packed, data, keep=False)[0]
        return backward(problem, plan, packed, data, results["y"], reserve)

    whole = call()
    monkeypatch.setenv("RNNKERN_GPU_WAIT_SECONDS", "1e-10")  # rounds to nothing
    broken = call()
    last = "h_n" if pass_ == "forward" else "dh_0"
    assert np.isnan(broken[last].astype(np.float32)).all(), "the last step comes after a wait that expired"
    assert pass_ == "backward" or np.isnan(broken["c_n"]).all()
    monkeypatch.delenv("RNNKERN_GPU_WAIT_SECONDS")
    # BPTT has flags where data would be their own.
    whom = "its peers" if way in ("cluster", "sync") else r"block \d"
    with pytest.raises(RuntimeError, match=rf"block \d of a team gave up waiting for {whom} in step \d+"):
        call()
    assert library.rnnk_device_check(0) == 0
    same_bits(call(), whole, "afterwards")


# --- the choice ------------------------------------------------------------


def test_what_teams_decline_and_why() -> None:
    def reasons(**values: Any) -> dict[str, str]:
        return {name: v.reason.decode() for name, v in verdicts(device_problem(**values)).items() if v.declined}

    for name in ("cuda_cluster", "cuda_grid"):
        assert reasons(dtype=1)[name] == "it has no float64"
        assert "only with allow_tf32" in reasons(dtype=0)[name]
        assert "reset-before" in reasons(cell=4, flags=32)[name]
        assert reasons(cell=5)[name] == "it has room for c alone, not for the n and m of sLSTM"
    large = reasons(hidden_size=4096)
    assert "a head of 4096 units is too large" in large["cuda_cluster"]
    assert re.search(r"4096 units needs \d+ bytes of shared memory in each of 128 blocks", large["cuda_grid"]), large
    assert "in each of 16 blocks, a block has 232448" in reasons(hidden_size=1024)["cuda_cluster"]
    assert "134 heads of 16 units, in teams of 1 blocks" in reasons(hidden_size=134 * 16, heads=134)["cuda_grid"]


@pytest.mark.parametrize("given", ["0", "4x", "4x0", "x2", "4x2x", "four"])
def test_a_bad_team_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("RNNKERN_GPU_TEAM", given)
    (problem,) = expand(["t2b3i5h70"], cells=["lstm"], dtypes=["bf16"])
    with pytest.raises(ValueError, match="RNNKERN_GPU_TEAM: expected BLOCKS or BLOCKSxROW_TILES"):
        plan_of(problem, "cuda_cluster")


def test_a_bad_exchange_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKERN_GRID_EXCHANGE", "hope")
    (problem,) = expand(["t2b3i5h70"], cells=["lstm"], dtypes=["bf16"])
    with pytest.raises(ValueError, match='RNNKERN_GRID_EXCHANGE: expected flags, sync or data, got "hope"'):
        plan_of(problem, "cuda_grid")


def test_workspace_has_room_for_the_letters() -> None:
    """256 units: 41 slots of 2 row tiles forward, 2 with a sum from every block in BPTT; and the flags."""
    (problem,) = expand(["t40b16i5h256"], cells=["lstm"], dtypes=["bf16"])
    cluster, grid = (plan_of(problem, name).sizes(40, 16) for name in ("cuda_cluster", "cuda_grid"))
    more = {name: grid[name] - cluster[name] for name in ("workspace_forward", "workspace_backward")}
    assert 0 <= more["workspace_forward"] - 41 * 16 * 256 * 2 <= 1024
    blocks = (more["workspace_backward"] // (2 * 2 * 16 * 512)) or 1
    assert 1 <= blocks <= 16 and 0 <= more["workspace_backward"] - 2 * 2 * 16 * 512 * blocks <= 1024


def test_the_size_of_a_team_does_not_depend_on_the_batch() -> None:
    """Or the order of sums would: a row's bits are its own. Messages of BPTT take room by blocks and row tiles."""
    (problem,) = expand(["t4b1i5h256"], cells=["lstm"], dtypes=["bf16"])
    plan = plan_of(problem, "cuda_grid")
    other = plan_of(problem, "cuda_cluster")

    def messages(batch: int) -> float:
        more = plan.sizes(4, batch)["workspace_backward"] - other.sizes(4, batch)["workspace_backward"]
        return more / -(-batch // 8)

    assert all(abs(messages(batch) / messages(8) - 1) < 0.05 for batch in (64, 512, 2048))
