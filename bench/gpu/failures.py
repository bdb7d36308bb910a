"""A plugin for pytest (``-p bench.gpu.failures``): each failure is a line of JSON as soon as it is known, so that a run
that is stopped has said which tests failed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest


class Failures:
    def __init__(self, terminal: Any) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")]
            why = (lines or report.longreprtext.splitlines() or [""])[0].removeprefix("E").strip()
            found = json.dumps({"test": report.nodeid, "when": report.when, "why": why[:300]})
            self._terminal.write(f"\n{found}\n")  # not behind the dots of tests that passed


@pytest.hookimpl(trylast=True)  # the terminal's reporter is made in this hook too
def pytest_configure(config: Any) -> None:
    """In the process that reports: not in those of pytest-xdist, which it hears of."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(terminal))
