"""Arrays at the door: dtype names, foreign arrays in by DLPack, answers back out in the caller's library.

Every array argument of the plain layers passes through ``take`` (read) or ``take_output`` (written), which name the
argument in their errors; every answer leaves through ``Library.give``. Frameworks are recognised, never imported: an
array of a framework can only exist when that framework is already in ``sys.modules``. This is host memory;
``devices.py`` has the same for a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .. import _core
from .._engine.spec import Marks, Memory

Array = Any  # a NumPy array or an array of another library
Dtypes = tuple[np.dtype[Any], ...]

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_OVERLAP_WORK: Any = 10_000  # the exact question is NP-complete: bound it (typed loosely: NumPy's stub knows 0 and -1)
_CPU_DEVICE_TYPES = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost (pinned host memory)
_DLPACK_DEVICES = {
    2: "cuda",
    4: "opencl",
    7: "vulkan",
    8: "metal",
    10: "rocm",
    13: "cuda (managed memory)",
    14: "oneapi",
}


def dtype_name(dtype: Any) -> str:
    """The canonical name of a dtype: ``"float32"``, ``np.float32``, ``ml_dtypes.bfloat16``, ``torch.float32``, ...

    Raises TypeError for what is no dtype at all and for a dtype rnnkern does not compute in.
    """
    if dtype is None:
        return "float32"
    if isinstance(dtype, str):
        name = dtype
    elif str(dtype).startswith("torch."):
        name = str(dtype)[len("torch.") :]
    else:
        try:
            name = np.dtype(dtype).name
        except TypeError as error:
            raise TypeError(f"dtype: expected one of {', '.join(NUMPY_DTYPES)}, got {dtype!r}") from error
    if name not in NUMPY_DTYPES:
        raise TypeError(f"dtype: expected one of {', '.join(NUMPY_DTYPES)}, got {name!r}")
    return name


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """An uninitialised NumPy array of a named dtype."""
    return np.empty(shape, NUMPY_DTYPES[dtype])


def as_numpy(array: Array, name: str) -> np.ndarray[Any, Any]:
    """A NumPy view (no copy) of a host array of any library, in native byte order.

    Raises TypeError for what is no array, for byte-swapped data, masked arrays and tensors that require grad,
    ValueError for an array on a GPU and NotImplementedError for one on another device, always naming the argument.
    """
    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected a plain array, got a masked array, whose mask would be ignored")
        view = array if type(array) is np.ndarray else array.view(np.ndarray)
    else:
        view = _foreign(array, name)
    if not view.dtype.isnative:
        raise TypeError(
            f"{name}: expected native byte order, got byte-swapped {view.dtype.str!r}; "
            f"convert it with {name}.astype({name}.dtype.newbyteorder('='))"
        )
    return view


def _foreign(array: Array, name: str) -> np.ndarray[Any, Any]:
    refuse_tensor(array, name)
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        try:
            device_type, index = array.__dlpack_device__()
        except (ValueError, RuntimeError, BufferError) as error:  # a torch tensor on "meta", say
            raise TypeError(f"{name}: expected an array that DLPack can carry: {error}") from error
        if int(device_type) not in _CPU_DEVICE_TYPES:
            where = _DLPACK_DEVICES.get(int(device_type), f"DLPack device type {int(device_type)}")
            expected = f"{name}: expected an array in host memory, got one on {where}:{index}"
            if where.startswith("cuda"):
                raise ValueError(f"{expected}; nothing is moved between devices silently")
            raise NotImplementedError(f"{expected}, where rnnkern has no kernels")
        try:
            return _dlpack(array)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:  # sparse, quantised, an unknown dtype, ...
            raise TypeError(f"{name}: expected an array that DLPack can carry: {error}") from error
    if hasattr(array, "__cuda_array_interface__"):
        raise ValueError(
            f"{name}: expected an array in host memory, got one on a CUDA device; nothing is moved between devices "
            "silently"
        )
    raise TypeError(f"{name}: expected an array (NumPy's, or one with __dlpack__), got {describe(array)}")


def refuse_tensor(array: Array, name: str) -> None:
    """TypeError for a torch tensor that is not simply the numbers in its memory."""
    if getattr(array, "requires_grad", False) is True:
        raise TypeError(
            f"{name}: got a tensor that requires grad; the plain layers record nothing for autograd. "
            "Use rnnkern.torch, or pass a detached tensor"
        )
    if _is_lazy(array):
        raise TypeError(
            f"{name}: expected a tensor whose memory holds its values, got one with torch's negation bit or without "
            f"memory; pass {name}.resolve_neg().clone()"
        )


def _is_lazy(array: Array) -> bool:
    """Whether torch makes a tensor's values up as they are read: ``z.conj().imag``, or autograd's zeros without memory.

    DLPack does not say so, and hands over whatever the memory holds. (A pending conjugation it refuses itself.)
    """
    return any(getattr(array, question, bool)() for question in ("is_neg", "_is_zerotensor"))


def _dlpack(array: Array) -> np.ndarray[Any, Any]:
    """_core reads the dtypes that kernels compute in, bfloat16 among them; NumPy the others (integers, for lengths)."""
    try:
        view: np.ndarray[Any, Any] = _core.as_numpy(array)
    except TypeError:
        view = np.from_dlpack(array)
    return view


def describe(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def check(array: np.ndarray[Any, Any], name: str, shape: tuple[int, ...], meaning: str, dtypes: Dtypes) -> None:
    """Compare dtype (TypeError) and shape (ValueError) with what is expected; ``meaning`` names the axes."""
    if array.dtype not in dtypes:
        raise TypeError(f"{name}: expected dtype {' or '.join(map(str, dtypes))}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {meaning} = {list(shape)}, got {list(array.shape)}")


def steppable(array: np.ndarray[Any, Any]) -> bool:
    """Whether memory is aligned and strides are whole elements, as kernels need (a field of a record may not be)."""
    flags = array.flags
    return flags.aligned and (flags.c_contiguous or all(stride % array.itemsize == 0 for stride in array.strides))


def take(array: Array, name: str, shape: tuple[int, ...], meaning: str, dtypes: Dtypes) -> np.ndarray[Any, Any]:
    """An input of the expected shape and dtype as a NumPy array, without a copy where a kernel can take its strides."""
    view = as_numpy(array, name)
    check(view, name, shape, meaning, dtypes)
    return view if steppable(view) else view.copy()


def take_output(
    array: Array, name: str, shape: tuple[int, ...], meaning: str, dtypes: Dtypes, inputs: dict[str, Any]
) -> np.ndarray[Any, Any]:
    """A caller's array to write to: also writable, without overlap inside itself or with the named inputs."""
    view = as_numpy(array, name)
    check(view, name, shape, meaning, dtypes)
    if not view.flags.writeable:
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    if not steppable(view):
        raise ValueError(f"{name}: expected aligned elements and strides of whole elements, got strides {view.strides}")
    if view.size and 0 in view.strides and any(s == 0 and n > 1 for s, n in zip(view.strides, view.shape, strict=True)):
        raise ValueError(f"{name}: expected one place per element, got a broadcast array (strides {view.strides})")
    for other, value in inputs.items():
        if value is not None and overlap(view, value):
            raise ValueError(f"{name}: expected memory of its own, got an array that overlaps {other}")
    return view


