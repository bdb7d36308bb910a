"""One layer and direction as blocks, one for each parameter and gate: cut out of arrays by the rows of a layout, put
together by the rows of another, and the biases settled in between. Used by ``rnnkern.convert``.

H units, I inputs, P outputs (H without a projection). An array's label is how errors name it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .layouts import GROUPS, Part, Row

Array = np.ndarray[Any, Any]
Blocks = dict[tuple[str, str], Array]  # (parameter, gate) -> [O, I], or [O] of what is a vector for each gate
Label = Callable[[str], str]  # a row's name -> the array's name in errors


class Sizes(NamedTuple):
    inputs: int
    hidden: int
    outputs: int

    def length(self, part: Part, axis: str) -> int:
        """The size that one letter of a layout's axes stands for."""
        if axis == "g":
            return len(part.gates)
        if axis == "o":
            return self.outputs if part.parameter in ("weight_hr", "h_0") else self.hidden
        if axis == "i":
            return {"weight_ih": self.inputs, "weight_hr": self.hidden}.get(part.parameter, self.outputs)
        return 1

    def shape(self, row: Row, part: Part) -> tuple[int, ...]:
        return tuple(math.prod(self.length(part, axis) for axis in axes) for axes in row.axes)


def measure(rows: Sequence[Row], arrays: Mapping[str, Array], label: Label) -> Sizes:
    """I, H and P from the array that holds weight_ih and, where there is one, weight_hr's."""
    first = rows[0]
    hidden = _length(first, arrays[first.name], "o", label)
    inputs = _length(first, arrays[first.name], "i", label) - (hidden if len(first.parts) > 1 else 0)
    if hidden < 1 or inputs < 1:
        raise ValueError(f"{label(first.name)}: expected at least one unit and one input, got {hidden} and {inputs}")
    outputs = hidden
    for row in rows:
        if row.parts[0].parameter == "weight_hr" and row.name in arrays:
            outputs = _length(row, arrays[row.name], "o", label)
    return Sizes(inputs, hidden, outputs)


def _length(row: Row, array: Array, letter: str, label: Label) -> int:
    """The length of one letter's axis, before anything else is known of the array."""
    if array.ndim != len(row.axes):
        raise ValueError(f"{label(row.name)}: expected {len(row.axes)} axes, got {array.ndim}, {list(array.shape)}")
    place = next(n for n, axes in enumerate(row.axes) if letter in axes)
    gates = len(row.parts[0].gates) if "g" in row.axes[place] else 1
    if array.shape[place] % gates:
        raise ValueError(f"{label(row.name)}: expected axis {place} to hold {gates} gates, got {list(array.shape)}")
    return array.shape[place] // gates


def check_present(rows: Sequence[Row], names: set[str], needed: set[str], label: Label) -> None:
    """ValueError unless of every group of rows all are there or, where the group is not needed, none is."""
    for group in GROUPS:
        own = [row.name for row in rows if row.group == group]
        missing = [name for name in own if name not in names]
        if missing and (group in needed or len(missing) < len(own)):
            raise ValueError(f"{', '.join(map(label, missing))}: expected arrays of {group}, got none")


def read(rows: Sequence[Row], arrays: Mapping[str, Array], sizes: Sizes, label: Label) -> Blocks:
    """Name -> array, as the rows lay them out -> blocks, which are views unless they are negated."""
    blocks: Blocks = {}
    for row in rows:
        if row.name not in arrays:
            continue
        array, shapes = arrays[row.name], [sizes.shape(row, part) for part in row.parts]
        wanted = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if array.shape != wanted:
            raise ValueError(
                f"{label(row.name)}: expected shape {list(wanted)} (I = {sizes.inputs}, H = {sizes.hidden}, "
                f"P = {sizes.outputs}), got {list(array.shape)}"
            )
        borders = np.cumsum([shape[0] for shape in shapes])[:-1]
        letters = "".join(row.axes).replace("1", "")
        for part, piece in zip(row.parts, np.split(array, borders), strict=True):
            fine = piece.reshape([sizes.length(part, letter) for letter in letters])
            fine = fine.transpose([letters.index(letter) for letter in "goi" if letter in letters])
            fine = -fine if part.negated else fine
            gates = fine if "g" in letters else fine[None]
            blocks |= {(part.parameter, gate): gates[n] for n, gate in enumerate(part.gates)}
    return blocks


def write(rows: Sequence[Row], blocks: Blocks) -> dict[str, Array]:
    """Blocks -> name -> new array, for every row whose blocks are there."""
    arrays = {}
    for row in rows:
        if any((part.parameter, gate) not in blocks for part in row.parts for gate in part.gates):
            continue
        pieces = []
        for part in row.parts:
            gates = np.stack([blocks[part.parameter, gate] for gate in part.gates])
            gates = -gates if part.negated else gates
            canonical = "goi"[: gates.ndim]
            length = dict(zip(canonical, gates.shape, strict=True)) | {"1": 1}
            letters = "".join(row.axes).replace("1", "")
            order = letters if "g" in letters else "g" + letters  # one gate, whose axis the reshape drops
            turned = gates.transpose([canonical.index(letter) for letter in order])
            pieces.append(turned.reshape([math.prod(length[axis] for axis in axes) for axes in row.axes]))
        arrays[row.name] = np.ascontiguousarray(np.concatenate(pieces))
    return arrays


def settle_biases(blocks: Blocks, rows: Sequence[Row], reset_after: bool) -> None:
    """Move into bias_ih what the rows have no place for in bias_hh, where the function stays the same.

    The two are added wherever a cell uses them, but in the n gate of a GRU with the reset gate after the product,
    n = tanh(W_n x + b_ih_n + r * (R_n h' + b_hh_n)).
    """
    placed = {(part.parameter, gate) for row in rows for part in row.parts for gate in part.gates}
    for parameter, gate in list(blocks):
        key = ("bias_hh", gate)
        if parameter == "bias_ih" and key not in placed and not (gate == "n" and reset_after):
            blocks[parameter, gate] = blocks[parameter, gate] + blocks[key]
            blocks[key] = np.zeros_like(blocks[key])


def check_placed(blocks: Blocks, rows: Sequence[Row], label: Label, system: str) -> None:
    """ValueError for the first block that is not zero by nature and that the rows have no place for."""
    placed = {(part.parameter, gate) for row in rows for part in row.parts for gate in part.gates}
    for (parameter, gate), block in blocks.items():
        if (parameter, gate) in placed:
            continue
        if parameter != "bias_hh":
            raise ValueError(f"{label(parameter)}: {system} has no place for it in this cell; expected none")
        if np.any(block != 0):
            raise ValueError(
                f"{label(parameter)}: {system} has no recurrent bias of gate {gate}: expected zeros in its rows, got "
                f"{np.abs(block).max()} at most"
            )


def zero_biases(blocks: Blocks) -> None:
    """Both biases, zero, from a network without."""
    for parameter, gate in list(blocks):
        if parameter == "weight_ih":
            block = blocks[parameter, gate]
            blocks["bias_ih", gate] = np.zeros(block.shape[0], block.dtype)
            blocks["bias_hh", gate] = np.zeros(block.shape[0], block.dtype)


def add_to_forget(blocks: Blocks, value: float) -> None:
    """To the LSTM's bias_ih of the forget gate, in its dtype; nothing for 0."""
    if value:
        block = blocks["bias_ih", "f"]
        blocks["bias_ih", "f"] = block + block.dtype.type(value)
