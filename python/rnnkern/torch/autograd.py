"""One call of the scheduler as a differentiable torch operation.

``recurrence`` is all that the modules use: tensors in, tensors out. A call that records no gradient goes straight to
the inference path; any other goes through ``Recurrence``, whose backward is BPTT. First derivatives are all there is: a
second derivative, ``vmap`` and forward mode raise, because zeros, or one level too few, would be silently wrong.

The tape is opaque to torch, yet must live exactly as long as the tensors torch saves: freed after ``backward``, and
never kept by a checkpoint. So a small saved tensor, the *ticket*, owns it.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import ops

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}

# From this many steps on, a call keeps its packed weights until backward. A shorter one, as in a loop over steps, would
# hold a copy of the weights per step that dwarfs its tape; packing anew costs it about a step's time.
_KEEP_PACK_STEPS = 32


@dataclass(frozen=True)
class Call:
    """What a call is, apart from its tensors."""

    spec: ops.Spec
    lengths: np.ndarray[Any, Any] | None  # int64 [B], validated
    masks: tuple[int, int] | None  # (seed, call) of the random masks
    batch_first: bool  # y's memory is [B, T, D*H]
    keep: bool  # a gradient will be asked for
    packed: tuple[Any, ...] | None = None  # frozen weights; only without keep


@lru_cache(maxsize=128)
def _spec(kernel: str | None, **fields: Any) -> ops.Spec:
    return ops.Spec(kernel=kernel, **fields)


def spec_of(**fields: Any) -> ops.Spec:
    """A Spec from a cache: it is looked up at each call. A kernel forced by the environment is part of the key."""
    return _spec(os.environ.get("RNNKERN_KERNEL") or None, **fields)


def draw_masks() -> tuple[int, int]:
    """(seed, call) from torch's default generator, so manual_seed and checkpointing govern rnnkern's masks as well."""
    seed, call = torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, device="cpu").tolist()
    return seed & (2**64 - 1), call & (2**32 - 1)


def records_gradient(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def recurrence(
    call: Call, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x [T, B, I], h_0, c_0 [L*D, B, H] or None -> y [T, B, D*H], h_n, c_n [L*D, B, H] (c_n None without a cell state).

    params: in the order of ``call.spec.param_names``. Everything is checked by the caller; every answer has x's dtype.
    """
    if call.keep or _transforms_active():
        y, h_n, c_n, _ = Recurrence.apply(call, x, h_0, c_0, *params)  # type: ignore[no-untyped-call]
    else:
        y, h_n, c_n, _ = _forward(call, x, h_0, c_0, params)  # what apply would do, 14 us sooner
    return y, h_n, c_n


def _transforms_active() -> bool:
    """Whether a functorch transform or forward-mode level is open, which ``apply`` must get to see (and refuse)."""
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def _forward(
    call: Call, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None, ops.Tape | None]:
    spec = call.spec
    seq_len, batch = x.shape[:2]
    keep_pack = call.keep and seq_len >= _KEEP_PACK_STEPS
    packed = call.packed
    if packed is None:
        packed = ops.pack(spec, [_readable(param) for param in params], backward=keep_pack)
    width = spec.directions * spec.hidden_size
    strides = (width, seq_len * width, 1) if call.batch_first else (batch * width, width, 1)
    y = torch.empty_strided((seq_len, batch, width), strides, dtype=x.dtype, device="cpu")
    _, h_n, c_n, tape = ops.forward(
        spec,
        packed,
        _readable(x),
        _readable(h_0),
        _readable(c_0),
        call.lengths,
        _empty,
        keep=call.keep,
        masks=call.masks,
        y=y.data,  # not y itself: it will own the graph that owns the tape, and the tape must not own it back
    )
    if tape is not None and not keep_pack:
        tape = replace(tape, packed=())
    if c_n is not None:
        c_n = c_n.to(x.dtype)
    return y, h_n, c_n, tape


def _empty(shape: tuple[int, ...], dtype: str) -> Tensor:
    return torch.empty(shape, dtype=_TORCH_DTYPES[dtype], device="cpu")


