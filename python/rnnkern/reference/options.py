"""What a cell can be asked to do differently, and which parameters it then has."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .activations import Activation
from .arrays import Params

GATES = {"linear": 1, "rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3, "slstm": 4}
_OWN = {
    "linear": [("affine", 1.0, 0.0)],
    "rnn_tanh": [("tanh", 0.0, 0.0)],
    "rnn_relu": [("relu", 0.0, 0.0)],
    "lstm": [("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0), ("tanh", 0.0, 0.0)],
    "gru": [("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0)],
    "slstm": [("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0)],
}


@dataclass(frozen=True)
class Options:
    """The defaults change nothing. A projection is there when the parameters have ``weight_hr``."""

    peephole: bool = False  # LSTM: i += p_i*c', f += p_f*c', o += p_o*c
    coupled: bool = False  # LSTM: f = 1 - i; the rows of f in the parameters are not used
    clip: float | None = None  # bound on the input of every activation but LSTM's h
    activations: tuple[tuple[str, float, float], ...] | None = None  # (name, alpha, beta): RNN f, GRU f g, LSTM f g h
    reset_after: bool = True  # GRU: False puts the reset gate before the product
    layer_norm: bool = False  # of W x, of R h', and of the LSTM's c on its way to h
    zoneout: tuple[float, float] = (0.0, 0.0)  # of h and of c
    recurrent_dropout: float = 0.0
    heads: int = 1  # R is block-diagonal
    independent: bool = False  # RNN: R is diagonal, weight_hh [H] (IndRNN)


def activations_of(cell: str, options: Options) -> list[Activation]:
    """The cell's own, or those of ``options``, in ONNX's order: RNN f; GRU f, g; LSTM f, g, h.

    ``clip`` bounds the inputs of f and g, not of h: so do onnxruntime 1.31 and OpenVINO 2026.4, where ONNX's text ("the
    input of activations") leaves it open.
    """
    chosen = _OWN[cell] if options.activations is None else list(options.activations)
    if len(chosen) != len(_OWN[cell]):
        raise ValueError(f"activations: expected {len(_OWN[cell])} for {cell!r}, got {len(chosen)}")
    return [Activation(*entry, clip=options.clip if place < 2 else None) for place, entry in enumerate(chosen)]


def check_options(cell: str, options: Options) -> None:
    """ValueError for an option that the cell does not have, or that is not defined beside another."""
    for cells, names in ((("lstm",), ("peephole", "coupled")), (("gru",), ("reset_after",))):
        if cell not in cells and (wrong := set(names) & set(_changed(options))):
            raise ValueError(f"options: {cell!r} has no {sorted(wrong)}")
    if cell == "slstm" and (wrong := set(_changed(options)) - {"zoneout", "recurrent_dropout", "heads"}):
        raise ValueError(f"options: {cell!r} has no {sorted(wrong)}")
    if options.independent and (cell in ("lstm", "gru") or options.heads != 1):
        raise ValueError(f"independent: expected an RNN with heads = 1, got {cell!r} with heads = {options.heads}")
    if options.layer_norm and (not options.reset_after or options.heads > 1 or options.independent):
        raise ValueError(f"layer_norm: not defined beside reset_after=False, heads or independent, got {options}")
    if options.zoneout[1] and cell != "lstm":
        raise ValueError(f"zoneout: {cell!r} has no c, got {options.zoneout}")
    for name, p in (("recurrent_dropout", options.recurrent_dropout), *(("zoneout", z) for z in options.zoneout)):
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: expected probabilities in [0, 1], got {p}")


def parameter_shapes(
    cell: str, options: Options, input_size: int, hidden_size: int, proj_size: int = 0
) -> dict[str, tuple[int, ...]]:
    """Every parameter of one layer in one direction, biases included, in order. proj_size 0: no projection."""
    check_options(cell, options)
    units, H, width = GATES[cell] * hidden_size, hidden_size, proj_size or hidden_size
    if width % options.heads or H % options.heads:
        raise ValueError(f"heads: expected a divisor of {H} and {width}, got {options.heads}")
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (units, input_size)}
    shapes["weight_hh"] = (H,) if options.independent else (units, width // options.heads)
    shapes |= {"bias_ih": (units,), "bias_hh": (units,)}
    if proj_size:
        shapes["weight_hr"] = (proj_size, H)
    if options.peephole:
        shapes["peephole"] = (3, H)
    if options.layer_norm:
        shapes |= {"gamma_ih": (units,), "gamma_hh": (units,)}
        shapes |= {"gamma_c": (H,), "beta_c": (H,)} if cell == "lstm" else {}
    return shapes


def check_params(cell: str, options: Options, params: Params) -> None:
    """ValueError unless the parameters are those of the cell with its options. Biases and beta_c may be absent."""
    check_options(cell, options)
    units, input_size = params["weight_ih"].shape
    proj_size = params["weight_hr"].shape[0] if "weight_hr" in params else 0
    if proj_size and cell != "lstm":
        raise ValueError(f"weight_hr: {cell!r} has no projection")
    wanted = parameter_shapes(cell, options, input_size, units // GATES[cell], proj_size)
    optional = {"bias_ih", "bias_hh", "beta_c"}
    if not wanted.keys() - optional <= params.keys() <= wanted.keys():
        raise ValueError(f"params: expected {list(wanted)}, biases and beta_c being optional, got {list(params)}")
    for name, value in params.items():
        if value.shape != wanted[name]:
            raise ValueError(f"{name}: expected shape {wanted[name]}, got {value.shape}")


def _changed(options: Options) -> list[str]:
    return [f.name for f in fields(options) if getattr(options, f.name) != f.default]
