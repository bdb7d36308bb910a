"""``Layer``, what all layers on plain arrays share.

This file decides what a user's arguments mean (layouts, states, lengths, whose array the answer is) and hands whole
arrays to ``rnnkern._engine``, which decides how they are computed.
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np

from .. import _engine as engine
from .._arrays.devices import HOST, Caller, place
from .._arrays.host import NUMPY, Array, Dtypes, dtype_name
from ..options import check_keywords, parse
from .parameters import Module, check_bool, check_int
from .states import State, apart, joined, split_state, widths
from .tape import Gradients, Tape, fingerprint


class Layer(Module):
    """Base of RNN, GRU, LSTM and sLSTM. T steps, B rows, I inputs, H units, L layers, D directions."""

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        recompute: bool = False,
        reverse: bool = False,
        allow_tf32: bool = False,
        weights: str | None = None,
        **options: Any,
    ) -> None:
        check_keywords(type(self).__name__, cell, options)
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float, np.floating)) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout!r}")
        where = place(device)
        hidden_size = check_int("hidden_size", hidden_size, 1)
        spec = engine.Spec(
            cell,
            dtype_name(dtype),
            check_int("input_size", input_size, 1),
            hidden_size,
            check_int("num_layers", num_layers, 1),
            check_bool("bias", bias),
            check_bool("bidirectional", bidirectional),
            float(dropout),
            recompute=check_bool("recompute", recompute),
            reverse=check_bool("reverse", reverse),
            options=parse(cell, hidden_size, options),
            device=where.name,
            allow_tf32=check_bool("allow_tf32", allow_tf32),
            weights=weights,
        )
        self._batch_first = check_bool("batch_first", batch_first)
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} has no effect: it applies to the output of every layer except the last, and "
                "num_layers is 1",
                stacklevel=3,
            )
        super().__init__(spec, spec.param_names, seed, where)

    @property
    def num_layers(self) -> int:
        return self._spec.num_layers

    @property
    def batch_first(self) -> bool:
        return self._batch_first

    @property
    def dropout(self) -> float:
        return self._spec.dropout

    @property
    def bidirectional(self) -> bool:
        return self._spec.bidirectional

    @property
    def recompute(self) -> bool:
        return self._spec.recompute

    @property
    def reverse(self) -> bool:
        return self._spec.reverse

    @property
    def allow_tf32(self) -> bool:
        return self._spec.allow_tf32

    def __call__(
        self,
        x: Array | None = None,
        state: State = None,
        *,
        gx: Array | None = None,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        out: Array | None = None,
    ) -> tuple[Array, State]:
        """Inference: no random masks, no tape. Returns (y, state).

        x: [T, B, I], or [B, T, I] with batch_first, or unbatched [T, I]; the dtype of the layer; any strides.
        gx: in the place of x, the input product of the first layer, ``x W_ih^T + b_ih``, with D*G*H columns in the
            place of I: the forward direction first, the gates in the order of weight_ih. On a CPU, without layer_norm.
        state: h_0 [L*D, B, P] (LSTM: the tuple (h_0, c_0), c_0 [L*D, B, H]; sLSTM: (h_0, c_0, n_0, m_0)), [L*D, P] for
            unbatched x, or None for zeros. For bfloat16 and float16, all parts but h_0 may be float32, and all returned
            parts but h_n are float32.
        lengths: integers [B] in [0, T], in any order (one integer for unbatched x), or None. Padding is never read, and
            y is zero there. The returned state is the one after the last valid step of each row.
        mask: bool [T, B] in the layout of x, or None. Where it is False, the step is skipped: x is not read, the state
            does not change, and y is zero.
        reset: bool [T, B] in the layout of x, or None. Where it is True, the state is zero before the step. Nothing
            passes the border between steps t - 1 and t, in either direction. In the forward direction, a mark at step 0
            drops the initial state.
        out: a writable array for y that does not overlap the inputs. It is returned as y.

        y is [T, B, D*P] in the layout of x. y and the state are new arrays of the library of x.

        On a GPU every array belongs to the library of x there; lengths, mask and reset may also be in host memory. The
        work goes to the library's current stream, and nothing waits for it. rnnkern does not copy lengths in device
        memory to the host. It clamps a length outside [0, T], and raises at the next call on that GPU or at
        ``rnnkern.check``.

        Raises ValueError (shapes, lengths, devices) and TypeError (dtypes, types of arguments) before any work.
        """
        if lengths is None and mask is None and reset is None and out is None and gx is None and self._place is HOST:
            inference = self._weights.inference or self._weights.new_inference(self._batch_first)
            answer = inference.try_call(x, state)  # plain arrays are checked and done in one call
            if answer is not None:
                return answer
        y, state, _ = self._run((x, gx), state, (lengths, mask, reset), out, keep=False, train=False)
        return y, state

    def forward(
        self,
        x: Array | None = None,
        state: State = None,
        *,
        gx: Array | None = None,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        train: bool = True,
        out: Array | None = None,
    ) -> tuple[Array, State, Tape]:
        """Training: as a call of the layer, with random masks and a tape for ``backward``. Returns (y, state, tape).

        train: False turns the random masks off.

        Raises NotImplementedError for a layer with ``weights`` in int8 or bf16, which are for inference.

        The tape refers to x (or gx) and y, so do not change them before ``backward``. For this reason a NumPy y is
        read-only, unless it was passed as ``out``. On a GPU rnnkern does not check for changes, because it would have
        to wait for the arrays.
        """
        y, state, tape = self._run(
            (x, gx), state, (lengths, mask, reset), out, keep=True, train=check_bool("train", train)
        )
        return y, state, cast(Tape, tape)

    def backward(
        self,
        tape: Tape,
        dy: Array | None,
        dstate: State = None,
        *,
        need_x: bool = True,
        probe: bool = False,
        clip_step: float | None = None,
    ) -> Gradients:
        """Backpropagation through time: gradients of sum(y * dy) + sum(state * dstate). Returns Gradients(x, state,
        params, steps, gx).

        dy: like y, or None for zeros.
        dstate: like the state, or None. In a tuple, each part may be None.
        need_x: False skips the product for ``grads.x``, which is then None (for a first layer on data); with gx, it
            leaves ``grads.gx`` out.
        probe: True adds ``grads.steps``: for each layer an array [T, B, D*P], time first, with the gradient of every
            h_t through y_t and all later steps; float32 for bfloat16 and float16.
        clip_step: bound of the elements of that gradient, [-clip_step, clip_step], applied at every step of BPTT.

        The call never writes to the tape; a second call gives the same bits. Raises ValueError for a tape of another
        layer, or if parameters, x or y changed since the forward pass.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected the tape that forward returned, got {type(tape).__name__}")
        tape.check(self, self._weights)
        weights = tape.weights
        inner, spec, caller = tape.inner, tape.inner.spec, tape.library
        batched = len(tape.x_shape) == 3
        if dy is not None:
            shape = (*tape.x_shape[:-1], spec.directions * spec.outputs)
            dy = self._time_major(caller.take(dy, "dy", shape, *self._said(batched, f"D*{self._letter}")))
        dh_n, *others = self._take_parts("dstate", dstate, inner.inputs.x.shape[1], batched, caller, gradient=True)
        if clip_step is not None and not (isinstance(clip_step, (int, float, np.floating)) and clip_step > 0):
            raise ValueError(f"clip_step: expected a bound above 0 or None, got {clip_step!r}")
        memory = caller.memory
        above = engine.OutputGradients(dy, dh_n, joined(spec, others, caller))
        wanted = engine.Wanted(need_x, steps=check_bool("probe", probe), clip_step=float(clip_step or 0.0))
        grads = engine.backward(weights.packed(True, memory), inner, above, memory, wanted)
        give = caller.give
        dx = give(self._time_major(grads.x, back=True, batched=batched)) if grads.x is not None else None
        params = {name: give(grad) for name, grad in zip(self._names, grads.params, strict=True)}
        steps = None if grads.steps is None else [give(each) for each in grads.steps]
        dstate = self._give_state(grads.h, grads.c, batched, caller)
        return Gradients(None, dstate, params, steps, dx) if spec.given_gx else Gradients(dx, dstate, params, steps)

    def _run(
        self,
        given: tuple[Array | None, Array | None],
        state: State,
        steps: tuple[Any, Any, Any],
        out: Array | None,
        keep: bool,
        train: bool,
    ) -> tuple[Array, State, Tape | None]:
        """given: x and gx. steps: lengths, mask and reset."""
        x, gx = given
        lengths, mask, reset = steps
        if (x is None) == (gx is None):
            raise TypeError(f"x, gx: expected one of them, got {'neither' if x is None else 'both'}")
        weights = self._weights if gx is None else self._weights.with_gx
        name, width = ("x", "I") if gx is None else ("gx", "D*G*H")
        spec = weights.spec
        if keep:
            self._check_trains()
        x, caller = self._place.open(x if gx is None else gx, name)
        if x.ndim not in (2, 3):
            layout = f"[B, T, {width}]" if self._batch_first else f"[T, B, {width}]"
            raise ValueError(f"{name}: expected {layout} or unbatched [T, {width}], got {x.ndim} axes, {list(x.shape)}")
        batched = x.ndim == 3
        x = caller.take(x, name, (*x.shape[:-1], spec.columns), *self._said(batched, width))
        x_major = self._time_major(x)
        seq_len, batch = x_major.shape[:2]
        parts = self._take_parts("state", state, batch, batched, caller)
        h_0, c_0 = parts[0], joined(spec, parts[1:], caller)
        rows = None if lengths is None else caller.take_lengths(lengths, batch, seq_len, batched)
        marks = engine.NO_MARKS
        if mask is not None or reset is not None:
            marks = caller.take_marks(mask, reset, (seq_len, batch), batched, self._batch_first)
        y_shape = (*x.shape[:-1], spec.directions * spec.outputs)
        memory = caller.memory
        if out is None:
            y = memory.empty(y_shape, spec.dtype)
        else:
            read = {name: x} | dict(zip(("state", "state[1]", "state[2]", "state[3]"), parts, strict=False))
            y = caller.take_output(out, "out", y_shape, *self._said(batched, f"D*{self._letter}"), read)
        if keep:  # x and y are referred to, the small state is copied: the caller may go on with it
            h_0, c_0 = (None if s is None else caller.copy(s) for s in (h_0, c_0))
        masks = (self._seed, self._next_call()) if train else None
        reserve = None
        if keep:
            reserve = engine.new_reserve(spec, seq_len, batch, engine.dropping(spec, masks), memory)
        inputs = engine.Inputs(x_major, h_0, c_0, rows, masks, marks)
        y_major = self._time_major(y)
        packed = weights.packed(keep, memory)
        _, h_n, c_n = engine.forward(spec, packed, inputs, memory, reserve=reserve, y=y_major)
        state = self._give_state(h_n, c_n, batched, caller)
        answer = out if out is not None else caller.give(y)
        if reserve is None:
            return answer, state, None
        inner = engine.Tape(spec, inputs, y_major, reserve)
        checked = []
        if caller.on_host:
            checked.append((name, x, fingerprint(x)))
            if out is None and caller is NUMPY:
                y.flags.writeable = False
                answer = y.view()  # of a read-only base, so that setflags(write=True) is refused too
            else:
                checked.append(("y", y, fingerprint(y)))
        return answer, state, Tape(self, weights, inner, caller, tuple(x.shape), tuple(checked))

    @property
    def _letter(self) -> str:
        """What h has entries of."""
        return "P" if self.proj_size else "H"

    def _said(self, batched: bool, width: str) -> tuple[str, Dtypes]:
        """How x's and y's axes are named in errors, and the dtypes they may have."""
        layout = "B, T" if self._batch_first else "T, B"
        return f"[{layout if batched else 'T'}, {width}]", self._narrow

    def _time_major(self, array: Any, back: bool = False, batched: bool = True) -> Any:
        """A [T, B, ...] view of an array in the caller's layout, or (``back``) the other way round."""
        if back and not batched:
            return array[:, 0]
        if array.ndim == 2:
            return array[:, None]
        return array.swapaxes(0, 1) if self._batch_first else array

    def _take_parts(
        self, name: str, state: State, batch: int, batched: bool, caller: Caller, gradient: bool = False
    ) -> list[Any]:
        """h, c, ... [L*D, B, H] of a state (or, with ``gradient``, of its gradient) argument; None for zeros."""
        spec = self._spec
        if state is None:
            return [None] * spec.states
        leading = spec.num_layers * spec.directions
        parts: list[Any] = []
        split = split_state(name, state, self, gradient)
        for (part, label, dtypes), (width, letter) in zip(split, widths(spec), strict=True):
            shape = (leading, batch, width) if batched else (leading, width)
            meaning = f"[L*D, B, {letter}]" if batched else f"[L*D, {letter}]"
            array = None if part is None else caller.take(part, label, shape, meaning, dtypes)
            parts.append(array if array is None or batched else array[:, None])
        return parts

    def _give_state(self, h: Any, c: Any, batched: bool, caller: Caller) -> State:
        h, c = (state if state is None or batched else state[:, 0] for state in (h, c))
        return apart(self._spec, h, c, caller)

    def __repr__(self) -> str:
        spec = self._spec
        said = [f"{spec.input_size}, {spec.hidden_size}"]
        said += [f"num_layers={spec.num_layers}"] if spec.num_layers != 1 else []
        said += ["nonlinearity='relu'"] if spec.cell == "rnn_relu" else []
        said += ["bias=False"] if not spec.bias else []
        said += ["batch_first=True"] if self._batch_first else []
        said += [f"dropout={spec.dropout}"] if spec.dropout else []
        said += ["bidirectional=True"] if spec.bidirectional else []
        said += ["reverse=True"] if spec.reverse else []
        said += [f"{name}={value!r}" for name, value in spec.options.said().items()]
        said += [f"dtype={spec.dtype}"] if spec.dtype != "float32" else []
        said += [f"device={spec.device!r}"] if spec.device != "cpu" else []
        said += ["allow_tf32=True"] if spec.allow_tf32 else []
        said += [f"weights={spec.weights!r}"] if spec.weights else []
        return f"{type(self).__name__}({', '.join(said)})"
