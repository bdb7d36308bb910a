"""rnnkern.decode against brute force over all sequences: of a small model with memory, and of an LSTM with a Linear."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from decode_cases import PROMPTS, Lstm, Model, Sequence, V, every_sequence, near, plain_beam, prompt, start
from numeric import EPS
from rnnkern.decode import Tree, _sample, beam_search, continuations, generate, sample

Array = np.ndarray[Any, Any]


# --- beam search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 0.8])
@pytest.mark.parametrize("stop", [None, 1])
def test_a_beam_of_everything_is_brute_force(stop: int | None, penalty: float) -> None:
    length, model = 4, Model()
    found = beam_search(model.step, start(), PROMPTS[1], length, V**length, stop=stop, length_penalty=penalty)
    sequences = every_sequence(length, stop)
    for b in range(3):
        scores = {s: sum(model.log_probs(prompt(b), s)) / ((5 + len(s)) / 6) ** penalty for s in sequences}
        wanted = sorted(sequences, key=lambda s: (-scores[s], s))
        got = [tuple(row[:n]) for row, n in zip(found.tokens[b].tolist(), found.lengths[b].tolist(), strict=True)]
        assert got == wanted
        assert all(near(score, scores[s], length) for score, s in zip(found.scores[b], wanted, strict=True))
        assert stop is None or all(
            set(row[n:]) <= {stop} for row, n in zip(found.tokens[b], found.lengths[b], strict=True)
        )
    if penalty == 0 and stop is None:
        assert np.abs(np.exp(found.scores).sum(axis=1) - 1).max() <= 16 * length * EPS["float64"] * V


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize(("stop", "penalty"), [(None, 0.0), (2, 0.0), (0, 1.0)])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_narrow_beam_is_the_plain_search(beam: int, stop: int | None, penalty: float, seed: int) -> None:
    model = Model(seed)
    found = beam_search(model.step, start(), PROMPTS[1], 5, beam, stop=stop, length_penalty=penalty)
    for b in range(3):
        got = [tuple(row[:n]) for row, n in zip(found.tokens[b].tolist(), found.lengths[b].tolist(), strict=True)]
        assert got == plain_beam(model, b, 5, beam, stop, penalty)


def test_a_beam_of_everything_on_an_lstm_is_brute_force() -> None:
    length, model = 3, Lstm()
    codes = np.array([[0, 1], [2, 2], [1, 0]])  # prompts [T, B]
    _, state = model.rnn(model.embed(codes[:-1]))
    found = beam_search(model.step, state, codes[-1], length, V**length, stop=2)
    sequences = every_sequence(length, 2)
    for b in range(2):
        scores = {s: float(model.log_probs(tuple(codes[:, b]), s).sum()) for s in sequences}
        got = [tuple(row[:n]) for row, n in zip(found.tokens[b].tolist(), found.lengths[b].tolist(), strict=True)]
        assert got == sorted(sequences, key=lambda s: -scores[s])
        assert max(scores.values()) - min(scores.values()) > 1
        assert all(near(score, scores[s], length) for score, s in zip(found.scores[b], got, strict=True))


def test_equal_scores_are_ordered_by_token() -> None:
    def uniform(tokens: Array, state: None) -> tuple[Array, None]:
        return np.zeros((len(tokens), 4), np.float32), state

    found = beam_search(uniform, None, np.array([3]), 2, 6)
    assert found.tokens[0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]]

    def independent(tokens: Array, state: None) -> tuple[Array, None]:
        return np.tile(np.log([0.25, 0.75]), (len(tokens), 1)), state

    found = beam_search(independent, None, np.array([0]), 2, 2)  # (0, 1) and (1, 0) have the same score, to the bit
    assert found.tokens[0].tolist() == [[1, 1], [0, 1]]
    (tree,) = continuations(uniform, None, np.array([3]), 1, 3)
    assert tree.token.tolist() == [0, 1, 2]
    assert generate(uniform, None, np.array([3]), 2, temperature=0).tokens.tolist() == [[0, 0]]


def test_hypotheses_and_trees_agree() -> None:
    model, some_dropped = Model(5), False
    found = beam_search(model.step, start(), PROMPTS[1], 4, 3, stop=0)
    for b, tree in enumerate(found.trees):
        dropped = set(range(len(tree.token)))
        for k, node in enumerate(found.nodes[b]):
            path = tree.path(int(node))
            assert path == found.tokens[b, k, : found.lengths[b, k]].tolist()
            assert tree.total[node] == found.scores[b, k]
            while node != -1:
                dropped.discard(int(node))
                node = tree.parent[node]
        some_dropped = some_dropped or bool(dropped)
        for node in range(len(tree.token)):
            assert tree.parent[node] < node
            wanted = model.log_probs(prompt(b), tuple(tree.path(node)))
            assert near(tree.total[node], sum(wanted), 4) and near(tree.log_prob[node], wanted[-1], 1)
            assert 0 not in tree.path(node)[:-1], "nothing follows stop"
            paths = [tuple(tree.path(n)) for n in range(len(tree.token))]
            assert len(set(paths)) == len(paths)
    assert some_dropped, "a beam this narrow drops branches, and the trees have them"


def test_a_search_ends_when_all_have_ended_and_only_possible_sequences_are_counted() -> None:
    model = Model()
    model.logits[...] = -np.inf
    model.logits[..., 1] = 0.0  # the stop, and nothing else
    model.logits[:, 0, 0] = math.log(0.4), math.log(0.6), -np.inf
    found = beam_search(model.step, start(np.array([0, 0])), np.array([0, 2]), 9, 4, stop=1)
    # From 0: stop, or 0 and on; from 2: stop only, so that prompt has one hypothesis where the other has four.
    assert found.tokens.shape == (2, 4, 9) and model.calls == [2, 4, 6, 8]
    assert found.lengths[0].tolist() == [1, 2, 3, 4] and found.scores[1].tolist() == [0.0, *[-np.inf] * 3]
    assert found.nodes[1].tolist() == [0, -1, -1, -1] and len(found.trees[1].token) == 1
    assert np.abs(np.exp(found.scores[0]) - [0.6, 0.24, 0.096, 0.0384]).max() <= 8 * EPS["float64"]
    model.calls.clear()
    beam_search(model.step, start(np.array([0])), np.array([2]), 9, 4, stop=1)
    assert model.calls == [1], "all had ended"


def test_a_hypothesis_that_nothing_can_follow_is_dropped() -> None:
    model = Model()
    model.logits[:, :, 2] = -np.inf  # after 2, nothing
    found = beam_search(model.step, start()[:, :1], PROMPTS[1, :1], 3, 100)
    assert sorted(map(tuple, found.tokens[0].tolist())) == [s for s in every_sequence(3, None) if 2 not in s[:-1]]
    assert np.isfinite(found.scores).all()
    model.logits[:] = -np.inf
    found = beam_search(model.step, start(), PROMPTS[1], 3, 100)
    assert found.scores.tolist() == [[-np.inf]] * 3 and not any(len(tree.token) for tree in found.trees)


@pytest.mark.parametrize("axis", [0, -2])
def test_states_of_every_form_are_reordered(axis: int) -> None:
    """A state that says what its row has read: it must always be the row's own tokens."""
    model = Model(3)

    def step(tokens: Array, state: Any) -> tuple[Array, Any]:
        old, (nothing, parts) = state["past"], state["more"]
        past = np.concatenate([old, tokens[:, None] if axis == 0 else tokens[None, :, None]], axis=-1)
        assert nothing is None and np.array_equal(parts[0].sum(axis=-1), old.sum(axis=-1))
        rows = past if axis == 0 else past[0]
        seen.update(map(tuple, rows.tolist()))
        return model.logits[rows.shape[1] - 2, rows[:, -2], rows[:, -1]], {"past": past, "more": (None, [past])}

    seen: set[Sequence] = set()
    past = PROMPTS[0][:, None] if axis == 0 else PROMPTS[0][None, :, None]
    state = {"past": past, "more": (None, [past])}
    found = beam_search(step, state, PROMPTS[1], 4, 3, batch_axis=axis)
    for b in range(3):
        assert [tuple(row) for row in found.tokens[b].tolist()] == plain_beam(model, b, 4, 3, None, 0.0)
        for k in range(3):
            assert (*prompt(b), *found.tokens[b, k, :-1].tolist()) in seen


