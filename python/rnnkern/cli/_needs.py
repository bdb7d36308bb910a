"""What a command needs beyond rnnkern itself, looked for before it starts rather than after minutes of work."""

from __future__ import annotations

import importlib.util

import typer


def needs(command: str, extra: str, *modules: str) -> None:
    """Exit code 1 with a sentence that says what to install, unless every module can be found."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        typer.echo(
            f"rnnkern {command} needs {' and '.join(missing)}, not installed: pip install 'rnnkern[{extra}]'", err=True
        )
        raise typer.Exit(1)
