"""Gate orders as data, and the reordering of weights between systems."""

from __future__ import annotations

import numpy as np
import pytest

from rnnkern.weights import ORDER, permutation, reorder


@pytest.mark.parametrize("cell", ORDER)
def test_every_order_has_the_same_gates(cell: str) -> None:
    for system, order in ORDER[cell].items():
        assert sorted(order) == sorted(ORDER[cell]["torch"]), system


def test_orders_that_other_systems_document() -> None:
    """ONNX: W[iofc] and W[zrh]; Keras: i f c o and z r h; OpenVINO: f i c o."""
    i, f, g, o = (np.full((2, 3), value) for value in "ifgo")
    onnx = np.concatenate([i, o, f, g])
    torch_order = np.concatenate([i, f, g, o])
    assert np.array_equal(reorder(onnx, "lstm", "onnx", "torch"), torch_order)
    assert np.array_equal(reorder(torch_order, "lstm", "torch", "openvino"), np.concatenate([f, i, g, o]))
    kernel = np.concatenate([i.T, f.T, g.T, o.T], axis=1)  # Keras: gates on the last axis
    assert np.array_equal(reorder(kernel, "lstm", "keras", "onnx", axis=-1), onnx.T)
    r, z, n = (np.full(2, value) for value in "rzn")
    assert np.array_equal(reorder(np.concatenate([z, r, n]), "gru", "keras", "torch"), np.concatenate([r, z, n]))
    assert permutation("lstm", "onnx", "torch") == (0, 2, 3, 1)


@pytest.mark.parametrize("cell", ORDER)
def test_there_and_back(cell: str) -> None:
    array = np.arange(len(ORDER[cell]["torch"]) * 5 * 2).reshape(-1, 2)
    for source in ORDER[cell]:
        for target in ORDER[cell]:
            there = reorder(array, cell, source, target)
            assert not np.shares_memory(there, array)
            assert np.array_equal(reorder(there, cell, target, source), array)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"cell: .*'rnn'"):
        permutation("rnn", "torch", "onnx")
    with pytest.raises(ValueError, match=r"target: .*'nowhere'"):
        permutation("gru", "torch", "nowhere")
    with pytest.raises(ValueError, match="axis 0 to hold 4 gates, got length 6"):
        reorder(np.zeros((6, 2)), "lstm", "torch", "onnx")
