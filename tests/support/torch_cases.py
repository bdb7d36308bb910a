"""rnnkern.torch's layers of every kind with their data, for tests of operators and transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rnnkern.torch as rt

T, B, IN, H = 4, 3, 2, 3
LENGTHS = torch.tensor([2, 4, 0])
Answer = tuple[Tensor, ...]

LAYERS: dict[str, dict[str, Any]] = {
    "RNN": {},
    "RNN relu": {"nonlinearity": "relu"},
    "GRU": {},
    "LSTM": {},
    "GRU stack": {"num_layers": 2, "bidirectional": True},
    "LSTM stack": {"num_layers": 2, "bidirectional": True, "bias": False},
    "LSTM dropout": {"num_layers": 2, "dropout": 0.5},
    "LSTM recompute": {},
}


def make(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """rnnkern's module and torch.nn's with the same parameters."""
    torch.manual_seed(0)
    kind = name.split()[0]
    module = getattr(rt, kind)(IN, H, dtype=dtype, **LAYERS[name])
    module.recompute = name.endswith("recompute")
    reference = getattr(torch.nn, kind)(IN, H, dtype=dtype, **LAYERS[name])
    reference.load_state_dict(module.state_dict())
    return module, reference


def flat(result: Any) -> Answer:
    y, state = result
    return (y, *(state if isinstance(state, tuple) else (state,)))


def given(name: str, lead: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> tuple[Tensor, Any]:
    """x and hx, with more axes in front."""
    module = make(name)[0]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*lead, T, B, IN, dtype=dtype, generator=generator)
    rows = module.num_layers * (2 if module.bidirectional else 1)
    states = [torch.randn(*lead, rows, B, H, dtype=dtype, generator=generator) for _ in range(1 + ("LSTM" in name))]
    return x, tuple(states) if len(states) == 2 else states[0]


def arguments(name: str, lengths: Tensor | None, requires_grad: bool) -> tuple[Any, ...]:
    """The arguments of torch.ops.rnnkern.layer."""
    module = make(name)[0]
    x, hx = given(name)
    h_0, c_0 = hx if isinstance(hx, tuple) else (hx, None)
    tensors = [t if t is None else t.clone().requires_grad_(requires_grad) for t in (x, h_0, c_0)]
    params = [p.detach().clone().requires_grad_(requires_grad) for p in module._weights()]
    masks = torch.tensor([5, 6]) if module.dropout else None
    return (*tensors, params, lengths, masks, *module._options())


def near(got: Any, wanted: Any, factor: float = 64) -> None:
    """Both in float64, a few hundred operations apart."""
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        bound = factor * torch.finfo(b.dtype).eps * (1 + float(b.detach().abs().max()))
        assert float((a - b).detach().abs().max()) <= bound


class Seen(TorchDispatchMode):
    """The names of rnnkern's operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "rnnkern":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))
