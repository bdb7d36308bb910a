"""``rnnkern demo``: runs a program of the gallery (examples/), which lies beside the package as rnnkern.examples."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import typer

from ._needs import needs

# Every option is the program's, --help included.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def demo(context: typer.Context) -> None:
    """Train a character model, draw what it learned and sample from it.

    `rnnkern demo NN`, with a number from 01 to 11, runs another program of the gallery. All other arguments go to the
    program; `rnnkern demo --help` lists them.
    """
    needs("demo", "cli", "rich", "matplotlib")
    number, arguments = "01", context.args
    if arguments and not arguments[0].startswith("-"):
        number, *arguments = arguments
    shared = importlib.util.find_spec("rnnkern.examples.shared")
    if shared is None or shared.origin is None:
        raise RuntimeError("rnnkern.examples: expected the programs beside the installed package, found none")
    folder = Path(shared.origin).parent
    programs = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.py"))}
    if number not in programs:
        typer.echo(f"rnnkern demo: expected a number of {', '.join(programs)}, got {number!r}", err=True)
        raise typer.Exit(2)
    sys.argv = [str(programs[number]), *arguments]
    sys.path.insert(0, str(folder))  # as Python does for a script: the programs import their shared parts by name
    runpy.run_path(str(programs[number]), run_name="__main__")
