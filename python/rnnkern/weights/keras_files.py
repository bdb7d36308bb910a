"""Reads the recurrent layers of a whole model that Keras saved: ``.keras``, and ``.h5`` of Keras 1 and later.

A ``.keras`` file is a zip archive of config.json, metadata.json and model.weights.h5. The group of a layer there has a
path made of classes and attributes, ``layers/bidirectional_1/forward_layer/cell/vars/0``. A ``.h5`` file has the config
in the attribute model_config, and for each layer of the outermost model the names of all its weights in their order.
Sources: keras/src/saving/saving_lib.py and keras/src/legacy/saving/legacy_h5_format.py. Keras itself is not imported.

A file may come from anywhere: every object in it is checked before it is used, and links are not followed. HDF5's own
structures are libhdf5's to check: one whose heap of texts was forged can keep that library in an endless loop.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
KINDS = ("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU")
# Recurrent layers of Keras for which rnnkern has none.
OTHERS = ("RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "ConvRNN2D", "AbstractRNNCell")
_CELLS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "SimpleRNNCell": "SimpleRNN"}
_MOST_TEXT = 1 << 27  # bytes of a JSON text
_FEW = 1 << 26  # bytes of an array of which the file may store less: a file with less than a thousandth is no model


class Place(NamedTuple):
    """Where a layer is."""

    names: tuple[str, ...]  # its name, after those of the models around it
    group: str  # its group in model.weights.h5 of a .keras file

    def __str__(self) -> str:
        return "/".join(self.names)


class Recurrent(NamedTuple):
    """One recurrent layer of a file, or two in a Bidirectional."""

    name: str
    kind: str  # one of KINDS
    configs: tuple[Mapping[str, Any], ...]  # of the forward layer, then of the backward one
    merge_mode: str | None  # of Bidirectional
    arrays: list[Array]  # as get_weights() of the layer


def read(path: str | os.PathLike[str]) -> tuple[int, list[Recurrent]]:
    """The major version of the Keras that wrote a file, and its recurrent layers in the order of the config."""
    h5py = _h5py()
    name = os.fspath(path)
    with open(name, "rb") as opened, _as_value_errors(name):
        signature = opened.read(8)
        if signature.startswith(b"PK"):
            with zipfile.ZipFile(opened) as archive:
                version = _version(_parse(_text(archive, "metadata.json"), "metadata.json").get("keras_version"))
                config = _parse(_text(archive, "config.json"), "config.json")
                with _member(archive, "model.weights.h5") as member, h5py.File(member, "r") as file:
                    return version, [
                        _by_path(file, layer) for layer in _inside(*_class(config, "the model"), Place((), ""))
                    ]
        if signature == b"\x89HDF\r\n\x1a\n":
            with h5py.File(opened, "r") as file:
                config = _parse(_attribute(file, "model_config"), "model_config")
                weights = _child(file, "model_weights", h5py.Group)
                version = _version(weights.attrs.get("keras_version", file.attrs.get("keras_version", "1")))
                return version, [
                    _by_order(weights, layer) for layer in _inside(*_class(config, "the model"), Place((), ""))
                ]
    raise ValueError(f"path: expected a .keras or .h5 file of Keras, got {name!r}, neither a zip archive nor HDF5")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("rnnkern.convert.from_keras needs h5py; install it with: pip install h5py") from error
    return h5py


@contextmanager
def _as_value_errors(path: str) -> Iterator[None]:
    """ValueError with the path for what the readers of zip, JSON and HDF5 raise. Refusals of ours pass."""
    try:
        yield
    except NotImplementedError:
        raise
    except (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"path: expected a .keras or .h5 file of Keras, got {path!r}: {error}") from error


# --- text -------------------------------------------------------------------


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    info = archive.getinfo(name)
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name}: expected it stored or deflated, got it encrypted or packed otherwise")
    return archive.open(info)


def _text(archive: zipfile.ZipFile, name: str) -> bytes:
    with _member(archive, name) as member:
        return bytes(member.read(_MOST_TEXT + 1))


def _attribute(file: Any, name: str) -> str | bytes:
    value = file.attrs.get(name)
    if not isinstance(value, (str, bytes)):
        raise ValueError(f"{name}: expected a text (a whole model, saved by model.save), got {type(value).__name__}")
    return value


def _parse(text: str | bytes, name: str) -> Mapping[str, Any]:
    if len(text) > _MOST_TEXT:
        raise ValueError(f"{name}: expected at most {_MOST_TEXT} bytes")
    return _mapping(json.loads(text), name)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected an object, got {type(value).__name__}")
    return value


def _version(value: Any) -> int:
    text = value.decode() if isinstance(value, bytes) else value
    found = re.match(r"(\d{1,3})(\.|$)", text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"keras_version: expected a version, got {value!r}")
    return int(found[1])


# --- config -----------------------------------------------------------------


class _Found(NamedTuple):
    place: Place
    kind: str
    configs: tuple[Mapping[str, Any], ...]
    merge_mode: str | None = None


def _class(entry: Any, said: str) -> tuple[str, Mapping[str, Any]]:
    """A layer's class and config. rnnkern.keras's classes count as Keras's."""
    layer = _mapping(entry, said)
    kind, config = layer.get("class_name"), layer.get("config")
    config = {"layers": config} if isinstance(config, list) else config  # Sequential, before Keras 2.2.3
    if not isinstance(kind, str) or not isinstance(config, Mapping):
        raise ValueError(f"{said}: expected a class_name and a config")
    registered = str(layer.get("registered_name") or kind)
    package, module = registered.rpartition(">")[0], str(layer.get("module", "keras"))
    kind = kind.rpartition(">")[2]
    own = package not in ("", "rnnkern") or module.split(".")[0] not in ("keras", "tf_keras", "rnnkern")
    if own and kind in (*KINDS, *OTHERS, "Bidirectional"):
        raise NotImplementedError(f"{said}: expected Keras's {kind}, got {module}'s {registered}")
    return kind, config


