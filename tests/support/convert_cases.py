"""Networks for the tests of ``rnnkern.convert``, and what judges their outputs: one step of every cell and option."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
I, H, P = 3, 4, 2  # noqa: E741 - the symbols of the documentation


class Case(NamedTuple):
    system: str
    cell: str
    reset_after: bool = True
    extras: tuple[str, ...] = ()  # "peephole", "projection", "norm", "independent", "initial"

    def __str__(self) -> str:
        before = "" if self.reset_after else "reset-before"
        return "-".join(filter(None, (self.system, self.cell, before, *self.extras)))


# Everything that can be carried over, by hand: not from the table under test.
CASES = [
    *(
        Case(system, cell)
        for system in ("keras", "flax", "nnx", "onnx", "onednn", "cudnn", "mlx", "madmom", "lasagne")
        for cell in ("rnn", "gru", "lstm")
    ),
    *(Case(system, "gru", reset_after=False) for system in ("keras", "onnx", "onednn", "tensorflow_block")),
    Case("onnx", "lstm", extras=("peephole",)),
    Case("onednn", "lstm", extras=("peephole",)),
    Case("onednn", "lstm", extras=("peephole", "projection")),
    Case("cudnn", "lstm", extras=("projection",)),
    Case("tensorflow_block", "lstm"),
    Case("tensorflow_block", "lstm", extras=("peephole",)),
    Case("haste", "gru"),
    Case("haste", "gru", extras=("norm",)),
    Case("haste", "lstm"),
    Case("haste", "lstm", extras=("norm",)),
    Case("haste", "rnn", extras=("independent",)),
    *(Case(system, "lstm", extras=("peephole",)) for system in ("madmom", "lasagne")),
    *(Case(system, cell, extras=("initial",)) for system in ("madmom", "lasagne") for cell in ("rnn", "gru")),
    *(Case(system, "lstm", extras=("peephole", "initial")) for system in ("madmom", "lasagne")),
]
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def suffixes(num_layers: int, directions: int) -> list[str]:
    return [f"_l{k}{reverse}" for k in range(num_layers) for reverse in ("", "_reverse")[:directions]]


def state_dict(case: Case, num_layers: int = 1, directions: int = 1, dtype: Any = np.float64) -> dict[str, Array]:
    """Multiples of 1/8 in [-1, 1]: sums and differences of a few are exact in every dtype, bfloat16 too."""
    rng, rows = np.random.default_rng(0), GATES[case.cell] * H
    width = P if "projection" in case.extras else H
    params: dict[str, Array] = {}
    for n, suffix in enumerate(suffixes(num_layers, directions)):
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, I if n < directions else directions * width)}
        shapes |= {"weight_hh": (H,) if "independent" in case.extras else (rows, width)}
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        shapes |= {"weight_hr": (P, H)} if "projection" in case.extras else {}
        shapes |= {"peephole": (3, H)} if "peephole" in case.extras else {}
        if "norm" in case.extras:
            shapes |= {"gamma_ih": (rows,), "gamma_hh": (rows,)}
            shapes |= {"gamma_c": (H,), "beta_c": (H,)} if case.cell == "lstm" else {}
        if "initial" in case.extras:
            shapes |= {"h_0": (H,)} | ({"c_0": (H,)} if case.cell == "lstm" else {})
        params |= {name + suffix: (rng.integers(-8, 9, shape) / 8).astype(dtype) for name, shape in shapes.items()}
    if case.system in ("nnx", "madmom", "lasagne") and case.cell == "gru":  # they have no b_hn
        for name in params:
            if name.startswith("bias_hh"):
                params[name][2 * H :] = 0
    return params


def options(case: Case, num_layers: int, directions: int) -> dict[str, Any]:
    """Keywords of to_system and from_system."""
    return {"num_layers": num_layers, "bidirectional": directions == 2, "reset_after": case.reset_after}


# --- judging ----------------------------------------------------------------

Step = Callable[[Mapping[Any, Any], Array, Array, Array], tuple[Array, Array]]  # arrays, x, h', c' -> h, c


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def norm(v: Array) -> Array:
    return (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5)


def rnnkern_step(case: Case) -> Step:
    """rnnkern's equations, with whatever parameters are there."""

    def step(p: Mapping[Any, Any], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gx, gh = x @ p["weight_ih"].T, h * p["weight_hh"] if p["weight_hh"].ndim == 1 else h @ p["weight_hh"].T
        if "gamma_ih" in p:
            gx, gh = p["gamma_ih"] * norm(gx), p["gamma_hh"] * norm(gh)
        gx, gh = gx + p["bias_ih"], gh + p["bias_hh"]
        if case.cell == "rnn":
            return np.tanh(gx + gh), c
        if case.cell == "gru":
            (xr, xz, xn), (hr, hz, hn) = np.split(gx, 3, 1), np.split(gh, 3, 1)
            r, z = sigmoid(xr + hr), sigmoid(xz + hz)
            if case.reset_after:
                n = np.tanh(xn + r * hn)
            else:
                n = np.tanh(xn + (r * h) @ p["weight_hh"][2 * H :].T + p["bias_hh"][2 * H :])
            return (1 - z) * n + z * h, c
        i, f, g, o = np.split(gx + gh, 4, 1)
        pi, pf, po = p.get("peephole", np.zeros((3, 1)))
        i, f = sigmoid(i + pi * c), sigmoid(f + pf * c)
        c = f * c + i * np.tanh(g)
        seen = p["gamma_c"] * norm(c) + p["beta_c"] if "gamma_c" in p else c
        h = sigmoid(o + po * c) * np.tanh(seen)
        return (h @ p["weight_hr"].T if "weight_hr" in p else h), c

    return step


def initial(unit: Mapping[Any, Any], names: Sequence[str], rows: int, width: int) -> Array:
    """The learned initial state of a unit, zero without."""
    found = [unit[name].reshape(1, width) for name in names if name in unit]
    return np.repeat(found[0] if found else np.zeros((1, width)), rows, axis=0)


def run(step: Step, units: Sequence[Mapping[Any, Any]], x: Array, directions: int, width: int = H) -> Array:
    """Layers and directions, each ``step`` with its own arrays, stacked as torch.nn stacks them: y [T, B, D*P]."""
    for k in range(0, len(units), directions):
        outputs = []
        for d in range(directions):
            h = initial(units[k + d], ("h_0", "init", "hid_init"), x.shape[1], width)
            c, ys = initial(units[k + d], ("c_0", "cell_init"), x.shape[1], H), []
            for row in x[::-1] if d else x:
                h, c = step(units[k + d], row, h, c)
                ys.append(h)
            outputs.append(np.stack(ys[::-1] if d else ys))
        x = np.concatenate(outputs, axis=2)
    return x


def judged(case: Case, params: Mapping[str, Array], x: Array, num_layers: int, directions: int) -> Array:
    """What rnnkern makes of a state dict."""
    units = [
        {name.removesuffix(end): value for name, value in params.items() if name.endswith(end)}
        for end in suffixes(num_layers, directions)
    ]
    return run(rnnkern_step(case), units, x, directions, P if "projection" in case.extras else H)


DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
