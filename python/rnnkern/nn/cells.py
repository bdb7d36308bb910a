"""RNNCell, GRUCell, LSTMCell and sLSTMCell: one step at a time, as in torch.nn, and ``step_`` in place for streaming.

A cell is a one-layer stack seen one step at a time: the same plans, packing and tape checks, with torch's names for a
cell's parameters (no ``_l0``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _engine as engine
from .._arrays.devices import Caller, place
from .._arrays.host import NUMPY, Array, dtype_name
from ..options import check_keywords, parse, takes_options
from .layers import check_nonlinearity
from .parameters import Module, check_bool, check_int
from .states import State, apart, joined, split_state, widths
from .tape import Gradients, Tape, fingerprint

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..option_types import GruCellKeywords, LstmCellKeywords, RnnCellKeywords, SlstmCellKeywords


class Cell(Module):
    """Base of RNNCell, GRUCell, LSTMCell and sLSTMCell. B rows, I inputs, H units."""

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        bias: bool,
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        allow_tf32: bool = False,
        weights: str | None = None,
        **options: Any,
    ) -> None:
        check_keywords(type(self).__name__, cell, options, single_step=True)
        where = place(device)
        hidden_size = check_int("hidden_size", hidden_size, 1)
        spec = engine.Spec(
            cell,
            dtype_name(dtype),
            check_int("input_size", input_size, 1),
            hidden_size,
            bias=check_bool("bias", bias),
            options=parse(cell, hidden_size, options),
            device=where.name,
            allow_tf32=check_bool("allow_tf32", allow_tf32),
            weights=weights,
        )
        super().__init__(spec, spec.own_names, seed, where)

    @property
    def allow_tf32(self) -> bool:
        return self._spec.allow_tf32

    def __call__(self, x: Array, state: State = None) -> State:
        """One step. Returns the next state, in new arrays of the library of x.

        x: [B, I] or [I].
        state: h [B, H] or [H] (LSTMCell: the tuple (h, c); sLSTMCell: (h, c, n, m)), or None for zeros. For bfloat16
            and float16, all parts but h may be float32, and are float32 in the result.

        Errors are those of the layers, before any work.
        """
        return self._run(x, state, keep=False)[0]

    def forward(self, x: Array, state: State = None, *, train: bool = True) -> tuple[State, Tape]:
        """As a call of the cell, with random masks and a tape for ``backward``. Returns (state, tape).

        train: False turns the random masks of zoneout off.

        The tape refers to x, so do not change it before ``backward``.
        """
        state, tape = self._run(x, state, keep=True, train=check_bool("train", train))
        if tape is None:
            raise RuntimeError("no tape was kept")
        return state, tape

    def backward(self, tape: Tape, dstate: State) -> Gradients:
        """Gradients of sum(state * dstate).

        dstate: like the state. In a tuple, each part may be None.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected the tape that forward returned, got {type(tape).__name__}")
        weights = self._weights
        tape.check(self, weights)
        batched = len(tape.x_shape) == 2
        caller = tape.library
        dh, dc = self._take_state("dstate", dstate, tape.inner.inputs.x.shape[1], batched, caller, gradient=True)
        memory = caller.memory
        grads = engine.backward(weights.packed(True, memory), tape.inner, engine.OutputGradients(None, dh, dc), memory)
        give = caller.give
        params = {name: give(grad) for name, grad in zip(self._names, grads.params, strict=True)}
        dx = None if grads.x is None else give(grads.x.reshape(tape.x_shape))
        return Gradients(dx, self._give_state(grads.h, grads.c, batched, caller), params)

    def step_(self, x: Array, state: State) -> State:
        """One step that writes the next state into ``state`` and returns it: for streaming. It allocates no memory.

        x: [B, I] or [I].
        state: h [B, H] or [H], or (h, c): writable arrays that overlap neither each other nor x.

        The first step of a thread creates its scratch memory. The fastest case is contiguous NumPy arrays of one batch
        size. Two cases allocate: an sLSTMCell, and a GPU, where memory comes from the library's pool.
        """
        last = self._weights.last
        if last is not None and last.try_step(x, state):  # plain arrays as before: checked and done in one call
            return state
        view, caller = self._place.open(x, "x")
        if view.ndim not in (1, 2):
            raise ValueError(f"x: expected [B, I] or [I], got {view.ndim} axes, {list(view.shape)}")
        leading, axes = view.shape[:-1], "[B, {}]" if view.ndim == 2 else "[{}]"
        rows = caller.take(view, "x", (*leading, self._spec.input_size), axes.format("I"), self._narrow)
        taken = {"x": rows}
        split = split_state("state", state, self)
        for (part, label, dtypes), (width, letter) in zip(split, widths(self._spec), strict=True):
            taken[label] = caller.take_output(part, label, (*leading, width), axes.format(letter), dtypes, taken)
        if not caller.on_host:
            return self._step_apart(x, state, caller)
        views = list(taken.values())
        if len(split) > 2:
            self._step_apart(views[0], tuple(views[1:]), NUMPY)
            return state
        if not leading:
            views = [each[None] for each in views]
        self._weights.stepper(views[0].shape[0]).step(*views)
        return state

    def _step_apart(self, x: Array, state: State, caller: Caller) -> State:
        """A step whose kernels need the state elsewhere, or may write the new one before they have read all of it."""
        after = self._run(x, state, keep=False)[0]
        pairs = zip(state, after, strict=True) if isinstance(state, (tuple, list)) else [(state, after)]
        for old, new in pairs:
            caller.assign(old, new)
        return state

    def _run(self, x: Array, state: State, keep: bool, train: bool = False) -> tuple[State, Tape | None]:
        weights = self._weights
        spec = weights.spec
        if keep:
            self._check_trains()
        x, caller = self._place.open(x, "x")
        if x.ndim not in (1, 2):
            raise ValueError(f"x: expected [B, I] or [I], got {x.ndim} axes, {list(x.shape)}")
        batched = x.ndim == 2
        x = caller.take(x, "x", (*x.shape[:-1], spec.input_size), "[B, I]" if batched else "[I]", self._narrow)
        steps = x[None] if batched else x[None, None]
        h, c = self._take_state("state", state, steps.shape[1], batched, caller)
        if keep:
            h, c = (None if part is None else caller.copy(part) for part in (h, c))
        memory = caller.memory
        reserve = engine.new_reserve(spec, 1, steps.shape[1], False, memory) if keep else None
        masks = (self._seed, self._next_call()) if train and spec.options.random else None
        inputs = engine.Inputs(steps, h, c, None, masks)
        y, h_n, c_n = engine.forward(spec, weights.packed(keep, memory), inputs, memory, reserve=reserve)
        state = self._give_state(h_n, c_n, batched, caller)
        if reserve is None:
            return state, None
        inner = engine.Tape(spec, inputs, y, reserve)
        checked = (("x", x, fingerprint(x)),) if caller.on_host else ()
        return state, Tape(self, weights, inner, caller, tuple(x.shape), checked)

    def _take_state(
        self, name: str, state: State, batch: int, batched: bool, caller: Caller, gradient: bool = False
    ) -> tuple[Any, Any]:
        """h as [1, B, P] and the rest (states.py) as [1, B, C]; None for zeros."""
        if state is None:
            return None, None
        parts: list[Any] = []
        split = split_state(name, state, self, gradient)
        for (part, label, dtypes), (width, letter) in zip(split, widths(self._spec), strict=True):
            shape, meaning = ((batch, width), f"[B, {letter}]") if batched else ((width,), f"[{letter}]")
            array = None if part is None else caller.take(part, label, shape, meaning, dtypes)
            parts.append(array if array is None else array[None] if batched else array[None, None])
        return parts[0], joined(self._spec, parts[1:], caller)

    def _give_state(self, h: Any, c: Any, batched: bool, caller: Caller) -> State:
        h, c = (part if part is None else part[0] if batched else part[0, 0] for part in (h, c))
        return apart(self._spec, h, c, caller)

    def __repr__(self) -> str:
        spec = self._spec
        said = [f"{spec.input_size}, {spec.hidden_size}"]
        said += ["bias=False"] if not spec.bias else []
        said += ["nonlinearity='relu'"] if spec.cell == "rnn_relu" else []
        said += [f"{name}={value!r}" for name, value in spec.options.said().items()]
        said += [f"dtype={spec.dtype}"] if spec.dtype != "float32" else []
        said += [f"device={spec.device!r}"] if spec.device != "cpu" else []
        said += ["allow_tf32=True"] if spec.allow_tf32 else []
        said += [f"weights={spec.weights!r}"] if spec.weights else []
        return f"{type(self).__name__}({', '.join(said)})"


