"""The reference: what every cell and option means, in NumPy, written from the equations and from nothing else here.

It shares no text with the kernels and is imported by no module that ships a result; the tests hold kernels, layers
and framework modules against it, and hold it against finite differences, ``torch.nn`` and ONNX. It favours being
plainly right over being fast: one step at a time, rows that do not take the step are left out (so their contents cannot
matter), and every gradient is written by hand. It computes in float64, or in ``numpy.longdouble`` where an argument has
that type, which is how float64 kernels get a reference with precision to spare.

Shapes: T steps, B rows, I inputs, H hidden units, P outputs (H without a projection), G gates.

    activations  the functions and their slopes          options  Options, and the parameters that follow
    cells        one step of each cell                    masks    Philox and what it decides
    layer        one layer in one direction               stack    layers and directions
"""

from .activations import Activation, sigmoid
from .arrays import Array, Grads, Params
from .cells import LAYER_NORM_EPS, Cell, Elman, Gru, GruBefore, Lstm, Slstm, StepGrads
from .layer import CELLS, Drawn, Saved, layer, layer_backward, nearest_kink
from .masks import dropout_kept, philox4x32, recurrent_kept, thin, zoneout_held
from .options import Options, activations_of, parameter_shapes
from .stack import StackSaved, stack, stack_backward, suffix, turned

__all__ = [
    "CELLS",
    "LAYER_NORM_EPS",
    "Activation",
    "Array",
    "Cell",
    "Drawn",
    "Elman",
    "Grads",
    "Gru",
    "GruBefore",
    "Lstm",
    "Options",
    "Params",
    "Saved",
    "Slstm",
    "StackSaved",
    "StepGrads",
    "activations_of",
    "dropout_kept",
    "layer",
    "layer_backward",
    "nearest_kink",
    "parameter_shapes",
    "philox4x32",
    "recurrent_kept",
    "sigmoid",
    "stack",
    "stack_backward",
    "suffix",
    "thin",
    "turned",
    "zoneout_held",
]
