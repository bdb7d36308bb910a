"""rnnkern.h for ctypes: the structs, and a layer's worth of valid arguments to break one at a time."""

from __future__ import annotations

import ctypes as c
import re
from pathlib import Path
from typing import Any

import numpy as np

I32, I64, U32, U64, P = c.c_int32, c.c_int64, c.c_uint32, c.c_uint64, c.c_void_p
OK, INVALID_VALUE, INVALID_TYPE, NOT_SUPPORTED = range(4)
FLOAT32, FLOAT64, BFLOAT16 = 0, 1, 2
ACCUMULATE_DX = 1
LSTM = 3


def _struct(name: str, *fields: tuple[str, Any], base: Any = c.Structure) -> Any:
    return type(name, (base,), {"_fields_": list(fields)})


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


Problem = _struct(
    "Problem",
    ("struct_size", U32),
    *_fields(I32, "cell dtype device device_index"),
    ("flags", U32),
    *_fields(I64, "input_size hidden_size"),
)
Sizes = _struct(
    "Sizes", ("struct_size", U32), *_fields(c.c_size_t, "packed reserve workspace_forward workspace_backward")
)
Tensor = _struct("Tensor", ("data", P), ("stride", I64 * 3), ("dtype", I32))
Weights = _struct("Weights", ("struct_size", U32), *_fields(P, "weight_ih weight_hh bias_ih bias_hh"))
Args = _struct(
    "Args",
    ("struct_size", U32),
    ("flags", U32),
    *_fields(I64, "seq_len batch"),
    *_fields(P, "lengths packed"),
    *_fields(Tensor, "x h_0 c_0 y h_n c_n"),
    ("reserve", P),
    ("reserve_size", c.c_size_t),
    ("workspace", P),
    ("workspace_size", c.c_size_t),
    *_fields(Tensor, "dy dh_n dc_n dx dh_0 dc_0"),
    *_fields(P, "dweight_ih dweight_hh dbias_ih dbias_hh"),
)
# The same with what was appended since: the options of a step.
FullProblem = _struct(
    "FullProblem",
    *_fields(I64, "proj_size heads"),
    ("clip", c.c_double),
    ("activations", _struct("Activation", ("kind", I32), *_fields(c.c_double, "alpha beta")) * 3),
    ("zoneout", c.c_double * 2),
    ("recurrent_dropout", c.c_double),
    base=Problem,
)
FullWeights = _struct("FullWeights", *_fields(P, "weight_hr params"), base=Weights)
FullArgs = _struct(
    "FullArgs",
    *_fields(P, "dweight_hr dparams mask reset"),
    ("dh", Tensor),
    ("clip_dh", c.c_double),
    ("seed", U64),
    *_fields(U32, "call stream"),
    ("first_step", I64),
    base=Args,
)
Dropout = _struct(
    "Dropout",
    *_fields(U32, "struct_size call stream"),
    ("p", c.c_double),
    ("seed", U64),
    *_fields(I64, "seq_len batch hidden_size"),
    ("lengths", P),
    *_fields(Tensor, "input output"),
)
Verdict = _struct(
    "Verdict",
    ("struct_size", U32),
    ("declined", I32),
    ("forward_us", c.c_double),
    ("backward_us", c.c_double),
    ("reason", c.c_char * 240),
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
    lib.rnnk_pack_weights.argtypes = [P, P, I32, P, c.c_size_t]
    lib.rnnk_forward.argtypes = lib.rnnk_backward.argtypes = [P, P]
    lib.rnnk_forward_stack.argtypes = lib.rnnk_backward_stack.argtypes = [P, P, I32]
    lib.rnnk_backward_both.argtypes = [P, P, P, P]
    lib.rnnk_backward_both_workspace.argtypes = [P, P, I64, I64, P]
    lib.rnnk_explain.argtypes = [P, I64, I64, I32, P]
    lib.rnnk_plan_destroy.argtypes = lib.rnnk_plan_kernel.argtypes = [P]
    lib.rnnk_plan_destroy.restype = None
    return lib


def new(kind: Any, **values: Any) -> Any:
    return kind(struct_size=c.sizeof(kind), **values)


def aligned(nbytes: int) -> Any:
    """A zeroed byte array on a 64-byte boundary, with room for a shifted view."""
    base = np.zeros(nbytes + 128, np.uint8)
    start = -base.ctypes.data % 64
    return base[start : start + nbytes]


def tensor(array: Any, dtype: int = FLOAT32) -> Any:
    strides = [s // array.itemsize for s in array.strides] + [1]
    return Tensor(array.ctypes.data, (I64 * 3)(*strides[:3]), dtype)


class Layer:
    """An LSTM layer's plan, buffers and valid Args. Every buffer the library may write is in ``outputs``."""

    T, B, IN, H, G = 4, 3, 5, 6, 4

    def __init__(self, lib: Any, cell: int) -> None:
        T, B, IN, H, G = self.T, self.B, self.IN, self.H, self.G
        self.lib, self.plan = lib, P()
        self.problem = new(Problem, cell=cell, dtype=FLOAT32, input_size=IN, hidden_size=H)
        assert lib.rnnk_plan_create(c.byref(self.problem), None, c.byref(self.plan)) == OK
        self.sizes = new(Sizes)
        assert lib.rnnk_plan_sizes(self.plan, T, B, c.byref(self.sizes)) == OK
        rng = np.random.default_rng(1)

        def given(*shape: int) -> Any:
            return rng.standard_normal(shape).astype(np.float32)

        self.inputs = {"x": given(T, B, IN), "h_0": given(B, H), "c_0": given(B, H), "dy": given(T, B, H)}
        self.outputs: dict[str, Any] = {
            "y": given(T, B, H), "h_n": given(B, H), "c_n": given(B, H),
            "dx": given(T, B, IN), "dh_0": given(B, H), "dc_0": given(B, H),
            "dweight_ih": given(G * H, IN), "dweight_hh": given(G * H, H),
            "dbias_ih": given(G * H), "dbias_hh": given(G * H),
            "packed": aligned(self.sizes.packed), "reserve": aligned(self.sizes.reserve),
        }  # fmt: skip
        self.workspace = aligned(max(self.sizes.workspace_forward, self.sizes.workspace_backward))
        self.lengths = np.array([T, 0, 2], np.int64)
        self.arrays = {
            name: given(*shape)
            for name, shape in {
                "weight_ih": (G * H, IN),
                "weight_hh": (G * H, H),
                "bias_ih": (G * H,),
                "bias_hh": (G * H,),
            }.items()
        }
        self.weights = new(Weights, **{name: a.ctypes.data for name, a in self.arrays.items()})
        self.args = new(
            Args, seq_len=T, batch=B, lengths=self.lengths.ctypes.data,
            packed=self.outputs["packed"].ctypes.data,
            reserve=self.outputs["reserve"].ctypes.data, reserve_size=self.sizes.reserve,
            workspace=self.workspace.ctypes.data, workspace_size=self.workspace.size,
        )  # fmt: skip
        for name, array in (self.inputs | self.outputs).items():
            if name in dict(Args._fields_) and name not in ("packed", "reserve"):
                setattr(self.args, name, array.ctypes.data if "weight" in name or "bias" in name else tensor(array))

    def pack(self, backward: int = 1) -> int:
        size = self.sizes.packed
        return int(self.lib.rnnk_pack_weights(self.plan, c.byref(self.weights), backward, self.args.packed, size))

    def call(self, which: str) -> int:
        return int(getattr(self.lib, f"rnnk_{which}")(self.plan, c.byref(self.args)))

    def close(self) -> None:
        self.lib.rnnk_plan_destroy(self.plan)


def refused(lib: Any, status: int, code: int, sentence: str) -> None:
    message = lib.rnnk_last_error().decode()
    assert status == code, message
    assert re.search(sentence, message), message