def overlap(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays share an element (exactly, unless that is too hard to decide: then whether they might)."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=_OVERLAP_WORK))
    except RuntimeError:  # NumPy's TooHardError, whose place moved between versions
        return True


def take_lengths(lengths: Any, batch: int, seq_len: int, batched: bool = True) -> np.ndarray[Any, Any] | None:
    """Validated lengths as a private, contiguous int64 copy of shape [B]; None stays None.

    Any integer array (or list of ints), any order, zeros allowed; for unbatched input one integer. Raises TypeError for
    what is not integer, ValueError for a wrong shape and for an entry outside [0, T].
    """
    return None if lengths is None else rows_of(lengths, batch, seq_len, batched)


def rows_of(lengths: Any, batch: int, seq_len: int, batched: bool = True) -> np.ndarray[Any, Any]:
    """``take_lengths`` of lengths that are given."""
    if isinstance(lengths, (int, list, tuple, range, np.integer)) and not isinstance(lengths, bool):
        view = np.asarray(lengths)
        if view.size == 0:
            view = view.astype(np.int64)  # NumPy makes [] a float array
    else:
        view = as_numpy(lengths, "lengths")
    if view.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got dtype {view.dtype}")
    if view.shape != (batch,) and (batched or view.shape != ()):
        expected = f"[B] = [{batch}]" if batched else "[] or [1] for unbatched input"
        raise ValueError(f"lengths: expected shape {expected}, got {list(view.shape)}")
    view = view.reshape(-1)
    bad = np.flatnonzero((view < 0) | (view > seq_len))
    if bad.size:
        at = int(bad[0])
        raise ValueError(f"lengths[{at}]: expected 0 <= length <= T = {seq_len}, got {int(view[at])}")
    return np.array(view, dtype=np.int64, order="C", copy=True)


def layout_of(shape: tuple[Any, Any], batched: bool, batch_first: bool) -> tuple[tuple[Any, ...], str]:
    """The shape that masks and resets of (T, B) have in the caller's layout, and its axes in words."""
    seq_len, batch = shape
    if not batched:
        return (seq_len,), "[T]"
    return ((batch, seq_len), "[B, T]") if batch_first else ((seq_len, batch), "[T, B]")


def take_marks(mask: Any, reset: Any, shape: tuple[int, int], batched: bool, batch_first: bool) -> Marks:
    """mask and reset as contiguous bool arrays [T, B]; None where absent, or where they mark nothing."""
    given = {"mask": mask, "reset": reset}
    wanted, axes = layout_of(shape, batched, batch_first)
    for name, marked in given.items():
        if marked is None:
            continue
        array = as_numpy(marked, name)
        if array.dtype != np.bool_:
            raise TypeError(f"{name}: expected bool {axes}, got {array.dtype}")
        if array.shape != wanted:
            raise ValueError(f"{name}: expected {axes} {list(wanted)}, got {list(array.shape)}")
        array = array[:, None] if not batched else array.T if batch_first else array
        nothing = array.all() if name == "mask" else not array.any()
        given[name] = None if nothing else np.array(array, order="C")  # a copy: the tape keeps it
    return Marks(given["mask"], given["reset"])


MEMORY = Memory(empty)  # of NumPy


@dataclass(frozen=True)
class Library:
    """Where an array in host memory came from, and so where the answers go."""

    name: str
    from_dlpack: Callable[[Any], Any] | None  # None: NumPy itself

    on_host = True
    memory = MEMORY
    read = staticmethod(as_numpy)
    take = staticmethod(take)
    take_output = staticmethod(take_output)
    take_lengths = staticmethod(take_lengths)
    take_marks = staticmethod(take_marks)

    @staticmethod
    def copy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array.copy()

    @staticmethod
    def assign(to: np.ndarray[Any, Any], value: Any) -> None:
        """Writes an array, or one number everywhere."""
        to[...] = value

    def give(self, array: Any) -> Array:
        """Hand a NumPy array over, without a copy, as an array of this library."""
        return array if self.from_dlpack is None else self.from_dlpack(_core.DLPack(array))


NUMPY = Library("numpy", None)


def library_of(array: Array, name: str) -> Library:
    """The library an array belongs to; TypeError if it has no ``from_dlpack`` that rnnkern could answer through."""
    if isinstance(array, np.ndarray):
        return NUMPY
    root = type(array).__module__.partition(".")[0]
    # torch tensors have no __array_namespace__; jax arrays live in jaxlib; both keep from_dlpack in a public place.
    home = {"torch": "torch", "jaxlib": "jax.numpy", "jax": "jax.numpy"}.get(root)
    module: Any = sys.modules.get(home) if home else None
    if module is None and hasattr(array, "__array_namespace__"):
        module = array.__array_namespace__()
    from_dlpack = getattr(module, "from_dlpack", None)
    if from_dlpack is None:
        raise TypeError(
            f"{name}: expected a NumPy array or an array of a library with from_dlpack, got {describe(array)}; "
            "pass numpy.asarray(...) of it"
        )
    return Library(root, from_dlpack)
