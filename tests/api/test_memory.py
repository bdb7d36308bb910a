"""Memory kept between calls: what is let go of is used again, is bounded, and can be given back."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import rnnkern as rk
from one_layer import HostPlan
from rnnkern import _core


def test_a_dropped_pack_is_kept_and_used_again() -> None:
    rk.empty_cache()
    plan = HostPlan("lstm", "float32", 256, 256)
    weights = [np.zeros(s, np.float32) for s in ((1024, 256), (1024, 256), (1024,), (1024,))]
    packed = plan.pack(*weights)
    assert _core.cached_bytes() == 0
    del packed
    kept = _core.cached_bytes()
    assert kept >= 4 * 2 * 1024 * 512  # both orientations
    packed = plan.pack(*weights)
    assert _core.cached_bytes() == 0, "the same block serves again"
    del packed
    assert rk.empty_cache() == kept
    assert _core.cached_bytes() == 0 and rk.empty_cache() == 0


def test_small_blocks_and_far_larger_ones_are_not_mixed_up() -> None:
    rk.empty_cache()
    large = HostPlan("lstm", "float32", 512, 512)
    small = HostPlan("lstm", "float32", 256, 256)
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    packed = large.pack(zeros(2048, 512), zeros(2048, 512), zeros(2048), zeros(2048))
    del packed
    kept = _core.cached_bytes()
    packed = small.pack(zeros(1024, 256), zeros(1024, 256), zeros(1024), zeros(1024))
    assert _core.cached_bytes() == kept, "a quarter of the block is not worth the whole"
    del packed
    assert rk.empty_cache() > kept


def test_results_do_not_depend_on_what_a_kept_block_held() -> None:
    rng = np.random.default_rng(0)
    layer = rk.LSTM(128, 128, seed=3)
    x = rng.standard_normal((64, 16, 128)).astype(np.float32)
    dy = rng.standard_normal((64, 16, 128)).astype(np.float32)

    def step() -> list[np.ndarray]:
        y, _, tape = layer.forward(x)
        grads = layer.backward(tape, dy)
        return [y, grads.x, *grads.params.values()]

    rk.empty_cache()
    first = step()
    plan = HostPlan("lstm", "float32", 128, 128)
    packed = plan.pack(*(np.full(s, np.nan, np.float32) for s in ((512, 128), (512, 128), (512,), (512,))))
    del packed
    assert _core.cached_bytes() > 0
    for got, wanted in zip(step(), first, strict=True):
        assert np.array_equal(got, wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_frees_and_takes() -> None:
    code = """
import os, numpy as np
from rnnkern import _core
plan = _core.Plan("lstm", "float32", 256, 256)
w = [np.zeros(s, np.float32) for s in ((1024, 256), (1024, 256), (1024,), (1024,))]
p = plan.pack([*w, None, None]); del p
pid = os.fork()
p = plan.pack([*w, None, None]); del p
if pid == 0: os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_growing_sizes_do_not_pile_up() -> None:
    rk.empty_cache()
    for hidden in range(256, 400, 16):
        plan = HostPlan("lstm", "float32", 64, hidden)
        shapes = ((4 * hidden, 64), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,))
        packed = plan.pack(*(np.zeros(s, np.float32) for s in shapes))
        size = plan.sizes(0, 0)["packed"]
        del packed
        assert _core.cached_bytes() <= 2 * size + (4 << 20)
