"""What layers and cells share: their parameters, who may change them, and the packed form the kernels read.

Parameters change in two ways only, ``update`` and ``load_state_dict``; both check everything first and then swap one
reference, so a call that is running keeps the weights it started with, and a tape knows its weights by identity.
Packing happens at the first use after a change and is never keyed on an address or a counter.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .. import _engine as engine
from .._arrays.devices import HOST, Place, place
from .._arrays.host import NUMPY_DTYPES, Array
from ..options import HasOptions, Options, reads
from ..weights import initial

if TYPE_CHECKING:
    from typing_extensions import Self

# Held while an attribute is read, compared and set: swapping weights, counting training calls. A signal's handler may
# run while its own thread holds it, and may call any layer: so it is re-entrant, and whoever holds it calls nothing,
# since handlers run where functions are called.
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)  # a fork may catch the lock taken by a thread the child has not


_STREAMS = 8  # whose packs are kept


class Weights:
    """One immutable set of parameters, by name in PyTorch's order, with what is derived from it.

    arrays: the layer's own, where it is (``Place.keep``).
    """

    def __init__(self, spec: engine.Spec, arrays: dict[str, Array], where: Place) -> None:
        self.spec = spec
        self._where = where
        self.arrays: Mapping[str, Array] = MappingProxyType(arrays)
        self._packed: _core.Packed | None = None
        self._with_gx: Weights | None = None
        self._on_streams: dict[int, _core.Packed] = {}
        self._rows = engine.vectors(spec, list(arrays.values()), where.memory) if where is not HOST else None
        self._steppers: dict[int, _core.Stepper] = {}
        self.inference: _core.Inference | None = None  # of a layer on the host, from its first call on
        self.last: _core.Stepper | None = None  # the stepper used last; most callers need no other

    @property
    def with_gx(self) -> Weights:
        """The same for calls that bring the input product of the first layer."""
        if self._with_gx is None:
            made = Weights(replace(self.spec, given_gx=True), dict(self.arrays), self._where)
            with _lock:  # a tape knows its weights by identity, so the first one stays
                if self._with_gx is None:
                    self._with_gx = made
        return self._with_gx

    def packed(self, backward: bool, memory: engine.Memory) -> _core.Packed:
        """Two threads may pack at once; the packs are equal, so the last to be kept is as good as the first."""
        if memory.gpu is not None:
            return self._packed_on(memory.gpu, backward, memory)
        packed = self._packed
        if packed is None or (backward and not packed.backward):
            self._packed = packed = engine.pack(self.spec, list(self.arrays.values()), backward=backward)
        return packed

    def _packed_on(self, gpu: engine.Gpu, backward: bool, memory: engine.Memory) -> _core.Packed:
        """A stream knows only its own order, so each has its own pack: another's may not be written yet."""
        packed = self._on_streams.get(gpu.stream)
        if packed is None or (backward and not packed.backward):
            packed = engine.pack(
                self.spec, list(self.arrays.values()), backward=backward, memory=memory, rows=self._rows
            )
            if not gpu.capturing:  # else it is written at a replay, and not before
                if len(self._on_streams) >= _STREAMS:
                    self._on_streams.clear()
                self._on_streams[gpu.stream] = packed
        return packed

    def new_inference(self, batch_first: bool) -> _core.Inference:
        self.inference = _core.Inference(engine.plan(self.spec), self.packed(False, HOST.memory), batch_first)
        return self.inference

    def stepper(self, batch: int) -> _core.Stepper:
        """The stepper for a batch size. Steppers hold no scratch (a thread has its own), so threads share them."""
        stepper = self._steppers.get(batch)
        if stepper is None:
            if len(self._steppers) >= 8:  # a caller that sweeps batch sizes must not leak
                self._steppers.clear()
            stepper = _core.Stepper(engine.plan(self.spec), self.packed(False, HOST.memory), batch)
            self._steppers[batch] = stepper
        self.last = stepper
        return stepper


