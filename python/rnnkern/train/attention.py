"""Dot-product attention of a decoder over an encoder's outputs, with its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays.host import take_lengths
from . import _check


@dataclass(frozen=True, eq=False, repr=False)
class AttentionTape:
    """What ``forward`` keeps for ``backward``: query [B, T, M], memory [B, S, M], weights [B, T, S]."""

    query: np.ndarray
    memory: np.ndarray
    weights: np.ndarray


class Attention:
    """A decoder's look at an encoder's outputs (Luong et al. 2015, arXiv 1508.04025, section 3.1, score "dot"):

        weights[b, t, s] = softmax over s of (query[t, b] . memory[s, b])
        context[t, b] = sum over s of weights[b, t, s] * memory[s, b]

    query [T, B, M], memory [S, B, M] -> context [T, B, M], weights [B, T, S]; float32 or float64, no parameters.
    lengths: integers [B] in [1, S], the valid steps of memory. The others get the weight 0, and what stands there is
        never used. None: all are valid.

    Raises TypeError for a wrong type or dtype, ValueError for a wrong shape or length, before any work.
    """

    def __call__(self, query: np.ndarray, memory: np.ndarray, *, lengths: Any = None) -> tuple[np.ndarray, np.ndarray]:
        context, weights, _ = self.forward(query, memory, lengths=lengths)
        return context, weights

    def forward(
        self, query: np.ndarray, memory: np.ndarray, *, lengths: Any = None
    ) -> tuple[np.ndarray, np.ndarray, AttentionTape]:
        """As a call, and the tape for ``backward``."""
        query, memory = _check.float_array("query", query), _check.float_array("memory", memory)
        if query.ndim != 3 or 0 in query.shape[1:]:
            raise ValueError(f"query: expected shape [T, B, M] without an empty B or M, got {list(query.shape)}")
        _, B, M = query.shape
        if memory.ndim != 3 or memory.shape[1:] != (B, M) or not len(memory):
            raise ValueError(f"memory: expected shape [S, {B}, {M}] with S at least 1, got {list(memory.shape)}")
        _check.shaped("memory", memory, memory.shape, query.dtype)
        rows = take_lengths(lengths, B, len(memory))
        query, memory = np.array(query.swapaxes(0, 1)), np.array(memory.swapaxes(0, 1))  # a product for each row
        padding = None
        if rows is not None:
            if rows.min() < 1:
                raise ValueError(f"lengths: expected values in [1, {memory.shape[1]}], got {rows.min()}")
            padding = np.arange(memory.shape[1]) >= rows[:, None]
            memory[padding] = 0
        with np.errstate(all="ignore"):  # NaN and infinity pass through without a word
            weights = query @ memory.swapaxes(1, 2)
            if padding is not None:
                np.copyto(weights, -np.inf, where=padding[:, None])
            weights -= weights.max(axis=2, keepdims=True)
            np.exp(weights, out=weights)
            weights /= weights.sum(axis=2, keepdims=True)
            context = np.ascontiguousarray((weights @ memory).swapaxes(0, 1))
        return context, weights.copy(), AttentionTape(query, memory, weights)

    def backward(self, tape: AttentionTape, dcontext: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dcontext [T, B, M] -> dquery [T, B, M], dmemory [S, B, M], which is 0 past a row's length.

        With p the weights: dp = dcontext . memory, dscore = p (dp - sum over s of p dp), dquery = dscore memory,
        dmemory = p^T dcontext + dscore^T query. The same tape gives the same bits again.
        """
        if not isinstance(tape, AttentionTape):
            raise TypeError(f"tape: expected the tape of a forward call, got {type(tape).__name__}")
        B, T, M = tape.query.shape
        dcontext = _check.shaped("dcontext", dcontext, (T, B, M), tape.query.dtype).swapaxes(0, 1)
        p = tape.weights
        with np.errstate(all="ignore"):
            dp = dcontext @ tape.memory.swapaxes(1, 2)
            dscore = p * (dp - (p * dp).sum(axis=2, keepdims=True))
            dquery = dscore @ tape.memory
            dmemory = p.swapaxes(1, 2) @ dcontext + dscore.swapaxes(1, 2) @ tape.query
        return np.ascontiguousarray(dquery.swapaxes(0, 1)), np.ascontiguousarray(dmemory.swapaxes(0, 1))
