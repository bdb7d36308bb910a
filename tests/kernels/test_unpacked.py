"""Calls that bring their weights: the bits of calls that read a pack.

A single step of few rows (``costs::kMostRowsUnpacked``; in BPTT ``kMostRowsUnpackedBackward``) without heads reads
weights where they are; other calls pack them first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import ml_dtypes  # noqa: F401  (it gives NumPy the dtype bfloat16)
import numpy as np
import pytest

import c_abi
from c_abi import INVALID_VALUE, OK, Layer
from case_call import run_case, same_bits
from runner import KERNELS, SINGLE, takes
from split_cases import KINDS, PLAIN, Case

LSTM = 3  # of cells.inc
MOST, MOST_BACKWARD = 64, 8
HALVES = ["bfloat16", "float16"]


PAIRS = [(kernel, dtype) for kernel in KERNELS for dtype in ("float32", "float64") if takes(kernel, dtype)]


def same(library: Any, kernel: str, case: Case, wanted: Callable[[str], bool] | None) -> None:
    packed = run_case(library, kernel.encode(), case, wanted=wanted)
    same_bits(run_case(library, kernel.encode(), case, wanted=wanted, brings=True), packed)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("B", [1, 7, MOST_BACKWARD + 1, MOST, MOST + 1])
@pytest.mark.parametrize(("kernel", "dtype"), PAIRS)
@pytest.mark.parametrize("name", [*PLAIN, *KINDS])
def test_cells(lib: Any, kernel: str, name: str, dtype: str, B: int, training: bool) -> None:
    """Units of a head below, at and past the vectors' widths; features likewise."""
    for features, each in ((1, 3), (5, 17), (33, 16)):
        case = Case(name, dtype, 1, B, features, each, outputs=9)
        same(lib, kernel, case, (lambda name: True) if training else None)


@pytest.mark.parametrize(("kernel", "dtype"), [(k, d) for k in KERNELS for d in HALVES if takes(k, d)])
@pytest.mark.parametrize("name", PLAIN)
def test_half_types(lib: Any, kernel: str, name: str, dtype: str) -> None:
    for features, each in ((1, 3), (5, 17), (33, 70)):
        same(lib, kernel, Case(name, dtype, 1, 5, features, each, outputs=9, bare=True), None)


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("T", [0, 1, 2])
@pytest.mark.parametrize("kernel", SINGLE)
@pytest.mark.parametrize("name", ["lstm", "gru_before_every", "lstm_norm_projection"])
def test_steps_and_lengths(lib: Any, kernel: str, name: str, T: int, lengths: bool) -> None:
    for B in (0, 1, 5):
        case = Case(name, "float32", T, B, 5, 17, 9, lengths=lengths and B > 0)
        same(lib, kernel, case, None)


@pytest.mark.parametrize("kernel", SINGLE)
@pytest.mark.parametrize("threads", [1, 3])
def test_threads(lib: Any, kernel: str, threads: int) -> None:
    """Units are shared between threads, each with a room of its own for the panel it reads; K past one chain."""
    before = lib.rnnk_get_num_threads()
    assert lib.rnnk_set_num_threads(threads) == OK
    try:
        for B in (1, 6, 40):
            same(lib, kernel, Case("lstm", "float32", 1, B, 200, 300, 9), lambda name: True)
    finally:
        lib.rnnk_set_num_threads(before)


@pytest.mark.parametrize("direction", [0, 1, 2])
def test_networks(lib: Any, direction: int) -> None:
    """Two layers; after the call, what packed holds is no pack."""
    layer = Layer(lib, LSTM, direction=direction, num_layers=2)
    layer.args.seq_len, layer.args.reserve = 1, None
    layer.args.lengths = c_abi.Tensor()
    assert layer.pack() == OK
    assert layer.call("forward") == OK, lib.rnnk_last_error()
    names = ("y", "h_n", "c_n")
    wanted = {name: layer.outputs[name].copy() for name in names}
    for name in names:
        layer.outputs[name][:] = np.nan
    layer.args.weights = ctypes.addressof(layer.weights)
    assert layer.call("forward") == OK, lib.rnnk_last_error()
    assert np.array_equal(layer.outputs["y"][0], wanted["y"][0])
    for name in names[1:]:
        assert np.array_equal(layer.outputs[name], wanted[name]), name
    layer.args.weights = None
    assert layer.call("forward") == INVALID_VALUE
    assert b"packed: expected what rnnk_pack_weights wrote" in lib.rnnk_last_error()
    layer.close()


def test_refusals(lib: Any) -> None:
    layer = Layer(lib, LSTM)
    assert layer.pack() == OK
    layer.args.weights = ctypes.addressof(layer.weights)
    layer.weights[0].weight_hh.data = None
    for which in ("forward", "backward"):
        assert layer.call(which) == INVALID_VALUE
        assert b"weights[0].weight_hh: expected a tensor, got NULL" in lib.rnnk_last_error()
    layer.args.weights = None
    assert layer.call("forward") == OK  # a refused call has touched nothing, the pack included
    layer.close()
