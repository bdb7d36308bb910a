"""``rnn``, ``gru``, ``lstm``, ``slstm``: a network as a function of its parameters; ``init`` and ``pack`` for these."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .. import _engine as engine
from ..options import check_keywords, parse
from . import calls
from .arguments import GATES, Around, Packed, answer_of, network_of, nothing, operands_of
from .derivative import layer
from .network import Array, Network, Operands


def rnn(
    params: Mapping[str, Array] | Packed,
    x: Array,
    state: Array | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    key: Any = None,
    reverse: bool = False,
    recompute: bool = False,
    **options: Any,
) -> tuple[Array, Array]:
    """Elman layers: h = tanh(W x + b_ih + R h' + b_hh), or ReLU. Returns (y, h_n).

    Arguments as of ``lstm``; state is h_0.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    around = Around(lengths, mask, reset, batch_first, dropout, key, reverse, recompute)
    return run(f"rnn_{nonlinearity}", params, x, state, around, options)


def gru(
    params: Mapping[str, Array] | Packed,
    x: Array,
    state: Array | None = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    key: Any = None,
    reverse: bool = False,
    recompute: bool = False,
    **options: Any,
) -> tuple[Array, Array]:
    """Gated recurrent units, gates r z n, as ``rnnkern.GRU``. Returns (y, h_n).

    Arguments as of ``lstm``; state is h_0.
    """
    return run(
        "gru", params, x, state, Around(lengths, mask, reset, batch_first, dropout, key, reverse, recompute), options
    )


def lstm(
    params: Mapping[str, Array] | Packed,
    x: Array,
    state: tuple[Array, Array] | None = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    key: Any = None,
    reverse: bool = False,
    recompute: bool = False,
    **options: Any,
) -> tuple[Array, tuple[Array, Array]]:
    """Long short-term memory, gates i f g o, as ``rnnkern.LSTM``. Returns (y, (h_n, c_n)).

    params: arrays by the names of torch.nn and of ``rnnkern.LSTM``: ``weight_ih_l0`` [4*H, I], ``weight_hh_l0``
        [4*H, H], ``bias_ih_l0``, ``bias_hh_l0`` [4*H], ``..._l1``, ``..._l0_reverse``, and those of the options. The
        number of layers, a second direction, biases and H follow from them. For calls without gradients also what
        ``pack`` returns.
    x: [T, B, I] in the dtype of the parameters, with batch_first [B, T, I]; or unbatched [T, I].
    state: (h_0 [L*D, B, P], c_0 [L*D, B, H]), without B for an unbatched x; zeros by default. For half types c_n is
        float32, and c_0 may be.
    lengths: int32 or int64 [B] in [0, T]: the number of valid steps of each row. Later steps are not read, and y is
        zero there. Values are checked when the call runs.
    mask, reset: bool [T, B], with batch_first [B, T], unbatched [T]. mask: False leaves a step out (the state stays,
        y is zero). reset: True zeroes the state before a step; nothing passes from the step before, in either
        direction.
    dropout: in [0, 1], between layers. It, zoneout and recurrent_dropout draw masks only with ``key``, a JAX key.
    reverse: walk each row from its last valid step to step 0. recompute: keep less for the gradient, and run the
        forward again.
    options: as of ``rnnkern.LSTM``: proj_size, peephole, coupled, clip, activations, layer_norm, heads, zoneout,
        recurrent_dropout.

    y is [T, B, D*P] in the layout of x. The function works under jit, grad, vmap, jvp, remat, scan and shard_map, on
    the CPU. ``vmap`` over x is one call with more rows; over parameters it is a call for each.

    Raises ValueError and TypeError for shapes and dtypes that do not fit, when the function is traced.
    """
    return run(
        "lstm", params, x, state, Around(lengths, mask, reset, batch_first, dropout, key, reverse, recompute), options
    )


def slstm(
    params: Mapping[str, Array] | Packed,
    x: Array,
    state: tuple[Array, Array, Array, Array] | None = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    batch_first: bool = False,
    dropout: float = 0.0,
    key: Any = None,
    reverse: bool = False,
    recompute: bool = False,
    **options: Any,
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """sLSTM, gates i f z o, as ``rnnkern.sLSTM``. Returns (y, (h, c, n, m)).

    Arguments as of ``lstm``; the state has four arrays.
    """
    return run(
        "slstm", params, x, state, Around(lengths, mask, reset, batch_first, dropout, key, reverse, recompute), options
    )


def init(
    key: Any,
    cell: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bias: bool = True,
    bidirectional: bool = False,
    dtype: Any = jnp.float32,
    **options: Any,
) -> dict[str, Array]:
    """Return new parameters by name, drawn from U(-1/sqrt(H), 1/sqrt(H)) as torch.nn's; factors of layer norms are 1.

    cell: "rnn", "gru", "lstm" or "slstm".

    Raises ValueError for an unknown cell or sizes below 1.
    """
    name = "rnn_tanh" if cell == "rnn" else cell
    if name not in GATES:
        raise ValueError(f"cell: expected 'rnn', 'gru', 'lstm' or 'slstm', got {cell!r}")
    check_keywords(cell, cell, options)
    step = parse(name, hidden_size, options)
    spec = engine.Spec(
        name, jnp.dtype(dtype).name, input_size, hidden_size, num_layers, bias, bidirectional, options=step
    )
    bound = hidden_size**-0.5
    made = {}
    for at, (own, shape) in enumerate(spec.param_shapes.items()):
        if own.startswith(("gamma", "beta")):
            made[own] = jnp.full(shape, float(own.startswith("gamma")), dtype)
        else:
            made[own] = jax.random.uniform(jax.random.fold_in(key, at), shape, dtype, -bound, bound)
    return made


def pack(params: Mapping[str, Array], cell: str = "lstm", *, reverse: bool = False, **options: Any) -> Packed:
    """Return the parameters in the form that kernels read, for the function of that cell: one packing for many calls.

    cell: "rnn_tanh", "rnn_relu", "gru", "lstm" or "slstm". options: as of the function, which is then called with the
    same ones.
    """
    network = network_of(cell, params, Around(None, None, None, False, 0.0, None, reverse, False), options)
    return Packed(network, calls.pack(network, network.weights(params)))


def run(cell: str, params: Any, x: Any, state: Any, around: Around, options: dict[str, Any]) -> Any:
    packed = isinstance(params, Packed)
    network = network_of(cell, params, around, options)
    x = jnp.asarray(x)
    operands, layout = operands_of(network, params, x, state, around)
    if operands.x.shape[1] == 0:
        answers = nothing(network, operands.x.shape[:2])
    elif packed:
        answers = _without_gradient(network, operands, params.array)
    else:
        answers = layer(network, operands)
    return answer_of(network, answers, *layout)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _without_gradient(network: Network, operands: Operands, packed: Array) -> tuple[Array, ...]:
    return calls.forward(network, False, operands, packed)


@partial(_without_gradient.defjvp, symbolic_zeros=True)
def _refuse_gradient(network: Network, primals: Any, tangents: Any) -> Any:
    if any(type(t) is not jax.custom_derivatives.SymbolicZero for t in jax.tree.leaves(tangents)):
        raise NotImplementedError("params: expected parameters by name for a derivative, got packed ones")
    answers = _without_gradient(network, *primals)
    return answers, tuple(jnp.zeros_like(a) for a in answers)