@takes_options("rnn", single_step=True)
class RNNCell(Cell):
    """One step of ``rnnkern.RNN``: h = cell(x, h), with h = f(W_ih x + b_ih + W_hh h' + b_hh), f = tanh or relu.

    The arguments are those of torch.nn.RNNCell, the keywords and errors those of ``rnnkern.RNN``. Parameters, with G =
    1: weight_ih [G*H, I], weight_hh [G*H, H], bias_ih and bias_hh [G*H].
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        **keywords: Unpack[RnnCellKeywords],
    ) -> None:
        super().__init__(f"rnn_{check_nonlinearity(nonlinearity)}", input_size, hidden_size, bias, **keywords)

    @property
    def nonlinearity(self) -> str:
        return self._spec.cell.removeprefix("rnn_")


@takes_options("gru", single_step=True)
class GRUCell(Cell):
    """One step of ``rnnkern.GRU``: h = cell(x, h).

    The arguments are those of torch.nn.GRUCell, the keywords and errors those of ``rnnkern.GRU``, the parameters those
    of ``rnnkern.RNNCell`` with G = 3.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        **keywords: Unpack[GruCellKeywords],
    ) -> None:
        super().__init__("gru", input_size, hidden_size, bias, **keywords)


@takes_options("lstm", single_step=True)
class LSTMCell(Cell):
    """One step of ``rnnkern.LSTM``: h, c = cell(x, (h, c)).

    The arguments are those of torch.nn.LSTMCell, the keywords and errors those of ``rnnkern.LSTM``, the parameters
    those of ``rnnkern.RNNCell`` with G = 4.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        **keywords: Unpack[LstmCellKeywords],
    ) -> None:
        super().__init__("lstm", input_size, hidden_size, bias, **keywords)


@takes_options("slstm", single_step=True)
class sLSTMCell(Cell):
    """One step of ``rnnkern.sLSTM``: h, c, n, m = cell(x, (h, c, n, m)).

    The arguments, keywords and errors are those of ``rnnkern.GRUCell``. The parameters are those of ``rnnkern.RNNCell``
    with G = 4.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        **keywords: Unpack[SlstmCellKeywords],
    ) -> None:
        super().__init__("slstm", input_size, hidden_size, bias, **keywords)
