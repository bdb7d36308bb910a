"""``rnnkern demo``: trains a character model on real text, on rnnkern and NumPy alone, and samples from it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._needs import needs

if TYPE_CHECKING:
    from .charlm.corpus import Corpus
    from .charlm.loop import History, Settings
    from .charlm.model import CharModel

PROMPT = "The "
OUT = Path("rnnkern-demo")


def demo(
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="UTF-8 text file to train on.", show_default="Python's own help topics"),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="Training time in minutes.")] = 2.0,
    hidden: Annotated[int, typer.Option(min=1, help="Hidden size of each LSTM layer.")] = 256,
    layers: Annotated[int, typer.Option(min=1, help="Number of LSTM layers.")] = 2,
    embedding: Annotated[int, typer.Option(min=1, help="Size of the character embedding.")] = 64,
    dropout: Annotated[float, typer.Option(min=0.0, max=1.0, help="Dropout probability between layers.")] = 0.2,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 32,
    seq_len: Annotated[int, typer.Option(min=1, help="Steps of truncated backpropagation through time.")] = 64,
    lr: Annotated[float, typer.Option(min=0.0, help="Peak learning rate of Adam.")] = 4e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights, the data order and the sample.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Output directory for model.safetensors and loss.png.")
    ] = OUT,
    prompt: Annotated[
        str | None,
        typer.Option(help="First characters of the sample.", show_default=f"{PROMPT!r}, or the text's first character"),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Sampling temperature; 0 always picks the most likely character.")
    ] = 0.7,
    length: Annotated[int, typer.Option(min=0, help="Number of characters to sample.")] = 500,
    load: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sample from this checkpoint without training.")
    ] = None,
) -> None:
    """Train a stacked LSTM character model and sample from it.

    The last 5 % of the text are held out and never trained on. The reported loss is the loss on this part, and the
    checkpoint has the weights with the lowest such loss. Ctrl-C stops the training early: the command keeps the
    checkpoint, plots, samples, and exits with code 130.
    """
    import numpy as np

    from .charlm.loop import Settings
    from .charlm.model import CharModel, CheckpointError, Config

    rng = np.random.default_rng(seed)
    if load is not None:
        try:
            model = CharModel.load(load)
        except CheckpointError as error:
            raise typer.BadParameter(str(error), param_hint="--load") from None
        _sample(model, _check_prompt(prompt, model.config.vocabulary, ""), length, temperature, rng)
        return

    needs("demo", "cli", "rich", "matplotlib")
    corpus, beginning = _read(text, batch, seq_len)
    start = _check_prompt(prompt, corpus.vocabulary, beginning)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{out}: cannot be made a directory: {error.strerror}", param_hint="--out") from None

    model = CharModel(Config(corpus.vocabulary, embedding, hidden, layers, dropout), seed)
    history = _train(model, corpus, Settings(minutes * 60.0, batch, seq_len, lr, seed), out)
    _sample(model, start, length, temperature, rng)
    if history.stopped:
        raise typer.Exit(130)  # what a shell expects of a program that Ctrl-C ended


def _read(path: Path | None, batch: int, seq_len: int) -> tuple[Corpus, str]:
    """The corpus and the first character of its text."""
    from .charlm.corpus import Corpus, TextError, python_topics, read_text

    try:
        text = python_topics() if path is None else read_text(path)
        return Corpus.from_text(text, batch, seq_len), text[0]
    except TextError as error:
        raise typer.BadParameter(str(error), param_hint="--text") from None


def _check_prompt(prompt: str | None, vocabulary: str, beginning: str) -> str:
    """The prompt, if the model knows its characters; found out before training, not after."""
    from .charlm.corpus import TextError, encode

    if prompt is None:
        known = set(PROMPT) <= set(vocabulary)
        return PROMPT if known else beginning or vocabulary[0]
    if not prompt:
        raise typer.BadParameter("expected at least one character, got none", param_hint="--prompt")
    try:
        encode(prompt, vocabulary)
    except TextError as error:
        raise typer.BadParameter(str(error), param_hint="--prompt") from None
    return prompt


def _train(model: CharModel, corpus: Corpus, settings: Settings, out: Path) -> History:
    from rich.console import Console

    import rnnkern as rk

    from .charlm.loop import DivergedError, fit
    from .charlm.plot import plot_loss
    from .charlm.screen import Screen, summary

    console = Console(highlight=False)
    checkpoint, plot = out / "model.safetensors", out / "loss.png"
    console.print(
        f"{len(corpus.train):,} characters to train on, {len(corpus.held_out):,} held out, "
        f"{len(corpus.vocabulary)} different; {model.rnn!r}, {model.num_parameters():,} parameters; "
        f"{rk.explain(model.rnn, (settings.seq_len, settings.batch, model.config.embedding_dim)).kernel}, "
        f"{rk.get_num_threads()} threads",
        markup=False,
        soft_wrap=True,
    )
    with interrupts() as stop, Screen(console, settings.seconds, lambda: model.save(checkpoint)) as screen:
        try:
            history = fit(model, corpus, settings, screen, stop.is_set)
        except DivergedError as error:
            kept = f"; {checkpoint} is from before" if screen.saved else ""
            typer.echo(f"rnnkern demo: {error}: try a smaller --lr{kept}", err=True)
            raise typer.Exit(1) from None
    plot_loss(history, plot, f"Training of {model.rnn!r}")
    console.print(summary(history, len(corpus.train)), markup=False, soft_wrap=True)
    files = f"checkpoint {checkpoint} (rnnkern demo --load {checkpoint}), plot {plot}\n"
    console.print(files, markup=False, soft_wrap=True)
    return history


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets instead of raising; a second Ctrl-C does what it did before."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may set handlers, and it is the one that gets Ctrl-C
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def handler(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _sample(model: CharModel, prompt: str, length: int, temperature: float, rng: Any) -> None:
    """Prints prompt and sample as they come."""
    import sys

    encoding = sys.stdout.encoding or "utf-8"

    def say(part: str) -> None:
        # A terminal that cannot show a character shows "?" rather than ending the program.
        typer.echo(part.encode(encoding, "replace").decode(encoding), nl=False)

    say(prompt)
    for character in model.sample(prompt, length, temperature, rng):
        say(character)
    typer.echo()
