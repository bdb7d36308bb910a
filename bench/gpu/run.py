"""Measure rnnkern on a GPU. Each command stops at its time budget and writes its record as it runs.

    python -m bench.gpu.run bench       rnnkern against cuDNN, the most informative points first
    python -m bench.gpu.run strategies  the kernels of rnnkern against each other and against their estimates
    python -m bench.gpu.run stacks      three layers: as wavefronts, layer after layer, and in cuDNN
    python -m bench.gpu.run peers       the kernels that cuDNN launches; FlashRNN if it is installed

The record is bench/results/GPU/DATE-COMMAND.json. The exit status is 0 for success, 1 if something failed or an
answer was wrong, 2 for wrong arguments, and 3 without a GPU. --dry-run needs no GPU: it prints the plan.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from . import check, jobs, points, record

# A point that was begun within the budget may end some seconds beyond it. After the limit it is taken for hung; the
# first point of a process also loads CUDA and torch.
_OVERRUN: Final = 10.0
_POINT_LIMIT: Final = 90.0
_FLASHRNN: Final = ((1, 768), (12, 64), (3, 256))  # heads, units of each: of its published figures
_PEERS: Final = (points.Step("cudnn", 2), points.Step("flashrnn", 1))

# The docstring without its list of commands, which typer prints by itself.
_HELP: Final = "\n\n".join(part for part in (__doc__ or "").split("\n\n") if not part.startswith("    "))

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)

BudgetOption = Annotated[float, typer.Option(min=1, help="Time limit of the command in seconds.")]
ResultsOption = Annotated[Path, typer.Option(help="Output directory; each GPU has a subdirectory.")]
CommitOption = Annotated[str, typer.Option(help="Commit to record if this is no git checkout.")]
LengthOption = Annotated[int, typer.Option(min=1, help="Number of time steps T of every point.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan; needs no GPU.")]


def _needs_gpu(command: str) -> None:
    if refused := record.refusal():
        typer.echo(f"{command} measures on a GPU, and {refused}. --dry-run shows what it would do.", err=True)
        raise typer.Exit(record.REFUSED)


def _kept(command: str, results: Path, commit: str, budget: points.Budget, **more: Any) -> record.Record:
    import rnnkern as rk

    from .. import machine

    gpu = record.gpu()
    head = {"commit": record.commit(Path.cwd()) or commit, "budget_s": budget.seconds, "gpu": gpu}
    head |= {"versions": {"rnnkern": rk.info()["version"]} | record.versions()}
    head |= {"machine": machine.facts(rk.get_num_threads())} | more
    return record.Record(record.place(results, gpu["name"], command), command, head)


def _end(kept: record.Record) -> None:
    kept.put("gpu_after", record.gpu()["now"])
    kept.end()
    typer.echo(f"Record: {kept.path}")


def _print(*tables: Any) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    for table in tables:
        console.print(table)


def _ask(process: jobs.Worker, request: dict[str, Any], limit: float) -> dict[str, Any]:
    try:
        return process.ask(request, limit)
    except jobs.Died as error:
        return {"error": str(error)}


def over_points(
    do: str, plan: list[points.Point], budget: points.Budget, kept: record.Record, process: jobs.Worker
) -> list[dict[str, Any]]:
    """One request for each point while the budget lasts. -> the entries, which the record has too."""
    entries: list[dict[str, Any]] = []

    def measure(point: points.Point, left: float) -> None:
        found = _ask(process, {"do": do, "point": str(point)}, min(left + _OVERRUN, _POINT_LIMIT))
        entries.append({"point": str(point)} | found)
        kept.add("points", entries[-1])
        typer.echo(f"{point}: {brief(found)}")

    try:
        kept.put("unreached", [str(point) for point in points.walk(plan, budget, measure)])
    finally:
        process.close()
    return entries


def brief(found: dict[str, Any]) -> str:
    """An entry of a point on one line."""
    if "error" in found:
        return str(found["error"]).splitlines()[0][:160]
    words = [str(found.get("kernel") or found.get("algorithm") or "")]
    if "strategies" in found:
        for name, mine in found["strategies"].items():
            pair = "/".join(
                f"{mine[m]['us_per_step']:.3f}" if "us_per_step" in mine[m] else "WRONG" for m in points.MODES
            )
            words.append(f"{name} {pair} us/step")
        return "  ".join(words)
    for mode in points.MODES:
        figures = found[mode] if "us_per_step" not in found[mode] else {"cudnn": found[mode]}
        for name, figure in figures.items():
            if name == "ratio":
                words.append(f"({figure:.2f}x)")
            else:
                words.append(f"{mode} {name} " + (figure.get("wrong") or f"{figure['us_per_step']:.3f} us/step"))
    return "  ".join(words)


def faulty(entries: list[dict[str, Any]]) -> bool:
    """Whether rnnkern failed, or anybody was wrong, anywhere."""

    def figures(entry: dict[str, Any]) -> list[Any]:
        if "strategies" in entry:
            return [mine[mode] for mine in entry["strategies"].values() for mode in points.MODES]
        return [figure for mode in points.MODES for figure in entry[mode].values()]

    return any(
        "error" in entry or any("wrong" in figure for figure in figures(entry) if isinstance(figure, dict))
        for entry in entries
    )


@app.command()
def bench(
    budget: BudgetOption = 470,
    results: ResultsOption = Path("bench/results"),
    commit: CommitOption = "",
    seq_len: LengthOption = points.SEQ_LEN,
    dry_run: DryOption = False,
) -> None:
    """Compare the modules of rnnkern.torch with torch.nn (cuDNN): check the answers, then time both."""
    plan = points.grid(seq_len=seq_len)
    if dry_run:
        _dry_points(plan, budget)
        return
    _needs_gpu("bench")
    from . import summary, tables

    time = points.Budget(budget)
    kept = _kept("bench", results, commit, time, points=[])
    entries = over_points("contest", plan, time, kept, check.worker())
    kept.put("geometric_means", summary.means(entries))
    _end(kept)
    typer.echo(f"{len(entries)} of {len(plan)} points")
    _print(tables.contest(entries))
    if faulty(entries):
        raise typer.Exit(1)


@app.command()
def strategies(
    budget: BudgetOption = 470,
    results: ResultsOption = Path("bench/results"),
    commit: CommitOption = "",
    seq_len: LengthOption = points.SEQ_LEN,
    dry_run: DryOption = False,
) -> None:
    """Time every rnnkern kernel that accepts a point, beside its estimate, to calibrate the kernel choice."""
    plan = points.grid(seq_len=seq_len)
    _compare("strategies", plan, budget, results, commit, dry_run)


@app.command()
def stacks(
    budget: BudgetOption = 470,
    results: ResultsOption = Path("bench/results"),
    commit: CommitOption = "",
    seq_len: LengthOption = points.SEQ_LEN,
    dry_run: DryOption = False,
) -> None:
    """Time three layers: as the chosen wavefront, as wavefronts of other sizes, layer after layer, and in cuDNN."""
    plan = points.grid(precisions=points.PRECISIONS[:3], batches=points.BATCHES[:4], seq_len=seq_len, layers=3)
    _compare("stacks", plan, budget, results, commit, dry_run)


def _compare(command: str, plan: list[points.Point], budget: float, results: Path, commit: str, dry_run: bool) -> None:
    """Ways of rnnkern's at every point, beside each other."""
    if dry_run:
        _dry_points(plan, budget)
        return
    _needs_gpu(command)
    from . import tables

    time = points.Budget(budget)
    kept = _kept(command, results, commit, time, points=[])
    entries = over_points(command, plan, time, kept, check.worker())
    _end(kept)
    typer.echo(f"{len(entries)} of {len(plan)} points")
    _print(*(tables.strategies(entries, mode) for mode in points.MODES))
    if faulty(entries):
        raise typer.Exit(1)


