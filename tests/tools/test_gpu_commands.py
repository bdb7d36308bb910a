"""bench/gpu: the commands that measure on a GPU, as far as they go without one: plans, budgets, records, refusals."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import rnnkern as rk
from native import run as shell
from native import tool
from rnnkern import problems
from rnnkern.bench import timing
from rnnkern.bench.gpu import check, contenders, cudnn_baseline, jobs, points, record, run, summary, tables, worker

NO_GPU = record.refusal()
without_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def command(*words: str) -> Result:
    return CliRunner().invoke(run.app, list(words), env={"COLUMNS": "200"})


# --- points and budgets ---------------------------------------------------------------------------------------------


def test_a_point_is_a_problem_in_a_precision() -> None:
    for point in points.grid():
        assert points.parse(str(point)) == point
        problem = problems.parse(point.problem)
        assert (problem.cell, problem.hidden_size, problem.batch) == (point.cell, point.hidden_size, point.batch)
        assert problem.dtype == {"bf16": "bfloat16", "f16": "float16"}.get(point.precision, "float32")


def test_the_grid_is_complete_and_begins_with_what_tells_most() -> None:
    grid = points.grid(seq_len=7)
    assert len(grid) == len(set(grid)) == 3 * 4 * 9 * 8
    assert {(p.hidden_size, p.batch) for p in grid} == {(h, b) for h in points.HIDDEN for b in points.BATCHES}
    assert str(grid[0]) == "lstm t7b16i768h768 bf16"
    anchors = [(768, 16), (1024, 16), (256, 16), (128, 16), (768, 1), (768, 64)]
    assert {str(p) for p in grid[:6]} == {f"lstm t7b{b}i{h}h{h} bf16" for h, b in anchors}
    early = grid[:60]
    assert {p.cell for p in early} == set(points.CELLS) and {p.precision for p in early} == set(points.PRECISIONS)
    # A point never comes after one that is worse on every axis.
    place = {p: i for i, p in enumerate(grid)}
    for p in grid:
        for h in points.HIDDEN[: points.HIDDEN.index(p.hidden_size)]:
            assert place[points.Point(p.cell, p.precision, h, p.batch, 7)] < place[p]


def test_a_walk_ends_before_a_point_that_would_not_fit() -> None:
    clock = Clock()
    budget = points.Budget(10.0, clock)
    seen: list[float] = []

    def measure(point: points.Point, left: float) -> None:
        seen.append(left)
        clock.now += 3.0

    grid = points.grid()[:6]
    assert points.walk(grid, budget, measure) == grid[3:]
    assert seen == [10.0, 7.0, 4.0]  # 1 s is left, and a point has taken 3


def test_a_long_point_does_not_pass_for_the_pause_before_it() -> None:
    clock = Clock()
    budget = points.Budget(10.0, clock)
    clock.now += 6.0  # the command's own beginning
    assert budget.begin()
    clock.now += 1.0
    assert budget.begin() and budget.left() == 3.0


def test_steps_share_what_the_earlier_ones_left() -> None:
    clock = Clock()
    budget = points.Budget(60.0, clock)
    steps = (points.Step("a", 1), points.Step("b", 1), points.Step("c", 2))
    assert points.share(budget, steps) == 15.0
    clock.now += 6.0
    assert points.share(budget, steps[1:]) == 18.0
    clock.now += 100.0
    assert points.share(budget, steps[2:]) == 0.0


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget: expected more than 0 seconds, got 0"):
        points.Budget(0)


# --- records --------------------------------------------------------------------------------------------------------


def test_a_record_is_complete_on_disk_after_every_figure(tmp_path: Path) -> None:
    path = record.place(tmp_path, "NVIDIA H100 80GB HBM3", "bench", "2030-01-02")
    assert path == tmp_path / "h100-80gb-hbm3" / "2030-01-02-bench.json"
    kept = record.Record(path, "bench", {"commit": "c"})
    kept.add("points", {"ratio": 2.0})
    on_disk = json.loads(path.read_text())
    assert (on_disk["schema"], on_disk["command"], on_disk["commit"]) == (record.SCHEMA, "bench", "c")
    assert on_disk["points"] == [{"ratio": 2.0}] and on_disk["ended"] is None
    kept.end()
    assert json.loads(path.read_text())["ended"] >= on_disk["started"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert record.place(tmp_path, "NVIDIA H100 80GB HBM3", "bench", "2030-01-02").name == "2030-01-02-bench-2.json"


@pytest.mark.parametrize(("name", "folder"), [("NVIDIA H200", "h200"), ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090")])
def test_a_gpu_has_a_folder(name: str, folder: str) -> None:
    assert record.slug(name) == folder


def test_what_nvidia_smi_says_keeps_its_names() -> None:
    found = record.split_clocks(
        "NVIDIA H200, 580.1, P0, 40, 120.5 W, 700.0 W, 1980 MHz, 3201 MHz, 1980 MHz, 3201 MHz, 0x0\n"
    )
    assert (found["name"], found["driver_version"], found["clocks.sm"]) == ("NVIDIA H200", "580.1", "1980 MHz")


def test_the_commit_is_said_to_be_dirty(tmp_path: Path) -> None:
    git = tool("git")
    assert record.commit(tmp_path) == ""
    shell(git, "init", "-q", cwd=tmp_path)
    (tmp_path / "a").write_text("1")
    shell(git, "add", "a", cwd=tmp_path)
    shell(git, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one", cwd=tmp_path)
    head = shell(git, "rev-parse", "HEAD", cwd=tmp_path).strip()
    assert record.commit(tmp_path) == head
    (tmp_path / "a").write_text("2")
    assert record.commit(tmp_path) == head + "-dirty"


# --- contenders, on the CPU -----------------------------------------------------------------------------------------


def pretence(call: contenders.Call, calls: int) -> float:
    """A clock by which rnnkern takes 2 ms a call and torch.nn 3."""
    call()
    module = inspect.getclosurevars(call).nonlocals["module"]
    return calls * (2e-3 if type(module).__module__.startswith("rnnkern") else 3e-3)


class InProcess:
    """A jobs.Worker whose requests are answered here, on the CPU."""

    how = contenders.How("cpu", timing.Plan(blocks=3, block=0.004, pause=None), pretence)

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        return json.loads(json.dumps(worker.answer(request, self.how)))  # type: ignore[no-any-return]

    def close(self) -> None: ...


PLAN = points.grid(points.CELLS, ("bf16", "f32"), (24,), (3,), seq_len=5)


def test_a_record_of_bench_has_every_point(tmp_path: Path) -> None:
    kept = record.Record(tmp_path / "r.json", "bench", {"points": []})
    process: Any = InProcess()
    entries = run.over_points("contest", PLAN, points.Budget(3600), kept, process)
    document = json.loads(kept.path.read_text())
    assert document["points"] == entries and document["unreached"] == []
    assert [entry["point"] for entry in entries] == [str(point) for point in PLAN]
    for entry in entries:
        assert entry["kernel"].startswith("cpu_"), entry
        for mode in points.MODES:
            ours = entry[mode]["rnnkern"]
            assert ours["median_us"] == pytest.approx(2000) and ours["us_per_step"] == pytest.approx(400)
            assert len(ours["blocks_us"]) == 3 and ours["calls_per_block"] == 2 and ours["issue_us"] > 0
            assert entry[mode]["ratio"] == pytest.approx(1.5)
        assert "us/step" in run.brief(entry)
    assert not run.faulty(entries)
    assert {(m["cell"], m["precision"], m["mode"]) for m in summary.means(entries)} == {
        (p.cell, p.precision, mode) for p in PLAN for mode in points.MODES
    }
    tables.contest(entries)


def test_strategies_are_timed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU: its kernels. The environment is as before afterwards, and every kernel did its own point."""
    ran: list[str] = []
    wrong = contenders.Bout.wrong

    def noted(self: contenders.Bout, mode: str) -> dict[str, str]:
        ran.append(rk.explain(self.modules["rnnkern"], self.x).kernel)
        return wrong(self, mode)

    monkeypatch.setattr(contenders.Bout, "wrong", noted)
    monkeypatch.setenv("RNNKERN_KERNEL", "")
    kept = record.Record(tmp_path / "r.json", "strategies", {"points": []})
    process: Any = InProcess()
    (entry,) = run.over_points("strategies", PLAN[:1], points.Budget(3600), kept, process)
    assert os.environ["RNNKERN_KERNEL"] == "" and "RNNKERN_GRID_EXCHANGE" not in os.environ
    assert len(entry["strategies"]) > 1 and entry["kernel"] in entry["strategies"]
    assert ran == [name for name in entry["strategies"] for _ in points.MODES]
    for mine in entry["strategies"].values():
        assert min(mine["estimate_us"]) > 0
        assert all(mine[mode]["us_per_step"] == pytest.approx(400) for mode in points.MODES)
    assert "us/step" in run.brief(entry) and not run.faulty([entry])
    assert all(tables.strategies([entry], mode).row_count == 1 for mode in points.MODES)
    entry["strategies"][entry["kernel"]]["training"] = {"wrong": "dx differs"}
    assert run.faulty([entry]) and "WRONG" in run.brief(entry)
    tables.strategies([entry], "training")


