"""RNN, GRU and LSTM on plain arrays: torch.nn's constructors, PyTorch's names, no framework.

This file decides what a user's arguments mean (layouts, states, lengths, whose array the answer is) and hands whole
arrays to ``rnnkern.ops``, which decides how they are computed.
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np

from . import ops
from .arrays import NUMPY, Array, Dtypes, dtype_name
from .devices import Caller, place
from .options import parse
from .parameters import Module, check_bool, check_int
from .tape import Gradients, Tape, fingerprint

State = Any  # h [L*D, B, P], or (h, c) with c [L*D, B, H] for LSTM


class Layer(Module):
    """What RNN, GRU and LSTM share. T steps, B rows, I inputs, H units, L layers, D directions."""

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
        device: Any,
        dtype: Any,
        seed: int | None,
        recompute: bool,
        reverse: bool,
        allow_tf32: bool,
        options: dict[str, Any],
    ) -> None:
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float, np.floating)) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout!r}")
        where = place(device)
        hidden_size = check_int("hidden_size", hidden_size, 1)
        spec = ops.Spec(
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
        x: Array,
        state: State = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        out: Array | None = None,
    ) -> tuple[Array, State]:
        """Inference: no random masks, nothing kept. -> (y, state).

        x: [T, B, I], or [B, T, I] with batch_first, or unbatched [T, I]; the layer's dtype; any strides.
        state: h_0 [L*D, B, P] (LSTM: the tuple (h_0, c_0), c_0 [L*D, B, H]), [L*D, P] for unbatched x, or None for
        zeros. For bfloat16 and float16, c_0 may be float32, and c_n is.
        lengths: any integer array [B] in [0, T], any order (unbatched: one integer), or None. Padding is never read;
        y is zero there. The state returned is the one after each row's last valid step.
        mask: bool [T, B] in x's layout, or None. Where it is False the step is left out: y is zero, the state is held,
        x is not read. reset: bool [T, B]; the state is zero before a step where it is True: nothing passes the border
        between steps t - 1 and t, in either direction (and in the forward direction a mark at 0 drops the initial
        state).
        out: a writable array for y, not overlapping the inputs; it is then what is returned as y.
        y: [T, B, D*P] in x's layout; y and the state are new arrays of x's library.

        On a GPU every array is one of x's library there; lengths, mask and reset may be in host memory too. The work
        goes on the library's current stream, and nothing waits for it. Lengths that are on the GPU are not looked at
        here: one outside [0, T] is clamped, and raises at the next call on that GPU or at ``rnnkern.check``.

        Raises ValueError (shapes, lengths, devices) and TypeError (dtypes, kinds of arguments) before any work.
        """
        y, state, _ = self._run(x, state, lengths, mask, reset, out, keep=False, train=False)
        return y, state

    def forward(
        self,
        x: Array,
        state: State = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        train: bool = True,
        out: Array | None = None,
    ) -> tuple[Array, State, Tape]:
        """Training: as calling the layer, with random masks on and a tape for ``backward``. -> (y, state, tape).

        train=False leaves the random masks off. The tape refers to x and y: change neither before ``backward``. A NumPy
        y comes back read-only for that reason (an array given as ``out`` stays as writable as it was). On a GPU nobody
        checks: that would mean waiting for x and y, and reading them.
        """
        y, state, tape = self._run(x, state, lengths, mask, reset, out, keep=True, train=check_bool("train", train))
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
        """BPTT: gradients of sum(y * dy) + sum(state * dstate). -> Gradients(x, state, params, steps).

        dy: like y, or None for zeros. dstate: like the state, or None; of an LSTM's (dh_n, dc_n) either may be None.
        need_x=False leaves ``grads.x`` None and saves its product (for a first layer on data).
        probe=True adds ``grads.steps``: for each layer [T, B, D*P], time first, the gradient with respect to every
        h_t, through y_t and all that follows; float32 for bfloat16 and float16. clip_step bounds its elements to
        [-clip_step, clip_step] at every step of BPTT, before it goes on. Never writes to the tape: a second call gives
        the same bits. ValueError for a tape of another layer, or one whose parameters, x or y changed since.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected the tape that forward returned, got {type(tape).__name__}")
        weights = self._weights
        tape.check(self, weights)
        inner, spec, caller = tape.inner, self._spec, tape.library
        batched = len(tape.x_shape) == 3
        if dy is not None:
            shape = (*tape.x_shape[:-1], spec.directions * spec.outputs)
            dy = self._time_major(caller.take(dy, "dy", shape, *self._said(batched, f"D*{self._letter}")))
        dh_n, dc_n = self._take_state("dstate", dstate, inner.x[0].shape[1], batched, caller, gradient=True)
        if clip_step is not None and not (isinstance(clip_step, (int, float, np.floating)) and clip_step > 0):
            raise ValueError(f"clip_step: expected a bound above 0 or None, got {clip_step!r}")
        memory = caller.memory
        grads = ops.backward(
            spec, weights.packed(True, memory), inner, dy, dh_n, dc_n, memory, need_x=need_x, need_state=True,
            need_params=True, probe=check_bool("probe", probe), clip_step=float(clip_step or 0.0),
        )  # fmt: skip
        give = caller.give
        dx = give(self._time_major(grads.x, back=True, batched=batched)) if grads.x is not None else None
        params = {name: give(grad) for name, grad in zip(self._names, grads.params, strict=True)}
        steps = None if grads.steps is None else [give(each) for each in grads.steps]
        return Gradients(dx, self._give_state(grads.h, grads.c, batched, caller), params, steps)

    def _run(
        self, x: Array, state: State, lengths: Any, mask: Any, reset: Any, out: Array | None, keep: bool, train: bool
    ) -> tuple[Array, State, Tape | None]:
        spec, weights = self._spec, self._weights
        x, caller = self._place.open(x, "x")
        if x.ndim not in (2, 3):
            layout = "[B, T, I]" if self._batch_first else "[T, B, I]"
            raise ValueError(f"x: expected {layout} or unbatched [T, I], got {x.ndim} axes, {list(x.shape)}")
        batched = x.ndim == 3
        x = caller.take(x, "x", (*x.shape[:-1], spec.input_size), *self._said(batched, "I"))
        x_major = self._time_major(x)
        seq_len, batch = x_major.shape[:2]
        h_0, c_0 = self._take_state("state", state, batch, batched, caller)
        rows = None if lengths is None else caller.take_lengths(lengths, batch, seq_len, batched)
        marks = ops.NO_MARKS
        if mask is not None or reset is not None:
            marks = caller.take_marks(mask, reset, (seq_len, batch), batched, self._batch_first)
        y_shape = (*x.shape[:-1], spec.directions * spec.outputs)
        memory = caller.memory
        if out is None:
            y = memory.empty(y_shape, spec.dtype)
        else:
            inputs = {"x": x, "state": h_0, "state[1]": c_0}
            y = caller.take_output(out, "out", y_shape, *self._said(batched, f"D*{self._letter}"), inputs)
        if keep:  # x and y are referred to, the small state is copied: the caller may go on with it
            h_0, c_0 = (None if s is None else caller.copy(s) for s in (h_0, c_0))
        masks = (self._seed, self._next_call()) if train else None
        reserve = None
        if keep:
            reserve = ops.new_reserve(spec, seq_len, batch, ops.dropping(spec, masks) is not None, memory)
        _, h_n, c_n, inner = ops.forward(
            spec, weights.packed(keep, memory), x_major, h_0, c_0, rows, memory, reserve=reserve, masks=masks,
            y=self._time_major(y), marks=marks,
        )  # fmt: skip
        state = self._give_state(h_n, c_n, batched, caller)
        answer = out if out is not None else caller.give(y)
        if inner is None:
            return answer, state, None
        checked = []
        if caller.on_host:
            checked.append(("x", x, fingerprint(x)))
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

    def _take_state(
        self, name: str, state: State, batch: int, batched: bool, caller: Caller, gradient: bool = False
    ) -> tuple[Any, Any]:
        """h and c [L*D, B, H] of a state (or, with ``gradient``, of its gradient) argument; None for zeros."""
        if state is None:
            return None, None
        spec = self._spec
        leading = spec.num_layers * spec.directions
        parts: list[Any] = []
        widths = ((spec.outputs, self._letter), (spec.hidden_size, "H"))
        for (part, label, dtypes), (width, letter) in zip(
            split_state(name, state, self, gradient), widths, strict=False
        ):
            shape = (leading, batch, width) if batched else (leading, width)
            meaning = f"[L*D, B, {letter}]" if batched else f"[L*D, {letter}]"
            array = None if part is None else caller.take(part, label, shape, meaning, dtypes)
            parts.append(array if array is None or batched else array[:, None])
        return parts[0], parts[1] if len(parts) > 1 else None

    def _give_state(self, h: Any, c: Any, batched: bool, caller: Caller) -> State:
        h, c = (state if state is None or batched else state[:, 0] for state in (h, c))
        return caller.give(h) if c is None else (caller.give(h), caller.give(c))

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
        return f"{type(self).__name__}({', '.join(said)})"


