"""Whole models in a Stack, from integers to logits, and what is used around them: prompts, attention, padding."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from numeric import EPS, differences, near
from rnnkern import decode, train
from rnnkern.structure import InitialState, Pyramid, Stack, truncated
from rnnkern.train import Attention, Embedding, Linear

Array = np.ndarray[Any, Any]
T, B, V = 7, 4, 6
LENGTHS = np.array([5, 0, 7, 2])
CODES = np.random.default_rng(0).integers(V, size=(T, B))
PAST = np.arange(T)[:, None] >= LENGTHS
# Sums of up to 28 products in float64, and a softmax.
BOUND = 64 * EPS["float64"]
# Central differences err by eps^(2/3) times the third derivative, here up to tens.
SLOPES = 100 * EPS["float64"] ** (2 / 3)


def model(**options: Any) -> Stack:
    d: dict[str, Any] = {"dtype": "float64"}
    parts = Embedding(V, 5, seed=1, **d), rk.LSTM(5, 4, seed=2, **d), Linear(4, V, seed=3, **d)
    return Stack(*parts, **options)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_a_model_is_its_layers_one_after_another(lengths: Array | None) -> None:
    m = model()
    embed, rnn, out = m.layers
    rng = np.random.default_rng(1)
    dlogits = rng.standard_normal((T, B, V))
    state = tuple(rng.standard_normal((1, B, 4)) for _ in range(2))
    dstate = tuple(rng.standard_normal((1, B, 4)) for _ in range(2))
    logits, finals, tape = m.forward(CODES, (None, state, None), lengths=lengths)
    grads = m.backward(tape, dlogits, (None, dstate, None))

    past = PAST if lengths is not None else np.zeros_like(PAST)
    e, tape_e = embed.forward(np.where(past, 0, CODES))  # type: ignore[union-attr]
    h, last, tape_r = rnn.forward(e, state, lengths=lengths)  # type: ignore[union-attr]
    z, tape_o = out.forward(h)  # type: ignore[union-attr]
    by_out = out.backward(tape_o, np.where(past[..., None], 0, dlogits))
    by_rnn = rnn.backward(tape_r, by_out.x, dstate)
    by_embed = embed.backward(tape_e, by_rnn.x)
    assert logits.tobytes() == np.where(past[..., None], 0, z).tobytes()
    assert finals[0] is None and finals[2] is None
    assert all(a.tobytes() == b.tobytes() for a, b in zip(finals[1], last, strict=True))
    assert grads.x is None and grads.state[0] is None and grads.state[2] is None
    assert all(a.tobytes() == b.tobytes() for a, b in zip(grads.state[1], by_rnn.state, strict=True))
    wanted = {
        f"{k}.{name}": value for k, g in enumerate((by_embed, by_rnn, by_out)) for name, value in g.params.items()
    }
    assert list(grads.params) == list(wanted) == list(m.params)
    assert all(grads.params[name].tobytes() == value.tobytes() for name, value in wanted.items())
    called, _ = m(CODES, (None, state, None), lengths=lengths)
    assert called.tobytes() == logits.tobytes()


def test_codes_and_gradients_in_padding_never_matter() -> None:
    m = model()
    dlogits = np.random.default_rng(1).standard_normal((T, B, V))
    results = []
    for garbage in (0, -1, 10**9):
        codes, dy = np.where(PAST, garbage, CODES), np.where(PAST[..., None], np.nan if garbage else 1.0, dlogits)
        logits, _, tape = m.forward(codes, lengths=LENGTHS)
        results.append([logits, *m.backward(tape, dy).params.values()])
    for other in results[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in results[0]]


def test_dropout_between_the_layers_of_a_model() -> None:
    """Between Embedding and LSTM, and between LSTM and Linear; the masks are those of a Stack's numbers."""
    m = model(dropout=0.5, seed=7)
    first, second = m.forward(CODES)[0], m.forward(CODES)[0]
    assert not np.array_equal(first, second)
    m.call = 0
    assert m.forward(CODES)[0].tobytes() == first.tobytes()
    assert m.forward(CODES, train=False)[0].tobytes() == m(CODES)[0].tobytes()


def test_a_model_copies_pickles_and_saves(tmp_path: Any) -> None:
    m = model()
    rk.save(tmp_path / "model.safetensors", m)
    loaded = model()
    loaded.update({name: np.zeros_like(value) for name, value in loaded.params.items()})
    loaded.load_state_dict(rk.load(tmp_path / "model.safetensors"))
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), loaded):
        assert other(CODES)[0].tobytes() == m(CODES)[0].tobytes()
        assert all(not value.flags.writeable for value in other.params.values())
        logits, _, tape = other.forward(CODES)
        assert other.backward(tape, logits).params.keys() == m.params.keys()


