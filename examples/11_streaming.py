"""Streaming: a GRU hears noisy audio frame by frame, and prints each spoken digit as soon as it has ended.

    h_t = GRU(x_t, h_{t-1})          p_t = softmax(W h_t + b)      over ten digits and "no voice"

x_t has 40 log-mel energies and comes every 10 ms. ``GRUCell.step_`` writes h_t over h_{t-1}. It allocates no array, and
the bits are those of ``GRU`` over the whole sequence: both are asserted. A word ends when no voice is heard for 100 ms.
It is the digit whose p_t has the largest sum over the word. The baseline is the best threshold on the energy.

Data: espeak-ng (Debian, GPL-3.0-or-later) says digits with 100 speakers; those of the test are never trained on. Noise
of a drifting level and knocks are added. Reached: 3 % of frames wrong (threshold 15 %), 4 % of digits (commonest digit
86 %), 0.016 s of work for a second of sound; a minute.
"""

import time
import tracemalloc

import numpy as np
from shared import figure, finish, keep_on_interrupt, load, progress, save, start
from speech import BANDS, DIGITS, HOP, RATE, WINDOW, Spoken, errors, log_mel, runs, spoken, street

from rnnkern import GRU, GRUCell, Stack, train

NO_VOICE, QUIET = 10, 10  # the class after the ten digits; frames without a voice that end a word