# --- trees ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [None, 1])
@pytest.mark.parametrize("width", [1, 2, 7])
def test_continuations_are_the_best_tokens_after_every_node(width: int, stop: int | None) -> None:
    model, depth = Model(8), 3
    trees = continuations(model.step, start(), PROMPTS[1], depth, width, stop=stop)
    for b, tree in enumerate(trees):
        wanted: dict[Sequence, float] = {}
        level: list[Sequence] = [()]
        for _ in range(depth):
            grown = []
            for s in level:
                each = [(model.log_probs(prompt(b), (*s, token))[-1], token) for token in range(V)]
                for value, token in sorted(each, key=lambda pair: (-pair[0], pair[1]))[:width]:
                    wanted[(*s, token)] = value
                    grown.append((*s, token))
            level = [s for s in grown if s[-1] != stop]
        got = {tuple(tree.path(n)): tree.log_prob[n] for n in range(len(tree.token))}
        assert got.keys() == wanted.keys() and all(near(got[s], wanted[s], 1) for s in got)
        best = tree.children()
        assert sorted(best, key=lambda n: -tree.log_prob[n]) == best and len(best) == min(width, V)


def test_after_hell_comes_o() -> None:
    """SYSTEMS' own example, by counting letters in a text; the tree as it is printed."""
    text, letters = "hello hello hells hello ", "ehlos "
    counts = np.full((6, 6, 6), -np.inf)
    for a, b, c in zip(text, text[1:], text[2:], strict=False):
        place = tuple(map(letters.index, (a, b, c)))
        counts[place] = np.log(np.exp(counts[place]) + 1)
    model = Model(size=6)
    model.logits[:] = counts
    first = np.array([letters.index("l")])
    state = start(first)
    (tree,) = continuations(model.step, state, first, 2, 2)
    assert tree.format(letters, "hell") == "hell\n├─ o  0.75\n│  └─    1\n└─ s  0.25\n   └─    1"
    assert str(tree).splitlines()[1] == f"├─ {letters.index('o')}  0.75"
    assert tree.format(lambda token: repr(letters[token])).splitlines()[2] == "│  └─ ' '  1"
    best = beam_search(model.step, state, first, 6, 2)
    assert "".join(letters[token] for token in best.tokens[0, 0]) == "o hell"