def _recurrent(model: Mapping[str, Any]) -> Iterator[_Found]:
    return _inside(*_class(model, "the model"), Place((), ""))


def _walk(layers: Sequence[Any], around: Place) -> Iterator[_Found]:
    """The recurrent layers among a model's layers, and in the models and wrappers among them."""
    used: dict[str, int] = {}
    for n, entry in enumerate(layers):
        said = f"layer {n} of {str(around) or 'the model'}"
        kind, config = _class(entry, said)
        group = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind)))
        group = group.lower()
        used[group] = used.get(group, -1) + 1
        group += f"_{used[group]}" if used[group] else ""
        name = config.get("name", entry.get("name"))
        if not isinstance(name, str):
            raise ValueError(f"{said}: expected a name, got {name!r}")
        yield from _inside(kind, config, Place((*around.names, name), f"{around.group}/{group}"))


def _inside(kind: str, config: Mapping[str, Any], place: Place) -> Iterator[_Found]:
    """The recurrent layers that one layer is, or has inside."""
    if kind == "Bidirectional":
        found = [next(_wrapped(config, "layer", place), None)]
        if found[0] is None or len(found[0].configs) != 1:
            raise NotImplementedError(f"layer {str(place)!r}: expected one of {', '.join(KINDS)} in Bidirectional")
        if config.get("backward_layer") is not None:
            found.append(next(_wrapped(config, "backward_layer", place), None))
        forward, backward = found[0], found[-1]
        if backward is None or backward.kind != forward.kind:
            raise NotImplementedError(f"layer {str(place)!r}: expected two layers of one class in Bidirectional")
        configs = (forward.configs[0], backward.configs[0])
        if len(found) == 1:  # Keras makes the backward layer from the forward one
            configs = (configs[0], {**configs[0], "go_backwards": not configs[0].get("go_backwards", False)})
        yield _Found(place, forward.kind, configs, config.get("merge_mode", "concat"))
    elif kind in KINDS:
        yield _Found(place, kind, (config,))
    elif kind == "RNN" and isinstance(config.get("cell"), Mapping) and config["cell"].get("class_name") in _CELLS:
        cell = config["cell"]
        own = _mapping(cell.get("config"), f"the cell of layer {str(place)!r}")
        yield _Found(place, _CELLS[cell["class_name"]], ({**config, **own},))
    elif kind in OTHERS:
        cell = config.get("cell")
        around = f" of {cell['class_name']}" if isinstance(cell, Mapping) and "class_name" in cell else ""
        raise NotImplementedError(f"layer {str(place)!r}: rnnkern has no {kind}{around}; it has {', '.join(KINDS)}")
    elif isinstance(config.get("layers"), list):
        yield from _walk(config["layers"], place._replace(group=f"{place.group}/layers"))
    elif isinstance(config.get("layer"), Mapping):
        yield from _wrapped(config, "layer", place)


def _wrapped(config: Mapping[str, Any], key: str, place: Place) -> Iterator[_Found]:
    """The recurrent layers in a wrapper's layer, which has the wrapper's name."""
    kind, own = _class(config.get(key), f"{key} of layer {str(place)!r}")
    yield from _inside(kind, own, place._replace(group=f"{place.group}/layer"))


