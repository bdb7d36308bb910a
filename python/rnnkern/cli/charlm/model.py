"""The character model, Embedding -> stacked LSTM -> Linear: training step, loss on a text, sampling, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rnnkern as rk
from rnnkern import io, train

from .corpus import TextError, encode

FORMAT = "rnnkern-charlm-1"  # in the checkpoint's metadata; a changed layout gets another number


@dataclass(frozen=True)
class Config:
    """What it takes to build the model again; the vocabulary's characters stand in sorted order."""

    vocabulary: str
    embedding_dim: int
    hidden_size: int
    num_layers: int
    dropout: float


class CheckpointError(ValueError):
    """The file is no checkpoint of this model; the message says why."""


class CharModel:
    """Characters in, logits of the next character out. float32."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        V, E, H, L = len(config.vocabulary), config.embedding_dim, config.hidden_size, config.num_layers
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(3)]
        self.config = config
        self.embed = train.Embedding(V, E, seed=seeds[0])
        self.rnn = rk.LSTM(E, H, L, dropout=config.dropout if L > 1 else 0.0, seed=seeds[1])
        self.out = train.Linear(H, V, seed=seeds[2])
        self.layers: dict[str, Any] = {"embed": self.embed, "rnn": self.rnn, "out": self.out}

    def num_parameters(self) -> int:
        return sum(p.size for layer in self.layers.values() for p in layer.params.values())

    def gradients(self, codes: np.ndarray, targets: np.ndarray, state: Any) -> tuple[float, dict[str, Any], Any]:
        """codes, targets [T, B] -> (loss in nats, gradients by layer, state to carry on with)."""
        x, tape_embed = self.embed.forward(codes)
        y, state, tape_rnn = self.rnn.forward(x, state)
        logits, tape_out = self.out.forward(y)
        loss, dlogits = train.softmax_cross_entropy(logits, targets)
        out = self.out.backward(tape_out, dlogits)
        rnn = self.rnn.backward(tape_rnn, out.x)
        assert rnn.x is not None  # asked for by default
        embed = self.embed.backward(tape_embed, rnn.x)
        return loss, {"embed": embed.params, "rnn": rnn.params, "out": out.params}, state

    def loss(self, codes: np.ndarray, streams: int = 32, seq_len: int = 128) -> float:
        """Mean nats a character over a text [N], read in parallel streams that each start from a zero state."""
        streams = max(1, min(streams, (len(codes) - 1) // seq_len))
        steps = (len(codes) - 1) // streams
        x = codes[: steps * streams].reshape(streams, steps).T
        y = codes[1 : steps * streams + 1].reshape(streams, steps).T
        total, state = 0.0, None
        for start in range(0, steps, seq_len):
            window = slice(start, start + seq_len)
            h, state = self.rnn(self.embed(x[window]), state)
            mean, _ = train.softmax_cross_entropy(self.out(h), y[window])
            total += mean * y[window].size
        return total / (steps * streams)

    def sample(self, prompt: str, length: int, temperature: float, rng: np.random.Generator) -> Iterator[str]:
        """``length`` characters that follow the prompt, one at a time, the state carried along.

        Drawn from softmax(logits / temperature); temperature 0 takes the likeliest. TextError for a prompt that is
        empty or has a character the model does not know.
        """
        if not prompt:
            raise TextError("expected at least one character to start from, got none")
        h, state = self.rnn(self.embed(encode(prompt, self.config.vocabulary)[:, None]), None)
        for _ in range(length):
            logits = self.out(h[-1])[0].astype(np.float64)
            if temperature > 0:
                logits = logits / temperature + rng.gumbel(size=logits.size)  # Gumbel-max: argmax is a draw of softmax
            code = int(logits.argmax())
            yield self.config.vocabulary[code]
            h, state = self.rnn(self.embed(np.array([[code]])), state)

    def state_dict(self) -> dict[str, np.ndarray]:
        """ "<layer>.<parameter>" -> copy of the array."""
        return {f"{name}.{key}": v for name, layer in self.layers.items() for key, v in layer.state_dict().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Replaces every parameter; ValueError or TypeError for what does not fit."""
        unknown = [key for key in state if key.partition(".")[0] not in self.layers]
        if unknown:
            raise ValueError(f"state: expected names of {list(self.layers)}, got {unknown}")
        for name, layer in self.layers.items():
            prefix = f"{name}."
            layer.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})

    def save(self, path: Path) -> None:
        """Writes safetensors with the config in its metadata; the old file stays until the new one is whole."""
        config = json.dumps(asdict(self.config), ensure_ascii=False)
        rk.save(path, self.state_dict(), {"format": FORMAT, "config": config})

    @classmethod
    def load(cls, path: Path) -> CharModel:
        """The model of a checkpoint. CheckpointError when the file cannot be read or is something else."""
        try:
            metadata, state = io.metadata(path), io.load(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path}: expected a checkpoint of format {FORMAT!r}, got {metadata.get('format')!r}")
        try:
            model = cls(Config(**json.loads(metadata["config"])))
            model.load_state_dict(state)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: its parts do not fit together: {error}") from None
        return model
