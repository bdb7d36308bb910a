"""Where a layer is, and how arrays come in and answers go out there: host memory, or one GPU.

A ``Place`` belongs to a layer: it opens the first array of a call, which says whose library the answers are made in (a
``Library`` in host memory, ``OnGpu`` on a GPU), and keeps the parameters. Nothing is moved between devices but what is
small and asked for by name: host lengths, masks and parameters go to the GPU; ``state_dict`` comes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from .._engine.spec import Gpu, Marks, Memory
from . import libraries
from .host import (
    MEMORY,
    Array,
    Dtypes,
    Library,
    as_numpy,
    check,
    describe,
    layout_of,
    library_of,
    refuse_tensor,
    take_lengths,
    take_marks,
)


class Host:
    """Host memory: arrays are looked at as NumPy's, whatever library they are of."""

    name = "cpu"
    gpu: int | None = None

    def open(self, array: Array, name: str) -> tuple[np.ndarray[Any, Any], Library]:
        """The first array of a call, and who gets the answers."""
        return as_numpy(array, name), library_of(array, name)

    def keep(self, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, Array]:
        """Parameters, from host arrays of their own."""
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def check(self, array: Array, name: str, shape: tuple[int, ...], meaning: str, dtypes: Dtypes) -> None:
        """A parameter's new value."""
        check(as_numpy(array, name), name, shape, meaning, dtypes)

    def copy(self, array: Array, name: str) -> Array:
        """A parameter's new value, which was checked before."""
        copied = np.array(as_numpy(array, name), order="C", copy=True)
        copied.flags.writeable = False
        return copied

    def settle(self, sources: Iterable[Array]) -> None:
        """After parameters were made of these."""

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        copied: np.ndarray[Any, Any] = array.copy()
        return copied

    @property
    def memory(self) -> Memory:
        """For what is derived from the parameters."""
        return MEMORY


HOST = Host()


@dataclass(frozen=True)
class OnGpu:
    """One library's arrays on one GPU. ``Library`` (host.py) has the same methods for host memory."""

    library: libraries.GpuLibrary
    index: int

    on_host = False

    @property
    def memory(self) -> Memory:
        """With the stream that is the library's current one now."""
        library, index = self.library, self.index
        gpu = Gpu(library.stream(index), library.capturing(index))
        return Memory(lambda shape, dtype: library.empty(shape, dtype, index), gpu)

    def read(self, array: Array, name: str) -> Array:
        return _on_gpu(array, name, self.index, self.library)

    def take(self, array: Array, name: str, shape: tuple[int, ...], meaning: str, dtypes: Dtypes) -> Array:
        """An input of the expected shape and dtype; any strides."""
        self.read(array, name)
        wanted = [dtype.name for dtype in dtypes]
        if dtype_of(array) not in wanted:
            raise TypeError(f"{name}: expected dtype {' or '.join(wanted)}, got {dtype_of(array)}")
        if tuple(array.shape) != shape:
            raise ValueError(f"{name}: expected shape {meaning} = {list(shape)}, got {list(array.shape)}")
        return array

    def take_output(
        self,
        array: Array,
        name: str,
        shape: tuple[int, ...],
        meaning: str,
        dtypes: Dtypes,
        inputs: dict[str, Any],
    ) -> Array:
        """A caller's array to write to, without overlap inside itself or with the named inputs (taken as wholes)."""
        self.take(array, name, shape, meaning, dtypes)
        begin, end, broadcast = _core.span(array, name, self.index)
        if broadcast:
            raise ValueError(f"{name}: expected one place per element, got a broadcast array")
        for other, value in inputs.items():
            if value is None:
                continue
            low, high, _ = _core.span(value, other, self.index)
            if low < end and begin < high:
                raise ValueError(f"{name}: expected memory of its own, got an array that overlaps {other}")
        return array

    def take_lengths(self, lengths: Any, batch: int, seq_len: int, batched: bool = True) -> Array | None:
        """int64 [B] on the GPU. Host lengths are checked here; those of a GPU by the kernels, which clamp them."""
        if not self._is_mine(lengths):
            host = take_lengths(lengths, batch, seq_len, batched)
            return None if host is None else self._upload(host, "lengths")
        self.read(lengths, "lengths")
        name = dtype_of(lengths)
        if not name.startswith(("int", "uint")):
            raise TypeError(f"lengths: expected integers, got dtype {name}")
        if tuple(lengths.shape) != (batch,) and (batched or tuple(lengths.shape) != ()):
            expected = f"[B] = [{batch}]" if batched else "[] or [1] for unbatched input"
            raise ValueError(f"lengths: expected shape {expected}, got {list(lengths.shape)}")
        return self.library.cast(lengths, "int64").reshape(-1)

    def take_marks(
        self, mask: Any, reset: Any, shape: tuple[int, int], batched: bool, batch_first: bool = False
    ) -> Marks:
        """mask and reset as contiguous bool [T, B] on the GPU."""
        given = {"mask": mask, "reset": reset}
        here = {name: marks for name, marks in given.items() if self._is_mine(marks)}
        there = take_marks(
            None if "mask" in here else mask, None if "reset" in here else reset, shape, batched, batch_first
        )
        out = {name: None if m is None else self._upload(m, name) for name, m in there._asdict().items()}
        for name, marks in here.items():
            self.read(marks, name)
            wanted, axes = layout_of(shape, batched, batch_first)
            if dtype_of(marks) != "bool":
                raise TypeError(f"{name}: expected bool {axes}, got {dtype_of(marks)}")
            if tuple(marks.shape) != wanted:
                raise ValueError(f"{name}: expected {axes} {list(wanted)}, got {list(marks.shape)}")
            marks = marks[:, None] if not batched else marks.swapaxes(0, 1) if batch_first else marks
            out[name] = self.library.cast(marks, "bool")
        return Marks(**out)

    def copy(self, array: Array) -> Array:
        return self.library.cast(array, dtype_of(array))

    def assign(self, to: Array, value: Any) -> None:
        """Writes an array, or one number everywhere."""
        self.library.assign(to, value)

    def give(self, array: Array) -> Array:
        """Answers are made in this library."""
        return array

    def _is_mine(self, value: Any) -> bool:
        """Whether a value is an array on a GPU, of this library or another."""
        library = libraries.library_of(value)
        return library is not None and library.index(value) is not None

    def _upload(self, host: np.ndarray[Any, Any], name: str) -> Array:
        if self.library.capturing(self.index):
            raise RuntimeError(
                f"{name}: expected an array on cuda:{self.index} while a CUDA graph is captured, got one in host "
                "memory, which a replay would not read again"
            )
        return self.library.upload(host, self.index)


