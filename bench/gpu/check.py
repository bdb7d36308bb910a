"""The parts of once.sh's first call, and its sanitizers: what must hold on a GPU before its times mean anything.

A part's outcome is {"ok": True, False or None, "said": a sentence}, None when it could not run, besides what it found.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from . import jobs
from .points import CELLS, Point

LATENCIES: Final = Path(__file__).with_name("latencies.cu")

TIMES: Final = 100  # repetitions that must give the same bits
WAIT: Final = {"RNNKERN_GPU_WAIT_SECONDS": "2"}  # a wait between blocks that is not met costs no more than that
_WORKERS: Final = 14  # of the tests, of 16 cores
_MOST_FAILURES: Final = 8  # after which the tests end: what follows is seldom another fault
_LONG: Final = "h1024 and (f64 or (f16 and not bf16))"  # whose reference takes 10 to 40 s of a CPU
_FIRST: Final = 60.0  # seconds for the first answer of a process, which loads torch and CUDA; then _ANSWER
_ANSWER: Final = 15.0

# One for each way in which a layer can be spread over the GPU: within an SM, over some, over all; rows beyond one tile.
REPEATED: Final = (
    Point("lstm", "bf16", 128, 16, 64),
    Point("lstm", "bf16", 256, 64, 64),
    Point("lstm", "f32", 256, 7, 64),
    Point("gru", "bf16", 1024, 16, 64),
    Point("lstm", "tf32", 512, 33, 64),
    Point("rnn_tanh", "f16", 2048, 8, 64),
)

# Every strategy is asked at every one of these: teams within an SM, over some, over all.
SMOKE: Final = tuple(Point(cell, "bf16", size, 16, 64) for size in (128, 256, 768, 1024) for cell in CELLS)

# (environment, point): calls with several launches that may run at the same time, of two directions or of a wavefront's
# layers. On 132 multiprocessors they fit together, except those of H=768, B=16, which run one after the other.
_GRID: Final = {"RNNKERN_KERNEL": "cuda_grid"}
_WAVE: Final = {"RNNKERN_GPU_WAVE": "16"}
TOGETHER: Final = (
    (_GRID, Point("lstm", "bf16", 768, 8, 256, directions=2)),
    (_GRID, Point("lstm", "bf16", 256, 16, 256, directions=2)),
    (_GRID, Point("lstm", "bf16", 768, 16, 256, directions=2)),
    (_WAVE, Point("lstm", "bf16", 256, 16, 256, layers=4)),
    (_WAVE | _GRID, Point("lstm", "bf16", 256, 16, 256, layers=4)),
)
TOGETHER_TIMES: Final = 200

CAPTURED: Final = (Point("lstm", "bf16", 128, 16, 32), Point("gru", "bf16", 256, 16, 32))  # by every strategy
MEMCHECKED: Final = tuple(replace(point, seq_len=8) for point in REPEATED)  # a sanitizer is ten to fifty times slower

Outcome = dict[str, Any]


def nvcc() -> str:
    """The compiler's path, "" where there is none."""
    return toolkit("nvcc")


def toolkit(name: str, *folders: str) -> str:
    """The path of one of CUDA's programs, which may lie in the toolkit or in these folders; "" where there is none."""
    own = f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin"
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join([own, *folders])) or ""


