"""``rnnkern bench``: this machine against every peer that is installed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._needs import needs

if TYPE_CHECKING:
    from rnnkern.bench.driver import Outcome, Settings
    from rnnkern.bench.timing import Plan
    from rnnkern.problems import Problem

_WIDTH = 150  # of the table where the output is not a terminal


def bench(
    problems: Annotated[
        list[str] | None,
        typer.Option(help="Problem such as 'lstm t100b16i64h64 f32 lengths', or a file of problems. Repeatable."),
    ] = None,
    kernels: Annotated[
        str, typer.Option(help="Kernels to force: comma-separated names, or 'all'. Default: the library chooses.")
    ] = "",
    peers: Annotated[
        str,
        typer.Option(
            help="Comma-separated: torch, onnxruntime, openvino, jax, flax, keras; or 'none'. Default: all installed."
        ),
    ] = "",
    modes: Annotated[str, typer.Option(help="'inference' or 'training'. Default: both.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="Threads of every library. 0: all CPUs of this process.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Use a short list of problems and short blocks.")] = False,
    blocks: Annotated[int, typer.Option(min=0, help="Timed blocks per library. 0: 7, or 3 with --quick.")] = 0,
    block_ms: Annotated[float, typer.Option(min=0, help="Minimum block time in ms. 0: 50, or 15 with --quick.")] = 0,
    pause_ms: Annotated[
        float, typer.Option(min=0, help="Minimum pause before a block in ms; it lasts until all threads are idle.")
    ] = 20,
    json: Annotated[Path | None, typer.Option(help="Write the machine, versions and raw times to a file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the speeds into a file (png, svg, pdf).")] = None,
) -> None:
    """Compare rnnkern with every installed peer: check that the answers agree, then time all in alternating blocks.

    The exit code is 1 if an answer was wrong or a library failed, and 2 if an option is invalid.
    """
    needs("bench", "cli", "rich")
    if plot is not None:
        needs("bench --plot", "cli", "matplotlib")
    for path in (json, plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise typer.BadParameter(f"{path}: expected a file in a directory that exists")
    from rnnkern import problems as known
    from rnnkern.bench.timing import Plan

    try:
        chosen = _problems(problems) if problems else known.BENCH_QUICK if quick else known.BENCH
        plan = Plan(
            blocks=blocks or (3 if quick else 7), block=(block_ms or (15 if quick else 50)) / 1e3, pause=pause_ms / 1e3
        )
        names = {"kernels": kernels, "peers": peers, "modes": modes}
        settings = _settings(chosen, names, plan, threads=threads, probe=0.03 if quick else 0.1)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    outcome = _run(settings)
    _show(outcome)
    if json is not None:
        from rnnkern.bench.report import write_json

        write_json(outcome, json)
    if plot is not None:
        from rnnkern.bench.plot import draw

        draw(outcome, plot)
    if outcome.faults:
        raise typer.Exit(1)


def _settings(chosen: Sequence[Problem], names: dict[str, str], plan: Plan, threads: int, probe: float) -> Settings:
    """names: what the user wrote for kernels, peers and modes."""
    import rnnkern as rk
    from rnnkern.bench.driver import Settings
    from rnnkern.bench.subject import Subject

    forced = _words(names["kernels"])
    if forced == ["all"]:
        forced = [k.name for k in rk.kernels() if not k.unavailable and not k.weights]
    for kernel in forced:
        Subject(kernel)  # an unknown one is refused here, before any work
    options: dict[str, list[str]] = {}
    if names["peers"]:
        options["peers"] = [] if names["peers"] == "none" else _words(names["peers"])
    if names["modes"]:
        options["modes"] = _words(names["modes"])
    return Settings(chosen, threads=threads, kernels=tuple(forced), plan=plan, probe=probe, **options)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _problems(given: Iterable[str]) -> list[Problem]:
    """A word on its own is a file's name (a problem has at least two words)."""
    from rnnkern.problems import parse_all

    lines: list[str] = []
    for text in given:
        if len(text.split()) == 1:
            if not Path(text).is_file():
                raise ValueError(f"problems: expected a problem like 'lstm t7b3i5h8' or a file of them, got {text!r}")
            lines += Path(text).read_text(encoding="utf-8").splitlines()
        else:
            lines.append(text)
    return parse_all(lines)


def _run(settings: Settings) -> Outcome:
    """The benchmark under a progress bar on stderr, which is gone when it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rnnkern.bench.driver import run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # auto_refresh=False: a thread that redraws ten times a second would disturb what is timed.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=None)

        def report(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what)
            progress.refresh()

        return run(settings, report)


def _show(outcome: Outcome) -> None:
    from rich.console import Console

    from rnnkern.bench.table import show

    console = Console()
    show(outcome, console if console.is_terminal else Console(width=_WIDTH))
