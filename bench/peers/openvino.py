"""OpenVINO's CPU plugin on the same ONNX model. Inference only.

On CPUs with AMX the plugin computes float32 models in bfloat16 unless told otherwise: the precision is always stated.
A bfloat16 problem is its float32 model with bfloat16 inference precision, which is how its users run one.
"""

from __future__ import annotations

import numpy as np
import openvino

from rnnkern.problems import Problem

from ..data import Array, Data, Run
from . import onnx_model

_PRECISION = {"float32": "f32", "bfloat16": "bf16"}


class Peer:
    name = "openvino"
    version = openvino.__version__.split("-")[0]

    def __init__(self, threads: int) -> None:
        self._core = openvino.Core()
        self._config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}

    def declines(self, problem: Problem, mode: str) -> str:
        if problem.cell not in onnx_model.OPERATOR:
            return f"ONNX has no operator for {problem.cell}"
        if mode == "training":
            return "openvino is inference only"
        if problem.dtype not in _PRECISION:
            return f"openvino's CPU plugin does not compute in {problem.dtype}"
        if problem.dtype == "bfloat16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return "openvino has no bfloat16 on this CPU"
        return ""

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        model = self._core.read_model(onnx_model.build(problem, data, "float32"))
        config = self._config | {"INFERENCE_PRECISION_HINT": _PRECISION[problem.dtype]}
        request = self._core.compile_model(model, "CPU", config).create_infer_request()
        for name, array in onnx_model.inputs(problem, data, "float32").items():
            request.set_tensor(name, openvino.Tensor(array))  # a copy: a shared array would have to outlive the request

        def outputs(_: object) -> dict[str, Array]:
            return {name: request.get_tensor(name).data.astype(np.float64) for name in onnx_model.outputs(problem)}

        return Run(lambda: request.infer(share_outputs=True), outputs)
