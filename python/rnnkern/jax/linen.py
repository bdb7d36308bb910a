"""``flax.linen.RNN`` on rnnkern's kernels, for Flax's own LSTM, GRU and simple cells."""

from __future__ import annotations

from typing import Any

try:
    from flax import linen
    from flax.linen.recurrent import flip_sequences
except ImportError as error:
    raise ImportError("rnnkern.jax.linen needs Flax; install it with: pip install flax") from error

import jax

from .flax_cells import Asked, function_of, run
from .network import Array

__all__ = ["RNN"]


class RNN(linen.RNN):
    """``flax.linen.RNN`` with its arguments, parameters and answers, but that outputs past ``seq_lengths`` are zero.

        rnn = rnnkern.jax.linen.RNN(linen.OptimizedLSTMCell(128))
        variables = rnn.init(key, x)
        y = rnn.apply(variables, x)                            # x [B, T, 64], y [B, T, 128]

    Raises NotImplementedError for other cells than LSTMCell, OptimizedLSTMCell, GRUCell and SimpleCell, and for
    activations other than theirs.
    """

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: Any = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        function_of(self.cell)
        time_major = self.time_major if time_major is None else time_major
        axis = 0 if time_major else inputs.ndim - 2
        if initial_carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            initial_carry = self.cell.initialize_carry(key, inputs.shape[:axis] + inputs.shape[axis + 1 :])
        if self.is_initializing():  # a step of the cell makes its parameters
            self.cell(initial_carry, jax.lax.index_in_dim(inputs, 0, axis, keepdims=False))
        reverse = self.reverse if reverse is None else reverse
        keep_order = self.keep_order if keep_order is None else keep_order
        asked = Asked(seq_lengths, time_major, reverse, keep_order, flip_sequences)
        carry, outputs = run(self.cell, linen.meta.unbox(self.cell.variables["params"]), inputs, initial_carry, asked)
        return (carry, outputs) if (self.return_carry if return_carry is None else return_carry) else outputs
