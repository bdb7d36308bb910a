"""The options of a cell's step, as data: their names, what they take, which cell has which, and their parameters.

One frozen ``Options`` says them all; ``Options()`` is the plain cell. ``parse`` makes one of a constructor's keywords,
in the words of users; which of them no kernel does together is the native library's to say (core/options.cpp).

Sources: peephole, F. Gers and J. Schmidhuber, 2000; coupled, K. Greff et al., 2015; clip and activations, ONNX's RNN
operators (onnx/defs/rnn); reset_after=False, K. Cho et al., arXiv 1406.1078v3; proj_size, H. Sak et al., 2014;
layer_norm, J. Ba et al., arXiv 1607.06450; zoneout, D. Krueger et al., arXiv 1606.01305; recurrent_dropout, Y. Gal and
Z. Ghahramani, arXiv 1512.05287; independent, S. Li et al., arXiv 1803.04831.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

# Name in lower case -> (its number in rnnk_activation_kind, how ONNX writes it, defaults of alpha and beta where it has
# them). The defaults are ONNX's (onnx/defs/rnn); it has none for Affine and ScaledTanh, which leave x and tanh(x) here.
ACTIVATIONS: dict[str, tuple[int, str, tuple[float, ...]]] = {
    "relu": (1, "Relu", ()),
    "tanh": (2, "Tanh", ()),
    "sigmoid": (3, "Sigmoid", ()),
    "affine": (4, "Affine", (1.0, 0.0)),
    "leakyrelu": (5, "LeakyRelu", (0.01,)),
    "thresholdedrelu": (6, "ThresholdedRelu", (1.0,)),
    "scaledtanh": (7, "ScaledTanh", (1.0, 1.0)),
    "hardsigmoid": (8, "HardSigmoid", (0.2, 0.5)),
    "elu": (9, "Elu", (1.0,)),
    "softsign": (10, "Softsign", ()),
    "softplus": (11, "Softplus", ()),
}
_OWN = {"rnn": ("f",), "gru": ("f of r z", "g of n"), "lstm": ("f of i f o", "g of g", "h of the output"), "slstm": ()}
_ONLY = {
    "peephole": "lstm",
    "coupled": "lstm",
    "proj_size": "lstm",
    "reset_after": "gru",
    "independent": "rnn",
}
_SLSTM = ("zoneout", "recurrent_dropout", "heads")


@dataclass(frozen=True)
class Options:
    """What a step does beside the plain cell's equations; every default is neutral."""

    proj_size: int = 0
    peephole: bool = False
    coupled: bool = False
    clip: float = 0.0  # 0: no bound
    activations: tuple[tuple[str, float, float], ...] = ()  # of ACTIVATIONS; empty: the cell's own
    reset_after: bool = True
    layer_norm: bool = False
    zoneout: tuple[float, float] = (0.0, 0.0)  # of h, of c
    recurrent_dropout: float = 0.0
    heads: int = 1
    independent: bool = False

    @property
    def random(self) -> bool:
        """Whether training draws masks for them."""
        return self.zoneout != (0.0, 0.0) or self.recurrent_dropout > 0

    def native(self) -> dict[str, Any]:
        """The keywords of ``_core.Plan``; none where all is neutral."""
        given = {name: getattr(self, name) for name in self.said()}
        if given.pop("reset_after", True) is False:
            given["reset_before"] = True
        if "activations" in given:
            given["activations"] = [(ACTIVATIONS[name][0], alpha, beta) for name, alpha, beta in self.activations]
        return given

    def said(self) -> dict[str, Any]:
        """Name -> value of what is not neutral, for ``repr`` and errors."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


NEUTRAL = Options()


class HasOptions:
    """Properties of layers and cells by the names of their constructors' keywords, in the values these take."""

    _options: Options

    @property
    def proj_size(self) -> int:
        return self._options.proj_size

    @property
    def peephole(self) -> bool:
        return self._options.peephole

    @property
    def coupled(self) -> bool:
        return self._options.coupled

    @property
    def clip(self) -> float | None:
        return self._options.clip or None

    @property
    def activations(self) -> tuple[tuple[Any, ...], ...] | None:
        """One tuple per activation: ONNX name, alpha and beta if it has them. None for the standard ones."""
        given = []
        for name, *numbers in self._options.activations:
            _, spelled, defaults = ACTIVATIONS[name]
            given.append((spelled, *numbers[: len(defaults)]))
        return tuple(given) or None

    @property
    def reset_after(self) -> bool:
        return self._options.reset_after

    @property
    def layer_norm(self) -> bool:
        return self._options.layer_norm

    @property
    def zoneout(self) -> float | tuple[float, float]:
        """The zoneout probability of h, or the pair of h and c if c has one."""
        h, c = self._options.zoneout
        return (h, c) if c else h

    @property
    def recurrent_dropout(self) -> float:
        return self._options.recurrent_dropout

    @property
    def heads(self) -> int:
        return self._options.heads

    @property
    def independent(self) -> bool:
        return self._options.independent


