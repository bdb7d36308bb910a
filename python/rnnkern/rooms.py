"""Memory that a call has beside its results: workspaces on a GPU, and whether a stack's layers may go in one call."""

from __future__ import annotations

from collections.abc import Sequence

from . import _core
from .spec import ITEM_SIZE, Array, Memory, Spec

# Up to here the outputs of all layers of an inference may stand at once, for layers to run at the same time: where that
# is faster (few rows, small layers) they are smaller. On a GPU: the layers' outputs, or gradients, and workspaces.
_STACKED, _STACKED_ON_GPU = 4 << 20, 1 << 30


def may_stack(
    spec: Spec, all_plans: Sequence[_core.Plan], seq_len: int, batch: int, memory: Memory, *, backward: bool, keep: bool
) -> bool:
    """Whether all layers (of one direction) may go into one call, where they can run at the same time."""
    layers = spec.num_layers
    if layers > 1024:
        return False
    if memory.gpu is not None and spec.recompute and (backward or keep):  # asked for where memory is dear
        return False
    nbytes = (layers - 1) * seq_len * batch * spec.outputs * ITEM_SIZE[spec.dtype]
    if memory.gpu is None:
        return not backward and nbytes <= _STACKED * (layers - 1)
    nbytes += sum(sizes(all_plans, "workspace_backward" if backward else "workspace_forward", seq_len, batch))
    return nbytes <= _STACKED_ON_GPU


def sizes(called: Sequence[_core.Plan], name: str, seq_len: int, batch: int) -> list[int]:
    return [plan.sizes(seq_len, batch)[name] for plan in called]


def room(called: Sequence[_core.Plan], name: str, seq_len: int, batch: int, memory: Memory) -> tuple[Array | None, int]:
    """The workspace and the stream of a call of these plans together; of the CPU, none. name: of the size."""
    return (None, 0) if memory.gpu is None else on_gpu(memory, sizes(called, name, seq_len, batch))


def on_gpu(memory: Memory, nbytes: Sequence[int]) -> tuple[Array, int]:
    """A workspace of these bytes, each on lines of its own, for a call on a GPU; and the stream.

    The workspace is let go of as soon as the call returns, while the GPU may not have begun: the allocators of CuPy and
    torch hand memory out again in the order of the stream it came from, so nobody else gets it before the work is done.
    """
    assert memory.gpu is not None
    return memory.empty((sum(-(-max(size, 64) // 64) * 64 for size in nbytes),), "uint8"), memory.gpu.stream
