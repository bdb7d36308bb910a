"""How far back a gradient reaches: norms of dE/dh_t over the steps, Elman against LSTM against GRU.

    python examples/vanishing_gradients.py [FILE.png]

The error is made at the last step alone, so the norm at step t is what the weights can learn from step t: where it is
a millionth, what happened there is never learnt. Left, every cell with the initial values of torch.nn: all forget
within a few dozen steps, the gated cells too, whose gates stand half open; an Elman network with larger weights
explodes instead. Right, the gates' biases drawn for memories of up to T steps (Tallec and Ollivier 2018, arXiv
1804.11188, section 2): the gradient of LSTM and GRU arrives, and Elman has no gate to open.

Needs matplotlib.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import rnnkern as rk

STEPS, ROWS, INPUTS, HIDDEN = 100, 8, 16, 64


def make(cell: str, seed: int = 0) -> Any:
    """A layer with torch.nn's initial values: uniform in +-1/sqrt(HIDDEN)."""
    return {"Elman": rk.RNN, "LSTM": rk.LSTM, "GRU": rk.GRU}[cell](INPUTS, HIDDEN, seed=seed)


def explode(layer: Any, factor: float = 4.0) -> Any:
    """The same with larger recurrent weights: a spectral radius well over 1."""
    layer.update({"weight_hh_l0": np.float32(factor) * layer.params["weight_hh_l0"]})
    return layer


def remember(layer: Any, steps: int = STEPS, seed: int = 1) -> Any:
    """Gates that keep for 1 to steps - 1 steps: the forget gate's bias is log u, u uniform in [1, steps - 1].

    LSTM (i f g o): b_f = log u, b_i = -b_f. GRU (r z n, h = (1 - z) n + z h'): b_z = log u. Elman: nothing to set.
    """
    H, bias = layer.hidden_size, layer.params["bias_hh_l0"].copy()
    keep = np.log(np.random.default_rng(seed).uniform(1, steps - 1, H)).astype(bias.dtype)
    if isinstance(layer, rk.LSTM):
        bias[:H], bias[H : 2 * H] = -keep, keep
    elif isinstance(layer, rk.GRU):
        bias[H : 2 * H] = keep
    layer.update({"bias_hh_l0": bias})
    return layer


def norms(layer: Any, steps: int = STEPS, rows: int = ROWS, seed: int = 2) -> np.ndarray:
    """[T]: norms of dE/dh_t for a random sequence and a random gradient at its last step, relative to that step."""
    rng = np.random.default_rng(seed)
    y, _, tape = layer.forward(rng.standard_normal((steps, rows, INPUTS), np.float32))
    dy = np.zeros_like(y)
    dy[-1] = rng.standard_normal(dy[-1].shape, np.float32)
    found = rk.train.gradient_norms(layer, tape, dy)
    return found / found[-1]


def plot(panels: dict[str, dict[str, np.ndarray]], path: str) -> None:
    """One panel a title, one line a cell, on a logarithmic scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        for name, values in curves.items():
            axes.semilogy(np.arange(1 - len(values), 1), values, label=name)
        axes.set(title=title, xlabel="time step, relative to the step with the error", ylim=(1e-20, 1e10))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.supylabel("norm of dE/dh_t, relative to the last step")
    figure.savefig(path, dpi=120)


def main(path: str = "vanishing_gradients.png") -> None:
    cells = ("Elman", "LSTM", "GRU")
    panels = {
        "torch.nn's initial values": {cell: norms(make(cell)) for cell in cells}
        | {"Elman, recurrent weights x 4": norms(explode(make("Elman")))},
        f"gates' biases for up to {STEPS} steps": {cell: norms(remember(make(cell))) for cell in cells},
    }
    for title, curves in panels.items():
        print(f"{title}: norm of dE/dh_t, relative to the last step")
        for name, values in curves.items():
            print(
                f"  {name:30}"
                + "".join(f"{back:5} back {values[-1 - back]:8.1e}" for back in (10, 50, len(values) - 1))
            )
    plot(panels, path)
    print(f"plot: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