def test_stacks_are_timed_by_how_layers_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    times = contenders.Bout.times

    def noted(self: contenders.Bout, mode: str, names: list[str]) -> dict[str, Any]:
        seen.append((os.environ.get("RNNKERN_GPU_WAVE", ""), self.modules["cudnn"].num_layers))
        return times(self, mode, names)

    monkeypatch.setattr(contenders.Bout, "times", noted)
    kept = record.Record(tmp_path / "r.json", "stacks", {"points": []})
    process: Any = InProcess()
    (point,) = points.grid(("gru",), ("bf16",), (16,), (2,), seq_len=4, layers=3)
    assert str(point) == "gru t4b2i16h16l3 bf16" and points.parse(str(point)) == point
    (entry,) = run.over_points("stacks", [point], points.Budget(3600), kept, process)
    assert list(entry["strategies"]) == ["model", "in turn", "blocks of 16", "blocks of 64", "blocks of 256", "cudnn"]
    assert seen == [(wave, 3) for wave in ("", "0", "16", "64", "256", "") for _ in points.MODES]
    assert "in turn" in run.brief(entry) and not run.faulty([entry])
    assert all(tables.strategies([entry], mode).row_count == 1 for mode in points.MODES)


def test_a_wrong_contender_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = contenders.Bout.answers

    def spoilt(self: contenders.Bout, name: str, mode: str) -> dict[str, torch.Tensor]:
        found = answers(self, name, mode)
        return found | ({"dx": 2 * found["dx"]} if name == "rnnkern" and mode == "training" else {})

    monkeypatch.setattr(contenders.Bout, "answers", spoilt)
    kept = record.Record(tmp_path / "r.json", "bench", {"points": []})
    process: Any = InProcess()
    (entry,) = run.over_points("contest", PLAN[:1], points.Budget(3600), kept, process)
    assert (
        entry["inference"]["ratio"] == pytest.approx(1.5) and "dx differs by" in entry["training"]["rnnkern"]["wrong"]
    )
    assert "ratio" not in entry["training"] and "us_per_step" in entry["training"]["cudnn"]
    assert run.faulty([entry])


