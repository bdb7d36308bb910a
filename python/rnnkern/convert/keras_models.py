"""``from_keras``: the recurrent layers of a saved Keras model as layers of rnnkern."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..nn.layer import Layer
from ..nn.layers import GRU, LSTM, RNN
from ..nn.parameters import check_bool
from ..structure import Merge
from ..weights.keras_files import Recurrent, read
from ..weights.keras_versions import ACTIVATIONS, BEFORE_3
from .arrays import from_system

# Keras's class: the layer here, the cell's name in convert, and where the config has the cell's activations.
_KINDS: dict[str, tuple[type[Layer], str, tuple[str, ...]]] = {
    "LSTM": (LSTM, "lstm", ("recurrent_activation", "activation", "activation")),
    "GRU": (GRU, "gru", ("recurrent_activation", "activation")),
    "SimpleRNN": (RNN, "rnn", ("activation",)),
    "CuDNNLSTM": (LSTM, "lstm", ()),
    "CuDNNGRU": (GRU, "gru", ()),
}
_KERAS_1 = {"recurrent_activation": "inner_activation", "units": "output_dim"}
_MERGE = {"sum": "sum", "mul": "mul", "ave": "mean"}


def from_keras(path: str | os.PathLike[str], *, batch_first: bool = True) -> dict[str, Layer | Merge]:
    """Read the recurrent layers of a Keras model, with weights and options, from a file of ``model.save``.

    path: a ``.keras`` file, or an ``.h5`` file of Keras 1, 2 or 3. Keras is not needed, h5py is.
    batch_first: the layers' x and y are [B, T, I], as Keras's are; False: [T, B, I].

    Returns the layers by name, in the order of the model's config; the name of a layer inside other models is
    "model/layer", and a layer inside Bidirectional or TimeDistributed has the wrapper's name. They are LSTM, GRU and
    SimpleRNN, RNN around one of their cells, CuDNNLSTM, CuDNNGRU, and Bidirectional around any of these, which becomes
    a layer with bidirectional=True, inside ``rk.Merge`` if merge_mode is "sum", "mul" or "ave". All other layers of the
    model, and the layers inside custom classes, whose config shows none, are left out.

    The layers differ from Keras's in this: y has every step in the order of x (Keras returns the last step, unless
    return_sequences, and go_backwards reverses its output); they drop nothing out; the caller carries the state of a
    stateful layer; and merge_mode=None is y as with "concat".

    Raises FileNotFoundError if there is no such file. Raises ValueError for a file that is broken or no whole model.
    Raises NotImplementedError for layers that rnnkern has no option for: other activations, StackedRNNCells,
    convolutional and custom recurrent layers, directions that differ, and merge modes with batch_first=True. Raises
    ImportError without h5py. A forged HDF5 file can hang libhdf5 itself: read files of strangers in a process that
    may be ended.
    """
    first = check_bool("batch_first", batch_first)
    version, found = read(path)
    layers = {}
    for one in found:
        try:
            layer = _layer(one, version, first)
        except NotImplementedError:
            raise
        except ValueError as error:
            raise ValueError(f"path: {os.fspath(path)!r}: layer {one.name!r}: {error}") from error
        if one.name in layers:
            raise ValueError(f"path: {os.fspath(path)!r}: expected one layer {one.name!r}, got two")
        layers[one.name] = layer
    return layers


def _layer(found: Recurrent, version: int, batch_first: bool) -> Layer | Merge:
    make, cell, _ = _KINDS[found.kind]
    options = [_options(found, config, version) for config in found.configs]
    backwards = [own.pop("reverse") for own in options]
    if len(options) == 2 and (backwards != [False, True] or options[0] != options[1]):
        raise NotImplementedError(f"layer {found.name!r}: its directions differ: {options[0]} and {options[1]}")
    if len({array.dtype for array in found.arrays}) != 1:
        raise ValueError(f"expected weights of one dtype, got {len(found.arrays)} of {[a.dtype for a in found.arrays]}")
    own = options[0]
    if not _KINDS[found.kind][2]:  # cuDNN's arrays are transposed: without their two biases they would pass for others
        wanted = (2 * (4 if cell == "lstm" else 3) * own["units"],)
        if [array.shape for array in found.arrays[2::3]] != [wanted] * len(options):
            raise ValueError(f"expected biases {list(wanted)} of {found.kind}, got {[a.shape for a in found.arrays]}")
    bidirectional = len(options) == 2
    after = {"reset_after": own.get("reset_after", True)} if cell == "gru" else {}
    params = from_system("keras", cell, found.arrays, bidirectional=bidirectional, **after)
    units, bias = own.pop("units"), own.pop("bias")
    if params["weight_hh_l0"].shape[1] != units or ("bias_ih_l0" in params) != bias:
        raise ValueError(f"expected weights of {units} units, bias={bias}, got {[a.shape for a in found.arrays]}")
    if bidirectional and found.merge_mode in _MERGE and batch_first:
        raise NotImplementedError(
            f"layer {found.name!r}: merge_mode={found.merge_mode!r}: expected batch_first=False: rk.Merge is time-major"
        )
    layer = make(
        params["weight_ih_l0"].shape[1], units, bias=bias, batch_first=batch_first, bidirectional=bidirectional,
        reverse=backwards[0], dtype=params["weight_ih_l0"].dtype, seed=0, **own,
    )  # fmt: skip
    layer.load_state_dict(params)
    if not bidirectional or found.merge_mode in ("concat", None):
        return layer
    if found.merge_mode not in _MERGE:
        raise NotImplementedError(f"layer {found.name!r}: merge_mode={found.merge_mode!r}: rnnkern has no such option")
    return Merge(layer, _MERGE[found.merge_mode])


def _options(found: Recurrent, config: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Keywords of rnnkern's layer; "units" stands for its hidden_size."""
    make, _, slots = _KINDS[found.kind]
    units = _get(config, "units")
    if type(units) is not int or units < 1:
        raise ValueError(f"units: expected a positive int, got {units!r}")
    options: dict[str, Any] = {"units": units, "bias": True}
    options["bias"] = _flag(config, "use_bias", True)
    options["reverse"] = _flag(config, "go_backwards", False)
    if make is GRU:
        options["reset_after"] = found.kind == "CuDNNGRU" or _flag(config, "reset_after", False)
    chosen = [_activation(found.name, slot, _get(config, slot), version) for slot in slots]
    own = {LSTM: ["sigmoid", "tanh", "tanh"], GRU: ["sigmoid", "tanh"], RNN: ["tanh"]}[make]
    if found.kind == "SimpleRNN" and chosen == [("relu",)]:
        options["nonlinearity"] = "relu"
    elif chosen and chosen != [(name,) for name in own]:
        options["activations"] = tuple(chosen)
    return options


def _get(config: Mapping[str, Any], key: str) -> Any:
    for name in (key, _KERAS_1.get(key, key)):
        if name in config:
            return config[name]
    raise ValueError(f"{key}: expected it in the layer's config, got {', '.join(map(str, config)) or 'none'}")


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key}: expected true or false, got {value!r}")
    return value


def _activation(layer: str, slot: str, value: Any, version: int) -> tuple[Any, ...]:
    known = ACTIVATIONS if version >= 3 else ACTIVATIONS | BEFORE_3
    name = "linear" if value is None else value
    if not isinstance(name, str) or name not in known:
        raise NotImplementedError(f"layer {layer!r}: {slot}: expected one of {', '.join(known)}, got {value!r}")
    return known[name]
