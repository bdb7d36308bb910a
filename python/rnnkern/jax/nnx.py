"""``flax.nnx.RNN`` on rnnkern's kernels, for Flax's own LSTM, GRU and simple cells."""

from __future__ import annotations

from typing import Any

try:
    from flax import nnx
    from flax.nnx.nn.recurrent import flip_sequences
except ImportError as error:
    raise ImportError("rnnkern.jax.nnx needs Flax; install it with: pip install flax") from error

from .flax_cells import Asked, function_of, run
from .network import Array

__all__ = ["RNN"]


class RNN(nnx.RNN):
    """``flax.nnx.RNN`` with its arguments, parameters and answers, but that outputs past ``seq_lengths`` are zero.

        rnn = rnnkern.jax.nnx.RNN(nnx.OptimizedLSTMCell(64, 128, rngs=nnx.Rngs(0)))
        y = rnn(x)                                             # x [B, T, 64], y [B, T, 128]

    Raises NotImplementedError for other cells than LSTMCell, OptimizedLSTMCell, GRUCell and SimpleCell, and for
    activations other than theirs.
    """

    def __init__(self, cell: Any, **options: Any) -> None:
        function_of(cell)
        super().__init__(cell, **options)

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Any = None,
    ) -> Any:
        time_major = self.time_major if time_major is None else time_major
        axis = 0 if time_major else inputs.ndim - 2
        if initial_carry is None:
            rngs = self.rngs if rngs is None else rngs
            if isinstance(rngs, nnx.Rngs) and not isinstance(self.rngs, nnx.Rngs):  # Flax 0.10 takes them as they are
                rngs = rngs.carry.fork()
            initial_carry = self.cell.initialize_carry(inputs.shape[:axis] + inputs.shape[axis + 1 :], rngs)
        layers = {
            name: {leaf: value[...] for leaf in ("kernel", "bias") if (value := getattr(layer, leaf, None)) is not None}
            for name, layer in vars(self.cell).items()
            if isinstance(layer, nnx.Linear)
        }
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        asked = Asked(seq_lengths, time_major, reverse, keep_order, flip_sequences)
        carry, outputs = run(self.cell, layers, inputs, initial_carry, asked)
        return (carry, outputs) if (self.return_carry if return_carry is None else return_carry) else outputs
