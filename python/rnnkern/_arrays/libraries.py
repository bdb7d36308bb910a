"""The libraries whose arrays rnnkern takes on a GPU: what it needs of one, and CuPy and torch in these terms.

An array is recognised by the module of its type; a framework is never imported for that (its arrays exist only where it
is loaded). A further library is one class and one ``register``. All work goes on the library's own current stream and
all memory comes from its own allocator; both allocators are ordered by stream: a block that is let go of is handed out
again to work that comes later on the same stream, so nothing has to be kept until the GPU is done with it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .host import NUMPY_DTYPES, as_numpy

Array = Any


class GpuLibrary(Protocol):
    """dtypes are names: those rnnkern computes in, "int64", "uint8" and "bool". index: CUDA's number of a GPU.

    Arrays have ``shape``, ``dtype``, ``reshape``, ``swapaxes``, basic indexing and assignment, ``<`` and ``&``.
    """

    @property
    def name(self) -> str: ...
    def index(self, array: Array) -> int | None:
        """The number of the GPU that holds an array; None where none does."""

    def empty(self, shape: tuple[int, ...], dtype: str, index: int) -> Array:
        """At least 64-byte aligned."""

    def cast(self, array: Array, dtype: str) -> Array:
        """A contiguous copy."""

    def assign(self, to: Array, value: Any) -> None:
        """Writes an array of the same GPU, or one number, in the order of the current stream."""

    def upload(self, host: np.ndarray[Any, Any], index: int) -> Array:
        """A copy in the order of the current stream, which the host does not wait for."""

    def download(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host, which waits for it."""

    def adopt(self, array: Array, index: int) -> Array:
        """A copy of another library's array on this GPU, in the order of both current streams."""

    def stream(self, index: int) -> int:
        """cudaStream_t of the current stream."""

    def capturing(self, index: int) -> bool:
        """Whether the current stream records a CUDA graph."""

    def synchronize(self, index: int) -> None:
        """Wait for the current stream."""


class Cupy:
    """CuPy 12 or later."""

    name = "cupy"

    def __init__(self) -> None:
        self._cupy: Any = importlib.import_module("cupy")

    def _dtype(self, dtype: str) -> np.dtype[Any]:
        if dtype == "bfloat16" and int(self._cupy.__version__.partition(".")[0]) < 14:
            raise NotImplementedError(
                f"dtype: CuPy has bfloat16 since version 14, this is {self._cupy.__version__}; "
                "use float16, or a newer CuPy"
            )
        return NUMPY_DTYPES.get(dtype) or np.dtype(dtype)

    def index(self, array: Array) -> int | None:
        return int(array.device.id)

    def empty(self, shape: tuple[int, ...], dtype: str, index: int) -> Array:
        with self._cupy.cuda.Device(index):
            return self._cupy.empty(shape, self._dtype(dtype))

    def cast(self, array: Array, dtype: str) -> Array:
        with array.device:
            return self._cupy.array(array, dtype=self._dtype(dtype), order="C", copy=True)

    def assign(self, to: Array, value: Any) -> None:
        with to.device:
            to[...] = value

    def upload(self, host: np.ndarray[Any, Any], index: int) -> Array:
        self._dtype(host.dtype.name)
        with self._cupy.cuda.Device(index):
            return self._cupy.array(host, order="C", copy=True)  # through CuPy's own pinned memory

    def download(self, array: Array) -> np.ndarray[Any, Any]:
        host: np.ndarray[Any, Any] = array.get(order="C")
        return host

    def adopt(self, array: Array, index: int) -> Array:
        with self._cupy.cuda.Device(index):
            return self._cupy.array(self._cupy.from_dlpack(array), order="C", copy=True)

    def stream(self, index: int) -> int:
        return int(self._cupy.cuda.get_current_stream(index).ptr)

    def capturing(self, index: int) -> bool:
        return bool(self._cupy.cuda.get_current_stream(index).is_capturing())

    def synchronize(self, index: int) -> None:
        self._cupy.cuda.get_current_stream(index).synchronize()


class Torch:
    """torch built with CUDA. Tensors that require grad are refused where arrays come in."""

    name = "torch"

    def __init__(self) -> None:
        self._torch: Any = sys.modules["torch"]

    def index(self, array: Array) -> int | None:
        return int(array.device.index) if array.is_cuda else None

    def empty(self, shape: tuple[int, ...], dtype: str, index: int) -> Array:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=f"cuda:{index}")

    def cast(self, array: Array, dtype: str) -> Array:
        return array.detach().to(getattr(self._torch, dtype), copy=True).contiguous()

    def assign(self, to: Array, value: Any) -> None:
        to[...] = value

    def upload(self, host: np.ndarray[Any, Any], index: int) -> Array:
        # from_numpy knows no bfloat16 and warns of read-only memory. Pinned memory is not waited for, and torch's host
        # allocator keeps it until the stream has read it.
        bits = host.view(np.int16) if host.dtype == NUMPY_DTYPES["bfloat16"] else host
        pinned = self._torch.empty(bits.shape, dtype=getattr(self._torch, bits.dtype.name), pin_memory=True)
        pinned.numpy()[...] = bits
        tensor = pinned.to(f"cuda:{index}", non_blocking=True)
        return tensor if bits is host else tensor.view(self._torch.bfloat16)

    def download(self, array: Array) -> np.ndarray[Any, Any]:
        return np.array(as_numpy(array.detach().cpu(), "array"), order="C", copy=True)

    def adopt(self, array: Array, index: int) -> Array:
        return self._torch.from_dlpack(array).clone(memory_format=self._torch.contiguous_format)

    def stream(self, index: int) -> int:
        return int(self._torch.cuda.current_stream(index).cuda_stream)

    def capturing(self, index: int) -> bool:
        with self._torch.cuda.device(index):  # torch asks the stream of the current device
            return bool(self._torch.cuda.is_current_stream_capturing())

    def synchronize(self, index: int) -> None:
        self._torch.cuda.current_stream(index).synchronize()


_KINDS: dict[str, Callable[[], GpuLibrary]] = {"cupy": Cupy, "torch": Torch}
_made: dict[str, GpuLibrary] = {}


def register(module: str, make: Callable[[], GpuLibrary]) -> None:
    """A library whose arrays' types live in a top-level module; ``make`` is called at its first array."""
    _KINDS[module] = make
    _made.pop(module, None)


def library_of(array: Array) -> GpuLibrary | None:
    """The library an array belongs to, if it is one of those."""
    root = type(array).__module__.partition(".")[0]
    found = _made.get(root)
    if found is None and root in _KINDS:
        found = _made[root] = _KINDS[root]()
    return found


def known() -> str:
    return " or ".join(_KINDS)


def home() -> GpuLibrary:
    """The library that layers keep parameters in on a GPU: CuPy; torch, where it is loaded and CuPy is not installed.

    ImportError that says what to install where there is neither.
    """
    for module in ("cupy", "torch"):
        if module in _made:
            return _made[module]
        if module == "torch" and not ("torch" in sys.modules and sys.modules["torch"].cuda.is_available()):
            continue
        try:
            found = _made[module] = _KINDS[module]()
        except ImportError:
            continue
        return found
    raise ImportError(
        "device: layers on a GPU keep their parameters in CuPy's arrays; install it with: pip install cupy-cuda13x "
        "(cupy-cuda12x for CUDA 12), or import a CUDA build of torch before"
    )
