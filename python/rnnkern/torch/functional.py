"""The layer under torch.func.grad, vjp and jacrev, alone or with vmap around or inside.

torch.func differentiates an ``autograd.Function`` that has ``setup_context``, but not the formula registered for an
operator. So these two Functions stand where its gradient levels can see them; at the bottom they call the operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._engine.spec import Marks
from . import composed, operators
from .kernels import Around, Options, masks_of

_functorch = torch._C._functorch


def level_of(kind: str) -> bool:
    """Whether a level of this kind ("Grad", "Vmap", "Jvp") is anywhere on torch.func's stack."""
    if _functorch.peek_interpreter_stack() is None:
        return False
    wanted = getattr(_functorch.TransformType, kind)
    return any(level.key() == wanted for level in _functorch.get_interpreter_stack() or ())


def differentiates() -> bool:
    return level_of("Grad")


def layer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: Sequence[Tensor],
    options: Options,
    around: Around,
) -> tuple[Tensor, Tensor, Tensor]:
    """The results of ``operators.layer``."""
    lengths, masks, marks = around
    return _Layer.apply(options, x, h_0, c_0, lengths, masks, *marks, *params)[:3]  # type: ignore[no-any-return,no-untyped-call]


class _Layer(torch.autograd.Function):
    """(options, x, h_0, c_0, lengths, masks, mask, reset, *params) -> (y, h_n, c_n, reserve)."""

    @staticmethod
    def forward(
        options: Options,
        x: Tensor,
        h_0: Any,
        c_0: Any,
        lengths: Any,
        masks: Any,
        mask: Any,
        reset: Any,
        *params: Tensor,
    ) -> Any:
        return operators.layer_train(x, h_0, c_0, params, lengths, masks, *options, mask, reset)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.options, *tensors = inputs
        y, _, _, reserve = output
        ctx.mark_non_differentiable(reserve)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, reserve, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dy, dh_n, dc_n, _ = grads
        _, *needs = ctx.needs_input_grad
        if dy is None and dh_n is None and dc_n is None:
            return (None,) * (1 + len(needs))
        y, reserve, *tensors = ctx.saved_tensors
        wanted = tuple(needs[:3] + needs[7:])
        dx, dh_0, dc_0, *dparams = _Gradient.apply(  # type: ignore[no-untyped-call]
            (ctx.options, wanted), dy, dh_n, dc_n, y, reserve, *tensors
        )
        answer = (dx, dh_0, dc_0, None, None, None, None, *dparams)
        return (None, *(grad if need else None for grad, need in zip(answer, needs, strict=True)))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return operators.one_by_one(_Layer.apply, info.batch_size, (None, *in_dims[1:]), arguments)


class _Gradient(torch.autograd.Function):
    """((options, needs), dy, dh_n, dc_n, y, reserve, x, h_0, c_0, lengths, masks, mask, reset, *params) -> gradients.

    Of x, h_0, c_0, *params; empty where not needed.
    """

    @staticmethod
    def forward(how: Any, dy: Any, dh_n: Any, dc_n: Any, y: Tensor, reserve: Tensor, *tensors: Any) -> Any:
        options, needs = how
        x, h_0, c_0, lengths, masks, mask, reset, *params = tensors
        return tuple(
            operators.layer_backward(
                dy, dh_n, dc_n, x, h_0, c_0, params, y, reserve, lengths, masks, *options, list(needs), mask, reset
            )
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        (ctx.options, ctx.needs), *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[:3], *tensors[5:])

    @staticmethod
    def backward(ctx: Any, *seeds: Any) -> Any:
        dy, dh_n, dc_n, x, h_0, c_0, lengths, masks, mask, reset, *params = ctx.saved_tensors
        seeds = tuple(seed if need else None for seed, need in zip(seeds, ctx.needs, strict=True))
        around = Around(lengths, masks_of(masks), Marks(mask, reset))
        grads = composed.gradients((dy, dh_n, dc_n), (x, h_0, c_0, *params), ctx.options, around, seeds)
        return (None, *grads[:3], None, None, *grads[3:6], None, None, None, None, *grads[6:])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return operators.one_by_one(_Gradient.apply, info.batch_size, (None, *in_dims[1:]), arguments)
