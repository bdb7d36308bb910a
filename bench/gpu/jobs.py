"""Other processes with a time limit. On a GPU a bug may hang a kernel or poison the process's context; what ran in a
process of its own then costs its own time and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

_TAIL: Final = 4000  # characters of a failed process's last words that are kept
_LAST_WAIT: Final = 10.0  # seconds for a killed process to go


@dataclass(frozen=True)
class Done:
    """code: the exit status, None when the limit ended it. tail: the end of what it printed."""

    code: int | None
    seconds: float
    tail: str


def run(
    command: Sequence[str],
    limit: float,
    on_line: Callable[[str], None] = lambda line: None,
    environment: dict[str, str] | None = None,
) -> Done:
    """Runs a command for `limit` seconds at most; on_line gets each line of its output as it comes."""
    start = time.monotonic()
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = _lines(process.stdout)
    tail = ""
    code: int | None = None
    with contextlib.suppress(queue.Empty):
        while (line := lines.get(timeout=max(0.0, start + limit - time.monotonic()))) is not None:
            tail = (tail + line)[-_TAIL:]
            on_line(line)
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=max(1.0, start + limit - time.monotonic()))
    _kill(process)
    return Done(code, time.monotonic() - start, tail)


def json_lines(take: Callable[[dict[str, Any]], None]) -> Callable[[str], None]:
    """An on_line for `run`: objects in JSON are taken, other lines are not for us."""

    def on_line(line: str) -> None:
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                return
            take(found)

    return on_line


class Died(Exception):
    """A worker hung or crashed; the message says which, with its last words."""


class Worker:
    """A process that answers a line of JSON with a line of JSON; started when first asked, and again after it died."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self._command, self._environment = list(command), environment or {}
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """The answer. Died when there is none within `limit` seconds; the next request meets a new process."""
        self.start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            raise Died(f"no answer within {limit:.0f} s{self._ended()}") from None
        except BrokenPipeError:
            line = None
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            raise Died(f"ended with status {self._process.returncode}{self._ended()}")
        answer: dict[str, Any] = json.loads(line)
        if answer.pop("last", False):
            self._ended()
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._ended()

    def start(self) -> None:
        """Starts the process, unless it runs: what it loads, it loads while another one is asked."""
        if self._process is not None:
            return
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            env={**os.environ, **self._environment},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._lines = _lines(self._process.stdout)

    def _ended(self) -> str:
        """Ends the process. -> its last words, to be put after a sentence."""
        assert self._process is not None
        _kill(self._process)
        self._process = None
        self._words.seek(0)
        words = self._words.read()[-_TAIL:].strip()
        self._words.close()
        return f": {words}" if words else ""


def _lines(stream: IO[str]) -> queue.SimpleQueue[str | None]:
    """The lines of a stream as they come, None at its end."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _kill(process: subprocess.Popen[str]) -> None:
    """The process and those it started: a test run or a sanitizer has children that hold the GPU.

    One that hangs inside the driver does not end, and is left behind.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_LAST_WAIT)
