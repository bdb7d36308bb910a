"""Shared parts of the example programs: arguments, packages, progress, the plot, checkpoints, results.

A program calls ``start`` first, computes, and ends with ``finish``:

    args = start(__doc__)                                # --quick, --seed, --out
    for step in progress(args, steps=500):
        step(loss)                                       # shown beside the time that is left
    save(args, model, config)                            # and load(args, path, make)
    finish(args, {"nats a letter": {"LSTM": 1.1, "bigram": 2.4}})
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import rnnkern as rk


def start(doc: str, **more: Any) -> argparse.Namespace:
    """The command line: --quick, --seed, --out, and ``more``, by name with its default."""
    program = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(program, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run of some seconds, to see that all is there")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the order of the data and the samples")
    parser.add_argument("--out", type=Path, default=Path("gallery"), help="folder for the plot and the checkpoint")
    for name, default in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    args = parser.parse_args()
    args.program, args.began = program, time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def package(name: str) -> Any:
    """A package that the program needs, or one sentence that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        root = (missing.name or name).partition(".")[0]
        sys.exit(f"{root}: expected it to be installed; pip install 'rnnkern[examples]' brings what the examples need")


@contextlib.contextmanager
def keep_on_interrupt(save: Callable[[], object]) -> Iterator[None]:
    """Ctrl-C ends the training early: what is inside stops, the checkpoint is saved, and the program goes on."""
    try:
        yield
    except KeyboardInterrupt:
        save()
        print("stopped early; the checkpoint has what was learned so far", file=sys.stderr)


def progress(args: argparse.Namespace, steps: int) -> Iterator[Callable[[float], None]]:
    """``steps`` times a function to call with the step's loss: a bar, the mean loss and the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), console=_console(), transient=True) as bar:
        task, mean = bar.add_task("loss     ", total=steps), [float("nan")]

        def report(loss: float) -> None:
            mean[0] = loss if np.isnan(mean[0]) else 0.95 * mean[0] + 0.05 * loss
            bar.update(task, advance=1, description=f"loss {mean[0]:.3f}")

        for _ in range(steps):
            yield report


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def figure(args: argparse.Namespace, columns: int = 1, rows: int = 1, size: tuple[float, float] = (8, 4.5)) -> Any:
    """Axes of a plot that is saved as ``<out>/<program>.png``: one, or an array of rows by columns."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=size, layout="constrained")
    yield drawn.subplots(rows, columns)
    path = args.out / f"{args.program}.png"
    drawn.savefig(path, dpi=120)
    print(f"plot: {path}")


Part = Any  # with state_dict() and load_state_dict(): a layer, a Stack, or a torch.nn.Module


def _parts(model: Part | Mapping[str, Part]) -> Mapping[str, Part]:
    return model if isinstance(model, Mapping) else {"model": model}


def save(args: argparse.Namespace, model: Part | Mapping[str, Part], config: Mapping[str, Any]) -> Path:
    """The weights of a model, or of parts by name, in ``<out>/<program>.safetensors``, and the config in its header."""
    path: Path = args.out / f"{args.program}.safetensors"
    states = {name: part.state_dict() for name, part in _parts(model).items()}
    arrays = {f"{name}.{key}": np.asarray(value) for name, state in states.items() for key, value in state.items()}
    rk.save(path, arrays, {"program": args.program, "config": json.dumps(config, ensure_ascii=False)})
    return path


def load(args: argparse.Namespace, path: Path | str, make: Callable[[dict[str, Any]], Any]) -> Any:
    """The model of a checkpoint: ``make`` builds it from the config, which is args.config from then on."""
    try:
        said, arrays = rk.io.metadata(path), rk.load(path)
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: expected a checkpoint of {args.program}, got {error}")
    if said.get("program") != args.program:
        sys.exit(f"{path}: expected a checkpoint of {args.program}, got one of {said.get('program')!r}")
    args.config = json.loads(said["config"])
    model = make(args.config)
    for name, part in _parts(model).items():
        own = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
        if hasattr(part, "named_parameters"):  # a torch.nn.Module
            own = {key: package("torch").from_numpy(value) for key, value in own.items()}
        part.load_state_dict(own)
    return model


def bigram(before: np.ndarray, after: np.ndarray, V: int) -> tuple[np.ndarray, np.ndarray]:
    """A baseline: p(b) [V] and p(b | a) [V, V] of pairs of codes below V.

    Where the counts of a are few, p(b | a) falls back on p(b) (Witten and Bell 1991, method C).
    """
    pairs = np.bincount(before * V + after, minlength=V * V).reshape(V, V)
    unigram = (pairs.sum(axis=0) + 1) / (pairs.sum() + V)
    followers = (pairs > 0).sum(axis=1, keepdims=True) + 1
    return unigram, (pairs + followers * unigram) / (pairs.sum(axis=1, keepdims=True) + followers)


def finish(args: argparse.Namespace, reached: Mapping[str, Mapping[str, float]]) -> None:
    """Prints figures, each with its value for the network and then for the baselines, and keeps them in a JSON file."""
    seconds = time.perf_counter() - args.began
    for name, values in reached.items():
        print(f"{name}: " + ", ".join(f"{who} {value:.4g}" for who, value in values.items()))
    print(f"{seconds:.0f} seconds")
    values = {name: {who: float(value) for who, value in each.items()} for name, each in reached.items()}
    record = {"reached": values, "seconds": round(seconds), "quick": args.quick, "seed": args.seed}
    (args.out / f"{args.program}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