@app.command()
def peers(
    budget: BudgetOption = 470,
    results: ResultsOption = Path("bench/results"),
    commit: CommitOption = "",
    seq_len: LengthOption = points.SEQ_LEN,
    dry_run: DryOption = False,
) -> None:
    """Time cuDNN and list its kernels, then time FlashRNN, which compiles for minutes at each shape."""
    plan = points.grid(seq_len=seq_len)
    flashrnn = importlib.util.find_spec("flashrnn") is not None
    if dry_run:
        _dry_points(plan, budget)
        typer.echo("then FlashRNN" if flashrnn else "FlashRNN is not installed: left out")
        return
    _needs_gpu("peers")
    from . import tables

    time = points.Budget(budget)
    kept = _kept("peers", results, commit, time, points=[])
    mine = points.Budget(points.share(time, _PEERS) if flashrnn else time.left())
    entries = over_points("cudnn", plan, mine, kept, check.worker())
    process = check.worker()
    try:
        for heads, size in _FLASHRNN if flashrnn else ():
            found = _ask(process, {"do": "flashrnn", "heads": heads, "head_dim": size}, max(1.0, time.left()))
            kept.add("flashrnn", {"heads": heads, "head_dim": size} | found)
            typer.echo(f"FlashRNN, {heads} heads of {size}: {found}")
    finally:
        process.close()
    if not flashrnn:
        kept.put("flashrnn", "not installed")
    _end(kept)
    typer.echo(f"{len(entries)} of {len(plan)} points")
    _print(tables.algorithms(entries))


def _dry_points(plan: list[points.Point], budget: float) -> None:
    def say(point: points.Point, left: float) -> None:
        typer.echo(str(point))

    points.walk(plan, points.Budget(budget), say)
    typer.echo(f"{len(plan)} points in this order, each in both modes, as many as {budget:.0f} s have room for")


if __name__ == "__main__":
    app()
