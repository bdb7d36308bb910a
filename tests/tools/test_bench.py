"""The benchmark: what it counts, how it times, and above all that it never times a wrong answer."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from rnnkern import _core, reference
from rnnkern.bench import check, data, driver, machine, peers, plot, report, timing
from rnnkern.bench.subject import Subject
from rnnkern.cli.bench import bench
from rnnkern.problems import BENCH, BENCH_QUICK, Problem, parse, parse_all

FAST = timing.Plan(blocks=2, block=0.001, pause=0.0)


@pytest.fixture(autouse=True)
def _process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Peers change their library's threads, JAX's default dtype and the environment for the rest of the process."""
    before = torch.get_num_threads(), _core.get_num_threads()
    wide = "jax" in sys.modules and sys.modules["jax"].config.read("jax_enable_x64")
    for name, value in (("NPROC", "1"), ("KERAS_BACKEND", "jax")):
        monkeypatch.setenv(name, value)
    yield
    torch.set_num_threads(before[0])
    _core.set_num_threads(before[1])
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_enable_x64", wide)


# --- problem strings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["lstm t7b3i5h8 f32", "gru t0b0i1h1l2d2 bf16 lengths state", "rnn_relu t9b1i4h4 f64 nobias"]
)
def test_a_problem_prints_as_it_was_written(text: str) -> None:
    assert str(parse(text)) == text


def test_a_problem_has_defaults_and_an_alias() -> None:
    assert parse("rnn h8i5b3t7 state lengths") == parse("rnn_tanh t7b3i5h8l1d1 f32 lengths state")
    assert parse("lstm t2b3i5h7l3d2").layer_inputs == (5, 14, 14)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lstm", "expected 'CELL SIZES"),
        ("LSTM t7b3i5h8", "'LSTM'"),
        ("lstm bf16", "sizes like t7b3i5h8"),
        ("lstm t7b3i5", "without h"),
        ("lstm t7b3i5h8q2", "'q'"),
        ("lstm t7b3i5h8t7", "twice"),
        ("lstm t7b3i0h8", "input_size must be at least 1"),
        ("lstm t7b3i5h8d3", "directions must be 1 or 2, got d3"),
        ("lstm t7b3i5h8 f33", "'f33'"),
        ("lstm t7b3i5h8 lengths f32", "the dtype is the third word"),
        ("lstm t7b3i5h8 state state", "twice"),
        ("lstm t7b3i5h8 unbatched", "got b3"),
    ],
)
def test_a_bad_problem_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="problem") as caught:
        parse(text)
    assert said in str(caught.value)


def test_lists_of_problems_skip_comments_and_repetitions() -> None:
    assert parse_all(["# all", "", "lstm t7b3i5h8 # one", "lstm t7b3i5h8 f32"]) == [parse("lstm t7b3i5h8")]


def test_the_default_list_is_the_published_one() -> None:
    assert len(BENCH) == len(set(BENCH)) == 3 * 5 * 3
    assert {(p.hidden_size, p.seq_len) for p in BENCH} == {(64, 100), (128, 100), (256, 100), (512, 50), (1024, 20)}
    assert {p.cell for p in BENCH} == {"lstm", "gru", "rnn_tanh"}
    assert {p.batch for p in BENCH} == {1, 16, 64}
    assert all(p.input_size == p.hidden_size and p.dtype == "float32" for p in BENCH)
    assert set(BENCH_QUICK) < set(BENCH)
    assert not any(data.refusal(p) for p in BENCH)


# --- what is counted ------------------------------------------------------------------------------------------------


def test_flops_of_one_layer() -> None:
    problem = parse("gru t10b2i5h8")
    assert data.flops(problem, data.make(problem)) == (2 * 10 * 2 * 3 * 8 * 5, 2 * 10 * 2 * 3 * 8 * 8)


