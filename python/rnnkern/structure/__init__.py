"""Structures of rnnkern layers, with forward and backward like a layer, on NumPy arrays.

    base.py        Structure: checks, parameters by name, the tape
    stack.py       Stack: layers of any widths, residual connections, dropout between layers
    wrappers.py    Merge (two directions), Pyramid and PyramidalLSTM (halved time), InitialState (learned)
    pieces.py      truncated: truncated BPTT

Structures nest: ``Stack(Merge(LSTM(8, 16, bidirectional=True), "sum"), PyramidalLSTM(16, 16, 2))``.
``docs/structure.md`` has recipes.
"""

from .base import Structure
from .pieces import Piece, truncated
from .stack import Stack
from .wrappers import InitialState, Merge, Pyramid, PyramidalLSTM

__all__ = ["InitialState", "Merge", "Piece", "Pyramid", "PyramidalLSTM", "Stack", "Structure", "truncated"]
