"""rnnkern itself, with the kernel it chooses or with one that is forced.

Inference is a call of the public layer. A training step packs the weights, runs forward with a tape, and backward for x
and every parameter: packing is inside, because weights change with every step. That is what `rnnkern.torch` runs; the
plain layers add the checksum that guards their tape, which no peer has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import rnnkern
from rnnkern import _core, _engine
from rnnkern.nn.tape import MEMORY
from rnnkern.problems import Problem

from .data import Array, Data, Run


@contextmanager
def _forced(kernel: str | None) -> Iterator[None]:
    """A layer keeps the kernel that RNNKERN_KERNEL names when it is made."""
    before = os.environ.pop("RNNKERN_KERNEL", None)
    if kernel is not None:
        os.environ["RNNKERN_KERNEL"] = kernel
    try:
        yield
    finally:
        os.environ.pop("RNNKERN_KERNEL", None)
        if before is not None:
            os.environ["RNNKERN_KERNEL"] = before


class Subject:
    """rnnkern with one kernel: a name from `_core.kernels()`, or None for RNNKERN_KERNEL or the library's choice."""

    version = _core.version()

    def __init__(self, kernel: str | None = None) -> None:
        names = dict(_core.kernels())
        if kernel is not None and kernel not in names:
            raise ValueError(f"kernels: expected some of {', '.join(names)}, got {kernel!r}")
        if kernel is not None and names[kernel]:
            raise ValueError(f"kernels: {kernel} cannot run on this machine: {names[kernel]}")
        self.kernel = kernel or os.environ.get("RNNKERN_KERNEL") or None
        self.name = f"rnnkern/{kernel}" if kernel else "rnnkern"

    def declines(self, problem: Problem, mode: str) -> str:
        """Why no kernel, or not the forced one, can do it, or ""."""
        if problem.cell not in _LAYERS:
            return f"{problem.cell} has no layer"
        for width in set(problem.layer_inputs):
            sizes, extent = (width, problem.hidden_size), (problem.seq_len, problem.batch)
            verdicts = _core.explain(problem.cell, problem.dtype, sizes, extent)
            asked = [verdict for verdict in verdicts if self.kernel in (None, verdict["name"])]
            if all(verdict["declined"] for verdict in asked):
                return "; ".join(f"{verdict['name']}: {verdict['reason']}" for verdict in asked)
        return ""

    def chosen(self, problem: Problem) -> str:
        """The kernel that runs the problem's first layer."""
        return str(_engine.plan(self._spec(problem)).kernels[0])

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        return self._training(problem, data) if mode == "training" else self._inference(problem, data)

    def _spec(self, problem: Problem) -> _engine.Spec:
        with _forced(self.kernel):
            return _engine.Spec(
                problem.cell,
                problem.dtype,
                problem.input_size,
                problem.hidden_size,
                problem.num_layers,
                not problem.has("nobias"),
                problem.directions == 2,
            )

    def _inference(self, problem: Problem, data: Data) -> Run:
        kind, options = _LAYERS[problem.cell]
        with _forced(self.kernel):
            layer = kind(
                problem.input_size,
                problem.hidden_size,
                problem.num_layers,
                bias=not problem.has("nobias"),
                bidirectional=problem.directions == 2,
                dtype=problem.dtype,
                **options,
            )
        layer.load_state_dict(data.params)
        cells = max(1, layer.spec.states - 1)
        state: Any = data.h_0 if data.c_0 is None else (data.h_0, *np.split(data.c_0, cells, axis=-1))

        def outputs(result: Any) -> dict[str, Array]:
            y, states = result
            h_n, *c_n = states if isinstance(states, tuple) else (states,)
            return _wide({"y": y, "h_n": h_n} | ({"c_n": np.concatenate(c_n, axis=-1)} if c_n else {}))

        return Run(lambda: layer(data.x, state, lengths=data.lengths), outputs)

    def _training(self, problem: Problem, data: Data) -> Run:
        spec = self._spec(problem)
        params = [data.params[name] for name in spec.param_names]

        def step() -> Any:
            packed = _engine.pack(spec, params)
            reserve = _engine.new_reserve(spec, data.x.shape[0], data.x.shape[1], drop=False)
            inputs = _engine.Inputs(data.x, data.h_0, data.c_0, data.lengths)
            y, h_n, c_n = _engine.forward(spec, packed, inputs, MEMORY, reserve=reserve)
            tape, above = _engine.Tape(spec, inputs, y, reserve), _engine.OutputGradients(data.dy)
            grads = _engine.backward(packed, tape, above, MEMORY, _engine.Wanted(state=False))
            return y, h_n, c_n, grads

        def outputs(result: Any) -> dict[str, Array]:
            y, h_n, c_n, grads = result
            arrays = {"y": y, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n}) | {"dx": grads.x}
            return _wide(arrays | {f"d{name}": grad for name, grad in zip(spec.param_names, grads.params, strict=True)})

        return Run(step, outputs)


_LAYERS: dict[str, tuple[Any, dict[str, str]]] = {
    "lstm": (rnnkern.LSTM, {}),
    "gru": (rnnkern.GRU, {}),
    "slstm": (rnnkern.sLSTM, {}),
    "rnn_tanh": (rnnkern.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (rnnkern.RNN, {"nonlinearity": "relu"}),
}


def _wide(arrays: dict[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(array).astype(np.float64) for name, array in arrays.items()}