def build(compiler: str, to: Path) -> list[str]:
    """The command that builds latencies.cu."""
    target = ("-gencode=arch=compute_90a,code=sm_90a", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra")
    return [compiler, "-O3", "-std=c++17", *target, str(LATENCIES), "-o", str(to)]


def module(name: str) -> list[str]:
    """The command that runs a module of this folder."""
    return [sys.executable, "-m", f"{__package__}.{name}"]


def tests() -> list[str]:
    """The short choice (tests/support/choice.py): every value of a parameter, and every pair of values, once."""
    spread = ["-n", str(_WORKERS), "--dist", "worksteal", f"--maxfail={_MOST_FAILURES}"]
    named = ["-p", f"{__package__}.failures", "-p", "no:cacheprovider"]
    marked = [str(path) for path in sorted(Path("tests/cuda").glob("test_*.py")) if "mark.gpu" in path.read_text()]
    which = ["-m", "gpu and not slow", "-k", f"not ({_LONG})"]
    return [sys.executable, "-m", "pytest", "-q", *spread, *named, *which, *marked]


def sanitized(sanitizer: str, tool: str) -> list[str]:
    """Small problems under a tool that looks at rnnkern's own kernels only: torch's would take all the time."""
    watched = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--kernel-name", "kns=rnnk"]
    return [*watched, *module("worker"), json.dumps({"do": "small", "points": list(map(str, MEMCHECKED))})]


def worker(environment: dict[str, str] | None = None) -> jobs.Worker:
    return jobs.Worker(module("worker"), environment)


class Check:
    """take: receives each figure at once, for the record. line: receives each line that a program prints. program: the
    compiled latencies.cu, or None. One worker answers every request, except in steps that start processes of their own.
    """

    def __init__(self, take: Callable[[str, Any], None], line: Callable[[str], None], program: Path | None) -> None:
        self.take, self.line, self.program = take, line, program
        self.strategies: tuple[str, ...] = ()
        self._common = worker(WAIT)

    def run(self, step: str, limit: float) -> Outcome:
        named: dict[str, Callable[[float], Outcome]] = {
            "latencies": self._latencies,
            "tests": self._tests,
            "smoke": self._smoke,
            "together": self._together,
            "graphs": self._graphs,
            "same bits": self._same_bits,
        }
        return named[step](limit) if step in named else self._sanitized(step, limit)

    def _run(self, command: list[str], limit: float, name: str = "", **environment: str) -> jobs.Done:
        """Objects in JSON that the command prints are entries of the list `name`."""
        entries = jobs.json_lines(lambda entry: self.take(name, entry))

        def on_line(line: str) -> None:
            self.line(line)
            if name:
                entries(line)

        return jobs.run(command, limit, on_line, environment)

    def _latencies(self, limit: float) -> Outcome:
        """By the program that is given, unless it does not start here; then, and without one, it is compiled."""
        end = time.monotonic() + limit
        if self.program is not None:
            done = self._run([str(self.program)], limit, "latencies")
            if '{"' in done.tail or done.code in (2, None):
                return _measured(done, limit)
        compiler = nvcc()
        if not compiler:
            why = "" if self.program is None else f", and {self.program.name} does not start: {last(done.tail)}"
            return {"ok": None, "said": f"nvcc is not installed{why}"}
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "latencies"
            built = self._run(build(compiler, program), end - time.monotonic())
            if built.code != 0:
                return compiled(built, limit)
            return _measured(self._run([str(program)], end - time.monotonic(), "latencies"), limit)

    def _tests(self, limit: float) -> Outcome:
        return tested(self._run(tests(), limit, "failures", RNNKERN_GPU_WAIT_SECONDS="5"), limit)

    def facts(self, limit: float) -> dict[str, Any]:
        """Asks the worker for its `facts`, and keeps the names of the strategies that run here."""
        found = self._common.ask({"do": "facts"}, limit)
        self.strategies = tuple(found.get("strategies", ()))
        return found

    def close(self) -> None:
        self._common.close()

    def _smoke(self, limit: float) -> Outcome:
        """A process for each strategy, since a fault may leave its process without a GPU."""
        asking = _Asking(self.take, "smoke", time.monotonic() + limit)
        processes = {name: worker(WAIT | {"RNNKERN_KERNEL": name}) for name in self.strategies}
        requests = [{"do": "smoke", "point": str(point)} for point in SMOKE]
        try:
            for process in processes.values():  # so that they load torch beside each other
                process.start()
            for name, process in processes.items():
                asking.ready(process, name)
            for index, (name, process) in enumerate(processes.items()):
                declined = asking.declined
                asking.all(process, requests, {"kernel": name}, 1 / (len(processes) - index))
                if asking.declined - declined == len(requests):
                    asking.fault(f"{name} takes none of the points")
        finally:
            for process in processes.values():
                process.close()
        return asking.outcome(f"{len(SMOKE)} points by {len(processes)} strategies, {asking.declined} declined")

    def _together(self, limit: float) -> Outcome:
        repeated = {"do": "repeat", "times": TOGETHER_TIMES}
        requests = [repeated | {"point": str(point), "environment": values} for values, point in TOGETHER]
        asking = _Asking(self.take, "together", time.monotonic() + limit)
        asking.all(self._common, requests)
        return asking.outcome(f"{TOGETHER_TIMES} repetitions at {len(TOGETHER)} points")

    def _graphs(self, limit: float) -> Outcome:
        asking = _Asking(self.take, "graphs", time.monotonic() + limit)
        forced = [{"environment": {"RNNKERN_KERNEL": name}} for name in self.strategies]
        requests = [{"do": "graph", "point": str(point)} | kernel for kernel in forced for point in CAPTURED]
        asking.all(self._common, requests)
        return asking.outcome(f"{len(CAPTURED)} points, {len(self.strategies)} strategies")

    def _same_bits(self, limit: float) -> Outcome:
        asking = _Asking(self.take, "same bits", time.monotonic() + limit)
        requests = [{"do": "repeat", "point": str(point), "times": TIMES} for point in REPEATED]
        asking.all(self._common, requests)
        return asking.outcome(f"{TIMES} repetitions at {len(REPEATED)} points")

    def _sanitized(self, tool: str, limit: float) -> Outcome:
        sanitizer = toolkit("compute-sanitizer")
        if not sanitizer:
            return {"ok": None, "said": "compute-sanitizer is not installed"}
        # torch's cache would hide an access beyond an array that stays within the cached block.
        done = self._run(sanitized(sanitizer, tool), limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        refused = re.search(
            r"^=========.*(?:not supported|[Ff]ailed to initialize|LibraryNotLoaded).*", done.tail, re.M
        )
        if done.code not in (0, 9) and refused:
            return {"ok": None, "said": f"compute-sanitizer refuses: {refused[0].strip()[:160]}"}
        return ended(done, limit)


class _Asking:
    """Requests to workers until a deadline, and what went wrong among the answers, which the record gets one by one."""

    def __init__(self, take: Callable[[str, Any], None], name: str, deadline: float) -> None:
        self._take, self._name, self._deadline = take, name, deadline
        self._faults: list[str] = []
        self._unasked = 0
        self.declined = 0

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def ready(self, process: jobs.Worker, name: str) -> None:
        """Waits for what a process loads at first, so that nothing of it counts as the time of a point."""
        try:
            process.ask({"do": "ready"}, min(_FIRST, self._left()))
        except jobs.Died as error:
            self.fault(f"{name}: {error}")

    def all(
        self,
        process: jobs.Worker,
        requests: list[dict[str, Any]],
        about: dict[str, str] | None = None,
        share: float = 1.0,
    ) -> None:
        """about: further words of every entry. share: of the time that is left."""
        limit, until = _FIRST, time.monotonic() + self._left() * share
        for request in requests:
            left = until - time.monotonic()
            if left <= 0:
                self._unasked += 1
                continue
            try:
                found = process.ask(request, min(limit, left))
                limit = _ANSWER
            except jobs.Died as error:
                found, limit = {"error": str(error)}, _FIRST
            given = {name: request[name] for name in ("point", "environment") if name in request}
            self._take(self._name, given | (about or {}) | found)
            if fault := found.get("error") or found.get("wrong") or found.get("differing"):
                name = " ".join([*(about or {}).values(), *request.get("environment", {}).values()])
                self.fault(f"{name} {request['point']}: {fault}".strip())
            self.declined += "declined" in found

    def fault(self, said: str) -> None:
        self._faults.append(said)

    def outcome(self, said: str) -> Outcome:
        unasked = [f"{self._unasked} not reached"] if self._unasked else []
        ok = False if self._faults else None if self._unasked else True
        return {"ok": ok, "said": "; ".join([*unasked, *self._faults]) or said, "faults": len(self._faults)}


def tested(done: jobs.Done, limit: float) -> Outcome:
    """pytest's exit status: 0 all passed, 5 nothing was collected."""
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", done.tail)
    if done.code == 5:
        return {"ok": None, "said": "no test is marked gpu", "tail": done.tail}
    if done.code is None:
        return ended(done, limit)
    return {"ok": done.code == 0, "said": ", ".join(map(" ".join, counts)) or last(done.tail), "tail": done.tail}


def _measured(done: jobs.Done, limit: float) -> Outcome:
    """latencies.cu says by status 2 that the GPU is not for it, by 1 that some measurements failed."""
    words = {0: "all measured", 1: "some measurements failed", 3: "a kernel did not end"}
    said = {"said": words[done.code]} if done.code in words else {}
    return ended(done, limit) | said | ({"ok": None} if done.code == 2 else {})


def ended(done: jobs.Done, limit: float) -> Outcome:
    said = f"stopped after {limit:.0f} s" if done.code is None else last(done.tail)
    return {"ok": done.code == 0, "said": said, "status": done.code, "seconds": done.seconds, "tail": done.tail}


def compiled(done: jobs.Done, limit: float) -> Outcome:
    """How a compiler ended: by its first error, after which others and a sum follow."""
    found = ended(done, limit)
    errors = [line.strip() for line in done.tail.splitlines() if re.search(r"\berror\b", line)]
    return found | ({"said": f"does not compile: {errors[0][:200]}"} if done.code and errors else {})


def last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:200]
