"""rnnkern.h for ctypes: the structs, and a layer's worth of valid arguments to break one at a time."""

from __future__ import annotations

import ctypes as c
import re
from pathlib import Path
from typing import Any

import numpy as np

I32, I64, U32, U64, P = c.c_int32, c.c_int64, c.c_uint32, c.c_uint64, c.c_void_p
OK, INVALID_VALUE, INVALID_TYPE, NOT_SUPPORTED = range(4)
# rnnk_dtype by the names of NumPy's and ml_dtypes' dtypes; a bool is a byte
DTYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3, "int32": 4, "int64": 5, "uint8": 6, "bool": 6}
FLOAT32, FLOAT64, BFLOAT16 = 0, 1, 2
INT32, INT64, UINT8 = 4, 5, 6
TRAIN = 1
INT8, BF16_WEIGHTS = 256, 1024  # of rnnk_problem.flags
TANH, SOFTSIGN = 2, 10  # rnnk_activation_kind
FORWARD, BACKWARD, BOTH = 1, 2, 3  # rnnk_halves
LSTM = 3


def _struct(name: str, *fields: tuple[str, Any], base: Any = c.Structure) -> Any:
    return type(name, (base,), {"_fields_": list(fields)})


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


Activation = _struct("Activation", *_fields(I32, "kind reserved"), *_fields(c.c_double, "alpha beta"))
Problem = _struct(
    "Problem",
    ("struct_size", U32),
    *_fields(I32, "cell dtype device device_index"),
    ("flags", U32),
    *_fields(I64, "input_size hidden_size num_layers"),
    *_fields(I32, "direction reserved"),
    ("dropout", c.c_double),
    *_fields(I64, "proj_size heads"),
    ("clip", c.c_double),
    ("activations", Activation * 3),
    ("zoneout", c.c_double * 2),
    ("recurrent_dropout", c.c_double),
    *_fields(I64, "typical_seq_len typical_batch"),
    ("activations_reverse", Activation * 3),
)
Sizes = _struct(
    "Sizes",
    ("struct_size", U32),
    *_fields(
        c.c_size_t,
        "packed reserve workspace_forward workspace_forward_least workspace_backward workspace_backward_least",
    ),
)
ReserveBound = _struct(
    "ReserveBound", ("struct_size", U32), *_fields(I64, "constant per_row per_row_dropped border_row border")
)
Tensor = _struct("Tensor", ("data", P), ("stride", I64 * 3), *_fields(I32, "dtype reserved"))
Weights = _struct(
    "Weights", ("struct_size", U32), *_fields(Tensor, "weight_ih weight_hh bias_ih bias_hh weight_hr params")
)
Args = _struct(
    "Args",
    *_fields(U32, "struct_size flags"),
    *_fields(I64, "seq_len batch"),
    *_fields(Tensor, "lengths mask reset"),
    ("packed", P),
    ("packed_size", c.c_size_t),
    *_fields(Tensor, "x h_0 c_0 y h_n c_n"),
    ("reserve", P),
    ("reserve_size", c.c_size_t),
    ("workspace", P),
    ("workspace_size", c.c_size_t),
    ("cuda_stream", P),
    ("seed", U64),
    *_fields(U32, "call stream"),
    ("first_step", I64),
    *_fields(Tensor, "dy dh_n dc_n dx dh_0 dc_0"),
    *_fields(P, "dweights dh"),
    ("clip_dh", c.c_double),
    *_fields(P, "weights pool"),
)
PARALLEL = c.CFUNCTYPE(None, P, c.CFUNCTYPE(None, P), P, I32)
Pool = _struct("Pool", ("struct_size", U32), ("threads", I32), ("parallel", PARALLEL), ("context", P))
Dropout = _struct(
    "Dropout",
    *_fields(U32, "struct_size call stream"),
    ("p", c.c_double),
    ("seed", U64),
    *_fields(I64, "seq_len batch hidden_size"),
    *_fields(Tensor, "lengths input output"),
)
Verdict = _struct(
    "Verdict",
    ("struct_size", U32),
    ("declined", I32),
    ("forward_us", c.c_double),
    ("backward_us", c.c_double),
    ("reason", c.c_char * 240),
    *_fields(I32, "forward_tasks forward_by_units backward_tasks backward_by_units"),
)


def load(path: Path) -> Any:
    """The library with the functions that do not return a status declared."""
    lib = c.CDLL(str(path))
    for name in (
        "version",
        "cpu_features",
        "last_error",
        "cell_name",
        "cell_option",
        "kernel_name",
        "kernel_unavailable",
        "kernel_weights",
        "plan_kernel",
    ):
        getattr(lib, f"rnnk_{name}").restype = c.c_char_p
    lib.rnnk_plan_pack_layout.restype = c.c_uint64
    lib.rnnk_plan_pack_layout.argtypes = [P]
    lib.rnnk_plan_param_rows.restype = I64
    lib.rnnk_plan_param_rows.argtypes = [P]
    lib.rnnk_plan_estimate.restype = c.c_double
    lib.rnnk_plan_estimate.argtypes = [P, I64, I64, I32]
    lib.rnnk_plan_sizes.argtypes = [P, I64, I64, P]
    lib.rnnk_plan_reserve_bound.argtypes = [P, P]
    lib.rnnk_pack_weights.argtypes = [P, P, I32, P, c.c_size_t, P]
    lib.rnnk_forward.argtypes = lib.rnnk_backward.argtypes = [P, P]
    lib.rnnk_explain.argtypes = [P, I64, I64, I64, I32, P]
    lib.rnnk_plan_kernel.argtypes = [P, I64]
    lib.rnnk_plan_destroy.argtypes = [P]
    lib.rnnk_plan_destroy.restype = None
    return lib


