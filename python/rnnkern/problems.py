"""Problem strings: one line of text that says what is computed. Tests and the benchmark both read them.

    lstm t7b3i5h8 f32 lengths

The first word is the cell, the second the sizes, the third the dtype; any flags follow, in any order.

    sizes   t seq_len, b batch, i input_size, h hidden_size; optional l num_layers (1) and d directions (1 or 2)
    dtype   f32, f64, bf16, f16 (f32 when left out)
    flags   the words of FLAGS

Nothing here looks at the compiled library, so a string can be parsed where nothing is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

DTYPES: Final = {"f32": "float32", "f64": "float64", "bf16": "bfloat16", "f16": "float16"}

FLAGS: Final = {
    "lengths": "rows of different lengths",
    "state": "initial states are given",
    "nobias": "no bias vectors",
    "batch_first": "x and y are [B, T, ...]",
    "unbatched": "x is [T, I]; batch must be 1",
    "dropout": "dropout between layers",
    "strided": "x is a view with gaps",
    "reverse": "a single direction that walks from the last step to the first",
}

ALIASES: Final = {"rnn": "rnn_tanh"}

_SIZES: Final = {
    "t": "seq_len",
    "b": "batch",
    "i": "input_size",
    "h": "hidden_size",
    "l": "num_layers",
    "d": "directions",
}
_SIZE_WORD: Final = re.compile(r"(?:[a-z]\d+)+")


@dataclass(frozen=True)
class Problem:
    """What is computed. Build one with `parse`; `str(problem)` gives the canonical string back."""

    cell: str
    seq_len: int
    batch: int
    input_size: int
    hidden_size: int
    num_layers: int = 1
    directions: int = 1
    dtype: str = "float32"
    flags: frozenset[str] = frozenset()

    def __str__(self) -> str:
        sizes = f"t{self.seq_len}b{self.batch}i{self.input_size}h{self.hidden_size}"
        if self.num_layers != 1:
            sizes += f"l{self.num_layers}"
        if self.directions != 1:
            sizes += f"d{self.directions}"
        short = next(word for word, name in DTYPES.items() if name == self.dtype)
        return " ".join([self.cell, sizes, short, *(flag for flag in FLAGS if flag in self.flags)])

    def has(self, flag: str) -> bool:
        """Whether `flag` is set; a word that is not in FLAGS is a mistake of the caller and raises KeyError."""
        FLAGS[flag]
        return flag in self.flags

    @property
    def layer_inputs(self) -> tuple[int, ...]:
        """[L] the input width of each layer: input_size, then directions * hidden_size."""
        return (self.input_size, *[self.directions * self.hidden_size] * (self.num_layers - 1))


def parse(text: str) -> Problem:
    """The problem that `text` names. ValueError names the word, what was expected and what came."""
    words = text.split()
    if len(words) < 2:
        raise ValueError(
            f"problem {text!r}: expected 'CELL SIZES [DTYPE] [FLAG ...]', as in 'lstm t7b3i5h8 f32 lengths'"
        )
    cell = ALIASES.get(words[0], words[0])
    if not re.fullmatch(r"[a-z]\w*", cell):
        raise ValueError(f"problem {text!r}: expected a cell's name first, got {words[0]!r}")
    sizes = _parse_sizes(text, words[1])
    rest = words[2:]
    dtype = DTYPES[rest.pop(0)] if rest and rest[0] in DTYPES else "float32"
    for word in rest:
        if word not in FLAGS:
            hint = "the dtype is the third word" if word in DTYPES else f"known: {', '.join(FLAGS)}"
            raise ValueError(f"problem {text!r}: expected flags after the sizes and dtype, got {word!r} ({hint})")
    if len(set(rest)) != len(rest):
        raise ValueError(f"problem {text!r}: a flag is given twice")
    if "unbatched" in rest and sizes["batch"] != 1:
        raise ValueError(f"problem {text!r}: unbatched needs b1, got b{sizes['batch']}")
    if "reverse" in rest and sizes.get("directions", 1) != 1:
        raise ValueError(f"problem {text!r}: reverse needs one direction, got d{sizes['directions']}")
    return Problem(cell=cell, dtype=dtype, flags=frozenset(rest), **sizes)


def _parse_sizes(text: str, word: str) -> dict[str, int]:
    if not _SIZE_WORD.fullmatch(word):
        raise ValueError(f"problem {text!r}: expected sizes like t7b3i5h8 second, got {word!r}")
    sizes: dict[str, int] = {}
    for letter, digits in re.findall(r"([a-z])(\d+)", word):
        if letter not in _SIZES:
            raise ValueError(f"problem {text!r}: expected the sizes {' '.join(_SIZES)}, got {letter!r} in {word!r}")
        if _SIZES[letter] in sizes:
            raise ValueError(f"problem {text!r}: size {letter!r} is given twice in {word!r}")
        sizes[_SIZES[letter]] = int(digits)
    missing = [letter for letter in "tbih" if _SIZES[letter] not in sizes]
    if missing:
        raise ValueError(
            f"problem {text!r}: expected at least t, b, i and h, got {word!r} without {', '.join(missing)}"
        )
    for name in ("input_size", "hidden_size", "num_layers"):
        if sizes.get(name, 1) < 1:
            raise ValueError(f"problem {text!r}: {name} must be at least 1, got {sizes[name]}")
    if sizes.get("directions", 1) not in (1, 2):
        raise ValueError(f"problem {text!r}: directions must be 1 or 2, got d{sizes['directions']}")
    return sizes


def parse_all(lines: Iterable[str]) -> list[Problem]:
    """Problems from lines of text; blank lines and what follows a '#' are skipped, a repeated problem is kept once."""
    texts = (line.split("#", 1)[0].strip() for line in lines)
    return list(dict.fromkeys(parse(text) for text in texts if text))


def _bench(cells: Iterable[str], hidden: Iterable[int], batches: tuple[int, ...]) -> list[Problem]:
    """I = H and float32; T shrinks where a step is long, so that one call stays a fraction of a second."""
    steps = {512: 50, 1024: 20}
    return [
        Problem(cell, steps.get(size, 100), batch, size, size) for cell in cells for size in hidden for batch in batches
    ]


# The benchmark's default list, and the part of it that `rnnkern bench --quick` runs.
BENCH: Final = tuple(_bench(("lstm", "gru", "rnn_tanh"), (64, 128, 256, 512, 1024), (1, 16, 64)))
BENCH_QUICK: Final = tuple(_bench(("lstm", "gru", "rnn_tanh"), (64, 256), (1, 16)))
