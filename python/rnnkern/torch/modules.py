"""``RNN``, ``LSTM``, ``GRU`` and ``sLSTM``: torch.nn's constructors, attributes, shapes, checks and errors.

Attribute names are torch.nn's, so that ``replace`` can turn an instance into one of these and back.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .._engine.spec import NO_MARKS, check_takes_gx
from ..nn.parameters import check_bool
from ..options import reads, takes_options
from . import gpu
from .autograd import watched
from .base import Recurrent
from .checks import (
    check_batch_sizes,
    check_options,
    check_tensor,
    lengths_tensor,
    marks_tensors,
    refuse_unknown,
    take_lengths,
    take_marks,
)
from .forwards import FourStates, OneState, TwoStates

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..option_types import GruOptions, LstmOptions, RnnOptions, SlstmOptions


class RNNBase(Recurrent):
    """Construction, input and output of a stack of recurrent layers; the subclasses say which cell.

    Below, T is seq_len, B batch, I input_size, H hidden_size, P proj_size or H, L num_layers, D directions.
    """

    mode: str
    _state_said = "hx and cx"
    peephole = reads("peephole")
    _is_layer = True
    _flat_weights_names: list[str]

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        device: Any,
        dtype: Any,
        reverse: bool,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        refuse_unknown(type(self).__name__, mode.lower(), options)
        proj_size = options.get("proj_size", 0)
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        check_options(sizes, {"bias": bias, "batch_first": batch_first}, dropout, proj_size)
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.reverse = check_bool("reverse", reverse)
        spec = self._settle(self._cell(), options, device, dtype)
        each = len(spec.own_names)
        self._flat_weights_names = list(spec.param_names)
        self._all_weights = [self._flat_weights_names[i : i + each] for i in range(0, len(spec.param_names), each)]
        self.reset_parameters()

    def _weight_names(self) -> Sequence[str]:
        return self._flat_weights_names

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """[L*D] lists of weights, in torch.nn's order."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Does nothing. It exists for code that calls it on modules of torch.nn."""

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0}
        defaults |= {"bidirectional": False, "recompute": False, "reverse": False}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        text += self._said()
        return text + self._frozen_said()

    # States: a tuple of one, two or four tensors inside, what the user passes and gets outside ------------------------

    def _state_tuple(self, hx: Any) -> tuple[Any, ...]:
        return (hx,)

    def _state_value(self, states: tuple[Tensor, ...]) -> Any:
        return states[0]

    def _state_labels(self) -> tuple[str, ...]:
        return ("hidden",)

    def _take_state(self, hx: Any, batch: int, batched: bool) -> tuple[Tensor, ...]:
        """hx -> tensors h [L*D, B, P] (and c [L*D, B, H])."""
        states = self._state_tuple(hx)
        labels = self._state_labels()
        for label, state in zip(labels, states, strict=True):
            check_tensor(label, state)
        expected_dims = 3 if batched else 2
        if any(state.dim() != expected_dims for state in states):
            kind = "batched 3-D" if batched else "unbatched 2-D"
            got = ", ".join(f"{state.dim()}-D" for state in states)
            name, got = ("hx", f"{got} tensor") if len(states) == 1 else (self._state_said, f"({got}) tensors")
            raise RuntimeError(f"For {kind} input, {name} should also be {expected_dims}-D but got {got}")
        if not batched:
            states = tuple(state.unsqueeze(1) for state in states)
        rows = self.num_layers * (2 if self.bidirectional else 1)
        for label, state, width in zip(labels, states, self._widths(), strict=False):
            expected = (rows, batch, width)
            if state.shape != expected:
                raise RuntimeError(f"Expected {label} size {expected}, got {list(state.shape)}")
        return states

    # The call -------------------------------------------------------------------------------------------------------

    def forward_gx(
        self, gx: Tensor, hx: Any = None, lengths: Any = None, mask: Any = None, reset: Any = None
    ) -> tuple[Tensor, Any]:
        """``forward`` with the input product of the first layer given. Returns (output, state).

        gx: ``W_ih x + b_ih`` in the layout of the input, with D*G*H columns: the forward direction first, the gates in
            the order of weight_ih, for example ``F.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)``. The other
            arguments are those of ``LSTM.forward``.

        A gradient reaches gx in the place of weight_ih and bias_ih. On a CPU, without layer_norm: else
        NotImplementedError. Not for a frozen module.
        """
        check_takes_gx(self._step_options, str(self._weights()[0].device))
        if self._frozen is not None:
            raise NotImplementedError(
                f"forward_gx: {self!r} keeps packed weights for calls on x; call unfreeze() first"
            )
        return self._forward(gx, hx, lengths, mask, reset, given=True)

    def _forward(
        self, input: Any, hx: Any, lengths: Any, mask: Any, reset: Any, given: bool = False
    ) -> tuple[Any, Any]:
        """``forward`` of eager calls. given: the input is gx."""
        if lengths is None and mask is None and reset is None and not given:
            answer = self._short_answer(input, hx)
            if answer is not None:
                return answer  # type: ignore[no-any-return]
        if isinstance(input, PackedSequence) and not given:
            if lengths is not None:
                raise ValueError("lengths: expected None with a PackedSequence, which has its own")
            for name, value in (("mask", mask), ("reset", reset)):
                if value is not None:
                    raise ValueError(f"{name}: expected None with a PackedSequence; pass a padded tensor and lengths")
            if torch.onnx.is_in_onnx_export():
                raise NotImplementedError(
                    "torch.onnx.export: a PackedSequence would make the lengths constants of the model; export a call "
                    "with a padded tensor and lengths="
                )
            # Its sizes are data, which no graph can know: captured graphs leave it out.
            packed = self._forward_packed
            return torch.compiler.disable(packed)(input, hx) if torch.compiler.is_compiling() else packed(input, hx)  # type: ignore[no-untyped-call]
        check_tensor("gx" if given else "input", input)
        dims = input.dim()
        if dims not in (2, 3):
            name = self.mode.split("_")[0]
            raise ValueError(f"{name}: Expected input to be 2D or 3D, got {dims}D instead")
        self._check_width(input, given)
        batched = dims == 3
        batch_first = batched and self.batch_first
        x = (input.transpose(0, 1) if batch_first else input) if batched else input.unsqueeze(1)
        states = None if hx is None else self._take_state(hx, x.shape[1], batched)
        if lengths is not None:
            if not batched:
                raise ValueError("lengths: expected None with unbatched input; pass input[:length]")
            hidden = torch.compiler.is_compiling() or (isinstance(lengths, Tensor) and watched((lengths,)))
            if hidden or (gpu.index_of(x) is not None and _on_gpu(lengths)):
                lengths = lengths_tensor(lengths, x.shape[1], x.device)
            else:
                lengths = take_lengths(lengths, x.shape[1], x.shape[0])
        marks = NO_MARKS
        if mask is not None or reset is not None:
            tensors = [m for m in (mask, reset) if isinstance(m, Tensor)]
            hidden = torch.compiler.is_compiling() or watched(tensors)
            hidden = hidden or (gpu.index_of(x) is not None and any(map(_on_gpu, tensors)))
            marks = (marks_tensors if hidden else take_marks)(mask, reset, x.shape[:2], batched, batch_first)
        y, states = self._run(x, states, lengths, batch_first, marks, given)
        if not batched:
            return y.squeeze(1), self._state_value(tuple(state.squeeze(1) for state in states))
        return y.transpose(0, 1) if batch_first else y, self._state_value(states)

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """Rows in a PackedSequence are sorted by length; hx comes, and states leave, in the user's order of rows."""
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        check_tensor("input", data)
        if data.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {data.dim()}")
        self._check_width(data)
        sizes = check_batch_sizes(batch_sizes, data.shape[0])
        seq_len, batch = len(sizes), int(sizes[0])
        states = None if hx is None else self._take_state(hx, batch, batched=True)
        if states is not None and sorted_indices is not None:
            states = tuple(state.index_select(1, sorted_indices) for state in states)
        if sizes[-1] == batch:  # rows of one length: the data is a plain batch already
            lengths = None
            x = data.unflatten(0, (seq_len, batch))
        else:
            x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        # Its sizes are on the host, for any device: lengths come from there without a wait.
        y, states = self._run(x, states, None if lengths is None else lengths.numpy())
        output = y.flatten(0, 1) if lengths is None else pack_padded_sequence(y, lengths).data
        if unsorted_indices is not None:
            states = tuple(state.index_select(1, unsorted_indices) for state in states)
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), self._state_value(states)

    def _check_width(self, input: Tensor, given: bool = False) -> None:
        if given:
            columns = (2 if self.bidirectional else 1) * self._weights()[0].shape[0]
            if input.shape[-1] != columns:
                raise RuntimeError(f"gx: expected D*G*H = {columns} columns, got {input.shape[-1]}")
        elif input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )


