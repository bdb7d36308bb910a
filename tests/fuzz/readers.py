"""Readers of files and texts over mutated input: safetensors, ONNX models, the JSON of a step's options.

    python tests/fuzz/readers.py --count 100000 --seed 1

Valid inputs are made, then bytes are changed, cut out, repeated or swapped. An input is read, or refused by ValueError,
TypeError or NotImplementedError (onnx.checker's own error, too) with words that name something. Everything else is a
finding, is printed, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import rnnkern as rk
import rnnkern.onnx as ro
from onnx_models import model_of, with_states
from rnnkern.torch.options import options_of

REFUSALS = (ValueError, TypeError, NotImplementedError, onnx.checker.ValidationError)


def mutated(rng: np.random.Generator, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if not out:
            break
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 17))
        how = int(rng.integers(6))
        if how == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif how == 1:
            out[at] = int(rng.integers(256))
        elif how == 2:
            del out[at : at + length]
        elif how == 3:
            out[at:at] = out[at : at + length]
        elif how == 4:
            out[at:at] = rng.bytes(length)
        else:
            del out[at:]
    return bytes(out)


def of_safetensors(folder: Path) -> tuple[bytes, Callable[[bytes], Any]]:
    path = folder / "weights.safetensors"
    rk.io.save(path, rk.LSTM(3, 2, seed=0), {"config": '{"a": 1}'})

    def read(data: bytes) -> None:
        path.write_bytes(data)
        rk.io.metadata(path)
        rk.LSTM(3, 2, seed=0).load_state_dict(rk.io.load(path))

    return path.read_bytes(), read


def of_onnx(_: Path) -> tuple[bytes, Callable[[bytes], Any]]:
    case = with_states(model_of("LSTM", 2, clip=0.5, activations=["Sigmoid", "Elu", "Tanh"] * 2), [4, 0, 2])
    feeds = case.feeds()

    def read(data: bytes) -> None:
        try:
            model = onnx.ModelProto.FromString(data)
        except DecodeError as error:
            raise ValueError(f"no ONNX model: {error}") from error
        prepared = ro.prepare(model)
        if set(prepared.inputs) == set(feeds):
            prepared.run(feeds)
        ro.from_onnx(model)

    return case.model().SerializeToString(), read


def of_options(_: Path) -> tuple[bytes, Callable[[bytes], Any]]:
    text = '{"peephole": true, "clip": 0.5, "activations": ["Sigmoid", ["Elu", 0.5], "Tanh"], "zoneout": [0.1, 0.2]}'

    def read(data: bytes) -> None:
        options_of("lstm", 8, data.decode("utf-8", "replace"))

    return text.encode(), read


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    findings, outcome = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        for kind in (of_safetensors, of_onnx, of_options):
            valid, read = kind(Path(name))
            read(valid)
            for number in range(given.count // 3):
                data = mutated(np.random.default_rng([given.seed, number]), valid)
                try:
                    read(data)
                    outcome[f"{kind.__name__}: read"] += 1
                except REFUSALS as error:
                    outcome[f"{kind.__name__}: refused"] += 1
                    if len(str(error)) < 10:
                        findings += 1
                        print(
                            f"{kind.__name__} seed {given.seed} number {number}: says too little: {error!r}", flush=True
                        )
                except Exception as error:
                    findings += 1
                    print(f"{kind.__name__} seed {given.seed} number {number}: {error!r}"[:300], flush=True)
    print(f"{given.count} inputs: {dict(outcome)}; {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
