"""One call of the layers as a differentiable torch operation.

It uses the registered operators, or calls the kernels directly when no transform is active.

``recurrence`` is all that the modules use. The usual case, plain tensors with no transform and no mode around, goes to
the kernels through one ``autograd.Function``, which costs half of the dispatcher's way in training. A graph, ``vmap``
and dispatch modes get ``torch.ops.rnnkern.layer``; the gradients of torch.func a Function of their own
(``functional.py``), since they do not enter an operator's; forward mode the composed form, because an operator written
in Python would answer it with a tangent of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from .. import _engine as engine
from .._engine.spec import NO_MARKS, Inputs, Marks
from . import composed, functional, gpu, kernels, operators
from .kernels import Around, Options, masks_of


class Call(NamedTuple):
    """What a call is, apart from the tensors that have gradients."""

    options: Options
    spec: engine.Spec
    lengths: Any  # int64 [B]: a NumPy array, checked, or a tensor that is not to be looked at; or None
    masks: Tensor | None  # int64 [2]
    keep: bool  # a gradient will be asked for
    packed: Any = None  # frozen weights, or None; only without keep
    marks: Marks = NO_MARKS  # bool [T, B]: NumPy arrays, checked, or tensors that are not to be looked at

    @property
    def hidden(self) -> bool:
        """Whether an operator must see lengths or marks; the kernels of a GPU take plain tensors there as they are."""
        tensors = [value for value in (self.lengths, *self.marks) if isinstance(value, Tensor)]
        return any(gpu.index_of(value) is None for value in tensors) or watched(tensors)


def records_gradient(tensors: Sequence[Tensor | None]) -> bool:
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def recurrence(
    call: Call, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x [T, B, I], h_0 [L*D, B, P], c_0 [L*D, B, C] or None -> y [T, B, D*P], h_n, c_n (c_n None without a cell state).

    params: in the order of ``call.spec.param_names``. Everything is checked by the caller; every answer has x's dtype.
    """
    plain = call.lengths is None and call.marks is NO_MARKS
    if (not plain and call.hidden) or watched((x, h_0, c_0, *params)):
        if call.spec.weights is not None:
            raise NotImplementedError(
                f"rnnkern.torch: a module frozen with weights in {call.spec.weights} answers plain eager calls alone, "
                "no transforms, graphs or dispatch modes; call unfreeze() first"
            )
        return by_operator(call.options, x, h_0, c_0, params, _around(call, x))
    if call.keep:
        return Recurrence.apply(call, x, h_0, c_0, *params)  # type: ignore[no-any-return,no-untyped-call]
    inputs = Inputs(x, h_0, c_0, call.lengths, masks_of(call.masks), call.marks)
    return kernels.forward(call.spec, call.options.batch_first, inputs, params, False, call.packed)[:3]