def split_state(name: str, state: State, module: Module, gradient: bool = False) -> list[tuple[Any, str, Dtypes]]:
    """(array, its name in errors, its dtypes) for h and, where the cell has one, c, of a state or of its gradient.

    Half types: c and every gradient may be float32 besides.
    """
    narrow = module._wide if gradient else module._narrow
    pair = isinstance(state, (tuple, list))
    if module.spec.states == 1:
        if pair:
            raise TypeError(f"{name}: expected one array h, got a {type(state).__name__} of {len(state)}")
        return [(state, name, narrow)]
    if not pair or len(state) != 2:
        got = f"{len(state)} of them" if pair else type(state).__name__
        raise TypeError(f"{name}: expected a tuple of two arrays (h, c), got {got}")
    h, c = state
    if not gradient and (h is None or c is None):
        raise TypeError(f"{name}: expected two arrays (h, c), got None for {'h' if h is None else 'c'}")
    return [(h, f"{name}[0] (h)", narrow), (c, f"{name}[1] (c)", module._wide)]


class RNN(Layer):
    """Elman RNN (Elman 1990; torch.nn.RNN), gates G = 1:

        h = f(W_ih x + b_ih + W_hh h' + b_hh),  f = tanh or relu

    Arguments, their order and defaults are torch.nn.RNN's; ``nonlinearity``, "tanh" or "relu", is the fourth. Keywords:

    device: "cpu" (or None), "cuda" (the first GPU) or "cuda:1". On a GPU the parameters live there, in CuPy's arrays
        (torch's, where torch is loaded and CuPy is not installed), and calls take arrays of either library.
    dtype: "float32" (the default), "float64", "bfloat16", "float16", or a library's own object for one; the half types
        are for storage, sums and the cell state are float32. Inputs must have it: nothing is converted silently.
    seed: of the initial values (torch's distribution) and of dropout's masks; None draws one.
    recompute: a training forward keeps y and the states of a few steps instead of every step's gates: memory beside y
        grows with the square root of T, backward runs the forward again, and the gradients have the same bits.
    reverse: one direction that walks each row from its last valid step to step 0.
    allow_tf32: in float32 on a GPU, products may round their operands to 10 bits of mantissa (TF32); sums and states
        stay float32.

    Options of the step (equations and sources: docs/options.md); two that no kernel does together are refused by name:

    clip: every activation's input is bounded to [-clip, clip], as ONNX has it.
    activations: one of ONNX's eleven by name, or (name, alpha, beta), for f; GRU takes two (of r z, of n), LSTM three
        (of i f o, of g, of c in the output).
    layer_norm: W_ih x and W_hh h' are normalised over a row before their biases: gamma_ih, gamma_hh [G*H]; LSTM
        normalises the c of its output as well: gamma_c, beta_c [H].
    zoneout: the probability with which h keeps its old value; for LSTM also a pair, of h and of c. In inference, that
        share of it.
    recurrent_dropout: in training, one mask a row for the whole sequence on what W_hh multiplies.
    heads: W_hh is block-diagonal: weight_hh [G*H, H/heads].
    independent: W_hh is diagonal (IndRNN): weight_hh [H].

    Parameters, for each layer k, with the suffix ``_reverse`` for the second direction: weight_ih_l{k} [G*H, I] (above
    the first layer I is D*H), weight_hh_l{k} [G*H, H], bias_ih_l{k} and bias_hh_l{k} [G*H], then what options bring.
    Read them through ``params``, change them through ``update`` and ``load_state_dict`` only.

    Raises ValueError for a size, probability or name out of range, TypeError for an argument of another kind or a dtype
    that is not among these, NotImplementedError for a GPU in a build or on a machine without, or for options that no
    kernel does together, ImportError where a GPU's arrays have no library.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        recompute: bool = False,
        reverse: bool = False,
        allow_tf32: bool = False,
        clip: float | None = None,
        activations: Any = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        heads: int = 1,
        independent: bool = False,
    ) -> None:
        options = {
            "clip": clip,
            "activations": activations,
            "layer_norm": layer_norm,
            "zoneout": zoneout,
            "recurrent_dropout": recurrent_dropout,
            "heads": heads,
            "independent": independent,
        }
        cell = f"rnn_{check_nonlinearity(nonlinearity)}"
        super().__init__(
            cell, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, seed,
            recompute, reverse, allow_tf32, options,
        )  # fmt: skip

    @property
    def nonlinearity(self) -> str:
        return self._spec.cell.removeprefix("rnn_")


class GRU(Layer):
    """GRU with the reset gate after the product (Cho et al. 2014, arXiv 1406.1078, in the form of cuDNN and
    torch.nn.GRU), gates r z n, G = 3:

        gx = W_ih x + b_ih,  gh = W_hh h' + b_hh
        r, z = sigmoid(gx + gh),  n = tanh(gx_n + r * gh_n),  h = (1 - z) * n + z * h'

    Arguments, their order and defaults are torch.nn.GRU's. Keywords, parameters (with G = 3) and errors are those of
    ``rnnkern.RNN``; reset_after=False puts the reset gate before the product (arXiv 1406.1078v3, ONNX's default):
    n = tanh(gx_n + W_hn (r * h') + b_hn).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        recompute: bool = False,
        reverse: bool = False,
        allow_tf32: bool = False,
        reset_after: bool = True,
        clip: float | None = None,
        activations: Any = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        heads: int = 1,
    ) -> None:
        options = {
            "reset_after": reset_after,
            "clip": clip,
            "activations": activations,
            "layer_norm": layer_norm,
            "zoneout": zoneout,
            "recurrent_dropout": recurrent_dropout,
            "heads": heads,
        }
        super().__init__(
            "gru", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, seed,
            recompute, reverse, allow_tf32, options,
        )  # fmt: skip


class LSTM(Layer):
    """LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000; torch.nn.LSTM), gates i f g o, G = 4:

        gx = W_ih x + b_ih,  gh = W_hh h' + b_hh
        i, f, o = sigmoid(gx + gh),  g = tanh(gx + gh),  c = f * c' + i * g,  h = o * tanh(c)

    The state is the tuple (h, c). Arguments, their order and defaults are torch.nn.LSTM's. Keywords, parameters (with
    G = 4) and errors are those of ``rnnkern.RNN``, and:

    proj_size: h = W_hr (o * tanh(c)) has P = proj_size entries: weight_hr [P, H], weight_hh [4*H, P].
    peephole: i and f see c', o sees the new c: peephole [3, H], rows i f o.
    coupled: f = 1 - i; the rows of f stay in the weights and are not used.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        device: Any = None,
        dtype: Any = None,
        seed: int | None = None,
        recompute: bool = False,
        reverse: bool = False,
        allow_tf32: bool = False,
        peephole: bool = False,
        coupled: bool = False,
        clip: float | None = None,
        activations: Any = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        heads: int = 1,
    ) -> None:
        options = {
            "proj_size": proj_size,
            "peephole": peephole,
            "coupled": coupled,
            "clip": clip,
            "activations": activations,
            "layer_norm": layer_norm,
            "zoneout": zoneout,
            "recurrent_dropout": recurrent_dropout,
            "heads": heads,
        }
        super().__init__(
            "lstm", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, seed,
            recompute, reverse, allow_tf32, options,
        )  # fmt: skip


def check_nonlinearity(nonlinearity: Any) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
    return str(nonlinearity)
