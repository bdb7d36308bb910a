"""ONNX's eleven activation functions in the form of rnnkern's layers: "Tanh", ("Elu", alpha), ("Affine", alpha, beta).

The specification (onnx/defs/rnn): values of ``activation_alpha`` and ``activation_beta`` are consumed in the order of
the functions, and "default values are the same as of corresponding ONNX operators". So a function that takes no alpha
consumes none, through both directions of a node; defaults are those operators' (ThresholdedRelu: 1.0, where
onnxruntime 1.31 has 0), and Affine and ScaledTanh, which have no operator, have no default either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..option_values import ACTIVATIONS

Activation = str | tuple[str, float] | tuple[str, float, float]

# Name -> default of each parameter it takes, alpha, then beta (floats of 32 bits, as attributes are); None: none.
_WITHOUT_DEFAULT = ("Affine", "ScaledTanh")
PARAMETERS: dict[str, tuple[float | None, ...]] = {
    name: tuple(None if name in _WITHOUT_DEFAULT else float(np.float32(value)) for value in defaults)
    for _, name, defaults in ACTIVATIONS.values()
}
_CANONICAL = {name.lower(): name for name in PARAMETERS}
_LISTS = ("activation_alpha", "activation_beta")


def canonical(name: str, where: str) -> str:
    """The specification's spelling of a name in any case; NotImplementedError for one that is not of the eleven."""
    if name.lower() not in _CANONICAL:
        raise NotImplementedError(f"{where}: activations: expected some of {', '.join(PARAMETERS)}, got {name!r}")
    return _CANONICAL[name.lower()]


def resolve(names: Sequence[str], alpha: Sequence[float], beta: Sequence[float], where: str) -> tuple[Activation, ...]:
    """Functions of all directions in order, with every parameter that they take. where: names the node in errors.

    ValueError: a parameter without a value and without a default; a list with more values than functions that take one.
    Such a list is accepted only where it has one value for every function and reading it by position gives the same.
    """
    spelled = [canonical(name, where) for name in names]
    columns = [_consume(spelled, values, which, where) for which, values in enumerate((alpha, beta))]
    found: list[Activation] = []
    for place, name in enumerate(spelled):
        numbers = tuple(columns[which][place] for which in range(len(PARAMETERS[name])))
        found.append((name, *numbers) if numbers else name)  # type: ignore[arg-type]
    return tuple(found)


def _consume(names: Sequence[str], values: Sequence[float], which: int, where: str) -> list[float]:
    """For each function its value of one list; 0.0 for those that take none."""
    takers = [place for place, name in enumerate(names) if len(PARAMETERS[name]) > which]
    if len(values) > len(takers):
        by_position = [values[place] for place in takers] if len(values) == len(names) else None
        if by_position != list(values[: len(takers)]):
            takes = ", ".join(names[place] for place in takers) or "no function"
            raise ValueError(
                f"{where}: {_LISTS[which]}: expected at most {len(takers)} values, consumed in order by the functions "
                f"that take one ({takes}), got {len(values)}"
            )
    column = [0.0] * len(names)
    for order, place in enumerate(takers):
        value = values[order] if order < len(values) else PARAMETERS[names[place]][which]
        if value is None:
            raise ValueError(
                f"{where}: {_LISTS[which]}: expected a value for {names[place]}, which has no default in ONNX, got none"
            )
        column[place] = float(value)
    return column


def attributes(functions: Sequence[Activation]) -> dict[str, list[str] | list[float]]:
    """The attributes of a node that ``resolve`` would read as these functions."""
    spelled = [(entry,) if isinstance(entry, str) else entry for entry in functions]
    found: dict[str, list[str] | list[float]] = {"activations": [entry[0] for entry in spelled]}
    for which, name in enumerate(_LISTS):
        values = [float(entry[which + 1]) for entry in spelled if len(entry) > which + 1]
        if values:
            found[name] = values
    return found