def new(kind: Any, **values: Any) -> Any:
    return kind(struct_size=c.sizeof(kind), **values)


def aligned(nbytes: int) -> Any:
    """A zeroed byte array on a 64-byte boundary, with room for a shifted view."""
    base = np.zeros(nbytes + 128, np.uint8)
    start = -base.ctypes.data % 64
    return base[start : start + nbytes]


def tensor(array: Any) -> Any:
    """rnnk_tensor of an array of at most three dimensions, in its own dtype."""
    strides = [s // array.itemsize for s in array.strides] + [1, 1]
    return Tensor(array.ctypes.data, (I64 * 3)(*strides[:3]), DTYPES[array.dtype.name], 0)


class Layer:
    """An LSTM's plan, buffers and valid Args: of one layer, or more. Every buffer the library may write is in
    ``outputs``; gradients of parameters are views of them in ``gradients``, [L*D] structs."""

    T, B, IN, H, G = 4, 3, 5, 6, 4

    def __init__(self, lib: Any, cell: int, **problem: Any) -> None:
        T, B, IN, H, G = self.T, self.B, self.IN, self.H, self.G
        self.lib, self.plan = lib, P()
        self.problem = new(Problem, **{"cell": cell, "dtype": FLOAT32, "input_size": IN, "hidden_size": H} | problem)
        assert lib.rnnk_plan_create(c.byref(self.problem), None, c.byref(self.plan)) == OK, lib.rnnk_last_error()
        D = 2 if self.problem.direction == 2 else 1
        count, out = (self.problem.num_layers or 1) * D, D * H
        self.sizes = new(Sizes)
        assert lib.rnnk_plan_sizes(self.plan, T, B, c.byref(self.sizes)) == OK
        rng = np.random.default_rng(1)

        def given(*shape: int) -> Any:
            return rng.standard_normal(shape).astype(np.float32)

        states = (count, B, H)
        self.inputs = {"x": given(T, B, IN), "h_0": given(*states), "c_0": given(*states), "dy": given(T, B, out)}
        self.outputs: dict[str, Any] = {
            "y": given(T, B, out), "h_n": given(*states), "c_n": given(*states),
            "dx": given(T, B, IN), "dh_0": given(*states), "dc_0": given(*states),
            "packed": aligned(self.sizes.packed), "reserve": aligned(self.sizes.reserve),
        }  # fmt: skip
        self.workspace = aligned(max(self.sizes.workspace_forward, self.sizes.workspace_backward))
        self.lengths = np.array([T, 0, 2], np.int64)
        self.arrays: list[dict[str, Any]] = []
        self.weights, self.gradients = (Weights * count)(), (Weights * count)()
        for index in range(count):
            shapes = {
                "weight_ih": (G * H, IN if index < D else out), "weight_hh": (G * H, H), "bias_ih": (G * H,),
                "bias_hh": (G * H,),
            }  # fmt: skip
            self.arrays.append({name: given(*shape) for name, shape in shapes.items()})
            grads = {name: given(*shape) for name, shape in shapes.items()}
            self.outputs |= {f"d{name}_{index}": grad for name, grad in grads.items()}
            for structs, arrays in ((self.weights, self.arrays[-1]), (self.gradients, grads)):
                structs[index] = new(Weights, **{name: tensor(array) for name, array in arrays.items()})
        self.args = new(
            Args, seq_len=T, batch=B, lengths=tensor(self.lengths),
            packed=self.outputs["packed"].ctypes.data, packed_size=self.sizes.packed,
            reserve=self.outputs["reserve"].ctypes.data, reserve_size=self.sizes.reserve,
            workspace=self.workspace.ctypes.data, workspace_size=self.workspace.size,
            dweights=c.cast(self.gradients, P),
        )  # fmt: skip
        for name, array in (self.inputs | self.outputs).items():
            if name in dict(Args._fields_) and name not in ("packed", "reserve"):
                setattr(self.args, name, tensor(array))

    def pack(self, halves: int = BOTH) -> int:
        given = (self.plan, c.byref(self.weights), halves, self.args.packed, self.args.packed_size, None)
        return int(self.lib.rnnk_pack_weights(*given))

    def call(self, which: str) -> int:
        return int(getattr(self.lib, f"rnnk_{which}")(self.plan, c.byref(self.args)))

    def close(self) -> None:
        self.lib.rnnk_plan_destroy(self.plan)


def refused(lib: Any, status: int, code: int, sentence: str) -> None:
    message = lib.rnnk_last_error().decode()
    assert status == code, message
    assert re.search(sentence, message), message