@takes_options("rnn")
class RNN(OneState, RNNBase):
    """Elman layers: h = tanh(W x + b_ih + R h' + b_hh), or ReLU instead of tanh.

    The arguments and defaults are those of torch.nn.RNN; ``reverse`` and the options come after them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reverse: bool = False,
        **options: Unpack[RnnOptions],
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        mode = f"RNN_{nonlinearity.upper()}"
        sizes = (input_size, hidden_size, num_layers)
        super().__init__(mode, *sizes, bias, batch_first, dropout, bidirectional, device, dtype, reverse, options)
        self.nonlinearity = nonlinearity


@takes_options("gru")
class GRU(OneState, RNNBase):
    """Gated recurrent units, gates r z n, with the reset after the product, as torch.nn.GRU:

        r, z = s(W x + b_ih + R h' + b_hh);  n = tanh(W_n x + b_in + r*(R_n h' + b_hn));  h = (1-z)*n + z*h'

    The arguments and defaults are those of torch.nn.GRU; ``reverse`` and the options come after them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reverse: bool = False,
        **options: Unpack[GruOptions],
    ) -> None:
        sizes = (input_size, hidden_size, num_layers)
        super().__init__("GRU", *sizes, bias, batch_first, dropout, bidirectional, device, dtype, reverse, options)


