"""rnnkern in JAX: recurrent networks as functions of their parameters, on the CPU's kernels under jit and grad.

    import rnnkern.jax as rj
    params = rj.init(jax.random.key(0), "lstm", 64, 128, num_layers=2)
    y, (h_n, c_n) = rj.lstm(params, x)                        # x [T, B, 64], y [T, B, 128]

``rnnkern.jax.nnx`` and ``rnnkern.jax.linen`` run Flax's cells on the same kernels.
"""

from __future__ import annotations

try:
    import jax
except ImportError as error:
    raise ImportError("rnnkern.jax needs JAX 0.6 or later; install it with: pip install 'jax>=0.6'") from error

if jax.__version_info__ < (0, 6):
    raise ImportError(
        f"rnnkern.jax needs JAX 0.6 or later, got {jax.__version__}; install it with: pip install 'jax>=0.6'"
    )

from .arguments import Packed
from .functions import gru, init, lstm, pack, rnn, slstm

__all__ = ["Packed", "gru", "init", "lstm", "pack", "rnn", "slstm"]
