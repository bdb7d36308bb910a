"""What a tensor on a GPU needs besides: memory and stream of torch, small host arrays sent there, random masks.

Nothing here waits for the GPU. Work goes on torch's current stream and memory comes from torch's allocator, which hands
a block out again in the order of the stream it was made on: a workspace may be let go of before the GPU has used it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .. import _engine as engine
from .._arrays import libraries
from .._engine.spec import Gpu


def index_of(tensor: Any) -> int | None:
    """CUDA's number of the GPU that holds a tensor; None on the CPU."""
    return tensor.device.index if tensor.is_cuda else None


def name_of(tensor: Tensor) -> str:
    """As ``Spec.device`` has it; what is neither here nor there (a tensor of shapes alone) counts as the CPU."""
    index = index_of(tensor)
    return "cpu" if index is None else f"cuda:{index}"


@lru_cache(maxsize=1)
def unavailable() -> str:
    """Why no GPU can be used, or ""."""
    return _core.devices_unavailable()


@lru_cache(maxsize=1)
def library() -> libraries.GpuLibrary:
    return libraries.Torch()


def memory(index: int) -> engine.Memory:
    """The memory of one call, on torch's current stream."""
    torch_library = library()
    gpu = Gpu(torch_library.stream(index), torch_library.capturing(index))
    return engine.Memory(lambda shape, dtype: torch_library.empty(shape, dtype, index), gpu)


def upload(host: np.ndarray[Any, Any], index: int, name: str) -> Any:
    """A host array on a GPU, in the order of its stream."""
    if library().capturing(index):
        raise RuntimeError(
            f"{name}: expected a tensor on cuda:{index} while a CUDA graph is captured, got host memory, which a "
            "replay would not read again"
        )
    return library().upload(host, index)


def in_use(block: Tensor) -> None:
    """A block made on one stream is read on the current one: the allocator must not hand it out before that is done.

    Not in a capture: what a graph reads lives as long as the graph, which is the caller's promise (``freeze``).
    """
    index = block.device.index
    if not library().capturing(index):
        block.record_stream(torch.cuda.current_stream(index))


def allows_tf32(dtype: torch.dtype) -> bool:
    """torch's own switch for its RNNs: ``torch.backends.cudnn.allow_tf32``, or ``.rnn.fp32_precision`` by itself."""
    rnn: Any = torch.backends.cudnn.rnn
    return dtype is torch.float32 and rnn.fp32_precision == "tf32"


# Random masks -------------------------------------------------------------------------------------------------------
# (seed, call) is what a mask is made of, and both are the host's: the seed of torch's generator for this GPU, and how
# far it has gone, in blocks of four numbers of its Philox stream. Reading and advancing them waits for nothing. torch's
# own kernels use the blocks before and after under the same seed, so no number is drawn twice.

_BLOCK = 4  # offsets are multiples of it
_CALLS = 2**32


def draw(index: int) -> Tensor:
    """int64 [2] on the CPU, as ``kernels.draw_masks`` has it; the next call gets others.

    RuntimeError while a CUDA graph is captured: every replay would use the same masks.
    """
    refuse_capture(index)
    generator = torch.cuda.default_generators[index]
    offset = generator.get_offset()
    generator.set_offset(offset + _BLOCK)
    turn, call = divmod(offset // _BLOCK, _CALLS)
    return torch.tensor([(generator.initial_seed() + turn) & (2**63 - 1), call], dtype=torch.int64)


def refuse_capture(index: int) -> None:
    if library().capturing(index):
        raise RuntimeError(
            "rnnkern.torch: dropout, zoneout and recurrent_dropout draw the key of their masks on the host, so that "
            "every replay of a CUDA graph would use the same masks; capture the module after eval(), or without them"
        )


# Lengths and marks --------------------------------------------------------------------------------------------------


def lengths_of(lengths: Any, batch: int, index: int) -> Tensor:
    """Lengths that were checked (a host array) or that cannot be (a tensor): int64 [B] on the GPU, contiguous.

    What is on the GPU is never looked at: kernels clamp it to [0, T], and a bad one raises at the next call there or at
    ``rnnkern.check``.
    """
    if isinstance(lengths, np.ndarray):
        return upload(lengths, index, "lengths")  # type: ignore[no-any-return]
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise TypeError(f"lengths: expected integers, got dtype {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"lengths: expected shape [B] = [{batch}], got {list(lengths.shape)}")
    here = index_of(lengths)
    if here is None:
        return upload(np.array(lengths.numpy(), dtype=np.int64), index, "lengths")  # type: ignore[no-any-return]
    if here != index:
        raise RuntimeError(f"lengths: expected a tensor on cuda:{index} or in host memory, got one on cuda:{here}")
    return lengths.to(torch.int64).contiguous()


def marks_of(marks: engine.Marks, index: int) -> engine.Marks:
    """bool [T, B] on the GPU, contiguous, of host arrays or tensors."""
    given: list[Any] = []
    for name, value in marks._asdict().items():
        if value is None:
            given.append(None)
        elif isinstance(value, Tensor) and index_of(value) is not None:
            if index_of(value) != index:
                raise RuntimeError(f"{name}: expected a tensor on cuda:{index}, got one on {value.device}")
            given.append(value.contiguous())
        else:
            given.append(upload(np.ascontiguousarray(value), index, name))
    return engine.Marks(*given)