def test_flops_count_layers_and_directions_but_no_padding() -> None:
    problem = parse("lstm t10b4i5h8l2d2 lengths")
    made = data.make(problem)
    assert made.lengths is not None
    steps = int(made.lengths.sum())
    assert steps < 40 and made.lengths.max() == 10 and made.lengths.min() >= 1
    assert data.flops(problem, made) == (2 * steps * 2 * 32 * (5 + 16), 2 * steps * 2 * 32 * 8 * 2)


def test_data_are_the_same_every_time_and_dy_is_zero_on_padding() -> None:
    problem = parse("lstm t6b3i4h4 lengths state")
    one, two = data.make(problem), data.make(problem)
    assert np.array_equal(one.x, two.x) and np.array_equal(one.params["bias_hh_l0"], two.params["bias_hh_l0"])
    assert one.lengths is not None
    for row, length in enumerate(one.lengths):
        assert not one.dy[length:, row].any() and one.dy[:length, row].all()


def _limits(problem: Problem, rate: float, read: float) -> machine.Limits:
    footprint = machine.weight_bytes(problem) // 2
    return machine.Limits(2, {"float32": rate}, [], {footprint: machine.Read("L2", footprint, read)})


def test_the_limit_of_a_large_batch_is_the_fma_rate() -> None:
    problem = parse("lstm t10b64i16h32")
    made = data.make(problem)
    limits = _limits(problem, rate=100.0, read=1000.0)
    work = sum(data.flops(problem, made))
    inference, training = (machine.bound(problem, made, mode, limits) for mode in data.MODES)
    assert inference.by == training.by == "FMA"
    assert inference.seconds == pytest.approx(work / 100e9)
    assert training.seconds == pytest.approx(3 * work / 100e9)


def test_the_limit_of_a_small_batch_is_reading_the_weights() -> None:
    problem = parse("lstm t10b1i16h32")
    made = data.make(problem)
    limits = _limits(problem, rate=100.0, read=1.0)
    inputs, recurrent = data.flops(problem, made)
    stream = 10 * 4 * 32 * 32 * 4 / 1e9
    inference, training = (machine.bound(problem, made, mode, limits) for mode in data.MODES)
    assert inference.by == training.by == "L2"
    assert inference.seconds == pytest.approx(inputs / 100e9 + stream)
    assert training.seconds == pytest.approx((3 * inputs + recurrent) / 100e9 + 2 * stream)


def test_half_types_are_bound_by_the_faster_of_both_instructions() -> None:
    limits = machine.Limits(1, {"float32": 10.0, "float64": 5.0, "bfloat16": 18.0}, [], {})
    assert [limits.rate(name) for name in data_types()] == [10.0, 5.0, 18.0, 10.0]


def test_the_limit_is_that_of_the_kernels_instructions_and_of_the_moment() -> None:
    one = machine.Limits(1, {"float32": 10.0, "float64": 5.0, "float32 of 256 bits": 6.0}, [], {})
    assert [one.rate("float32", kernel) for kernel in ("", "cpu_avx512", "cpu_avx2")] == [10.0, 10.0, 6.0]
    assert one.rate("float64", "cpu_avx2") == 5.0
    other = machine.Limits(1, {"float32": 20.0, "float64": 5.0, "float32 of 256 bits": 8.0}, [], {})
    assert machine.mean(one, other).fma == {"float32": 15.0, "float64": 5.0, "float32 of 256 bits": 7.0}


def data_types() -> tuple[str, ...]:
    return "float32", "float64", "bfloat16", "float16"


def test_the_probes_measure_something() -> None:
    limits = machine.measure(1, [parse("lstm t1b1i8h64")], seconds=0.005)
    assert limits.fma["float32"] > 0.1 and limits.fma["float64"] > 0.1
    assert limits.weights[4 * 64 * 64 * 4].rate > 0.1
    assert limits.refreshed(0.005).fma.keys() == limits.fma.keys()
    assert [read.level for read in limits.levels] == [*machine.caches(), "memory"]


# --- who is wrong ---------------------------------------------------------------------------------------------------

PROBLEM = parse("lstm t4b2i3h5")