# --- weights ----------------------------------------------------------------


def _by_path(file: Any, found: _Found) -> Recurrent:
    """A layer of a .keras file."""
    arrays: list[Array] = []
    ends = ("/forward_layer", "/backward_layer") if len(found.configs) == 2 else ("",)
    for end in ends:
        group = _group(file, f"{found.place.group}{end}".split("/")[1:])
        if "cell" in group:
            group = _group(group, ["cell"])
        own = _group(group, ["vars"])
        arrays += [_array(own, str(n)) for n in range(len(own))]
    return Recurrent(str(found.place), found.kind, found.configs, found.merge_mode, arrays)


def _group(parent: Any, parts: Sequence[str]) -> Any:
    """A group by its path. Keras 2.12 and 2.13 have "_layer_checkpoint_dependencies" for "layers", with gaps."""
    import h5py

    for part in parts:
        old = "_layer_checkpoint_dependencies"
        if part == "layers" and part not in parent and old in parent:
            part = old
        if str(parent.name).endswith(old):
            kind, _, number = part.rpartition("_") if re.search(r"_\d+$", part) else (part, "", "0")
            same = [name for name in parent if re.fullmatch(rf"{re.escape(kind)}(_\d+)?", name)]
            same.sort(key=lambda name: (len(name), name))
            part = same[int(number)] if int(number) < len(same) else part
        parent = _child(parent, part, h5py.Group)
    return parent


def _by_order(weights: Any, found: _Found) -> Recurrent:
    """A layer of an .h5 file: its weights are all of its group, or in a nested model those with its name."""
    import h5py

    outermost, name = found.place.names[0], found.place.names[-1]
    group = weights
    for part in outermost.split("/"):
        group = _child(group, part, h5py.Group)
    names = _names(group, "weight_names")
    if len(found.place.names) > 1:
        keras_1 = re.compile(re.escape(name) + r"_[WUb](_[a-z])?(:\d+)?")
        names = [w for w in names if any(part == name or keras_1.fullmatch(part) for part in w.split("/"))]
    arrays = []
    for path in names:
        *parts, last = path.split("/")
        own = group
        for part in parts:
            own = _child(own, part, h5py.Group)
        arrays.append(_array(own, last))
    return Recurrent(str(found.place), found.kind, found.configs, found.merge_mode, arrays)


def _names(group: Any, name: str) -> list[str]:
    """A list of texts, which Keras cuts into name0, name1, ... where it is long."""
    values = [group.attrs[name]] if name in group.attrs else []
    while not values or f"{name}{len(values)}" in group.attrs:
        if f"{name}{len(values)}" not in group.attrs:
            raise ValueError(f"{group.name}: expected the attribute {name}, got none")
        values.append(group.attrs[f"{name}{len(values)}"])
    texts = [text for value in values for text in np.ravel(value).tolist()]
    texts = [text.decode() if isinstance(text, bytes) else text for text in texts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{group.name}: {name}: expected texts")
    return texts


def _child(parent: Any, name: str, kind: type) -> Any:
    """A group or dataset that is in the file itself, not behind a link."""
    import h5py

    link = parent.get(name, getlink=True) if name else None
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{parent.name}: expected {name!r} in it, got {'a link' if link else 'none'}")
    child = parent[name]
    if not isinstance(child, kind):
        raise ValueError(f"{child.name}: expected a {kind.__name__.lower()}, got a {type(child).__name__.lower()}")
    return child


def _array(group: Any, name: str) -> Array:
    import h5py

    data = _child(group, name, h5py.Dataset)
    if data.external or data.is_virtual or data.shape is None:
        raise ValueError(f"{data.name}: expected an array in this file, got an external, virtual or empty one")
    size = math.prod(data.shape) * data.dtype.itemsize
    if size > max(_FEW, 1000 * data.id.get_storage_size()):
        raise ValueError(f"{data.name}: expected data for its shape {list(data.shape)}, got a small part of it")
    if data.attrs.get("dtype") == "bfloat16" and data.dtype.itemsize == 2:
        import ml_dtypes

        return np.asarray(data[()]).view(ml_dtypes.bfloat16)
    if data.dtype.kind != "f" or data.dtype.itemsize > 8:
        raise ValueError(f"{data.name}: expected floats, got {data.dtype}")
    return np.asarray(data[()]).astype(data.dtype.newbyteorder("="))
