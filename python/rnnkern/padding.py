"""Ragged batches: rows of different lengths in one array, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._arrays.host import take_lengths

Array = np.ndarray[Any, Any]


def pad_sequence(sequences: Sequence[Any], padding_value: float = 0) -> tuple[Array, Array]:
    """Sequences of different lengths, each [T_b, ...] -> a batch [T, B, ...] with T the longest, and lengths int64 [B].

    Both are what layers take: ``layer(x, lengths=lengths)``. (torch.nn.utils.rnn.pad_sequence returns the batch alone.)

    sequences: at least one NumPy array or list of numbers; all have the same shape past the first axis.
    padding_value: what stands past the end of a sequence.

    Raises TypeError for sequences of different dtypes, ValueError for different shapes or none at all.
    """
    rows = [np.asarray(row) for row in sequences]
    if not rows:
        raise ValueError("sequences: expected at least one, got none")
    dtypes = {row.dtype for row in rows if row.size} or {rows[0].dtype}  # an empty list says nothing of its dtype
    if len(dtypes) > 1:
        raise TypeError(f"sequences: expected one dtype, got {' and '.join(sorted(map(str, dtypes)))}")
    (dtype,) = dtypes
    if dtype.kind not in "biufcV":
        raise TypeError(f"sequences: expected arrays of numbers, got dtype {dtype}")
    tail = max((row.shape[1:] for row in rows), key=len)
    for k, row in enumerate(rows):
        if row.ndim == 0 or (row.shape[1:] != tail and row.size):
            expected = ", ".join(map(str, ("T", *tail)))
            raise ValueError(f"sequences[{k}]: expected shape [{expected}], got {list(row.shape)}")
    lengths = np.array([len(row) for row in rows], np.int64)
    padded = np.full((lengths.max(), len(rows), *tail), padding_value, dtype)
    for k, row in enumerate(rows):
        padded[: len(row), k] = row.reshape(len(row), *tail)
    return padded, lengths


def unpad_sequence(padded: Array, lengths: Any) -> list[Array]:
    """A batch [T, B, ...] and lengths [B] in [0, T] -> a list of B views, each [length, ...].

    Raises TypeError or ValueError for lengths that do not fit the batch.
    """
    if not isinstance(padded, np.ndarray) or padded.ndim < 2:
        raise TypeError(f"padded: expected a NumPy array [T, B, ...], got {getattr(padded, 'shape', padded)!r}")
    rows = take_lengths(lengths, padded.shape[1], padded.shape[0])
    if rows is None:
        raise TypeError("lengths: expected integers [B], got None")
    return [padded[:length, b] for b, length in enumerate(rows)]