def test_an_error_in_one_element_counts_and_nan_is_infinite() -> None:
    right = np.linspace(-2, 2, 12).reshape(3, 4)
    wrong = right.copy()
    wrong[1, 2] += 0.5
    assert check.error(right, right) == 0
    assert check.error(wrong, right) == 0.25
    wrong[1, 2] = np.nan
    assert check.error(wrong, right) == np.inf
    assert check.error(right[:2], right) == np.inf


@pytest.mark.parametrize("dtype", data_types())
def test_the_tolerance_is_far_below_a_wrong_gate(dtype: str) -> None:
    """Exchanging two gates moves an output by the order of its own size; the widest tolerance is bfloat16's 1/8."""
    problem = Problem("lstm", 100, 64, 512, 512, dtype=dtype)
    assert check.tolerance(problem, "y") <= check.tolerance(problem, "dweight_hh_l0") < 0.15
    assert check.tolerance(Problem("lstm", 100, 64, 512, 512), "y") < 1e-4


def _answer(scale: float = 1.0) -> dict[str, Any]:
    return {"y": scale * np.ones((4, 2, 5)), "h_n": scale * np.ones((1, 2, 5))}


def test_the_one_that_nobody_agrees_with_is_wrong() -> None:
    answers = {"rnnkern": _answer(), "torch": _answer(1 + 1e-7), "broken": _answer(1.01)}
    verdict = check.judge(PROBLEM, answers, {name: name for name in answers})
    assert list(verdict.wrong) == ["broken"] and "y differs by 1.0e-02" in verdict.wrong["broken"]
    assert verdict.by == {"rnnkern": ["torch"], "torch": ["rnnkern"], "broken": []}


def test_kernels_of_one_library_do_not_outvote_the_peers() -> None:
    answers = {
        "rnnkern/a": _answer(2),
        "rnnkern/b": _answer(2),
        "rnnkern/c": _answer(2),
        "torch": _answer(),
        "jax": _answer(),
    }
    verdict = check.judge(PROBLEM, answers, {name: name.split("/")[0] for name in answers})
    assert set(verdict.wrong) == {"rnnkern/a", "rnnkern/b", "rnnkern/c"}


def test_two_that_disagree_are_both_not_believed_and_one_alone_is_unchecked() -> None:
    both = check.judge(PROBLEM, {"rnnkern": _answer(), "torch": _answer(2)}, {"rnnkern": "rnnkern", "torch": "torch"})
    assert set(both.wrong) == {"rnnkern", "torch"}
    alone = check.judge(PROBLEM, {"rnnkern": _answer()}, {"rnnkern": "rnnkern"})
    assert not alone.wrong and alone.by == {"rnnkern": []}


class Broken:
    """torch's peer with one element of one output changed: the output that `spoil` names."""

    name = "broken"
    version = "1"

    def __init__(self, spoil: str) -> None:
        self._peer = peers.load("torch", 1)
        self._spoil = spoil

    def declines(self, problem: Problem, mode: str) -> str:
        return ""

    def prepare(self, problem: Problem, given: data.Data, mode: str) -> data.Run:
        run = self._peer.prepare(problem, given, mode)

        def outputs(result: Any) -> dict[str, data.Array]:
            found = {name: array.copy() for name, array in run.outputs(result).items()}
            found[self._spoil].flat[0] += 0.01 * abs(found[self._spoil]).max()
            return found

        return data.Run(run.call, outputs)


@pytest.mark.parametrize(
    ("mode", "spoil"), [("inference", "y"), ("inference", "c_n"), ("training", "dx"), ("training", "dbias_hh_l0")]
)
def test_a_wrong_answer_is_reported_and_not_timed(mode: str, spoil: str) -> None:
    contenders = [Subject(), peers.load("torch", 1), Broken(spoil)]
    subject, right, wrong = driver.run_point(PROBLEM, mode, data.make(PROBLEM), contenders, FAST)
    assert subject.status == right.status == "timed" and subject.seconds and right.seconds
    assert subject.checked_by == ["torch"]
    assert wrong.status == "wrong" and wrong.timing is None and wrong.reason.startswith(f"{spoil} differs")