def test_ratios_are_the_others_time_over_ours() -> None:
    def entry(point: str, ratio: float) -> dict[str, Any]:
        return {"point": point, "inference": {"ratio": ratio}, "training": {}}

    entries = [
        entry("gru t4b1i8h8 tf32", 2),
        entry("gru t4b2i8h8 tf32", 8),
        {"point": "gru t4b4i8h8 tf32", "error": "e"},
    ]
    found = summary.means(entries)
    assert found == [
        {"cell": "gru", "precision": "tf32", "mode": "inference", "points": 2, "ratio": pytest.approx(4)}
        | {"worst": 2, "worst_at": "gru t4b1i8h8 tf32"}
    ]


def test_differing_bits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    process = InProcess()
    request = {"do": "repeat", "point": "lstm t5b3i24h24 bf16", "times": 4}
    assert process.ask(request, 1) == {"times": 4, "differing": {}, "wrong": ""}
    answers, turns = contenders.Bout.answers, Counter[str]()

    def moody(self: contenders.Bout, name: str, mode: str) -> dict[str, torch.Tensor]:
        turns[name] += 1
        found = answers(self, name, mode)
        if turns[name] == 4:  # the first is held against torch.nn
            found["y"] = torch.where(found["y"] == found["y"].max(), -found["y"], found["y"])
        return found

    monkeypatch.setattr(contenders.Bout, "answers", moody)
    assert process.ask(request, 1) == {"times": 4, "differing": {"y": 1}, "wrong": ""}


