"""How exact results are: a bound that every product holds to, and the mean error beside torch.nn's in the same dtype.

The bound. A sum of K products is added up in chains of 256 terms (csrc/cpu/tile.h). Each fused multiply-add of a chain
and each addition of a chain to the total rounds once, by at most half an eps of a partial sum, which is at most the sum
of the terms' magnitudes. So the error is at most (min(K, 256) + ceil(K / 256)) * eps / 2 of that sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import rnnkern as rk
from one_layer import HostPlan
from runner import KERNELS, takes

CHAIN = 256
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
EXACT = {"float32": np.float64, "float64": np.longdouble}
SIZES = (1, 3, 255, 256, 257, 511, 513, 1000, 4096, 65_537)


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("K", SIZES)
@pytest.mark.parametrize(("kernel", "dtype"), [(k, d) for k in KERNELS for d in EPS if takes(k, d)])
def test_products_stay_within_their_bound(kernel: str, dtype: str, K: int, rows: int) -> None:
    """W x + b through the cell without an activation; terms of one sign (the largest partial sums), and of both."""
    H = 5
    plan = HostPlan("linear", dtype, K, H, kernel=kernel)
    rng = np.random.default_rng(K)
    for low in (-1.0, 0.0):
        x = rng.uniform(low, 1, (1, rows, K)).astype(dtype)
        w, b = rng.uniform(low, 1, (H, K)).astype(dtype), rng.uniform(low, 1, H).astype(dtype)
        zeros, y = np.zeros((H, H), dtype), np.empty((1, rows, H), dtype)
        packed = plan.pack(w, zeros, b, np.zeros(H, dtype), backward=False)
        plan.forward(packed, x, None, None, y, None, None)
        wide = EXACT[dtype]
        exact = x[0].astype(wide) @ w.T.astype(wide) + b.astype(wide)
        size = np.abs(x[0].astype(wide)) @ np.abs(w.T.astype(wide)) + np.abs(b.astype(wide))
        roundings = min(K, CHAIN) + math.ceil(K / CHAIN)
        assert (np.abs(y[0] - exact) <= roundings * EPS[dtype] / 2 * size).all()
        # The errors are as good as random, so their mean is far below: by the square root of the chain's length.
        mean = math.sqrt(np.mean(np.square((y[0] - exact) / size)))
        assert mean <= 2 * math.sqrt(roundings) * EPS[dtype] / 2


# kind, I, H, layers, T, B
CASES = [
    ("GRU", 64, 512, 1, 20, 16),
    ("LSTM", 64, 1024, 1, 5, 8),
    ("GRU", 40, 1500, 1, 5, 8),
    ("LSTM", 64, 256, 1, 20, 16),
    ("GRU", 4096, 64, 1, 5, 16),
    ("GRU", 8192, 8, 1, 4, 4),
    ("GRU", 65_536, 8, 1, 2, 4),
    ("RNN", 512, 512, 1, 20, 16),
    ("LSTM", 64, 64, 1, 100, 64),
    ("GRU", 128, 128, 2, 50, 32),
    ("LSTM", 129, 129, 3, 1, 8),
    ("LSTM", 129, 129, 3, 1, 1),
    ("GRU", 250, 129, 1, 1, 1),
    ("RNN", 4096, 16, 1, 1, 1),
    ("LSTM", 16, 512, 1, 20, 1),
    ("LSTM", 1, 1, 1, 30, 5),
]
SEEDS = 6


def results(layer: Any, x: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)[0]
    y.backward(dy)
    found = {"y": y.detach(), "dx": x.grad, **{name: weight.grad for name, weight in layer.named_parameters()}}
    assert all(value is not None for value in found.values())
    return found  # type: ignore[return-value]


def ours(layer: Any, x: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    plain = getattr(rk, type(layer).__name__)(layer.input_size, layer.hidden_size, layer.num_layers)
    plain.load_state_dict({name: value.numpy() for name, value in layer.state_dict().items()})
    y, _, tape = plain.forward(x.numpy())
    grads = plain.backward(tape, dy.numpy())
    found = {"y": y, "dx": grads.x, **grads.params}
    return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_mean_error_beside_torchs(case: tuple[Any, ...]) -> None:
    """Geometric means over seeds of our error over torch.nn's, each the norm of the difference to float64.

    At most 1.5; 2 where every product has fewer than 256 terms and so one chain; 3 for one row, where torch multiplies
    a matrix by a vector and adds in 16 lanes; 2.5 for 65,536 inputs: adding 256 chains one after another errs as much
    as the chains do, and torch's product without AVX-512 avoids both (2.2 on Zen 3, 0.24 on Sapphire Rapids).
    """
    kind, inputs, hidden, layers, steps, rows = case
    logs: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        layer = getattr(torch.nn, kind)(inputs, hidden, layers)
        wide = getattr(torch.nn, kind)(inputs, hidden, layers).double()
        wide.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
        x, dy = torch.randn(steps, rows, inputs), torch.randn(steps, rows, hidden)
        exact, theirs, found = results(wide, x.double(), dy.double()), results(layer, x, dy), ours(layer, x, dy)
        for name, value in exact.items():
            error, peer = ((v[name].double() - value).norm().item() for v in (found, theirs))
            if error and peer:
                logs.setdefault(name, []).append(math.log(error / peer))
    one_chain = max(inputs, hidden) < CHAIN and steps * rows < CHAIN
    limit = 3.0 if rows == 1 else 2.5 if inputs == 65_536 else 2.0 if one_chain else 1.5
    means = {name: math.exp(sum(values) / len(values)) for name, values in logs.items()}
    assert means and max(means.values()) <= limit, means
