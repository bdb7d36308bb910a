"""The scheduler: layers, directions and dropout over plans. Arrays in, arrays out; no parameters, no state.

Works on NumPy arrays and on torch CPU tensors alike: it only slices them and hands them to the binding; new arrays come
from the caller's ``Memory``. A dtype's name is "float32", "float64", "bfloat16" or "float16".

    Spec                    what a stack of layers is (immutable, hashable)
    plans(spec)             [L*D] plans, from a bounded cache
    pack(spec, params)      [L*D] packed weights; params in PyTorch's order (see Spec.param_names)
    reserve_bytes(spec...)  how much a training forward keeps beside x and y, in one block
    forward(...)            -> y, h_n, c_n, Tape | None
    tape_of(...)            that Tape again, from what it refers to
    backward(...)           -> Gradients

Everything with L*D entries is indexed by ``layer * D + direction``, as in torch.nn. Shapes and lengths are the caller's
to check; the binding checks them once more, in its own words.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import _core
from .weights import parameter_shapes

Array = Any  # a NumPy array or a torch CPU tensor
Bytes = np.ndarray[Any, np.dtype[np.uint8]]  # [n], 64-byte aligned


class Memory(NamedTuple):
    """Arrays of the caller's library: new ones, and views of bytes. Shapes, then a dtype's name."""

    empty: Callable[[tuple[int, ...], str], Array]
    view: Callable[[Bytes, tuple[int, ...], str], Array]


_CELLS = {name: (gates, states) for name, gates, states in _core.cells()}
_STATE_DTYPE = {"float32": "float32", "float64": "float64", "bfloat16": "float32", "float16": "float32"}
_ITEM_SIZE = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Spec:
    """A stack of layers of one cell: all that decides plans, parameter shapes and random masks.

    recompute: backward runs the forward again instead of keeping its gates (``rnnk_problem.flags``, RNNK_RECOMPUTE).
    kernel: force one by name. None takes ``RNNKERN_KERNEL`` as it is when the spec is made (so a layer keeps the kernel
    it was built with), else the smallest estimate.
    """

    cell: str
    dtype: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    bidirectional: bool = False
    dropout: float = 0.0
    kernel: str | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.cell not in _CELLS:
            raise ValueError(f"cell: expected one of {', '.join(_CELLS)}, got {self.cell!r}")
        if self.dtype not in _STATE_DTYPE:
            raise TypeError(f"dtype: expected one of {', '.join(_STATE_DTYPE)}, got {self.dtype!r}")
        for name in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.dropout <= 1.0:
            raise ValueError(f"dropout: expected a probability in [0, 1], got {self.dropout}")
        if self.kernel is None:
            object.__setattr__(self, "kernel", os.environ.get("RNNKERN_KERNEL") or None)

    def __hash__(self) -> int:
        """Computed once: every call looks its plans up by it."""
        known = self.__dict__.get("_hash")
        if known is None:
            known = hash(tuple(self.__dict__[name] for name in self.__dataclass_fields__))
            object.__setattr__(self, "_hash", known)
        return int(known)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}  # the hash is this process's own

    @cached_property
    def gates(self) -> int:
        return _CELLS[self.cell][0]

    @cached_property
    def states(self) -> int:
        """1: h; 2: h and c."""
        return _CELLS[self.cell][1]

    @cached_property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @cached_property
    def param_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, in the order of ``param_names``."""
        return parameter_shapes(
            self.gates, self.input_size, self.hidden_size, self.num_layers, self.bias, self.bidirectional
        )

    @cached_property
    def param_names(self) -> tuple[str, ...]:
        """``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ... in the order of torch's ``named_parameters()``."""
        return tuple(self.param_shapes)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.param_shapes.values())

    @cached_property
    def state_dtype(self) -> str:
        """dtype of c_n and of state gradients: float32 for half types, so that pieces give the bits of the whole."""
        return _STATE_DTYPE[self.dtype]

    def layer_input_size(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.directions * self.hidden_size


@dataclass(frozen=True)
class Tape:
    """What a training forward keeps for ``backward``. Holds references, not copies; read, never written to."""

    spec: Spec
    packed: tuple[_core.Packed, ...]  # [L*D]
    x: tuple[Array, ...]  # [L] each [T, B, layer_input_size]: the input of each layer, after dropout
    y: tuple[Array, ...]  # [L] each [T, B, D*H]: the output of each layer, before dropout (its own h_{t-1})
    reserves: tuple[Bytes, ...]  # [L*D]
    h_0: Array | None  # [L*D, B, H]
    c_0: Array | None
    lengths: Any  # int64 [B] or None
    masks: tuple[int, int] | None  # (seed, call), or None: no dropout


@dataclass(frozen=True)
class Gradients:
    """x [T, B, I]; h, c [L*D, B, H]; params aligned with ``Spec.param_names``; None where not asked for."""

    x: Array | None
    h: Array | None
    c: Array | None
    params: list[Array | None]


# Bounds: a plan is a few hundred bytes; 256 distinct problems and 128 stacks are more than one process uses at a time.
# functools.lru_cache is thread-safe, and holds no lock that a fork could catch taken.
@lru_cache(maxsize=256)
def _plan(
    cell: str,
    dtype: str,
    input_size: int,
    hidden_size: int,
    bias: bool,
    reverse: bool,
    recompute: bool,
    kernel: str | None,
) -> _core.Plan:
    return _core.Plan(
        cell, dtype, input_size, hidden_size, bias=bias, reverse=reverse, recompute=recompute, kernel=kernel
    )


@lru_cache(maxsize=128)
def plans(spec: Spec) -> tuple[_core.Plan, ...]:
    """[L*D] plans. Stacks that differ only in dropout or depth share theirs."""
    return tuple(
        _plan(
            spec.cell,
            spec.dtype,
            spec.layer_input_size(layer),
            spec.hidden_size,
            spec.bias,
            direction == 1,
            spec.recompute,
            spec.kernel,
        )
        for layer in range(spec.num_layers)
        for direction in range(spec.directions)
    )


def pack(spec: Spec, params: Sequence[Array], backward: bool = True, forward: bool = True) -> tuple[_core.Packed, ...]:
    """Pack parameters given in the order of ``spec.param_names``, for forward, for backward or for both."""
    if len(params) != len(spec.param_names):
        raise ValueError(
            f"params: expected {len(spec.param_names)} arrays in the order of param_names, got {len(params)}"
        )
    each = 4 if spec.bias else 2
    packed = []
    for index, plan in enumerate(plans(spec)):
        weight_ih, weight_hh, *biases = params[index * each : (index + 1) * each]
        bias_ih, bias_hh = biases or (None, None)
        packed.append(plan.pack(weight_ih, weight_hh, bias_ih, bias_hh, backward, forward))
    return tuple(packed)


# What training keeps ------------------------------------------------------------------------------------------------
# One block of bytes, so that a framework can save, move or offload it as it does any tensor: each plan's reserve, and
# for stacks the outputs of the layers below the last, before and after dropout. Its size is a formula of T and B, which
# a compiler that knows them as symbols can write down.

# Up to here the outputs of all layers of an inference may stand at once, for layers to run at the same time: where that
# is faster (few rows, small layers) they are smaller.
_STACKED = 4 << 20

_LINE = 64
_PIECES = 16  # a plan's reserve has no more parts than this, each rounded up to a line


def reserve_bytes(spec: Spec, seq_len: int, batch: int, drop: bool) -> int:
    """Bytes of ``forward``'s reserve. drop: with dropout between layers (``dropping``). T and B may be symbols."""
    rows, borders, fixed = _reserve_rows(spec, drop)
    nbytes = seq_len * batch * rows + fixed
    if (
        spec.recompute
    ):  # segments have at least sqrt(0.4 T) steps (core/recompute.cpp), so there are fewer borders than this
        nbytes += math.ceil(1.6 * seq_len**0.5) * (batch * borders + 2 * _LINE * len(plans(spec)))
    return nbytes


def new_reserve(spec: Spec, seq_len: int, batch: int, drop: bool) -> Bytes:
    nbytes = reserve_bytes(spec, seq_len, batch, drop)
    return np.frombuffer(memoryview(_core.Block(nbytes)), np.uint8, nbytes)


@lru_cache(maxsize=128)
def _reserve_rows(spec: Spec, drop: bool) -> tuple[int, int, int]:
    """(bytes for each row of each step, for each row of each border between segments, beside)."""
    rows = borders = 0
    if spec.recompute:
        border = _ITEM_SIZE[spec.dtype] + (spec.states - 1) * _ITEM_SIZE[spec.state_dtype]
        borders = len(plans(spec)) * spec.hidden_size * border
    else:
        rows = sum(plan.sizes(1, _LINE)["reserve"] for plan in plans(spec)) // _LINE
    below = (spec.num_layers - 1) * (2 if drop else 1)
    rows += below * spec.directions * spec.hidden_size * _ITEM_SIZE[spec.dtype]
    return rows, borders, _LINE * (spec.num_layers * spec.directions * _PIECES + below)


def _lines(nbytes: int) -> int:
    return -(-nbytes // _LINE) * _LINE


class _Shelf(NamedTuple):
    """Where what lies in a reserve: each plan's own; outputs, and dropped outputs, of the layers below the last."""

    nbytes: int
    own: tuple[slice, ...]
    outputs: tuple[slice, ...]
    inputs: tuple[slice, ...]


@lru_cache(maxsize=256)
def _shelf(spec: Spec, seq_len: int, batch: int, drop: bool) -> _Shelf:
    at = 0

    def take(size: int) -> slice:
        nonlocal at
        at += _lines(size)
        return slice(at - _lines(size), at - _lines(size) + size)

    own = tuple(take(plan.sizes(seq_len, batch)["reserve"]) for plan in plans(spec))
    size = seq_len * batch * spec.directions * spec.hidden_size * _ITEM_SIZE[spec.dtype]
    outputs = tuple(take(size) for _ in range(spec.num_layers - 1))
    inputs = tuple(take(size) for _ in outputs) if drop else ()
    nbytes = reserve_bytes(spec, seq_len, batch, drop)
    assert at <= nbytes, f"the reserve has {nbytes} bytes and needs {at}"
    return _Shelf(nbytes, own, outputs, inputs)


def _shelves(
    spec: Spec, seq_len: int, batch: int, drop: bool, reserve: Bytes, memory: Memory
) -> tuple[tuple[Bytes, ...], list[Array], list[Array]]:
    """Of a reserve: each plan's own; the outputs of all layers but the last; the inputs of all layers but the first."""
    shelf = _shelf(spec, seq_len, batch, drop)
    if reserve.size < shelf.nbytes:
        raise ValueError(f"reserve: expected at least {shelf.nbytes} bytes, got {reserve.size}")
    shape = (seq_len, batch, spec.directions * spec.hidden_size)
    outputs = [memory.view(reserve[where], shape, spec.dtype) for where in shelf.outputs]
    inputs = [memory.view(reserve[where], shape, spec.dtype) for where in shelf.inputs] if drop else outputs
    return tuple(reserve[where] for where in shelf.own), outputs, inputs


def dropping(spec: Spec, masks: tuple[int, int] | None) -> tuple[int, int] | None:
    """The masks where there is something to drop."""
    return masks if spec.dropout > 0.0 and spec.num_layers > 1 else None


def tape_of(
    spec: Spec,
    packed: Sequence[_core.Packed],
    x: Array,
    y: Array,
    reserve: Bytes,
    h_0: Array | None,
    c_0: Array | None,
    lengths: Any,
    masks: tuple[int, int] | None,
    memory: Memory,
) -> Tape:
    """The tape of a ``forward`` with these arguments that gave this y and filled this reserve."""
    drop = dropping(spec, masks)
    own, outputs, inputs = _shelves(spec, x.shape[0], x.shape[1], drop is not None, reserve, memory)
    return Tape(spec, tuple(packed), (x, *inputs), (*outputs, y), own, h_0, c_0, lengths, drop)


def forward(
    spec: Spec,
    packed: Sequence[_core.Packed],
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    lengths: Any,
    memory: Memory,
    *,
    reserve: Bytes | None,
    masks: tuple[int, int] | None,
    y: Array | None = None,
) -> tuple[Array, Array, Array | None, Tape | None]:
    """x [T, B, I] (any strides) -> (y [T, B, D*H], h_n [L*D, B, H], c_n [L*D, B, H] or None, Tape or None).

    h_0, c_0: [L*D, B, H] or None for zeros. lengths: contiguous int64 NumPy [B], checked by the caller, or None.
    reserve: ``reserve_bytes`` bytes that take what ``backward`` needs, and are the tape's; None: nothing is kept.
    masks: (seed, call) turns dropout between layers on; None leaves it off. y: write the output here.
    c_n is float32 for bfloat16 and float16; all else is in the spec's dtype.
    """
    seq_len, batch = x.shape[0], x.shape[1]
    hidden, directions, last = spec.hidden_size, spec.directions, spec.num_layers - 1
    drop = dropping(spec, masks)
    state_shape = (spec.num_layers * directions, batch, hidden)
    y_shape = (seq_len, batch, directions * hidden)
    h_n = memory.empty(state_shape, spec.dtype)
    c_n = memory.empty(state_shape, spec.state_dtype) if spec.states == 2 else None
    own: Sequence[Bytes | None] = [None] * (spec.num_layers * directions)
    outputs: list[Array] = []
    inputs: list[Array] = []
    if reserve is not None:
        own, outputs, inputs = _shelves(spec, seq_len, batch, drop is not None, reserve, memory)
    if y is None:
        y = memory.empty(y_shape, spec.dtype)
    all_plans = plans(spec)
    if 0 < last < 1024 and directions == 1 and reserve is None and drop is None and lengths is None:
        size = seq_len * batch * hidden * _ITEM_SIZE[spec.dtype]
        if size <= _STACKED:
            ys = [*(memory.empty(y_shape, spec.dtype) for _ in range(last)), y]
            every = range(spec.num_layers)
            hs, cs, hs_n, cs_n = ([_at(state, layer) for layer in every] for state in (h_0, c_0, h_n, c_n))
            _core.Plan.forward_stack(all_plans, packed, x, hs, cs, ys, hs_n, cs_n)
            return y, h_n, c_n, None
    below = x
    for layer in range(spec.num_layers):
        output = y if layer == last else outputs[layer] if outputs else memory.empty(y_shape, spec.dtype)
        ids = range(layer * directions, (layer + 1) * directions)
        half = [_half(output, direction, hidden, directions) for direction in range(directions)]
        states = [(_at(h_0, i), _at(c_0, i), h_n[i], _at(c_n, i)) for i in ids]
        if directions == 2:
            h0, c0, hn, cn = zip(*states, strict=True)
            all_plans[ids[0]].forward_both(
                all_plans[ids[1]],
                packed[ids[0] : ids[1] + 1],
                below,
                h0,
                c0,
                half,
                hn,
                cn,
                lengths,
                own[ids[0] : ids[1] + 1],
            )
        else:
            h, c, hidden_n, cell_n = states[0]
            all_plans[layer].forward(packed[layer], below, h, c, half[0], hidden_n, cell_n, lengths, own[layer])
        below = output
        if drop is not None and layer < last:
            # BPTT of this layer needs its undropped output, the layer above the dropped one: only then are both kept.
            below = inputs[layer] if inputs else output
            _drop(spec, layer, output, below, drop, lengths)
    tape = None
    if reserve is not None:
        tape = Tape(spec, tuple(packed), (x, *inputs), (*outputs, y), tuple(own), h_0, c_0, lengths, drop)  # type: ignore[arg-type]
    return y, h_n, c_n, tape


def backward(
    spec: Spec,
    packed: Sequence[_core.Packed],
    tape: Tape,
    dy: Array | None,
    dh_n: Array | None,
    dc_n: Array | None,
    memory: Memory,
    *,
    need_x: bool,
    need_state: bool,
    need_params: Sequence[bool] | bool,
) -> Gradients:
    """BPTT of a taped forward: dy [T, B, D*H], dh_n, dc_n [L*D, B, H], each None for zeros -> Gradients.

    need_params: one flag for all, or one per ``spec.param_names``. Nothing is computed for what is not needed: layers
    below the lowest one that needs anything are not visited. Never writes to the tape, so twice gives the same bits.
    Gradients of states are float32 for bfloat16 and float16; all else is in the spec's dtype.
    """
    names = spec.param_names
    needs = [need_params] * len(names) if isinstance(need_params, bool) else [bool(need) for need in need_params]
    if len(needs) != len(names):
        raise ValueError(f"need_params: expected one flag for each of {len(names)} parameters, got {len(needs)}")
    directions, hidden, lengths = spec.directions, spec.hidden_size, tape.lengths
    each = 4 if spec.bias else 2
    batch = tape.x[0].shape[1]
    state_shape = (spec.num_layers * directions, batch, hidden)
    dh_0 = memory.empty(state_shape, spec.state_dtype) if need_state else None
    dc_0 = memory.empty(state_shape, spec.state_dtype) if need_state and spec.states == 2 else None
    dparams = [
        memory.empty(spec.param_shapes[name], spec.dtype) if need else None
        for name, need in zip(names, needs, strict=True)
    ]
    dx = None
    lowest = _lowest_layer(spec, need_x or need_state, needs)
    all_plans = plans(spec)
    for layer in range(spec.num_layers - 1, lowest - 1, -1):
        x, y = tape.x[layer], tape.y[layer]
        need_dx = layer > lowest or (layer == 0 and need_x)
        dx = memory.empty(tuple(x.shape), spec.dtype) if need_dx else None
        for direction in range(directions):
            index = layer * directions + direction
            own = slice(index * each, (index + 1) * each)
            if not (need_dx or need_state or any(needs[own])):
                continue
            dweight_ih, dweight_hh, *dbiases = dparams[own]
            dbias_ih, dbias_hh = dbiases or (None, None)
            all_plans[index].backward(
                packed[index],
                tape.reserves[index],
                x,
                _at(tape.h_0, index),
                _at(tape.c_0, index),
                _half(y, direction, hidden, directions),
                _half(dy, direction, hidden, directions),
                _at(dh_n, index),
                _at(dc_n, index),
                dx=dx,
                accumulate_dx=direction > 0,
                dh_0=_at(dh_0, index),
                dc_0=_at(dc_0, index),
                dweight_ih=dweight_ih,
                dweight_hh=dweight_hh,
                dbias_ih=dbias_ih,
                dbias_hh=dbias_hh,
                lengths=lengths,
            )
        if layer > lowest and tape.masks is not None:
            _drop(spec, layer - 1, dx, dx, tape.masks, lengths)
        dy = dx
    return Gradients(dx if need_x else None, dh_0, dc_0, dparams)


def _lowest_layer(spec: Spec, everything: bool, needs: Sequence[bool]) -> int:
    """The lowest layer BPTT must visit; num_layers when nothing is needed. x and the states need every layer."""
    if everything:
        return 0
    per_layer = len(needs) // spec.num_layers
    return next((index // per_layer for index, need in enumerate(needs) if need), spec.num_layers)


def _drop(spec: Spec, layer: int, source: Array, target: Array, masks: tuple[int, int], lengths: Any) -> None:
    """Dropout on the output of a layer (or its gradient), one mask stream for each direction."""
    seed, call = masks
    for direction in range(spec.directions):
        _core.dropout(
            _half(source, direction, spec.hidden_size, spec.directions),
            _half(target, direction, spec.hidden_size, spec.directions),
            spec.dropout,
            seed,
            call,
            layer * spec.directions + direction,
            lengths,
        )


def _at(state: Array | None, index: int) -> Array | None:
    return None if state is None else state[index]


def _half(array: Array | None, direction: int, hidden: int, directions: int) -> Array | None:
    """A direction's columns of [T, B, D*H]."""
    if array is None or directions == 1:
        return array
    return array[:, :, direction * hidden : (direction + 1) * hidden]