def test_a_peer_that_raises_is_reported_and_the_others_go_on() -> None:
    class Raising(Broken):
        name = "raising"

        def prepare(self, problem: Problem, given: data.Data, mode: str) -> data.Run:
            raise RuntimeError("no such primitive")

    entries = driver.run_point(PROBLEM, "inference", data.make(PROBLEM), [Subject(), Raising("y")], FAST)
    assert [entry.status for entry in entries] == ["timed", "failed"]
    assert entries[1].reason == "RuntimeError: no such primitive"


# --- peers compute the same thing -------------------------------------------------------------------------------------

SAME = [
    "lstm t7b3i5h8",
    "gru t7b3i5h8",
    "rnn_tanh t7b3i5h8 state",
    "rnn_relu t7b3i5h8 nobias",
    "lstm t6b4i5h8l2d2 state lengths",
    "gru t6b4i5h8l2d2 nobias lengths",
    "lstm t7b3i5h8 f64",
    "gru t7b3i5h8 bf16",
    "lstm t7b3i5h8 f16 state",
]


def installed(name: str) -> bool:
    """A published peer must be, since the tests depend on it; the others run on JAX."""
    return name in peers.PUBLISHED or all(find_spec(part) for part in ("jax", name))


def loaded(name: str) -> peers.Peer:
    try:
        return peers.load(name, 1)
    except ImportError as error:
        if name in peers.PUBLISHED:  # dependencies of the tests
            raise
        pytest.skip(f"{name} is not available: {error}")


# A peer that is not installed is skipped once.
@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in peers.PEERS for text in (SAME if installed(name) else SAME[:1])]
)
def test_peers_agree_with_rnnkern(name: str, text: str) -> None:
    peer, problem = loaded(name), parse(text)
    given = data.make(problem)
    modes = [mode for mode in data.MODES if not peer.declines(problem, mode)]
    assert modes == list(data.MODES) or name != "torch"
    for mode in modes:
        ours, theirs = (who.prepare(problem, given, mode) for who in (Subject(), peer))
        first, second = ours.outputs(ours.call()), theirs.outputs(theirs.call())
        assert set(first) == set(second)
        assert not check.disagreement(problem, first, second)


def test_what_a_framework_has_not_is_declined_by_name() -> None:
    said = {
        ("jax", "slstm t4b2i3h5"): "no slstm written in JAX",
        ("flax", "slstm t4b2i3h5"): "flax.nnx has no slstm",
        ("flax", "gru t4b2i3h5"): "flax.nnx.GRUCell has no bias",
        ("keras", "slstm t4b2i3h5"): "keras.layers has no slstm",
        ("keras", "lstm t4b2i3h5 f64"): "tanh",
        ("keras", "gru t4b2i3h5 nobias"): "adds zeros of float64",
    }
    for (name, text), reason in said.items():
        assert reason in loaded(name).declines(parse(text), "inference")
    assert not loaded("flax").declines(parse("gru t4b2i3h5 nobias"), "training")


def test_a_framework_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # The peers of flax and keras import jax first, which they would name in its place.
    for name in ("jax", "flax", "keras") if find_spec("jax") else ("jax",):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            patch.delitem(sys.modules, f"rnnkern.bench.peers.{name}", raising=False)
            _, missing = driver._load_peers([name], 1)
        assert list(missing) == [name] and name in missing[name]


def test_keras_on_another_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded("keras")
    monkeypatch.setattr(sys.modules["keras"].config, "backend", lambda: "torch")
    monkeypatch.delitem(sys.modules, "rnnkern.bench.peers.keras")
    _, missing = driver._load_peers(["keras"], 1)
    assert "expected Keras on its jax backend, got torch: set KERAS_BACKEND=jax" in missing["keras"]


# --- timing ---------------------------------------------------------------------------------------------------------


