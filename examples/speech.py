"""Spoken digits for the programs 09 and 11: espeak-ng says them in many voices, NumPy computes the features.

Debian's espeak-ng (GPL-3.0-or-later) is a program that is run, not linked. What it says is computed from rules, so it
is no recording and bound by no licence. The same words, voice, speed and pitch give the same samples.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ACCENTS = ["en-us", "en-us-nyc", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029"]
RATE, WINDOW, HOP, BANDS = 22050, 512, 220, 40  # samples: in a second, in a frame, to the next one; values of a frame
_EDGES = (700 * (np.geomspace(1 + 100 / 700, 1 + 9000 / 700, BANDS + 1) - 1) * WINDOW / RATE).astype(int)  # mel scale


class Spoken(NamedTuple):
    digits: list[int]
    voice: str  # accent and speaker
    samples: np.ndarray  # float32 in [-1, 1]


def spoken(args: argparse.Namespace, rng: np.random.Generator, count: int, longest: int, new: bool) -> list[Spoken]:
    """``count`` utterances of 1 to ``longest`` random digits, kept in --out for the next run.

    A fifth of the speakers speak only if ``new``, the others only if not. Robosoft and robosoft2 stay together.
    """
    listed = _espeak("--voices=variant").decode()
    names = sorted(set(re.findall(r"!v/(.+?)\s*(?:\(.*)?$", listed, re.MULTILINE)) - {"fast"})
    families = [name.rstrip("0123456789").lower() for name in names]
    held_out = np.isin(families, np.random.default_rng(0).permutation(sorted(set(families)))[::5])
    digits = [rng.integers(0, 10, length).tolist() for length in rng.integers(1, longest, count, endpoint=True)]
    speakers = rng.choice(np.array(names)[held_out == new], count)
    voices = [f"{accent}+{name}" for accent, name in zip(rng.choice(ACCENTS, count), speakers, strict=True)]
    manners = rng.integers((130, 25), (200, 75), (count, 2)).tolist()  # words a minute, pitch

    wanted = list(zip(digits, voices, manners, strict=True))
    path = args.out / f"speech-{zlib.crc32(repr(wanted).encode()):08x}.npz"
    if not path.exists():
        print(f"espeak-ng says {count} utterances; they are kept in {path}", file=sys.stderr)
        with ThreadPoolExecutor(2) as pool:
            said = list(pool.map(_say, *zip(*wanted, strict=True)))
        np.savez(path, samples=np.concatenate(said), ends=np.cumsum([len(each) for each in said]))
    with np.load(path) as kept:
        samples = np.split(kept["samples"].astype(np.float32) / 2**15, kept["ends"][:-1])
    return [Spoken(*each) for each in zip(digits, voices, samples, strict=True)]


def _say(digits: list[int], voice: str, manner: list[int]) -> np.ndarray:
    how = ("-v", voice, "-s", str(manner[0]), "-p", str(manner[1]), "-z", "--stdout")
    sound = _espeak(*how, " ".join(DIGITS[digit] for digit in digits))
    return np.frombuffer(sound, np.int16, offset=44)  # after the header of a WAV file


def _espeak(*options: str) -> bytes:
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng: expected the program to be installed; on Debian, apt-get install espeak-ng brings it")
    return subprocess.run(["espeak-ng", *options], check=True, capture_output=True).stdout


def log_mel(samples: np.ndarray) -> np.ndarray:
    """[T, BANDS]: the logarithm of the energy in bands as wide as the ear hears them, a frame every 10 ms."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.square(np.abs(np.fft.rfft(windows)))
    bands = np.add.reduceat(power[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
    return (np.log(bands + 1e-5) / 4).astype(np.float32)


def runs(path: np.ndarray, blank: int) -> list[int]:
    """The symbols of a path, repeats taken as one, without the blank."""
    return path[(np.diff(path, prepend=blank) != 0) & (path != blank)].tolist()


def errors(said: Sequence[int], heard: Sequence[int]) -> int:
    """Symbols to insert, to remove or to change until what was heard is what was said (Levenshtein 1965)."""
    row = list(range(len(heard) + 1))
    for a in said:
        last, row[0] = row[0], row[0] + 1
        for j, b in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def street(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Noise whose level drifts, with a knock in each second: its samples."""
    drift, knock = rng.uniform(-3, -1.5, seconds + 1), np.arange(RATE // 4)
    levels = 10 ** np.interp(np.arange(seconds * RATE) / RATE, np.arange(seconds + 1), drift)
    for begin in rng.integers(0, len(levels) - len(knock), seconds):
        levels[begin : begin + len(knock)] += rng.uniform(0, 0.3) * np.exp(-knock / rng.uniform(100, 1500))
    return levels * rng.standard_normal(len(levels))