def test_an_empty_tree() -> None:
    (tree,) = continuations(Model().step, start()[:, :1], PROMPTS[1, :1], 0, 2)
    assert isinstance(tree, Tree) and tree.format(root="hell") == "hell" and tree.children() == []
    found = beam_search(Model().step, start(), PROMPTS[1], 0, 4)
    assert found.tokens.shape == (3, 1, 0) and found.scores.tolist() == [[0.0]] * 3 and (found.nodes == -1).all()


def test_no_prompts_at_all() -> None:
    nobody, state = np.zeros(0, np.int64), np.zeros((1, 0, 2), np.int64)
    for stop in (None, 1):
        found = beam_search(Model().step, state, nobody, 2, 3, stop=stop)
        assert found.tokens.shape[0] == 0 and found.trees == []
        assert continuations(Model().step, state, nobody, 2, 3, stop=stop) == []
        assert generate(Model().step, state, nobody, 2, stop=stop).tokens.shape == (0, 2)


# --- sampling -------------------------------------------------------------------------------------------------------


def frequencies(logits: list[float], draws: int = 20000, **options: Any) -> Array:
    tokens = sample(np.tile(np.array(logits), (draws, 1)), rng=7, **options)
    assert tokens.dtype == np.int64
    return np.bincount(tokens, minlength=len(logits)) / draws


def binomial(p: Array, draws: int = 20000) -> Array:
    """Five standard deviations of a binomial frequency: exceeded by one draw of 1.7 million, and the seed is fixed."""
    return 5 * np.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.5}, np.array([1, 16, 4, 9]) / 30),
        ({"temperature": 1e-300}, [0, 1, 0, 0]),
        ({"temperature": 1e300}, [0.25] * 4),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 3}, np.array([0, 4, 2, 3]) / 9),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.3}, [0, 1, 0, 0]),
        ({"top_p": 0.65}, np.array([0, 4, 0, 3]) / 7),
        ({"top_p": 0.75}, np.array([0, 4, 2, 3]) / 9),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 3, "top_p": 0.7}, np.array([0, 4, 0, 3]) / 7),  # of 4/9 2/9 3/9, two reach 0.7
        ({"temperature": 0.5, "top_p": 0.8}, np.array([0, 16, 0, 9]) / 25),
    ],
    ids=str,
)
def test_frequencies(options: dict[str, Any], wanted: Any, dtype: str) -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
    tokens = sample(np.tile(logits, (20000, 1)).astype(dtype), rng=7, **options)
    got, p = np.bincount(tokens, minlength=4) / 20000, np.asarray(wanted, float)
    assert (np.abs(got - p) <= binomial(p)).all(), got  # where p is 0 or 1, exactly


def test_exact_halves_and_ties_in_the_cut() -> None:
    assert (frequencies([0.0, 0.0], top_p=0.5) == [1, 0]).all()  # one of two equal ones is enough: the lower
    assert (frequencies([0.0, 1.0, 1.0], top_k=1) == [0, 1, 0]).all()
    p = np.array([0.5, 0.5, 0.0])
    assert (np.abs(frequencies([0.0, 0.0, -np.inf]) - p) <= binomial(p)).all()
    assert (frequencies([-np.inf, 5.0, -np.inf], top_p=0.1, top_k=2) == [0, 1, 0]).all()
    assert (frequencies([1e308, -1e308, 1e308], temperature=1e-3)[1] == 0).all()


