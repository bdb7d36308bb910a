"""Calls that bring the input product of the first layer, gx = W_ih x + b_ih, in the place of x.

Plain eager calls go to the kernels. A graph, a transform or a dispatch mode gets the layer whose x is gx and whose W_ih
is the identity, which is the same function at the price of that product; second derivatives come from torch's own
operations, as those of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import _engine as engine
from . import composed, operators
from .autograd import Call, Recurrence, _around, _gradient, by_operator, recurrence, saved_tensors, watched
from .kernels import Around, Options, masks_of


@lru_cache(maxsize=128)
def with_gx(spec: engine.Spec) -> engine.Spec:
    """NotImplementedError where the kernels do not take gx."""
    return replace(spec, given_gx=True)


def recurrence_of_gx(
    call: Call, gx: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``autograd.recurrence`` of gx [T, B, D*G*H]. ``call.spec`` has ``given_gx``; weight_ih and bias_ih of the first
    layer are not read.
    """
    if watched((gx, h_0, c_0, *params)) or call.hidden:
        return as_layer(call.options, gx, h_0, c_0, params, _around(call, gx))
    if call.keep:
        return Given.apply(call, gx, h_0, c_0, *params)  # type: ignore[no-any-return,no-untyped-call]
    return recurrence(call, gx, h_0, c_0, params)


def as_layer(
    options: Options, gx: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: Sequence[Tensor], around: Around
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same by the operator."""
    return by_operator(options, gx, h_0, c_0, with_identity(options, gx, params), around)


def with_identity(options: Options, gx: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """The parameters with an identity for each direction's columns of gx as weight_ih, and zeros as bias_ih."""
    names = composed.names_of(params, options)
    directions = 2 if options.bidirectional else 1
    columns = gx.shape[-1] // directions
    out = list(params)
    for direction in range(directions):
        eye = torch.eye(columns, gx.shape[-1], dtype=gx.dtype, device=gx.device)
        out[direction * len(names)] = eye.roll(direction * columns, 1)
        if "bias_ih" in names:
            out[direction * len(names) + names.index("bias_ih")] = torch.zeros(
                columns, dtype=gx.dtype, device=gx.device
            )
    return out


class Given(Recurrence):
    """``Recurrence`` of gx. Its gradient knows which parameters are not read, and composes what kernels do not do."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        call = ctx.call
        needs = list(ctx.needs_input_grad[1:])
        for at, name in enumerate(call.spec.own_names * call.spec.directions):  # of the first layer
            needs[3 + at] = needs[3 + at] and call.spec.is_read(0, name)
        if all(grad is None for grad in grads):
            return (None,) * (1 + len(needs))
        gx, h_0, c_0, y, reserve, *params = saved_tensors(ctx)
        if torch.is_grad_enabled() or operators.maps_batches() or watched((*grads, gx, h_0, c_0, y, *params)):
            around = _around(call, gx)._replace(masks=masks_of(call.masks))
            primals = (gx, h_0, c_0, *with_identity(call.options, gx, params))
            batched = needs if operators.maps_batches() else None
            found = composed.pullback(grads, primals, call.options, around, batched)
            return (None, *(grad if need else None for grad, need in zip(found, needs, strict=True)))
        return (None, *_gradient(call, needs, grads, (gx, h_0, c_0, y, reserve, *params)))
