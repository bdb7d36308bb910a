"""Truncated back-propagation through time: a long sequence in pieces, the state carried from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .._arrays.host import take_lengths
from ..nn.layer import Layer
from ..nn.parameters import check_int
from ..nn.states import State
from ..nn.tape import Gradients
from .base import Array, Part, Structure, check_input, check_part, halvings


class Piece(NamedTuple):
    """The result of one piece of truncated BPTT.

    steps: the slice of x: x[steps].
    loss: the value that the loss function returned.
    grads: the gradients of this piece; ``grads.state`` is the gradient that is not passed on.
    state: the initial state of the next piece.
    """

    steps: slice
    loss: float
    grads: Gradients
    state: State


def truncated(
    layer: Any,
    x: Array,
    loss: Callable[[Array, slice], tuple[float, Array]],
    chunk: int,
    state: State = None,
    *,
    lengths: Any = None,
    need_x: bool = False,
) -> Iterator[Piece]:
    """Training forward and backward of ``chunk`` steps after ``chunk`` steps (Williams and Peng 1990, BPTT(h; h)).

    layer: a layer or structure that looks back only (one direction), such as a whole model in a Stack.
    x [T, B, I], or [T, B] for a Stack that starts with an Embedding; lengths: integers [B] or None.
    loss(y, steps) -> (value, dy): the loss of one piece, y the layer's output for x[steps], and its gradient.
    A piece starts from the state that the one before ended with, taken as a constant: while parameters do not change,
    the outputs are the bits of the whole sequence, and no gradient passes a border between pieces. Memory is that of
    one piece. With one piece (chunk at least T) the gradients are those of full BPTT.

    An iterator: parameters may be updated after each piece, or the gradients of several summed::

        for piece in truncated(rnn, x, loss, 64):
            opt.step(clip_grad_norm(piece.grads.params, 1.0)[0])

    ValueError, at the call, for a layer that looks ahead, or a chunk that a Pyramid's pairs do not fit in (a multiple
    of 2^halvings); what else forward and backward raise comes with the piece.
    """
    part: Any = check_part("layer", layer, codes=True)
    chunk = check_int("chunk", chunk, 1)
    check_looks_back("layer", part)
    if chunk % 2 ** halvings(part):
        raise ValueError(f"chunk: expected a multiple of {2 ** halvings(part)} (pairs of steps), got {chunk}")
    rows = take_lengths(lengths, check_input(part, x).shape[1], x.shape[0])

    def pieces(state: State) -> Iterator[Piece]:
        for start in range(0, x.shape[0], chunk):
            steps = slice(start, min(start + chunk, x.shape[0]))
            own = None if rows is None else (rows - start).clip(0, steps.stop - start)
            y, state, tape = part.forward(x[steps], state, lengths=own)
            value, dy = loss(y, steps)
            yield Piece(steps, value, part.backward(tape, dy, need_x=need_x), state)

    return pieces(state)  # the checks above are made now


def check_looks_back(name: str, part: Part) -> None:
    """Raises ValueError for a part in which some layer reads later steps."""
    for each in _layers(part):
        if each.bidirectional or getattr(each, "reverse", False):
            raise ValueError(f"{name}: expected one that looks back only (its state is carried on), got {each!r}")


def _layers(part: Part) -> Iterator[Layer]:
    """Every layer in a part."""
    if isinstance(part, Structure):
        for inner in part._parts:
            yield from _layers(inner)
    elif isinstance(part, Layer):
        yield part
