"""Long audio, read by a pyramid: spoken digits become text.

A second of audio is a hundred frames, but only two or three digits. Each layer of the listener (Listen, Attend and
Spell, Chan et al. 2016, arXiv 1508.01211) reads pairs of steps of the layer below, so the lengths halve:

    h^k_t = BLSTM([h^{k-1}_{2t}, h^{k-1}_{2t+1}], h^k_{t-1})        h^0 = the log-mel frames

After three layers a step is 80 ms, and a softmax over ten digits and "nothing" follows. The loss is CTC (Graves et al.
2006), a sum over all ways to place the digits in time. Only the loss is PyTorch's: its gradient enters ``backward``.

Data: espeak-ng (Debian, GPL-3.0-or-later) says digits with 100 speakers and 6 accents. Those of the test are never
trained on. Reached: 2.2 % of digits wrong, 1 to 8 at a time (single: 1 %, linear 24 %); 1.5 minutes on two cores.
"""

from argparse import Namespace
from collections.abc import Sequence

import numpy as np
from shared import figure, finish, keep_on_interrupt, load, package, progress, save, start
from speech import BANDS, HOP, RATE, errors, log_mel, runs, spoken

from rnnkern import PyramidalLSTM, Stack, pad_sequence, train

NOTHING, LAYERS = 10, 3  # the blank of CTC, after the ten digits; each layer halves the lengths


def make(config: dict[str, int]) -> Stack:
    """The listener, and the layer that names digits."""
    listener = PyramidalLSTM(BANDS, config["hidden"], LAYERS, dropout=0.2, seed=config["seed"])
    return Stack(listener, train.Linear(listener.output_size, NOTHING + 1, seed=config["seed"] + 1))


def ctc(logits: np.ndarray, lengths: np.ndarray, texts: Sequence[Sequence[int]]) -> tuple[float, np.ndarray]:
    """-log p(digits | audio) for each digit, a mean over the rows, and its gradient: PyTorch's, as NumPy arrays."""
    torch = package("torch")
    leaf, digits = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(np.concatenate(texts))
    counts = [len(text) for text in texts]
    loss = torch.nn.functional.ctc_loss(leaf.log_softmax(-1), digits, lengths.tolist(), counts, blank=NOTHING)
    loss.backward()
    return loss.item(), leaf.grad.numpy()


def heard(model: Stack, frames: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The digits of one utterance, from the likeliest symbol of each step, and the probabilities of each step."""
    logits = model(frames[:, None])[0][:, 0]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return runs(logits.argmax(axis=1), NOTHING), p / p.sum(axis=1, keepdims=True)


def draw(args: Namespace, model: Stack, frames: np.ndarray, said: list[int]) -> None:
    """The digit of each step of the last layer, the steps of all layers, and below them the frames."""
    digits, p = heard(model, frames)
    with figure(args, rows=3, size=(9, 7.5)) as axes:
        for ax, image, step in ((axes[0], p[:, :NOTHING], 2**LAYERS), (axes[2], frames, 1)):
            edges = (0, len(image) * step * HOP / RATE, -0.5, image.shape[1] - 0.5)
            ax.imshow(image.T, origin="lower", aspect="auto", extent=edges, cmap="magma")
        begins = [np.arange(0, len(frames), 2**k) * HOP / RATE for k in range(LAYERS + 1)]
        for k, left in enumerate(begins):
            axes[1].barh(np.full(len(left), k), 2**k * HOP / RATE, left=left, edgecolor="white", linewidth=0.5)
        axes[0].set(yticks=range(10), ylabel="digit", title=f"said {said}, heard {digits}")
        axes[1].set_yticks(range(LAYERS + 1), [f"{len(left)} steps" for left in begins])
        axes[1].set_xlim(axes[0].get_xlim())
        axes[2].set(xlabel="seconds", ylabel="log-mel band", xlim=axes[0].get_xlim())


def main() -> None:
    args = start(__doc__, load="")  # of an earlier run, to use instead of training
    rng = np.random.default_rng(args.seed)
    count, longest, hidden, steps, rows = (150, 2, 64, 200, 16) if args.quick else (1500, 8, 96, 600, 16)
    sets = {
        "training": spoken(args, rng, count, longest, new=False),
        "training, single": spoken(args, rng, count // 3, 1, new=False),
        "single": spoken(args, rng, count // 5, 1, new=True),
        f"1 to {longest} at a time": spoken(args, rng, count // 5, longest, new=True),
        f"1 to {8 * longest} at a time": spoken(args, rng, count // 50, 8 * longest, new=True),
    }
    frames = {name: [log_mel(each.samples) for each in some] for name, some in sets.items()}
    digits = {name: [each.digits for each in some] for name, some in sets.items()}
    order = sorted(range(count), key=lambda k: len(frames["training"][k]))  # rows of a batch are about equally long

    model = make(config := {"hidden": hidden, "seed": args.seed})
    adam = train.Adam(model)
    with keep_on_interrupt(lambda: save(args, model, config)):
        for k, step in enumerate(progress(args, 0 if args.load else steps)):
            batch = order[(first := rng.integers(count - rows + 1)) : first + rows]
            inputs, texts = ([some["training"][i] for i in batch] for some in (frames, digits))
            x, lengths = pad_sequence(inputs)
            x += rng.normal(0, 0.2, (1, rows, BANDS)).astype(np.float32)  # a random filter makes another voice
            logits, _, tape = model.forward(x, lengths=lengths)
            loss, dlogits = ctc(logits, model.output_lengths(lengths), texts)
            adam.lr = train.cosine_lr(k, steps, 4e-3)
            adam.step(train.clip_grad_norm(model.backward(tape, dlogits, need_x=False).params, 1.0)[0])
            step(loss)
    model = load(args, args.load or save(args, model, config), make)

    reached, tests = {}, list(sets)[2:]
    for name in tests:
        wrong = sum(errors(said, heard(model, x)[0]) for said, x in zip(digits[name], frames[name], strict=True))
        reached[f"% of digits wrong, {name}"] = {"pyramid": 100 * wrong / sum(map(len, digits[name]))}
    x, x_new = (np.array([[*each.mean(axis=0), 1] for each in frames[name]]) for name in list(sets)[1:3])
    labels, truth = (np.array(digits[name])[:, 0] for name in list(sets)[1:3])
    guess = (x_new @ np.linalg.lstsq(x, np.eye(10)[labels])[0]).argmax(axis=1)
    plain = {"linear on mean frames": guess, "commonest digit": np.bincount(labels).argmax()}
    reached["% of digits wrong, single"] |= {name: 100 * np.mean(each != truth) for name, each in plain.items()}
    for one, each in zip(sets[tests[1]][:6], frames[tests[1]], strict=False):
        print(f"{one.voice:24} says {one.digits}, heard {heard(model, each)[0]}")
    said, x = max(zip(digits[tests[1]], frames[tests[1]], strict=True), key=lambda pair: len(pair[1]))
    draw(args, model, x, said)
    finish(args, reached)


if __name__ == "__main__":
    main()
