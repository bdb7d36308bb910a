"""A Keras program on the kernels: the sign of a tweet's mood by a SimpleRNN in a Sequential model, as Keras writes it.

    model = Sequential([Embedding(V, 32), SimpleRNN(units=100, activation="relu", use_bias=True), Dense(1, "sigmoid")])

The program differs from one on Keras's own layers in one import. It trains both, from the same weights and on the same
batches, and shows accuracy and time beside each other.

Data: 4200 tweets, a quarter of them held out, rated by people (Hutto and Gilbert 2014, MIT licence), in the source
package: pip download --no-deps --no-binary :all: --dest gallery vaderSentiment==3.3.2.
Reached: 84 % of the signs right with both (majority 69 %), in a quarter of the time of Keras; 10 seconds.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from shared import figure, finish, package, save, start
from tweets import SOURCE, read

os.environ.setdefault("KERAS_BACKEND", "torch")  # jax and numpy are the others that rnnkern.keras knows
keras = package("keras")
kernels = package("rnnkern.keras")
Dense, Embedding, Sequential = keras.layers.Dense, keras.layers.Embedding, keras.Sequential
WORDS = 30  # of a tweet; longer ones are cut, shorter ones begin with zeros, which Keras's mask leaves out


def build(SimpleRNN: Any, vocabulary: int) -> Any:
    model = Sequential([
        Embedding(vocabulary, 32, mask_zero=True),
        SimpleRNN(units=100, activation="relu", use_bias=True),
        Dense(1, activation="sigmoid"),
    ])  # fmt: skip
    model.compile(optimizer=keras.optimizers.Adam(clipnorm=1.0), loss="binary_crossentropy", metrics=["accuracy"])
    model.build((None, WORDS))
    return model


class Weights:
    """The weights of a model, as checkpoints have them."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def state_dict(self) -> dict[str, np.ndarray]:
        return {str(place): weight for place, weight in enumerate(self.model.get_weights())}


class Clock(keras.callbacks.Callback):
    """The seconds after each epoch."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.began, self.seconds = time.perf_counter(), []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def main() -> None:
    args = start(__doc__, source=f"gallery/{SOURCE}.tar.gz", epochs=5)
    tweets, ratings, _ = read(Path(args.source))
    order = np.random.default_rng(args.seed).permutation(len(tweets))
    held, used = order[: len(order) // 4], order[len(order) // 4 :][: 2000 if args.quick else None]
    counts = Counter(word for n in used for word in tweets[n])
    places = {word: place for place, word in enumerate((w for w, count in counts.items() if count > 1), 1)}

    def batch(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids = [[places[word] for word in tweets[n] if word in places][-WORDS:] or [1] for n in some]
        return keras.utils.pad_sequences(ids, WORDS), (ratings[some] > 0).astype(np.float32)

    reached, curves, weights = {}, {}, None
    for name, layers in (("rnnkern", kernels), ("Keras", keras.layers)):
        keras.utils.set_random_seed(args.seed)
        model, clock = build(layers.SimpleRNN, len(places) + 1), Clock()
        weights = model.get_weights() if weights is None else weights
        model.set_weights(weights)
        epochs = 4 if args.quick else args.epochs
        said = model.fit(*batch(used), validation_data=batch(held), epochs=epochs, verbose=0, callbacks=[clock])
        reached[name] = said.history["val_accuracy"][-1]
        save(args, Weights(model), {"words": list(places), "layers": name})
        curves[name] = clock.seconds, said.history["val_accuracy"]
        print(f"{name}: {reached[name]:.3f} of the signs right, {clock.seconds[-1]:.1f} s for {epochs} epochs")
    reached["majority"] = np.mean(ratings[held] > 0)
    with figure(args) as axes:
        for name, (seconds, right) in curves.items():
            axes.plot(seconds, right, marker="o", label=name)
        axes.axhline(reached["majority"], color="gray", linestyle=":", label="majority")
        axes.set(xlabel="seconds of training", ylabel="signs of moods right, held out", title="SimpleRNN(100, relu)")
        axes.set_xlim(left=0)
        axes.legend()
    times = {name: seconds[-1] for name, (seconds, _) in curves.items()}
    finish(args, {"signs of moods right": reached, "seconds of training": times})


if __name__ == "__main__":
    main()