def test_temperature_zero_is_argmax_and_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((50, 9))
    logits[:, 4] = logits[:, 7] = 9.0
    before = rng.bit_generator.state
    assert (sample(logits, 0, rng=rng) == 4).all() and rng.bit_generator.state == before


def test_a_row_is_drawn_from_its_own_logits_and_its_own_number() -> None:
    logits = np.random.default_rng(1).standard_normal((6, 5))
    together = sample(logits, rng=3)
    numbers = np.random.default_rng(3).random(6)
    for b in range(6):
        p = np.exp(logits[b]) / np.exp(logits[b]).sum()
        assert together[b] == np.searchsorted(np.cumsum(p), numbers[b])
    assert np.array_equal(together, sample(logits, rng=3)) and sample(logits[:0]).shape == (0,)


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_the_first_and_the_last_number_draw_a_possible_token(number: float) -> None:
    class Ends:
        def random(self, shape: tuple[int, int]) -> Array:
            return np.full(shape, number)

    rng = np.random.default_rng(5)
    for size in (3, 4, 8, 100):
        logits = rng.standard_normal((400, size)) * 3
        logits[::2, [0, -1]] = -np.inf
        drawn = _sample(logits, 1.0, None, None, Ends())
        assert np.isfinite(np.take_along_axis(logits, drawn[:, None], axis=1)).all()


def test_generate_draws_what_sample_draws_and_goes_on_from_its_state() -> None:
    model = Lstm()
    first, rng = np.array([0, 2, 1]), np.random.default_rng(11)
    options: dict[str, Any] = {"temperature": 0.8, "top_k": 2}
    tokens, state, wanted = first, None, []
    for _ in range(6):
        logits, state = model.step(tokens, state)
        tokens = sample(logits, rng=rng, **options)
        wanted.append(tokens)
    whole = generate(model.step, None, first, 6, rng=11, **options)
    assert np.array_equal(whole.tokens, np.stack(wanted, axis=1)) and whole.lengths.tolist() == [6] * 3
    rng = np.random.default_rng(11)
    a = generate(model.step, None, first, 2, rng=rng, **options)
    b = generate(model.step, a.state, a.tokens[:, -1], 4, rng=rng, **options)
    assert np.array_equal(np.concatenate([a.tokens, b.tokens], axis=1), whole.tokens)


def test_greedy_is_a_beam_of_one_and_stop_ends_a_row() -> None:
    model = Model(4)
    greedy = generate(model.step, start(), PROMPTS[1], 8, temperature=0, stop=0)
    found = beam_search(Model(4).step, start(), PROMPTS[1], 8, 1, stop=0)
    assert np.array_equal(greedy.tokens, found.tokens[:, 0]) and np.array_equal(greedy.lengths, found.lengths[:, 0])
    assert len(set(greedy.lengths.tolist())) > 1, "rows of one length would test nothing"
    for row, n in zip(greedy.tokens.tolist(), greedy.lengths.tolist(), strict=True):
        assert 0 not in row[: n - 1] and set(row[n:]) <= {0} and (row[n - 1] == 0 or n == 8)
    model.calls.clear()
    model.logits[..., 0] = 99
    assert generate(model.step, start(), PROMPTS[1], 8, temperature=0, stop=0).lengths.tolist() == [1] * 3
    assert model.calls == [3]


# --- errors ---------------------------------------------------------------------------------------------------------

