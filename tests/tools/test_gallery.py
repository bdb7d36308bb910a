"""Programs of examples/: each runs, beats its baselines on little data, repeats with its seed, and refuses by name.

Programs whose packages are not installed are skipped: pip install '.[examples]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rnnkern as rk

ROOT = Path(__file__).parents[2]
# Of the programs that are measured: the packages they need beside rnnkern[cli], how the figure ends that must be above
# the figures of the baselines, and how those end.
NEEDS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "05_captions": (("torch", "sklearn"), "right, writer", ("sees nothing", "most frequent caption")),
    "10_vanishing": ((), "GRU, gates open", ("later, Elman", "guessing")),
}


def run(program: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, program, "--quick", "--seed", "1", "--out", out, *more]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def needed(program: Path) -> None:
    missing = [name for name in NEEDS[program.stem][0] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install '.[examples]'")


@pytest.mark.parametrize("name", NEEDS)
def test_a_quick_run(name: str, tmp_path: Path) -> None:
    program = ROOT / "examples" / f"{name}.py"
    needed(program)
    reached: list[dict[str, float]] = []
    for out in ("one", "two"):
        done = run(program, tmp_path / out)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads((tmp_path / out / f"{name}.json").read_text(encoding="utf-8"))
        reached.append(found["reached"])
        assert (tmp_path / out / f"{name}.png").stat().st_size > 5000
        assert list((tmp_path / out).glob("*.safetensors"))
    _, ours, baselines = NEEDS[name]

    def figure(end: str) -> float:
        (value,) = (value for said, value in reached[0].items() if said.endswith(end))
        return value

    assert all(figure(ours) > figure(baseline) for baseline in baselines), reached[0]
    assert reached[0] == reached[1]


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
    done = run(copy, tmp_path / "out")
    assert (
        done.returncode == 1 and "music21: expected it to be installed; pip install 'rnnkern[examples]'" in done.stderr
    )
