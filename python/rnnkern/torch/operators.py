"""The kernels as torch operators: one node in any graph that torch makes.

    rnnkern::layer            x, states, parameters -> y, h_n, c_n
    rnnkern::layer_train      the same and the reserve, uint8 [n]: what BPTT needs beside the arguments and y
    rnnkern::layer_backward   gradients

``layer`` is what modules call; where a gradient is recorded it becomes ``layer_train``. A second derivative is that
of the composed form (``composed.py``). c_n is empty for cells without a cell state; of an sLSTM it is c n m side by
side. What was added since the first exported graphs (``reverse``, ``step``, ``mask``, ``reset``) has a default, so that
those still load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _engine as engine
from .._engine.spec import NO_MARKS, Inputs, Marks
from . import composed, gpu, kernels
from .checks import take_lengths, take_marks
from .kernels import Around, Options, cell_dtype, masks_of, output_like, spec_for

_INPUTS = "Tensor x, Tensor? h_0, Tensor? c_0, Tensor[] params"
_OPTIONS = (
    "Tensor? lengths, Tensor? masks, str cell, int num_layers, bool bidirectional, float dropout, bool batch_first, "
    "bool recompute"
)
_MARKS = "Tensor? mask=None, Tensor? reset=None"
_SINCE = f"bool reverse=False, str step='', {_MARKS}"
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)


def _define() -> torch.library.Library | None:
    """The library of the operators, or None where this process has them already.

    A process has them once, and so they outlive this module: it may be imported again after ``sys.modules`` was
    cleared, as autoreload does, and graphs of before go on.
    """
    home = vars(torch.ops.rnnkern)
    if "rnnkern_library" in home:
        return None
    library = home["rnnkern_library"] = torch.library.Library("rnnkern", "DEF")
    library.define(f"layer({_INPUTS}, {_OPTIONS}, {_SINCE}) -> (Tensor y, Tensor h_n, Tensor c_n)", tags=_TAGS)
    library.define(
        f"layer_train({_INPUTS}, {_OPTIONS}, {_SINCE}) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor reserve)",
        tags=_TAGS,
    )
    library.define(
        f"layer_backward(Tensor? dy, Tensor? dh_n, Tensor? dc_n, {_INPUTS}, Tensor y, Tensor reserve, {_OPTIONS}, "
        f"bool reverse, str step, bool[] needs, {_MARKS}) -> Tensor[]",
        tags=_TAGS,
    )
    return library


_NEW = _define()
layer = torch.ops.rnnkern.layer.default
layer_train = torch.ops.rnnkern.layer_train.default
layer_backward = torch.ops.rnnkern.layer_backward.default


_WIDTH = len(Options._fields)


def _split(rest: Sequence[Any]) -> tuple[Options, Marks]:
    """What follows the tensors of ``layer``: the dispatcher leaves out trailing values that are the defaults."""
    if len(rest) <= _WIDTH:
        return Options(*rest), NO_MARKS
    return Options(*rest[:_WIDTH]), Marks(*rest[_WIDTH:])


# The kernels, on the CPU and on GPUs ----------------------------------------------------------------------------------


def _marks(marks: Marks, x: Tensor) -> Marks:
    if marks is NO_MARKS or gpu.index_of(x) is not None:  # which kernels.py sees to
        return marks
    return take_marks(*marks, (x.shape[0], x.shape[1]))


def _rows(lengths: Tensor | None, x: Tensor) -> Any:
    if lengths is None or gpu.index_of(x) is not None:
        return lengths
    return take_lengths(lengths, x.shape[1], x.shape[0])


def _run(keep: bool, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    x, h_0, c_0, params, lengths, masks, *rest = arguments
    options, marks = _split(rest)
    spec = spec_for(options, x, params)
    rows = _rows(lengths, x)
    inputs = Inputs(x, h_0, c_0, rows, masks_of(masks), _marks(marks, x))
    y, h_n, c_n, reserve = kernels.forward(spec, options.batch_first, inputs, params, keep)
    c_n = x.new_empty(0) if c_n is None else c_n
    return (y, h_n, c_n) if reserve is None else (y, h_n, c_n, reserve)


def _layer(*arguments: Any) -> tuple[Tensor, ...]:
    return _run(False, arguments)


def _layer_train(*arguments: Any) -> tuple[Tensor, ...]:
    return _run(True, arguments)


def _layer_backward(
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: Sequence[Tensor],
    y: Tensor,
    reserve: Tensor,
    lengths: Tensor | None,
    masks: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    needs = rest[_WIDTH]
    options, marks = _split((*rest[:_WIDTH], *rest[_WIDTH + 1 :]))
    spec = spec_for(options, x, params)
    rows = _rows(lengths, x)
    if spec.states == 1:
        dc_n = None
    inputs = Inputs(x, h_0, c_0, rows, masks_of(masks), _marks(marks, x))
    grads = kernels.backward(spec, (dy, dh_n, dc_n), inputs, params, (y, reserve), needs)
    return [x.new_empty(0) if grad is None else grad for grad in grads]


# Shapes alone -------------------------------------------------------------------------------------------------------


def _fake(keep: bool, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    x, _, c_0, params, lengths, masks, *rest = arguments
    options, marks = _split(rest)
    spec = spec_for(options, x, params)
    if torch.onnx.is_in_onnx_export():  # a second try of torch.export's exporter, whose error is what it shows
        from . import onnx_nodes

        onnx_nodes.refuse(spec, Around(lengths, masks, marks))
    y = output_like(spec, options.batch_first, x)
    rows = (spec.num_layers * spec.directions, x.shape[1])
    c_n = x.new_empty((*rows, spec.cell_units) if spec.states > 1 else 0, dtype=cell_dtype(spec.states, x.dtype, c_0))
    answer = (y, x.new_empty((*rows, spec.outputs)), c_n)
    if not keep:
        return answer
    drop = engine.dropping(spec, None if masks is None else (0, 0))
    nbytes = engine.reserve_bytes(spec, x.shape[0], x.shape[1], drop)
    return (*answer, x.new_empty(nbytes, dtype=torch.uint8))


def _fake_backward(*arguments: Any) -> list[Tensor]:
    x, h_0, c_0, params = arguments[3:7]
    wanted = zip((x, h_0, c_0, *params), arguments[11 + _WIDTH], strict=True)
    return [
        x.new_empty(0) if value is None or not need else x.new_empty(value.shape, dtype=value.dtype)
        for value, need in wanted
    ]


# Gradients ----------------------------------------------------------------------------------------------------------


def _record(keyset: Any, *arguments: Any) -> tuple[Tensor, ...]:
    """``layer`` under autograd."""
    x, h_0, c_0, params = arguments[:4]
    given = [tensor for tensor in (x, h_0, c_0, *params) if tensor is not None]
    if _has_tangent(given):
        raise NotImplementedError(
            "torch.ops.rnnkern.layer: no forward-mode formula; the modules of rnnkern.torch compute tangents"
        )
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return layer_train(*arguments)[:3]  # type: ignore[no-any-return]
    with torch._C._AutoDispatchBelowAutograd():
        return layer.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)  # type: ignore[no-any-return]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h_0, c_0, params, lengths, masks, *rest = inputs
    ctx.options, marks = _split(rest)
    y, _, _, reserve = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h_0, c_0, y, reserve, lengths, masks, *marks, *params)


def maps_batches() -> bool:
    """Inside of ``is_grads_batched=True``, which maps by keys that know no operator from outside torch."""
    return torch._C._dispatch_tls_is_dispatch_key_included("VmapMode")


def _has_tangent(tensors: Sequence[Tensor | None]) -> bool:
    if forward_ad._current_level < 0:
        return False
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _differentiate(ctx: Any, dy: Any, dh_n: Any, dc_n: Any, _: Any) -> tuple[Any, ...]:
    x, h_0, c_0, y, reserve, lengths, masks, mask, reset, *params = ctx.saved_tensors
    need_x, need_h, need_c, need_params, *others = ctx.needs_input_grad
    needs = [need_x, need_h, need_c, *need_params]
    if dy is None and dh_n is None and dc_n is None:
        return (None, None, None, [None] * len(params), *(None for _ in others))
    batched = maps_batches()
    if batched or _has_tangent((dy, dh_n, dc_n, x, h_0, c_0, *params)):  # from above: an operator would lose a tangent
        around = Around(lengths, masks_of(masks), Marks(mask, reset))
        primals = (x, h_0, c_0, *params)
        grads = composed.pullback((dy, dh_n, dc_n), primals, ctx.options, around, needs if batched else None)
    else:
        grads = layer_backward(
            dy, dh_n, dc_n, x, h_0, c_0, params, y, reserve, lengths, masks, *ctx.options, needs, mask, reset
        )
    dx, dh_0, dc_0, *dparams = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return (dx, dh_0, dc_0, dparams, *(None for _ in others))


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    dy, dh_n, dc_n, x, h_0, c_0, params, _, _, lengths, masks, *options, ctx.needs, mask, reset = inputs
    ctx.options = Options(*options)
    ctx.save_for_backward(dy, dh_n, dc_n, x, h_0, c_0, lengths, masks, mask, reset, *params)


def _differentiate_backward(ctx: Any, seeds: Sequence[Any]) -> tuple[Any, ...]:
    dy, dh_n, dc_n, x, h_0, c_0, lengths, masks, mask, reset, *params = ctx.saved_tensors
    seeds = [seed if need else None for seed, need in zip(seeds, ctx.needs, strict=True)]
    around = Around(lengths, masks_of(masks), Marks(mask, reset))
    wanted = [*ctx.needs_input_grad[:6], *ctx.needs_input_grad[6]] if maps_batches() else None
    grads = composed.gradients((dy, dh_n, dc_n), (x, h_0, c_0, *params), ctx.options, around, seeds, wanted)
    return (*grads[:6], grads[6:], *(None for _ in ctx.needs_input_grad[7:]))


# vmap ---------------------------------------------------------------------------------------------------------------
# Mapped inputs of one set of parameters are rows of one batch. Everything else (stacked parameters, gradients for each
# sample, masks for each) is one call for each entry.


def _is_mapped(dims: Any) -> bool:
    return any(map(_is_mapped, dims)) if isinstance(dims, (list, tuple)) else dims is not None


def _entry(value: Any, dims: Any, index: int) -> Any:
    if dims is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_entry(v, d, index) for v, d in zip(value, dims, strict=True)]
    return value.select(dims, index)


def one_by_one(operator: Callable[..., Any], size: int, in_dims: Any, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    if size == 0:
        raise ValueError("rnnkern.torch: expected vmap over at least one entry here, got none")
    answers = [operator(*(_entry(a, d, i) for a, d in zip(arguments, in_dims, strict=True))) for i in range(size)]
    stacked = [torch.stack(parts) for parts in zip(*answers, strict=True)]
    zeros = [0] * len(stacked)
    return (stacked, zeros) if isinstance(answers[0], list) else (tuple(stacked), tuple(zeros))


def _map(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
    x, h_0, c_0, params, lengths, masks, *rest = arguments
    x_dim, h_dim, c_dim, params_dims, lengths_dim, masks_dim, *dims = in_dims
    options, marks = _split(rest)
    size = info.batch_size
    if masks is not None or _is_mapped([params_dims, masks_dim]):
        return one_by_one(layer, size, in_dims, arguments)

    def rows(value: Tensor | None, dim: int | None, axis: int) -> Tensor | None:
        """The mapped axis before the axis of rows, and both as one."""
        if value is None:
            return None
        value = value.unsqueeze(axis).expand(*value.shape[:axis], size, *value.shape[axis:]) if dim is None else value
        return value.movedim(axis if dim is None else dim, axis).flatten(axis, axis + 1)

    wide = (rows(x, x_dim, 1), rows(h_0, h_dim, 1), rows(c_0, c_dim, 1), params, rows(lengths, lengths_dim, 0), masks)
    mark_dims = Marks(*dims[_WIDTH:])
    y, h_n, c_n = layer(*wide, *options, rows(marks.mask, mark_dims.mask, 1), rows(marks.reset, mark_dims.reset, 1))
    batch = x.shape[1] if x_dim is None else x.movedim(x_dim, 0).shape[2]
    y, h_n = y.unflatten(1, (size, batch)), h_n.unflatten(1, (size, batch))
    return (y, h_n, c_n.unflatten(1, (size, batch)) if c_n.dim() == 3 else c_n), (1, 1, 1 if c_n.dim() == 3 else None)


def _map_train(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
    return one_by_one(layer_train, info.batch_size, in_dims, arguments)


def _map_backward(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
    return one_by_one(layer_backward, info.batch_size, in_dims, arguments)


def _register(library: torch.library.Library) -> None:
    for device in ("CPU", "CUDA"):
        library.impl("layer", _layer, device)
        library.impl("layer_train", _layer_train, device)
        library.impl("layer_backward", _layer_backward, device)
    library.impl("layer", _record, "Autograd", with_keyset=True)
    fakes = {
        "layer": lambda *arguments: _fake(False, arguments),
        "layer_train": lambda *arguments: _fake(True, arguments),
        "layer_backward": _fake_backward,
    }
    rules = {"layer": _map, "layer_train": _map_train, "layer_backward": _map_backward}
    for name in fakes:
        torch.library.register_fake(f"rnnkern::{name}", fakes[name], lib=library)
        torch.library.register_vmap(f"rnnkern::{name}", rules[name], lib=library)
    torch.library.register_autograd("rnnkern::layer_train", _differentiate, setup_context=_save, lib=library)
    torch.library.register_autograd(
        "rnnkern::layer_backward", _differentiate_backward, setup_context=_save_backward, lib=library
    )


if _NEW is not None:
    _register(_NEW)
