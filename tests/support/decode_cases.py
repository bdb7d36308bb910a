"""Models to decode from, whose every sequence can be scored one token at a time, and searches over plain lists."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

import rnnkern as rk
from numeric import EPS
from rnnkern import reference, train

Array = np.ndarray[Any, Any]
Sequence = tuple[int, ...]
V = 3


class Model:
    """Logits from the last two tokens and the step: a second-order Markov chain that changes with time, so that no two
    sequences are equally probable. Its state [1, N, 2] is the token before, and the time.
    """

    def __init__(self, seed: int = 0, size: int = V) -> None:
        self.logits = 2 * np.random.default_rng(seed).standard_normal((9, size, size, size))
        self.calls: list[int] = []

    def step(self, tokens: Array, state: Array) -> tuple[Array, Array]:
        self.calls.append(len(tokens))
        before, time = state[0].T
        return self.logits[time, before, tokens], np.stack([tokens, time + 1], axis=1)[None]

    def log_probs(self, prompt: Sequence, sequence: Sequence) -> list[float]:
        """The logits of each token of the sequence, one at a time."""
        past, out = list(prompt), []
        for time, token in enumerate(sequence):
            z = self.logits[time, past[-2], past[-1]]
            out.append(float(z[token]) - math.log(sum(math.exp(v) for v in z)))
            past.append(token)
        return out


PROMPTS = np.array([[0, 2, 1], [1, 0, 0]])  # [2, B]: the token before, and the first


def prompt(b: int) -> Sequence:
    return tuple(PROMPTS[:, b].tolist())


def start(tokens: Any = PROMPTS[0]) -> Array:
    """The state before the first step, from the token before."""
    return np.stack([tokens, np.zeros_like(tokens)], axis=1)[None]


def every_sequence(length: int, stop: int | None, size: int = V) -> list[Sequence]:
    """All that end at their first ``stop``, or are ``length`` long."""
    found = set()
    for tokens in itertools.product(range(size), repeat=length):
        end = tokens.index(stop) + 1 if stop in tokens else length
        found.add(tokens[:end])
    return sorted(found)


def near(got: float, want: float, terms: int) -> bool:
    """Sums of log-probabilities, each from an exp, a sum of V and a log: some eps a term, of magnitudes up to 8."""
    return abs(got - want) <= 16 * terms * EPS["float64"] * 8


class Lstm:
    """Embedding, LSTM and Linear in float64, and by the reference the log-probabilities of a whole sequence."""

    def __init__(self) -> None:
        self.embed = train.Embedding(V, 4, dtype="float64", seed=1)
        self.rnn = rk.LSTM(4, 5, num_layers=2, dtype="float64", seed=2)
        self.rnn.update({name: 3 * value for name, value in self.rnn.params.items()})  # far from uniform
        self.out = train.Linear(5, V, dtype="float64", seed=3)

    def step(self, tokens: Array, state: Any) -> tuple[Array, Any]:
        y, state = self.rnn(self.embed(tokens)[None], state)
        return self.out(y[0]), state

    def log_probs(self, first: Sequence, sequence: Sequence) -> Array:
        codes = np.array([*first, *sequence[:-1]])[:, None]
        x = self.embed.params["weight"][codes]
        y, *_ = reference.stack("lstm", self.rnn.params, x, num_layers=2)
        logits = y[:, 0] @ self.out.params["weight"].T + self.out.params["bias"]
        log_prob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return log_prob[len(first) - 1 :][np.arange(len(sequence)), list(sequence)]


def plain_beam(model: Model, b: int, length: int, beam: int, stop: int | None, penalty: float) -> list[Sequence]:
    """The same search over Python lists, every score from scratch."""

    def score(s: Sequence) -> float:
        return sum(model.log_probs(prompt(b), s)) / ((5 + len(s)) / 6) ** penalty

    kept: list[Sequence] = [()]
    for _ in range(length):
        grown = [s for s in kept if stop is not None and s[-1:] == (stop,)]
        grown += [(*s, token) for s in kept if stop is None or s[-1:] != (stop,) for token in range(V)]
        kept = sorted(grown, key=lambda s: (-score(s), s))[:beam]
    return kept
