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
from torch.nn.utils import parametrize

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
# A subclass may define these: they change no call.
_HARMLESS = {"__module__", "__qualname__", "__doc__", "__init__", "__annotations__", "__annotate_func__"}
_HARMLESS |= {"__firstlineno__", "__static_attributes__", "__annotations_cache__"}
# The recurrent operators of torch in a TorchScript graph.
_ATEN = tuple(f"aten::{name}" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
_ATEN += tuple(f"aten::{name}_cell" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
# torch.nn's own list of its weights, which would go stale here; rebuilt by undo.
_TORCH_CACHES = ("_flat_weights", "_flat_weight_refs")


@dataclass
class Replacement:
    """The report of ``replace``.

    swapped: names (as in ``named_modules``; "" is the model itself) of the replaced modules.
    left: name -> reason, for each recurrent module of torch.nn that was not replaced.
    errors: of ``quantize`` with data: name -> error of the module's output.
    """

    swapped: tuple[str, ...]
    left: dict[str, str]
    _undo: list[tuple[Module, type[Module], type[Recurrent]]] = field(repr=False)
    errors: dict[str, float] = field(default_factory=dict)

    def undo(self) -> None:
        """Restore the classes of the replaced modules. Parameters keep their current values. A second call does
        nothing.
        """
        while self._undo:
            module, original, replacement = self._undo.pop()
            if parametrize.type_before_parametrizations(module) is replacement:  # someone may have changed it since
                module.unfreeze()  # type: ignore[operator]
                module._forget()  # type: ignore[operator]
                module.__class__ = _on_base(module, original)
                if isinstance(module, torch.nn.RNNBase):
                    module._init_flat_weights()

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)}: {', '.join(name or '(the model)' for name in self.swapped) or 'none'}"]
        lines += [f"left {name or '(the model)'}: {reason}" for name, reason in self.left.items()]
        lines += [f"error of {name or '(the model)'}: {error:.1e}" for name, error in self.errors.items()]
        return "\n".join(lines)


def replace(model: Module, *, always: bool = False) -> Replacement:
    """Replace every torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell and GRUCell of a model by rnnkern's module, in place.

    This includes nested and shared modules and the model itself. Each module stays the same object, with the same
    parameters and hooks. A subclass is replaced if it defines nothing but ``__init__``, and a parametrized module
    (weight norm) keeps its parametrizations. Not replaced, with the reason in the report: other subclasses, modules
    with a replaced ``forward``, modules that torch.jit has compiled, other devices, other dtypes, and RNNCell on the
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
        if isinstance(module, torch.jit.ScriptModule):
            calls = _recurrent_calls(module)
            if calls:
                left[name] = f"torch.jit has compiled its calls of {calls}; replace the modules before that"
            continue
        if not isinstance(module, (modules.rnn.RNNBase, modules.rnn.RNNCellBase)):
            continue
        original = parametrize.type_before_parametrizations(module)
        base = _replaced_class(original)
        if base is None:
            left[name] = f"its class {original.__name__} is a subclass with code of its own, which rnnkern cannot know"
            continue
        reason = _reason_to_leave(module) or (None if always else _slower(module, base))
        if reason is not None:
            left[name] = reason
            continue
        for cache in _TORCH_CACHES:
            module.__dict__.pop(cache, None)
        projected = getattr(module, "proj_size", 0)
        module.__class__ = _on_base(module, _REPLACEMENTS[base])
        if projected:
            module._choose(parse("lstm", module.hidden_size, {"proj_size": projected}))  # type: ignore[operator]
        swapped.append(name)
        undo.append((module, original, _REPLACEMENTS[base]))
    return Replacement(tuple(swapped), left, undo)


def _replaced_class(kind: type[Module]) -> type[Module] | None:
    """The class of torch.nn that instances of ``kind`` behave as; None: a subclass on the way defines something."""
    base = next((each for each in kind.__mro__ if each in _REPLACEMENTS), None)
    own = [] if base is None else [each for each in kind.__mro__ if each not in base.__mro__]
    return base if all(vars(each).keys() <= _HARMLESS for each in own) else None


def _on_base(module: Module, base: type[Module]) -> Any:
    """``base``; for a parametrized module its class, in which torch put a property for each weight, with that base."""
    if not parametrize.is_parametrized(module):
        return base
    kind = type(module)
    body = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__", "__doc__")}
    return type(kind.__name__, (base,), {**body, "__deepcopy__": Recurrent.__deepcopy__})


def _recurrent_calls(module: torch.jit.ScriptModule) -> str:
    """The recurrent operators that methods of this module, without its submodules, call; "" for none."""
    graphs = [module._c._get_method(name).graph for name in module._c._method_names()]
    return ", ".join(name for name in _ATEN if any(graph.findAllNodes(name) for graph in graphs))


def _reason_to_leave(module: Any) -> str | None:
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    if getattr(module, "nonlinearity", "tanh") not in ("tanh", "relu"):
        return f"nonlinearity {module.nonlinearity!r} is not one of 'tanh' and 'relu'"
    if min(module.input_size, module.hidden_size) < 1:
        return f"input_size {module.input_size} and hidden_size {module.hidden_size} are not both at least 1"
    for name, parameter in module.named_parameters():  # parametrizations have theirs in submodules
        if parameter.device.type not in ("cpu", "meta", "cuda"):
            return f"{name} is on {parameter.device}; implemented are the CPU and GPUs of CUDA"
        if parameter.is_cuda and gpu.unavailable():
            return f"{name} is on {parameter.device}: {gpu.unavailable()}"
        if parameter.dtype not in DTYPES:
            return f"{name} has dtype {parameter.dtype}; implemented are {', '.join(DTYPES.values())}"
    return None


def _slower(module: Any, base: type[Module]) -> str | None:
    """Why a module on the CPU may lose; None: it does not."""
    worst = _SLOWER.get(base)
    if worst is None or not all(parameter.is_cpu for parameter in module.parameters()):
        return None
    return f"{base.__name__} is slower here at some sizes ({worst} of torch's speed); always=True swaps it"