def _readable(tensor: Any) -> Any:
    """What the binding may read: without grad, and its numbers in memory (DLPack ignores torch's negation bit)."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    if tensor.is_neg() or tensor._is_zerotensor():
        return tensor.resolve_neg().clone()
    return tensor


class Recurrence(torch.autograd.Function):
    """(call, x, h_0, c_0, *params) -> (y, h_n, c_n, tape)."""

    @staticmethod
    def forward(call: Call, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, *params: Tensor) -> Any:
        return _forward(call, x, h_0, c_0, params)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        call, x, h_0, c_0, *params = inputs
        y, _, _, tape = output
        ctx.call = call
        ctx.set_materialize_grads(False)
        if tape is not None:
            # x, y and the parameters are saved, though the tape has them, for torch to notice that one was modified.
            ctx.save_for_backward(x, h_0, c_0, y, _issue_ticket(tape), *params)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dy, dh_n, dc_n, _ = grads
        arguments = (ctx.call, ctx.needs_input_grad[1:], dy, dh_n, dc_n, *ctx.saved_tensors)
        # With create_graph (and under functorch, always) the gradients must lead to RecurrenceGradient.backward, which
        # raises. once_differentiable would return them as constants whenever dy itself needs no gradient.
        if torch.is_grad_enabled() or _transforms_active():
            return (None, *RecurrenceGradient.apply(*arguments))  # type: ignore[no-untyped-call]
        return (None, *RecurrenceGradient.forward(*arguments))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("rnnkern.torch: forward-mode derivatives are not implemented; use reverse mode")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError("rnnkern.torch: vmap is not implemented; put the mapped axis into the batch")


class RecurrenceGradient(torch.autograd.Function):
    """(call, needs, dy, dh_n, dc_n, what Recurrence saved) -> gradients of (x, h_0, c_0, *params), None: not needed."""

    @staticmethod
    def forward(
        call: Call,
        needs: Sequence[bool],
        dy: Tensor | None,
        dh_n: Tensor | None,
        dc_n: Tensor | None,
        x: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        y: Tensor,
        ticket: Tensor,
        *params: Tensor,
    ) -> Any:
        if dy is None and dh_n is None and dc_n is None:
            return (None,) * len(needs)
        tape = _redeem_ticket(ticket)
        if tape is None:  # a saved-tensor hook kept only a copy of the ticket: the same call gives the same tape again
            tape = _forward(call, x, h_0, c_0, params)[3]
            assert tape is not None
        packed = tape.packed or ops.pack(call.spec, [_readable(param) for param in params], backward=True)
        need_x, need_h, need_c, *need_params = needs
        grads = ops.backward(
            call.spec,
            packed,
            tape,
            _readable(dy),
            _readable(dh_n),
            _readable(dc_n),
            _empty,
            need_x=need_x,
            need_state=need_h or need_c,
            need_params=need_params,
        )
        dh_0, dc_0 = (None if grad is None else grad.to(x.dtype) for grad in (grads.h, grads.c))
        return (grads.x, dh_0 if need_h else None, dc_0 if need_c else None, *grads.params)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            "rnnkern.torch: second derivatives are not implemented; use torch.nn's module where a gradient is "
            "differentiated again"
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("rnnkern.torch: forward-mode derivatives of a gradient are not implemented")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError("rnnkern.torch: vmap over a gradient is not implemented; ask for one row at a time")


# Tickets ------------------------------------------------------------------------------------------------------------
# The ticket is an int64 tensor [1] holding a number; its storage owns the tape, through a NumPy array that torch keeps
# alive. Whatever torch does to the saved tensor (detach it, move it to a graph or a checkpoint, drop it), the storage,
# and so the tape, lives as long as it. A mere copy (save_on_cpu from another device, a compressing hook) holds only the
# number, which then finds nothing.


class _Owner(np.ndarray[Any, Any]):
    """An array that can own a tape."""

    tape: ops.Tape


_numbers = itertools.count()
_tapes: weakref.WeakValueDictionary[int, ops.Tape] = weakref.WeakValueDictionary()


def _issue_ticket(tape: ops.Tape) -> Tensor:
    number = next(_numbers)
    owner = np.array([number], dtype=np.int64).view(_Owner)
    owner.tape = _tapes[number] = tape
    return torch.from_numpy(owner)


def _redeem_ticket(ticket: Tensor) -> ops.Tape | None:
    return _tapes.get(int(ticket.item()))
