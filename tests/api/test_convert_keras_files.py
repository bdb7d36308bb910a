"""rnnkern.convert.from_keras: files that Keras 3 writes, older ones written by hand, and broken ones."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from keras_h5 import Array, entry, h5py, sequential, write_h5, write_keras  # skips without h5py
from numeric import EPS, near
from rnnkern.convert import from_keras, from_system
from rnnkern.weights.keras_versions import ACTIVATIONS

T, B, I, H = 5, 2, 3, 4  # noqa: E741 - the symbols of the documentation
BOUND = 64 * EPS["float32"]


def data(width: int = I) -> Array:
    return np.random.default_rng(1).standard_normal((B, T, width)).astype(np.float32)


# --- files of the installed Keras -------------------------------------------


@pytest.fixture
def keras(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # read once in a process
    return pytest.importorskip("keras")


def saved(model: Any, path: Path, scale: float = 0.5) -> Path:
    """The model with random weights (biases start as zeros) in a file."""
    rng = np.random.default_rng(0)
    model.set_weights([(scale * rng.standard_normal(w.shape)).astype(np.float32) for w in model.get_weights()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is legacy
        model.save(path)
    return path


def layer_of(model: Any, name: str) -> Any:
    for part in name.split("/"):
        model = getattr(model, "layer", model).get_layer(part)
    return model.layer if type(model).__name__ == "TimeDistributed" else model


def check(model: Any, layers: dict[str, Any]) -> None:
    """Every layer's output is that of Keras's layer, every step and in the order of x."""
    for name, layer in layers.items():
        theirs = layer_of(model, name)
        first = layer.input_size
        wanted = np.asarray(theirs(data(first)))
        if getattr(theirs, "go_backwards", False):
            wanted = wanted[:, ::-1]
        if isinstance(layer, rk.Merge):
            y = layer(data(first).transpose(1, 0, 2))[0].transpose(1, 0, 2)
        else:
            y = layer(data(first))[0]
        near(y, wanted, BOUND)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_every_kind_of_layer(keras: Any, tmp_path: Path, suffix: str) -> None:
    L = keras.layers
    around = keras.Input((T, I))
    x = L.Bidirectional(L.LSTM(H, return_sequences=True, use_bias=False), name="both")(around)
    x = L.LSTM(H, return_sequences=True, activation="softsign", recurrent_activation="hard_sigmoid", name="soft")(x)
    x = L.LSTM(2, return_sequences=True, dropout=0.1, recurrent_dropout=0.1, name="drops")(x)
    x = L.GRU(H, return_sequences=True, go_backwards=True, name="backwards")(x)
    inner = [
        L.SimpleRNN(H, return_sequences=True, activation="relu", name="one"), L.BatchNormalization(), L.Dense(3),
        L.SimpleRNN(H, return_sequences=True, activation=None, use_bias=False, name="two"),
        L.Bidirectional(L.GRU(2, return_sequences=True, reset_after=False), name="three"),
    ]  # fmt: skip
    x = keras.Sequential([keras.Input((T, H)), *inner], name="inner")(x)
    x = L.RNN(L.GRUCell(3), return_sequences=True, name="cell")(x)
    here = keras.Sequential([keras.Input((T, 3)), L.LSTM(H, return_sequences=True, name="here")], name="deeper")
    x = keras.Sequential([keras.Input((T, 3)), here], name="deep")(x)
    x = L.Reshape((T, 1, H))(x)
    x = L.TimeDistributed(L.LSTM(2, return_sequences=True), name="each")(x)
    model = keras.Model(around, x)
    layers = from_keras(saved(model, tmp_path / f"model{suffix}"))
    names = "both soft drops backwards inner/one inner/two inner/three cell deep/deeper/here each"
    assert list(layers) == names.split()
    assert layers["both"].bidirectional and layers["backwards"].reverse
    check(model, layers)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_merge_modes(keras: Any, tmp_path: Path, suffix: str) -> None:
    L = keras.layers
    x = around = keras.Input((T, I))
    for mode in ("sum", "mul", "ave"):
        x = L.Bidirectional(L.LSTM(H, return_sequences=True), merge_mode=mode, name=mode)(x)
    path = saved(keras.Model(around, x), tmp_path / f"model{suffix}")
    model = keras.models.load_model(path)
    layers = from_keras(path, batch_first=False)
    assert [(name, layer.mode) for name, layer in layers.items()] == [("sum", "sum"), ("mul", "mul"), ("ave", "mean")]
    for name, layer in layers.items():
        x = data(layer.input_size)
        near(layer(x.transpose(1, 0, 2))[0].transpose(1, 0, 2), np.asarray(model.get_layer(name)(x)), BOUND)
    with pytest.raises(NotImplementedError, match="'sum': merge_mode='sum': expected batch_first=False"):
        from_keras(path)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(keras: Any, tmp_path: Path, name: str) -> None:
    L = keras.layers
    kinds = [L.LSTM, L.GRU]
    layers = [kind(H, activation=name, recurrent_activation=name, return_sequences=True) for kind in kinds]
    model = keras.Sequential([keras.Input((T, I)), *layers, L.SimpleRNN(H, activation=name, return_sequences=True)])
    check(model, from_keras(saved(model, tmp_path / "model.keras", scale=0.1)))  # linear and relu gates grow


def test_layers_that_rnnkern_does_not_have(keras: Any, tmp_path: Path) -> None:
    L = keras.layers
    for layer, said in (
        (L.LSTM(H, activation="gelu", name="l"), "'l': activation: expected one of .*, got 'gelu'"),
        (L.LSTM(H, activation=L.LeakyReLU(), name="l"), "'l': activation: expected one of"),
        (L.RNN([L.LSTMCell(H)], name="l"), "'l': rnnkern has no RNN of StackedRNNCells"),
        (L.ConvLSTM1D(2, 2, name="l"), "'l': rnnkern has no ConvLSTM1D"),
        (L.Bidirectional(L.LSTM(H), backward_layer=L.LSTM(H, go_backwards=True, use_bias=False)), "differ"),
    ):
        shape = (T, 3, I) if "Conv" in type(layer).__name__ else (T, I)
        model = keras.Sequential([keras.Input(shape), layer])
        for suffix in (".keras", ".h5"):
            with pytest.raises(NotImplementedError, match=said):
                from_keras(saved(model, tmp_path / f"model{suffix}"))


def test_keras_is_not_imported(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "m.h5", sequential(entry("LSTM", "l", **OPTIONS)), {"l": LSTM_WEIGHTS})
    program = (
        f"import sys, rnnkern as rk; assert 'h5py' not in sys.modules; print(rk.convert.from_keras({str(path)!r}))\n"
        "assert 'keras' not in sys.modules\nsys.modules['h5py'] = None\n"
        f"try: rk.convert.from_keras({str(path)!r})\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "{'l': LSTM(3, 4" in done.stdout and "pip install h5py" in done.stdout


# --- older files, by hand ---------------------------------------------------

OPTIONS: dict[str, Any] = {"units": H, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True}


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def weights(gates: int, width: int = I, seed: int = 0, name: str = "l") -> list[tuple[str, Array]]:
    arrays = drawn((width, gates * H), (H, gates * H), (gates * H,), seed=seed)
    names = ("kernel", "recurrent_kernel", "bias")
    return [(f"{name}/{kind}:0", array) for kind, array in zip(names, arrays, strict=True)]


LSTM_WEIGHTS = weights(4)


def keras_2_lstm(arrays: list[Array], x: Array) -> Array:
    """Keras 2's equations, i f c o, with its hard_sigmoid."""
    kernel, recurrent, bias = (array.astype(np.float64) for array in arrays)
    h, c, ys = np.zeros((B, H)), np.zeros((B, H)), []
    for step in x.transpose(1, 0, 2):
        v = step @ kernel + h @ recurrent + bias
        i, f, o = (np.clip(0.2 * v[:, n * H : (n + 1) * H] + 0.5, 0, 1) for n in (0, 1, 3))
        c = f * c + i * np.tanh(v[:, 2 * H : 3 * H])
        h = o * np.tanh(c)
        ys.append(h)
    return np.stack(ys, 1)


