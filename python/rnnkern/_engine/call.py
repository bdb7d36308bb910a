"""One call of a network: arrays in, arrays out. The native library walks layers and directions; this module allocates.

Works on NumPy arrays, torch tensors and other libraries' arrays on a GPU alike: it only hands them to the binding; new
arrays come from the caller's ``Memory``. Shapes and lengths are the caller's to check; the binding checks them once
more, in its own words. Everything with L*D entries is indexed by ``layer * D + direction``, as in torch.nn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _core
from .gradients import new_gradients
from .plans import plan
from .spec import NO_MARKS, Array, Bytes, Gradients, Marks, Memory, Spec, Tape


def dropping(spec: Spec, masks: tuple[int, int] | None) -> bool:
    """Whether dropout between layers draws masks."""
    return masks is not None and spec.dropout > 0.0 and spec.num_layers > 1


def drawing(spec: Spec, masks: tuple[int, int] | None) -> tuple[int, int] | None:
    """The masks where anything is random, the cell included."""
    return masks if spec.options.random or dropping(spec, masks) else None


def forward(
    spec: Spec,
    packed: _core.Packed,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    lengths: Any,
    memory: Memory,
    *,
    reserve: Bytes | None,
    masks: tuple[int, int] | None,
    y: Array | None = None,
    marks: Marks = NO_MARKS,
) -> tuple[Array, Array, Array | None]:
    """x [T, B, I] (any strides) -> (y [T, B, D*P], h_n [L*D, B, P], c_n [L*D, B, C] or None).

    h_0 [L*D, B, P], c_0 [L*D, B, C] (``Spec.cell_units``), or None for zeros. lengths: contiguous int64 [B], NumPy's,
    checked by the caller; on a GPU, an array there (kernels clamp what is not in [0, T], and report it late); or None.
    reserve: ``reserve_bytes`` bytes for what ``backward`` needs; None: nothing is kept. masks: (seed, call) turns
    dropout between layers and the cell's random masks on; None leaves them off. y: write the output here.
    c_n is float32 for bfloat16 and float16; all else is in the spec's dtype.
    """
    seq_len, batch, _ = x.shape
    leading = spec.num_layers * spec.directions
    h_n = memory.empty((leading, batch, spec.outputs), spec.dtype)
    c_n = memory.empty((leading, batch, spec.cell_units), spec.state_dtype) if spec.states > 1 else None
    if y is None:
        y = memory.empty((seq_len, batch, spec.directions * spec.outputs), spec.dtype)
    network = plan(spec)
    network.forward(
        packed, x=x, h_0=h_0, c_0=c_0, y=y, h_n=h_n, c_n=c_n, lengths=lengths, mask=marks.mask, reset=marks.reset,
        reserve=reserve, random=_random(spec, masks), **_on_gpu(network, "workspace_forward", x, memory),
    )  # fmt: skip
    return y, h_n, c_n


def backward(
    spec: Spec,
    packed: _core.Packed,
    tape: Tape,
    dy: Array | None,
    dh_n: Array | None,
    dc_n: Array | None,
    memory: Memory,
    *,
    need_x: bool,
    need_state: bool,
    need_params: Sequence[bool] | bool,
    probe: bool = False,
    clip_step: float = 0.0,
) -> Gradients:
    """BPTT of a taped forward: dy [T, B, D*P], dh_n [L*D, B, P], dc_n [L*D, B, C], each None for zeros -> Gradients.

    probe: also the gradient of every h_t (``Gradients.steps``). clip_step: bound of its elements, at each step; 0:
    none. need_params: one flag for all, or one per ``spec.param_names``. Nothing is computed for what is not needed.
    Never writes to the tape, so twice gives the same bits. Gradients of states are float32 for bfloat16 and float16;
    all else is in the spec's dtype.
    """
    names = spec.param_names
    needs = [need_params] * len(names) if isinstance(need_params, bool) else [bool(need) for need in need_params]
    if len(needs) != len(names):
        raise ValueError(f"need_params: expected one flag for each of {len(names)} parameters, got {len(needs)}")
    seq_len, batch, _ = tape.x.shape
    leading = spec.num_layers * spec.directions
    empty = memory.empty
    dh_0 = empty((leading, batch, spec.outputs), spec.state_dtype) if need_state else None
    dc_0 = empty((leading, batch, spec.cell_units), spec.state_dtype) if need_state and spec.states > 1 else None
    dx = empty((seq_len, batch, spec.input_size), spec.dtype) if need_x else None
    dparams, gradients = new_gradients(spec, needs, memory)
    steps = None
    if probe:
        shape = (seq_len, batch, spec.directions * spec.outputs)
        steps = [empty(shape, spec.state_dtype) for _ in range(spec.num_layers)]
        for each in steps:
            each[...] = 0  # past each row's end
    network = plan(spec)
    network.backward(
        packed, reserve=tape.reserve, x=tape.x, h_0=tape.h_0, c_0=tape.c_0, y=tape.y, dy=dy, dh_n=dh_n, dc_n=dc_n,
        lengths=tape.lengths, mask=tape.marks.mask, reset=tape.marks.reset, random=_random(spec, tape.masks), dx=dx,
        dh_0=dh_0, dc_0=dc_0, gradients=gradients if any(needs) else None, dh=steps, clip_dh=clip_step or None,
        **_on_gpu(network, "workspace_backward", tape.x, memory),
    )  # fmt: skip
    return Gradients(dx, dh_0, dc_0, dparams, steps)


def _random(spec: Spec, masks: tuple[int, int] | None) -> tuple[int, int, int, int] | None:
    """(seed, call, first stream, first step) where anything is random."""
    masks = drawing(spec, masks)
    return None if masks is None else (*masks, 0, 0)


def _on_gpu(network: _core.Plan, name: str, x: Array, memory: Memory) -> dict[str, Any]:
    """The workspace and the stream of a call on a GPU; nothing on the host, where the binding has a workspace.

    The workspace is let go of as soon as the call returns, while the GPU may not have begun: the allocators of CuPy and
    torch hand memory out again in the order of the stream it came from, so nobody else gets it before the work is done.
    """
    if memory.gpu is None:
        return {}
    nbytes = network.sizes(x.shape[0], x.shape[1])[name]
    return {"workspace": memory.empty((max(nbytes, 64),), "uint8"), "stream": memory.gpu.stream}