LOGITS = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logits": LOGITS[0]}, ValueError, r"logits: expected shape \[B, V\], got \[3\]"),
        ({"logits": LOGITS[:, :0]}, ValueError, r"logits: expected at least one token, got shape \[2, 0\]"),
        ({"logits": LOGITS.tolist()}, TypeError, "logits: expected a NumPy array, got builtins.list"),
        ({"logits": LOGITS.astype(int)}, TypeError, "logits: expected dtype float32 or float64, got int64"),
        (
            {"logits": LOGITS + np.array([0, np.nan, 0])},
            ValueError,
            r"logits: .*finite numbers or -inf, got nan at \[0, 1\]",
        ),
        ({"logits": LOGITS + np.inf}, ValueError, r"got inf at \[0, 0\]"),
        ({"logits": LOGITS + np.array([[0], [-np.inf]])}, ValueError, "logits: .* got -inf alone in row 1"),
        ({"temperature": -1}, ValueError, r"temperature: expected a number in \[0, inf\), got -1"),
        ({"temperature": math.inf}, ValueError, "temperature"),
        ({"temperature": "hot"}, TypeError, "temperature: expected a number, got str"),
        ({"top_k": 0}, ValueError, "top_k: expected at least 1, got 0"),
        ({"top_k": 1.5}, TypeError, "top_k: expected an int, got float"),
        ({"top_p": 0}, ValueError, r"top_p: expected a number in \(0, 1\], got 0"),
        ({"top_p": 1.1}, ValueError, "top_p"),
        ({"rng": "x"}, TypeError, "rng: expected a numpy.random.Generator, a seed or None, got 'x'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_argument_of_sample_is_named(arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        sample(**({"logits": LOGITS} | arguments))


def never(tokens: Array, state: Any) -> Any:
    raise AssertionError("arguments are checked before any step")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: beam_search(never, None, [0], 2, 2), TypeError, "first: expected a NumPy array"),
        (lambda f: beam_search(never, None, f[None], 2, 2), ValueError, r"first: expected shape \[B\], got \[1, 3\]"),
        (lambda f: beam_search(never, None, f / 2, 2, 2), TypeError, "first: expected an integer dtype, got float64"),
        (lambda f: beam_search(never, None, f, -1, 2), ValueError, "length: expected at least 0, got -1"),
        (lambda f: beam_search(never, None, f, 2, 0), ValueError, "beam: expected at least 1, got 0"),
        (lambda f: beam_search(never, None, f, 2, 2, stop=-1), ValueError, "stop: expected at least 0, got -1"),
        (
            lambda f: beam_search(never, None, f, 2, 2, length_penalty=-1),
            ValueError,
            "length_penalty: expected a number",
        ),
        (
            lambda f: beam_search(never, (None, start()[:, :2]), f, 2, 2),
            ValueError,
            r"state\[1\]: expected 3 rows on axis",
        ),
        (lambda f: beam_search(never, {"h": [1]}, f, 2, 2), TypeError, r"state\['h'\]\[0\]: expected a NumPy array"),
        (lambda f: beam_search(never, f, f, 2, 2), ValueError, r"state: .* axis -2 \(batch_axis\), got shape \[3\]"),
        (lambda f: continuations(never, None, f, -1, 2), ValueError, "depth: expected at least 0, got -1"),
        (lambda f: continuations(never, None, f, 1, 0), ValueError, "width: expected at least 1, got 0"),
        (lambda f: generate(never, None, f, 2, temperature=-1), ValueError, "temperature"),
        (lambda f: generate(never, None, f, 2.0), TypeError, "length: expected an int, got float"),
    ],
    ids=range(14),
)
def test_wrong_arguments_come_before_the_first_step(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(PROMPTS[1])


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda n: np.zeros((n, 3)), TypeError, r"step: .* returns \(logits, state\), got ndarray"),
        (
            lambda n: (np.zeros((n + 1, 3)), None),
            ValueError,
            r"step's logits: expected shape \[N, V\] = \[3, V\], got \[4, 3\]",
        ),
        (lambda n: (np.zeros((n, 0)), None), ValueError, "step's logits"),
        (lambda n: (np.zeros((n, 3), int), None), TypeError, "step's logits: expected dtype"),
        (lambda n: (np.zeros((n, 1)), None), ValueError, r"stop: expected a token in \[0, 0\], got 1"),
        (lambda n: (np.full((n, 3), np.nan), None), ValueError, "logits: expected finite numbers"),
    ],
    ids=range(6),
)
def test_wrong_answers_of_a_step_are_named(answer: Any, error: Any, message: str) -> None:
    def step(tokens: Array, state: Any) -> Any:
        return answer(len(tokens))

    for search in (
        lambda: beam_search(step, None, PROMPTS[1], 2, 2, stop=1),
        lambda: continuations(step, None, PROMPTS[1], 2, 2, stop=1),
        lambda: generate(step, None, PROMPTS[1], 2, stop=1),
    ):
        with pytest.raises(error, match=message):
            search()


def test_a_state_whose_rows_are_elsewhere_is_named() -> None:
    def step(tokens: Array, state: Any) -> tuple[Array, Any]:
        return np.zeros((len(tokens), 3)), (np.zeros((len(tokens), 1, 4)),)

    with pytest.raises(
        ValueError, match=r"state\[0\]: expected 3 rows on axis -2 \(batch_axis\), got shape \[3, 1, 4\]"
    ):
        beam_search(step, None, PROMPTS[1], 2, 2)
