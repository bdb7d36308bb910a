"""Parameters as data: gate orders of every system, and PyTorch's initialiser.

What runs is always PyTorch's order (LSTM ``i f g o``, GRU ``r z n``); the table is for carrying weights in and out.
Letters: ``i`` input, ``f`` forget, ``g`` candidate (also written c, a, z), ``o`` output; ``r`` reset, ``z`` update
(also written u), ``n`` candidate (also written h, c, o).
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Sources: each system's own documentation or code (torch/nn/modules/rnn.py, cudnnGetRNNWeightParams, keras' and flax'
# recurrent layers, onnx/defs/rnn/defs.cc, oneDNN's rnn.md, the WebNN and OpenVINO operator specifications, ...). Only
# orders whose gates are whole blocks stand here: Chainer's links.LSTM interleaves a i f o per unit, and TensorFlow's
# BlockLSTM and DyNet add a forget bias at run time that must be folded into the bias besides. What else a system's
# arrays differ in (transposed, joined, which biases, names) is in layouts.py; "flax" is Flax linen, "nnx" Flax nnx.
ORDER: dict[str, dict[str, str]] = {
    "lstm": {
        "torch": "ifgo",
        "cudnn": "ifgo",
        "keras": "ifgo",
        "flax": "ifgo",
        "nnx": "ifgo",
        "mlx": "ifgo",
        "madmom": "ifgo",
        "lasagne": "ifgo",
        "tinygrad": "ifgo",
        "onednn": "ifgo",
        "onnx": "iofg",
        "webnn": "iofg",
        "miopen": "ifog",
        "dynet": "ifog",
        "ncnn": "ifog",
        "haste": "igfo",
        "tensorflow_block": "igfo",
        "openvino": "figo",
    },
    "gru": {
        "torch": "rzn",
        "cudnn": "rzn",
        "flax": "rzn",
        "nnx": "rzn",
        "mlx": "rzn",
        "madmom": "rzn",
        "lasagne": "rzn",
        "ncnn": "rzn",
        "tensorflow_block": "rzn",
        "keras": "zrn",
        "onnx": "zrn",
        "webnn": "zrn",
        "onednn": "zrn",
        "openvino": "zrn",
        "haste": "zrn",
    },
}


def permutation(cell: str, source: str, target: str) -> tuple[int, ...]:
    """For each gate of ``target``'s order its place in ``source``'s: (0, 2, 3, 1) for "lstm", "onnx", "torch".

    Raises ValueError for a cell or a system that is not in the table.
    """
    if cell not in ORDER:
        raise ValueError(f"cell: expected one of {', '.join(ORDER)}, got {cell!r}")
    for name, system in (("source", source), ("target", target)):
        if system not in ORDER[cell]:
            raise ValueError(f"{name}: expected one of {', '.join(ORDER[cell])}, got {system!r}")
    return tuple(ORDER[cell][source].index(gate) for gate in ORDER[cell][target])


def reorder(array: Any, cell: str, source: str, target: str, axis: int = 0) -> np.ndarray[Any, Any]:
    """A copy of ``array`` whose gate blocks along ``axis`` (G*H long) go from one system's order to another's.

    ``weight_hh = reorder(R[0], "lstm", "onnx", "torch")``; Keras keeps its gates on the last axis: ``axis=-1``.
    Raises ValueError if the axis is not a whole number of gates long.
    """
    order = permutation(cell, source, target)
    array = np.asarray(array)
    if array.shape[axis] % len(order):
        raise ValueError(f"array: expected axis {axis} to hold {len(order)} gates, got length {array.shape[axis]}")
    blocks = np.split(array, len(order), axis=axis)
    return np.concatenate([blocks[gate] for gate in order], axis=axis)


def initial(
    shapes: dict[str, tuple[int, ...]], hidden_size: int, dtype: np.dtype[Any], seed: int
) -> dict[str, np.ndarray[Any, Any]]:
    """PyTorch's initialiser: every parameter, biases too, from U(-1/sqrt(H), 1/sqrt(H)) (torch.nn.RNNBase).

    The factors of a layer normalisation are 1, its shift is 0 (torch.nn.LayerNorm).

    Drawn in float64 from ``numpy.random.default_rng(seed)`` in the order of ``shapes``, so that layers that differ only
    in dtype start from the same values, rounded.
    """
    bound = 1.0 / np.sqrt(hidden_size)
    generator = np.random.default_rng(seed)
    out = {}
    for name, shape in shapes.items():
        if name.startswith(("gamma", "beta")):
            value = np.full(shape, float(name.startswith("gamma")))
        else:
            value = generator.uniform(-bound, bound, shape)
        out[name] = value.astype(dtype)
    return out
