"""Runs a case of option_cases.py on a kernel, and compares the results with the judge's.

Bound: 4 eps times ``growth`` of T steps, each a sum of K terms, and of T*B rows in a gradient's sum (judging.growth),
relative to a tensor's largest magnitude or to 1, the size of the terms where they cancel. A layer norm passes an error
on 1/std times as large, and standard deviations of a row are some tenths here: ten times the bound. For half types the
judge's gradients hold on one side of each kink alone, so that cases with kinks are held to their outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from option_cases import Case, CaseData, judged, options_of
from problems import DTYPES, HALF, Array
from rnnkern.option_values import ACTIVATIONS
from runner import DEVICE_KERNELS, UNAVAILABLE, Kept, Output, new_plan


def plan_of(case: Case, dtype: str, kernel: str) -> Any:
    """The case bound to the kernel; skips, with the kernel's own words, where it cannot run or declines."""
    if kernel not in DEVICE_KERNELS and UNAVAILABLE[kernel]:
        pytest.skip(f"{kernel}: {UNAVAILABLE[kernel]}")
    try:
        return bind(case, dtype, kernel)
    except NotImplementedError as declined:
        pytest.skip(f"{kernel}: {declined}")


def bind(case: Case, dtype: str, kernel: str, make: Callable[..., Any] = new_plan) -> Any:
    """The same; NotImplementedError where it declines."""
    o = options_of(case)
    activations = [(ACTIVATIONS[name][0], alpha, beta) for name, alpha, beta in o.activations or ()]
    return make(
        kernel, case.cell, dtype, case.features, case.H, bias=case["bias"], reverse=case["reverse"],
        recompute=case["recompute"], proj_size=case["proj_size"], heads=o.heads,
        peephole=o.peephole, coupled=o.coupled, reset_before=not o.reset_after, layer_norm=o.layer_norm,
        independent=o.independent, clip=o.clip or 0.0, activations=activations, zoneout=o.zoneout,
        recurrent_dropout=o.recurrent_dropout,
    )  # fmt: skip


ROWS = ("peephole", "gamma_ih", "gamma_hh", "gamma_c", "beta_c")


def vectors(case: Case, data: CaseData, plan: Any) -> dict[str, slice]:
    """Where each parameter stands in the plan's params [K, H]."""
    names = ("weight_hh", "bias_hh") if data.options.independent else ROWS
    place: dict[str, slice] = {}
    row = 0
    for name in names:
        if name in data.params:
            count = data.params[name].size // case.H
            place[name] = slice(row, row + count)
            row += count
    return place


def run(case: Case, data: CaseData, plan: Any, dtype: str, probe: bool = False) -> dict[str, Array]:
    """A training step; outputs are NaN before, with guards around them."""
    kind = DTYPES[dtype]
    wide = np.float32 if dtype in HALF else kind
    p, place = data.params, vectors(case, data, plan)
    params = None
    if plan.param_rows:
        params = np.zeros((plan.param_rows, case.H), kind)
        for name, where in place.items():
            params[where] = p[name].reshape(-1, case.H)
    separate = {name: p.get(name) for name in ("weight_hh", "bias_hh") if name not in place}
    packed = plan.pack(
        p["weight_ih"], separate.get("weight_hh"), p.get("bias_ih"), separate.get("bias_hh"),
        weight_hr=p.get("weight_hr"), params=params,
    )  # fmt: skip
    T, B, H, P = case.T, case.B, case.H, case.P
    out = {"y": Output((T, B, P), kind), "h_n": Output((B, P), kind)}
    back = {"dx": Output((T, B, case.features), kind), "dh_0": Output((B, P), wide)}
    if data.c_0 is not None:
        out["c_n"], back["dc_0"] = Output(data.c_0.shape, wide), Output(data.c_0.shape, wide)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"):
        if name in p and name not in place:
            back[f"d{name}"] = Output(p[name].shape, kind)
    if plan.param_rows:
        back["dparams"] = Output((plan.param_rows, H), kind)
    if probe:
        back["dh"] = Output((T, B, P), wide)
    marks = {"lengths": data.lengths, "mask": data.mask, "reset": data.reset, "random": data.random}
    y, h_n = out["y"].array, out["h_n"].array
    c_n = out["c_n"].array if "c_n" in out else None
    reserve = Kept(plan.sizes(T, B)["reserve"])
    plan.forward(packed, data.x, data.h_0, data.c_0, y, h_n, c_n, reserve=reserve.array, **marks)
    inference = Output((T, B, P), kind)
    plan.forward(packed, data.x, data.h_0, data.c_0, inference.array, None, None, **marks)
    assert inference.array.tobytes() == y.tobytes(), "keeping a tape changed y"
    grads = {name: output.array for name, output in back.items()}
    plan.backward(packed, reserve.array, data.x, data.h_0, data.c_0, y, data.dy, data.dh_n, data.dc_n, **grads, **marks)
    reserve.check()
    for name, output in (out | back).items():
        output.check(name)
    results = {name: output.array for name, output in (out | back).items()}
    block = results.pop("dparams", None)
    for name, where in place.items():
        assert block is not None
        results[f"d{name}"] = block[where].reshape(p[name].shape)
    return results


def bound(case: Case, dtype: str) -> float:
    eps = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    K = case.features + 2 * case.H + 2
    growth = case.T**0.5 if dtype in HALF else (case.T * max(K, case.T * case.B)) ** 0.5
    return 4 * eps * growth * (10 if case["layer_norm"] else 1)


def compare(case: Case, dtype: str, got: dict[str, Array], slack: float = 1.0) -> None:
    """slack: how many times the bound, for problems that nobody chose."""
    wanted, allowed = judged(case, dtype), slack * bound(case, dtype)
    assert got.keys() == wanted.keys()
    names = ("y", "h_n", "c_n") if dtype in HALF and case.kinked else tuple(wanted)
    wrong = []
    for name in names:
        if name not in wanted:
            continue
        gap = np.abs(got[name].astype(wanted[name].dtype) - wanted[name]).max(initial=0)
        error = float(gap / np.abs(wanted[name]).max(initial=1))
        if not error <= allowed:
            wrong.append(f"{name}: error {error:.3g}, allowed {allowed:.3g}")
    assert not wrong, "; ".join(wrong)
