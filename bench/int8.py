"""Weights in int8 beside the peers that have them: time, and the error that rounding makes.

    python -m bench.int8 [--threads N] [--cells LSTM,GRU] [--hidden 256,512,1024] [--batch 1,4,16]
    python -m bench.int8 --errors

Peers: onnxruntime's ``quantize_dynamic`` (LSTM alone) and torch's (``torch.ao.quantization``). A point is the median
over rounds in which every subject runs in turn, in microseconds a step of T = 40, I = H.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import rnnkern as rk

STEPS = 40
Answer = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def subjects(cell: str, module: Any, threads: int) -> Iterator[tuple[str, Answer]]:
    """Name and answer of each, for a torch.nn module of one layer: x [T, B, I] -> y [T, B, H]."""
    import torch

    state = {name: value.numpy() for name, value in module.state_dict().items()}
    sizes = (module.input_size, module.hidden_size)
    for name, weights in (("float32", None), ("int8", "int8")):
        layer = getattr(rk, cell)(*sizes, weights=weights)
        layer.load_state_dict(state)
        yield name, by_layer(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(module), {type(module)})

    def by_torch(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            return dynamic(torch.from_numpy(x))[0].numpy()  # type: ignore[no-any-return]

    yield "torch int8", by_torch
    if cell == "LSTM" and find_spec("onnxruntime") and find_spec("onnx"):
        yield "onnxruntime int8", by_onnxruntime(module, threads)


def by_layer(layer: Any) -> Answer:
    return lambda x: layer(x)[0]  # type: ignore[no-any-return]


def by_onnxruntime(module: Any, threads: int) -> Answer:
    """DynamicQuantizeLSTM, as its own tool makes it from torch's export."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "int8.onnx"
        torch.onnx.export(
            module, (torch.zeros(2, 2, module.input_size),), whole, dynamo=False, input_names=["x"],
            dynamic_axes={"x": {0: "T", 1: "B"}},
        )  # fmt: skip
        quantize_dynamic(whole, small, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]  # type: ignore[no-any-return]


def measure(answers: dict[str, Answer], x: np.ndarray[Any, Any], seconds: float) -> dict[str, float]:
    """Microseconds a step."""
    times: dict[str, list[float]] = {name: [] for name in answers}
    for answer in answers.values():
        answer(x)
        answer(x)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, answer in answers.items():
            begin = time.perf_counter()
            answer(x)
            times[name].append((time.perf_counter() - begin) / len(x) * 1e6)
    return {name: statistics.median(taken) for name, taken in times.items()}


COLUMNS = ("float32", "int8", "torch int8", "onnxruntime int8")


def speed(cells: list[str], hidden: list[int], batches: list[int], threads: int, seconds: float) -> None:
    import torch

    torch.set_num_threads(threads)
    rk.set_num_threads(threads)
    head = f"{threads} thread{'s' * (threads > 1)}, us a step"
    print(f"| {head} | {' | '.join(COLUMNS)} | best peer / int8 | float32 / int8 |")
    print("|---|---|---|---|---|---|---|")
    for cell in cells:
        for size in hidden:
            answers = dict(subjects(cell, getattr(torch.nn, cell)(size, size), threads))
            for batch in batches:
                x = np.random.default_rng(0).standard_normal((STEPS, batch, size), np.float32)
                us = measure(answers, x, seconds)
                peer = min(us[name] for name in COLUMNS[2:] if name in us)
                said = " | ".join(f"{us[name]:.1f}" if name in us else "" for name in COLUMNS)
                ratios = f"{peer / us['int8']:.2f} | {us['float32'] / us['int8']:.2f}"
                print(f"| {cell} H={size} B={batch} | {said} | {ratios} |", flush=True)


def errors() -> None:
    """Relative rms error of y against float32, on weights that users run and on fresh ones."""
    print("| model | int8 | torch int8 | onnxruntime int8 |")
    print("|---|---|---|---|")
    for name, module, x in models():
        answers = dict(subjects(type(module).__name__, module, 1))
        exact = answers.pop("float32")(x)
        said = [
            f"{np.sqrt(np.mean((answers[peer](x) - exact) ** 2) / np.mean(exact**2)):.1e}" if peer in answers else ""
            for peer in ("int8", "torch int8", "onnxruntime int8")
        ]
        print(f"| {name} | {' | '.join(said)} |", flush=True)


def models() -> Iterator[tuple[str, Any, np.ndarray[Any, Any]]]:
    """Name, a torch.nn module of one layer, x [T, B, I]. Packages that are not installed are left out."""
    import torch

    rng = np.random.default_rng(0)
    for cell in ("LSTM", "GRU"):
        torch.manual_seed(0)
        yield (
            f"{cell} 256, fresh weights",
            getattr(torch.nn, cell)(256, 256),
            rng.standard_normal((50, 8, 256), np.float32),
        )
    if find_spec("resemblyzer"):
        # Rows of powers of a mel spectrum, as the encoder reads them: small numbers, a few large ones.
        x = np.abs(rng.standard_normal((160, 4, 40))).astype(np.float32) ** 4 * 0.01
        weights = torch.load(_package("resemblyzer") / "pretrained.pt", "cpu", weights_only=True)["model_state"]
        yield "Resemblyzer, layer 1 (LSTM 40 to 256)", _loaded(torch.nn.LSTM(40, 256), weights, "lstm."), x
    if find_spec("silero_vad"):
        import safetensors.torch

        weights = safetensors.torch.load_file(_package("silero_vad") / "data" / "silero_vad_16k.safetensors")
        own = {f"{name}_l0": weights[f"lstm_cell.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        x = np.maximum(rng.standard_normal((100, 4, 128)), 0).astype(
            np.float32
        )  # after a ReLU, as its encoder gives it
        yield "silero-vad (LSTM 128)", _loaded(torch.nn.LSTM(128, 128), own, ""), x
    if find_spec("g2p_en"):
        weights = dict(np.load(_package("g2p_en") / "checkpoint20.npz"))
        letters = weights["enc_emb"][rng.integers(3, 29, (12, 8))].astype(np.float32)
        names = {
            "enc_w_ih": "weight_ih_l0",
            "enc_w_hh": "weight_hh_l0",
            "enc_b_ih": "bias_ih_l0",
            "enc_b_hh": "bias_hh_l0",
        }
        given = {name: torch.from_numpy(weights[key]) for key, name in names.items()}
        yield "g2p_en, encoder (GRU 256)", _loaded(torch.nn.GRU(256, 256), given, ""), letters


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"expected the package {name} to be installed")
    return Path(spec.origin).parent


def _loaded(module: Any, weights: dict[str, Any], prefix: str) -> Any:
    module.load_state_dict({name: weights[prefix + name].float() for name in module.state_dict()})
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", default="LSTM,GRU")
    parser.add_argument("--hidden", default="256,512,1024")
    parser.add_argument("--batch", default="1,4,16")
    parser.add_argument("--seconds", type=float, default=2, help="of measuring at each point")
    parser.add_argument("--errors", action="store_true", help="errors in place of times")
    given = parser.parse_args()
    if given.errors:
        errors()
        return
    hidden, batches = ([int(word) for word in text.split(",")] for text in (given.hidden, given.batch))
    speed(given.cells.split(","), hidden, batches, given.threads, given.seconds)


if __name__ == "__main__":
    main()
