"""bench.int8: its peers answer alike, and its tables have a number for each."""

from __future__ import annotations

import numpy as np
import pytest

import onnx_judges
from rnnkern.bench import int8

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_subjects_agree(cell: str) -> None:
    torch.manual_seed(0)
    answers = dict(int8.subjects(cell, getattr(torch.nn, cell)(24, 24), 1))
    x = np.random.default_rng(0).standard_normal((6, 3, 24), np.float32)
    exact = answers.pop("float32")(x)
    assert "int8" in answers and "torch int8" in answers
    for name, answer in answers.items():
        if name == "onnxruntime int8" and onnx_judges.int8_saturates():
            continue
        difference = np.abs(answer(x) - exact).max()
        assert 0 < difference < 0.05, name


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads(), int8.rk.get_num_threads()
    try:
        int8.speed(["GRU"], [16], [1, 2], 1, 0)
    finally:
        torch.set_num_threads(threads[0])
        int8.rk.set_num_threads(threads[1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| 1 thread, us a step |") and len(lines) == 4
    assert lines[2].startswith("| GRU H=16 B=1 |") and float(lines[2].split("|")[3]) > 0