def test_both_directions_and_layers_are_repeated() -> None:
    for point in ("lstm t4b3i24h24d2 bf16", "gru t20b3i24h24l4 f32"):
        assert str(points.parse(point)) == point and problems.parse(points.parse(point).problem)
        found = InProcess().ask({"do": "repeat", "point": point, "times": 2}, 1)
        assert found == {"times": 2, "differing": {}, "wrong": ""}, point
    with pytest.raises(ValueError, match="expected sizes like t5b3i8h8, got 't5b3'"):
        points.parse("lstm t5b3 f32")


def test_smoke_says_what_is_declined_wrong_or_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    process, request = InProcess(), {"do": "smoke", "point": "lstm t5b3i24h24 bf16"}
    assert process.ask(request, 1) == {"wrong": {}}
    monkeypatch.setattr(rk, "check", lambda: (_ for _ in ()).throw(RuntimeError("block 1 gave up waiting")))
    assert process.ask(request, 1) == {"wrong": {}, "error": "block 1 gave up waiting"}
    monkeypatch.undo()
    wrong = contenders.Bout.wrong
    monkeypatch.setattr(contenders.Bout, "wrong", lambda self, mode: wrong(self, mode) | {"rnnkern": "y differs"})
    assert process.ask(request, 1) == {"wrong": dict.fromkeys(points.MODES, "y differs")}
    monkeypatch.setattr(contenders.Bout, "wrong", lambda self, mode: (_ for _ in ()).throw(NotImplementedError("no")))
    assert process.ask(request, 1) == {"declined": "no"}


def test_a_graph_that_replays_other_bits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    process, request = InProcess(), {"do": "graph", "point": "gru t5b3i24h24 bf16"}
    assert process.ask(request, 1) == {"differing": {}}

    def once(call: contenders.Call, device: str) -> contenders.Call:
        """A graph that has caught the arrays' values instead of their memory."""
        result = call()
        return lambda: result

    monkeypatch.setattr(contenders, "captured", once)
    differing = process.ask(request, 1)["differing"]
    assert list(differing) == ["inference, scaled by -0.5", "training, scaled by -0.5"]
    assert differing["inference, scaled by -0.5"].startswith("y, h_n")


def test_the_environment_of_a_request_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RNNKERN_KERNEL", raising=False)
    request = {"do": "profile", "points": {"cpu_scalar": str(PLAN[0])}, "environment": {"RNNKERN_GPU_WAVE": "16"}}
    seen: list[tuple[str, ...]] = []
    answers = contenders.Bout.answers

    def noted(self: contenders.Bout, name: str, mode: str) -> dict[str, torch.Tensor]:
        seen.append((os.environ["RNNKERN_GPU_WAVE"], rk.explain(self.modules["rnnkern"], self.x).kernel, mode))
        return answers(self, name, mode)

    monkeypatch.setattr(contenders.Bout, "answers", noted)
    assert InProcess().ask(request, 1) == {"kernels": ["cpu_scalar"]}
    assert seen == [("16", "cpu_scalar", "training")]
    assert "RNNKERN_GPU_WAVE" not in os.environ and "RNNKERN_KERNEL" not in os.environ


@without_gpu
def test_facts_say_why_nothing_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = InProcess().ask({"do": "facts"}, 1)
    assert found["refused"] == NO_GPU and found["strategies"] == [] and found["info"]["version"] == rk.__version__
    monkeypatch.setattr(record, "refusal", lambda: "")  # torch sees a GPU, and rnnkern none
    monkeypatch.setattr(record, "gpu", lambda: {"name": "NVIDIA Paper 1"})
    found = InProcess().ask({"do": "facts"}, 1)
    assert found["refused"].startswith("no strategy of rnnkern runs here; CUDA: ") and found["gpu"]


def test_small_problems_of_all_classes_are_right() -> None:
    assert InProcess().ask({"do": "small"}, 1) == {"points": 36, "wrong": {}}
    assert InProcess().ask({"do": "small", "points": [str(PLAN[0])]}, 1) == {"points": 1, "wrong": {}}


def test_tf32_is_on_for_its_own_points_only() -> None:
    def state() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = state()
    with contenders.multiplying("tf32"):
        assert state() == (True, True)
    with contenders.multiplying("f32"):
        assert state() == (False, False)
    assert state() == before


def test_the_algorithm_is_guessed_by_its_kernels() -> None:
    assert contenders.algorithm({"RNN_blockPersist_fp_LSTM<__half>": 1, "gemm": 1}, 100) == "persistent"
    assert contenders.algorithm({"gemm": 100, "LSTM_elementWise_fp": 100}, 100) == "stepwise"
    assert contenders.algorithm({"small_h": 1, "gemm": 1}, 100) == "fused"