def scene(rng: np.random.Generator, words: list[Spoken], seconds: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of random words with pauses in noise, and the class in the middle of each frame."""
    samples, said, begin = street(rng, seconds), np.full(seconds * RATE, NO_VOICE), 0
    for word in rng.permutation(len(words)):
        begin += int(rng.uniform(0.2, 1.0) * RATE)
        if (end := begin + len(words[word].samples)) > len(samples) - RATE // 4:
            break
        samples[begin:end] += words[word].samples * rng.uniform(0.3, 1.0)
        said[begin:end], begin = words[word].digits[0], end
    return samples, said[WINDOW // 2 : len(said) - WINDOW // 2 + 1 : HOP]


def make(config: dict[str, int]) -> Stack:
    """The GRU, which trains on whole sequences, and the layer that names what is heard."""
    H, seed = config["hidden"], config["seed"]
    return Stack(GRU(BANDS, H, seed=seed), train.Linear(H, NO_VOICE + 1, seed=seed + 1))


def listen(model: Stack, samples: np.ndarray, say: bool) -> tuple[np.ndarray, ...]:
    """Hears samples as they come. Returns frames [T, BANDS], states [T, H], p [T, 11], and (frame, digit) of words."""
    rnn, out = model.layers
    cell, h = GRUCell(BANDS, rnn.hidden_size), np.zeros((1, rnn.hidden_size), np.float32)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    kept, words, total, quiet = [], [], np.zeros(NO_VOICE), 0
    for t, begin in enumerate(range(0, len(samples) - WINDOW + 1, HOP)):
        x = log_mel(samples[begin : begin + WINDOW])
        cell.step_(x, h)  # h now holds the new state
        p = np.exp(out(h)[0])
        p /= p.sum()
        kept.append((x[0], h[0].copy(), p))  # for the checks and the plot; hearing needs h alone
        quiet = 0 if p[NO_VOICE] < 0.5 else quiet + 1
        if quiet == QUIET and total.sum() > 8:  # longer than a knock
            words.append((t, total.argmax()))
            if say:
                print(f"{t * HOP / RATE:6.2f} s  {DIGITS[total.argmax()]:6}{100 * total.max() / total.sum():4.0f} %")
        total = total + p[:NO_VOICE] if quiet < QUIET else np.zeros(NO_VOICE)
    tracemalloc.start()
    for _ in range(1000):
        cell.step_(x, h)
    assert tracemalloc.get_traced_memory()[1] < h.nbytes, "expected 1000 steps without a new array"
    tracemalloc.stop()
    return *(np.stack(each) for each in zip(*kept, strict=True)), np.array(words).reshape(-1, 2)


def main() -> None:
    args = start(__doc__, load="")  # of an earlier run, to use instead of training
    rng = np.random.default_rng(args.seed)
    count, scenes, seconds, hidden, steps = (150, 32, 5, 64, 120) if args.quick else (1200, 200, 10, 96, 400)
    words, new_words = spoken(args, rng, count, 1, new=False), spoken(args, rng, count // 5, 1, new=True)
    known, targets = zip(*(scene(rng, words, seconds) for _ in range(scenes)), strict=True)
    x, targets = np.stack([log_mel(each) for each in known], axis=1), np.stack(targets, axis=1)
    model = make(config := {"hidden": hidden, "seed": args.seed})
    adam = train.Adam(model)
    with keep_on_interrupt(lambda: save(args, model, config)):
        for k, step in enumerate(progress(args, 0 if args.load else steps)):
            rows = rng.integers(0, scenes, 16)
            logits, _, tape = model.forward(x[:, rows])
            loss, dlogits = train.softmax_cross_entropy(logits, targets[:, rows])
            adam.lr = train.cosine_lr(k, steps, 5e-3)
            adam.step(train.clip_grad_norm(model.backward(tape, dlogits, need_x=False).params, 1.0)[0])
            step(loss)
    model = load(args, args.load or save(args, model, config), make)
    rng = np.random.default_rng([args.seed, 1])  # the same scenes with --load
    heard, truth = zip(*(scene(rng, new_words, seconds) for _ in range(max(4, scenes // 10))), strict=True)
    began = time.perf_counter()
    frames, h, p, found = zip(*(listen(model, each, say=each is heard[0]) for each in heard), strict=True)
    factor = (time.perf_counter() - began) / (len(heard) * seconds)
    assert np.array_equal(model.layers[0](np.stack(frames, axis=1))[0], np.stack(h, axis=1)), "expected the same bits"
    said, voice = [runs(each, NO_VOICE) for each in truth], np.stack(truth) != NO_VOICE
    print("said:", *(DIGITS[digit] for digit in said[0]))
    energy = np.exp(4 * np.stack(frames)).sum(axis=-1)
    level = min(np.quantile(energy, np.arange(0, 1, 0.01)), key=lambda e: np.mean((energy > e) != voice))
    with figure(args, rows=2, size=(9, 5)) as (top, bottom):
        at = np.arange(len(p[0])) * HOP / RATE
        top.imshow(frames[0].T, origin="lower", aspect="auto", extent=(0, at[-1], 0, BANDS), cmap="magma")
        top.set(ylabel="log-mel band", title="The frames; below, what was heard, at the moment when it was printed")
        top.set_xticks(at[found[0][:, 0]], [DIGITS[digit] for digit in found[0][:, 1]])
        bottom.fill_between(at, voice[0], color="0.85", step="mid")
        bottom.plot(at, 1 - p[0][:, NO_VOICE], at, 0.1 * (energy[0] > level) - 0.15)
        bottom.set(xlim=(0, at[-1]), title="p(voice): the truth (grey), the GRU (blue), the energy threshold (orange)")
    all_said, wrong = np.concatenate(said), sum(errors(a, b[:, 1]) for a, b in zip(said, found, strict=True))
    frames_wrong = {"GRU": (np.stack(p)[..., NO_VOICE] < 0.5) != voice, "energy threshold": (energy > level) != voice}
    commonest = np.mean(all_said != np.bincount(all_said).argmax())
    reached = {
        "% of frames wrong (voice or not)": {who: 100 * each.mean() for who, each in frames_wrong.items()},
        "% of digits wrong": {"GRU": 100 * wrong / len(all_said), "commonest digit": 100 * commonest},
        "real-time factor": {"GRU": factor},
    }
    finish(args, reached)


if __name__ == "__main__":
    main()
