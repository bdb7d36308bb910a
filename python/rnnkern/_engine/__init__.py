"""The middle between Python's faces and the native library: specs, plans, packed weights and calls."""

from .call import backward, drawing, dropping, forward
from .plans import new_reserve, pack, places_of, plan, reserve_bytes, vectors
from .spec import (
    NO_MARKS,
    Array,
    Bytes,
    Gpu,
    Gradients,
    Inputs,
    Marks,
    Memory,
    OutputGradients,
    Spec,
    Tape,
    Wanted,
)

__all__ = [
    "NO_MARKS",
    "Array",
    "Bytes",
    "Gpu",
    "Gradients",
    "Inputs",
    "Marks",
    "Memory",
    "OutputGradients",
    "Spec",
    "Tape",
    "Wanted",
    "backward",
    "drawing",
    "dropping",
    "forward",
    "new_reserve",
    "pack",
    "places_of",
    "plan",
    "reserve_bytes",
    "vectors",
]
