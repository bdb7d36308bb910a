"""``quantize(model)``: a model's recurrent modules with weights in int8 or bfloat16, and the error that this makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, modules
from torch.nn.utils.rnn import PackedSequence

from .base import Recurrent
from .swap import Replacement, replace


def quantize(model: Module, weights: str = "int8", data: Any = None) -> Replacement:
    """``replace`` every recurrent module of a model, and ``freeze(weights)`` these and rnnkern's own.

    weights: "int8" or "bf16" (``rnnkern.LSTM.quantize``).
    data: the model's arguments, as a tuple, or its one argument. The model is called with them once before, in eval
        mode (what a call changes in it, it changes), and each recurrent module again afterwards, with what it got then:
        ``report.errors`` has the root mean square of the change of its output over that of the output, by the module's
        name; modules that are frozen already are compared as they are. NotImplementedError under autocast.

    Returns the report of ``replace``.

    The model then infers on a CPU, in eager calls under ``torch.no_grad()``. ``undo()`` of the report gives torch's
    modules back; rnnkern's own are unfrozen by ``unfreeze()``. Raises what ``freeze`` raises, and then nothing has
    changed.
    """
    calls = [] if data is None else _calls(model, data if type(data) is tuple else (data,))
    report = replace(model, always=True)
    before: list[tuple[Recurrent, Any]] = []
    try:
        for module in model.modules():
            if isinstance(module, Recurrent):
                before.append((module, module._frozen))
                module.freeze(weights)
        report.errors.update(_errors(calls))
    except Exception:
        for module, frozen in before:
            module.unfreeze()
            if frozen is not None:
                module.__dict__["_frozen"] = frozen
        report.undo()
        raise
    return report


class _Call(NamedTuple):
    name: str
    module: Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: list[Tensor]  # one, once the call has returned


def _output(answer: Any) -> Tensor:
    """y of a layer, h of a cell."""
    if isinstance(answer, PackedSequence):
        return answer.data
    return answer if isinstance(answer, Tensor) else _output(answer[0])


def _copied(value: Any) -> Any:
    """Arguments with tensors of their own: the model may change its own in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, PackedSequence):
        return type(value)(*(_copied(part) for part in value))
    if type(value) in (tuple, list):
        return type(value)(_copied(part) for part in value)
    return {name: _copied(part) for name, part in value.items()} if isinstance(value, dict) else value


def _calls(model: Module, arguments: tuple[Any, ...]) -> list[_Call]:
    """The calls of recurrent modules while the model runs on the arguments."""
    kinds = (modules.rnn.RNNBase, modules.rnn.RNNCellBase, Recurrent)
    calls: list[_Call] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, kinds):

            def begin(module: Module, args: Any, kwargs: Any, name: str = name) -> None:
                if torch.is_autocast_enabled("cpu"):
                    raise NotImplementedError(
                        f"data: module {name!r} runs under autocast, in another dtype than its own"
                    )
                calls.append(_Call(name, module, _copied(args), _copied(kwargs), []))

            def end(module: Module, args: Any, answer: Any) -> None:
                call = next(call for call in reversed(calls) if call.module is module and not call.output)
                call.output.append(_output(answer).clone())

            handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(module.register_forward_hook(end))
    try:
        with torch.no_grad(), _evaluating(model):
            model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _errors(calls: list[_Call]) -> dict[str, float]:
    """The errors of the modules as they are now. A module that was left has none."""
    sums: dict[str, tuple[float, float]] = {}
    for name, module, args, kwargs, (before,) in calls:
        if not isinstance(module, Recurrent):
            continue
        with torch.no_grad(), _evaluating(module):
            after = _output(module(*args, **kwargs))
        change, whole = sums.get(name, (0.0, 0.0))
        exact = before.double()
        sums[name] = change + float((after.double() - exact).square().sum()), whole + float(exact.square().sum())
    return {
        name: (change / whole) ** 0.5 if whole else inf if change else 0.0 for name, (change, whole) in sums.items()
    }


@contextmanager
def _evaluating(model: Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
