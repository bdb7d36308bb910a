"""Real ONNX files from packages: onnxruntime alone, and with rnnkern's recurrent nodes.

    pip download --no-deps -d wheels silero-vad ddddocr brainmaze-eeg-models arabic-name-romanizer dksplit text2tashkeel
    python -m rnnkern.bench.onnx_files wheels

The models are read inside the wheels; nothing is installed. Each row is the time of one run of the whole model on one
thread (the CPU time of the calling thread, the least of many runs), and the largest difference of an output. Without
a folder: models of a single node, for batches of 1 and 16.
"""

from __future__ import annotations

import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rnnkern as rk
from rnnkern import onnx as ro

Feeds = dict[str, Any]


class File(NamedTuple):
    package: str
    path: str
    feeds: Callable[[np.random.Generator], Feeds]
    size: str  # of the feeds, in words


def _speech(samples: int, **others: Any) -> Callable[[np.random.Generator], Feeds]:
    return lambda rng: {"input": rng.normal(0, 0.1, (1, samples)).astype(np.float32), **others}


def _codes(name: str, batch: int, length: int, most: int) -> Callable[[np.random.Generator], Feeds]:
    return lambda rng: {name: rng.integers(1, most, (batch, length))}


def _states(*names: str, parts: int = 1) -> Feeds:
    return {name: np.zeros((parts, 1, 128), np.float32) for name in names}


_RATE = {"sr": np.array(16000)}
_SILERO = "silero_vad/data/silero_vad"


def _romanizer(rng: np.random.Generator) -> Feeds:
    return {"src": rng.integers(1, 20, (4, 12)), "src_mask": np.ones((4, 12), bool)}


def _chunks(rng: np.random.Generator) -> Feeds:
    return {"input": rng.normal(0, 0.1, (64, 576)).astype(np.float32), **_states("h", "c")}


def _eeg(rng: np.random.Generator) -> Feeds:
    return {"x": rng.normal(size=(1, 100, 240)).astype(np.float32)}


def _picture(rng: np.random.Generator) -> Feeds:
    return {"input1": rng.normal(size=(1, 1, 64, 160)).astype(np.float32)}


FILES = [
    File("silero-vad", f"{_SILERO}.onnx", _speech(576, **_RATE, **_states("state", parts=2)), "576 samples"),
    File("silero-vad", f"{_SILERO}_16k_op15.onnx", _speech(576, **_RATE, **_states("state", parts=2)), "576 samples"),
    File("silero-vad", f"{_SILERO}_half.onnx", _speech(576, **_states("state", parts=2)), "576 samples"),
    File("silero-vad", f"{_SILERO}_openvino_16k.onnx", _speech(576, **_states("state", parts=2)), "576 samples"),
    File("silero-vad", f"{_SILERO}_16k_sequence.onnx", _chunks, "64 x 576 samples"),
    File("brainmaze-eeg-models", "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx", _eeg, "240 steps"),
    File("brainmaze-eeg-models", "brainmaze_eeg_models/seizure/_models/modelB_full.onnx", _eeg, "240 steps"),
    File("arabic-name-romanizer", "arabic_name_romanizer/resources/encoder.onnx", _romanizer, "4 words of 12"),
    File("arabic-name-romanizer", "arabic_name_romanizer/resources/persian/encoder.onnx", _romanizer, "4 words of 12"),
    File("ddddocr", "ddddocr/common.onnx", _picture, "64 x 160 pixels"),
    File("ddddocr", "ddddocr/common_old.onnx", _picture, "64 x 160 pixels"),
    File("dksplit", "dksplit/models/dksplit-int8.onnx", _codes("chars", 4, 24, 20), "4 words of 24"),
    File("text2tashkeel", "text2tashkeel/models/bilstm.int8.onnx", _codes("input_ids", 1, 60, 30), "60 letters"),
    File("text2tashkeel", "text2tashkeel/models/rawi_v3.int8.onnx", _codes("input", 1, 60, 30), "60 letters"),
]  # fmt: skip


class Row(NamedTuple):
    file: File
    nodes: str  # of rnnkern among the recurrent ones
    difference: float
    alone: float  # seconds
    shared: float


def read(folder: Path, file: File) -> bytes:
    """A model inside the wheel of its package."""
    (wheel,) = folder.glob(f"{file.package.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(file.path)


def session(model: bytes, shared: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return ro.session(model, options) if shared else onnxruntime.InferenceSession(model, options)


def taken(made: Any) -> str:
    """How many recurrent nodes rnnkern runs, of how many there are."""
    recurrent = [
        part.ep_name
        for part in made.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if node.op_type in ("RNN", "GRU", "LSTM", "DynamicQuantizeLSTM")
    ]
    return f"{sum('Rnnkern' in name for name in recurrent)} of {len(recurrent)}"


def measure(file: File, model: bytes, seconds: float = 2.0) -> Row:
    feeds = file.feeds(np.random.default_rng(0))
    sessions = [session(model, shared) for shared in (False, True)]
    outputs = [each.run(None, feeds) for each in sessions]
    difference = max(float(np.max(np.abs(a.astype(np.float64) - b), initial=0)) for a, b in zip(*outputs, strict=True))
    least = [float("inf")] * 2
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        for index in (0, 1):  # in turn, so that both meet the same neighbours
            begin = time.thread_time()
            sessions[index].run(None, feeds)
            least[index] = min(least[index], time.thread_time() - begin)
    return Row(file, taken(sessions[1]), difference, *least)


def table(rows: list[Row]) -> Iterator[str]:
    yield "| file | package | size | nodes on rnnkern | largest difference | onnxruntime | with rnnkern | ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {Path(row.file.path).name} | {row.file.package} | {row.file.size} | {row.nodes} | {row.difference:.0e} "
            f"| {1e3 * row.alone:.3g} ms | {1e3 * row.shared:.3g} ms | {row.alone / row.shared:.2f} |"
        )


def node(layer: type[Any], batch: int, hidden_size: int, steps: int = 50) -> Row:
    """A model of one node, as many inputs as units."""
    model = ro.to_onnx(layer(hidden_size, hidden_size, seed=0)).SerializeToString()

    def feeds(rng: np.random.Generator) -> Feeds:
        return {"x": rng.normal(size=(steps, batch, hidden_size)).astype(np.float32)}

    return measure(File("", f"{layer.__name__}", feeds, f"B {batch}, H {hidden_size}"), model, seconds=1.0)


def node_table() -> Iterator[str]:
    """Ratios of each operator, and their geometric mean."""
    sizes = [(batch, hidden_size) for batch in (1, 16) for hidden_size in (64, 128, 256, 512)]
    yield "| node | " + " | ".join(f"B {batch}, H {hidden_size}" for batch, hidden_size in sizes) + " | mean |"
    yield "|---" * (len(sizes) + 2) + "|"
    for layer in (rk.LSTM, rk.GRU, rk.RNN):
        ratios = [row.alone / row.shared for row in (node(layer, *size) for size in sizes)]
        mean = float(np.exp(np.mean(np.log(ratios))))
        yield f"| {layer.__name__} | " + " | ".join(f"{ratio:.2f}" for ratio in [*ratios, mean]) + " |"


def main(folder: str | None = None) -> None:
    rows = node_table() if folder is None else table([measure(file, read(Path(folder), file)) for file in FILES])
    for line in rows:
        print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
