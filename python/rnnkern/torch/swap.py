"""``replace(model)``: every plain recurrent module of torch.nn in a model becomes rnnkern's, in place, and back.

An instance is not rebuilt: its class is changed, as torch's own parametrizations do. So it stays the same object
wherever it is referred to, with the same Parameter objects (an optimiser goes on working), hooks and training flag, and
a shared module stays shared. That is possible because rnnkern's modules keep torch.nn's attribute names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Module, modules

from . import gpu
from .base import Recurrent
from .cells import GRUCell, LSTMCell, RNNCell
from .kernels import DTYPES
from .modules import GRU, LSTM, RNN
from .options import parse

_REPLACEMENTS: dict[type[Module], type[Recurrent]] = {
    torch.nn.RNN: RNN,
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
    torch.nn.RNNCell: RNNCell,
    torch.nn.LSTMCell: LSTMCell,
    torch.nn.GRUCell: GRUCell,
}
# Cells that are left, and torch's time over rnnkern's at their worst point over hidden_size 16 to 1024, B 1 to 64:
# `python -m bench.cells`, bench/NOTES.md. Of a step of RNNCell most is Python, which torch.nn's has less of.
_SLOWER: dict[type[Module], float] = {torch.nn.RNNCell: 0.68}
# torch.nn's own list of its weights, which would go stale here; rebuilt by undo.
_TORCH_CACHES = ("_flat_weights", "_flat_weight_refs")


@dataclass
class Replacement:
    """The report of ``replace``.

    swapped: names (as in ``named_modules``; "" is the model itself) of the replaced modules.
    left: name -> reason, for each recurrent module of torch.nn that was not replaced.
    """

    swapped: tuple[str, ...]
    left: dict[str, str]
    _undo: list[tuple[Module, type[Module], type[Recurrent]]] = field(repr=False)

    def undo(self) -> None:
        """Restore the classes of the replaced modules. Parameters keep their current values. A second call does
        nothing.
        """
        while self._undo:
            module, original, replacement = self._undo.pop()
            if type(module) is replacement:  # someone may have changed it since
                module.unfreeze()  # type: ignore[operator]
                module._forget()  # type: ignore[operator]
                module.__class__ = original  # type: ignore[assignment]
                if isinstance(module, torch.nn.RNNBase):
                    module._init_flat_weights()

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)}: {', '.join(name or '(the model)' for name in self.swapped) or 'none'}"]
        lines += [f"left {name or '(the model)'}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def replace(model: Module, *, always: bool = False) -> Replacement:
    """Replace every torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell and GRUCell of a model by rnnkern's module, in place.

    This includes nested and shared modules and the model itself. Each module stays the same object, with the same
    parameters and hooks. Not replaced, with the reason in the report: subclasses (parametrized modules, too, because
    torch makes a class for each), modules with a replaced ``forward``, other devices, other dtypes, and RNNCell on the
    CPU, some of whose sizes are slower here than in torch.nn, unless ``always``.

    Afterwards ``isinstance(m, torch.nn.LSTM)`` is False for the replaced modules. ``undo()`` of the report restores
    them. Raises TypeError if ``model`` is no torch.nn.Module.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    swapped: list[str] = []
    left: dict[str, str] = {}
    undo: list[tuple[Module, type[Module], type[Recurrent]]] = []
    for name, module in model.named_modules():  # visits a shared module once
        if not isinstance(module, (modules.rnn.RNNBase, modules.rnn.RNNCellBase)):
            continue
        reason = _reason_to_leave(module) or (None if always else _slower(module))
        if reason is not None:
            left[name] = reason
            continue
        original = type(module)
        for cache in _TORCH_CACHES:
            module.__dict__.pop(cache, None)
        projected = getattr(module, "proj_size", 0)
        module.__class__ = _REPLACEMENTS[original]  # type: ignore[assignment]
        if projected:
            module._choose(parse("lstm", module.hidden_size, {"proj_size": projected}))  # type: ignore[operator]
        swapped.append(name)
        undo.append((module, original, _REPLACEMENTS[original]))
    return Replacement(tuple(swapped), left, undo)


def _reason_to_leave(module: Any) -> str | None:
    kind = type(module)
    if kind not in _REPLACEMENTS:
        return f"its class {kind.__name__} is a subclass, whose own code rnnkern cannot know"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    if getattr(module, "nonlinearity", "tanh") not in ("tanh", "relu"):
        return f"nonlinearity {module.nonlinearity!r} is not one of 'tanh' and 'relu'"
    if min(module.input_size, module.hidden_size) < 1:
        return f"input_size {module.input_size} and hidden_size {module.hidden_size} are not both at least 1"
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.device.type not in ("cpu", "meta", "cuda"):
            return f"{name} is on {parameter.device}; implemented are the CPU and GPUs of CUDA"
        if parameter.is_cuda and gpu.unavailable():
            return f"{name} is on {parameter.device}: {gpu.unavailable()}"
        if parameter.dtype not in DTYPES:
            return f"{name} has dtype {parameter.dtype}; implemented are {', '.join(DTYPES.values())}"
    return None


def _slower(module: Any) -> str | None:
    """Why a module on the CPU may lose; None: it does not."""
    worst = _SLOWER.get(type(module))
    if worst is None or not all(parameter.is_cpu for parameter in module.parameters(recurse=False)):
        return None
    return f"{type(module).__name__} is slower here at some sizes ({worst} of torch's speed); always=True swaps it"