def by_operator(
    options: Options,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: Sequence[Tensor],
    around: Around,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``recurrence`` with lengths, masks and marks as tensors."""
    lengths, masks, marks = around
    if torch.onnx.is_in_onnx_export():
        from . import onnx_nodes  # it needs onnx

        return onnx_nodes.layer(x, h_0, c_0, params, options, around)
    if torch.compiler.is_compiling():
        if (
            torch._C._are_functorch_transforms_active()
        ):  # traced inside of torch.func: Dynamo gives an operator no tangent
            if masks is not None:
                raise NotImplementedError(
                    "rnnkern.torch: torch.func inside of a graph cannot draw the masks of dropout, zoneout and "
                    "recurrent_dropout; compile inside of the transform, or after eval()"
                )
            return composed.layer(x, h_0, c_0, params, options, around)
        y, h_n, c_n = operators.layer(x, h_0, c_0, params, lengths, masks, *options, *marks)
    elif needs_tangent((x, h_0, c_0, *params)):
        layer = composed.layer if masks is None else _untraced_layer
        return layer(x, h_0, c_0, params, options, around._replace(masks=masks_of(masks)))
    elif functional.differentiates():
        y, h_n, c_n = functional.layer(x, h_0, c_0, params, options, around)
    else:
        y, h_n, c_n = operators.layer(x, h_0, c_0, params, lengths, masks, *options, *marks)
    return y, h_n, c_n if composed.CELLS[options.cell].states > 1 else None


def _as_tensor(values: Any, x: Tensor) -> Tensor | None:
    """On x's device: an operator's tensors are."""
    if not isinstance(values, np.ndarray):
        return values  # type: ignore[no-any-return]
    index = gpu.index_of(x)
    return torch.from_numpy(values) if index is None else gpu.upload(values, index, "lengths, mask, reset")


def _around(call: Call, x: Tensor) -> Around:
    """What the call has around its tensors, as tensors on x's device."""
    marks = call.marks if call.marks is NO_MARKS else Marks(*(_as_tensor(each, x) for each in call.marks))
    return Around(_as_tensor(call.lengths, x), call.masks, marks)


# Masks are drawn by NumPy, which Dynamo must not trace where it goes on after a break of its graph.
_untraced_layer = torch.compiler.disable(composed.layer)

# Every call asks these; under their full names they cost as much again in look-ups.
_compiling = torch.compiler.is_compiling
_functorch_level = torch._C._functorch.peek_interpreter_stack
_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state


def watched(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a graph, a transform, a dispatch mode or a tensor of another class must get to see an operator."""
    if (
        _compiling()
        or forward_ad._current_level >= 0
        or _functorch_level() is not None
        or _modes() > 0
        or _tracing() is not None
    ):
        return True
    for tensor in tensors:  # a loop, since a generator would cost more than all of it
        kind = type(tensor)
        if kind is not Tensor and kind is not Parameter and tensor is not None:
            return True
    return False


def needs_tangent(tensors: Sequence[Tensor | None]) -> bool:
    """Whether forward mode is on: a level of torch.func.jvp anywhere around, or a dual tensor among the arguments."""
    if functional.level_of("Jvp"):
        return True
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


class Recurrence(torch.autograd.Function):
    """(call, x, h_0, c_0, *params) -> (y, h_n, c_n). Saved: the arguments, y, and one tensor of bytes, the reserve."""

    @staticmethod
    def forward(ctx: Any, call: Call, x: Tensor, h_0: Any, c_0: Any, *params: Tensor) -> Any:
        inputs = Inputs(x, h_0, c_0, call.lengths, masks_of(call.masks), call.marks)
        y, h_n, c_n, reserve = kernels.forward(call.spec, call.options.batch_first, inputs, params, True)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h_0, c_0, y, reserve, *params)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        needs = ctx.needs_input_grad[1:]
        if all(grad is None for grad in grads):
            return (None,) * (1 + len(needs))
        return (None, *gradient_of(ctx.call, needs, grads, saved_tensors(ctx)))


def gradient_of(call: Call, needs: Sequence[bool], grads: Sequence[Any], saved: Sequence[Any]) -> Sequence[Any]:
    """Gradients of (x, h_0, c_0, *params), None where ``needs`` says so, whatever is around the backward pass.

    grads: of y, h_n, c_n, each perhaps None. saved: x, h_0, c_0, y, the reserve, *params.
    """
    # is_grads_batched=True maps by keys that know no operator from outside torch, and no kernel.
    if operators.maps_batches():
        return _where(needs, _composed_gradient(call, grads, saved, needs))
    if watched((*grads, *saved)):
        return _watched_gradient(call, needs, grads, saved)
    if torch.is_grad_enabled():  # create_graph
        return RecurrenceGradient.apply(call, needs, *grads, *saved)  # type: ignore[no-any-return,no-untyped-call]
    return _gradient(call, needs, grads, saved)


def saved_tensors(ctx: Any) -> Sequence[Any]:
    """Saved tensors; where one was changed in place, the error says what to do: it is usually y."""
    try:
        return ctx.saved_tensors  # type: ignore[no-any-return]
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise RuntimeError(
            f"{error} (rnnkern.torch: the gradient of a recurrent layer reads its input, output and weights. Was its "
            "output changed in place, by dropout(inplace=True) or relu_ say? Use the form that is not in place, or "
            "change a clone() of the output)"
        ) from error


def _watched_gradient(call: Call, needs: Sequence[bool], grads: Sequence[Any], saved: Sequence[Any]) -> list[Any]:
    """What came in above the layer, after its forward: a mode, a level of torch.func, a tangent."""
    x, h_0, c_0, y, reserve, *params = saved
    dy, dh_n, dc_n = grads
    if needs_tangent((dy, dh_n, dc_n, x, h_0, c_0, *params)):
        answer = _composed_gradient(call, grads, saved)
    else:
        lengths, _, marks = _around(call, x)
        answer = operators.layer_backward(
            dy, dh_n, dc_n, x, h_0, c_0, params, y, reserve, lengths, call.masks, *call.options, list(needs), *marks
        )
    return _where(needs, answer)


def _where(needs: Sequence[bool], answer: Sequence[Any]) -> list[Any]:
    return [grad if need else None for grad, need in zip(answer, needs, strict=True)]


def _composed_gradient(
    call: Call, grads: Sequence[Any], saved: Sequence[Any], needs: Sequence[bool] | None = None
) -> list[Any]:
    x, h_0, c_0, _, _, *params = saved
    around = _around(call, x)._replace(masks=masks_of(call.masks))
    return composed.pullback(grads, (x, h_0, c_0, *params), call.options, around, needs)


def _gradient(call: Call, needs: Sequence[bool], grads: Sequence[Any], saved: Sequence[Any]) -> list[Tensor | None]:
    x, h_0, c_0, y, reserve, *params = saved
    inputs = Inputs(x, h_0, c_0, call.lengths, masks_of(call.masks), call.marks)
    return kernels.backward(call.spec, grads, inputs, params, (y, reserve), needs)


class RecurrenceGradient(torch.autograd.Function):
    """(call, needs, dy, dh_n, dc_n, *saved tensors) -> gradients of (x, h_0, c_0, *params), None: not needed."""

    @staticmethod
    def forward(ctx: Any, call: Call, needs: Sequence[bool], *tensors: Any) -> Any:
        ctx.call, ctx.needs = call, needs
        dy, dh_n, dc_n, x, h_0, c_0, _, _, *params = tensors
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, dh_n, dc_n, x, h_0, c_0, *params)
        return tuple(_gradient(call, needs, tensors[:3], tensors[3:]))

    @staticmethod
    def backward(ctx: Any, *seeds: Any) -> Any:
        saved = ctx.saved_tensors  # once: a checkpoint gives them no second time
        dy, dh_n, dc_n, x, h_0, c_0, *params = saved
        call = ctx.call
        _, _, *needs = ctx.needs_input_grad
        around = _around(call, x)._replace(masks=masks_of(call.masks))
        wanted = None if watched((*seeds, *saved)) else [*needs[:6], *needs[8:]]
        primals = (x, h_0, c_0, *params)
        grads = composed.gradients((dy, dh_n, dc_n), primals, call.options, around, seeds, wanted)
        return (None, None, *grads[:6], None, None, *grads[6:])
