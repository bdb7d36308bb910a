"""What the layers and the cells share: weights that are read anew at every call, checks at the door, ``freeze()``.

A weight is whatever ``getattr(module, name)`` gives at the call: a Parameter, the tensor a parametrization computes,
what ``functional_call`` put there. Nothing derived from it is kept between calls, except by ``freeze()``, on request.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, Parameter, init

from .. import _core
from .. import _engine as engine
from .._engine.spec import NO_MARKS, Marks
from . import gpu, short
from .autograd import Call, by_operator, records_gradient, recurrence
from .checks import check_tensor, same_device
from .given import as_layer, recurrence_of_gx, with_gx
from .kernels import DTYPES, Around, Options, cell_dtype, draw_masks, kernel_is_forced, memory_of, spec_of
from .options import StepOptions, parse


class Frozen(NamedTuple):
    """A pack kept on request, and what it was made of.

    spec: of calls that read the weights themselves.
    packed_spec: of calls that read the pack.
    blocks: on a GPU the memory it lies in, which other streams than its own may be reading when it is let go of.
    """

    spec: engine.Spec
    packed_spec: engine.Spec
    weights: tuple[Tensor, ...]
    packed: Any
    blocks: tuple[Tensor, ...]


_DERIVED = (
    "_frozen",
    "_known",
    "_short",
    "_script_weights",
)  # attributes that are made again, and neither copied nor saved


class Recurrent(StepOptions, Module):
    """Base of the layers and of the cells."""

    input_size: int
    hidden_size: int
    bias: bool
    num_layers: int = 1  # class-level values are those of a cell
    bidirectional: bool = False
    batch_first: bool = False
    dropout: float = 0.0
    reverse: bool = False
    recompute: bool = False  # set it on a module: backward runs the forward again instead of keeping its gates
    _frozen: Frozen | None = None
    _known: tuple[Any, engine.Spec] | None = None
    _short: short.Short | None = None
    _is_layer: bool = False
    _cells: int = 1  # states behind h, where there are any

    def _cell(self) -> str:
        """The kernels' name of this module's cell (``forwards.py``)."""
        raise NotImplementedError

    def _weight_names(self) -> Sequence[str]:
        """Attribute names in the order of ``Spec.param_names``."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "qconfig":  # torch.ao.quantization marks every module that it looks at
            warnings.warn(
                f"rnnkern.torch.{type(self).__name__} keeps its dtype: torch.ao.quantization does not know it. To "
                "quantize torch.nn's module instead, call undo() of replace's report first",
                stacklevel=2,
            )
        super().__setattr__(name, value)

    def _weights(self) -> list[Tensor]:
        own: Any = self._parameters  # getattr finds them there too, by a long way
        return [own[name] if name in own else getattr(self, name) for name in self._weight_names()]

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), in the order torch.nn draws them.

        The factors of a layer normalisation become 1, its shift 0, as torch.nn.LayerNorm's.
        """
        self.unfreeze()
        bound = 1.0 / math.sqrt(self.hidden_size)
        for name, weight in self.named_parameters():
            if name.startswith(("gamma", "beta")):
                init.constant_(weight, float(name.startswith("gamma")))
            else:
                init.uniform_(weight, -bound, bound)

    def _settle(self, cell: str, options: Mapping[str, Any], device: Any, dtype: Any) -> engine.Spec:
        """Keep the step's options, given by the constructor's keywords, and make the parameters. -> the spec.

        Options that no kernel does together are refused here, not at the first call.
        """
        self._choose(parse(cell, self.hidden_size, options))
        said = Options(cell, self.num_layers, self.bidirectional, 0.0, False, False, self.reverse, self._step_text)
        spec = self._spec(dtype if dtype in DTYPES else torch.float32, said)
        made = {name: torch.empty(shape, device=device, dtype=dtype) for name, shape in spec.param_shapes.items()}
        if self._step_text:
            first = next(iter(made.values()))
            on_gpu = first.is_cuda and not gpu.unavailable() and first.dtype in DTYPES
            engine.plan(self._spec(first.dtype, said, gpu.name_of(first)) if on_gpu else spec)
        for name, value in made.items():
            name = name if self._is_layer else name.removesuffix("_l0")
            self.register_parameter(name, Parameter(value))
        return spec

    def _widths(self) -> tuple[int, ...]:
        """Entries of h, and of each other state."""
        return (self._step_options.proj_size or self.hidden_size, *[self.hidden_size] * self._cells)

    # Freezing -------------------------------------------------------------------------------------------------------

    def freeze(self, weights: str | None = None) -> Any:
        """Pack the weights once, and keep the packed weights for calls that record no gradient. Returns the module.

        Use it for inference with small batches, where packing takes about as long as a step. **Until** ``unfreeze()``,
        **the module does not see changes of its parameters.** ``load_state_dict``, ``reset_parameters`` and ``to``
        unfreeze it. Other weight tensors (``functional_call``) are never confused with the packed ones. Packed weights
        are not pickled and not copied by ``deepcopy``. Graphs (torch.compile, torch.export), transforms and dispatch
        modes do not use them. On a GPU the call waits until the packed weights are written, so every stream may read
        them. A CUDA graph of a frozen module reads them at each replay, so keep the module frozen as long as the graph.

        weights: "int8" packs bytes, a quarter of the size, "bf16" bfloat16, half of it (``rnnkern.LSTM.quantize``), on
            a CPU in float32 or float16. Such a module answers eager calls that record no gradient, and refuses all
            others.

        A call of a frozen module that would record gradients of its parameters raises RuntimeError. ``freeze`` raises
        RuntimeError for parametrized weights, which are new tensors at every call, ValueError for weights that int8
        cannot hold (NaN, infinity), and NotImplementedError for another dtype or device.
        """
        fixed = self._fixed_weights("freeze")
        spec = self._check_weights(fixed, self._options())[1]
        assert spec is not None
        packed_spec = replace(spec, weights=weights, kernel=None) if weights is not None else spec
        memory, given = memory_of(spec), [weight.detach() for weight in fixed]
        blocks: list[Tensor] = []
        if spec.gpu is not None:
            empty, given = memory.empty, [weight.contiguous() for weight in given]

            def kept(shape: tuple[int, ...], dtype: str) -> Tensor:
                blocks.append(empty(shape, dtype))
                return blocks[-1]

            memory = memory._replace(empty=kept)
        packed = engine.pack(packed_spec, given, backward=False, memory=memory)
        if spec.gpu is not None:
            gpu.library().synchronize(spec.gpu)
        self.__dict__.pop("_short", None)
        self._frozen = Frozen(spec, packed_spec, tuple(fixed), packed, tuple(blocks))
        return self

    def _fixed_weights(self, who: str) -> list[Tensor]:
        """The weights; RuntimeError where one is no fixed tensor."""
        weights = self._weights()
        if any(first is not second for first, second in zip(weights, self._weights(), strict=True)):
            raise RuntimeError(
                f"{type(self).__name__}.{who}: a weight is computed anew at every access (a parametrization); "
                "remove it first, with torch.nn.utils.parametrize.remove_parametrizations"
            )
        return weights

    def __prepare_scriptable__(self) -> Any:
        """Called by torch.jit.script: TorchScript has no way to list the parameters, so it gets them in a list."""
        self.__dict__["_script_weights"] = self._fixed_weights("forward under torch.jit.script")
        return self

    def unfreeze(self) -> Any:
        """Drop the packed weights that ``freeze()`` kept. Returns the module."""
        for name in _DERIVED:
            self.__dict__.pop(name, None)
        return self

    def _frozen_said(self) -> str:
        """For ``extra_repr``."""
        if self._frozen is None:
            return ""
        weights = self._frozen.packed_spec.weights
        return ", frozen=True" if weights is None else f", frozen={weights!r}"

    def _settings(self) -> tuple[Any, ...]:
        """What decides the spec besides the weights."""
        return (self._options(self.batch_first), self.input_size, self.hidden_size, self.bias)

    def _short_answer(self, input: Any, hx: Any) -> Any:
        """The answer to plain tensors on the CPU by one call of the library. None: something is unusual; the other way
        then computes it, or says what is wrong."""
        if not short.usual(input, hx) or self._draws():
            return None
        weights = self._weights()
        known = self._short_of(weights)
        if known is None:
            return None
        if self._frozen is not None and any(a is not b for a, b in zip(self._frozen.weights, weights, strict=True)):
            return None
        return short.answer(known, input, hx, weights)

    def _short_of(self, weights: list[Tensor]) -> short.Short | None:
        known, settings, dtype = self._short, self._settings(), weights[0].dtype
        if known is not None and known.dtype is dtype and known.settings == settings:
            return known
        if not weights[0].is_cpu or dtype not in (torch.float32, torch.float64) or gpu.index_of(weights[0]) is not None:
            return None
        spec, frozen = self._spec(dtype, settings[0]), self._frozen
        if frozen is not None and frozen.spec != spec:
            return None
        packed = None
        if frozen is not None:
            spec, packed = frozen.packed_spec, frozen.packed
        self.__dict__["_short"] = known = short.make(settings, dtype, spec, packed, step=not self._is_layer)
        return known

    def _draws(self) -> bool:
        """Whether a call draws random masks."""
        return self.training and (self._random or (self.dropout > 0.0 and self.num_layers > 1))

    def _frozen_for(self, spec: engine.Spec, weights: Sequence[Tensor], keep: bool) -> Frozen | None:
        frozen = self._frozen
        if frozen is None or (frozen.spec is not spec and frozen.spec != spec):
            return None
        if any(packed is not now for packed, now in zip(frozen.weights, weights, strict=True)):
            return None
        if keep and records_gradient(weights):
            raise RuntimeError(
                f"{type(self).__name__} is frozen, and this call would record gradients of its parameters; call "
                "unfreeze() to train it, or run it under torch.no_grad() or with requires_grad_(False)"
            )
        if keep and frozen.packed_spec.weights is not None:
            raise RuntimeError(
                f"{type(self).__name__} is frozen with weights in {frozen.packed_spec.weights}, and this call would "
                "record gradients; run it under torch.no_grad(), or call unfreeze()"
            )
        if keep:
            return None
        for block in frozen.blocks:
            gpu.in_use(block)
        return frozen

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.unfreeze()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unfreeze()
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in _DERIVED:
            state.pop(name, None)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Parametrized modules would else have one of torch, which copies the whole __dict__.
        twin = memo[id(self)] = self.__new__(type(self))
        twin.__dict__.update(copy.deepcopy(Recurrent.__getstate__(self), memo))
        return twin

    # The call -------------------------------------------------------------------------------------------------------

    def _options(self, batch_first: bool = False) -> Options:
        return Options(
            self._cell(), self.num_layers, self.bidirectional, self.dropout, batch_first, bool(self.recompute),
            self.reverse, self._step_text,
        )  # fmt: skip

    def _spec(self, dtype: torch.dtype, options: Options, device: str = "cpu") -> engine.Spec:
        return spec_of(options, dtype, self.input_size, self.hidden_size, self.bias, device)

    def _explained(self) -> tuple[engine.Spec, bool, tuple[str, ...]]:
        """For ``rnnkern.explain``: the spec, whether this is a layer, what transforms do."""
        spec = self._check_weights(self._weights(), self._options())[1]
        assert spec is not None
        frozen = self._frozen
        said = "read at every call" if frozen is None else "kept by freeze()"
        if frozen is not None and frozen.packed_spec.weights is not None:
            spec, said = frozen.packed_spec, f"{said} in {frozen.packed_spec.weights}"
        notes = (
            f"weights: {said}",
            "kernels run: eager calls, torch.compile and torch.export (one node), autograd, torch.func.grad and vmap",
            "composed of torch's operations: second derivatives, forward mode (jvp, duals), torch.func in a graph, "
            "is_grads_batched",
        )
        return spec, self._is_layer, notes

    def _run(
        self,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        lengths: Any = None,
        batch_first: bool = False,
        marks: Marks = NO_MARKS,
        given: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [T, B, I], states h [L*D, B, P] (and c, n, m [L*D, B, H]), of checked shapes -> y [T, B, D*P], the states.

        lengths: checked int64 [B], a NumPy array (in a graph that is being captured, a tensor), or None; marks alike.
        given: x is gx [T, B, D*G*H].
        """
        weights = self._weights()
        options = self._options(batch_first)
        dtype, spec = self._check_weights(weights, options)
        index = gpu.index_of(x)
        kind = "cpu" if index is None else "cuda"
        target = autocast_dtype([x, *(states or ()), *weights], kind) if torch.is_autocast_enabled(kind) else None
        if target is not None:
            dtype = target
            spec = None if spec is None else self._spec(target, options, spec.device)
            weights = [weight.to(target) for weight in weights]
            x = x.to(target)
            if states is not None:
                states = (states[0].to(target), *(s.to(cell_dtype(1 + self._cells, target, s)) for s in states[1:]))
        if states or x.dtype is not dtype:
            self._check_dtypes(x, states, dtype)
        if spec is not None and (states or index is not None or spec.gpu is not None):
            same_device(x, (("parameter", weights[0]), *(("hidden", state) for state in states or ())))
        h_0 = c_0 = None
        if states:
            h_0 = states[0]
            if len(states) > 1:
                c_0 = states[1] if self._cells == 1 else torch.cat(states[1:], -1)
        masks = draw_masks(x) if self._draws() else None
        if spec is None:
            if self._frozen is not None and self._frozen.packed_spec.weights is not None:
                raise NotImplementedError(f"{self!r} answers eager calls alone; call unfreeze() before torch.compile")
            run = as_layer if given else by_operator
            y, h_n, c_n = run(options, x, h_0, c_0, weights, Around(lengths, masks, marks))
        else:
            keep = records_gradient([x, h_0, c_0, *weights])
            packed = None
            if self._frozen is not None and not torch.onnx.is_in_onnx_export():
                frozen = self._frozen_for(spec, weights, keep)
                if frozen is not None:
                    spec, packed = frozen.packed_spec, frozen.packed
            if given:
                spec = with_gx(spec)
            call = Call(options, spec, lengths, masks, keep, packed, marks)
            y, h_n, c_n = (recurrence_of_gx if given else recurrence)(call, x, h_0, c_0, weights)
        if c_n is None:
            return y, (h_n,)
        if self._cells == 1:
            return y, (h_n, c_n)
        parts = c_n.split(self.hidden_size, -1)  # as views users could not change them in place
        return y, (h_n, *(part.clone(memory_format=torch.contiguous_format) for part in parts))

    def _check_dtypes(self, x: Tensor, states: tuple[Tensor, ...] | None, dtype: torch.dtype) -> None:
        if x.dtype != dtype:
            raise ValueError(
                f"RNN input dtype ({x.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}), or convert model: model.to({x.dtype})"
            )
        for place, state in enumerate(states or ()):
            if state.dtype != dtype and not self._takes(place, state.dtype, dtype):
                raise RuntimeError(f"hx: expected the dtype of input and weights, {dtype}, got {state.dtype}")

    def _takes(self, place: int, given: torch.dtype, dtype: torch.dtype) -> bool:
        """Whether a state may have another dtype than the weights': one behind h, the wider one of sums and cells."""
        return place > 0 and given == torch.promote_types(dtype, torch.float32)

    def _check_weights(self, weights: list[Tensor], options: Options) -> tuple[torch.dtype, engine.Spec | None]:
        """The weights' common dtype, and the spec; RuntimeError (as torch.nn raises) where they do not fit together.

        In a graph that is being captured there is no spec: the operator makes it, and has shapes and dtypes checked.
        """
        names = self._weight_names()
        dtype = weights[0].dtype
        if dtype not in DTYPES:
            expected = ", ".join(DTYPES.values())
            raise NotImplementedError(f"{names[0]}: expected one of the dtypes {expected}, got {dtype}")
        if torch.compiler.is_compiling():
            return dtype, None
        first = weights[0]
        device = "cpu"
        if not first.is_cpu or gpu.index_of(first) is not None:
            check_tensor(names[0], first)
            device = gpu.name_of(first)
        said = (options, dtype, self.input_size, self.hidden_size, self.bias)
        known = self._known  # of the last call: what it says is compared, which is less than looking its spec up
        if known is not None and known[0] == said and device == "cpu" and not kernel_is_forced():
            spec = known[1]
        else:
            spec = self._spec(dtype, options, device)
            self.__dict__["_known"] = None if device != "cpu" or kernel_is_forced() else (said, spec)
        if spec.gpu is None and _core.fit(weights, short.TYPES, spec.dtype, spec.shapes):
            return dtype, spec
        for name, weight, shape in zip(names, weights, spec.shapes, strict=True):
            here = weight.is_cpu if spec.gpu is None else weight.device == first.device
            if weight.dtype is dtype and weight.shape == shape and here and weight.layout is torch.strided:
                continue
            check_tensor(name, weight)
            if weight.device != first.device:
                raise RuntimeError(
                    f"{name}: expected it on {first.device}, where {names[0]} is, got it on {weight.device}"
                )
            if weight.dtype != dtype:
                raise RuntimeError(f"{name}: expected the dtype of {names[0]}, {dtype}, got {weight.dtype}")
            if weight.shape != shape:
                raise RuntimeError(f"{name}: expected shape {list(shape)}, got {list(weight.shape)}")
        return dtype, spec


def autocast_dtype(tensors: Sequence[Tensor], device: str) -> torch.dtype | None:
    """The dtype a device's autocast asks for, or None. As in torch, it leaves float64 (and no floats) alone."""
    target = torch.get_autocast_dtype(device)
    castable = (torch.float32, torch.bfloat16, torch.float16)
    return target if target in castable and all(tensor.dtype in castable for tensor in tensors) else None