@takes_options("lstm")
class LSTM(TwoStates, RNNBase):
    """Long short-term memory, gates i f g o, as torch.nn.LSTM:

        i, f, o = s(W x + b_ih + R h' + b_hh);  g = tanh(the same);  c = f*c' + i*g;  h = o*tanh(c), or W_hr times it

    The arguments and defaults are those of torch.nn.LSTM; ``reverse`` and the options come after them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        reverse: bool = False,
        **options: Unpack[LstmOptions],
    ) -> None:
        chosen: dict[str, Any] = {"proj_size": proj_size, **options}
        sizes = (input_size, hidden_size, num_layers)
        super().__init__("LSTM", *sizes, bias, batch_first, dropout, bidirectional, device, dtype, reverse, chosen)

    def _state_tuple(self, hx: Any) -> tuple[Any, ...]:
        if isinstance(hx, Tensor) or len(hx) != 2:
            raise RuntimeError(f"LSTM: expected hx to be a tuple (h_0, c_0), got {_describe(hx)}")
        return tuple(hx)

    def _state_value(self, states: tuple[Tensor, ...]) -> Any:
        return states

    def _state_labels(self) -> tuple[str, ...]:
        return ("hidden[0]", "hidden[1]")


@takes_options("slstm")
class sLSTM(FourStates, RNNBase):
    """sLSTM, gates i f z o. ``rnnkern.sLSTM`` has the equations. The arguments and defaults are those of torch.nn.GRU.

    The state is the tuple (h, c, n, m), each [L*D, B, H]; n and m keep c in range. In bfloat16 and float16 modules, and
    under autocast, c, n and m are float32 and may be passed as float32, because m is a logarithm that a half type would
    round.
    """

    _cells = 3
    _state_said = "hx, cx, nx and mx"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reverse: bool = False,
        **options: Unpack[SlstmOptions],
    ) -> None:
        sizes = (input_size, hidden_size, num_layers)
        super().__init__("SLSTM", *sizes, bias, batch_first, dropout, bidirectional, device, dtype, reverse, options)

    def _state_tuple(self, hx: Any) -> tuple[Any, ...]:
        if isinstance(hx, Tensor) or len(hx) != 4:
            raise RuntimeError(f"sLSTM: expected hx to be a tuple (h_0, c_0, n_0, m_0), got {_describe(hx)}")
        return tuple(hx)

    def _state_value(self, states: tuple[Tensor, ...]) -> Any:
        return states

    def _state_labels(self) -> tuple[str, ...]:
        return ("hidden[0]", "hidden[1]", "hidden[2]", "hidden[3]")


def _on_gpu(value: Any) -> bool:
    return isinstance(value, Tensor) and gpu.index_of(value) is not None


def _describe(hx: Any) -> str:
    return f"a tensor of shape {list(hx.shape)}" if isinstance(hx, Tensor) else f"{len(hx)} of them"
