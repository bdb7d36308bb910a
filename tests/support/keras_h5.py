"""Files of older Keras versions, written by hand in their documented layout, for the tests of ``from_keras``."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

Array = np.ndarray[Any, Any]
Weights = Mapping[str, Sequence[tuple[str, Array]]]  # a layer of the outermost model -> its weights in order, by name


def entry(kind: str, name: Any, **config: Any) -> dict[str, Any]:
    """A layer in a config."""
    return {"class_name": kind, "config": {"name": name, **config}}


def sequential(*layers: Any, version: str = "2.2.4", name: str = "sequential_1") -> dict[str, Any]:
    """A Sequential: a bare list of layers before Keras 2.2.3."""
    old = version in ("1", "1.2.2", "2.0.8")
    return {"class_name": "Sequential", "config": list(layers) if old else {"name": name, "layers": list(layers)}}


def write_h5(path: Path, config: Any, weights: Weights, version: str = "2.2.4") -> Path:
    """model.save of Keras 1 and 2."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        group.attrs["keras_version"] = version.encode()
        for layer, arrays in weights.items():
            own = group.create_group(layer)
            own.attrs["weight_names"] = [name.encode() for name, _ in arrays]
            for name, array in arrays:
                own.create_dataset(name, data=array)
    return path


def write_keras(path: Path, config: Any, arrays: Mapping[str, Array], version: str = "2.12.0") -> Path:
    """A .keras archive with model.weights.h5 of these datasets."""
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", held.getvalue())
    return path
