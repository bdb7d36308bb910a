"""bench/gpu/once.sh without a GPU: its dry run reaches every step and writes every file; a step that fails or hangs
stops no other; what is missing on a machine is named.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from native import ROOT
from rnnkern.bench.gpu import check, counters, jobs, linked, once, prepared, record, summary
from rnnkern.bench.gpu.points import Budget

NO_SITE = ["-S"] if sys.flags.no_site else []  # as .ci/simt starts Python


# --- the dry run ----------------------------------------------------------------------------------------------------

LISTS = {"call1": ("latencies", "smoke", "together", "graphs", "same bits"), "call2": ("counters",)}
LEFT_OUT = {"call1": {"build"}, "call2": {"build", "peers"}}


def script(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """once.sh, called in a folder."""
    given = os.environ | {"PYTHON": " ".join([sys.executable, *NO_SITE])} | environment
    command = [str(ROOT / "bench/gpu/once.sh"), *words]
    return subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("name", once.CALLS)
def test_a_dry_run_reaches_every_step(name: str, tmp_path: Path) -> None:
    """By the script, with OUT relative to the caller's folder. Where rnnkern was built on the host emulator (.ci/simt),
    the CUDA kernels run.
    """
    done, out = script(tmp_path, name, "--dry", OUT="out/gpu"), tmp_path / "out/gpu"
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((out / f"{name}.json").read_text())
    steps = document["steps"]
    assert document["ended"] and list(steps) == [step.name for step in once.CALLS[name].steps]
    assert {step for step, outcome in steps.items() if outcome["ok"] is None} == LEFT_OUT[name], steps
    assert all(outcome["ok"] is not False for outcome in steps.values()), steps
    for figures in LISTS[name]:
        assert document[figures] and not any("error" in entry for entry in document[figures]), figures
    for command in ("strategies", "bench") if name == "call2" else ():
        (path,) = out.glob(f"dry-run/*-{command}.json")
        assert json.loads(path.read_text())["points"], command
    log = (out / f"{name}.log").read_text()
    table = done.stdout[done.stdout.index(f"{name}: dry run") :].splitlines()
    assert 1 + len(steps) < len(table) <= summary.MOST
    for row, step in zip(table[1:], steps, strict=False):
        assert row.split()[0] == step.split()[0] and f"=== {step}, " in log


# --- steps that fail, hang, or have no time ---------------------------------------------------------------------------


LATER = ("latencies", "smoke", "together", "graphs", "same_bits", "tests")  # steps of the first call after the package


class Planted(once.Runner):
    """A first call whose steps are these functions."""

    def __init__(self, out: Path, **actions: Any) -> None:
        super().__init__("call1", out, prepared.places(out))
        self._planted = {name.replace("_", " "): action for name, action in actions.items()}

    def _action(self, step: str) -> once.Action:
        return self._planted.get(step, lambda limit: {"ok": True, "said": "fine"})


def test_a_failing_and_a_hanging_step_stop_no_other(tmp_path: Path) -> None:
    def fails(limit: float) -> check.Outcome:
        raise ZeroDivisionError("planted")

    def hangs(limit: float) -> check.Outcome:
        return check.ended(jobs.run(["sleep", "3600"], limit), limit)

    began = time.monotonic()
    runner = Planted(tmp_path, latencies=hangs, smoke=fails)
    assert not runner.run(once.CALLS["call1"].steps, Budget(30))
    assert time.monotonic() - began < 30
    steps = json.loads((tmp_path / "call1.json").read_text())["steps"]
    words = {name: outcome["said"] for name, outcome in steps.items()}
    assert words["latencies"].startswith("stopped after ") and words["smoke"] == "ZeroDivisionError: planted"
    assert "fails" in steps["smoke"]["traceback"]
    assert steps["together"]["limit_s"] > 3, "the hanging step has left the others their time"
    others = [name for name in steps if name not in ("latencies", "smoke")]
    assert len(others) == 7 and all(words[name] == "fine" for name in others)
    table = summary.lines(runner.kept.document, tmp_path, 0.0)
    assert [row.split()[:2] for row in table[4:6]] == [["latencies", "FAILED"], ["smoke", "FAILED"]]


@pytest.mark.parametrize("name", once.CALLS)
def test_a_call_in_which_everything_hangs_keeps_its_limit(name: str, tmp_path: Path) -> None:
    now = [0.0]

    def hangs(limit: float) -> check.Outcome:
        now[0] += limit
        return {"ok": False, "said": "hung"}

    call = once.CALLS[name]
    runner = Planted(tmp_path, **{step.name.replace(" ", "_"): hangs for step in call.steps if step.weight})
    runner.run(call.steps, Budget(call.seconds, lambda: now[0]))
    assert now[0] <= call.seconds
    limits = {step: outcome["limit_s"] for step, outcome in runner.kept.document["steps"].items()}
    # Each has what docs/gpu.md says, the last one too.
    said = dict(re.findall(r"^\| `([a-z ]+)` \| (\d+)", (ROOT / "docs/gpu.md").read_text(), re.M))
    said |= {"memcheck": "38", "racecheck": "17"}
    assert "| `memcheck`, `racecheck` | 38, 17 |" in (ROOT / "docs/gpu.md").read_text()
    for step in call.steps:
        if step.weight:
            assert limits[step.name] == pytest.approx(float(said[step.name]), abs=2.5), step.name


def test_a_step_without_time_is_left_out(tmp_path: Path) -> None:
    now = [0.0]

    def takes_all(limit: float) -> check.Outcome:
        now[0] += 239
        return {"ok": True, "said": "slow"}

    runner = Planted(tmp_path, build=takes_all)
    assert runner.run(once.CALLS["call1"].steps, Budget(240, lambda: now[0]))
    outcomes = runner.kept.document["steps"]
    assert outcomes["build"]["ok"] and outcomes["tests"] | {"seconds": 0, "limit_s": 0} == {
        "ok": None, "said": "no time is left", "seconds": 0, "limit_s": 0,
    }  # fmt: skip


def test_a_call_in_which_nothing_ran_fails_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package that links checks nothing yet."""
    ended: dict[str, Any] = {"ok": None, "said": "there is no GPU"}
    planted = dict.fromkeys(LATER, lambda limit: ended)
    monkeypatch.setattr(once, "Runner", lambda name, out, where: Planted(out, **planted))
    monkeypatch.setenv("PYTHONPATH", "")  # the call changes both
    monkeypatch.setattr(sys, "path", [*sys.path])

    def status() -> int:
        return once.call("call1", tmp_path, prepared.places(tmp_path), 240)

    assert status() == 3
    assert capsys.readouterr().err == "call1: nothing was checked or measured: there is no GPU\n"
    ended |= {"ok": True, "said": "fine"}
    assert status() == 0
    ended |= {"ok": False, "said": "planted"}
    assert status() == 1
    assert capsys.readouterr().err == ""


