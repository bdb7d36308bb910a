"""What ``rnnkern demo`` shows while it trains: a progress bar, and a line for every held-out loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .loop import History

RECENT = 20  # steps that the loss and the rate on the bar are taken over


class Screen:
    """A loop.Watcher on a rich console. ``keep`` is called at every best held-out loss, to save the model.

    Where the console is no terminal the bar is left out and the lines remain.
    """

    def __init__(self, console: Console, budget: float, keep: Callable[[], None]) -> None:
        self._console, self._budget, self._keep = console, budget, keep
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} characters/s"),
            TextColumn("{task.fields[left]} left"),
            console=console,
            transient=True,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=budget, loss="-", rate="-", left=_clock(budget))
        self.saved = False

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, history: History) -> None:
        now = history.seconds[-1]
        recent = history.loss[-RECENT:]
        self._progress.update(
            self._task,
            completed=min(now, self._budget),
            loss=f"{math.fsum(recent) / len(recent):.3f}",
            rate=f"{history.characters / now:,.0f}",
            left=_clock(max(0.0, self._budget - now)),
        )

    def evaluated(self, history: History, best: bool) -> None:
        seconds, nats = history.held_out[-1]
        recent = history.loss[-RECENT:]
        training = f"training loss {math.fsum(recent) / len(recent):.3f}, " if recent else ""
        if best:
            self._keep()
            self.saved = True
        self._console.print(f"{_clock(seconds)}  {training}held-out loss {nats:.3f}{' (saved)' if best else ''}")


def summary(history: History, length: int) -> str:
    """Two sentences on how it went; length: characters of the training text."""
    seconds = history.seconds[-1] if history.seconds else 0.0
    rate = history.characters / seconds if seconds else 0.0
    nats = history.best
    return (
        f"{'Stopped' if history.stopped else 'Done'} after {_clock(seconds)}: {history.characters:,} characters "
        f"({history.characters / length:.1f} passes over the text), {rate:,.0f} a second.\n"
        f"Held-out loss: {nats:.3f} nats a character ({nats / math.log(2):.3f} bits), on text never trained on."
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
