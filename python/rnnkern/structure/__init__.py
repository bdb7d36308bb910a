"""Structures made of rnnkern's layers, with forward and backward like a layer's own, on NumPy arrays.

    base.py        what they share: checks, parameters by name, the tape
    stack.py       Stack: layers of any widths, residual connections, dropout between
    wrappers.py    Merge (of two directions), Pyramid and PyramidalLSTM (halved time), InitialState (learned)
    truncated.py   truncated: BPTT in pieces

They nest: ``Stack(Merge(LSTM(8, 16, bidirectional=True), "sum"), PyramidalLSTM(16, 16, 2))``. Recipes stand in
docs/structure.md.
"""

from .base import Structure
from .stack import Stack
from .truncated import Piece, truncated
from .wrappers import InitialState, Merge, Pyramid, PyramidalLSTM

__all__ = ["InitialState", "Merge", "Piece", "Pyramid", "PyramidalLSTM", "Stack", "Structure", "truncated"]
