"""``RNNCell``, ``LSTMCell`` and ``GRUCell``: one step at a time, with torch.nn's constructors, checks and errors.

Equations as in ``modules``. A step packs the weights like any other call: for inference in a loop, ``freeze()`` the
cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .base import Recurrent
from .checks import check_tensor


class RNNCellBase(Recurrent):
    """Parameters, input and output of one cell; the subclasses say which. B is batch, I input_size, H hidden_size."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        shapes = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        for name, shape in shapes.items():
            absent = name.startswith("bias") and not bias
            self.register_parameter(name, None if absent else Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def _weight_names(self) -> Sequence[str]:
        return ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.bias else ("weight_ih", "weight_hh")

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        if getattr(self, "nonlinearity", "tanh") != "tanh":
            text += f", nonlinearity={self.nonlinearity}"
        return text if self._frozen is None else text + ", frozen=True"

    def _step(self, input: Any, states: Sequence[Any] | None, labels: Sequence[str]) -> tuple[Tensor, ...]:
        """input [B, I] or [I], states [B, H] or [H] each -> the next states, shaped as the input is."""
        name = type(self).__name__
        for label, value in zip(("input", *labels), (input, *(states or ())), strict=False):
            check_tensor(label, value)
            if value.dim() not in (1, 2):
                raise ValueError(f"{name}: Expected {label} to be 1D or 2D, got {value.dim()}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.shape[-1]} expected {self.input_size}")
        expected = (*input.shape[:-1], self.hidden_size)
        for label, state in zip(labels, states or (), strict=False):
            if state.shape != expected:
                raise RuntimeError(f"{name}: Expected {label} size {expected}, got {list(state.shape)}")
        batched = input.dim() == 2
        lead = (0,) if batched else (0, 0)  # axes a sequence of one step (and a batch of one row) has in front

        def widen(value: Tensor) -> Tensor:
            return value[(None,) * len(lead)]

        _, after = self._run(widen(input), None if states is None else tuple(widen(state) for state in states))
        return tuple(state[lead] for state in after)

    def _check_dtypes(self, x: Tensor, states: tuple[Tensor, ...] | None, dtype: torch.dtype) -> None:
        # torch.nn's layers raise ValueError for x; in its cells it is the product that raises, RuntimeError.
        for value in (x, *(states or ())):
            if value.dtype != dtype:
                raise RuntimeError(
                    f"input, hidden and weights must have the same dtype, but got {value.dtype} and {dtype}"
                )


class RNNCell(RNNCellBase):
    """h = tanh(W x + b_ih + R h' + b_hh), or ReLU for tanh. Arguments and defaults of torch.nn.RNNCell."""

    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def _cell(self) -> str:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return f"rnn_{self.nonlinearity}"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """input [B, I] or [I], hx [B, H] or [H] (zeros when left out) -> h, shaped as hx."""
        return self._step(input, None if hx is None else (hx,), ("hidden",))[0]


class GRUCell(RNNCellBase):
    """One step of ``GRU``. Arguments and defaults of torch.nn.GRUCell."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def _cell(self) -> str:
        return "gru"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """input [B, I] or [I], hx [B, H] or [H] (zeros when left out) -> h, shaped as hx."""
        return self._step(input, None if hx is None else (hx,), ("hidden",))[0]


class LSTMCell(RNNCellBase):
    """One step of ``LSTM``. Arguments and defaults of torch.nn.LSTMCell."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def _cell(self) -> str:
        return "lstm"

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """input [B, I] or [I], hx (h, c) each [B, H] or [H] (zeros when left out) -> (h, c), shaped as hx."""
        if isinstance(hx, Tensor):
            raise TypeError("LSTMCell: expected hx to be a tuple (h, c), got a Tensor")
        if hx is not None and len(hx) != 2:
            raise RuntimeError(f"LSTMCell: expected two hidden states, got {len(hx)}")
        h, c = self._step(input, hx, ("hx[0]", "hx[1]"))
        return h, c
