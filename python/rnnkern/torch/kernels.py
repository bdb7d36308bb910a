"""Dense tensors of one device in, tensors out: what the operators and the plain path both run. No graph, no transform.

A call is described by tensors and ``Options``, the part of a module's configuration that its tensors do not show.
Checks here are for callers of the operators; a module has checked its arguments in torch.nn's words before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _core
from .. import _engine as engine
from .._engine.spec import NO_MARKS, Inputs, Marks, forced_kernel
from . import gpu
from .options import NEUTRAL, options_of

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
# ``new_empty`` of a tensor takes two thirds of what ``torch.empty`` does with a dtype and a device.
_LIKE = {name: torch.empty(0, dtype=dtype, device="cpu") for dtype, name in DTYPES.items()}


class Options(NamedTuple):
    """The arguments of every operator that are no tensors, in their order."""

    cell: str
    num_layers: int
    bidirectional: bool
    dropout: float  # between layers, where the call has masks
    batch_first: bool  # y's memory is [B, T, D*P]; its shape is [T, B, D*P] all the same
    recompute: bool
    reverse: bool = False
    step: str = ""  # the cell's own options, as options.py writes them


class Around(NamedTuple):
    """What a call has besides x, states and weights. Lengths and marks are tensors, or checked NumPy arrays."""

    lengths: Any = None  # int64 [B]
    masks: Any = None  # int64 [2], or the pair (seed, call)
    marks: Marks = NO_MARKS  # bool [T, B]


_GATES = {name: gates for name, gates, *_ in _core.cells()}


@lru_cache(maxsize=128)
def _spec(
    options: Options, dtype: torch.dtype, sizes: tuple[int, int], bias: bool, place: tuple[str, str | None, bool]
) -> engine.Spec:
    input_size, hidden_size = sizes
    device, kernel, allow_tf32 = place
    return engine.Spec(
        options.cell,
        DTYPES[dtype],
        input_size,
        hidden_size,
        options.num_layers,
        bias,
        options.bidirectional,
        options.dropout,
        kernel,
        options.recompute,
        options.reverse,
        options_of(options.cell, hidden_size, options.step),
        device,
        allow_tf32,
    )


def kernel_is_forced() -> bool:
    return bool(os.environb.get(b"RNNKERN_KERNEL"))  # as bytes: half the time, and every call asks


def spec_of(
    options: Options, dtype: torch.dtype, input_size: int, hidden_size: int, bias: bool, device: str = "cpu"
) -> engine.Spec:
    """From a cache: it is looked up at each call. What the environment and torch's switches say is part of the key."""
    if device == "cpu":
        kernel = forced_kernel(device) if kernel_is_forced() else None
        return _spec(options, dtype, (input_size, hidden_size), bias, (device, kernel, False))
    place = (device, forced_kernel(device), gpu.allows_tf32(dtype))
    return _spec(options, dtype, (input_size, hidden_size), bias, place)