class Module(HasOptions):
    """Base of layers and cells: the spec, the parameters under their public names, and the count of training calls."""

    peephole = reads("peephole")

    def __init__(self, spec: engine.Spec, names: tuple[str, ...], seed: int | None, where: Place) -> None:
        # names: the public names of spec.param_names. (No docstring: help() of every layer would inherit it.)
        if seed is None:
            seed = int(np.random.SeedSequence().entropy) & 0xFFFF_FFFF_FFFF_FFFF  # type: ignore[arg-type]
        self._seed = check_int("seed", seed, 0, 2**64 - 1)
        self._spec = spec
        self._place = where
        self._narrow = (NUMPY_DTYPES[spec.dtype],)  # what x and h may be
        self._wide = tuple(dict.fromkeys((*self._narrow, NUMPY_DTYPES[spec.state_dtype])))  # what c may be
        self._names = names
        self._call = 0
        shapes = dict(zip(names, spec.param_shapes.values(), strict=True))
        engine.plan(spec)  # a forced kernel that cannot do it is refused here
        self._weights = self._kept(initial(shapes, spec.hidden_size, NUMPY_DTYPES[spec.dtype], self._seed))

    @property
    def spec(self) -> engine.Spec:
        """The description of this layer for ``rnnkern._engine``."""
        return self._spec

    @property
    def _step_options(self) -> Options:  # type: ignore[override]
        return self._spec.options

    @property
    def input_size(self) -> int:
        return self._spec.input_size

    @property
    def hidden_size(self) -> int:
        return self._spec.hidden_size

    @property
    def bias(self) -> bool:
        return self._spec.bias

    @property
    def dtype(self) -> np.dtype[Any]:
        return NUMPY_DTYPES[self._spec.dtype]

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:0", "cuda:1", ..."""
        return self._spec.device

    @property
    def weights(self) -> str | None:
        """The form in which kernels read the weights: "int8", "bf16", or None for the dtype itself."""
        return self._spec.weights

    def quantize(self, weights: str | None = "int8") -> Self:
        """Choose the form in which kernels read the parameters, which keep their own dtype. Returns the layer.

        weights: "int8": a row of a weight matrix becomes ``q * scale`` with integers ``|q| <= 127`` and one float, a
            quarter of the bytes; x and h are rounded in the same way where they are multiplied, with a scale for each
            row and step. So a row's answer depends on no other row, and the sums are exact integers. "bf16": the weight
            matrices are rounded to bfloat16, half of the bytes; all else stays as it is, so the answers have the bits
            of a layer with rounded matrices. Both are for inference on a CPU in float32 or float16. None: the dtype
            itself.

        ``update`` and ``load_state_dict`` quantize anew. Raises ValueError for weights that int8 cannot hold (NaN,
        infinity), and NotImplementedError for layers on a GPU or of another dtype, and later for a call that keeps a
        tape.
        """
        spec = replace(self._spec, weights=weights, kernel=None)
        engine.plan(spec)  # a forced kernel that cannot do it is refused here
        while True:  # until nobody else has replaced parameters meanwhile
            current = self._weights
            fresh = Weights(spec, dict(current.arrays), self._place)
            if weights is not None:
                fresh.packed(False, HOST.memory)
            with _lock:
                if swapped := self._weights is current:
                    self._weights, self._spec = fresh, spec
            if swapped:
                return self

    def _check_trains(self) -> None:
        if self._spec.weights is not None:
            raise NotImplementedError(
                f"forward: {self!r} has weights in {self._spec.weights}, which are for inference; call the layer, or "
                "quantize(None) before training"
            )

    @property
    def seed(self) -> int:
        """Seed of the initial values and key of the random masks."""
        return self._seed

    @property
    def call(self) -> int:
        """Number of the next training call; its random masks depend on it. Set it to repeat a call."""
        return self._call

    @call.setter
    def call(self, value: int) -> None:
        self._call = check_int("call", value, 0, 2**32 - 1)

    def _next_call(self) -> int:
        with _lock:
            call = self._call
            self._call = (call + 1) & 0xFFFF_FFFF  # the mask counter has 32 bits for it
        return call

    @property
    def params(self) -> Mapping[str, Array]:
        """Name -> read-only NumPy array with the current values. A later ``update`` does not change this mapping.

        On a GPU the mapping has GPU arrays, which no library can mark as read-only. Do not write to them.
        """
        return self._weights.arrays

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """Name -> a copy of the parameter as a NumPy array, under PyTorch's names; from a GPU, too."""
        return {name: self._place.to_host(array) for name, array in self._weights.arrays.items()}

    def update(self, params: Mapping[str, Array]) -> None:
        """Replace some parameters by copies of the given arrays: NumPy arrays, or host arrays with ``__dlpack__``.

        A layer on a GPU also takes arrays of that GPU, and copies host arrays to it.

        An unknown name or a wrong shape raises ValueError and a wrong dtype raises TypeError, before any change.
        Earlier tapes become invalid.
        """
        self._replace("params", params, complete=False)

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Replace all parameters, as ``update`` does. A missing name raises ValueError."""
        self._replace("state_dict", state_dict, complete=True)

    def _replace(self, argument: str, params: Mapping[str, Array], complete: bool) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(f"{argument}: expected a mapping of names to arrays, got {type(params).__name__}")
        unexpected = [name for name in params if name not in self._names]
        missing = [name for name in self._names if name not in params] if complete else []
        if unexpected or missing:
            said = [f"missing {', '.join(missing)}"] if missing else []
            said += [f"unexpected {', '.join(map(repr, unexpected))}"] if unexpected else []
            raise ValueError(
                f"{argument}: expected the names of {self!r} ({', '.join(self._names)}), got {'; '.join(said)}"
            )
        shapes = dict(zip(self._names, self._spec.param_shapes.values(), strict=True))
        for name, value in params.items():
            label = f"{argument}[{name!r}]"
            self._place.check(value, label, shapes[name], name, self._narrow)
        fresh = {name: self._place.copy(value, name) for name, value in params.items()}
        while True:  # until nobody else has replaced other parameters meanwhile
            current = self._weights
            arrays = {name: fresh.get(name, current.arrays[name]) for name in self._names}
            weights = Weights(current.spec, arrays, self._place)
            with _lock:
                if swapped := self._weights is current:
                    self._weights = weights
            if swapped:
                break
        self._place.settle(params.values())

    def _kept(self, arrays: dict[str, np.ndarray[Any, Any]]) -> Weights:
        """Host arrays of its own as this layer's weights."""
        weights = Weights(self._spec, self._place.keep(arrays), self._place)
        self._place.settle(arrays.values())
        return weights

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy.deepcopy: everything but what is derived from the weights, which go through the host."""
        state = self.__dict__.copy()
        state["_weights"] = self.state_dict()
        state["_place"] = self._spec.device
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._place = place(state["_place"])
        self._weights = self._kept(state["_weights"])


def check_int(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An integer (NumPy's included, bool not) within bounds, or TypeError / ValueError naming the argument."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}") from None
    if number < low or (high is not None and number > high):
        expected = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name}: expected {expected}, got {number}")
    return number


def check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)
