"""Decoding: sampling, beam search and the tree of likely continuations, for any step function on NumPy arrays.

A *step* is ``step(tokens, state) -> (logits, state)`` with tokens int64 [N] and logits [N, V] in float32 or float64,
one row a sequence. N is B, or B times what a search keeps, so it changes from call to call. ``prompt`` makes it from a
model in a Stack, or it is written by hand::

    model = Stack(Embedding(V, E), GRU(E, H), Linear(H, V))
    found = beam_search(*prompt(model, tokens), length=20, beam=5)

    def step(tokens, state):
        y, state = rnn(embed(tokens)[None], state)        # time-major: [1, N, E] -> [1, N, H]
        return out(y[0]), state

A *state* is None, an array, or tuples, lists and dicts of those, nested to any depth. Searches copy, drop and reorder
its rows, so every array needs its batch on the same axis: ``batch_axis``, by default -2, where rnnkern's [L*D, B, H]
has it. Whatever else belongs to a row (an encoder's output, say) goes into the state, to be reordered with it.

Log-probabilities are natural, in float64. Equal scores are ordered by token, lower first, so the same logits give the
same answer. A logit of -inf rules a token out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .parameters import check_int
from .structure.base import check_part, takes_codes
from .structure.pieces import check_looks_back
from .train import _check

Array = np.ndarray[Any, Any]
State = Any
Step = Callable[[Array, State], tuple[Array, State]]


class Prompt(NamedTuple):
    """What a search starts from: ``generate(*prompt, 100)``. first: int64 [B], the last token of each prompt."""

    step: Step
    state: State
    first: Array


class Generated(NamedTuple):
    """tokens int64 [B, length], ``stop`` past a row's end; lengths int64 [B], the ``stop`` that ended a row included.

    state: as after every token but the last, so that ``generate(step, state, tokens[:, -1], ...)`` goes on. (Rows that
    ended early were fed ``stop`` meanwhile.)
    """

    tokens: Array
    lengths: Array
    state: State


@dataclass(frozen=True, eq=False)
class Tree:
    """Continuations of one prompt. Node n is ``token[n]`` after what ``parent[n]`` stands for; -1 is the prompt itself.

    parent, token: int64 [N]. log_prob: float64 [N], of the token where it stands. total: float64 [N], the sum of
    log_prob from the prompt to the node. A parent stands before its children.
    """

    parent: Array
    token: Array
    log_prob: Array
    total: Array

    def children(self, node: int = -1) -> list[int]:
        """The nodes after this one, most probable first."""
        found = np.flatnonzero(self.parent == node)
        return [int(n) for n in found[np.lexsort((self.token[found], -self.log_prob[found]))]]

    def path(self, node: int) -> list[int]:
        """The tokens from the prompt to this node, its own last."""
        tokens = []
        while node != -1:
            tokens.append(int(self.token[node]))
            node = int(self.parent[node])
        return tokens[::-1]

    def format(self, names: Callable[[int], str] | Sequence[str] | None = None, root: str = "") -> str:
        """The tree as text, a line a node: the token and its probability after what stands above it.

        names: a function of a token, or a sequence (a vocabulary) by token; None: the number. root: the first line.
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
    """What a beam search found, best first. B prompts, K hypotheses: at most ``beam``, and no more than there are.

    tokens: int64 [B, K, length], ``stop`` past a hypothesis' end. scores: float64 [B, K]; -inf where a prompt has fewer
    than K continuations (tokens mean nothing there). lengths: int64 [B, K], the ``stop`` that ended one included.
    trees: for each prompt every node the search ever kept, dropped branches too. nodes: int64 [B, K], where in its tree
    a hypothesis ends (``trees[b].total[nodes[b, k]]`` is its log-probability), -1 where there is none.
    """

    tokens: Array
    scores: Array
    lengths: Array
    trees: list[Tree]
    nodes: Array


def prompt(model: Any, tokens: Array) -> Prompt:
    """The step of a model, the state after all tokens of a prompt but the last, and the last.

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
    """One token a row from softmax(logits / temperature): logits [B, V] -> int64 [B].

    temperature 0 takes the most probable token, the lowest of equals. top_k: from the k most probable alone. top_p:
    from the fewest most probable tokens whose probabilities sum to at least top_p ("nucleus": Holtzman et al. 2020,
    arXiv 1904.09751), after temperature and top_k. rng: a numpy.random.Generator, a seed, or None for fresh randomness;
    one uniform number a row is drawn (none at temperature 0).
    ValueError for a shape, NaN, +inf, a row of -inf alone or a number out of range; TypeError for a dtype or kind.
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
    """``length`` tokens a row, each drawn by ``sample`` and fed to the next step.

    first: integers [B], what the first step is fed. stop: a token that ends its row; the loop ends when every row has.
    Errors as ``sample``'s, before the first step for the arguments, and at the step that returned them for logits.
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
    """The most probable continuations of up to ``length`` tokens that a beam of ``beam`` hypotheses a prompt finds.

    first: integers [B], the last token of each prompt. At every step all continuations of the kept hypotheses by one
    token compete with each other and with those that ended in ``stop``, and the ``beam`` with the best scores are kept.
    A score is the log-probability divided by ((5 + n) / 6)^length_penalty for n tokens (Wu et al. 2016, arXiv
    1609.08144, eq. 14): 0, no penalty; above, long ones gain. Of equal scores the one whose tokens come first in
    lexicographic order is kept. With a beam of V^length the search is exhaustive.
    ValueError, TypeError before the first step for arguments, and at a step for its logits or state; a hypothesis
    without any possible continuation is dropped.
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
    """For each prompt the tree of most probable continuations: ``width`` tokens after every node, ``depth`` deep.

    first: integers [B], the last token of each prompt. Impossible tokens are left out and ``stop`` has no children. The
    last level has up to width^depth nodes a prompt, and one step runs width^(depth - 1) rows a prompt.
    ``print(tree.format(vocabulary, "hell"))`` shows it. Errors as beam_search's.
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
