"""rnnkern.torch as users meet it: modules in a model, eager and compiled, against torch.nn's.

    python -m bench.modules --json out.json                (from a checkout)

The model is Linear, the layer, Linear, in float32; its answers and gradients are compared first. One table:
microseconds a step of inference and of a training step (forward, gradients of x and of every parameter), blocks
alternating between torch.nn eager, torch.nn under torch.compile, rnnkern.torch eager and rnnkern.torch under
torch.compile. A second one: seconds of the first call of a compiled model, by T; torch.nn's layer is a graph break
there, or, with Dynamo's ``allow_rnn``, unrolled.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import rnnkern as rk
import rnnkern.torch as rt
from rnnkern.problems import BENCH

from . import machine, timing

_CONTENDERS: Final = ("torch", "torch compiled", "rnnkern", "rnnkern compiled")
_COMPILE_STEPS: Final = (5, 10, 20, 40, 200)


class Model(nn.Module):
    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.before, self.layer, self.after = nn.Linear(size, size), layer, nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layer(self.before(x))[0])  # type: ignore[no-any-return]


def contenders(kind: str, size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    theirs = Model(getattr(nn, kind)(size, size), size)
    ours = copy.deepcopy(theirs)
    rt.replace(ours)
    torch._dynamo.reset()
    compiled = {"torch compiled": torch.compile(theirs), "rnnkern compiled": torch.compile(ours, fullgraph=True)}
    return {"torch": theirs, "rnnkern": ours, **compiled}


def calls(models: dict[str, Any], x: Tensor, mode: str) -> dict[str, Any]:
    given = x.clone().requires_grad_()
    dy = torch.randn_like(x)

    def inference(model: Any) -> Any:
        def run() -> Any:
            with torch.no_grad():
                return (model(x),)

        return run

    def training(model: Any) -> Any:
        wanted = [given, *model.parameters()]
        return lambda: torch.autograd.grad(model(given), wanted, dy)

    return {name: (inference if mode == "inference" else training)(models[name]) for name in _CONTENDERS}


def check(runs: dict[str, Any]) -> None:
    """Every answer against torch's: sums over some hundred roundings each, relative to the largest."""
    wanted = runs["torch"]()
    for name, run in runs.items():
        for a, b in zip(run(), wanted, strict=True):
            difference = float((a - b).abs().max() / b.abs().max())
            if difference > 1024 * torch.finfo(b.dtype).eps:
                raise SystemExit(f"{name}: an answer differs from torch's by {difference:.1e} of its largest magnitude")


def speed(plan: timing.Plan) -> list[dict[str, Any]]:
    points = []
    for problem in BENCH:
        if problem.cell not in ("lstm", "gru"):
            continue
        size, x = problem.hidden_size, torch.randn(problem.seq_len, problem.batch, problem.input_size)
        models = contenders(problem.cell.upper(), size)
        for mode in ("inference", "training"):
            runs = calls(models, x, mode)
            check(runs)
            times = timing.measure(runs, plan)
            us = {name: statistics.median(t.blocks) / problem.seq_len * 1e6 for name, t in times.items()}
            best = min(us["torch"], us["torch compiled"])
            line = {
                "problem": str(problem),
                "mode": mode,
                "us": us,
                "compiled against best": best / us["rnnkern compiled"],
            }
            points.append(line)
            text = "  ".join(f"{name} {us[name]:8.2f}" for name in _CONTENDERS)
            print(f"{problem!s:<28} {mode:<9} {text}  {line['compiled against best']:.2f}x", flush=True)
    return points


def compile_seconds() -> list[dict[str, Any]]:
    """From torch.compile to the first gradients, of LSTM, H = 32."""
    found = []
    torch.compile(nn.Linear(2, 2))(torch.zeros(1, 2)).sum().backward()  # what the compiler does once in a process
    for steps in _COMPILE_STEPS:
        for name, layer, unrolled in (
            ("rnnkern", rt.LSTM(32, 32), False),
            ("torch", nn.LSTM(32, 32), False),
            ("torch unrolled", nn.LSTM(32, 32), True),
        ):
            if unrolled and steps > 20:
                continue  # it grows with T, to minutes
            torch._dynamo.reset()
            with (
                torch._dynamo.config.patch(allow_rnn=unrolled),
                torch._inductor.config.patch(force_disable_caches=True),
            ):
                model = torch.compile(Model(layer, 32))
                start = time.perf_counter()
                model(torch.randn(steps, 4, 32)).sum().backward()
                seconds = time.perf_counter() - start
            found.append({"T": steps, "contender": name, "seconds": seconds})
            print(f"compile T={steps:<4} {name:<15} {seconds:.1f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="write every point and the machine to this file")
    parser.add_argument("--blocks", type=int, default=5, help="number of timed blocks")
    arguments = parser.parse_args()
    torch.set_num_threads(rk.get_num_threads())
    points = speed(timing.Plan(blocks=arguments.blocks, block=0.04))
    document = {
        "machine": machine.facts(rk.get_num_threads()),
        "torch": torch.__version__,
        "points": points,
        "compile": compile_seconds(),
    }
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