def test_wrong_arguments_end_with_status_2(tmp_path: Path) -> None:
    for words in (["call3"], ["call1", "--wet"]):
        done = script(tmp_path, *words)
        assert done.returncode == 2 and "usage: bench/gpu/once.sh" in done.stderr
    assert list(tmp_path.iterdir()) == []
    said = script(tmp_path, "--help")
    assert said.returncode == 0 and "3 if nothing was checked or measured" in " ".join(said.stdout.split())


def test_a_command_that_refuses_is_left_out_and_a_wrong_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """typer ends with status 2 on wrong words, which here can only be a fault of once.py."""
    monkeypatch.setattr(check, "module", lambda name: [sys.executable, *NO_SITE, "-m", f"{check.__package__}.{name}"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    runner = once.Runner("call2", tmp_path, prepared.places(tmp_path))
    found = runner._command("benhc", 60)
    assert found["ok"] is False and found["status"] == 2
    if record.refusal():
        found = runner._command("bench", 60)
        assert found["ok"] is None and found["status"] == record.REFUSED


def test_a_second_record_does_not_replace_the_first(tmp_path: Path) -> None:
    paths = [Planted(tmp_path).kept.path.name for _ in range(3)]
    assert paths == ["call1.json", "call1-2.json", "call1-3.json"]


class Strategy:
    """A jobs.Worker of one strategy, which behaves as its name says."""

    asked: list[str] = []  # noqa: RUF012

    def __init__(self, environment: dict[str, str]) -> None:
        assert float(environment["RNNKERN_GPU_WAIT_SECONDS"]) == 2
        self.kernel = environment.get("RNNKERN_KERNEL", "")

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        if request == {"do": "ready"}:
            return {}
        self.asked.append(self.kernel)
        if self.kernel == "hangs":
            raise jobs.Died(f"no answer within {limit:.0f} s")
        found = {"declines": {"declined": "too large"}, "wrong": {"wrong": {"inference": "y differs"}}}
        return found.get(self.kernel, {"wrong": {}})

    def start(self) -> None: ...
    def close(self) -> None: ...


def test_smoke_asks_every_strategy_whatever_the_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[dict[str, Any]] = []
    monkeypatch.setattr(check, "worker", Strategy)
    Strategy.asked.clear()
    checks = check.Check(lambda name, entry: taken.append(entry | {"step": name}), print, None)
    checks.strategies = ("fine", "hangs", "declines", "wrong")
    found = checks.run("smoke", 60)
    points = len(check.SMOKE)
    assert points == 12 and Strategy.asked == [name for name in checks.strategies for _ in range(points)]
    assert [entry["kernel"] for entry in taken] == Strategy.asked and {entry["step"] for entry in taken} == {"smoke"}
    assert found["ok"] is False and found["faults"] == 2 * points + 1
    assert "hangs lstm t64b16i128h128 bf16: no answer within" in found["said"]
    assert "declines takes none of the points" in found["said"] and "{'inference': 'y differs'}" in found["said"]
    checks.strategies = ("fine",)
    assert checks.run("smoke", 60) == {"ok": True, "said": "12 points by 1 strategies, 0 declined", "faults": 0}
    assert checks.run("smoke", 0) == {"ok": None, "said": "12 not reached", "faults": 0}


# --- machines that lack something -------------------------------------------------------------------------------------


def outcomes_of(runner: once.Runner) -> dict[str, check.Outcome]:
    runner.run(once.CALLS[runner.name].steps, Budget(60))
    steps: dict[str, check.Outcome] = runner.kept.document["steps"]
    return steps


def tool(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_without_what_is_carried_everything_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    found = outcomes_of(once.Runner("call1", tmp_path, prepared.places(tmp_path)))
    assert found["link"]["ok"] is False and "`bench/gpu/once.sh prepare` makes it" in found["link"]["said"]
    assert found["build"] | {"seconds": 0, "limit_s": 0} == {
        "ok": None, "said": "cmake is not installed", "seconds": 0, "limit_s": 0,
    }  # fmt: skip
    assert found["latencies"]["said"] == "nvcc is not installed"
    for step in ("facts", "smoke", "together", "graphs", "same bits", "tests"):
        assert found[step]["ok"] is None and found[step]["said"].startswith("there is no module of rnnkern: "), step
        assert found["link"]["said"] in found[step]["said"] and found["build"]["said"] in found[step]["said"], step


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            jobs.Died("ended with status 1: ...\nModuleNotFoundError: No module named 'torch'"),
            "No module named 'torch'",
        ),
        ({"refused": "no strategy of rnnkern runs here; CUDA: the NVIDIA driver is missing, or older"}, "driver is"),
        ({"error": "RuntimeError: planted"}, "planted"),
    ],
)
def test_without_torch_or_a_driver_only_the_latencies_run(
    found: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts(self: check.Check, limit: float) -> Any:
        if isinstance(found, jobs.Died):
            raise found
        return found

    monkeypatch.setattr(linked, "link", lambda *given: {"ok": True, "said": "linked"})
    monkeypatch.setattr(check.Check, "facts", facts)
    monkeypatch.setattr(check, "nvcc", lambda: "")
    where = prepared.places(tmp_path)
    tool(tmp_path / "build", "nothing", "")
    tool(tmp_path / "build/gpu", "nothing", "")
    tool(where.carried, "latencies", 'echo \'{"name": "M1", "value": 1, "unit": "ns"}\'; exit 1')
    outcomes = outcomes_of(once.Runner("call1", tmp_path / "out", where))
    assert outcomes["latencies"]["ok"] is False and outcomes["latencies"]["said"] == "some measurements failed"
    for step in ("facts", "smoke", "together", "graphs", "same bits", "tests"):
        assert outcomes[step]["ok"] is None and said in outcomes[step]["said"], step


def test_another_gpu_gets_a_library_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of other kernels loads, but says so; the one built here is the one that counts."""
    info = {"gpus": [{"name": "A100"}], "kernels": {"cuda_solo": "this build has no kernels for this GPU"}}
    monkeypatch.setattr(linked, "_PROBE", f"print({json.dumps(json.dumps(info))})")
    found = linked._imported(60, print, "linked")
    assert found["ok"] is False and found["said"] == "this build has no kernels for this GPU"
    monkeypatch.setattr(linked, "link", lambda *given: found)
    monkeypatch.setattr(linked, "build", lambda *given: {"ok": True, "said": "built"})
    monkeypatch.setattr(check.Check, "facts", lambda self, limit: {"refused": "far enough"})
    runner = once.Runner("call1", tmp_path, prepared.places(tmp_path))
    assert runner.run(once.CALLS["call1"].steps[:3], Budget(60)), "what failed was mended"
    assert runner.missing == "far enough"


def test_a_refusing_tool_counts_as_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tool(
        tools,
        "compute-sanitizer",
        "echo ========= Error: Device not supported. Refer to its page; exit 1",
    )
    tool(tools, "ncu", "echo ==ERROR== Failed to initialize the profiler: LibraryNotLoaded; exit 1")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    checks = check.Check(lambda name, entry: None, print, None)
    found = checks.run("memcheck", 60)
    assert found == {
        "ok": None,
        "said": "compute-sanitizer refuses: ========= Error: Device not supported. Refer to its page",
    }
    found = counters.measure(lambda name, entry: None, print, 60)
    assert found["ok"] is None and found["said"].endswith("Failed to initialize the profiler: LibraryNotLoaded")
    tool(tools, "compute-sanitizer", "echo ========= Invalid __global__ write of size 4 bytes; exit 9")
    assert checks.run("memcheck", 60)["ok"] is False


# --- what is carried and linked ---------------------------------------------------------------------------------------


def test_more_than_can_be_carried_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = prepared.places(tmp_path)
    where.carried.mkdir(parents=True)
    (tmp_path / "CMakeLists.txt").write_text("")
    (where.carried / "librnnk.a").write_bytes(b"\0" * (3 << 20))
    monkeypatch.setattr(prepared, "MOST_MIB", 2.0)
    with pytest.raises(prepared.Missing, match=r"at most 2 MiB to carry, got 3\.0 MiB; .* is librnnk\.a with 3\.0 MiB"):
        prepared.write_manifest(where, {"sources": [], "flags": []}, {})
    monkeypatch.setattr(prepared, "MOST_MIB", 60.0)
    prepared.write_manifest(where, {"sources": [], "flags": []}, {})
    assert where.manifest()["mib"] == 3.0 and where.manifest()["bytes"] == {"librnnk.a": 3 << 20}


def test_the_binding_is_compiled_as_cmake_compiles_it(tmp_path: Path) -> None:
    def entry(target: str, file: str) -> dict[str, str]:
        flags = f"-DA -I{tmp_path}/csrc -isystem /usr/include/python3.11 -O3 -std=c++20 -fPIC"
        command = f"/usr/bin/c++ {flags} -o CMakeFiles/{target}.dir/{file}.o -c {tmp_path}/{file}"
        return {"file": f"{tmp_path}/{file}", "command": command}

    entries = [entry("_core", "csrc/python/binding.cpp"), entry("rnnkern_objects", "csrc/capi.cpp")]
    (tmp_path / "compile_commands.json").write_text(json.dumps(entries))
    found = prepared.binding(tmp_path, tmp_path)
    assert found["sources"] == ["csrc/python/binding.cpp"]
    assert found["flags"] == ["-DA", "-Icsrc", "-O3", "-std=c++20", "-fPIC"]


def test_a_module_that_does_not_compile_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pybind11")
    where = prepared.Places(ROOT, tmp_path / "carried", tmp_path / "site")
    where.carried.mkdir()
    prepared.write_manifest(where, {"sources": ["csrc/python/binding.cpp"], "flags": []}, {})
    tool(
        tmp_path,
        "compiler",
        "echo in file 1; echo binding.cpp:3: fatal error: no such thing; echo compilation terminated; exit 1",
    )
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    found = linked.link(where, 60, print)
    assert (
        found["ok"] is False
        and found["said"].endswith("binding.cpp:3: fatal error: no such thing")
        and not where.stamp.exists()
    )
    assert (where.package / "__init__.py").exists() and (where.package / "bench" / "gpu").is_dir()
    monkeypatch.setattr(linked.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(prepared.Missing, match=r"Python\.h is neither installed nor carried for Python 3\."):
        linked.link(where, 60, print)


def wheel(folder: Path, name: str, tag: str) -> Path:
    """One that pip can install, of a module with nothing in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-{tag}.whl"
    texts = {
        f"{name}.py": "",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{name}-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in texts.items():
            archive.writestr(file, text)
    return path


def test_wheels_of_another_machine_are_left_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Importing pip, or asking for its spec, takes setuptools' distutils from later tests, torch's Inductor among them.
    if not any(metadata.distributions(name="pip")):
        pytest.skip("pip is not installed")
    where = prepared.Places(ROOT, tmp_path / "carried", tmp_path / "site")
    wheel(where.carried / "wheels", "rnnkern_planted", "py3-none-any")
    others = [
        wheel(where.carried / "wheels", "another_python", "cp27-cp27m-manylinux1_x86_64"),
        wheel(where.carried / "wheels", "another_machine", "py3-none-manylinux_2_17_s390x"),
    ]
    prepared.write_manifest(where, {"sources": ["csrc/python/binding.cpp"], "flags": []}, {})
    monkeypatch.setattr(linked, "_headers", lambda where: ())
    tool(tmp_path, "compiler", "echo error: planted; exit 1")
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    found = linked.link(where, 120, print)
    assert (where.site / "rnnkern_planted.py").exists() and not (where.site / "another_python.py").exists()
    assert found["ok"] is False and found["said"].startswith("does not compile: error: planted; ")
    assert "left out, for another Python or machine: " in found["said"]
    assert all(other.name in found["said"] for other in others)
    (where.carried / "wheels" / "rnnkern_planted-1.0-py3-none-any.whl").write_text("no archive")
    with pytest.raises(prepared.Missing, match=r"pip does not install rnnkern_planted-1\.0-py3-none-any\.whl"):
        linked.link(where, 120, print)


def test_a_library_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = prepared.places(tmp_path)
    where.carried.mkdir(parents=True)
    for folder, name in (("cuda", "team.cu"), ("cmake", "cuda.cmake"), ("", "CMakeLists.txt"), ("cuda", "x.pyc")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(name)
    prepared.write_manifest(where, {"sources": [], "flags": []}, {})
    (tmp_path / "cuda/x.pyc").write_text("another")
    assert prepared.sources(tmp_path) == where.manifest()["sources"]
    (tmp_path / "cuda/team.cu").write_text("changed")
    with pytest.raises(
        prepared.Missing, match=r"was made of other sources: `bench/gpu/once\.sh prepare` makes it anew"
    ):
        linked.link(where, 60, print)


# --- what is printed --------------------------------------------------------------------------------------------------


def test_failing_tests_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(
        "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_n(n):\n    assert n != 3, 'planted'\n"
    )
    seen: list[dict[str, Any]] = []
    plugin = [*("-m", "pytest", "-q", "-p", f"{check.__package__}.failures", "-p", "no:cacheprovider"), "-n", "2"]
    done = jobs.run(
        [sys.executable, *NO_SITE, *plugin, str(tmp_path)], 300, jobs.json_lines(seen.append),
        {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert [(entry["test"].split("::")[-1], entry["when"]) for entry in seen] == [("test_n[3]", "call")], done.tail
    assert seen[0]["why"].startswith("AssertionError: planted")
    found = check.tested(done, 300)
    assert found["ok"] is False and found["said"] == "1 failed, 4 passed"


def test_the_tests_of_a_call_are_the_short_choice_on_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = check.tests()
    assert "--full" not in words and "--maxfail=8" in words and words[words.index("-n") + 1] == "14"
    assert words[-2:] == ["tests/cuda/test_gpu.py", "tests/cuda/test_torch.py"]
    monkeypatch.setattr(check, "tests", lambda: ["sh", "-c", 'echo "$RNNKERN_GPU_WAIT_SECONDS passed"'])
    assert check.Check(lambda name, entry: None, print, None).run("tests", 60)["said"] == "5 passed"


def test_counters_are_read_from_between_other_lines() -> None:
    name = "void rnnk::gpu::(anonymous namespace)::solo_forward_kernel<rnnk::gpu::BFloat16, rnnk::Lstm, (int)3>(P)"
    text = (
        '==PROF== Connected to process 7\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
        f'"0","{name}","Duration","us","1,024.5"\n"0","{name}","Registers Per Thread","register/thread","255"\n'
    )
    assert counters.parse(text.splitlines(keepends=True)) == {
        "solo_forward_kernel<BFloat16, Lstm, 3>": {
            "Duration": "1,024.5 us",
            "Registers Per Thread": "255 register/thread",
        }
    }  # fmt: skip
    assert counters.parse(["==ERROR== nothing\n"]) == {}


def test_a_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    steps = {f"step {n}": {"ok": True, "said": "x" * 500, "seconds": 1.0} for n in range(9)}
    found = [{"name": f"M{n}", "value": 1.0, "unit": "ns"} for n in range(60)]
    lines = summary.lines({"command": "call1", "commit": "c", "steps": steps, "latencies": found}, tmp_path, 0.0)
    assert len(lines) == summary.MOST and lines[-1] == "  ... 31 more lines in the records"
    assert max(map(len, lines)) <= 180
