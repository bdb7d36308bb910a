"""What the values of options may be: ONNX's activations, and a parser for each kind of value.

A parser takes the keyword's name, the value that came and the cell ("rnn", "gru", "lstm", "slstm"). It returns the
value in the form of ``Options``, or raises TypeError or ValueError that names the keyword, what was expected and what
came. ``shown_...`` functions turn that form back into the value that a constructor takes.
"""

from __future__ import annotations

import math
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


def flag(name: str, value: Any, kind: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)


def probability(name: str, value: Any, kind: str = "") -> float:
    number = _number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a probability in [0, 1], got {value!r}")
    return number


def size(name: str, value: Any, kind: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    least = 1 if name == "heads" else 0
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return int(value)


def clip(name: str, value: Any, kind: str) -> float:
    bound = _number(name, value)
    if not bound > 0:
        raise ValueError(f"{name}: expected a bound above 0 or None, got {value!r}")
    return 0.0 if math.isinf(bound) else bound


def zoneout(name: str, value: Any, kind: str) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)):
        return probability(name, value), 0.0
    if len(value) != 2:
        raise ValueError(f"{name}: expected a probability, or two, of h and of c, got {len(value)} of them")
    pair = probability(f"{name}[0]", value[0]), probability(f"{name}[1]", value[1])
    if pair[1] and kind != "lstm":
        has = "sLSTM's c does not stand alone" if kind == "slstm" else f"{kind.upper()} has no c"
        raise ValueError(f"{name}: {has}, got {value!r}")
    return pair


def activations(name: str, value: Any, kind: str) -> tuple[tuple[str, float, float], ...]:
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


def shown_clip(bound: float) -> float | None:
    return bound or None


def shown_zoneout(pair: tuple[float, float]) -> float | tuple[float, float]:
    """The probability for h, or the pair for h and c if c has one."""
    return pair if pair[1] else pair[0]


def shown_activations(chosen: tuple[tuple[str, float, float], ...]) -> tuple[tuple[Any, ...], ...] | None:
    """One tuple per activation: ONNX name, alpha and beta if it has them. None for the cell's own."""
    given = []
    for name, *numbers in chosen:
        _, spelled, defaults = ACTIVATIONS[name]
        given.append((spelled, *numbers[: len(defaults)]))
    return tuple(given) or None
