"""One call of a network: arrays in, arrays out. The native library walks layers and directions; this module allocates.

Works on NumPy arrays, torch tensors and other libraries' arrays on a GPU alike: it only hands them to the binding; new
arrays come from the caller's ``Memory``. Shapes and lengths are the caller's to check; the binding checks them once
more, in its own words. Everything with L*D entries is indexed by ``layer * D + direction``, as in torch.nn.
"""

from __future__ import annotations

from typing import Any

from .. import _core
from .gradients import new_gradients
from .plans import plan
from .spec import EVERYTHING, NO_MARKS, Array, Bytes, Gradients, Inputs, Memory, OutputGradients, Spec, Tape, Wanted


def dropping(spec: Spec, masks: tuple[int, int] | None) -> bool:
    """Whether dropout between layers draws masks."""
    return masks is not None and spec.dropout > 0.0 and spec.num_layers > 1


def drawing(spec: Spec, masks: tuple[int, int] | None) -> tuple[int, int] | None:
    """The masks where anything is random, the cell included."""
    return masks if spec.options.random or dropping(spec, masks) else None


def forward(
    spec: Spec,
    packed: _core.Packed,
    inputs: Inputs,
    memory: Memory,
    *,
    reserve: Bytes | None = None,
    y: Array | None = None,
) -> tuple[Array, Array, Array | None]:
    """-> (y [T, B, D*P], h_n [L*D, B, P], c_n [L*D, B, C] or None).

    reserve: ``reserve_bytes`` bytes for what ``backward`` needs; None: nothing is kept. y: write the output here. c_n
    is float32 for bfloat16 and float16; all else is in the spec's dtype.
    """
    seq_len, batch, _ = inputs.x.shape
    leading = spec.num_layers * spec.directions
    h_n = memory.empty((leading, batch, spec.outputs), spec.dtype)
    c_n = memory.empty((leading, batch, spec.cell_units), spec.state_dtype) if spec.states > 1 else None
    if y is None:
        y = memory.empty((seq_len, batch, spec.directions * spec.outputs), spec.dtype)
    network = plan(spec)
    network.forward(
        packed, **_given(spec, inputs), y=y, h_n=h_n, c_n=c_n, reserve=reserve,
        **_on_gpu(network, "workspace_forward", inputs.x, memory),
    )  # fmt: skip
    return y, h_n, c_n


def backward(
    packed: _core.Packed, tape: Tape, above: OutputGradients, memory: Memory, wanted: Wanted = EVERYTHING
) -> Gradients:
    """BPTT of a taped forward. Never writes to the tape, so twice gives the same bits.

    Gradients of states are float32 for bfloat16 and float16; all else is in the spec's dtype.
    """
    spec, inputs = tape.spec, tape.inputs
    names = spec.param_names
    needs = [wanted.params] * len(names) if isinstance(wanted.params, bool) else [bool(need) for need in wanted.params]
    if len(needs) != len(names):
        raise ValueError(f"params: expected one flag for each of {len(names)} parameters, got {len(needs)}")
    seq_len, batch, _ = inputs.x.shape
    leading = spec.num_layers * spec.directions
    empty = memory.empty
    dh_0 = empty((leading, batch, spec.outputs), spec.state_dtype) if wanted.state else None
    dc_0 = empty((leading, batch, spec.cell_units), spec.state_dtype) if wanted.state and spec.states > 1 else None
    dx = empty((seq_len, batch, spec.columns), spec.dtype) if wanted.x else None
    dparams, gradients = new_gradients(spec, needs, memory)
    steps = None
    if wanted.steps:
        shape = (seq_len, batch, spec.directions * spec.outputs)
        steps = [empty(shape, spec.state_dtype) for _ in range(spec.num_layers)]
        for each in steps:
            each[...] = 0  # past each row's end
    network = plan(spec)
    network.backward(
        packed, **_given(spec, inputs), y=tape.y, reserve=tape.reserve, dy=above.y, dh_n=above.h_n, dc_n=above.c_n,
        dx=dx, dh_0=dh_0, dc_0=dc_0, gradients=gradients if any(needs) else None, dh=steps,
        clip_dh=wanted.clip_step or None, **_on_gpu(network, "workspace_backward", inputs.x, memory),
    )  # fmt: skip
    return Gradients(dx, dh_0, dc_0, dparams, steps)


def _given(spec: Spec, inputs: Inputs) -> dict[str, Any]:
    """The arguments that both passes of ``_core.Plan`` have, but for those that are absent."""
    x, h_0, c_0, lengths, masks, marks = inputs
    given = {"x": x, "h_0": h_0, "c_0": c_0, "lengths": lengths}
    if marks is not NO_MARKS:
        given |= {"mask": marks.mask, "reset": marks.reset}
    if masks is not None and drawing(spec, masks) is not None:
        given["random"] = (*masks, 0, 0)  # (seed, call, first stream, first step)
    return given


def _on_gpu(network: _core.Plan, name: str, x: Array, memory: Memory) -> dict[str, Any]:
    """The workspace and the stream of a call on a GPU; nothing on the host, where the binding has a workspace.

    The workspace is let go of as soon as the call returns, while the GPU may not have begun: the allocators of CuPy and
    torch hand memory out again in the order of the stream it came from, so nobody else gets it before the work is done.
    """
    if memory.gpu is None:
        return {}
    nbytes = network.sizes(x.shape[0], x.shape[1])[name]
    return {"workspace": memory.empty((max(nbytes, 64),), "uint8"), "stream": memory.gpu.stream}
