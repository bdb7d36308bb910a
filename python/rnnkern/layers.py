"""RNN, GRU, LSTM and sLSTM on plain arrays: torch.nn's constructors, PyTorch's names, no framework."""

from __future__ import annotations

from typing import Any

from .layer import Layer


class RNN(Layer):
    """Elman RNN (Elman 1990; torch.nn.RNN), gates G = 1:

        h = f(W_ih x + b_ih + W_hh h' + b_hh),  f = tanh or relu

    Arguments, their order and defaults are torch.nn.RNN's; ``nonlinearity``, "tanh" or "relu", is the fourth. Keywords:

    device: "cpu" (or None), "cuda" (the first GPU) or "cuda:1". On a GPU the parameters live there, in CuPy's arrays
        (torch's, where torch is loaded and CuPy is not installed), and calls take arrays of either library.
    dtype: "float32" (the default), "float64", "bfloat16", "float16", or a library's own object for one; the half types
        are for storage, sums and the cell state are float32. Inputs must have it: nothing is converted silently.
    seed: of the initial values (torch's distribution) and of dropout's masks; None draws one.
    recompute: a training forward keeps y and the states of a few steps instead of every step's gates: memory beside y
        grows with the square root of T, backward runs the forward again, and the gradients have the same bits.
    reverse: one direction that walks each row from its last valid step to step 0.
    allow_tf32: in float32 on a GPU, products may round their operands to 10 bits of mantissa (TF32); sums and states
        stay float32.

    Options of the step (equations and sources: docs/options.md); two that no kernel does together are refused by name:

    clip: every activation's input is bounded to [-clip, clip], as ONNX has it.
    activations: one of ONNX's eleven by name, or (name, alpha, beta), for f; GRU takes two (of r z, of n), LSTM three
        (of i f o, of g, of c in the output).
    layer_norm: W_ih x and W_hh h' are normalised over a row before their biases: gamma_ih, gamma_hh [G*H]; LSTM
        normalises the c of its output as well: gamma_c, beta_c [H].
    zoneout: the probability with which h keeps its old value; for LSTM also a pair, of h and of c. In inference, that
        share of it.
    recurrent_dropout: in training, one mask a row for the whole sequence on what W_hh multiplies.
    heads: W_hh is block-diagonal: weight_hh [G*H, H/heads].
    independent: W_hh is diagonal (IndRNN): weight_hh [H].

    Parameters, for each layer k, with the suffix ``_reverse`` for the second direction: weight_ih_l{k} [G*H, I] (above
    the first layer I is D*H), weight_hh_l{k} [G*H, H], bias_ih_l{k} and bias_hh_l{k} [G*H], then what options bring.
    Read them through ``params``, change them through ``update`` and ``load_state_dict`` only.

    Raises ValueError for a size, probability or name out of range, TypeError for an argument of another kind or a dtype
    that is not among these, NotImplementedError for a GPU in a build or on a machine without, or for options that no
    kernel does together, ImportError where a GPU's arrays have no library.
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
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        recompute: bool = False,
        reverse: bool = False,
        allow_tf32: bool = False,
        clip: float | None = None,
        activations: Any = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        heads: int = 1,
        independent: bool = False,
    ) -> None:
        options = {
            "clip": clip,
            "activations": activations,
            "layer_norm": layer_norm,
            "zoneout": zoneout,
            "recurrent_dropout": recurrent_dropout,
            "heads": heads,
            "independent": independent,
        }
        cell = f"rnn_{check_nonlinearity(nonlinearity)}"
        super().__init__(
            cell, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, seed,
            recompute, reverse, allow_tf32, options,
        )  # fmt: skip

    @property
    def nonlinearity(self) -> str:
        return self._spec.cell.removeprefix("rnn_")


class GRU(Layer):
    """GRU with the reset gate after the product (Cho et al. 2014, arXiv 1406.1078, in the form of cuDNN and
    torch.nn.GRU), gates r z n, G = 3:

        gx = W_ih x + b_ih,  gh = W_hh h' + b_hh
        r, z = sigmoid(gx + gh),  n = tanh(gx_n + r * gh_n),  h = (1 - z) * n + z * h'

    Arguments, their order and defaults are torch.nn.GRU's. Keywords, parameters (with G = 3) and errors are those of
    ``rnnkern.RNN``; reset_after=False puts the reset gate before the product (arXiv 1406.1078v3, ONNX's default):
    n = tanh(gx_n + W_hn (r * h') + b_hn).
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
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        recompute: bool = False,
        reverse: bool = False,
        allow_tf32: bool = False,
        reset_after: bool = True,
        clip: float | None = None,
        activations: Any = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        heads: int = 1,
    ) -> None:
        options = {
            "reset_after": reset_after,
            "clip": clip,
            "activations": activations,
            "layer_norm": layer_norm,
            "zoneout": zoneout,
            "recurrent_dropout": recurrent_dropout,
            "heads": heads,
        }
        super().__init__(
            "gru", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, seed,
            recompute, reverse, allow_tf32, options,
        )  # fmt: skip


class LSTM(Layer):
    """LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000; torch.nn.LSTM), gates i f g o, G = 4:

        gx = W_ih x + b_ih,  gh = W_hh h' + b_hh
        i, f, o = sigmoid(gx + gh),  g = tanh(gx + gh),  c = f * c' + i * g,  h = o * tanh(c)

    The state is the tuple (h, c). Arguments, their order and defaults are torch.nn.LSTM's. Keywords, parameters (with
    G = 4) and errors are those of ``rnnkern.RNN``, and:

    proj_size: h = W_hr (o * tanh(c)) has P = proj_size entries: weight_hr [P, H], weight_hh [4*H, P].
    peephole: i and f see c', o sees the new c: peephole [3, H], rows i f o.
    coupled: f = 1 - i; the rows of f stay in the weights and are not used.
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
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        recompute: bool = False,
        reverse: bool = False,
        allow_tf32: bool = False,
        peephole: bool = False,
        coupled: bool = False,
        clip: float | None = None,
        activations: Any = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        heads: int = 1,
    ) -> None:
        options = {
            "proj_size": proj_size,
            "peephole": peephole,
            "coupled": coupled,
            "clip": clip,
            "activations": activations,
            "layer_norm": layer_norm,
            "zoneout": zoneout,
            "recurrent_dropout": recurrent_dropout,
            "heads": heads,
        }
        super().__init__(
            "lstm", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, seed,
            recompute, reverse, allow_tf32, options,
        )  # fmt: skip


class sLSTM(Layer):
    """sLSTM (Beck et al. 2024, xLSTM, arXiv 2405.04517), gates i f z o, G = 4, the input gate an exponential:

        v = W_ih x + b_ih + W_hh h' + b_hh,  a = log(sigmoid(v_f)) + m',  m = max(v_i, a), or v_i where n' is 0
        i = exp(v_i - m),  f = exp(min(a - m, 0)),  z = tanh(v_z),  o = sigmoid(v_o)
        c = f * c' + i * z,  n = f * n' + i,  h = o * c / n

    The state is the tuple (h, c, n, m), each [L*D, B, H]; n and m keep c in range. Arguments, keywords and parameters
    (G = 4) are those of ``rnnkern.RNN``, without nonlinearity and the options that are not named here; ``heads`` is how
    the paper uses it.
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
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        recompute: bool = False,
        reverse: bool = False,
        allow_tf32: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        heads: int = 1,
    ) -> None:
        options = {"zoneout": zoneout, "recurrent_dropout": recurrent_dropout, "heads": heads}
        super().__init__(
            "slstm", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype,
            seed, recompute, reverse, allow_tf32, options,
        )  # fmt: skip


def check_nonlinearity(nonlinearity: Any) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    return str(nonlinearity)
