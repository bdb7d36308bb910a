"""Stack: layers of any widths one above the other, with residual connections and dropout between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from ..nn import parameters
from ..nn.parameters import check_int
from ..nn.states import State
from ..nn.tape import Gradients
from .base import (
    Array,
    Part,
    Structure,
    Tape,
    before_end,
    check_part,
    check_state,
    halvings,
    output_size,
    run,
    run_backward,
    takes_codes,
)


class Stack(Structure):
    """A stack of layers of any widths, with dropout and residual connections. k counts from 0, x_0 is x and y is x_L:

        x_{k+1} = drop(f_k(x_k))            or, if layer k is residual,  drop(f_k(x_k)) + x_k

    layers: RNN, GRU, LSTM, sLSTM, structures, and Linear and Embedding of rnnkern.train. The input width of each is the
        output width of the one below. Hidden sizes, cells and directions may differ. If the first is an Embedding, x is
        [T, B] of integers. A whole model is ``Stack(Embedding(V, E), LSTM(E, H), Linear(H, V))``.
    residual: True for every layer, or one flag per layer. A residual layer must keep the number of features and steps.
        (Wu et al. 2016, arXiv 1609.08144, section 3.1: deep stacks train with it that do not train without it.)
    dropout: dropout probability of the output of every layer but the last, in ``forward`` unless train=False. The
        residual path has no dropout.
    seed: key of the dropout masks; None draws one. The mask of layer k is Philox4x32-10 with the counter (call, k, t,
        row*H + unit), where H is the output width. It does not depend on the split of the work.

    The state is a tuple with one entry per layer, and so are ``dstate`` and ``grads.state``. None, for one entry or for
    all, means zeros; the entry of a Linear or Embedding is always None. Parameter names are "<k>.<name>". Raises
    ValueError for widths that do not fit or a probability out of range, and TypeError for a value that is no layer.
    """

    def __init__(
        self, *layers: Any, residual: bool | Sequence[bool] = False, dropout: float = 0.0, seed: int | None = None
    ) -> None:
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        self._parts = tuple(check_part(f"layers[{k}]", layer, codes=k == 0) for k, layer in enumerate(layers))
        for k, (below, above) in enumerate(zip(self._parts, self._parts[1:], strict=False), 1):
            if output_size(below) != above.input_size:
                raise ValueError(
                    f"layers[{k}]: expected input size {output_size(below)}, the output size of layers[{k - 1}], "
                    f"got {above.input_size}"
                )
            if below.dtype != above.dtype:
                raise TypeError(f"layers[{k}]: expected dtype {below.dtype}, as layers[{k - 1}] has, got {above.dtype}")
        self._residual = self._check_residual(residual)
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float, np.floating)) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout!r}")
        self._dropout = float(dropout)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
        self._seed = check_int("seed", seed, 0, 2**64 - 1)
        self._call = 0

    def _check_residual(self, residual: Any) -> tuple[bool, ...]:
        count = len(self._parts)
        flags = (residual,) * count if isinstance(residual, (bool, np.bool_)) else residual
        if not isinstance(flags, (tuple, list)) or not all(isinstance(flag, (bool, np.bool_)) for flag in flags):
            raise TypeError(f"residual: expected a bool or one a layer, got {residual!r}")
        if len(flags) != count:
            raise ValueError(f"residual: expected {count} flags, one a layer, got {len(flags)}")
        for k, part in enumerate(self._parts):
            if flags[k] and takes_codes(part):
                raise ValueError(f"residual: expected no flag for layers[{k}], whose x holds integers, got True")
            if flags[k] and part.input_size != output_size(part):
                raise ValueError(
                    f"residual: expected layers[{k}] to be as wide at its output as at its input, got input size "
                    f"{part.input_size} and output size {output_size(part)} (one flag a layer leaves it out)"
                )
            if flags[k] and halvings(part):
                raise ValueError(f"residual: expected layers[{k}] to give as many steps as it takes, got {part!r}")
        return tuple(bool(flag) for flag in flags)

    @property
    def layers(self) -> tuple[Part, ...]:
        return self._parts

    @property
    def residual(self) -> tuple[bool, ...]:
        """One flag per layer."""
        return self._residual

    @property
    def dropout(self) -> float:
        return self._dropout

    @property
    def call(self) -> int:
        """Number of the next call that draws dropout masks. Set it to repeat a call."""
        return self._call

    @call.setter
    def call(self, value: int) -> None:
        self._call = check_int("call", value, 0, 2**32 - 1)

    def _next_call(self) -> int:
        with parameters._lock:  # held for two lines, as for a layer's own count
            call = self._call
            self._call = (call + 1) & 0xFFFF_FFFF
        return call

    def _state_layer(self) -> None:
        return None  # it has a state for each

    def _holders(self) -> list[tuple[str, Any]]:
        return [(f"{k}.", part) for k, part in enumerate(self._parts)]

    def _check_state(self, name: str, state: State, batch: int, gradient: bool) -> None:
        if state is None:
            return
        if not isinstance(state, (tuple, list)):
            raise TypeError(f"{name}: expected a tuple of {len(self._parts)} states, got {type(state).__name__}")
        if len(state) != len(self._parts):
            raise ValueError(f"{name}: expected {len(self._parts)} states, one a layer, got {len(state)}")
        for k, (part, own) in enumerate(zip(self._parts, state, strict=True)):
            check_state(part, f"{name}[{k}]", own, batch, gradient)

    def _run(self, x: Array, state: State, lengths: Array | None, keep: bool, train: bool) -> tuple[Array, State, Any]:
        states = [None] * len(self._parts) if state is None else state
        call = self._next_call() if train and self._dropout > 0 and len(self._parts) > 1 else None
        finals, tapes = [], []
        for k, part in enumerate(self._parts):
            y, final, tape = run(part, x, states[k], lengths, keep, train)
            if isinstance(part, Structure) and lengths is not None:
                lengths = part.output_lengths(lengths)
            y = self._drop(k, y, call, lengths)
            x = y + before_end(x, lengths) if self._residual[k] else y
            finals.append(final)
            tapes.append((tape, lengths))
        return x, tuple(finals), (tapes, call)

    def _backward(self, tape: Tape, dy: Array | None, dstate: State, need_x: bool) -> Gradients:
        tapes, call = tape.saved
        dstates = [None] * len(self._parts) if dstate is None else dstate
        states: list[State] = [None] * len(self._parts)
        params: dict[str, Array] = {}
        for k in range(len(self._parts) - 1, -1, -1):
            own, lengths = tapes[k]
            dropped = None if dy is None else self._drop(k, dy, call, lengths)
            grads = run_backward(self._parts[k], own, dropped, dstates[k], lengths, need_x or k > 0)
            states[k] = grads.state
            params |= {f"{k}.{name}": value for name, value in grads.params.items()}
            past = self._residual[k] and dy is not None and grads.x is not None
            dy = grads.x + before_end(dy, lengths) if past else grads.x  # type: ignore[arg-type]
        return Gradients(x=dy, state=tuple(states), params={name: params[name] for name in self.params})

    def _drop(self, k: int, array: Array, call: int | None, lengths: Array | None) -> Array:
        """Dropout of what layer k gave, or of its gradient: the mask is the same, and it is linear."""
        if call is None or k == len(self._parts) - 1:
            return array
        thinned = np.empty(array.shape, array.dtype)
        _core.dropout(array, thinned, self._dropout, (self._seed, call, k), lengths)
        return thinned

    def __repr__(self) -> str:
        said = [repr(part) for part in self._parts]
        if any(self._residual):
            said += [f"residual={all(self._residual) or self._residual}"]
        said += [f"dropout={self._dropout}"] if self._dropout else []
        return f"{type(self).__name__}({', '.join(said)})"
