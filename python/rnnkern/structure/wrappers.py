"""What goes around one layer: Merge of two directions, Pyramid over time, a learned InitialState."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..nn.layer import Layer
from ..nn.layers import LSTM
from ..nn.parameters import check_bool, check_int
from ..nn.states import NAMES, State, widths
from ..nn.tape import Gradients
from .base import (
    Array,
    Own,
    Part,
    Structure,
    Tape,
    before_end,
    check_part,
    halvings,
    output_size,
    run,
    run_backward,
    state_layer,
)
from .stack import Stack

MERGES = ("concat", "sum", "mean", "mul")


class Merge(Structure):
    """Merge the two directions of a bidirectional layer: f, the first half of its output, and r, the second half.

    concat: y = [f, r], the output of the layer itself; sum: y = f + r; mean: y = (f + r) / 2; mul: y = f * r, by
        element. (This is Keras's ``merge_mode``; its "ave" is mean here.) All but concat return a y of half the width,
        [T, B, P].

    layer: a bidirectional layer with num_layers=1, or such a layer inside InitialState or Pyramid. For several layers
        use ``Stack(Merge(...), Merge(...))``.

    State and parameters are those of the layer.
    """

    def __init__(self, layer: Any, mode: str = "concat") -> None:
        part = check_part("layer", layer)
        own = state_layer(part)
        merged = own is not None and output_size(part) != 2 * (own.proj_size or own.hidden_size)
        if own is None or not own.bidirectional or own.num_layers != 1 or merged:
            raise ValueError(f"layer: expected bidirectional=True and num_layers=1, got {layer!r}")
        if mode not in MERGES:
            raise ValueError(f"mode: expected one of {', '.join(MERGES)}, got {mode!r}")
        self._parts, self._mode = (part,), mode

    @property
    def mode(self) -> str:
        return self._mode

    @property
    def output_size(self) -> int:
        width = output_size(self._parts[0])
        return width if self._mode == "concat" else width // 2

    def _run(self, x: Array, state: State, lengths: Array | None, keep: bool, train: bool) -> tuple[Array, State, Any]:
        both, state, tape = run(self._parts[0], x, state, lengths, keep, train)
        if self._mode == "concat":
            return both, state, (tape, None)
        f, r = np.split(both, 2, axis=2)
        y = f * r if self._mode == "mul" else f + r
        if self._mode == "mean":
            y *= y.dtype.type(0.5)
        return y, state, (tape, both if keep and self._mode == "mul" else None)

    def _backward(self, tape: Tape, dy: Array | None, dstate: State, need_x: bool) -> Gradients:
        own, both = tape.saved
        if dy is not None and self._mode != "concat":
            if self._mode == "mul":
                f, r = np.split(both, 2, axis=2)
                dy = np.concatenate([dy * r, dy * f], axis=2)
            else:
                half = dy if self._mode == "sum" else dy * dy.dtype.type(0.5)
                dy = np.concatenate([half, half], axis=2)
        return run_backward(self._parts[0], own, dy, dstate, tape.lengths, need_x)

    def __repr__(self) -> str:
        return f"Merge({self._parts[0]!r}, {self._mode!r})"


class Pyramid(Structure):
    """A layer that reads pairs of steps, so that T halves (Chan et al. 2016, arXiv 1508.01211, section 3.1):

        y_t = layer([x_{2t}, x_{2t+1}])

    layer: a layer or structure whose input size is twice that of x.

    If T or the length of a row is odd, the second half of the last pair is zero. ``output_lengths`` returns the new
    lengths, ceil(length / 2). State and parameters are those of the layer.
    """

    def __init__(self, layer: Any) -> None:
        part = check_part("layer", layer)
        if part.input_size % 2:
            raise ValueError(f"layer: expected an even input size (two steps of x side by side), got {part.input_size}")
        self._parts: tuple[Part, ...] = (part,)

    @property
    def input_size(self) -> int:
        return self._parts[0].input_size // 2

    @property
    def halvings(self) -> int:
        return 1 + halvings(self._parts[0])

    def _run(self, x: Array, state: State, lengths: Array | None, keep: bool, train: bool) -> tuple[Array, State, Any]:
        halved = None if lengths is None else (lengths + 1) // 2
        y, state, tape = run(self._parts[0], pairs(x, lengths), state, halved, keep, train)
        return y, state, (tape, halved)

    def _backward(self, tape: Tape, dy: Array | None, dstate: State, need_x: bool) -> Gradients:
        own, halved = tape.saved
        grads = run_backward(self._parts[0], own, dy, dstate, halved, need_x)
        if grads.x is None:
            return grads
        steps, batch, width = tape.x_shape
        halves = grads.x.reshape(len(grads.x), batch, 2, width).transpose(0, 2, 1, 3)
        apart = halves.reshape(2 * len(halves), batch, width)[:steps]
        return Gradients(x=before_end(apart, tape.lengths), state=grads.state, params=grads.params)

    def __repr__(self) -> str:
        return f"Pyramid({self._parts[0]!r})"


def pairs(x: Array, lengths: Array | None) -> Array:
    """[T, B, I] -> [ceil(T/2), B, 2I]: neighbouring steps side by side, zeros for what is past a row's end."""
    steps, batch, width = x.shape
    out = np.zeros(((steps + 1) // 2, batch, 2, width), x.dtype)
    x = before_end(x, lengths)
    out[:, :, 0] = x[0::2]
    out[: steps // 2, :, 1] = x[1::2]
    return out.reshape(len(out), batch, 2 * width)


class PyramidalLSTM(Stack):
    """The listener of Listen, Attend and Spell (arXiv 1508.01211): LSTM layers that each halve the time axis.

    x [T, B, input_size] -> y [ceil(T / 2^num_layers), B, D*H]. Layer k is ``Pyramid(LSTM(...))`` and reads pairs of
    steps of the layer below; the first one reads pairs of x. (The paper has one plain layer below three of these:
    ``Stack(LSTM(I, H, bidirectional=True), PyramidalLSTM(2 * H, H, 3))``.)

    dropout: dropout probability between the layers, as in Stack.
    seed: seed of the initial values and the masks.

    Other keywords go to every LSTM. The state (a tuple of num_layers pairs (h, c), each [D, B, H]) and the names
    ("<k>.weight_ih_l0") are those of a Stack.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = True,
        dropout: float = 0.0,
        dtype: Any = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        width = check_int("input_size", input_size, 1)
        count = check_int("num_layers", num_layers, 1)
        seed = None if seed is None else check_int("seed", seed, 0, 2**64 - 1)
        seeds = [int(word) for word in np.random.SeedSequence(seed).generate_state(count + 1, np.uint64)]
        layers: list[Pyramid] = []
        for k in range(count):
            lstm = LSTM(
                2 * width, hidden_size, bidirectional=check_bool("bidirectional", bidirectional), dtype=dtype,
                seed=seeds[k], **options,
            )  # fmt: skip
            layers.append(Pyramid(lstm))
            width = output_size(lstm)
        super().__init__(*layers, dropout=dropout, seed=seeds[count])


class InitialState(Structure):
    """A layer with a learned initial state: parameters h_0_l{k} [P], and for LSTM c_0_l{k} [H], shared by all rows.

    layer: an RNN, GRU, LSTM or sLSTM, or one of these inside Merge or Pyramid.

    The suffix ``_reverse`` marks the second direction. The parameters start as zeros. An sLSTM also learns m_0, and its
    n_0 is 1, because only c exp(m) and n exp(m) affect its results. If a call passes a state, the call uses that state
    and the gradient of the parameters is zero. So call the first piece of a sequence without a state, and the others
    with the carried state. Otherwise the gradient of the parameters is ``grads.state``, summed over the rows.
    """

    def __init__(self, layer: Any) -> None:
        part = check_part("layer", layer)
        own = state_layer(part)
        if own is None or "h_0_l0" in part.params:
            raise TypeError(
                f"layer: expected an RNN, GRU, LSTM or sLSTM, or one inside Merge or Pyramid, got {layer!r}"
            )
        self._parts = (part,)
        self._layer: Layer = own
        entries = {f"{state}_0": width for state, (width, _) in zip(NAMES, widths(own.spec), strict=False)}
        suffixes = [f"_l{k}{end}" for k in range(own.num_layers) for end in ("", "_reverse")[: own.spec.directions]]
        self._ones = {"n_0"} & entries.keys()
        self._names = {state: [state + suffix for suffix in suffixes] for state in entries if state not in self._ones}
        self._own = Own({name: np.zeros(entries[s], own.dtype) for s, names in self._names.items() for name in names})

    def _holders(self) -> list[tuple[str, Any]]:
        return [("", self._parts[0]), ("", self._own)]

    def _learned(self, params: Mapping[str, Array], batch: int) -> State:
        """The parameters as a state of ``batch`` equal rows (a view)."""
        stacked = {s: np.stack([params[name] for name in names])[:, None] for s, names in self._names.items()}
        if self._ones:
            stacked = {s: stacked.get(s, np.ones_like(stacked["c_0"])) for s in ("h_0", "c_0", "n_0", "m_0")}
        states = [np.broadcast_to(s, (s.shape[0], batch, s.shape[2])) for s in stacked.values()]
        return tuple(states) if len(states) > 1 else states[0]

    def _run(self, x: Array, state: State, lengths: Array | None, keep: bool, train: bool) -> tuple[Array, State, Any]:
        learned = state is None
        state = self._learned(self._own.params, x.shape[1]) if learned else state
        y, state, tape = run(self._parts[0], x, state, lengths, keep, train)
        return y, state, (tape, learned)

    def _backward(self, tape: Tape, dy: Array | None, dstate: State, need_x: bool) -> Gradients:
        own, learned = tape.saved
        grads = run_backward(self._parts[0], own, dy, dstate, tape.lengths, need_x)
        parts = grads.state if isinstance(grads.state, tuple) else (grads.state,)
        params = dict(grads.params)
        if self._ones:
            parts = (*parts[:2], parts[3])
        for names, part in zip(self._names.values(), parts, strict=True):
            summed = part.sum(axis=1) if learned else np.zeros((len(names), part.shape[2]))
            params |= {name: row.astype(self.dtype) for name, row in zip(names, summed, strict=True)}
        return Gradients(x=grads.x, state=grads.state, params=params)

    def __repr__(self) -> str:
        return f"InitialState({self._parts[0]!r})"
