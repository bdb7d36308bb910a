"""PyTorch: torch.nn.RNN, GRU and LSTM, eager. LSTM runs in oneDNN, GRU and RNN in ATen's own loops.

Inference is a call under inference_mode; a training step is the call and torch.autograd.grad for x and every parameter,
which returns fresh gradients as `backward` does after `zero_grad(set_to_none=True)`. Rows of different lengths are a
PackedSequence, packed beforehand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rnnkern.problems import Problem

from ..data import Array, Data, Run

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_MODULES: dict[str, tuple[Any, dict[str, str]]] = {
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}


def _tensor(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """A copy, by way of float64: every value of every dtype survives."""
    return torch.from_numpy(array.astype(np.float64)).to(dtype)


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.detach().to(torch.float64).numpy()


class Peer:
    name = "torch"
    version = torch.__version__

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def declines(self, problem: Problem, mode: str) -> str:
        return "" if problem.cell in _MODULES else f"torch.nn has no {problem.cell}"

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        dtype = _DTYPES[problem.dtype]
        module = self._module(problem, data, dtype)
        x: Any = _tensor(data.x, dtype).requires_grad_(mode == "training")
        leaf = x
        if data.lengths is not None:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(data.lengths), enforce_sorted=False)
            if mode == "training":  # the packed values are the input: packing is not part of the step
                leaf = x.data.detach().requires_grad_(True)
                x = torch.nn.utils.rnn.PackedSequence(leaf, *x[1:])
        state: Any = None if data.h_0 is None else _tensor(data.h_0, dtype)
        if data.c_0 is not None:
            state = (state, _tensor(data.c_0, dtype))

        def outputs(result: Any) -> dict[str, Array]:
            y, states, grads = result
            h_n, *c_n = states if problem.cell == "lstm" else (states,)
            out = {"y": _numpy(self._padded(y)), "h_n": _numpy(h_n)} | ({"c_n": _numpy(c_n[0])} if c_n else {})
            if mode == "training":
                dx = torch.nn.utils.rnn.PackedSequence(grads[0], *x[1:]) if data.lengths is not None else grads[0]
                out["dx"] = _numpy(self._padded(dx))
                names = [name for name, _ in module.named_parameters()]
                out |= {f"d{name}": _numpy(grad) for name, grad in zip(names, grads[1:], strict=True)}
            return out

        if mode == "inference":

            def infer() -> Any:
                with torch.inference_mode():
                    return *module(x, state), ()

            return Run(infer, outputs)

        wanted = [leaf, *module.parameters()]
        dy = _tensor(data.dy, dtype)
        if data.lengths is not None:
            dy = torch.nn.utils.rnn.pack_padded_sequence(dy, torch.from_numpy(data.lengths), enforce_sorted=False).data

        def step() -> Any:
            y, states = module(x, state)
            return y, states, torch.autograd.grad(y.data if data.lengths is not None else y, wanted, dy)

        return Run(step, outputs)

    @staticmethod
    def _padded(y: Any) -> Any:
        return torch.nn.utils.rnn.pad_packed_sequence(y)[0] if isinstance(y, torch.nn.utils.rnn.PackedSequence) else y

    @staticmethod
    def _module(problem: Problem, data: Data, dtype: torch.dtype) -> torch.nn.Module:
        kind, options = _MODULES[problem.cell]
        module: torch.nn.Module = kind(
            problem.input_size,
            problem.hidden_size,
            problem.num_layers,
            bias=not problem.has("nobias"),
            bidirectional=problem.directions == 2,
            dtype=dtype,
            **options,
        )
        module.load_state_dict({name: _tensor(value, dtype) for name, value in data.params.items()})
        return module.eval()
