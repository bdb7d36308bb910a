"""rk.kernels, rk.explain, rk.info and the thread count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import rnnkern as rk
from rnnkern import _core, _engine


def test_explain_says_which_kernel_runs_and_why() -> None:
    layer = rk.LSTM(8, 16, 2, bidirectional=True)
    said = rk.explain(layer, np.zeros((10, 3, 8), np.float32))
    names = [kernel.name for kernel in rk.kernels()]
    assert len(said.layers) == 2 and said.layers[1].input_size == 32
    for index, one in enumerate(said.layers):
        assert [c.name for c in one.candidates] == names
        assert [c.name for c in one.candidates if c.chosen] == [one.kernel]
        assert one.kernel == _engine.plan(layer.spec).kernels[index]
        for c in one.candidates:
            assert c.chosen or c.reason  # a kernel that does not run says why
            assert (c.forward_us is None) == c.declined
            for split in (c.forward_split, c.backward_split):
                assert (split is None) == c.declined
                assert split is None or (1 <= split.threads <= rk.get_num_threads() and split.by in ("rows", "units"))
                assert split is None or str(split) in str(one)
            assert c.name in str(one) and c.reason in str(one)
    assert said.kernel == said.layers[0].kernel and said.candidates is said.layers[0].candidates
    assert "T = 10, B = 3" in repr(said)


@pytest.mark.parametrize("batch_first", [False, True])
def test_explain_reads_shapes_like_the_layer(batch_first: bool) -> None:
    layer = rk.GRU(8, 16, batch_first=batch_first)
    assert ("T = 3, B = 10" if batch_first else "T = 10, B = 3") in repr(rk.explain(layer, (10, 3, 8)))
    assert "T = 10, B = 1" in repr(rk.explain(layer, (10, 8)))
    assert "T = 1, B = 7" in repr(rk.explain(rk.GRUCell(8, 16), (7, 8)))
    with pytest.raises(ValueError, match=r"x: expected .* I = 8, got shape \[10, 3, 9\]"):
        rk.explain(layer, (10, 3, 9))
    with pytest.raises(TypeError, match="layer: expected a layer or cell of rnnkern, got str"):
        rk.explain("lstm", (10, 3, 8))  # type: ignore[arg-type]


def test_forced_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKERN_KERNEL", "cpu_scalar")
    said = rk.explain(rk.RNN(4, 5), (3, 2, 4))
    assert said.kernel == "cpu_scalar"
    assert all(c.chosen or c.declined or "cpu_scalar is forced" in c.reason for c in said.candidates)


def test_info_and_kernels() -> None:
    info = rk.info()
    assert info["version"] == rk.__version__
    assert len(info["gpus"]) == _core.device_count()
    assert info["cuda"] == (_core.devices_unavailable() or "available")
    assert info["threads"] == rk.get_num_threads() >= 1
    assert info["pool"] in ("own", "lent")
    assert info["kernels"]["cpu_scalar"] == "available"
    assert {"lstm", "gru", "rnn_tanh", "rnn_relu"} <= set(info["build"]["cells"])
    scalar = next(kernel for kernel in rk.kernels() if kernel.name == "cpu_scalar")
    assert not scalar.unavailable and str(scalar) == "cpu_scalar"
    rk.check()


def test_thread_count(set_threads: Callable[[int], None]) -> None:
    set_threads(3)
    assert rk.get_num_threads() == 3
    rk.set_num_threads(np.int64(1))  # type: ignore[arg-type]
    assert rk.get_num_threads() == 1
