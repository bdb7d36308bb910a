"""Checks at the door: what torch.nn checks, with its types of error, and what no kernel can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._arrays.host import layout_of, rows_of
from .._arrays.host import take_marks as take_arrays
from .._engine.spec import Marks
from ..options import check_keywords
from . import gpu


def check_tensor(name: str, value: Any) -> None:
    """TypeError for what is no tensor, NotImplementedError for a tensor no kernel can read."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if not value.is_cpu:
        if not value.is_cuda:
            raise NotImplementedError(
                f"{name}: expected a tensor on the CPU or a GPU of CUDA, got one on {value.device}"
            )
        if gpu.unavailable():
            raise NotImplementedError(
                f"{name}: expected a tensor on the CPU, got one on {value.device}: {gpu.unavailable()}"
            )
    if value.layout != torch.strided:
        raise NotImplementedError(f"{name}: expected a dense (torch.strided) tensor, got layout {value.layout}")


def same_device(x: Tensor, others: Iterable[tuple[str, Tensor]]) -> None:
    """RuntimeError, as torch raises, where a tensor is not where x is."""
    for name, other in others:
        if other.device != x.device:
            raise RuntimeError(
                f"Input and {name} tensors are not at the same device, found input tensor at {x.device} and {name} "
                f"tensor at {other.device}"
            )


def take_lengths(lengths: Any, batch: int, seq_len: int) -> np.ndarray[Any, Any]:
    """Lengths as a contiguous int64 array [B] of its own; TypeError or ValueError where they do not fit.

    For x on the CPU a tensor may be on any device: they are few, and needed here.
    """
    if isinstance(lengths, Tensor):
        if lengths.is_meta:
            check_tensor("lengths", lengths)
        # Not .numpy(), which torch.func would see as an operation.
        lengths = np.from_dlpack(lengths if lengths.is_cpu else lengths.cpu())
    elif not isinstance(lengths, (list, tuple)):
        lengths = np.asarray(lengths)  # a column of a table, say
        lengths = lengths.astype(lengths.dtype.newbyteorder("="), copy=False)
    return rows_of(lengths, batch, seq_len)


def lengths_tensor(lengths: Any, batch: Any, device: torch.device) -> Tensor:
    """``take_lengths`` where values cannot be looked at, in a graph or mapped: the kernel's call checks them.

    device: x's.
    """
    if not isinstance(lengths, Tensor):
        if isinstance(lengths, (list, tuple)) and lengths and all(isinstance(n, (int, torch.SymInt)) for n in lengths):
            # One by one: torch.as_tensor of a list would make each of its numbers a constant of the graph.
            lengths = torch.stack([torch.scalar_tensor(n, dtype=torch.int64) for n in lengths])
        else:
            lengths = torch.as_tensor(lengths)
    if lengths.dtype.is_floating_point or lengths.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise TypeError(f"lengths: expected integers, got dtype {lengths.dtype}")
    if lengths.dim() != 1 or lengths.shape[0] != batch:
        raise ValueError(f"lengths: expected shape [B] = [{batch}], got {list(lengths.shape)}")
    if lengths.dtype == torch.int64 and lengths.device == device:
        return lengths  # as it is: torch.func would wrap the result of any operation
    return lengths.to(device=device, dtype=torch.int64)


def take_marks(mask: Any, reset: Any, sizes: tuple[int, int], batched: bool = True, batch_first: bool = False) -> Marks:
    """mask and reset in the caller's layout as arrays of their own, bool [T, B]; TypeError or ValueError.

    sizes: (T, B).
    """
    for name, value in (("mask", mask), ("reset", reset)):
        if isinstance(value, Tensor):
            check_tensor(name, value)
    return take_arrays(mask, reset, sizes, batched, batch_first)


def marks_tensors(mask: Any, reset: Any, sizes: tuple[Any, Any], batched: bool, batch_first: bool) -> Marks:
    """``take_marks`` as tensors, where values cannot be looked at."""
    wanted, axes = layout_of(sizes, batched, batch_first)
    marks: list[Tensor | None] = []
    for name, value in (("mask", mask), ("reset", reset)):
        if value is None:
            marks.append(None)
            continue
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        check_tensor(name, tensor)
        if tensor.dtype != torch.bool:
            raise TypeError(f"{name}: expected bool {axes}, got {tensor.dtype}")
        if tensor.shape != wanted:
            raise ValueError(f"{name}: expected {axes} {list(wanted)}, got {list(tensor.shape)}")
        marks.append(tensor.unsqueeze(1) if not batched else tensor.transpose(0, 1) if batch_first else tensor)
    return Marks(*marks)


def check_batch_sizes(batch_sizes: Tensor, rows: int) -> np.ndarray[Any, Any]:
    """The sizes [T] of a PackedSequence that fit its rows of data; torch.nn raises RuntimeError on others, too."""
    if batch_sizes.dim() != 1 or batch_sizes.dtype != torch.int64 or batch_sizes.numel() == 0:
        got = f"{batch_sizes.dtype} {list(batch_sizes.shape)}"
        raise RuntimeError(f"batch_sizes: expected a non-empty torch.int64 tensor [T], got {got}")
    sizes = batch_sizes.numpy()
    if sizes[-1] < 1 or (np.diff(sizes) > 0).any():
        raise RuntimeError(f"batch_sizes: expected positive numbers that never increase, got {sizes.tolist()}")
    if int(sizes.sum()) != rows:
        raise RuntimeError(f"input: expected sum(batch_sizes) = {int(sizes.sum())} rows of data, got {rows}")
    return sizes


def check_options(sizes: Mapping[str, Any], flags: Mapping[str, Any], dropout: Any, proj_size: Any) -> None:
    """torch.nn's own checks, in its order and words. sizes: input_size, hidden_size, num_layers."""
    if not isinstance(dropout, (int, float, np.number)) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
        )
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= sizes["hidden_size"]:
        raise ValueError("proj_size has to be smaller than hidden_size")


def refuse_unknown(name: str, cell: str, options: Mapping[str, Any]) -> None:
    """Errors of torch.nn and of Python for keywords that a layer does not take."""
    if "proj_size" in options and cell.startswith(("rnn", "gru")):
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
    check_keywords(name, cell, options)
