"""``RNNCell``, ``LSTMCell``, ``GRUCell``, ``sLSTMCell``: one step at a time, torch.nn's constructors, checks, errors.

Equations as in ``modules``. A step of up to 64 rows reads the weights where they are; for inference in a loop,
``freeze()`` the cell, which is faster still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..options import check_keywords, takes_options
from .base import Recurrent
from .checks import check_tensor
from .forwards import ElmanCell, FourStatesCell, OneStateCell, TwoStatesCell

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..option_types import GruCellOptions, LstmCellOptions, RnnCellOptions, SlstmCellOptions

_PLAIN_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class RNNCellBase(Recurrent):
    """Parameters, input and output of one cell; the subclasses say which.

    B is batch, I input_size, H hidden_size, P proj_size or H.
    """

    _own_names: tuple[str, ...] = ()  # of the options' parameters

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        bias: bool,
        device: Any,
        dtype: Any,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        check_keywords(type(self).__name__, cell, options, single_step=True)
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        names = self._settle(cell, options, device, dtype).own_names
        if not bias:
            self.register_parameter("bias_ih", None)
            self.register_parameter("bias_hh", None)
        if self._step_text:
            self._own_names = tuple(name for name in names if name not in _PLAIN_NAMES)
        self.reset_parameters()

    def _weight_names(self) -> Sequence[str]:
        return (_PLAIN_NAMES if self.bias else _PLAIN_NAMES[:2]) + self._own_names

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        if getattr(self, "nonlinearity", "tanh") != "tanh":
            text += f", nonlinearity={self.nonlinearity}"
        if self.proj_size:
            text += f", proj_size={self.proj_size}"
        text += self._said()
        return text + self._frozen_said()

    def _step(self, input: Any, states: Sequence[Any] | None, labels: Sequence[str]) -> tuple[Tensor, ...]:
        """input [B, I] or [I], states h [B, P] (and c [B, H], n, m), or without B -> the next states, as given."""
        name = type(self).__name__
        for label, value in zip(("input", *labels), (input, *(states or ())), strict=False):
            check_tensor(label, value)
            if value.dim() not in (1, 2):
                raise ValueError(f"{name}: Expected {label} to be 1D or 2D, got {value.dim()}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.shape[-1]} expected {self.input_size}")
        for label, state, width in zip(labels, states or (), self._widths(), strict=False):
            expected = (*input.shape[:-1], width)
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
        for place, value in enumerate((x, *(states or ())), -1):
            if value.dtype != dtype and not self._takes(place, value.dtype, dtype):
                raise RuntimeError(
                    f"input, hidden and weights must have the same dtype, but got {value.dtype} and {dtype}"
                )


@takes_options("rnn", single_step=True)
class RNNCell(ElmanCell, RNNCellBase):
    """One step of ``RNN``: h = tanh(W x + b_ih + R h' + b_hh), or ReLU instead of tanh.

    The arguments and defaults are those of torch.nn.RNNCell; the options come after them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[RnnCellOptions],
    ) -> None:
        cell = "rnn_relu" if nonlinearity == "relu" else "rnn_tanh"  # any other is refused by a call, as in torch.nn
        super().__init__(cell, input_size, hidden_size, bias, device, dtype, options)
        self.nonlinearity = nonlinearity

    def _forward(self, input: Tensor, hx: Tensor | None) -> Tensor:
        answer = self._short_answer(input, hx)
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        return self._step(input, None if hx is None else (hx,), ("hidden",))[0]


@takes_options("gru", single_step=True)
class GRUCell(OneStateCell, RNNCellBase):
    """One step of ``GRU``. The arguments are those of torch.nn.GRUCell, then come the options."""

    _cell_name = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[GruCellOptions],
    ) -> None:
        super().__init__("gru", input_size, hidden_size, bias, device, dtype, options)

    def _forward(self, input: Tensor, hx: Tensor | None) -> Tensor:
        answer = self._short_answer(input, hx)
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        return self._step(input, None if hx is None else (hx,), ("hidden",))[0]


@takes_options("lstm", single_step=True)
class LSTMCell(TwoStatesCell, RNNCellBase):
    """One step of ``LSTM``. The arguments are those of torch.nn.LSTMCell, then come the options."""

    _cell_name = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[LstmCellOptions],
    ) -> None:
        super().__init__("lstm", input_size, hidden_size, bias, device, dtype, options)

    def _forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        answer = self._short_answer(input, hx)
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        if isinstance(hx, Tensor):
            raise TypeError("LSTMCell: expected hx to be a tuple (h, c), got a Tensor")
        if hx is not None and len(hx) != 2:
            raise RuntimeError(f"LSTMCell: expected two hidden states, got {len(hx)}")
        h, c = self._step(input, hx, ("hx[0]", "hx[1]"))
        return h, c


@takes_options("slstm", single_step=True)
class sLSTMCell(FourStatesCell, RNNCellBase):
    """One step of ``sLSTM``. The arguments are those of torch.nn.GRUCell, then come the options."""

    _cell_name = "slstm"
    _cells = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Unpack[SlstmCellOptions],
    ) -> None:
        super().__init__("slstm", input_size, hidden_size, bias, device, dtype, options)

    def _forward(self, input: Tensor, hx: tuple[Tensor, Tensor, Tensor, Tensor] | None) -> tuple[Tensor, ...]:
        if isinstance(hx, Tensor):
            raise TypeError("sLSTMCell: expected hx to be a tuple (h, c, n, m), got a Tensor")
        if hx is not None and len(hx) != 4:
            raise RuntimeError(f"sLSTMCell: expected four hidden states, got {len(hx)}")
        return self._step(input, hx, ("hx[0]", "hx[1]", "hx[2]", "hx[3]"))