def parse(cell: str, hidden_size: int, given: dict[str, Any]) -> Options:
    """The options of a constructor's keywords. cell: "rnn_tanh", "rnn_relu", "gru", "lstm" or "slstm".

    Raises ValueError or TypeError naming the keyword, what was expected and what came.
    """
    kind = cell.split("_")[0]
    out: dict[str, Any] = {}
    for name, value in given.items():
        neutral = getattr(NEUTRAL, name)
        if value is None or value is neutral:
            continue
        out[name] = _PARSERS[name](name, value, kind)
        if _ONLY.get(name, kind) != kind and out[name] != neutral:
            raise ValueError(f"{name}: only {_ONLY[name].upper()} has it, got {value!r} for {kind.upper()}")
        if kind == "slstm" and name not in _SLSTM and out[name] != neutral:
            raise ValueError(f"{name}: sLSTM does not have it, got {value!r}")
    options = Options(**out)
    if options.proj_size >= hidden_size > 0:
        raise ValueError(f"proj_size: expected less than hidden_size {hidden_size}, got {options.proj_size}")
    if options.heads > 1 and hidden_size % options.heads:
        raise ValueError(f"heads: expected a divisor of hidden_size {hidden_size}, got {options.heads}")
    return options


def _flag(name: str, value: Any, kind: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)


def _probability(name: str, value: Any, kind: str = "") -> float:
    number = _number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a probability in [0, 1], got {value!r}")
    return number


def _size(name: str, value: Any, kind: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    least = 1 if name == "heads" else 0
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return int(value)


def _clip(name: str, value: Any, kind: str) -> float:
    bound = _number(name, value)
    if not bound > 0:
        raise ValueError(f"{name}: expected a bound above 0 or None, got {value!r}")
    return 0.0 if math.isinf(bound) else bound


def _zoneout(name: str, value: Any, kind: str) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)):
        return _probability(name, value), 0.0
    if len(value) != 2:
        raise ValueError(f"{name}: expected a probability, or two, of h and of c, got {len(value)} of them")
    pair = _probability(f"{name}[0]", value[0]), _probability(f"{name}[1]", value[1])
    if pair[1] and kind != "lstm":
        has = "sLSTM's c does not stand alone" if kind == "slstm" else f"{kind.upper()} has no c"
        raise ValueError(f"{name}: {has}, got {value!r}")
    return pair


def _activations(name: str, value: Any, kind: str) -> tuple[tuple[str, float, float], ...]:
    wanted = _OWN[kind]
    if len(wanted) == 1 and _is_one_activation(value):
        value = (value,)
    if isinstance(value, str) or not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: expected a sequence of {len(wanted)} ({', '.join(wanted)}), got {value!r}")
    if len(value) != len(wanted):
        raise ValueError(f"{name}: expected {len(wanted)} ({', '.join(wanted)}), got {len(value)}")
    return tuple(_activation(f"{name}[{i}]", each) for i, each in enumerate(value))


def _is_one_activation(value: Any) -> bool:
    """A name, or a tuple (name, alpha, beta): where a cell has one activation, it needs no sequence around it."""
    if isinstance(value, str):
        return True
    numbers = value[1:] if isinstance(value, tuple) and value and isinstance(value[0], str) else ()
    return bool(numbers) and not any(isinstance(number, (str, tuple, list)) for number in numbers)


def _activation(name: str, value: Any) -> tuple[str, float, float]:
    parts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], str):
        raise TypeError(f"{name}: expected a name, or a tuple (name, alpha, beta), got {value!r}")
    key = parts[0].lower()
    if key not in ACTIVATIONS:
        known = ", ".join(spelled for _, spelled, _ in ACTIVATIONS.values())
        raise ValueError(f"{name}: expected one of {known}, got {parts[0]!r}")
    _, spelled, defaults = ACTIVATIONS[key]
    given = [_number(f"{name}[{i}]", number) for i, number in enumerate(parts[1:], 1)]
    if len(given) > len(defaults):
        takes = ("nothing", "alpha alone", "alpha and beta")[len(defaults)]
        raise ValueError(f"{name}: {spelled} takes {takes}, got {value!r}")
    alpha, beta = (*given, *defaults[len(given) :], 0.0, 0.0)[:2]
    return key, alpha, beta


_PARSERS: dict[str, Any] = {
    "proj_size": _size,
    "peephole": _flag,
    "coupled": _flag,
    "clip": _clip,
    "activations": _activations,
    "reset_after": _flag,
    "layer_norm": _flag,
    "zoneout": _zoneout,
    "recurrent_dropout": _probability,
    "heads": _size,
    "independent": _flag,
}


def layer_shapes(
    options: Options, gates: int, states: int, input_size: int, hidden_size: int, bias: bool
) -> dict[str, tuple[int, ...]]:
    """Name without suffix -> shape of one layer's parameters in one direction, in the order the scheduler takes them.

    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr as torch.nn orders them, then the options' own.
    """
    rows, outputs = gates * hidden_size, options.proj_size or hidden_size
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size)}
    shapes["weight_hh"] = (hidden_size,) if options.independent else (rows, outputs // options.heads)
    if bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    if options.proj_size:
        shapes["weight_hr"] = (outputs, hidden_size)
    if options.peephole:
        shapes["peephole"] = (3, hidden_size)
    if options.layer_norm:
        shapes |= {"gamma_ih": (rows,), "gamma_hh": (rows,)}
        if states == 2:
            shapes |= {"gamma_c": (hidden_size,), "beta_c": (hidden_size,)}
    return shapes


def vector_rows(options: Options, names: list[str], bias: bool) -> list[str]:
    """The parameters that the kernel takes as rows of one matrix (``rnnk_weights.params``), in its order."""
    own = ["weight_hh", "bias_hh"] if options.independent else ["peephole"] if options.peephole else []
    return own + [name for name in ("gamma_ih", "gamma_hh", "gamma_c", "beta_c") if name in names]
