"""Chorales in four voices: the next chord depends on those before, so an LSTM that has read Bach can go on by itself.

    h_t = LSTM(E[x_t], h_{t-1})                       two layers; x_t is a note: soprano, alto, tenor, bass, soprano
    p(x_{t+1} | x_1, ..., x_t) = softmax(W h_t + b)   the probability of a chord is the product of its four notes'

Every chorale has one chord a beat and moves to the key without sharps and flats. Every eighth melody is held out, with
all chorales on it. The bigram knows the note that the same voice had a beat before.

Data: Bach's chorales in the corpus of music21 (BSD License). The music is in the public domain; the corpus says that
the encoders gave their permission, and that single files may exclude commercial use.
Reached: 5.1 nats a chord (bigram 7.6, unigram 10.2); 3.5 minutes on two cores.
"""

import math
import sys
from collections import defaultdict
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy import ndarray as Array
from shared import bigram, figure, finish, keep_on_interrupt, load, package, progress, save, start

from rnnkern import LSTM, Stack, decode, init, pad_sequence, train

LOWEST, RANGE = 28, 64  # MIDI pitches that have a code, in each voice; code 0 stands at both ends of a chorale
FIRST = 1 + RANGE * np.arange(4)  # the voices' first codes


def chorales(count: int | None) -> tuple[list[Array], list[Array]]:
    """Codes [beats, 4] of chorales to train on, and of those held out."""
    paths, melodies = package("music21.corpus").getComposer("bach")[:count], defaultdict(list)
    for path in package("rich.progress").track(paths, "reading", transient=True, disable=not sys.stderr.isatty()):
        score = package("music21.converter").parse(path)
        beats = np.zeros((math.ceil(score.highestTime) + 1, len(score.parts)), np.int64)
        for part, column in zip(score.parts, beats.T, strict=True):
            for note in part.flatten().notes:
                column[math.ceil(note.offset) : math.ceil(note.offset + note.quarterLength)] = note.pitches[-1].midi
        key = score.recurse().getElementsByClass("KeySignature").first()
        beats = beats[beats.all(axis=1)][:96] - (7 * (key.sharps if key else 0) + 5) % 12 + 5 - LOWEST
        if beats.shape[1] == 4 and len(beats) > 12 and beats.min() >= 0 and beats.max() < RANGE:
            melodies[tuple(beats[:12, 0])].append(beats + FIRST)
    if len(melodies) < 2:
        sys.exit(f"music21: expected chorales by Bach in its corpus, got {len(melodies)}")
    sides = [list(chain(*list(melodies.values())[first::8])) for first in range(8)]
    return list(chain(*sides[1:])), sides[0]


def make(config: dict[str, Any]) -> Stack:
    V, E, H, seed = 1 + 4 * RANGE, config["embedding"], config["hidden"], config["seed"]
    rnn = LSTM(E, H, num_layers=2, dropout=0.3, seed=seed)
    rnn.update(init.initialise(rnn, forget_bias=1.0, seed=seed))
    return Stack(train.Embedding(V, E, seed=seed), rnn, train.Linear(H, V, seed=seed))


def batch(some: list[Array]) -> tuple[Array, Array, Array]:
    """Notes [T, B], the notes that follow them [T, B], and how many there are in each row."""
    codes, lengths = pad_sequence([np.pad(beats.reshape(-1), 1) for beats in some])
    return codes[:-1], codes[1:], lengths - 1


def fit(args: Any, model: Stack, bach: list[Array], steps: int, rows: int, lr: float) -> None:
    optimiser, rng = train.Adam(model), np.random.default_rng(args.seed)
    for step, report in enumerate(progress(args, steps)):
        x, y, lengths = batch([bach[k] for k in rng.integers(len(bach), size=rows)])
        logits, _, tape = model.forward(x, lengths=lengths)
        loss, dlogits = train.softmax_cross_entropy(logits, y, lengths=lengths)
        optimiser.lr = train.cosine_lr(step, steps, lr, warmup=30)
        optimiser.step(train.clip_grad_norm(model.backward(tape, dlogits).params, 1.0)[0])
        report(loss)


