"""Text for the character model: where it comes from, its vocabulary, and how it is cut.

The last part of a text is held out and never trained on. Training walks the rest in ``batch`` contiguous streams, so
that the state carried from one window to the next belongs to the text just read (truncated BPTT: Williams and Peng
1990).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HELD_OUT = 0.05  # share of the text that is never trained on
MIN_HELD_OUT = 100  # characters: fewer give a held-out loss that says nothing


class TextError(ValueError):
    """The text cannot be used; the message says why."""


def python_topics() -> str:
    """The language reference that Python carries for ``help()``: pydoc_data.topics, each paragraph once.

    Many topics repeat whole sections of others (about a fifth of all paragraphs). Left in, a paragraph could stand in
    the training part and in the held-out part, and the held-out loss would flatter.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    kept = []
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            words = " ".join(paragraph.split())  # the same paragraph may stand at another indentation
            if words not in seen:
                seen.add(words)
                kept.append(paragraph)
    return "\n\n".join(kept)


def read_text(path: Path) -> str:
    """The file as UTF-8 text. TextError when it cannot be read or is something else."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path}: expected UTF-8, got byte 0x{error.object[error.start]:02x} at {error.start}"
        ) from None
    except OSError as error:
        raise TextError(f"{path}: cannot be read: {error.strerror or error}") from None


def encode(text: str, vocabulary: str) -> np.ndarray:
    """Characters -> codes, int64: their places in ``vocabulary``, whose characters stand in sorted order.

    TextError for a character that is not in it.
    """
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    table = np.frombuffer(vocabulary.encode("utf-32-le"), np.uint32)
    codes = np.searchsorted(table, points)
    known = table[np.minimum(codes, len(table) - 1)] == points
    if not known.all():
        unknown = sorted({chr(point) for point in points[~known]})
        raise TextError(f"expected characters of the model's {len(vocabulary)}, got {''.join(unknown)!r}")
    return codes.astype(np.int64)


@dataclass(frozen=True)
class Corpus:
    """A text in codes: the part that is trained on and the tail that is held out."""

    vocabulary: str  # sorted; the character's place is its code
    train: np.ndarray  # [N] int64
    held_out: np.ndarray  # [M] int64

    @classmethod
    def from_text(cls, text: str, batch: int, seq_len: int) -> Corpus:
        """Cuts the last 5 % off as held out. TextError if less than one window of every stream would remain."""
        tail = max(MIN_HELD_OUT, round(len(text) * HELD_OUT))
        need = batch * seq_len + 1
        if len(text) - tail < need:
            raise TextError(
                f"expected at least {need} characters to train on (batch {batch} x seq_len {seq_len}, and one more) "
                f"and {tail} held out, got {len(text)} in all"
            )
        vocabulary = "".join(sorted(set(text)))
        codes = encode(text, vocabulary)
        return cls(vocabulary, codes[:-tail], codes[-tail:])

    def windows(
        self, batch: int, seq_len: int, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
        """For ever: (codes [T, B], the next characters [T, B], whether the streams start anew).

        Each pass over the text starts at another place, so that windows and streams are cut elsewhere.
        """
        steps = (len(self.train) - 1) // batch
        while True:
            text = np.roll(self.train, -int(rng.integers(len(self.train))))
            x = text[: steps * batch].reshape(batch, steps).T
            y = text[1 : steps * batch + 1].reshape(batch, steps).T
            for start in range(0, steps - seq_len + 1, seq_len):
                window = slice(start, start + seq_len)
                yield x[window], y[window], start == 0