def test_a_baseline_point_is_one_line() -> None:
    found = {"algorithm": "fused", "inference": {"us_per_step": 1.25}, "training": {"us_per_step": 4.5}}
    assert cudnn_baseline.line(PLAN[0], found).split() == [
        *str(PLAN[0]).split(), "inference", "1.250", "training", "4.500", "us/step", "fused",
    ]  # fmt: skip
    assert "out of memory" in cudnn_baseline.line(PLAN[0], {"error": "out of memory"})


# --- other processes ------------------------------------------------------------------------------------------------

WORKER = """
import json, os, sys, time
for line in sys.stdin:
    do = json.loads(line)["do"]
    if do == "hang": time.sleep(3600)
    if do == "crash": print("illegal access", file=sys.stderr, flush=True); os._exit(7)
    print(json.dumps({"pid": os.getpid(), "last": do == "last"}), flush=True)
"""


def test_a_worker_that_dies_costs_one_point() -> None:
    process = jobs.Worker([sys.executable, "-c", WORKER])
    try:
        first = process.ask({"do": "answer"}, 900)
        assert process.ask({"do": "answer"}, 900) == first
        with pytest.raises(jobs.Died, match="ended with status 7: illegal access"):
            process.ask({"do": "crash"}, 900)
        second = process.ask({"do": "answer"}, 900)
        with pytest.raises(jobs.Died, match="no answer within 0 s"):
            process.ask({"do": "hang"}, 0.3)
        third = process.ask({"do": "last"}, 900)  # says that it is spoilt: the next request meets a new one
        fourth = process.ask({"do": "answer"}, 900)
        assert len({found["pid"] for found in (first, second, third, fourth)}) == 4
    finally:
        process.close()


def test_a_spoilt_context_ends_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(contenders, "Bout", broken)
    answer = worker.answer({"do": "contest", "point": str(PLAN[0])}, contenders.How("cpu"))
    assert answer["last"] and "illegal memory access" in answer["error"]


def test_a_command_is_stopped_and_its_lines_are_kept() -> None:
    seen: list[dict[str, Any]] = []
    text = r"""printf '{"a": 1}\n{\nwords\n'; sleep 3600"""
    done = jobs.run(["sh", "-c", text], 4, jobs.json_lines(seen.append))
    assert done.code is None and seen == [{"a": 1}] and done.tail.endswith("words\n")
    assert jobs.run([sys.executable, "-c", "import os; print(os.environ['X']); raise SystemExit(3)"], 30,
                    environment={"X": "y"}) == jobs.Done(3, pytest.approx(0, abs=30), "y\n")  # fmt: skip


@pytest.mark.parametrize(
    ("code", "tail", "ok", "said"),
    [
        (0, "== 12 passed, 1 skipped in 3s ==", True, "12 passed, 1 skipped"),
        (1, "== 1 failed, 12 passed in 3s ==", False, "1 failed, 12 passed"),
        (5, "no tests ran", None, "no test is marked gpu"),
        (None, "....", False, "stopped after 60 s"),
        (4, "\nERROR: file not found\n", False, "ERROR: file not found"),
    ],
)
def test_what_pytest_said(code: int | None, tail: str, ok: bool | None, said: str) -> None:
    found = check.tested(jobs.Done(code, 1.0, tail), 60)
    assert (found["ok"], found["said"]) == (ok, said)


def test_a_table_of_peers() -> None:
    entries = [{"point": str(p), "algorithm": "stepwise"} for p in PLAN[:1]] + [{"point": str(PLAN[0]), "error": "e"}]
    assert [list(column.cells) for column in tables.algorithms(entries).columns][3:] == [["1"], ["1"]]


# --- the commands ---------------------------------------------------------------------------------------------------


@without_gpu
@pytest.mark.parametrize("name", ["bench", "peers"])
def test_without_a_gpu_a_command_refuses(name: str) -> None:
    found = command(name)
    assert found.exit_code == record.REFUSED == 3 and found.stdout == ""
    assert f"{name} measures on a GPU, and" in found.stderr and "--dry-run" in found.stderr


@without_gpu
def test_the_baseline_refuses_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["cudnn_baseline", "--json", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit, match="3"):
        cudnn_baseline.main()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bench", "peers"])
