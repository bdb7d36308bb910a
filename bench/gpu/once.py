"""bench/gpu/once.sh: one run on a bare GPU machine. Each step has its own limit, leaves its outcome in the record at
once, and stops none of the others; a step that cannot run here says why.

The exit status is 0 if no step failed, 1 if one did, 2 for wrong arguments, and 3 if nothing was checked or measured:
every step after the preparation of the package was left out.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from . import check, counters, jobs, linked, points, prepared, record, summary
from .points import Budget, Step

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Call:
    seconds: float
    steps: tuple[Step, ...]


_LINK: Final = (Step("link", 80), Step("build", 0), Step("facts", 25))
CALLS: Final = {
    # The tests come last, since other steps show most faults sooner; they get the time that those leave.
    "call1": Call(
        240,
        (
            *(*_LINK, Step("latencies", 40), Step("smoke", 45), Step("together", 25)),
            *(Step("graphs", 15), Step("same bits", 20), Step("tests", 45)),
        ),
    ),
    "call2": Call(
        400,
        (
            *(*_LINK, Step("strategies", 140), Step("bench", 110), Step("counters", 35), Step("peers", 20)),
            *(Step("memcheck", 45), Step("racecheck", 20)),
        ),
    ),
}
_LEAST: Final = 3.0  # seconds without which a step is not begun
_AFTER: Final = 20.0  # seconds from which a command of run.py begins no further point: its last one, and its tables

Action = Callable[[float], check.Outcome]


class Runner:
    """The steps of a call. out: the folder of its record and its log."""

    def __init__(self, name: str, out: Path, where: prepared.Places) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.name, self.out, self.where = name, out, where
        self._log: IO[str] = (out / f"{name}.log").open("a", encoding="utf-8")
        self.commit = record.commit(where.root) or self._carried_commit()
        self.kept = record.Record(_free(out, name), name, {"commit": self.commit, "steps": {}})
        self._reasons: list[str] = []
        self.missing = "there is no module of rnnkern"  # why steps that need it, torch and a GPU are left out
        latencies = where.carried / "latencies"
        if latencies.is_file() and not os.access(latencies, os.X_OK):
            latencies.chmod(0o755)  # a copy has lost it
        self.checks = check.Check(self.kept.add, self._line, latencies if latencies.is_file() else None)

    def _carried_commit(self) -> str:
        try:
            return str(self.where.manifest()["commit"])
        except prepared.Missing:
            return ""

    def _line(self, line: str) -> None:
        self._log.write(line if line.endswith("\n") else line + "\n")
        self._log.flush()

    def actions(self) -> dict[str, Action]:
        """The steps that need no module of rnnkern."""
        return {
            "link": self._link,
            "build": self._build,
            "latencies": lambda limit: self.checks.run("latencies", limit),
        }

    def _action(self, step: str) -> Action:
        if step in (alone := self.actions()):
            return alone[step]
        named: dict[str, Action] = {
            "facts": self._facts,
            "counters": lambda limit: counters.measure(self.kept.add, self._line, limit),
            "peers": self._peers,
            "strategies": lambda limit: self._command("strategies", limit),
            "bench": lambda limit: self._command("bench", limit),
        }
        if self.missing:
            return lambda limit: {"ok": None, "said": self.missing}
        return named.get(step, lambda limit: self.checks.run(step, limit))

    def run(self, steps: tuple[Step, ...], budget: Budget) -> bool:
        """Whether no step failed."""
        outcomes: dict[str, check.Outcome] = {}
        for index, step in enumerate(steps):
            # A step without a weight (`build`) acts only if an earlier step failed; it may use all the time left.
            limit = points.share(budget, steps[index:]) if step.weight else budget.left()
            self._line(f"=== {step.name}, {limit:.0f} s")
            start = time.monotonic()
            outcome = self._outcome(step.name, limit)
            outcomes[step.name] = outcome | {"seconds": time.monotonic() - start, "limit_s": limit}
            self.kept.put("steps", outcomes)
            print(f"{step.name}: {outcome['said']}", flush=True)
        self.checks.close()
        self.kept.end()
        return all(outcome["ok"] is not False or self._mended(name, outcomes) for name, outcome in outcomes.items())

    def idle(self) -> str:
        """Returns why nothing was checked or measured, or "" if a step after the package's did run."""
        package = {step.name for step in _LINK}
        steps = {name: outcome for name, outcome in self.kept.document["steps"].items() if name not in package}
        if any(outcome["ok"] is not None for outcome in steps.values()):
            return ""
        return "; ".join(dict.fromkeys(str(outcome["said"]) for outcome in steps.values()))

    def _outcome(self, step: str, limit: float) -> check.Outcome:
        if limit < _LEAST:
            return {"ok": None, "said": "no time is left"}
        try:
            return self._action(step)(limit)
        except Exception as error:  # of this program: the steps after it go on
            return {"ok": False, "said": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}

    @staticmethod
    def _mended(name: str, outcomes: dict[str, check.Outcome]) -> bool:
        return name == "link" and bool(outcomes.get("build", {}).get("ok"))

    # --- steps ------------------------------------------------------------------------------------------------------

    def _link(self, limit: float) -> check.Outcome:
        return self._module(linked.link, limit)

    def _build(self, limit: float) -> check.Outcome:
        if not self.missing:
            return {"ok": None, "said": "not needed: what was carried works"}
        return self._module(linked.build, limit)

    def _module(self, make: linked.Make, limit: float) -> check.Outcome:
        try:
            outcome = make(self.where, limit, self._line)
        except prepared.Missing as missing:
            outcome = {"ok": False, "said": str(missing)}
        self._reasons.append(str(outcome["said"]))
        self.missing = "" if outcome["ok"] else f"there is no module of rnnkern: {'; '.join(self._reasons)}"
        return outcome

    def _facts(self, limit: float) -> check.Outcome:
        """Records the GPU and the versions. If nothing can be measured here, later steps are left out."""
        try:
            found = self.checks.facts(limit)
        except jobs.Died as error:
            found = {"error": str(error)}
        self.kept.put("facts", found)
        refused = found.get("error") or found.get("refused")
        if refused:
            self.missing = str(refused).splitlines()[-1]
            return {"ok": None, "said": self.missing}
        self.kept.put("gpu", found["gpu"])
        gpu, versions = found["gpu"], found["versions"]
        said = f"{gpu['name']}, {gpu.get('now', {}).get('driver_version', 'driver unknown')}, torch {versions['torch']}"
        return {"ok": True, "said": f"{said}, cuDNN {versions['cudnn']}"}

    def _command(self, name: str, limit: float) -> check.Outcome:
        """A command of run.py, which writes its own record beside this one."""
        budget = ["--budget", f"{max(1.0, limit - _AFTER):.0f}", "--results", str(self.out), "--commit", self.commit]
        done = jobs.run([*check.module("run"), name, *budget], limit, self._line)
        outcome = check.ended(done, limit)
        if reached := re.search(r"\d+ of \d+ points", done.tail):
            outcome["said"] = reached[0] + ("" if done.code == 0 else ", some failed or wrong")
        return outcome | ({"ok": None} if done.code == record.REFUSED else {})

    def _peers(self, limit: float) -> check.Outcome:
        """Records which kernels cuDNN launches, if ncu could not read the counters."""
        if "counters" in self.kept.document:
            return {"ok": None, "said": "not needed: ncu read the counters"}
        return self._command("peers", limit)


