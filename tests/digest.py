"""SHA-256 of everything that 300 layers return on each kernel, for a change that must not change a bit.

    python -m tests.digest before.json                  # write the digests of this build
    python -m tests.digest --compare before.json        # run again; status 1 and a line for each that differs

Tests of equal bits compare runs with each other and would not see a sum that changed in all of them. A problem is drawn
from its number alone and runs as users call it: cell, options, sizes, layers, directions, lengths, mask, reset, state,
dropout, recompute. Digests are of y, the final states and every gradient, in training and in inference, and belong to
one kind of CPU and one NumPy (whose random numbers the inputs are). Only the public API is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rnnkern as rk

PROBLEMS = 300
SIZES = (1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 33, 48, 64, 65, 96, 129)
OPTIONS: dict[str, dict[str, Any]] = {
    "RNN": {"nonlinearity": "relu", "activations": "Softsign", "independent": True},
    "GRU": {"reset_after": False, "activations": [("HardSigmoid", 0.2, 0.5), "Tanh"]},
    "LSTM": {"proj_size": 3, "peephole": True, "coupled": True, "activations": ["Sigmoid", "ScaledTanh", "Tanh"]},
}
SHARED = {"clip": 1.5, "layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.3, "heads": 2}


def arrays(value: Any) -> Iterator[np.ndarray]:
    """The arrays of a nested state."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from arrays(part)
    elif value is not None:
        yield np.asarray(value)


def digest(*values: Any) -> str:
    sha = hashlib.sha256()
    for array in arrays(values):
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def draw(number: int, dtype: str) -> tuple[Any, dict[str, Any], np.random.Generator] | None:
    """A layer, the arguments of its calls, and a generator for the rest; None if no kernel takes the options."""
    rng = np.random.default_rng([7, number])

    def pick(values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    def often(probability: float) -> bool:
        return bool(rng.random() < probability)

    kind = pick(("RNN", "GRU", "LSTM", "LSTM", "GRU", "sLSTM"))
    T, B, inputs, hidden = int(rng.integers(1, 24)), pick((1, 2, 3, 7, 8, 16, 33)), pick(SIZES), 2 * pick(SIZES)
    layers, both = int(rng.integers(1, 4)), often(0.4)
    options: dict[str, Any] = {"bias": often(0.8), "recompute": often(0.3), "seed": number, "dtype": dtype}
    if kind in OPTIONS:
        for name, value in (SHARED | OPTIONS[kind]).items():
            if often(0.12):
                options[name] = value
    if layers > 1 and often(0.3):
        options["dropout"] = 0.4
    if not both and often(0.2):
        options["reverse"] = True
    call: dict[str, Any] = {}
    if often(0.5):
        call["lengths"] = rng.integers(0, T + 1, B)
    if often(0.2):
        call["mask"] = rng.random((T, B)) < 0.8
    if often(0.2):
        call["reset"] = rng.random((T, B)) < 0.2
    try:
        layer = getattr(rk, kind)(inputs, hidden, layers, bidirectional=both, **options)
    except (NotImplementedError, ValueError):
        return None
    layer.call = 3
    return layer, call | {"x": rng.standard_normal((T, B, inputs)).astype(layer.dtype)}, rng


def run(number: int, dtype: str) -> list[str] | None:
    """Digests of inference and of a training step, without and with an initial state."""
    drawn = draw(number, dtype)
    if drawn is None:
        return None
    layer, call, rng = drawn
    x = call.pop("x")

    def like(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(like(part) for part in value)
        return (0.5 * rng.standard_normal(value.shape)).astype(value.dtype)

    y, final = layer(x, **call)
    found = [digest(y, final)]
    for state in (None, like(final)):
        y, final, tape = layer.forward(x, state, **call)
        grads = layer.backward(tape, like(y), like(final))
        found.append(digest(y, final, grads.x, grads.state, list(grads.params.values())))
    return found


def everything() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in rk.kernels():
        kernel = each.name
        if each.unavailable or each.weights or not kernel.startswith("cpu_"):
            continue
        os.environ["RNNKERN_KERNEL"] = kernel
        for number in range(PROBLEMS):
            for dtype in ("float32", "float64", "bfloat16")[number % 3 :][:1] if kernel != "cpu_amx" else ("bfloat16",):
                digests = run(number, dtype)
                if digests is not None:
                    found[f"{kernel} {number} {dtype}"] = digests
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args()
    found = everything()
    if not args.compare:
        args.file.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
        print(f"{len(found)} problems")
        return 0
    wanted = json.loads(args.file.read_text(encoding="utf-8"))
    parts = ("inference", "training", "training from a state")
    wrong = [
        f"{name}: other bits in {part}"
        for name in sorted(wanted.keys() | found.keys())
        for part, before, after in zip(parts, wanted.get(name, "---"), found.get(name, "---"), strict=True)
        if before != after
    ]
    print("\n".join([*wrong, f"{len(found)} problems, {len(wrong)} differences"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
