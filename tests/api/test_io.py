"""rk.save and rk.load: every dtype there and back, atomic, and nothing but safetensors accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

import rnnkern as rk


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_layer_there_and_back(tmp_path: Path, dtype: str) -> None:
    layer, other = (rk.LSTM(3, 4, 2, bidirectional=True, dtype=dtype, seed=seed) for seed in (0, 1))
    path = tmp_path / "layer.safetensors"
    rk.save(path, layer)
    loaded = rk.load(path)
    assert loaded.keys() == layer.state_dict().keys()
    other.load_state_dict(loaded)
    for name, value in layer.params.items():
        assert loaded[name].dtype == value.dtype and loaded[name].flags.writeable
        assert loaded[name].tobytes() == value.tobytes() == other.params[name].tobytes()


def test_cells_dicts_and_metadata(tmp_path: Path) -> None:
    path = str(tmp_path / "a.safetensors")
    rk.save(path, rk.GRUCell(3, 4))
    assert set(rk.load(path)) == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    assert rk.io.metadata(path) == {}
    mixed: dict[str, Any] = {
        "strided": np.arange(12.0).reshape(3, 4).T[::2],
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "tensor": torch.arange(3),
    }
    rk.save(path, mixed, metadata={"note": "déjà vu"})
    loaded = rk.load(path)
    for name, value in mixed.items():
        assert loaded[name].shape == tuple(value.shape) and np.array_equal(loaded[name], np.asarray(value)), name
    assert rk.io.metadata(path) == {"note": "déjà vu"}


def test_files_are_what_safetensors_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    layer = rk.RNN(3, 4, seed=0)
    rk.save(path, layer)
    for name, value in safetensors.numpy.load_file(path).items():
        assert np.array_equal(value, layer.params[name])


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    rk.save(path, {"a": np.ones(3)})
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"layer\['b'\]: expected an array"):
        rk.save(path, {"a": np.zeros(3), "b": "text"})
    with pytest.raises(safetensors.SafetensorError):
        rk.save(path, {"a": np.zeros(3, np.complex256)})

    def broken(source: Any, target: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk on fire"):
        rk.save(path, {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bad_arguments(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(TypeError, match="layer: expected a layer, a cell, a structure or a dict of arrays, got list"):
        rk.save(path, [np.zeros(3)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="layer: expected names of type str, got 3"):
        rk.save(path, {3: np.zeros(3)})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="metadata: expected text for text, got 'epoch': 3"):
        rk.save(path, {"a": np.zeros(3)}, metadata={"epoch": 3})  # type: ignore[dict-item]
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        rk.load(path)
    path.write_bytes(b"not a safetensors file at all")
    with pytest.raises(ValueError, match="path: expected a safetensors file"):
        rk.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="path: expected a safetensors file"):
        rk.load(path)
