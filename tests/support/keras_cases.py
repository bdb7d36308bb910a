"""rnnkern.keras against Keras, on the backend of KERAS_BACKEND: tests/keras runs this file once for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import rnnkern.keras as rkk

BACKEND = keras.config.backend()
TRAINS = BACKEND != "numpy"
KINDS: dict[str, tuple[Any, Any]] = {
    "LSTM": (layers.LSTM, rkk.LSTM), "GRU": (layers.GRU, rkk.GRU), "SimpleRNN": (layers.SimpleRNN, rkk.SimpleRNN),
}  # fmt: skip
IN, UNITS = 3, 5
OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_sequences": True, "return_state": True},
    {"return_sequences": True, "go_backwards": True},
    {"go_backwards": True, "return_state": True},
    {"use_bias": False, "return_sequences": True},
    {"zero_output_for_mask": True, "return_sequences": True},
    {"zero_output_for_mask": True, "go_backwards": True},
    {"activation": "relu"},
    {"activation": "softsign", "unroll": True},
    {"activation": None},
    {"bias_initializer": "uniform", "kernel_regularizer": "l2", "recurrent_constraint": "max_norm"},
]
GATED = [
    {"recurrent_activation": "hard_sigmoid"},
    {"recurrent_activation": "relu", "activation": "elu"},
    {"implementation": 1},
]
CASES = [(kind, options) for kind in KINDS for options in OPTIONS]
CASES += [(kind, options) for kind in ("LSTM", "GRU") for options in GATED] + [("GRU", {"reset_after": False})]
MASKS: dict[str, list[list[int]]] = {
    "right": [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
    "holes": [[1, 0, 1, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]],
}


def pair(kind: str, options: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """Keras's layer and ours with the same weights."""
    theirs, ours = (make(UNITS, **options, **more) for make in KINDS[kind])
    for layer in (theirs, ours):
        layer.build((3, 5, IN))
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def x(seed: int = 0) -> Any:
    return ops.convert_to_tensor(np.random.default_rng(seed).standard_normal((3, 5, IN)).astype(np.float32))


def close(got: Any, wanted: Any, eps: float = np.finfo(np.float32).eps) -> None:
    """Sums of some ten terms along five steps, in another order: 64 eps of the largest entry."""
    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(wanted), strict=True):
        a, b = (np.asarray(ops.convert_to_numpy(ops.cast(v, "float32"))) for v in (a, b))
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 64 * eps * max(1.0, np.abs(b).max())


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_answers_and_training(kind: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(kind, options)
    assert rkk.explain(ours) == "kernels"
    close(ours(x()), theirs(x()))
    for mask in MASKS.values():
        mask = ops.convert_to_tensor(np.array(mask, bool))
        close(ours(x(), mask=mask), theirs(x(), mask=mask))
    state = [ops.ones((3, UNITS)) * value for value in (0.5, -0.5)][: len(theirs.state_size)]
    close(ours(x(), initial_state=state), theirs(x(), initial_state=state))
    if TRAINS and not options.get("return_state"):
        trained = []
        for layer in (ours, theirs):
            model = keras.Sequential([keras.Input((5, IN)), layers.Masking(), layer])
            model.compile(keras.optimizers.SGD(0.1), "mse")
            data = np.array(ops.convert_to_numpy(x()))
            data[0, 3:] = 0
            model.train_on_batch(data, np.ones(model.output_shape[1:])[None].repeat(3, 0))
            trained.append(layer.get_weights())
        close(*trained)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_draws_keras_s_masks(kind: str) -> None:
    theirs, ours = pair(kind, {"dropout": 0.5, "seed": 1})
    close(ours(x(), training=True), theirs(x(), training=True))
    close(ours(x()), theirs(x()))
    theirs, ours = pair(kind, {"recurrent_dropout": 0.5, "seed": 1})
    assert "recurrent_dropout" in rkk.explain(ours, training=True) and rkk.explain(ours) == "kernels"
    close(ours(x(), training=True), theirs(x(), training=True))


@pytest.mark.parametrize("kind", KINDS)
def test_stateful(kind: str) -> None:
    answers = []
    for layer in pair(kind, {"stateful": True, "return_sequences": True}):
        first, second = layer(x(0)), layer(x(1))
        layer.reset_state()
        answers.append([first, second, layer(x(0))])
    close(answers[1], answers[0])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_dtypes(kind: str, policy: str) -> None:
    if BACKEND == "numpy" and policy == "mixed_bfloat16":
        pytest.skip("Keras's numpy backend has no bfloat16")
    theirs, ours = pair(kind, {"return_sequences": True}, dtype=policy)
    y = ours(x())
    assert keras.backend.standardize_dtype(y.dtype) == keras.backend.standardize_dtype(theirs(x()).dtype)
    # Keras rounds every product and gate to the half type, the kernels only h: some roundings of it.
    close(y, theirs(x()), 2.0**-12 if "16" in policy else np.finfo(np.float32).eps)


@keras.saving.register_keras_serializable(package="tests")
class Own(layers.GRUCell):
    """A cell of the user's own."""


@pytest.mark.parametrize("options", [{"return_sequences": True, "return_state": True}, {"go_backwards": True}])
def test_stacked_cells(options: dict[str, Any]) -> None:
    keras.utils.set_random_seed(0)
    layer = layers.RNN([layers.LSTMCell(4, dropout=0.3, seed=1), layers.GRUCell(3), layers.SimpleRNNCell(5)], **options)
    mask = ops.convert_to_tensor(np.array(MASKS["holes"], bool))
    calls: list[dict[str, Any]] = [{}, {"mask": mask}]
    wanted = [layer(x(), **call) for call in calls]
    report = rkk.replace(layer)
    assert rkk.explain(layer) == rkk.explain(layer, training=True) == "kernels"
    close([layer(x(), **call) for call in calls], wanted)
    state = [[ops.ones((3, 4)), ops.ones((3, 4))], ops.ones((3, 3)), ops.ones((3, 5))]
    got = layer(x(), initial_state=state)
    report.undo()
    close(got, layer(x(), initial_state=state))


def model() -> Any:
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,))
    y = layers.Embedding(50, 8, mask_zero=True)(ids)
    y = layers.Bidirectional(layers.LSTM(6, return_sequences=True, name="both"))(y)
    y = layers.RNN(layers.GRUCell(4), return_sequences=True, name="around")(y)
    y = layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True, name="stacked")(y)
    y = layers.RNN(Own(4), return_sequences=True, name="own")(y)
    y = layers.GRU(4, activation=keras.activations.gelu, return_sequences=True, name="gelu")(y)
    y = keras.Sequential([layers.SimpleRNN(4, go_backwards=True, name="nested")])(y)
    return keras.Model(ids, layers.Dense(3)(y))