def test_a_model_learns_piece_by_piece_and_goes_on_from_a_prompt() -> None:
    """truncated trains all layers: "abcabc..." is known after a few pieces, and generate spells it on."""
    codes = np.tile(np.arange(3), 60)[:, None]
    m = Stack(Embedding(3, 4, seed=1), rk.GRU(4, 8, seed=2), Linear(8, 3, seed=3))
    opt, before = train.Adam(m), m.state_dict()
    losses = []

    def loss(logits: Array, steps: slice) -> tuple[float, Array]:
        return train.softmax_cross_entropy(logits, codes[1:][steps])

    for step in range(10):
        opt.lr = train.cosine_lr(step, 10, 0.03, warmup=2)
        for piece in truncated(m, codes[:-1], loss, chunk=16):
            opt.step(train.clip_grad_norm(piece.grads.params, 1.0)[0])
            losses.append(piece.loss)
    assert losses[0] > 0.8 and losses[-1] < 0.1
    assert all(not np.array_equal(value, before[name]) for name, value in m.params.items())
    said = decode.generate(*decode.prompt(m, np.array([0, 1, 2, 0])), 9, temperature=0)
    assert said.tokens.tolist() == [[1, 2, 0] * 3]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_prompt_is_the_whole_sequence_read_step_by_step(length: int) -> None:
    m = model()
    step, state, first = decode.prompt(m, CODES[:length])
    logits, after = step(first, state)
    wanted, finals = m(CODES[:length])
    assert logits.tobytes() == wanted[-1].tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(after[1], finals[1], strict=True))
    found = decode.beam_search(step, state, first, 3, V**3)  # exhaustive
    assert found.tokens.shape == (B, V**3, 3) and np.allclose(np.exp(found.scores).sum(axis=1), 1)
    (one,) = decode.continuations(*decode.prompt(m, CODES[:length, 0]), depth=1, width=V)
    p = np.exp(wanted[-1, 0] - wanted[-1, 0].max())
    near(np.sort(np.exp(one.log_prob)), np.sort(p / p.sum()), BOUND)


@pytest.mark.parametrize("lengths", [None, [3, 5, 1, 4]], ids=["full", "lengths"])
def test_attention_against_its_equation_and_finite_differences(lengths: list[int] | None) -> None:
    S, M = 5, 3
    rng = np.random.default_rng(2)
    query, memory, dcontext = (rng.standard_normal((n, B, M)) for n in (T, S, T))
    valid = np.arange(S)[:, None] < (S if lengths is None else np.array(lengths))
    attention = Attention()
    context, weights, tape = attention.forward(
        query, np.where(valid[..., None], memory, np.nan) if lengths else memory, lengths=lengths
    )
    for b in range(B):
        inside = memory[valid[:, b] if lengths else slice(None), b]
        p = np.exp(query[:, b] @ inside.T)
        p /= p.sum(axis=1, keepdims=True)
        near(context[:, b], p @ inside, BOUND)
        near(weights[b, :, : len(inside)], p, BOUND)
        assert not weights[b, :, len(inside) :].any()
    again, same = attention(query, memory, lengths=lengths)
    assert again.tobytes() == context.tobytes() and same.tobytes() == weights.tobytes()

    def loss(query: Array, memory: Array) -> float:
        return float((attention(query, memory, lengths=lengths)[0] * dcontext).sum())

    dquery, dmemory = attention.backward(tape, dcontext)
    near(dquery, differences(lambda q: loss(q, memory), query), SLOPES)
    near(dmemory, differences(lambda m: loss(query, m), memory), SLOPES)
    assert attention.backward(tape, dcontext)[1].tobytes() == dmemory.tobytes()


def test_cosine_lr() -> None:
    rates = [train.cosine_lr(step, 8, 2.0) for step in range(8)]
    near(np.array(rates), 1 + np.cos(np.pi * np.arange(8) / 8), 4 * EPS["float64"])
    warm = [train.cosine_lr(step, 8, 2.0, warmup=4) for step in range(8)]
    near(np.array(warm), rates * np.minimum(1, np.arange(1, 9) / 4), 4 * EPS["float64"])


