"""A character model: it reads Python's help topics letter by letter, and spells on from what it is given.

    h_t = LSTM(x_t, h_{t-1})                          two layers; x_t is a row of a table: the letter's
    p(x_{t+1} | x_1, ..., x_t) = softmax(W h_t + b)

Training is truncated back-propagation through time: a gradient reaches back over one piece of the text, and the state
goes on into the next. Every 20th sentence is held out. First comes the smallest text, "hello": l comes after "hel" and
o after "hell", and only the state can tell, since the letter before is the same.

Data: pydoc_data.topics of Python (PSF License), only whole sentences, each once; or any text, with --text FILE.
Reached: 1.11 nats a letter (bigram 2.37, unigram 3.08); 2.5 minutes on two cores.
"""

import re
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from shared import bigram, figure, finish, keep_on_interrupt, load, package, progress, save, start

from rnnkern import LSTM, Stack, decode, init, train, truncated


def sentences() -> str:
    """Python's help topics without code, tables and grammar: a sentence a line, none twice."""
    topics = "\n\n".join(text for _, text in sorted(package("pydoc_data.topics").topics.items()))
    blocks = re.sub(r'["*`“”]', "", topics).split("\n\n")
    split = (s for block in blocks for s in re.split(r"(?<=[.?!]) (?=[A-Z])", " ".join(block.split())))
    return "\n".join(dict.fromkeys(s for s in split if re.fullmatch(r"[A-Z][\w ,;:.()'\u2019/-]{30,}[.:]", s)))


def encode(text: str, vocabulary: str) -> np.ndarray:
    """Characters -> their places in the vocabulary; those that it has not are left out."""
    codes = [vocabulary.index(character) for character in text if character in vocabulary]
    if not codes:
        raise SystemExit(f"--prompt: expected a character of {vocabulary!r}, got none in {text!r}")
    return np.array(codes)


def make(config: dict[str, Any]) -> Stack:
    V, H, seed = len(config["vocabulary"]), config["hidden"], config["seed"]
    rnn = LSTM(64, H, num_layers=2, dropout=0.1, seed=seed)
    rnn.update(init.initialise(rnn, forget_bias=1.0, seed=seed))
    return Stack(train.Embedding(V, 64, seed=seed), rnn, train.Linear(H, V, seed=seed))


def fit(args: Any, model: Stack, codes: np.ndarray, steps: int, lr: float, rows: int = 16) -> None:
    T = (len(codes) - 1) // rows  # the text in rows side by side
    x, y = (codes[first : first + T * rows].reshape(rows, T).T for first in (0, 1))
    optimiser = train.Adam(model)

    def loss(logits: np.ndarray, piece: slice) -> tuple[float, np.ndarray]:
        return train.softmax_cross_entropy(logits, y[piece])

    pieces = chain.from_iterable(truncated(model, x, loss, chunk=64) for _ in count())
    for step, (report, piece) in enumerate(zip(progress(args, steps), pieces, strict=False)):
        optimiser.lr = train.cosine_lr(step, steps, lr, warmup=40)
        optimiser.step(train.clip_grad_norm(piece.grads.params, 1.0)[0])
        report(piece.loss)


def draw(axes: Any, tree: decode.Tree, names: str, node: int = -1, depth: int = 0, top: float = 0.0) -> None:
    """The continuations of the node, drawn from ``top`` down: a box is as high as its letter is likely."""
    for child in tree.children(node):
        share = float(np.exp(tree.total[child]))
        if share > 0.004:
            axes.barh(top, 1, share, depth, align="edge", color=f"C{depth}", alpha=0.5, edgecolor="white")
            if share > 0.012:
                axes.text(depth + 0.4, top + share / 2, names[tree.token[child]], va="center", size=4 + 24 * share**0.5)
            draw(axes, tree, names, child, depth + 1, top)
        top += share


def main() -> None:
    args = start(__doc__, prompt="The quick brown f", text="", load="")
    try:
        lines = (Path(args.text).read_text(encoding="utf-8") if args.text else sentences()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--text: expected a UTF-8 text that can be read, got {error}") from None
    text, held_out = "\n".join(line for i, line in enumerate(lines) if i % 20), "\n".join(lines[::20])
    if len(text) < 5000:
        raise SystemExit(f"--text: expected at least 5000 characters to train on, got {len(text)}")
    toy = make({"vocabulary": "ehlo⏎", "hidden": 16, "seed": args.seed})
    fit(args, toy, encode("hello⏎" * 400, "ehlo⏎"), steps=60, lr=3e-2)
    said = decode.continuations(*decode.prompt(toy, encode("hell", "ehlo⏎")), depth=1, width=2)
    print(said[0].format("ehlo⏎", "hell"))

    H, steps, lr = (128, 300, 1e-2) if args.quick else (256, 1000, 5e-3)
    config = {"vocabulary": "".join(sorted(set(text))), "hidden": H, "seed": args.seed}
    if not args.load:
        encode(args.prompt, config["vocabulary"])  # a prompt without a known character is named before the training
    model = make(config)
    with keep_on_interrupt(lambda: save(args, model, config)):
        fit(args, model, encode(text, config["vocabulary"]), 0 if args.load else steps, lr)
    model = load(args, args.load or save(args, model, config), make)
    vocabulary = args.config["vocabulary"]
    names, V = vocabulary.replace("\n", "⏎").replace(" ", "␣"), len(vocabulary)
    prompt = decode.prompt(model, encode(args.prompt, vocabulary))
    print(decode.continuations(*prompt, depth=1, width=6)[0].format(names, args.prompt))
    likely = decode.beam_search(*prompt, length=40, beam=8).tokens[0, 0]
    drawn = decode.generate(*prompt, 400, temperature=0.6, rng=args.seed).tokens[0]
    for letters in (likely, drawn):
        print(f"\n{args.prompt}{''.join(vocabulary[letter] for letter in letters)}")
    with figure(args, size=(11, 6)) as axes:
        draw(axes, decode.continuations(*prompt, depth=6, width=5)[0], names)
        axes.set(xlabel="letters further", ylabel="probability", title=args.prompt, ylim=(1, 0))
    codes, new = encode(text, vocabulary), encode(held_out, vocabulary)
    nats, _ = train.softmax_cross_entropy(model(new[:-1, None])[0], new[1:, None])
    unigram, after = (-np.log(p) for p in bigram(codes[:-1], codes[1:], V))
    plain = {"bigram": after[new[:-1], new[1:]].mean(), "unigram": unigram[new[1:]].mean()}
    finish(args, {"nats a letter": {"LSTM": nats} | plain})


if __name__ == "__main__":
    main()
