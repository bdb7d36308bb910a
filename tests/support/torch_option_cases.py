"""Every option of a cell alone and all of one at once, with modules and data, for the tests of rnnkern.torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import rnnkern.torch as rt
from rnnkern._engine.spec import NO_MARKS, Marks
from torch_cases import Answer, flat

T, B, IN, H = 5, 3, 2, 4
F64 = torch.float64
Case = tuple[str, dict[str, Any]]
CASES: dict[str, Case] = {
    "proj_size": ("LSTM", {"proj_size": 3}),
    "peephole": ("LSTM", {"peephole": True}),
    "coupled": ("LSTM", {"coupled": True}),
    "layer_norm": ("LSTM", {"layer_norm": True}),
    "GRU layer_norm": ("GRU", {"layer_norm": True}),
    "RNN layer_norm": ("RNN", {"layer_norm": True}),
    "clip": ("LSTM", {"clip": 0.4}),
    "GRU clip": ("GRU", {"clip": 0.4}),
    "activations": ("LSTM", {"activations": ("softplus", ("scaledtanh", 0.9, 0.7), ("affine", 0.6, 0.1))}),
    "GRU activations": ("GRU", {"activations": (("hardsigmoid", 0.3, 0.4), "softsign")}),
    "reset_after": ("GRU", {"reset_after": False}),
    "zoneout": ("LSTM", {"zoneout": (0.3, 0.2)}),
    "GRU zoneout": ("GRU", {"zoneout": 0.3}),
    "recurrent_dropout": ("LSTM", {"recurrent_dropout": 0.4}),
    "GRU recurrent_dropout": ("GRU", {"recurrent_dropout": 0.4}),
    "reset_after recurrent_dropout": ("GRU", {"recurrent_dropout": 0.4, "reset_after": False}),
    "independent recurrent_dropout": ("RNN", {"recurrent_dropout": 0.4, "independent": True}),
    "heads": ("LSTM", {"heads": 2}),
    "GRU heads": ("GRU", {"heads": 2, "reset_after": False}),
    "RNN heads": ("RNN", {"heads": 2, "nonlinearity": "relu"}),
    "independent": ("RNN", {"independent": True, "nonlinearity": "relu"}),
    "reverse": ("GRU", {"reverse": True}),
    "sLSTM": ("sLSTM", {}),
    "all of sLSTM": (
        "sLSTM",
        {
            "num_layers": 2, "bidirectional": True, "dropout": 0.3, "heads": 2, "bias": False, "zoneout": 0.2,
            "recurrent_dropout": 0.2,
        },
    ),
    "all of LSTM": (
        "LSTM",
        {
            "num_layers": 2, "bidirectional": True, "dropout": 0.3, "proj_size": 3, "peephole": True, "coupled": True,
            "layer_norm": True, "clip": 0.8, "zoneout": (0.1, 0.2), "recurrent_dropout": 0.2,
            "activations": ("sigmoid", ("elu", 0.8), "tanh"),
        },
    ),
    "all of GRU": (
        "GRU",
        {
            "num_layers": 2, "reverse": True, "bias": False, "heads": 2, "reset_after": False, "zoneout": 0.2,
            "clip": 0.8,
        },
    ),
}  # fmt: skip
STATES = {"LSTM": 2, "sLSTM": 4}
RANDOM = tuple(
    name for name, (_, keywords) in CASES.items() if "zoneout" in keywords or "recurrent_dropout" in keywords
)
MARKED: dict[str, Any] = {
    "lengths": torch.tensor([3, T, 0]),
    "mask": torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 0]], dtype=torch.bool),
    "reset": torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.bool),
}
CALLS = pytest.mark.parametrize("marked", [{}, MARKED], ids=["", "marked"])


def make(name: str, dtype: torch.dtype = F64, seed: int = 0) -> Any:
    """A module whose parameters are all random, gammas around 1 and no beta at 0."""
    kind, keywords = CASES[name]
    torch.manual_seed(seed)
    module = getattr(rt, kind)(IN, H, dtype=dtype, **keywords)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=F64).to(dtype) * 0.3)
    return module


def given(module: Any, lead: tuple[int, ...] = ()) -> tuple[Tensor, list[Tensor]]:
    """x, and the states: h with P units, c with H, of an sLSTM n and m besides."""
    generator = torch.Generator().manual_seed(1)
    dtype, rows = module.weight_ih_l0.dtype, module.num_layers * (2 if module.bidirectional else 1)
    widths = module._widths()[: STATES.get(type(module).__name__, 1)]
    x = torch.randn(*lead, T, B, IN, generator=generator, dtype=F64).to(dtype)
    states = [torch.randn(*lead, rows, B, n, generator=generator, dtype=F64) for n in widths]
    states[2:3] = [n.exp() for n in states[2:3]]
    return x, [state.to(dtype) for state in states]


def call(module: Any, x: Tensor, states: Any = (), **keywords: Any) -> Answer:
    """(y, h_n) or (y, h_n, c_n), or with n_n and m_n."""
    hx = None if not states else tuple(states) if len(states) > 1 else states[0]
    return flat(module(x, hx, **keywords))


def arguments(module: Any, need: bool = False, marks: Marks = NO_MARKS, masks: Any = None) -> tuple[Any, ...]:
    """The arguments of torch.ops.rnnkern.layer."""
    x, (h_0, *cells) = given(module)
    states = [h_0, *([torch.cat(cells, -1)] if cells else [])]
    tensors = [t if t is None else t.requires_grad_(need) for t in (x, *states, None)[:3]]
    params = [p.detach().clone().requires_grad_(need) for p in module._weights()]
    lengths = None if marks.mask is None else MARKED["lengths"]
    return (*tensors, params, lengths, masks, *module._options(), *marks)
