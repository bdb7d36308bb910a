"""The training loop of ``rnnkern demo``: truncated BPTT with carried state against a budget of wall time.

It knows nothing of terminals: what happens is told to a ``Watcher``, and it stops between two steps when asked to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rnnkern import train

from .corpus import Corpus
from .model import CharModel

WARMUP = 40  # steps until the full learning rate: Adam's second moments mean little before
FLOOR = 0.02  # share of the learning rate that is left at the end
MAX_NORM = 1.0  # of all gradients together
EVALUATIONS = 10  # held-out losses along the way, at most
EVALUATING = 0.1  # share of the time that evaluations may take, at most; they become fewer where one is slow


class DivergedError(ArithmeticError):
    """A loss or a gradient is no finite number any more; the message says after how many steps."""


@dataclass(frozen=True)
class Settings:
    """How to train; the sizes of the model are in its Config."""

    seconds: float
    batch: int
    seq_len: int
    lr: float
    seed: int


@dataclass
class History:
    """What happened: one entry per step in ``loss`` and ``seconds``, one per evaluation in ``held_out``."""

    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    held_out: list[tuple[float, float]] = field(default_factory=list)  # (seconds, nats)
    characters: int = 0
    stopped: bool = False

    @property
    def best(self) -> float:
        """The lowest held-out loss; infinite before the first evaluation."""
        return min((nats for _, nats in self.held_out), default=math.inf)


class Watcher(Protocol):
    """Told of every step and of every evaluation; the latter with whether it is the best so far."""

    def step(self, history: History) -> None: ...
    def evaluated(self, history: History, best: bool) -> None: ...


def fit(
    model: CharModel, corpus: Corpus, settings: Settings, watcher: Watcher, stop: Callable[[], bool] = lambda: False
) -> History:
    """Trains until the budget is spent or ``stop()``, and leaves the model at its best held-out loss.

    The learning rate falls from ``lr`` along a cosine over the budget (Loshchilov and Hutter 2017, arXiv 1608.03983,
    eq. 5, without restarts). The budget includes the evaluations, the last one too. DivergedError when a loss or a
    gradient is no finite number any more.
    """
    optimizer = train.Adam(model.layers, lr=settings.lr)
    windows = corpus.windows(settings.batch, settings.seq_len, np.random.default_rng(settings.seed))
    history, best, state = History(), model.state_dict(), None
    began = time.perf_counter()
    lasts = 0.0  # seconds the latest evaluation took
    due = settings.seconds / EVALUATIONS

    def finite(what: str, value: float) -> float:
        if not math.isfinite(value):
            raise DivergedError(f"the {what} became {value} after {len(history.loss)} steps at lr {settings.lr:g}")
        return value

    def evaluate() -> None:
        nonlocal best, lasts, due
        start = time.perf_counter()
        nats = finite("held-out loss", model.loss(corpus.held_out))
        improved = nats < history.best
        if improved:
            best = model.state_dict()
        history.held_out.append((start - began, nats))
        watcher.evaluated(history, improved)
        now = time.perf_counter()
        lasts = now - start
        due = now - began + max(settings.seconds / EVALUATIONS - lasts, lasts / EVALUATING)

    while not history.stopped:
        now = time.perf_counter() - began
        if now + lasts >= settings.seconds:
            break
        if now >= due:
            evaluate()
        optimizer.lr = learning_rate(settings.lr, len(history.loss), now / settings.seconds)
        codes, targets, anew = next(windows)
        loss, grads, state = model.gradients(codes, targets, None if anew else state)
        grads, norm = train.clip_grad_norm(grads, MAX_NORM)
        finite("gradients' norm", norm)
        optimizer.step(grads)
        history.loss.append(loss)
        history.seconds.append(time.perf_counter() - began)
        history.characters += codes.size
        watcher.step(history)
        history.stopped = stop()
    evaluate()
    model.load_state_dict(best)
    return history


def learning_rate(lr: float, step: int, share: float) -> float:
    """A linear warm-up over the first steps, times a cosine from 1 to FLOOR over the spent share of the budget."""
    cosine = FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * share))
    return lr * min(1.0, (step + 1) / WARMUP) * cosine


def smoothed(values: list[float], weight: float = 0.1) -> list[float]:
    """Exponential moving average, each entry divided by the weights it has seen."""
    out, mean, seen = [], 0.0, 0.0
    for value in values:
        mean += weight * (value - mean)
        seen += weight * (1.0 - seen)
        out.append(mean / seen)
    return out
