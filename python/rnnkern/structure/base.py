"""What every structure shares: arguments checked before any work, parameters under one set of names, and the tape.

A structure is made of *parts*: recurrent layers (RNN, GRU, LSTM, sLSTM), layers without a state (``PerStep``), and
other structures. A subclass says how data flows through its parts (``_run``) and back (``_backward``), on arrays that
are checked already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from .._arrays.host import as_numpy, check, take_lengths
from ..nn.layer import Layer
from ..nn.parameters import check_bool
from ..nn.states import State, split_state, widths
from ..nn.tape import Gradients
from .per_step import PerStep

Array: TypeAlias = "np.ndarray[Any, Any]"
Part: TypeAlias = "Layer | PerStep | Structure"


@dataclass(frozen=True, eq=False, repr=False)
class Tape:
    """One training forward of a structure. Opaque to users: pass it to ``backward`` of the structure that made it."""

    module: Structure
    params: tuple[Array, ...]  # the very arrays: every update replaces at least one
    lengths: Array | None  # int64 [B], of x
    x_shape: tuple[int, ...]
    saved: Any  # the subclass's own, the tapes of the parts among it

    def __repr__(self) -> str:
        return f"<tape of {self.module!r}, x {list(self.x_shape)}>"


class Own:
    """Parameters that belong to a structure itself and to none of its parts."""

    def __init__(self, params: dict[str, Array]) -> None:
        self.params: Mapping[str, Array] = {}
        self.update(params)

    def update(self, params: Mapping[str, Array]) -> None:
        fresh = {**self.params, **{name: np.array(value, order="C", copy=True) for name, value in params.items()}}
        for value in fresh.values():
            value.flags.writeable = False
        self.params = fresh

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.params = {}
        self.update(state["params"])  # copied arrays are writable


class Structure:
    """Base of all structures. It works like a layer: ``y, state = m(x)``, ``forward``, ``backward``, ``params``,
    ``update``.

    Arrays are NumPy arrays with time first: x [T, B, input_size], in the dtype of the layers. Pass a [B, T, I] array as
    ``x.transpose(1, 0, 2)``, which copies nothing. If the first part is an Embedding, x is [T, B] of integers.
    """

    _parts: tuple[Part, ...]

    def _run(self, x: Array, state: State, lengths: Array | None, keep: bool, train: bool) -> tuple[Array, State, Any]:
        """x [T, B, I] -> y, state and, with ``keep``, what ``_backward`` needs."""
        raise NotImplementedError(f"{type(self).__name__} defines no _run")

    def _backward(self, tape: Tape, dy: Array | None, dstate: State, need_x: bool) -> Gradients:
        raise NotImplementedError(f"{type(self).__name__} defines no _backward")

    def _check_state(self, name: str, state: State, batch: int, gradient: bool) -> None:
        """Here: the state is that of the one part. Raises as a layer would, before any work."""
        check_state(self._parts[0], name, state, batch, gradient)

    def _state_layer(self) -> Layer | None:
        """The layer whose state is the structure's own state, if there is just one."""
        return state_layer(self._parts[0])

    def _holders(self) -> list[tuple[str, Any]]:
        """(prefix of the names, what has params and update) of all that has parameters."""
        return [("", self._parts[0])]

    # --- sizes --------------------------------------------------------------------------------------------------------

    @property
    def input_size(self) -> int:
        return self._parts[0].input_size

    @property
    def output_size(self) -> int:
        """Width of y."""
        return output_size(self._parts[-1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._parts[0].dtype

    @property
    def halvings(self) -> int:
        """The number of times that pyramids halve the time axis: T steps become ceil(T / 2^halvings)."""
        return sum(halvings(part) for part in self._parts)

    def output_lengths(self, lengths: Any) -> Any:
        """The lengths of the rows of y: ceil(length / 2^halvings), for an array or one number."""
        return -(-np.asarray(lengths) // 2**self.halvings) if not isinstance(lengths, int) else self._steps(lengths)

    def _steps(self, steps: int) -> int:
        return -(-steps // 2**self.halvings)

    # --- parameters ---------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Mapping[str, Array]:
        """Name -> read-only array with the current values."""
        return MappingProxyType({prefix + name: v for prefix, it in self._holders() for name, v in it.params.items()})

    def state_dict(self) -> dict[str, Array]:
        """Name -> a copy of the parameter. ``rk.save`` writes it."""
        return {name: value.copy() for name, value in self.params.items()}

    def update(self, params: Mapping[str, Array]) -> None:
        """Replace some parameters by copies of these NumPy arrays, all or none. Earlier tapes become invalid.

        An unknown name or a wrong shape raises ValueError and a wrong dtype raises TypeError, before any change.
        """
        self._replace("params", params, complete=False)

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Replace all parameters, as ``update`` does. A missing name raises ValueError."""
        self._replace("state_dict", state_dict, complete=True)

    def _replace(self, argument: str, params: Mapping[str, Array], complete: bool) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(f"{argument}: expected a mapping of names to arrays, got {type(params).__name__}")
        current = self.params
        unexpected = [name for name in params if name not in current]
        missing = [name for name in current if name not in params] if complete else []
        if unexpected or missing:
            said = [f"missing {', '.join(missing)}"] if missing else []
            said += [f"unexpected {', '.join(map(repr, unexpected))}"] if unexpected else []
            raise ValueError(f"{argument}: expected names of {list(current)}, got {'; '.join(said)}")
        for name, value in params.items():
            where = f"{argument}[{name!r}]"
            check(as_numpy(value, where), where, current[name].shape, name, (current[name].dtype,))
        for prefix, holder in self._holders():
            own = {name: params[prefix + name] for name in holder.params if prefix + name in params}
            if own:
                holder.update(own)

    # --- calls --------------------------------------------------------------------------------------------------------

    def __call__(self, x: Array, state: State = None, *, lengths: Any = None) -> tuple[Array, State]:
        """Inference: no random masks, no tape. x [T, B, I] or, for an Embedding, [T, B]. Returns (y [T', B, O], state).

        T' is ``output_lengths(T)`` and O is ``output_size``.

        state: the state of the structure, or None for zeros.
        lengths: integers [B] in [0, T], or None. Padding is never read, and y is zero there.

        Raises ValueError (shapes, lengths) and TypeError (dtypes, types of arguments) before any work.
        """
        y, state, _ = self._run(*self._taken(x, state, lengths), keep=False, train=False)
        return y, state

    def forward(
        self, x: Array, state: State = None, *, lengths: Any = None, train: bool = True
    ) -> tuple[Array, State, Tape]:
        """Training: as a call, with dropout unless ``train=False``, and with a tape for ``backward``.

        The tape refers to x and y, so do not change them before ``backward``.
        """
        x, state, rows = self._taken(x, state, lengths)
        y, state, saved = self._run(x, state, rows, keep=True, train=check_bool("train", train))
        return y, state, Tape(self, tuple(self.params.values()), rows, x.shape, saved)

    def backward(self, tape: Tape, dy: Array | None, dstate: State = None, *, need_x: bool = True) -> Gradients:
        """Gradients of sum(y * dy) + sum(state * dstate): ``grads.x``, ``grads.state``, ``grads.params``.

        dy: like y, or None for zeros.
        dstate: like the state, or None.

        ``grads.x`` is None if need_x is False or x holds integers. A second call with the same tape gives the same
        bits. Raises ValueError for a tape of another structure, or if parameters, x or y changed since the forward
        pass.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected the tape that forward returned, got {type(tape).__name__}")
        if tape.module is not self:
            raise ValueError(f"tape: expected a tape of this {self!r}, got one of another {tape.module!r}")
        now = tuple(self.params.values())
        if any(before is not after for before, after in zip(tape.params, now, strict=True)):
            raise ValueError("tape: the parameters were updated since its forward; run forward again")
        steps, batch, *_ = tape.x_shape
        if dy is not None:
            dy = _taken("dy", dy, (self._steps(steps), batch, self.output_size), "[T', B, output_size]", self.dtype)
        self._check_state("dstate", dstate, batch, gradient=True)
        return self._backward(tape, dy, dstate, check_bool("need_x", need_x))

    def _taken(self, x: Any, state: State, lengths: Any) -> tuple[Array, State, Array | None]:
        x = check_input(self, x)
        rows = take_lengths(lengths, x.shape[1], x.shape[0])
        self._check_state("state", state, x.shape[1], gradient=False)
        first = first_layer(self)
        if isinstance(first, PerStep) and first.codes:
            x = first.check_input(before_end(x, rows))  # codes in padding have no meaning, so any may stand there
        return x, state, rows


def _taken(name: str, array: Any, shape: tuple[int, ...], meaning: str, dtype: np.dtype[Any]) -> Array:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    check(array, name, shape, meaning, (dtype,))
    return array


# --- parts, whichever they are ----------------------------------------------------------------------------------------


def check_part(name: str, part: Any, codes: bool = False) -> Part:
    """A time-major layer or a structure; with ``codes`` also one that starts with an Embedding."""
    if not isinstance(part, (Layer, PerStep, Structure)):
        raise TypeError(
            f"{name}: expected an RNN, GRU, LSTM or sLSTM of rnnkern, a Linear or Embedding of rnnkern.train, or a "
            f"structure, got {type(part).__name__}"
        )
    if isinstance(part, Layer) and part.batch_first:
        raise ValueError(f"{name}: expected batch_first=False (structures are time-major), got {part!r}")
    if takes_codes(part) and not codes:
        raise ValueError(f"{name}: expected an Embedding only as the first layer of a Stack, got {part!r}")
    return part


def run(part: Part, x: Array, state: State, lengths: Array | None, keep: bool, train: bool) -> tuple[Array, State, Any]:
    """A part's inference or, with ``keep``, its training forward."""
    if isinstance(part, PerStep):
        x = before_end(x, lengths)
        y, tape = part.forward(x) if keep else (part(x), None)
        if lengths is not None:
            y[np.arange(len(y))[:, None] >= lengths] = 0
        return y, None, tape
    if keep:
        return part.forward(x, state, lengths=lengths, train=train)
    return (*part(x, state, lengths=lengths), None)


def run_backward(
    part: Part, tape: Any, dy: Array | None, dstate: State, lengths: Array | None, need_x: bool
) -> Gradients:
    """A part's gradients. lengths: those of the rows of y."""
    if not isinstance(part, PerStep):
        return part.backward(tape, dy, dstate, need_x=need_x)
    dy = np.zeros((*tape.x.shape[:2], part.output_size), part.dtype) if dy is None else before_end(dy, lengths)
    return part.backward(tape, dy, need_x=need_x)  # type: ignore[no-any-return]


def check_input(part: Part, x: Any) -> Array:
    """x, if it is an array of the part's shape and dtype; codes are left to the Embedding."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x: expected a NumPy array, got {type(x).__name__}")
    axes = "[T, B]" if takes_codes(part) else "[T, B, I]"
    if x.ndim != axes.count(",") + 1:
        raise ValueError(f"x: expected {axes}, got {x.ndim} axes, {list(x.shape)}")
    return x if takes_codes(part) else _taken("x", x, (*x.shape[:2], part.input_size), axes, part.dtype)


def first_layer(part: Part) -> Layer | PerStep:
    """The layer that x enters."""
    return first_layer(part._parts[0]) if isinstance(part, Structure) else part


def takes_codes(part: Part) -> bool:
    """Whether x holds integers, [T, B]: whether the first layer is an Embedding."""
    return getattr(first_layer(part), "codes", False)


def output_size(part: Part) -> int:
    """Width of a part's y."""
    if not isinstance(part, Layer):
        return part.output_size
    return part.spec.directions * (part.proj_size or part.hidden_size)


def halvings(part: Part) -> int:
    return part.halvings if isinstance(part, Structure) else 0


def state_layer(part: Part) -> Layer | None:
    """The layer whose state is the part's own state, if there is just one."""
    if isinstance(part, Structure):
        return part._state_layer()
    return part if isinstance(part, Layer) else None


def check_state(part: Part, name: str, state: State, batch: int, gradient: bool) -> None:
    """Shapes and dtypes of a part's state, or of its gradient, whose parts may be None and wider."""
    if state is None:
        return
    if isinstance(part, Structure):
        part._check_state(name, state, batch, gradient)
        return
    if isinstance(part, PerStep):
        raise TypeError(f"{name}: expected None ({type(part).__name__} has no state), got {type(state).__name__}")
    leading = part.num_layers * part.spec.directions
    split = split_state(name, state, part, gradient)
    for (array, label, dtypes), (width, letter) in zip(split, widths(part.spec), strict=True):
        if array is not None:
            check(as_numpy(array, label), label, (leading, batch, width), f"[L*D, B, {letter}]", dtypes)


def before_end(array: Array, lengths: Array | None) -> Array:
    """[T, B, ...] with zeros past each row's length; the array itself where they are there already.

    Selects instead of multiplying, so padding may hold NaN.
    """
    if lengths is None:
        return array
    past = np.arange(array.shape[0])[:, None] >= lengths
    if not array[past].any():
        return array
    return np.where(past.reshape(*past.shape, *[1] * (array.ndim - 2)), array.dtype.type(0), array)