IDS = np.array([[1, 2, 3, 0, 0], [0, 4, 5, 6, 7], [9, 8, 0, 7, 1]])


def test_replace_and_undo(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model()
    wanted = whole.predict(IDS, verbose=0)
    report = rkk.replace(whole)
    calls: list[int] = []
    own = rkk.layers._run
    monkeypatch.setattr(rkk.layers, "_run", lambda *args: calls.append(1) or own(*args))
    whole.predict(IDS, verbose=0)
    assert len(calls) == 6, "the function that predict compiled before holds Keras's loop"
    assert sorted(report.swapped) == ["around", "backward_both", "forward_both", "nested", "stacked"]
    assert report.left == {
        "own": "its cell is a Own, not one of LSTMCell, GRUCell, SimpleRNNCell",
        "gelu": "its activation gelu is none of the kernels'",
    }
    assert "left gelu: its activation gelu" in str(report)
    close(whole.predict(IDS, verbose=0), wanted)
    assert rkk.explain(whole.get_layer("around")) == "kernels"
    assert rkk.replace(whole).swapped == ()
    report.undo()
    calls.clear()
    assert rkk.explain(whole.get_layer("around")).startswith("Keras's own loop: the layer is neither")
    close(whole.predict(IDS, verbose=0), wanted)
    assert not calls

    class Looped(layers.GRU):
        def inner_loop(self, *args: Any, **kwargs: Any) -> Any:
            return super().inner_loop(*args, **kwargs)

    assert "is neither of rnnkern.keras nor replaced" in rkk.explain(Looped(3))
    assert "Looped has an inner_loop of its own" in rkk.replace(Looped(3, name="mine")).left["mine"]


@pytest.mark.skipif(not TRAINS, reason="Keras's numpy backend does not train")
def test_fit_is_keras_s() -> None:
    histories = []
    for swap in (False, True):
        whole = model()
        if swap:
            rkk.replace(whole)
        whole.compile("adam", "mse")
        histories.append(whole.fit(IDS, np.ones((3, 3)), epochs=3, verbose=0).history["loss"])
    assert np.allclose(histories[0], histories[1], rtol=1e-5)


def test_files_of_a_replaced_model_are_plain_keras(tmp_path: Path) -> None:
    whole = model()
    rkk.replace(whole)
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not any(type(layer).__module__.startswith("rnnkern") for layer in loaded._flatten_layers())
    close(loaded.predict(IDS, verbose=0), whole.predict(IDS, verbose=0))


@pytest.mark.parametrize("kind", KINDS)
def test_our_layers_in_files_and_around(kind: str, tmp_path: Path) -> None:
    theirs, ours = KINDS[kind]
    keras.utils.set_random_seed(0)
    whole = keras.Sequential(
        [keras.Input((None, IN)), layers.Bidirectional(ours(UNITS, return_sequences=True)), ours(2)]
    )
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[1]) is ours and type(loaded.layers[0].forward_layer) is ours
    close(loaded.predict(x(), verbose=0), whole.predict(x(), verbose=0))
    again = ours.from_config(ours(UNITS, go_backwards=True).get_config())
    assert again.go_backwards and isinstance(again, theirs)


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="model: expected a Keras model or layer, got list"):
        rkk.replace([model()])
    with pytest.raises(TypeError, match="layer: expected a recurrent layer of Keras, got Dense"):
        rkk.explain(layers.Dense(3))