@pytest.mark.parametrize("version", ["2.0.8", "2.2.4-tf", "2.11.0"])
def test_keras_2(tmp_path: Path, version: str) -> None:
    config = sequential(entry("Dropout", "d"), entry("LSTM", "l", **OPTIONS), version=version)
    path = write_h5(tmp_path / "m.h5", config, {"d": [], "l": LSTM_WEIGHTS}, version)
    layer = from_keras(path)["l"]
    near(layer(data())[0], keras_2_lstm([array for _, array in LSTM_WEIGHTS], data()), BOUND)


def test_keras_1(tmp_path: Path) -> None:
    """Three arrays a gate, other names of options, a bare list of layers, and no version in the file of Keras 1.0."""
    old = {"output_dim": H, "activation": "tanh", "inner_activation": "hard_sigmoid", "go_backwards": False}
    lstm = [array for gate in "icfo" for array in drawn((I, H), (H, H), (H,), seed=ord(gate))]
    gru = [array for gate in "zrh" for array in drawn((H, H), (H, H), (H,), seed=ord(gate))]
    named = [(f"l_{'WUb'[n % 3]}_{'icfo'[n // 3]}", array) for n, array in enumerate(lstm)]
    config = sequential(entry("LSTM", "l", **old), entry("GRU", "g", **old), version="1")
    path = write_h5(
        tmp_path / "m.h5", config, {"l": named, "g": [(f"g_{n}", a) for n, a in enumerate(gru)]}, version="1"
    )
    with h5py.File(path, "a") as file:
        del file.attrs["keras_version"], file["model_weights"].attrs["keras_version"]
    layers = from_keras(path)
    joined = [np.concatenate([lstm[3 * "icfo".index(gate) + kind] for gate in "ifco"], axis=-1) for kind in range(3)]
    near(layers["l"](data())[0], keras_2_lstm(joined, data()), BOUND)
    assert layers["g"].reset_after is False
    wanted = from_system("keras", "gru", gru, reset_after=False)
    assert all(np.array_equal(layers["g"].params[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(("kind", "cell", "gates"), [("CuDNNLSTM", "lstm", 4), ("CuDNNGRU", "gru", 3)])
def test_cudnn_layers(tmp_path: Path, kind: str, cell: str, gates: int) -> None:
    """test_convert_systems.py holds the arrays themselves against cuDNN's equations."""
    shapes = ((I, gates * H), (H, gates * H), (2 * gates * H,))
    arrays = drawn(*shapes, *shapes)
    named = [(f"both/{n}:0", array) for n, array in enumerate(arrays)]
    inner = entry(kind, "c", units=H, go_backwards=False)
    config = sequential(entry("Bidirectional", "both", layer=inner, merge_mode="concat"), entry(kind, "c", units=H))
    wide = drawn((2 * H, gates * H), *shapes[1:])
    path = write_h5(tmp_path / "m.h5", config, {"both": named, "c": [(f"c/{n}", a) for n, a in enumerate(wide)]})
    layers = from_keras(path)
    for name, own in (("both", arrays), ("c", wide)):
        wanted = from_system("keras", cell, own, bidirectional=name == "both")
        assert layers[name].params.keys() == wanted.keys()
        assert all(np.array_equal(layers[name].params[key], value) for key, value in wanted.items())
        assert not layers[name].reverse and "activations" not in repr(layers[name])
    plain = drawn((2 * H, gates * H), (H, gates * H), (gates * H,))
    path = write_h5(path, config, {"both": named, "c": [(f"c/{n}", a) for n, a in enumerate(plain)]})
    with pytest.raises(ValueError, match=rf"layer 'c': expected biases \[{2 * gates * H}\] of {kind}"):
        from_keras(path)


def test_a_nested_model_whose_weights_are_in_another_order(tmp_path: Path) -> None:
    """Keras keeps what is not trained behind what is; long lists of names are cut in two."""
    frozen = [(f"inner/{name}", array) for name, array in weights(4, seed=5, name="frozen")]
    own = [(f"inner/{name}", array) for name, array in weights(4, H, seed=6, name="l")]
    inner = sequential(entry("LSTM", "frozen", **OPTIONS), entry("LSTM", "l", **OPTIONS), name="inner")
    path = write_h5(tmp_path / "m.h5", sequential(inner), {"inner": [*own, *frozen]})
    with h5py.File(path, "a") as file:
        attributes = file["model_weights/inner"].attrs
        names = attributes["weight_names"]
        del attributes["weight_names"]
        attributes["weight_names0"], attributes["weight_names1"] = names[:2], names[2:]
    layers = from_keras(path)
    for name, arrays in (("frozen", frozen), ("l", own)):
        wanted = from_system("keras", "lstm", [array for _, array in arrays])
        assert np.array_equal(layers[f"inner/{name}"].params["weight_ih_l0"], wanted["weight_ih_l0"])


def test_the_first_keras_files(tmp_path: Path) -> None:
    """Keras 2.12 counts a layer with weights twice."""
    one, two = drawn((I, 4 * H), (H, 4 * H), (4 * H,)), drawn((H, 4 * H), (H, 4 * H), (4 * H,), seed=1)
    arrays = {
        f"_layer_checkpoint_dependencies/{group}/cell/vars/{n}": array
        for group, own in (("lstm", one), ("lstm_2", two))
        for n, array in enumerate(own)
    }
    config = sequential(entry("LSTM", "a", **OPTIONS), entry("LSTM", "b", **OPTIONS))
    layers = from_keras(write_keras(tmp_path / "m.keras", config, arrays))
    for name, own in (("a", one), ("b", two)):
        near(layers[name].params["weight_ih_l0"], from_system("keras", "lstm", own)["weight_ih_l0"], 0)
    near(layers["a"](data())[0], keras_2_lstm(one, data()), BOUND)  # hard_sigmoid of Keras 2


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes(tmp_path: Path, dtype: Any) -> None:
    named = [(name, array.astype(dtype)) for name, array in LSTM_WEIGHTS]
    layer = from_keras(write_h5(tmp_path / "m.h5", sequential(entry("LSTM", "l", **OPTIONS)), {"l": named}))["l"]
    assert layer.params["weight_ih_l0"].dtype == dtype


# --- broken files -----------------------------------------------------------


def good(tmp_path: Path, suffix: str) -> Path:
    config = sequential(entry("LSTM", "l", **OPTIONS))
    if suffix == ".h5":
        return write_h5(tmp_path / "m.h5", config, {"l": LSTM_WEIGHTS})
    arrays = {f"layers/lstm/cell/vars/{n}": array for n, (_, array) in enumerate(LSTM_WEIGHTS)}
    return write_keras(tmp_path / "m.keras", config, arrays, version="3.0.0")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = good(tmp_path, suffix)
    assert list(from_keras(path)) == ["l"]
    whole = path.read_bytes()
    for length in [*range(0, 64, 7), *range(64, len(whole), len(whole) // 40)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"path: expected a \.keras or \.h5 file of Keras, got "):
            from_keras(path)


def test_changed_bytes_of_an_archive(tmp_path: Path) -> None:
    """In zip's and JSON's parts: an answer or a refusal."""
    path, rng = good(tmp_path, ".keras"), random.Random(0)
    whole = path.read_bytes()
    text = whole.index(b"model.weights.h5")
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            broken[rng.choice([rng.randrange(text), rng.randrange(len(whole) - 300, len(whole))])] = rng.randrange(256)
        path.write_bytes(broken)
        with contextlib.suppress(ValueError, NotImplementedError):
            from_keras(path)


def edit_h5(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return edit


KERNEL = "model_weights/l/l/kernel:0"


def replace(name: str, value: Any) -> Callable[[Path], None]:
    def change(file: Any) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return edit_h5(change)


def attribute(name: str, value: Any, of: str = "/") -> Callable[[Path], None]:
    return edit_h5(lambda file: file[of].attrs.__setitem__(name, value))


def config_of(config: Any) -> Callable[[Path], None]:
    return attribute("model_config", config if isinstance(config, str) else json.dumps(config))


def of_layer(**changes: Any) -> Callable[[Path], None]:
    return config_of(sequential(entry("LSTM", "l", **(OPTIONS | changes))))


def bomb(file: Any) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(64, 64), compression="gzip")


def virtual(file: Any) -> None:
    del file[KERNEL]
    layout = h5py.VirtualLayout((I, 4 * H), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (I, 4 * H))
    file.create_virtual_dataset(KERNEL, layout)


def external(file: Any) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (I, 4 * H), "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no dataset": (replace(KERNEL, None), "expected 'kernel:0' in it, got none"),
    "a group": (edit_h5(lambda f: (f.__delitem__(KERNEL), f.create_group(KERNEL))), "expected a dataset, got a group"),
    "soft link": (replace(KERNEL, h5py.SoftLink("/model_weights/l/l/bias:0")), "expected 'kernel:0' in it, got a link"),
    "external link": (replace(KERNEL, h5py.ExternalLink("other.h5", "x")), "expected 'kernel:0' in it, got a link"),
    "external data": (edit_h5(external), "got an external, virtual or empty one"),
    "virtual": (edit_h5(virtual), "got an external, virtual or empty one"),
    "bomb": (edit_h5(bomb), "expected data for its shape"),
    "empty": (replace(KERNEL, h5py.Empty("f4")), "got an external, virtual or empty one"),
    "ints": (replace(KERNEL, np.zeros((I, 4 * H), np.int32)), "expected floats, got int32"),
    "texts": (replace(KERNEL, ["a", "b"]), "expected floats, got object"),
    "shape": (replace(KERNEL, np.zeros((I, 4 * H + 1), np.float32)), "layer 'l': .*expected axis 1 to hold 4 gates"),
    "scalar": (replace(KERNEL, np.float32(1)), "layer 'l': .*expected 2 axes, got 0"),
    "no rows": (replace(KERNEL, np.zeros((0, 4 * H), np.float32)), "layer 'l': .*at least one unit and one input"),
    "dtypes": (replace(KERNEL, np.zeros((I, 4 * H))), "layer 'l': expected weights of one dtype"),
    "units": (of_layer(units=1 << 40), "layer 'l': expected weights of 1099511627776 units"),
    "negative": (of_layer(units=-4), "layer 'l': units: expected a positive int, got -4"),
    "a text": (of_layer(units="4"), "units: expected a positive int, got '4'"),
    "flag": (of_layer(go_backwards=1), "go_backwards: expected true or false, got 1"),
    "bias": (of_layer(use_bias=False), "layer 'l': expected weights of 4 units, bias=False"),
    "no name": (config_of(sequential(entry("LSTM", None))), "layer 0 of the model: expected a name, got None"),
    "no units": (config_of(sequential(entry("LSTM", "l"))), "layer 'l': units: expected it in the layer's config"),
    "twice": (config_of(sequential(*[entry("LSTM", "l", **OPTIONS)] * 2)), "expected one layer 'l', got two"),
    "other": (config_of(sequential(entry("LSTM", "m", **OPTIONS))), "expected 'm' in it, got none"),
    "a list": (config_of([1]), "model_config: expected an object, got list"),
    "a layer": (config_of(sequential(1)), "layer 0 of the model: expected an object, got int"),
    "no class": (config_of({"config": {}}), "expected a class_name and a config"),
    "deep": (config_of('{"config": ' * 100000), "recursion|nested|maximum"),
    "deep lists": (config_of("[" * 60000), "recursion|nested|maximum"),
    "no JSON": (config_of("{"), "Expecting property name"),
    "no config": (edit_h5(lambda f: f.attrs.__delitem__("model_config")), "model_config: expected a text"),
    "version": (attribute("keras_version", "new", "model_weights"), "keras_version: expected a version, got 'new'"),
    "names": (attribute("weight_names", 3, "model_weights/l"), "weight_names: expected texts"),
    "path": (attribute("weight_names", ["../l/kernel:0"], "model_weights/l"), "expected '..' in it, got none"),
    "no names": (
        edit_h5(lambda f: f["model_weights/l"].attrs.__delitem__("weight_names")), "expected the attribute weight_names"
    ),
    "no weights": (replace("model_weights", None), "expected 'model_weights' in it"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_h5(tmp_path: Path, name: str) -> None:
    edit, said = HOSTILE[name]
    path = good(tmp_path, ".h5")
    edit(path)
    with pytest.raises(ValueError, match=f"path: .*{said}") as refused:
        from_keras(path)
    assert not isinstance(refused.value, UnicodeError) and str(path) in str(refused.value)


def test_hostile_archives(tmp_path: Path) -> None:
    path = good(tmp_path, ".keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for changes, said in (
        ({"config.json": None}, "config.json"),
        ({"config.json": b"[]"}, "config.json: expected an object, got list"),
        ({"config.json": b"\xff\xfe\xfd"}, "decode|Expecting"),
        ({"metadata.json": b"{}"}, "keras_version: expected a version, got None"),
        ({"model.weights.h5": None}, "model.weights.h5"),
        ({"model.weights.h5": b"none"}, "file signature not found|truncated|Unable to"),
        ({"model.weights.h5": members["model.weights.h5"][:2000]}, "truncated|Unable to"),
    ):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in {**members, **changes}.items():  # type: ignore[dict-item]
                if text is not None:
                    archive.writestr(name, text)
        with pytest.raises(ValueError, match=f"path: expected a .keras or .h5 file of Keras.*({said})"):
            from_keras(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_classes_of_one_s_own(tmp_path: Path, suffix: str) -> None:
    """rnnkern.keras's are Keras's; others may compute anything."""
    arrays = {f"layers/lstm/cell/vars/{n}": array for n, (_, array) in enumerate(LSTM_WEIGHTS)}
    for package, taken in (("rnnkern", True), ("mine", False)):
        layer = entry("LSTM", "l", **OPTIONS)
        if suffix == ".keras":
            layer |= {"module": f"{package}.keras", "registered_name": f"{package}>LSTM"}
            path = write_keras(tmp_path / "m.keras", sequential(layer), arrays, "3.1.0")
        else:
            layer["class_name"] = f"{package}>LSTM"
            path = write_h5(tmp_path / "m.h5", sequential(layer), {"l": LSTM_WEIGHTS})
        if taken:
            assert list(from_keras(path)) == ["l"]
            continue
        with pytest.raises(NotImplementedError, match=r"layer 0 of the model: expected Keras's LSTM, got .*mine>LSTM"):
            from_keras(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        from_keras(tmp_path / "none.keras")
    other = tmp_path / "other.keras"
    other.write_bytes(b"something else")
    with pytest.raises(ValueError, match="neither a zip archive nor HDF5"):
        from_keras(os.fspath(other))
