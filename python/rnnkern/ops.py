"""The scheduler: layers, directions and dropout over plans. Arrays in, arrays out; no parameters, no state.

Works on NumPy arrays, torch tensors and other libraries' arrays on a GPU alike: it only slices them and hands them to
the binding; new arrays come from the caller's ``Memory``. A dtype's name is "float32", "float64", "bfloat16" or
"float16".

    Spec                    what a stack of layers is (immutable, hashable)
    plans(spec)             [L*D] plans, from a bounded cache
    pack(spec, params)      [L*D] packed weights; params in PyTorch's order (see Spec.param_names)
    reserve_bytes(spec...)  how much a training forward keeps beside x and y, in one block
    forward(...)            -> y, h_n, c_n, Tape | None
    tape_of(...)            that Tape again, from what it refers to
    backward(...)           -> Gradients

Everything with L*D entries is indexed by ``layer * D + direction``, as in torch.nn. Shapes and lengths are the caller's
to check; the binding checks them once more, in its own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _core
from .plans import pack, plans, vectors
from .reserve import new_reserve, reserve_bytes, shelves
from .rooms import may_stack, on_gpu, room, sizes
from .spec import NO_MARKS, Array, Bytes, Gpu, Gradients, Marks, Memory, Spec, Tape
from .targets import lowest_layer, new_gradients

__all__ = [
    "NO_MARKS",
    "Bytes",
    "Gpu",
    "Gradients",
    "Marks",
    "Memory",
    "Spec",
    "Tape",
    "backward",
    "drawing",
    "dropping",
    "forward",
    "new_reserve",
    "pack",
    "plans",
    "reserve_bytes",
    "tape_of",
    "vectors",
]


def dropping(spec: Spec, masks: tuple[int, int] | None) -> tuple[int, int] | None:
    """The masks where there is something to drop."""
    return masks if spec.dropout > 0.0 and spec.num_layers > 1 else None


def drawing(spec: Spec, masks: tuple[int, int] | None) -> tuple[int, int] | None:
    """The masks where anything is random, the cell included."""
    return masks if spec.options.random else dropping(spec, masks)


def tape_of(
    spec: Spec,
    packed: Sequence[_core.Packed],
    x: Array,
    y: Array,
    reserve: Bytes,
    h_0: Array | None,
    c_0: Array | None,
    lengths: Any,
    masks: tuple[int, int] | None,
    memory: Memory,
    marks: Marks = NO_MARKS,
) -> Tape:
    """The tape of a ``forward`` with these arguments that gave this y and filled this reserve."""
    drop = dropping(spec, masks)
    own, outputs, inputs = shelves(spec, x.shape[0], x.shape[1], drop is not None, reserve, memory)
    return Tape(spec, tuple(packed), (x, *inputs), (*outputs, y), own, h_0, c_0, lengths, drawing(spec, masks), marks)


def forward(
    spec: Spec,
    packed: Sequence[_core.Packed],
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
) -> tuple[Array, Array, Array | None, Tape | None]:
    """x [T, B, I] (any strides) -> (y [T, B, D*P], h_n [L*D, B, P], c_n [L*D, B, C] or None, Tape or None).

    h_0 [L*D, B, P], c_0 [L*D, B, C] (``Spec.cell_units``), or None for zeros. lengths: contiguous int64 [B], NumPy's,
    checked by the caller, or of a GPU's spec on the GPU (where what is not in [0, T] is clamped, and reported late), or
    None.
    reserve: ``reserve_bytes`` bytes that take what ``backward`` needs, and are the tape's; None: nothing is kept.
    masks: (seed, call) turns dropout between layers and the cell's random masks on; None leaves them off. y: write the
    output here.
    c_n is float32 for bfloat16 and float16; all else is in the spec's dtype.
    """
    seq_len, batch, _ = x.shape
    outs, directions, last = spec.outputs, spec.directions, spec.num_layers - 1
    drop = drawn = None
    if masks is not None:
        drop, drawn = dropping(spec, masks), drawing(spec, masks)
    leading = spec.num_layers * directions
    y_shape = (seq_len, batch, directions * outs)
    h_n = memory.empty((leading, batch, outs), spec.dtype)
    c_n = memory.empty((leading, batch, spec.cell_units), spec.state_dtype) if spec.states > 1 else None
    own: Sequence[Bytes | None] = [None] * leading
    outputs: list[Array] = []
    inputs: list[Array] = []
    if reserve is not None:
        own, outputs, inputs = shelves(spec, seq_len, batch, drop is not None, reserve, memory)
    if y is None:
        y = memory.empty(y_shape, spec.dtype)
    all_plans = plans(spec) if marks is NO_MARKS else plans(spec, marks.any)
    alone = reserve is None and drawn is None and lengths is None and marks is NO_MARKS
    may = directions == 1 and drop is None and (alone or memory.gpu is not None)
    if may and (
        last == 0 or may_stack(spec, all_plans, seq_len, batch, memory, backward=False, keep=reserve is not None)
    ):
        ys = [*(outputs or [memory.empty(y_shape, spec.dtype) for _ in range(last)]), y]
        workspace, stream = None, 0
        if memory.gpu is not None:
            workspace, stream = room(all_plans, "workspace_forward", seq_len, batch, memory)
        more: dict[str, Any] = {}
        if not alone:
            more = {"lengths": lengths, "reserve": None if reserve is None else own, "mask": marks.mask}
            more["reset"] = marks.resets(spec.reverse, lengths, memory)
            more["random"] = [_random(spec, drawn, layer) for layer in range(last + 1)]
        _core.Plan.forward_stack(all_plans, packed, x, h_0, c_0, ys, h_n, c_n, workspace, stream, **more)
    else:
        below = x
        for layer in range(spec.num_layers):
            output = y if layer == last else outputs[layer] if outputs else memory.empty(y_shape, spec.dtype)
            first = layer * directions
            called = all_plans[first : first + directions]
            workspace, stream = room(called, "workspace_forward", seq_len, batch, memory)
            if directions == 2:
                both = slice(first, first + 2)
                all_plans[first].forward_both(
                    all_plans[first + 1],
                    packed[both],
                    below,
                    h_0,
                    c_0,
                    output,
                    h_n,
                    c_n,
                    lengths,
                    own[both],
                    marks.mask,
                    [marks.resets(turned, lengths, memory) for turned in (False, True)],
                    [_random(spec, drawn, index) for index in (first, first + 1)],
                    workspace,
                    stream,
                    first,
                )
            else:
                all_plans[layer].forward(
                    packed[layer],
                    below,
                    h_0,
                    c_0,
                    output,
                    h_n,
                    c_n,
                    lengths,
                    own[layer],
                    marks.mask,
                    marks.resets(spec.reverse, lengths, memory),
                    _random(spec, drawn, layer),
                    workspace,
                    stream,
                    (layer, 1),
                )
            below = output
            if drop is not None and layer < last:
                # BPTT of this layer needs its undropped output, the layer above the dropped one: only then are both
                # kept.
                below = inputs[layer] if inputs else output
                _drop(spec, layer, output, below, drop, lengths, memory)
    tape = None
    if reserve is not None:
        tape = Tape(spec, tuple(packed), (x, *inputs), (*outputs, y), tuple(own), h_0, c_0, lengths, drawn, marks)  # type: ignore[arg-type]
    return y, h_n, c_n, tape


def backward(
    spec: Spec,
    packed: Sequence[_core.Packed],
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
    none.

    need_params: one flag for all, or one per ``spec.param_names``. Nothing is computed for what is not needed: layers
    below the lowest one that needs anything are not visited. Never writes to the tape, so twice gives the same bits.
    Gradients of states are float32 for bfloat16 and float16; all else is in the spec's dtype.
    """
    names = spec.param_names
    needs = [need_params] * len(names) if isinstance(need_params, bool) else [bool(need) for need in need_params]
    if len(needs) != len(names):
        raise ValueError(f"need_params: expected one flag for each of {len(names)} parameters, got {len(needs)}")
    directions, outs, lengths, marks = spec.directions, spec.outputs, tape.lengths, tape.marks
    each = len(spec.own_names)
    seq_len, batch = tape.x[0].shape[:2]
    leading = spec.num_layers * directions
    dh_0 = memory.empty((leading, batch, outs), spec.state_dtype) if need_state else None
    cells = need_state and spec.states > 1
    dc_0 = memory.empty((leading, batch, spec.cell_units), spec.state_dtype) if cells else None
    all_plans = plans(spec, marks.any)
    dparams: list[Array | None] = []
    targets: list[dict[str, Array | None]] = []  # of each, by the binding's names
    for index in range(leading):
        mine, named = new_gradients(spec, all_plans[index].param_rows, index, needs, memory)
        dparams += mine
        targets.append(named)
    dx = None
    steps: list[Array] = []
    drop = dropping(spec, tape.masks)
    lowest = 0 if probe else lowest_layer(spec, need_x or need_state, needs)
    at_once = (
        memory.gpu is not None
        and directions == 1
        and drop is None
        and may_stack(spec, all_plans, seq_len, batch, memory, backward=True, keep=True)
    )
    stack: list[tuple[Any, ...]] = []  # its layers from the last down: dx, random, gradients
    for layer in range(spec.num_layers - 1, lowest - 1, -1):
        x, y = tape.x[layer], tape.y[layer]
        need_dx = layer > lowest or (layer == 0 and need_x)
        dx = memory.empty(tuple(x.shape), spec.dtype) if need_dx else None
        dh = memory.empty(tuple(y.shape), spec.state_dtype) if probe else None
        if dh is not None:
            dh[...] = 0  # past each row's end
            steps.insert(0, dh)
        ids = [
            index
            for index in range(layer * directions, (layer + 1) * directions)
            if need_dx or need_state or probe or any(needs[index * each : (index + 1) * each])
        ]
        wanted = [{"dh_0": dh_0, "dc_0": dc_0, "dh": dh, **targets[index]} for index in ids]
        random = [_random(spec, tape.masks, index) for index in ids]
        if at_once:
            stack.append((dx, random[0], wanted[0]))
            continue
        resets = [marks.resets(spec.reverse or index % directions == 1, lengths, memory) for index in ids]
        workspace, stream = None, 0
        if memory.gpu is not None and ids:
            nbytes = sizes([all_plans[index] for index in ids], "workspace_backward", seq_len, batch)
            if len(ids) == 2 and need_dx:
                nbytes[1] = all_plans[ids[0]].workspace_beside(all_plans[ids[1]], seq_len, batch)
            workspace, stream = on_gpu(memory, nbytes)
        if len(ids) == 2:
            both = slice(ids[0], ids[1] + 1)
            all_plans[ids[0]].backward_both(
                all_plans[ids[1]],
                packed[both],
                tape.reserves[both],
                x,
                tape.h_0,
                tape.c_0,
                y,
                dy,
                dh_n,
                dc_n,
                dx,
                lengths,
                marks.mask,
                resets,
                random,
                clip_step,
                workspace,
                stream,
                ids[0],
                wanted,
            )
        elif ids:
            all_plans[ids[0]].backward(
                packed[ids[0]],
                tape.reserves[ids[0]],
                x,
                tape.h_0,
                tape.c_0,
                y,
                dy,
                dh_n,
                dc_n,
                dx=dx,
                lengths=lengths,
                mask=marks.mask,
                reset=resets[0],
                random=random[0],
                clip_dh=clip_step,
                workspace=workspace,
                stream=stream,
                place=(ids[0], directions),
                **wanted[0],  # type: ignore[arg-type]
            )
        if layer > lowest and drop is not None:
            _drop(spec, layer - 1, dx, dx, drop, lengths, memory)
        dy = dx
    if stack:
        dxs, random, wanted = (list(column) for column in zip(*reversed(stack), strict=True))
        above = slice(lowest, None)
        workspace, stream = room(all_plans[above], "workspace_backward", seq_len, batch, memory)
        _core.Plan.backward_stack(
            all_plans[above],
            packed[above],
            tape.reserves[above],
            tape.x[above],
            tape.h_0,
            tape.c_0,
            tape.y[above],
            dy,
            dh_n,
            dc_n,
            dxs,
            lengths,
            marks.mask,
            marks.resets(spec.reverse, lengths, memory),
            random,
            clip_step,
            workspace,
            stream,
            lowest,
            wanted,
        )
    return Gradients(dx if need_x else None, dh_0, dc_0, dparams, steps if probe else None)


def _drop(
    spec: Spec, layer: int, source: Array, target: Array, masks: tuple[int, int], lengths: Any, memory: Memory
) -> None:
    """Dropout on the output of a layer (or its gradient), one mask stream for each direction."""
    seed, call = masks
    how: dict[str, Any] = {}
    if memory.gpu is not None:
        how = {"device": "cuda", "device_index": spec.gpu, "cuda_stream": memory.gpu.stream}
    for direction in range(spec.directions):
        _core.dropout(
            _half(source, direction, spec.outputs, spec.directions),
            _half(target, direction, spec.outputs, spec.directions),
            spec.dropout,
            seed,
            call,
            layer * spec.directions + direction,
            lengths,
            **how,
        )


def _random(spec: Spec, masks: tuple[int, int] | None, index: int) -> tuple[int, int, int, int] | None:
    """The cell's random masks: (seed, call, stream, first step), or None."""
    return (*masks, index, 0) if masks is not None and spec.options.random else None


def _half(array: Array | None, direction: int, width: int, directions: int) -> Array | None:
    """A direction's columns of [T, B, D*P]."""
    if array is None or directions == 1:
        return array
    return array[:, :, direction * width : (direction + 1) * width]