def test_pad_sequence_and_back() -> None:
    rows: list[Any] = [np.arange(6.0).reshape(3, 2), np.zeros((0, 2)), np.ones((1, 2))]
    x, lengths = rk.pad_sequence(rows, padding_value=9)
    assert x.shape == (3, 3, 2) and x.dtype == np.float64 and lengths.tolist() == [3, 0, 1]
    assert (x[:, 1] == 9).all() and (x[1:, 2] == 9).all()
    assert all(np.array_equal(a, b) for a, b in zip(rk.unpad_sequence(x, lengths), rows, strict=True))
    codes, lengths = rk.pad_sequence([[1, 2], [], [3]])
    assert codes.tolist() == [[1, 0, 3], [2, 0, 0]] and codes.dtype == np.int64 and lengths.tolist() == [2, 0, 1]
    y, _ = rk.GRU(2, 3, dtype="float64")(x, lengths=[3, 0, 1])
    assert not y[:, 1].any() and y[0, 2].any()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Stack(rk.GRU(5, V), Embedding(V, 5)), ValueError, r"layers\[1\]: expected an Embedding only as the f"),
        (lambda: Stack(Linear(3, V), Stack(Embedding(V, 5))), ValueError, r"layers\[1\]: expected an Embedding only"),
        (lambda: Stack(Embedding(V, 5), Linear(4, 5)), ValueError, r"layers\[1\]: expected input size 5"),
        (lambda: Stack(Embedding(V, V), residual=True), ValueError, r"residual: expected no flag for layers\[0\]"),
        (lambda: Stack(Embedding(V, 5), rk.GRU(5, 4, dtype="float64")), TypeError, r"layers\[1\]: expected dtype"),
        (lambda: Pyramid(Embedding(V, 5)), ValueError, "layer: expected an Embedding only as the first layer"),
        (lambda: InitialState(Linear(4, 4)), TypeError, "layer: expected an RNN, GRU, LSTM or sLSTM, or one inside"),
        (lambda: model()(CODES.astype(np.float64)), TypeError, "x: expected an integer dtype, got float64"),
        (lambda: model()(CODES[0]), ValueError, r"x: expected \[T, B\], got 1 axes"),
        (lambda: model()(CODES.tolist()), TypeError, "x: expected a NumPy array, got list"),
        (lambda: model()(CODES + V), ValueError, r"x: expected values in \[0, 5\], got"),
        (lambda: model()(CODES, (CODES, None, None)), TypeError, r"state\[0\]: expected None \(Embedding has no st"),
        (lambda: truncated(model(), CODES[0], max, 2), ValueError, r"x: expected \[T, B\], got 1 axes"),
        (lambda: decode.prompt(Stack(rk.GRU(3, 4)), CODES), ValueError, "model: expected a Stack that starts with an"),
        (lambda: decode.prompt(Stack(Embedding(V, 5), rk.GRU(5, 4, bidirectional=True)), CODES), ValueError,
         "model: expected one that looks back only"),
        (lambda: decode.prompt(model(), CODES[:0]), ValueError, r"tokens: expected shape \[T\] or \[T, B\] with T at"),
        (lambda: decode.prompt(model(), CODES * 1.0), TypeError, "tokens: expected an integer dtype"),
        (lambda: Attention()(np.zeros((2, 3)), np.zeros((2, 3))), ValueError, r"query: expected shape \[T, B, M\]"),
        (lambda: Attention()(np.zeros((2, 3, 4)), np.zeros((0, 3, 4))), ValueError,
         r"memory: expected shape \[S, 3, 4\] with S at least 1, got \[0, 3, 4\]"),
        (lambda: Attention()(np.zeros((2, 3, 4)), np.zeros((2, 3, 4), "f4")), TypeError, "memory: expected dtype"),
        (lambda: Attention()(np.zeros((2, 2, 4)), np.zeros((3, 2, 4)), lengths=[0, 1]), ValueError,
         r"lengths: expected values in \[1, 3\], got 0"),
        (lambda: Attention().backward(None, CODES), TypeError, "tape: expected the tape of a forward call"),  # type: ignore[arg-type]
        (lambda: train.cosine_lr(8, 8, 1.0), ValueError, "step: expected 0 to 7, got 8"),
        (lambda: train.cosine_lr(0, 8, -1.0), ValueError, "lr: expected a number"),
        (lambda: rk.pad_sequence([]), ValueError, "sequences: expected at least one, got none"),
        (lambda: rk.pad_sequence([[1], [1.5]]), TypeError, "sequences: expected one dtype, got float64 and int64"),
        (lambda: rk.pad_sequence([[1], [[1, 2]]]), ValueError, r"sequences\[0\]: expected shape \[T, 2\], got \[1\]"),
        (lambda: rk.pad_sequence(["ab"]), TypeError, "sequences: expected arrays of numbers"),
        (lambda: rk.unpad_sequence(CODES, None), TypeError, r"lengths: expected integers \[B\], got None"),
        (lambda: rk.unpad_sequence([1], [1]), TypeError, "padded: expected a NumPy array"),  # type: ignore[arg-type]
    ],
    ids=range(30),
)  # fmt: skip
def test_what_does_not_fit_is_named(build: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        build()
