"""RNN, GRU, LSTM and sLSTM on plain arrays: torch.nn's constructors, PyTorch's names, no framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..options import takes_options
from .layer import Layer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..option_types import GruKeywords, LstmKeywords, RnnKeywords, SlstmKeywords


@takes_options("rnn")
class RNN(Layer):
    """Elman RNN (Elman 1990; torch.nn.RNN), gates G = 1:

        h = f(W_ih x + b_ih + W_hh h' + b_hh),  f = tanh or relu

    The arguments, their order and their defaults are those of torch.nn.RNN. ``nonlinearity`` is the fourth: "tanh" or
    "relu". Keywords:

    device: "cpu" (or None), "cuda" (the first GPU) or "cuda:1". On a GPU the parameters are arrays of CuPy, or of torch
        if torch is loaded and CuPy is not installed. Calls take arrays of either library.
    dtype: "float32" (the default), "float64", "bfloat16", "float16", or a library's own dtype object. Inputs must have
        this dtype. bfloat16 and float16 are storage types: sums and the cell state are float32.
    seed: seed of the initial values (torch's distribution) and of the random masks; None draws one.
    recompute: in training, keep only some states instead of the gates of every step. The memory beside y then grows
        with the square root of T, backward repeats the forward pass, and the gradients have the same bits.
    reverse: run each row from its last valid step to step 0, in one direction.
    allow_tf32: allow TF32 in float32 products on a GPU: operands have 10 bits of mantissa, sums and states stay
        float32.
    weights: "int8" or "bf16": the form in which kernels read them, for inference on a CPU (``quantize``); None: the
        dtype itself.

    Parameters of layer k, with the suffix ``_reverse`` for the second direction: weight_ih_l{k} [G*H, I] (I is D*H
    above the first layer), weight_hh_l{k} [G*H, H], bias_ih_l{k} and bias_hh_l{k} [G*H], then the parameters of the
    options. Read them through ``params``. Change them through ``update`` and ``load_state_dict`` only.

    Raises ValueError for a size, probability or name out of range, TypeError for a wrong type or dtype,
    NotImplementedError for a GPU that is not available or for options that no kernel combines, and ImportError if no
    library for GPU arrays is installed.
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
        **keywords: Unpack[RnnKeywords],
    ) -> None:
        cell = f"rnn_{check_nonlinearity(nonlinearity)}"
        super().__init__(
            cell, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **keywords
        )

    @property
    def nonlinearity(self) -> str:
        return self._spec.cell.removeprefix("rnn_")


@takes_options("gru")
class GRU(Layer):
    """GRU with the reset gate after the product (Cho et al. 2014, arXiv 1406.1078, in the form of cuDNN and
    torch.nn.GRU), gates r z n, G = 3:

        gx = W_ih x + b_ih,  gh = W_hh h' + b_hh
        r, z = sigmoid(gx + gh),  n = tanh(gx_n + r * gh_n),  h = (1 - z) * n + z * h'

    The arguments, their order and their defaults are those of torch.nn.GRU. Keywords, parameters (with G = 3) and
    errors are those of ``rnnkern.RNN``.
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
        **keywords: Unpack[GruKeywords],
    ) -> None:
        super().__init__(
            "gru", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **keywords
        )


@takes_options("lstm")
class LSTM(Layer):
    """LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000; torch.nn.LSTM), gates i f g o, G = 4:

        gx = W_ih x + b_ih,  gh = W_hh h' + b_hh
        i, f, o = sigmoid(gx + gh),  g = tanh(gx + gh),  c = f * c' + i * g,  h = o * tanh(c)

    The state is the tuple (h, c). The arguments, their order and their defaults are those of torch.nn.LSTM. Keywords,
    parameters (with G = 4) and errors are those of ``rnnkern.RNN``.
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
        **keywords: Unpack[LstmKeywords],
    ) -> None:
        super().__init__(
            "lstm",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size=proj_size,
            **keywords,
        )


@takes_options("slstm")
class sLSTM(Layer):
    """sLSTM (Beck et al. 2024, xLSTM, arXiv 2405.04517), gates i f z o, G = 4, with an exponential input gate:

        v = W_ih x + b_ih + W_hh h' + b_hh,  a = log(sigmoid(v_f)) + m',  m = max(v_i, a), or v_i where n' is 0
        i = exp(v_i - m),  f = exp(min(a - m, 0)),  z = tanh(v_z),  o = sigmoid(v_o)
        c = f * c' + i * z,  n = f * n' + i,  h = o * c / n

    The state is the tuple (h, c, n, m), each [L*D, B, H]. The normaliser n and the stabiliser m keep c in range. sLSTM
    requires n >= 0. Where n is 0, c must be 0 and m is ignored.

    Arguments, keywords and parameters (G = 4) are those of ``rnnkern.RNN``, without ``nonlinearity``. The paper uses
    ``heads``.
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
        **keywords: Unpack[SlstmKeywords],
    ) -> None:
        super().__init__(
            "slstm", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **keywords
        )


def check_nonlinearity(nonlinearity: Any) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    return str(nonlinearity)
