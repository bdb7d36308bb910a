"""A library of "GPU" arrays for tests without a GPU: NumPy memory behind ``__cuda_array_interface__``.

Where ``_core`` was built on the SIMT executor, device memory is host memory, so these arrays are real ones to it. They
enter rnnkern by the same registry as CuPy and torch. bfloat16, which the interface has no name for, goes by DLPack, as
torch's does. ``log`` has what the library was asked for, to see that nothing came to the host unasked.
"""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np

from rnnkern import _core
from rnnkern._arrays import libraries

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
log: list[str] = []
streams = [7]  # of which the last is current
capturing = [False]


# Device memory is host memory on the executor alone: a real GPU would be handed addresses that mean nothing to it.
EXECUTOR = _core.device_count() > 0 and "SIMT" in _core.device_info(0)["name"]


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Filled with a pattern, so that what is not written shows."""
    nbytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.full(nbytes + 256, 0xFF, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + nbytes].view(dtype).reshape(shape)


class FakeArray:
    """Some of what an array on a GPU can do. ``hidden`` is for this file and for judges."""

    def __init__(self, hidden: np.ndarray[Any, Any], index: int = 0) -> None:
        self.hidden, self.gpu = hidden, index

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hidden.shape

    @property
    def ndim(self) -> int:
        return self.hidden.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.hidden.dtype

    def __len__(self) -> int:
        return len(self.hidden)

    def _of(self, hidden: np.ndarray[Any, Any]) -> FakeArray:
        return FakeArray(hidden, self.gpu)

    def __getitem__(self, key: Any) -> FakeArray:
        return self._of(self.hidden[key] if np.ndim(self.hidden[key]) else self.hidden[key].reshape(()))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.hidden[key] = value.hidden if isinstance(value, FakeArray) else value

    def reshape(self, *shape: Any) -> FakeArray:
        return self._of(self.hidden.reshape(*shape))

    def swapaxes(self, one: int, other: int) -> FakeArray:
        return self._of(self.hidden.swapaxes(one, other))

    def __lt__(self, other: FakeArray) -> FakeArray:
        return self._of(self.hidden < other.hidden)

    def __and__(self, other: FakeArray) -> FakeArray:
        return self._of(self.hidden & other.hidden)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("an array on a GPU came to the host unasked")

    def __getattr__(self, name: str) -> Any:
        """The one protocol that knows the dtype."""
        if name == "__cuda_array_interface__" and self.dtype != BFLOAT16:
            return {
                "shape": self.shape,
                "typestr": self.dtype.str,
                "data": (self.hidden.ctypes.data, not self.hidden.flags.writeable),
                "strides": None if self.hidden.flags.c_contiguous else self.hidden.strides,
                "stream": streams[-1],
                "version": 3,
            }
        if name == "__dlpack__" and self.dtype == BFLOAT16:
            return self._dlpack
        if name == "__dlpack_device__" and self.dtype == BFLOAT16:
            return lambda: (2, self.gpu)
        raise AttributeError(name)

    def _dlpack(self, *, stream: Any = None, max_version: Any = None) -> Any:
        """The capsule of the host's memory, with the device changed in place (in DLPack 1.x at byte 32 + 8)."""
        assert stream == -1, "the producer must not be asked to wait"
        capsule = _core.DLPack(self.hidden).__dlpack__(max_version=(1, 1))
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        tensor = get(capsule, b"dltensor_versioned") + 32
        ctypes.c_int32.from_address(tensor + 8).value = 2
        ctypes.c_int32.from_address(tensor + 12).value = self.gpu
        return capsule


class FakeLibrary:
    """rnnkern._arrays.libraries.GpuLibrary."""

    name = "fake_cuda"

    def _dtype(self, dtype: str) -> np.dtype[Any]:
        return BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)

    def index(self, array: FakeArray) -> int | None:
        return array.gpu

    def empty(self, shape: tuple[int, ...], dtype: str, index: int) -> FakeArray:
        log.append("empty")
        return FakeArray(_aligned(shape, self._dtype(dtype)), index)

    def cast(self, array: FakeArray, dtype: str) -> FakeArray:
        log.append("cast")
        new = _aligned(array.shape, self._dtype(dtype))
        new[...] = array.hidden
        return FakeArray(new, array.gpu)

    def assign(self, to: FakeArray, value: Any) -> None:
        to[...] = value

    def upload(self, host: np.ndarray[Any, Any], index: int) -> FakeArray:
        log.append("upload")
        new = _aligned(host.shape, host.dtype)
        new[...] = host
        return FakeArray(new, index)

    def download(self, array: FakeArray) -> np.ndarray[Any, Any]:
        log.append("download")
        return array.hidden.copy()

    def adopt(self, array: Any, index: int) -> FakeArray:
        raise AssertionError("there is one library here")

    def stream(self, index: int) -> int:
        return streams[-1]

    def capturing(self, index: int) -> bool:
        return capturing[-1]

    def synchronize(self, index: int) -> None:
        log.append("synchronize")


LIBRARY = FakeLibrary()
libraries.register("fake_cuda", lambda: LIBRARY)


def to_gpu(value: Any, index: int = 0) -> Any:
    """A copy of an array, or of a tuple of arrays; None stays None."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(to_gpu(each, index) for each in value)
    return LIBRARY.upload(np.asarray(value), index)


def to_host(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(to_host(each) for each in value)
    if isinstance(value, dict):
        return {name: to_host(each) for name, each in value.items()}
    return None if value is None else LIBRARY.download(value)
