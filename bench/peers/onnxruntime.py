"""ONNX Runtime's CPU provider. Inference only; float32, and float16 by way of its own casts.

Inputs and outputs are bound once, so a call copies nothing.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from rnnkern.problems import Problem

from ..data import Array, Data, Run
from . import onnx_model


class Peer:
    name = "onnxruntime"
    version = onnxruntime.__version__

    def __init__(self, threads: int) -> None:
        onnxruntime.set_default_logger_severity(3)  # errors: warnings would break the table
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1

    def declines(self, problem: Problem, mode: str) -> str:
        if problem.cell not in onnx_model.OPERATOR:
            return f"ONNX has no operator for {problem.cell}"
        if mode == "training":
            return "onnxruntime has no training on this package"
        if problem.dtype not in ("float32", "float16"):
            return f"onnxruntime's CPU kernels have no {problem.dtype}"
        return ""

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        model = onnx_model.build(problem, data, problem.dtype)
        session = onnxruntime.InferenceSession(model, self._options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for name, array in onnx_model.inputs(problem, data, problem.dtype).items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        results = {}
        for name, shape in onnx_model.outputs(problem).items():
            results[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, problem.dtype))
            binding.bind_ortvalue_output(name, results[name])

        def outputs(_: object) -> dict[str, Array]:
            return {name: value.numpy().astype(np.float64) for name, value in results.items()}

        return Run(lambda: session.run_with_iobinding(binding), outputs)
