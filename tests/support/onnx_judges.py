"""Judges of rnnkern.onnx: a layer with every option in NumPy, and onnxruntime with what it reads differently."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime

import rnnkern as rk
from onnx_models import DEFAULTS, DTYPES, GATES, PARAMETERS, Array, Case, activate, truth
from rnnkern.onnx.nodes import Arguments

EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}
onnxruntime.set_default_logger_severity(4)


def error(got: Array, wanted: Array) -> float:
    """max |got - wanted| / max(1, max |wanted|): cases are drawn with results up to 8."""
    assert got.shape == wanted.shape
    gap = np.max(np.abs(got.astype(np.float64) - wanted), initial=0)
    return float(gap / max(1.0, np.max(np.abs(wanted), initial=0)))


def worst(outputs: dict[str, Array], wanted: dict[str, Array]) -> float:
    return max(error(value, wanted[name]) for name, value in outputs.items())


KEYWORDS = {
    "RNN": {"nonlinearity"},
    "GRU": {"reset_after"},
    "LSTM": {"peephole", "coupled"},
}
COMMON = {"input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "dtype", "reverse"}


class StandIn:
    """A layer with every option, from the equations of ARCHITECTURE.md (gates i f g o, r z n), in float64.

    Strict: a keyword or a parameter that a layer would not have is an error.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.cell, given, self.params = arguments
        assert set(given) <= COMMON | KEYWORDS[self.cell] | {"clip", "activations"}, given
        neutral = {"num_layers": 1, "bias": True, "batch_first": False, "bidirectional": False, "reverse": False}
        neutral |= {"nonlinearity": "tanh", "reset_after": True, "peephole": False, "coupled": False}
        self.k = {**neutral, "clip": None, "activations": None, **given}
        assert not (self.k["bidirectional"] and self.k["reverse"])
        self.dtype, self.input_size, self.hidden_size = (
            DTYPES[given["dtype"]],
            given["input_size"],
            given["hidden_size"],
        )
        self.suffixes = ("", "_reverse") if self.k["bidirectional"] else ("",)
        shapes = self.shapes()
        assert {name: value.shape for name, value in self.params.items()} == shapes
        assert all(value.dtype == self.dtype for value in self.params.values())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        G, H, shapes = GATES[self.cell], self.hidden_size, {}
        for layer in range(self.k["num_layers"]):
            width = self.k["input_size"] if layer == 0 else len(self.suffixes) * H
            for suffix in self.suffixes:
                named = {"weight_ih": (G * H, width), "weight_hh": (G * H, H)}
                named |= {"bias_ih": (G * H,), "bias_hh": (G * H,)} if self.k["bias"] else {}
                named |= {"peephole": (3, H)} if self.k["peephole"] else {}
                shapes |= {f"{name}_l{layer}{suffix}": shape for name, shape in named.items()}
        return shapes

    def __call__(self, x: Array, state: Any = None, *, lengths: Any = None) -> tuple[Array, Any]:
        x = (x.swapaxes(0, 1) if self.k["batch_first"] else x).astype(np.float64)
        (T, B), D = x.shape[:2], len(self.suffixes)
        given = (state if isinstance(state, tuple) else (state, None)) if state is not None else (None, None)
        shape = (self.k["num_layers"] * D, B, self.hidden_size)
        h_n, c_n = (np.zeros(shape) if part is None else part.astype(np.float64) for part in given)
        assert h_n.shape == c_n.shape == shape
        ends = np.full(B, T) if lengths is None else lengths
        for layer in range(self.k["num_layers"]):
            y = np.zeros((T, B, D, self.hidden_size))
            for d, suffix in enumerate(self.suffixes):
                p = {n.removesuffix(f"_l{layer}{suffix}"): v.astype(np.float64) for n, v in self.params.items()}
                at = layer * D + d
                for b in range(B):
                    steps = range(int(ends[b]))
                    for t in reversed(steps) if d == 1 or self.k["reverse"] else steps:
                        h_n[at, b], c_n[at, b] = self.step(p, x[t, b], h_n[at, b], c_n[at, b])
                        y[t, b, d] = h_n[at, b]
            x = y.reshape(T, B, -1)
        wide = np.float32 if self.dtype.itemsize == 2 else self.dtype
        y, h_n, c_n = (x.swapaxes(0, 1) if self.k["batch_first"] else x).astype(self.dtype), h_n.astype(self.dtype), c_n
        return y, (h_n, c_n.astype(wide)) if self.cell == "LSTM" else h_n

    def step(self, p: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        G, H = GATES[self.cell], self.hidden_size
        gx = (p["weight_ih"] @ x + p.get("bias_ih", 0)).reshape(G, H)
        gh = (p["weight_hh"] @ h + p.get("bias_hh", 0)).reshape(G, H)
        f = self.functions()
        if self.cell == "RNN":
            return f[0](gx[0] + gh[0]), c
        if self.cell == "GRU":
            r, z = f[0](gx[0] + gh[0]), f[0](gx[1] + gh[1])
            before = p["weight_hh"][2 * H :] @ (r * h) + np.reshape(p.get("bias_hh", np.zeros(G * H)), (G, H))[2]
            n = f[1](gx[2] + (r * gh[2] if self.k["reset_after"] else before))
            return (1 - z) * n + z * h, c
        v, peephole = gx + gh, p.get("peephole", np.zeros((3, H)))
        i = f[0](v[0] + peephole[0] * c)
        forget = 1 - i if self.k["coupled"] else f[0](v[1] + peephole[1] * c)
        c = forget * c + i * f[1](v[2])
        return f[0](v[3] + peephole[2] * c) * f[2](c), c

    def functions(self) -> list[Any]:
        given = self.k["activations"]
        if given is None:
            given = ("Relu",) if self.k["nonlinearity"] == "relu" else DEFAULTS[self.cell]
        spelled = [(entry,) if isinstance(entry, str) else entry for entry in given]
        assert len(spelled) == len(DEFAULTS[self.cell])
        assert all(len(entry) == 1 + len(PARAMETERS[entry[0]]) for entry in spelled), "every parameter is named"
        bound = np.inf if self.k["clip"] is None else self.k["clip"]
        full = [(entry[0], *entry[1:], *[0.0] * (3 - len(entry))) for entry in spelled]
        bounds = [bound, bound, np.inf][: len(full)]  # LSTM's last activation gets the cell as it is
        each = zip(full, bounds, strict=True)
        return [lambda v, entry=entry, b=b: activate(entry, np.clip(v, -b, b)) for entry, b in each]


def session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnxruntime_declines(case: Case) -> str:
    """What onnxruntime 1.31.1 (CPU) refuses: the reason, or ""."""
    if case.dtype in ("float64", "bfloat16"):
        return case.dtype
    if case.attributes.get("layout"):
        return "layout 1"
    if "hidden_size" not in case.attributes:
        return "no hidden_size"
    if case.op == "RNN" and not set(case.attributes.get("activations", [])) <= set(PARAMETERS):
        return "RNN's activations in another case"
    return "opset below 7" if case.opset < 7 else ""


def onnxruntimes_reading(case: Case) -> dict[str, Array]:
    """``truth`` with the two points that onnxruntime 1.31.1 reads differently (docs/onnx.md)."""
    attributes = dict(case.attributes)
    names = [next(n for n in PARAMETERS if n.lower() == given.lower()) for given in attributes.get("activations", [])]
    takers = [name for name in names if PARAMETERS[name]]
    alpha = list(attributes.get("activation_alpha", []))
    alpha += [0.0 if n == "ThresholdedRelu" else PARAMETERS[n][0] for n in takers[len(alpha) :]]
    if alpha:
        attributes["activation_alpha"] = alpha
    wanted = truth(replace(case, attributes=attributes))
    if "sequence_lens" in case.values:
        for name in wanted.keys() - {"Y"}:
            wanted[name][:, case.values["sequence_lens"] == 0] = 0
    return wanted


def int8_saturates() -> bool:
    """Whether onnxruntime's products of bytes are wrong here: on x86 without VNNI they add pairs in 16 bits, where
    weights of more than 7 bits saturate (its documentation names ``reduce_range`` for them). Errors of h were 0.45.
    """
    names = set(rk.info()["cpu_features"])
    return "avx2" in names and not names & {"avx512_vnni", "avx_vnni"}