def main() -> None:
    args = start(__doc__, temperature=0.7, load="")
    bach, held_out = chorales(60 if args.quick else None)
    E, H, steps, rows, lr = (32, 64, 450, 8, 1e-2) if args.quick else (64, 192, 500, 16, 5e-3)
    config = {"embedding": E, "hidden": H, "seed": args.seed}
    model = make(config)
    with keep_on_interrupt(lambda: save(args, model, config)):
        fit(args, model, [beats[: 32 if args.quick else None] for beats in bach], 0 if args.load else steps, rows, lr)
    model = load(args, args.load or save(args, model, config), make)

    chord, note, stream, converter = (package(f"music21.{name}") for name in ("chord", "note", "stream", "converter"))
    known = held_out[0][:8]
    found = decode.beam_search(*decode.prompt(model, np.append(0, known)), length=4, beam=16)
    said = ["Bach"] * 8 + ["Bach goes on"] + [f"LSTM expects, {p:.2f}" for p in np.exp(found.scores[0, :3])]
    for who, notes in zip(said, [*held_out[0][:9], *found.tokens[0, :3]], strict=True):
        sounding = chord.Chord(((notes - 1) % RANGE + LOWEST).tolist())
        print(f"{who:20}{' '.join(pitch.nameWithOctave for pitch in sounding.pitches):16}{sounding.pitchedCommonName}")
    begin = decode.prompt(model, np.zeros((1, 8), int))
    drawn = decode.generate(*begin, 256, temperature=args.temperature, rng=args.seed, stop=0)
    longest = drawn.lengths.argmax()
    own = (drawn.tokens[longest, : drawn.lengths[longest] // 4 * 4].reshape(-1, 4) - 1) % RANGE + LOWEST
    score, midi = stream.Score(), args.out / f"{args.program}.mid"
    for voice in own.T:
        runs = [(int(pitch), len(list(run))) for pitch, run in groupby(voice)]  # a note that is repeated is held
        score.insert(0, stream.Part([note.Note(pitch, quarterLength=length) for pitch, length in runs]))
    score.write("midi", midi)
    print(f"{midi}: music21 reads {len(converter.parse(midi).flatten().notes)} notes in it")
    with figure(args, rows=2, size=(10, 6)) as both:
        for axes, beats, title in zip(both, (held_out[0] - FIRST + LOWEST, own), ("Bach", "the LSTM"), strict=True):
            for k, name in enumerate(("soprano", "alto", "tenor", "bass")):
                axes.hlines(beats[:, k], np.arange(len(beats)), np.arange(len(beats)) + 1, f"C{k}", lw=4, label=name)
            axes.set(title=title, xlabel="beat", ylabel="MIDI pitch", xlim=(0, 64))
        axes.legend(ncols=4, loc="upper right")
    x, y, lengths = batch(held_out)  # all held-out chords but the first of each chorale
    logits, _ = model(x, lengths=lengths)
    nats = {"LSTM": 4 * train.softmax_cross_entropy(logits[4:], y[4:], mask=y[4:] > 0)[0]}
    old, new = (np.concatenate([[beats[:-1], beats[1:]] for beats in side], 1) - FIRST for side in (bach, held_out))
    counts = [bigram(*old[..., voice], RANGE) for voice in range(4)]
    nats["bigram"] = -sum(np.log(after[tuple(new[..., voice])]).mean() for voice, (_, after) in enumerate(counts))
    nats["unigram"] = -sum(np.log(unigram[new[1, :, voice]]).mean() for voice, (unigram, _) in enumerate(counts))
    finish(args, {"nats a chord": nats})


if __name__ == "__main__":
    main()
