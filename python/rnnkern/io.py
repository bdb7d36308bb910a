"""Save and load parameters as safetensors: names, dtypes and shapes with the data, and nothing executable."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors
import safetensors.numpy

from ._arrays.host import Array, as_numpy


@runtime_checkable
class Savable(Protocol):
    """An object with parameters by name."""

    def state_dict(self) -> dict[str, Array]: ...


def save(
    path: str | os.PathLike[str], layer: Savable | Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the ``state_dict()`` of a layer, cell or structure, or a dict of names to arrays, to one safetensors file.

    metadata: text to keep in the file; ``metadata`` reads it.

    The write is atomic: a reader sees the whole old file or the whole new one, and an error leaves the old one. Raises
    TypeError for a value that is no array or no text, before anything is written.
    """
    tensors = layer.state_dict() if isinstance(layer, Savable) else layer
    if not isinstance(tensors, Mapping):
        raise TypeError(f"layer: expected a layer, a cell, a structure or a dict of arrays, got {type(layer).__name__}")
    arrays = {}
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"layer: expected names of type str, got {name!r}")
        # Not ascontiguousarray, which adds an axis: a 0-d array (a step count, say) comes back 0-d.
        arrays[name] = np.asarray(as_numpy(value, f"layer[{name!r}]"), order="C")
    for key, text in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata: expected text for text, got {key!r}: {text!r}")
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")  # beside it: os.replace needs one disk
    try:
        safetensors.numpy.save_file(arrays, temporary, dict(metadata) if metadata else None)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of a file by name, as new writable NumPy arrays: ``layer.load_state_dict(rk.load(path))``.

    Raises FileNotFoundError if there is no such file, and ValueError if it is not a safetensors file.
    """
    with _open(path) as file:
        return {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a dict


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata that was passed to ``save``; an empty dict if there was none."""
    with _open(path) as file:
        return dict(file.metadata() or {})


def _open(path: str | os.PathLike[str]) -> Any:
    try:
        return safetensors.safe_open(os.fspath(path), framework="numpy")
    except safetensors.SafetensorError as error:
        raise ValueError(f"path: expected a safetensors file, got {os.fspath(path)!r}: {error}") from error
