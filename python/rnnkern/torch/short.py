"""Calls of plain tensors in host memory, each pass by one call of the library.

Small calls spend most of their time in Python. So a module first asks here: ``answer`` checks the tensors, allocates
the outputs and runs the network in C, and in training a Function whose backward does the same records it. What is
unusual (a transform, a mode, a subclass, another device or dtype, a random mask) is left to ``autograd.recurrence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .. import _core
from .. import _engine as engine
from .autograd import Call, gradient_of, records_gradient, saved_tensors, watched
from .kernels import Options, kernel_is_forced

TYPES = (Tensor, Parameter)  # of tensors that have numbers: subclasses may only say what theirs would be
_BYTES = torch.empty(0, dtype=torch.uint8, device="cpu")


class Short(NamedTuple):
    """The state that a module keeps for its short calls."""

    settings: tuple[Any, ...]  # of the module when it was made
    dtype: torch.dtype
    spec: engine.Spec
    options: Options
    places: tuple[int | None, ...]  # of the weights as the library takes them
    inference: Any  # _core.Inference
    training: Any  # _core.Training; None: the module is frozen
    step: bool  # of a cell


def make(settings: tuple[Any, ...], dtype: torch.dtype, spec: engine.Spec, packed: Any, *, step: bool) -> Short | None:
    """None: such networks have no short calls. settings: the module's, its Options first. packed: frozen weights, or
    None."""
    network, batch_first = engine.plan(spec), settings[0].batch_first
    inference = _core.Inference(network, packed, batch_first, step)
    if not inference.plain or (packed is None and network.param_rows):  # which are given in another form
        return None
    training = None if packed is not None else _core.Training(network, batch_first, step)
    places = tuple(at for own in engine.places_of(spec) for at in own)
    return Short(settings, dtype, spec, settings[0], places, inference, training, step)


_in_batches = torch._C._functorch.is_legacy_batchedtensor  # of is_grads_batched


def plain(tensors: Sequence[Any]) -> bool:
    """Whether these are torch's own tensors, whose memory holds their values. None counts."""
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) is not Tensor or tensor.is_neg() or tensor._is_zerotensor() or _in_batches(tensor)
        ):
            return False
    return True


def usual(input: Any, hx: Any) -> bool:
    """Whether nothing around a call is unusual, and neither are its tensors."""
    return not (
        torch.compiler.is_compiling()
        or watched(())
        or torch.is_autocast_enabled("cpu")
        or kernel_is_forced()
        or not plain((input, *hx) if type(hx) is tuple else (input, hx))
    )


def answer(short: Short, input: Any, hx: Any, weights: list[Tensor]) -> Any:
    """Return the module's answer, or None if something is unusual. The call is ``usual``.

    weights: as the module has them now; a weight's ``.data`` may be of another kind than the module's.
    """
    if not _core.fit(weights, TYPES, short.spec.dtype, short.spec.shapes):
        return None
    h, c = hx, None
    if type(hx) is tuple:
        if short.spec.states == 1 or len(hx) != 2:
            return None
        h, c = hx
    elif hx is not None and short.spec.states > 1:
        return None
    records = records_gradient((input, h, c, *weights))
    if short.training is None:
        return None if records else short.inference.try_tensors(input, hx)
    given = [None if at is None else weights[at] for at in short.places]
    if not records:
        return short.inference.try_tensors(input, hx, given)
    short.inference.forget()  # the weights are about to change
    made = short.training.try_forward(input, hx, given, _BYTES)
    if made is None:
        return None
    y, h_n, c_n = ShortRecurrence.apply(short, made, input, h, c, *weights)  # type: ignore[no-untyped-call]
    states = (y if short.step else h_n) if c_n is None else (y if short.step else h_n, c_n)
    return states if short.step else (y, states)


class ShortRecurrence(torch.autograd.Function):
    """(short, what ``try_forward`` made, input, h, c, *weights) -> (y, h_n, c_n); of a cell y is h."""

    @staticmethod
    def forward(ctx: Any, short: Short, made: Any, input: Tensor, h: Any, c: Any, *weights: Tensor) -> Any:
        y, h_n, c_n, reserve = made
        ctx.short = short
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h, c, y, reserve, *weights)
        return y, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        needs, short = ctx.needs_input_grad[2:], ctx.short
        if all(grad is None for grad in grads):
            return (None,) * (2 + len(needs))
        saved = saved_tensors(ctx)
        if not torch.is_grad_enabled() and not watched((*grads, *saved)) and plain(grads):
            input, h, c, y, reserve, *weights = saved
            if not _core.fit(weights, TYPES, short.spec.dtype, short.spec.shapes):  # their .data is another one by now
                return (None, None, *_by_recurrence(short, needs, grads, saved))
            given = [None if at is None else weights[at] for at in short.places]
            answer = short.training.try_backward((input, h, c), given, (y, reserve), grads, needs)
            if answer is not None:
                return (None, None, *answer)
        return (None, None, *_by_recurrence(short, needs, grads, saved))


def _by_recurrence(short: Short, needs: Sequence[bool], grads: Sequence[Any], saved: Sequence[Any]) -> list[Any]:
    """The gradients by ``autograd``, whose tensors are [T, B, ...]."""
    input, h, c, y, reserve, *weights = saved
    call = Call(short.options, short.spec, None, None, True)

    def sequence(tensor: Any) -> Any:
        if tensor is None:
            return None
        return tensor[None] if short.step else tensor.transpose(0, 1) if short.options.batch_first else tensor

    def state(tensor: Any) -> Any:
        return tensor[None] if short.step and tensor is not None else tensor

    def back(tensor: Any, of_sequence: bool) -> Any:
        if tensor is None:
            return None
        if short.step:
            return tensor[0]
        return tensor.transpose(0, 1) if of_sequence and short.options.batch_first else tensor

    dy, dh_n, dc_n = grads
    dx, dh, dc, *dweights = gradient_of(
        call, needs, (sequence(dy), dh_n, state(dc_n)),
        (sequence(input), state(h), state(c), sequence(y), reserve, *weights),
    )  # fmt: skip
    return [back(dx, True), back(dh, False), back(dc, False), *dweights]
