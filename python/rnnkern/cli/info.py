"""``rnnkern info``: the build, the machine, and which kernels can run here."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ._needs import needs


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show the build, the machine, and every kernel with the reason if it cannot run here."""
    import rnnkern as rk

    facts = rk.info()
    kernels = {kernel.name: kernel.unavailable for kernel in rk.kernels()}
    if as_json:
        listed = [{"name": name, "available": not reason, "reason": reason} for name, reason in kernels.items()]
        typer.echo(json.dumps({**facts, "kernels": listed}, indent=2))
        return

    needs("info", "cli", "rich")
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    machine = Table("", "", title="build and machine", show_header=False)
    for name, value in _rows({key: value for key, value in facts.items() if key != "kernels"}):
        machine.add_row(name, Text(value, overflow="fold"))  # Text: brackets in a value are no markup
    console.print(machine)
    table = Table("kernel", "here", title="kernels, in order of preference")
    for name, reason in kernels.items():
        table.add_row(name, Text(reason, style="yellow") if reason else Text("available", style="green"))
    console.print(table)


def _rows(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts -> (dotted name, words)."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _rows(value, f"{name}: ")
        else:
            words = " ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
            rows.append((name, words))
    return rows