def test_a_dry_run_walks_all_points(name: str) -> None:
    found = command(name, "--dry-run", "--seq-len", "9", "--budget", "60")
    assert found.exit_code == 0
    assert found.stdout.splitlines()[: len(points.grid())] == [str(point) for point in points.grid(seq_len=9)]
    assert "864 points in this order" in found.stdout


@pytest.mark.nvcc
def test_latencies_compile_without_a_warning(tmp_path: Path) -> None:
    compiler = check.nvcc()
    if not compiler:
        pytest.skip("nvcc is not installed")
    shell(*check.build(compiler, tmp_path / "latencies"))
    if NO_GPU:
        done = jobs.run([str(tmp_path / "latencies")], 60)
        assert done.code == 2 and "expected a GPU of compute capability 9.0, found none" in done.tail


# A whole command, on the CPU in place of a GPU: what is measured is meaningless, the way it goes is not.
@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "refusal", lambda: "")
    monkeypatch.setattr(record, "gpu", lambda: {"name": "NVIDIA Paper 1", "now": {}})
    monkeypatch.setattr(check, "worker", InProcess)
    monkeypatch.setattr(points, "grid", lambda seq_len: PLAN[:2])
    monkeypatch.setattr(contenders, "launched", lambda call: {"gemm": 1})
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", ["bench", "peers"])
def test_a_command_leaves_its_record(name: str, pretended: None, tmp_path: Path) -> None:
    found = command(name, "--results", str(tmp_path), "--commit", "c0ffee", "--budget", "300")
    assert found.exit_code == 0, (found.output, found.exception)
    (path,) = tmp_path.glob(f"paper-1/*-{name}.json")
    document = json.loads(path.read_text())
    assert document["ended"] and document["budget_s"] == 300 and document["commit"]
    assert set(document["versions"]) == {"rnnkern", "torch", "cuda", "cudnn"} and document["machine"]["cpus"] >= 1
    assert f"Record: {path}" in found.stdout
    assert [entry["point"] for entry in document["points"]] == [str(point) for point in PLAN[:2]]
    if name == "bench":
        assert len(document["geometric_means"]) == 4
    if name == "peers":
        assert document["flashrnn"] == "not installed" and document["points"][0]["algorithm"] == "fused"


COMPILER = r"""#!/bin/sh
for program; do :; done
printf '#!/bin/sh\necho "{\\"name\\": 1}"; sleep 3600\n' > "$program"
chmod +x "$program"
"""


def test_a_program_that_fails_to_compile_or_to_end_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: list[dict[str, Any]] = []
    checker = check.Check(lambda name, entry: taken.append({"list": name} | entry), print, None)
    compiler = tmp_path / "nvcc"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setattr(check, "nvcc", lambda: str(compiler))
    found = checker.run("latencies", 3)
    assert (
        found["ok"] is False
        and found["said"].startswith("stopped after")
        and taken == [{"list": "latencies", "name": 1}]
    )
    compiler.write_text("#!/bin/sh\necho error: no such thing; exit 1")
    found = checker.run("latencies", 900)
    assert found["ok"] is False and found["said"] == "does not compile: error: no such thing"


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_latencies_are_measured(tmp_path: Path) -> None:
    program, seen = tmp_path / "latencies", list[dict[str, Any]]()
    shell(*check.build(check.nvcc(), program))
    done = jobs.run([str(program), "M1", "M5", "M8"], 100, jobs.json_lines(seen.append))
    assert done.code == 0, done.tail
    hops = [entry["value"] for entry in seen if entry["name"] == "M1 store, poll: hop"]
    assert len(hops) == 5 and all(50 < ns < 10000 for ns in hops)


@pytest.mark.gpu
def test_small_problems_are_right_on_the_gpu() -> None:
    assert worker.answer({"do": "small"}, contenders.How()) == {"points": 36, "wrong": {}}


@pytest.mark.gpu
def test_the_gpu_s_clock_times_the_gpu() -> None:
    a = torch.randn(4096, 4096, device="cuda")
    one, ten = (min(contenders.events(lambda: a @ a, calls) for _ in range(5)) for calls in (10, 100))
    assert 5 < ten / one < 20
    assert sum(contenders.launched(lambda: a @ a).values()) >= 1
    assert record.gpu()["capability"] == "{}.{}".format(*torch.cuda.get_device_capability())
