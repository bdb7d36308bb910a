"""Decoding: sampling, beam search and trees of likely continuations, for any step function on NumPy arrays.

A *step* is ``step(tokens, state) -> (logits, state)`` with tokens int64 [N] and logits [N, V] in float32 or float64,
one row per sequence. N is B, or B times the number of hypotheses, so it changes from call to call. ``prompt`` makes a
step from a model in a Stack, or you write it::

    model = Stack(Embedding(V, E), GRU(E, H), Linear(H, V))
    found = beam_search(*prompt(model, tokens), length=20, beam=5)

    def step(tokens, state):
        y, state = rnn(embed(tokens)[None], state)        # time-major: [1, N, E] -> [1, N, H]
        return out(y[0]), state

A *state* is None, an array, or tuples, lists and dicts of these, nested to any depth. Searches copy, drop and reorder
its rows, so all its arrays have the batch on the same axis: ``batch_axis``, -2 by default, as in rnnkern's [L*D, B, H].
Put all other data of a row into the state, such as the outputs of an encoder, so that they are reordered with it.

Log-probabilities are natural logarithms in float64. Of equal scores, the lower token comes first, so equal logits give
equal results. A logit of -inf excludes a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .nn.parameters import check_int
from .structure.base import check_part, takes_codes
from .structure.pieces import check_looks_back
from .train import _check

Array = np.ndarray[Any, Any]
State = Any
Step = Callable[[Array, State], tuple[Array, State]]


class Prompt(NamedTuple):
    """The start of a search: ``generate(*prompt, 100)``. first: int64 [B], the last token of each prompt."""

    step: Step
    state: State
    first: Array


class Generated(NamedTuple):
    """The result of ``generate``.

    tokens: int64 [B, length], with ``stop`` past the end of a row.
    lengths: int64 [B], with the ``stop`` that ended a row.
    state: the state after all tokens but the last, so ``generate(step, state, tokens[:, -1], ...)`` continues. (A row
        that ended early got ``stop`` as input until all rows ended.)
    """

    tokens: Array
    lengths: Array
    state: State


@dataclass(frozen=True, eq=False)
class Tree:
    """Continuations of one prompt. Node n is ``token[n]`` after the tokens of node ``parent[n]``; -1 is the prompt.

    parent, token: int64 [N]. A parent comes before its children.
    log_prob: float64 [N], the log-probability of the token after its parent.
    total: float64 [N], the sum of log_prob from the prompt to the node.
    """

    parent: Array
    token: Array
    log_prob: Array
    total: Array

    def children(self, node: int = -1) -> list[int]:
        """Return the nodes after this one, the most probable first."""
        found = np.flatnonzero(self.parent == node)
        return [int(n) for n in found[np.lexsort((self.token[found], -self.log_prob[found]))]]

    def path(self, node: int) -> list[int]:
        """Return the tokens from the prompt to this node."""
        tokens = []
        while node != -1:
            tokens.append(int(self.token[node]))
            node = int(self.parent[node])
        return tokens[::-1]

    def format(self, names: Callable[[int], str] | Sequence[str] | None = None, root: str = "") -> str:
        """Return the tree as text, with one line per node: the token, and its probability after its parent.

        names: a function of a token, or a vocabulary by token. None prints numbers.
        root: the first line.
        """
        name = names if callable(names) else (lambda token: str(token)) if names is None else names.__getitem__
        lines = [root]
        pending = [(child, "") for child in reversed(self.children())]
        last = {self.children()[-1]} if pending else set()
        while pending:
            node, margin = pending.pop()
            branch, bar = ("└─ ", "   ") if node in last else ("├─ ", "│  ")
            lines.append(f"{margin}{branch}{name(int(self.token[node]))}  {np.exp(self.log_prob[node]):.3g}")
            below = self.children(node)
            last.update(below[-1:])
            pending += [(child, margin + bar) for child in reversed(below)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.format()


class BeamResult(NamedTuple):
    """The result of ``beam_search`` for B prompts: K hypotheses each, the best first. K is at most ``beam``.

    tokens: int64 [B, K, length], with ``stop`` past the end of a hypothesis.
    scores: float64 [B, K], -inf for the missing hypotheses of a prompt that has fewer than K.
    lengths: int64 [B, K], with the ``stop`` that ended a hypothesis.
    trees: for each prompt, all nodes that the search kept at some step.
    nodes: int64 [B, K], the last node of a hypothesis in its tree, so ``trees[b].total[nodes[b, k]]`` is its
        log-probability; -1 for a missing hypothesis.
    """

    tokens: Array
    scores: Array
    lengths: Array
    trees: list[Tree]
    nodes: Array


def prompt(model: Any, tokens: Array) -> Prompt:
    """Return the step of a model, its state after all tokens of a prompt but the last, and the last token.

    model: a Stack that starts with an Embedding, looks back only and returns logits [T, B, V].
    tokens: integers [T], for one row, or [T, B]; T is at least 1.

    Raises TypeError or ValueError for another model or shape, or a token that the Embedding does not have.
    """
    part = check_part("model", model, codes=True)
    check_looks_back("model", part)
    if not takes_codes(part):
        raise ValueError(f"model: expected a Stack that starts with an Embedding, got {model!r}")
    tokens = _check.integers("tokens", tokens)
    if tokens.ndim not in (1, 2) or not len(tokens):
        raise ValueError(f"tokens: expected shape [T] or [T, B] with T at least 1, got {list(tokens.shape)}")
    tokens = tokens.reshape(len(tokens), -1).astype(np.int64)

    def step(last: Array, state: State) -> tuple[Array, State]:
        logits, state = model(last[None], state)
        return logits[0], state

    return Prompt(step, model(tokens[:-1])[1] if len(tokens) > 1 else None, tokens[-1])


def sample(
    logits: Array, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, rng: Any = None
) -> Array:
    """Draw one token per row from softmax(logits / temperature): logits [B, V] -> int64 [B].

    temperature: 0 always picks the most probable token, the lowest of equal ones.
    top_k: draw from the k most probable tokens only.
    top_p: draw from the smallest set of most probable tokens whose probabilities sum to at least top_p ("nucleus",
        Holtzman et al. 2020, arXiv 1904.09751), after temperature and top_k.
    rng: a numpy.random.Generator, a seed, or None for new randomness. Each row takes one uniform number, and none at
        temperature 0.

    Raises ValueError for a wrong shape, for NaN, +inf or a row of -inf only, and for a number out of range. Raises
    TypeError for a wrong type or dtype.
    """
    options = _sampling(temperature, top_k, top_p, rng)
    logits = _check.float_array("logits", logits)
    if logits.ndim != 2:
        raise ValueError(f"logits: expected shape [B, V], got {list(logits.shape)}")
    return _sample(_usable("logits", logits, some=True), *options)


def generate(
    step: Step,
    state: State,
    first: Array,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: Any = None,
    stop: int | None = None,
) -> Generated:
    """Generate ``length`` tokens per row. Each is drawn by ``sample`` and is the input of the next step.

    first: integers [B], the input of the first step.
    stop: a token that ends its row. The function returns when all rows have ended.

    The errors are those of ``sample``. Arguments are checked before the first step, logits after each step.
    """
    options = _sampling(temperature, top_k, top_p, rng)
    tokens, length, stop = _loop_arguments(first, "length", length, stop)
    batch = tokens.shape[0]
    drawn = np.full((batch, length), 0 if stop is None else stop, np.int64)
    lengths = np.full(batch, length, np.int64)
    running = np.ones(batch, bool)
    for t in range(length):
        logits, state = _call(step, tokens, state, stop)
        tokens = _sample(_usable("logits", logits, some=True), *options)
        if stop is not None:
            tokens[~running] = stop
            lengths[running & (tokens == stop)] = t + 1
            running &= tokens != stop
        drawn[:, t] = tokens
        if not running.any():
            break
    return Generated(drawn, lengths, state)


def beam_search(
    step: Step,
    state: State,
    first: Array,
    length: int,
    beam: int,
    *,
    stop: int | None = None,
    length_penalty: float = 0.0,
    batch_axis: int = -2,
) -> BeamResult:
    """Search the most probable continuations of up to ``length`` tokens with ``beam`` hypotheses per prompt.

    first: integers [B], the last token of each prompt.
    stop: a token that ends its hypothesis.
    length_penalty: the exponent a in score = log-probability / ((5 + n) / 6)^a for n tokens (Wu et al. 2016, arXiv
        1609.08144, eq. 14). Above 0, long hypotheses gain.

    Each step extends every hypothesis by every token, and keeps the ``beam`` best of these and of the hypotheses that
    have ended. Of equal scores, it keeps the one whose tokens come first in lexicographic order. It drops a hypothesis
    that has no possible continuation. With a beam of V^length the search is exhaustive.

    Raises ValueError or TypeError for wrong arguments before the first step, and for wrong logits or states after the
    step that returned them.
    """
    tokens, length, stop = _loop_arguments(first, "length", length, stop)
    beam = check_int("beam", beam, 1)
    length_penalty = _check.number("length_penalty", length_penalty, 0.0)
    search = _Search(step, state, tokens, stop, batch_axis)

    def score(total: Array, lengths: Array) -> Array:
        return total / ((5.0 + lengths) / 6.0) ** length_penalty

    for _ in range(length):
        log_prob = search.expand()
        B, K, V = log_prob.shape
        scores = score(search.total[..., None] + log_prob, (search.lengths + ~search.ended)[..., None])
        flat = scores.reshape(B, K * V)
        keep = min(beam, max(1, int(np.isfinite(flat).sum(axis=1).max(initial=0))))
        # Hypotheses lie in lexicographic order, so a stable sort breaks ties by it; sorted places keep that order.
        kept = np.sort(np.argsort(-flat, axis=1, kind="stable")[:, :keep], axis=1)
        search.keep(kept // V, kept % V, np.take_along_axis(log_prob.reshape(B, K * V), kept, axis=1))
        if search.over():
            break

    scores = score(search.total, search.lengths)
    order = np.argsort(-scores, axis=1, kind="stable")
    paths = np.full((*order.shape, length), 0 if stop is None else stop, np.int64)
    paths[..., : search.paths.shape[2]] = np.take_along_axis(search.paths, order[..., None], axis=1)
    trees, nodes = search.trees()
    picked = [np.take_along_axis(each, order, axis=1) for each in (scores, search.lengths, nodes)]
    return BeamResult(paths, picked[0], picked[1], trees, picked[2])


def continuations(
    step: Step, state: State, first: Array, depth: int, width: int, *, stop: int | None = None, batch_axis: int = -2
) -> list[Tree]:
    """Return the tree of most probable continuations of each prompt: ``width`` tokens after each node, ``depth`` deep.

    first: integers [B], the last token of each prompt.
    stop: a token after which nothing follows.

    Impossible tokens are left out. The last level has up to width^depth nodes per prompt, and the last step runs
    width^(depth - 1) rows per prompt. ``print(tree.format(vocabulary, "hell"))`` shows a tree. The errors are those of
    ``beam_search``.
    """
    tokens, depth, stop = _loop_arguments(first, "depth", depth, stop)
    width = check_int("width", width, 1)
    search = _Search(step, state, tokens, stop, batch_axis)
    for _ in range(depth):
        log_prob = search.expand()
        B, K = log_prob.shape[:2]
        best = np.argsort(-log_prob, axis=2, kind="stable")[..., :width]
        source = np.broadcast_to(np.arange(K)[:, None], best.shape)
        picked = np.take_along_axis(log_prob, best, axis=2)
        search.keep(*(each.reshape(B, K * best.shape[2]) for each in (source, best, picked)))
        if search.over():
            break
    return search.trees()[0]


class _Search:
    """K hypotheses for each of B prompts (row b*K + k of the state) and every node they ever had."""

    def __init__(self, step: Step, state: State, first: Array, stop: int | None, batch_axis: int) -> None:
        batch = first.shape[0]
        self._step, self._state, self._stop = step, state, stop
        self._axis = check_int("batch_axis", batch_axis, -64, 63)
        self._rows, self._previous = np.arange(batch), batch  # of the state: those the next step needs; how many it has
        _take_rows(state, self._rows, batch, self._axis, "state")  # a check
        self._tokens = first[:, None]
        self._node = np.full((batch, 1), -1)  # [B, K]: where each hypothesis stands
        self._slots: list[tuple[Array, ...]] = []  # for each step [B, K]: made, parent, token, log_prob, total
        self.total = np.zeros((batch, 1))
        self.lengths = np.zeros((batch, 1), np.int64)
        self.ended = np.zeros((batch, 1), bool)
        self.paths = np.zeros((batch, 1, 0), np.int64)

    def expand(self) -> Array:
        """A step: log-probabilities of every next token [B, K, V]. What has ended goes on by itself, as ``stop``."""
        if self._slots:
            self._state = _take_rows(self._state, self._rows, self._previous, self._axis, "state")
        self._previous = self._tokens.size
        logits, self._state = _call(self._step, self._tokens.reshape(-1), self._state, self._stop)
        z = _usable("logits", logits, some=False).astype(np.float64)
        with np.errstate(all="ignore"):
            z -= z.max(axis=1, keepdims=True)
            z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
        z[np.isnan(z)] = -np.inf  # a row of -inf alone: no token is possible
        log_prob = z.reshape(*self._tokens.shape, z.shape[1])
        if self._stop is not None:
            log_prob[self.ended] = -np.inf
            log_prob[self.ended, self._stop] = 0.0
        return log_prob

    def keep(self, source: Array, tokens: Array, log_prob: Array) -> None:
        """Go on with these hypotheses [B, K']: which one each continues, by which token, and how probable that is."""
        old = [np.take_along_axis(each, source, axis=1) for each in (self.total, self.ended, self._node, self.lengths)]
        total, ended, node, lengths = old[0] + log_prob, *old[1:]
        made = ~ended & np.isfinite(total)
        places = sum(slot[0].shape[1] for slot in self._slots) + np.arange(source.shape[1])
        self._slots.append((made, node, tokens, log_prob, total))
        self._rows = (np.arange(source.shape[0])[:, None] * self.total.shape[1] + source).reshape(-1)
        self._node = np.where(made, places, node)
        self.paths = np.concatenate([np.take_along_axis(self.paths, source[..., None], 1), tokens[..., None]], 2)
        self.total, self._tokens, self.lengths = total, tokens, lengths + ~ended
        self.ended = ended if self._stop is None else ended | (tokens == self._stop)

    def over(self) -> bool:
        """Whether every hypothesis has ended in ``stop`` or is impossible."""
        return self._stop is not None and bool((self.ended | ~np.isfinite(self.total)).all())

    def trees(self) -> tuple[list[Tree], Array]:
        """For each prompt its nodes, and for each hypothesis [B, K] the node where it stands."""
        batch = self.total.shape[0]
        if not self._slots:
            nothing = np.zeros(0, np.int64)
            return [Tree(nothing, nothing, np.zeros(0), np.zeros(0)) for _ in range(batch)], self._node
        made, parent, token, log_prob, total = (np.concatenate(each, axis=1) for each in zip(*self._slots, strict=True))
        number = np.concatenate([np.cumsum(made, axis=1) - 1, np.full((batch, 1), -1)], axis=1)  # at -1: the prompt
        trees = []
        for b in range(batch):
            own = made[b]
            columns = (number[b, parent[b, own]], token[b, own], log_prob[b, own], total[b, own])
            trees.append(Tree(*columns))
        there = np.isfinite(self.total)
        return trees, np.where(there, np.take_along_axis(number, np.where(there, self._node, -1), axis=1), -1)


def _sampling(temperature: Any, top_k: Any, top_p: Any, rng: Any) -> tuple[float, int | None, float | None, Any]:
    """The checked options of ``sample``, the generator last."""
    temperature = _check.number("temperature", temperature, 0.0)
    top_k = None if top_k is None else check_int("top_k", top_k, 1)
    top_p = None if top_p is None else _check.number("top_p", top_p, 0.0, 1.0, open_low=True, open_high=False)
    try:
        return temperature, top_k, top_p, np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise TypeError(f"rng: expected a numpy.random.Generator, a seed or None, got {rng!r}") from None


def _sample(logits: Array, temperature: float, top_k: int | None, top_p: float | None, rng: Any) -> Array:
    if temperature == 0:
        return logits.argmax(axis=1)
    batch, V = logits.shape
    with np.errstate(all="ignore"):
        z = logits.astype(np.float64)
        p = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    if (top_k is not None and top_k < V) or (top_p is not None and top_p < 1):
        order = np.argsort(-z, axis=1, kind="stable")  # by logit: at a high temperature probabilities may be equal
        ranked = np.take_along_axis(p, order, axis=1)
        if top_k is not None:
            ranked[:, top_k:] = 0.0
        if top_p is not None and top_p < 1:
            sums = np.cumsum(ranked, axis=1)
            ranked[:, 1:][sums[:, :-1] >= top_p * sums[:, -1:]] = 0.0  # what comes before is enough
        np.put_along_axis(p, order, ranked, axis=1)
    # Inverse of the cumulative sum. u is at most 1 - 2^-53 and the sum at least 1, so their product rounds to less than
    # the sum, and a token of probability 0 repeats the sum before it: neither is ever passed or hit.
    sums = np.cumsum(p, axis=1)
    return np.asarray((sums <= rng.random((batch, 1)) * sums[:, -1:]).sum(axis=1), np.int64)


def _loop_arguments(first: Any, name: str, steps: Any, stop: Any) -> tuple[Array, int, int | None]:
    """first as int64 [B], and the number of steps and ``stop``, checked."""
    first = _check.integers("first", first)
    if first.ndim != 1:
        raise ValueError(f"first: expected shape [B], got {list(first.shape)}")
    steps = check_int(name, steps, 0)
    return first.astype(np.int64), steps, None if stop is None else check_int("stop", stop, 0)


def _call(step: Step, tokens: Array, state: State, stop: int | None) -> tuple[Array, State]:
    """One step with its logits' shape and dtype checked."""
    answer = step(tokens, state)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"step: expected a function that returns (logits, state), got {type(answer).__name__}")
    logits, state = answer
    logits = _check.float_array("step's logits", logits)
    if logits.ndim != 2 or logits.shape[0] != tokens.size or not logits.shape[1]:
        raise ValueError(f"step's logits: expected shape [N, V] = [{tokens.size}, V], got {list(logits.shape)}")
    if stop is not None and stop >= logits.shape[1]:
        raise ValueError(f"stop: expected a token in [0, {logits.shape[1] - 1}], got {stop}")
    return logits, state