@dataclass(frozen=True)
class OneGpu:
    """A GPU that a layer is on, and the library its parameters are in."""

    gpu: int
    home: libraries.GpuLibrary

    @property
    def name(self) -> str:
        return f"cuda:{self.gpu}"

    def open(self, array: Array, name: str) -> tuple[Array, OnGpu]:
        library = libraries.library_of(array)
        return _on_gpu(array, name, self.gpu, library), OnGpu(library, self.gpu)  # type: ignore[arg-type]

    def keep(self, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, Array]:
        return {name: self.home.upload(array, self.gpu) for name, array in arrays.items()}

    def check(self, array: Array, name: str, shape: tuple[int, ...], meaning: str, dtypes: Dtypes) -> None:
        library = libraries.library_of(array)
        if library is None or library.index(array) is None:
            check(as_numpy(array, name), name, shape, meaning, dtypes)
        else:
            OnGpu(library, self.gpu).take(array, name, shape, meaning, dtypes)

    def copy(self, array: Array, name: str) -> Array:
        library = libraries.library_of(array)
        if library is None or library.index(array) is None:
            return self.home.upload(as_numpy(array, name), self.gpu)
        return self.home.cast(array, dtype_of(array)) if library is self.home else self.home.adopt(array, self.gpu)

    def settle(self, sources: Iterable[Array]) -> None:
        # The copies are on a stream of the home library, and who gave arrays of another kind may call on one that knows
        # nothing of it. Who gave the home library's own arrays knows its streams.
        if any(libraries.library_of(source) is not self.home for source in sources):
            self.home.synchronize(self.gpu)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        return self.home.download(array)

    @property
    def memory(self) -> Memory:
        return OnGpu(self.home, self.gpu).memory


Place = Host | OneGpu
Caller = Library | OnGpu


def place(device: Any) -> Place:
    """None, "cpu", "cuda" (the first GPU), "cuda:1", and whatever prints like one of these (``torch.device("cpu")``).

    Raises ValueError for another name and for a GPU that is not there, NotImplementedError where this build or this
    machine has none, ImportError where no library for its arrays is installed, RuntimeError in a forked child of a
    process that used CUDA.
    """
    name = "cpu" if device is None else str(device)
    if name in ("cpu", "cpu:0"):
        return HOST
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:1', got {name!r}")
    count = _core.device_count()
    if count == 0:
        raise NotImplementedError(f"device: expected 'cpu', since {_core.devices_unavailable()}; got {name!r}")
    index = int(number or 0)
    if index >= count:
        raise ValueError(f"device: expected 'cuda:0' to 'cuda:{count - 1}', got {name!r}")
    return OneGpu(index, libraries.home())


def dtype_of(array: Array) -> str:
    return str(array.dtype).removeprefix("torch.")


def _on_gpu(array: Array, name: str, index: int, library: libraries.GpuLibrary | None) -> Array:
    """The array itself; an error that names it where it is not one of this library (None: of any) on this GPU."""
    found = libraries.library_of(array)
    if found is None and not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected an array of {libraries.known()}, got {describe(array)}")
    at = None if found is None else found.index(array)
    if at != index:
        where = "in host memory" if at is None else f"on cuda:{at}"
        raise ValueError(
            f"{name}: expected an array on cuda:{index}, where the layer is, got one {where}; nothing is moved between "
            "devices silently"
        )
    if library is not None and found is not library:
        raise TypeError(f"{name}: expected an array of {library.name}, as x is, got {describe(array)}")
    refuse_tensor(array, name)
    return array