def test_blocks_alternate_and_each_round_begins_with_the_next() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        time.sleep(0.002)

    found = timing.measure(
        {"a": lambda: call("a"), "b": lambda: call("b")}, timing.Plan(blocks=2, block=0.002, pause=0.0)
    )
    rounds = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    assert rounds == ["a", "b", "a", "b", "a"]  # calibration of both, then a b, then b a
    for result in found.values():
        assert len(result.blocks) == len(result.pauses) == 2 and min(result.blocks) >= 0.002


def test_calls_fill_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_repeat", lambda call, calls: 0.001 * calls)  # a call of exactly 1 ms, on any machine
    assert timing.calls_for(lambda: None, 0.02) == 20
    assert timing.calls_for(lambda: None, 0.0001) == 1


def test_a_ratio_is_the_median_of_pairs_of_blocks() -> None:
    one, other = timing.Timing(1, [1.0, 9.0, 3.0]), timing.Timing(1, [2.0, 3.0, 3.0])
    assert one.over(other) == 1.0 and other.over(one) == 1.0
    assert timing.ratio(lambda: time.sleep(0.004), lambda: time.sleep(0.001), 0.004) > 1.5


def test_the_pause_lasts_until_spinning_threads_stop() -> None:
    until = time.perf_counter() + 0.15

    def spin() -> None:
        while time.perf_counter() < until:
            pass

    spinner = threading.Thread(target=spin)
    spinner.start()
    waited, quiet = timing.settle(0.0)
    spinner.join()
    assert time.perf_counter() >= until and (quiet or waited >= 1.0)


# --- the whole thing ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcome() -> driver.Outcome:
    settings = driver.Settings(
        [parse("lstm t5b2i4h6")], threads=1, peers=("torch", "onnxruntime"), plan=FAST, probe=0.002
    )
    return driver.run(settings)


def test_a_run_has_every_point_checked_and_timed(outcome: driver.Outcome) -> None:
    assert [(point.mode, [entry.status for entry in point.entries]) for point in outcome.points] == [
        ("inference", ["timed", "timed", "timed"]),
        ("training", ["timed", "timed", "declined"]),
    ]
    assert not outcome.faults
    assert outcome.points[0].entries[0].kernel in dict(_core.kernels())
    assert outcome.points[0].entries[0].checked_by == ["torch", "onnxruntime"]


@pytest.mark.parametrize(
    ("name", "text"), [("jax", "lstm t5b2i4h6"), ("flax", "gru t5b2i4h6 nobias"), ("keras", "gru t5b2i4h6 lengths")]
)
def test_a_run_with_a_framework_is_on_record(name: str, text: str) -> None:
    version = loaded(name).version
    found = report.document(driver.run(driver.Settings([parse(text)], 1, (), (name,), plan=FAST, probe=0.002)))
    assert found["peers"] == {name: version} and version.startswith(sys.modules[name].__version__)
    assert name == "jax" or f"(jax {sys.modules['jax'].__version__})" in version
    for point in found["points"]:
        ours, theirs = point["entries"]
        assert (theirs["name"], theirs["status"], theirs["checked_by"]) == (name, "timed", ["rnnkern"])
        assert ours["checked_by"] == [name] and len(theirs["blocks_us"]) == FAST.blocks


def test_ratios_and_means_are_of_medians(outcome: driver.Outcome) -> None:
    rows = report.rows(outcome)
    for row in rows:
        times = {name: entry.seconds for name, entry in row.peers.items() if entry.seconds}
        assert row.subject.seconds is not None
        assert row.ratios["torch"] == pytest.approx(times["torch"] / row.subject.seconds)
        assert row.ratios[report.BEST] == pytest.approx(min(times.values()) / row.subject.seconds)
        assert row.subject.limit is not None
        assert row.share == pytest.approx(row.subject.limit.seconds / row.subject.seconds)
    mean = report.means(rows)[0]
    assert (mean.cell, mean.mode, mean.against, mean.points) == ("lstm", "inference", "torch", 1)
    assert mean.ratio == pytest.approx(rows[0].ratios["torch"])