def spec_for(options: Options, x: Tensor, params: Sequence[Tensor]) -> engine.Spec:
    """The spec of an operator's arguments; RuntimeError where x and params do not fit together."""
    if x.dtype not in DTYPES:
        raise NotImplementedError(f"rnnkern: expected one of {', '.join(DTYPES.values())}, got {x.dtype}")
    rows = int(params[0].shape[0]) if params and params[0].dim() == 2 else 0
    sizes = (int(x.shape[-1]) if x.dim() == 3 else 1, max(1, rows // _GATES.get(options.cell, 1)))
    device = gpu.name_of(x)
    spec = spec_of(options, x.dtype, *sizes, bias=True, device=device)
    if x.dim() != 3 or len(params) != len(spec.param_names):
        counts, spec = [len(spec.param_names)], spec_of(options, x.dtype, *sizes, bias=False, device=device)
        counts.insert(0, len(spec.param_names))
        if x.dim() != 3 or len(params) != counts[0]:
            raise RuntimeError(
                f"rnnkern: expected x [T, B, I] and {counts[0]} or {counts[1]} parameters, got x {list(x.shape)} and "
                f"{len(params)}"
            )
    for name, shape, param in zip(spec.param_names, spec.shapes, params, strict=True):
        if param.shape != shape or param.dtype != x.dtype:
            raise RuntimeError(f"{name}: expected {list(shape)} of {x.dtype}, got {list(param.shape)} of {param.dtype}")
        if param.device != x.device:
            raise RuntimeError(f"{name}: expected it on {x.device}, where x is, got it on {param.device}")
    return spec


def draw_masks(x: Tensor | None = None) -> Tensor:
    """(seed, call) from torch's generator for x's device, so manual_seed and checkpointing govern rnnkern's masks too.

    In a graph that is being captured by the compiler it is the CPU's generator for every device: the other's state is
    nothing a graph can hold.
    """
    index = None if x is None or torch.compiler.is_compiling() else gpu.index_of(x)
    if index is not None:
        return gpu.draw(index)
    return torch.randint(0, 2**63 - 1, (2,), dtype=torch.int64, device="cpu")


def unwrapped(tensor: Tensor) -> Tensor:
    """A tensor of numbers without gradients as it is below torch.func's levels, as far down as they are not mapped."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor) and not functorch.is_batchedtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def masks_of(drawn: Tensor | None) -> tuple[int, int] | None:
    if drawn is None:
        return None
    seed, call = unwrapped(drawn).tolist()
    return seed, call & (2**32 - 1)


# torch's C table for DLPack reads a tensor that requires grad, its Python method refuses one. Older ones have no table.
_DETACHED = not hasattr(Tensor, "__dlpack_c_exchange_api__")


def readable(tensor: Any) -> Any:
    """What the binding may read: its numbers in memory (DLPack ignores torch's negation bit)."""
    if tensor is None:
        return None
    if tensor.is_neg() or tensor._is_zerotensor():
        return tensor.detach().resolve_neg().clone()
    return tensor.detach() if _DETACHED else tensor


def _packable(spec: engine.Spec, params: Sequence[Tensor]) -> list[Tensor]:
    """Parameters for ``engine.pack``; it reads those of options with NumPy, which takes none that require grad."""
    strange = [param for param in params if _DETACHED or param.is_neg() or param._is_zerotensor()]
    tensors = [readable(param) for param in params] if strange else list(params)
    if spec.gpu is not None:
        return [tensor.detach().contiguous() for tensor in tensors]
    return tensors if spec.options is NEUTRAL else [tensor.detach() for tensor in tensors]


def _empty(shape: tuple[int, ...], dtype: str) -> Tensor:
    return _LIKE[dtype].new_empty(shape)


MEMORY = engine.Memory(_empty)


def memory_of(spec: engine.Spec) -> engine.Memory:
    return MEMORY if spec.gpu is None else gpu.memory(spec.gpu)


def _block(nbytes: int) -> Tensor:
    return torch.frombuffer(_core.Block(nbytes), dtype=torch.uint8, count=nbytes)


def _bytes_of(spec: engine.Spec, reserve: Tensor) -> engine.Bytes:
    """As the binding takes it: in host memory a NumPy array."""
    return reserve.numpy() if spec.gpu is None else reserve


def _placed(spec: engine.Spec, inputs: Inputs) -> tuple[engine.Memory, Inputs]:
    """The memory of a call, and its inputs as the binding reads them: lengths and marks of a GPU are there."""
    x, h_0, c_0, lengths, masks, marks = inputs
    memory = MEMORY
    if spec.gpu is not None:
        memory = gpu.memory(spec.gpu)
        if masks is not None:
            gpu.refuse_capture(spec.gpu)
        lengths = None if lengths is None else gpu.lengths_of(lengths, x.shape[1], spec.gpu)
        marks = marks if marks is NO_MARKS else gpu.marks_of(marks, spec.gpu)
    return memory, Inputs(readable(x), readable(h_0), readable(c_0), lengths, masks, marks)


def output_like(spec: engine.Spec, batch_first: bool, x: Tensor) -> Tensor:
    """y [T, B, D*P], not filled; the strides are the same for a fake x."""
    seq_len, batch, _ = x.shape
    width = spec.directions * spec.outputs
    if not batch_first:
        return x.new_empty((seq_len, batch, width))
    return x.new_empty_strided((seq_len, batch, width), (width, seq_len * width, 1))


def cell_dtype(states: int, dtype: torch.dtype, c_0: Tensor | None = None) -> torch.dtype:
    """The dtype of c_n: x's, as torch.nn has it, or c_0's where that is wider: c passes from call to call unrounded.

    An sLSTM's states are float32 at least, because m is a logarithm.
    """
    if states > 2:
        return torch.promote_types(dtype, torch.float32)
    return dtype if c_0 is None else torch.promote_types(dtype, c_0.dtype)


def forward(
    spec: engine.Spec, batch_first: bool, inputs: Inputs, params: Sequence[Tensor], keep: bool, packed: Any = None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """-> y, h_n, c_n (None without a cell state), and with ``keep`` the reserve, uint8 [n]. All but c_n
    (``cell_dtype``) have x's dtype.

    inputs: tensors; lengths and marks are checked NumPy arrays, on a GPU also tensors there. packed: frozen weights.
    """
    x, c_0 = inputs.x, inputs.c_0
    memory, inputs = _placed(spec, inputs)
    if packed is None:
        packed = engine.pack(spec, _packable(spec, params), backward=False, memory=memory)
    y = output_like(spec, batch_first, x)
    reserve = None
    if keep:
        nbytes = engine.reserve_bytes(spec, x.shape[0], x.shape[1], engine.dropping(spec, inputs.masks))
        reserve = _block(nbytes) if spec.gpu is None else memory.block(nbytes)
    kept = None if reserve is None else _bytes_of(spec, reserve)
    _, h_n, c_n = engine.forward(spec, packed, inputs, memory, reserve=kept, y=y)
    if c_n is not None and c_n.dtype is not x.dtype:
        c_n = c_n.to(cell_dtype(spec.states, x.dtype, c_0))
    return y, h_n, c_n, reserve


def backward(
    spec: engine.Spec,
    grads: Sequence[Tensor | None],
    inputs: Inputs,
    params: Sequence[Tensor],
    outputs: tuple[Tensor, Tensor],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of (x, h_0, c_0, *params), None where ``needs`` says so. Packs its half of the weights.

    grads: of y, h_n, c_n. outputs: y and the reserve as ``forward`` gave them.
    """
    x, c_0 = inputs.x, inputs.c_0
    memory, inputs = _placed(spec, inputs)
    packed = engine.pack(spec, _packable(spec, params), backward=True, forward=False, memory=memory)
    y, reserve = outputs
    if reserve.data_ptr() % 64:  # a saved-tensor hook brought back a copy
        nbytes = reserve.numel()
        reserve = (_block(nbytes) if spec.gpu is None else memory.block(nbytes)).copy_(reserve)
    tape = engine.Tape(spec, inputs, readable(y), _bytes_of(spec, reserve))
    need_x, need_h, need_c, *need_params = needs
    wanted = engine.Wanted(need_x, need_h or need_c, need_params)
    found = engine.backward(packed, tape, engine.OutputGradients(*map(readable, grads)), memory, wanted)
    dh_0 = None if found.h is None else found.h.to(x.dtype)
    dc_0 = None if found.c is None else found.c.to(x.dtype if c_0 is None else c_0.dtype)
    of_params = found.params
    if spec.options is not NEUTRAL:  # the kernel's rows of one matrix: no answer may be a view of another's memory
        of_params = [g if g is None or g.untyped_storage().nbytes() == g.nbytes else g.clone() for g in of_params]
    return [found.x, dh_0 if need_h else None, dc_0 if need_c else None, *of_params]