def _usable(name: str, logits: Array, some: bool) -> Array:
    """The logits, if no entry is NaN or +inf and (``some``) no row is -inf alone."""
    if not logits.shape[1]:
        raise ValueError(f"{name}: expected at least one token, got shape {list(logits.shape)}")
    bad = np.isnan(logits) | (logits == np.inf)
    if bad.any():
        where = np.argwhere(bad)[0].tolist()
        raise ValueError(f"{name}: expected finite numbers or -inf, got {logits[tuple(where)]} at {where}")
    if some and (rows := np.flatnonzero(logits.max(axis=1) == -np.inf)).size:
        raise ValueError(f"{name}: expected a possible token in every row, got -inf alone in row {rows[0]}")
    return logits


def _take_rows(state: State, rows: Array, batch: int, axis: int, path: str) -> State:
    """The state with these rows of each array; ValueError for an array that has not ``batch`` rows on the axis."""
    if state is None:
        return None
    if isinstance(state, (tuple, list)):
        parts = [_take_rows(part, rows, batch, axis, f"{path}[{i}]") for i, part in enumerate(state)]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if isinstance(state, dict):
        return {key: _take_rows(part, rows, batch, axis, f"{path}[{key!r}]") for key, part in state.items()}
    array = _check.array(path, state)
    if not -array.ndim <= axis < array.ndim or array.shape[axis] != batch:
        raise ValueError(f"{path}: expected {batch} rows on axis {axis} (batch_axis), got shape {list(array.shape)}")
    return array.take(rows, axis=axis)