def _free(out: Path, name: str) -> Path:
    """A record that is there is not written over."""
    names = [f"{name}.json", *(f"{name}-{count}.json" for count in range(2, 100))]
    return next(out / name for name in names if not (out / name).exists())


def call(name: str, out: Path, where: prepared.Places, seconds: float) -> int:
    # In front of what is installed; the processes that are started import rnnkern from there.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(where.site), os.environ.get("PYTHONPATH", "")]))
    sys.path.append(str(where.site))  # the wheels that lie there
    since = time.time()
    runner = Runner(name, out.resolve(), where)
    fine = runner.run(CALLS[name].steps, Budget(seconds))
    print(*summary.lines(runner.kept.document, runner.out, since), sep="\n", flush=True)
    if fine and (why := runner.idle()):
        print(f"{name}: nothing was checked or measured: {why}", file=sys.stderr)
        return record.REFUSED
    return 0 if fine else 1


def main(words: list[str]) -> int:
    """argparse, which needs no installation, unlike the other commands' typer."""
    parser = argparse.ArgumentParser(prog="bench/gpu/once.sh", description=__doc__)
    parser.add_argument("what", choices=["prepare", *CALLS])
    out = os.environ.get("OUT") or ROOT / "build/gpu/out"
    parser.add_argument("--out", type=Path, default=out, help="output folder")
    parser.add_argument("--caller", type=Path, default=Path.cwd(), help="the folder that --out is relative to")
    parser.add_argument("--seconds", type=float, help="time limit of the whole call")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="of the compilers in prepare")
    parser.add_argument("--dry", action="store_true", help="no GPU: pretended tools, tiny problems")
    given = parser.parse_args(words)
    where = prepared.places(ROOT)
    if given.what == "prepare":
        try:
            manifest = prepared.prepare(where, given.processes)
        except prepared.Missing as missing:
            print(f"prepare: {missing}", file=sys.stderr)
            return 1
        print(f"{where.carried}: {manifest['mib']} MiB in {manifest['seconds']['all']:.0f} s")
        return 0
    out = given.caller / given.out
    if given.dry:
        from . import dry

        where = dry.pretend(out / "dry", ROOT)
    seconds = given.seconds or CALLS[given.what].seconds
    return call(given.what, out, where, seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
