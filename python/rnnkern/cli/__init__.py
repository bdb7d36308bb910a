"""The command line: ``rnnkern info``, ``rnnkern bench``, ``rnnkern demo`` (also ``python -m rnnkern.cli``).

Each command is a module of its own that says what its options are and imports what it works with only when it runs.
"""

from __future__ import annotations

from collections.abc import Callable


def _build() -> Callable[[], None]:
    """The typer application; where typer is not installed, a function that says what to install."""
    try:
        import typer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __name__.partition(".")[0]:
            raise

        message = f"rnnkern: the command line needs {error.name}, which is not installed: pip install 'rnnkern[cli]'"

        def refuse() -> None:
            raise SystemExit(message)

        return refuse

    from .bench import bench
    from .demo import PASS_ON, demo
    from .info import info

    app = typer.Typer(
        name="rnnkern",
        help="Fused recurrent kernels: show this machine's kernels, measure them, or train a character model.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",  # paragraphs of a docstring flow to the width of the terminal
        pretty_exceptions_show_locals=False,  # a traceback full of arrays helps nobody
    )
    app.command()(info)
    app.command()(bench)
    app.command(context_settings=PASS_ON)(demo)
    return app


app = _build()