def test_the_document_holds_facts_versions_and_raw_blocks(outcome: driver.Outcome, tmp_path: Path) -> None:
    report.write_json(outcome, tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["schema"] == 2
    assert set(found) == {
        *("schema", "rnnkern", "machine", "limits", "settings", "peers", "missing"),
        *("points", "ratios", "geometric_means", "remarks"),
    }
    assert found["rnnkern"] == _core.version()
    assert found["machine"]["threads"] == 1 and found["machine"]["cpu"]
    assert found["peers"]["torch"] == torch.__version__
    assert found["limits"]["fma_gflops"]["float32"] > 0
    entry = found["points"][0]["entries"][0]
    assert entry["name"] == "rnnkern" and len(entry["blocks_us"]) == FAST.blocks
    assert entry["median_us"] == pytest.approx(np.median(entry["blocks_us"]))
    assert entry["us_per_step"] == pytest.approx(entry["median_us"] / 5)
    assert found["points"][1]["entries"][2]["status"] == "declined"
    assert any("Not for publication: openvino" in remark for remark in found["remarks"])


def test_the_picture_is_drawn(outcome: driver.Outcome, tmp_path: Path) -> None:
    plot.draw(outcome, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def _invoke(*arguments: str) -> Any:
    app = Typer()
    app.command()(bench)
    return CliRunner().invoke(app, arguments)


def test_the_command_line_runs_a_tiny_list(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# tiny\nrnn t5b2i4h6 lengths\n")
    result = _invoke(
        *("--problems", str(tmp_path / "list.txt"), "--problems", "gru t5b1i4h6", "--quick", "--block-ms", "1"),
        *("--pause-ms", "0", "--peers", "torch", "--threads", "1", "--json", str(tmp_path / "bench.json")),
    )
    assert result.exit_code == 0, result.output
    assert "rnn_tanh t5b2i4h6 f32 lengths" in result.output and "geometric means" in result.output
    assert "Not for publication: onnxruntime, openvino did not take part" in " ".join(result.output.split())
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [point["problem"] for point in found["points"]] == ["rnn_tanh t5b2i4h6 f32 lengths"] * 2 + [
        "gru t5b1i4h6 f32"
    ] * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--problems", "lstm t7b3"], "without i, h"),
        (["--problems", "no_such_file"], "'no_such_file'"),
        (["--problems", "lstm t0b3i4h4"], "nothing to time"),
        (["--problems", "lstm t2b3i4h4 batch_first"], "batch_first"),
        (["--problems", "nocell t2b3i4h4"], "'nocell'"),
        (["--kernels", "cpu_abacus"], "'cpu_abacus'"),
        (["--peers", "cupy"], "'cupy'"),
        (["--modes", "sleeping"], "'sleeping'"),
        (["--json", "/no/such/place/x.json"], "a directory that exists"),
    ],
)
def test_the_command_line_refuses_before_any_work(arguments: list[str], said: str) -> None:
    result = _invoke(*arguments)
    words = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2 and said in words, result.output


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("text", ["slstm t5b3i4h6 state", "slstm t5b3i4h6 bf16 lengths"])
def test_slstm_is_measured_like_the_others(text: str, mode: str) -> None:
    """Its state of four arrays goes in and comes out, and the judge agrees."""
    problem, subject = parse(text), Subject()
    made = data.make(problem)
    run = subject.prepare(problem, made, mode)
    got = run.outputs(run.call())
    params = {name: value.astype(np.float64) for name, value in made.params.items()}
    y, h_n, c_n, saved = reference.stack("slstm", params, made.x, made.h_0, made.c_0, made.lengths)
    assert c_n is not None
    wanted = {"y": y, "h_n": h_n, "c_n": c_n}
    if mode == "training":
        grads = reference.stack_backward(saved, made.dy)
        wanted |= {f"d{name}": value for name, value in grads.items() if name not in ("h_0", "c_0")}
    assert got.keys() == wanted.keys()
    assert not any(check.disagreement(problem, {name: got[name]}, {name: value}) for name, value in wanted.items())
