"""The process in which points are run: requests are lines of JSON, from stdin or as arguments; each gets one as answer.

    {"do": "contest", "point": "lstm t1024b16i768h768 bf16"}     rnnkern and cuDNN, both modes
    {"do": "strategies", "point": ...}                           rnnkern alone, every kernel that takes the point
    {"do": "cudnn", "point": ...}                                cuDNN alone, with the kernels that it launched
    {"do": "facts"}                                              the GPU, the build of rnnkern, the versions of both
    {"do": "ready"}                                              loads what every other request needs
    {"do": "smoke", "point": ...}                                are the answers of rnnkern right in both modes?
    {"do": "repeat", "point": ..., "times": 100}                 the same, and are the bits of every repetition equal?
    {"do": "graph", "point": ...}                                does a CUDA graph of the call replay its bits?
    {"do": "stacks", "point": ...}                               a stack's wavefronts, layer after layer, and cuDNN
    {"do": "small"}                                              every cell and precision once, small: for a sanitizer
    {"do": "small", "points": [...]}                             these points alone
    {"do": "profile", "points": {kernel: point}}                 a training step of each kernel, once: for a profiler
    {"do": "flashrnn", "heads": 12, "head_dim": 64}              FlashRNN at one of its published shapes

"environment" in a request: variables that are set while it is answered, such as RNNKERN_KERNEL. What ends or hangs the
process is for jobs.Worker to see.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import torch

from .. import timing
from . import contenders, record
from .points import CELLS, MODES, PRECISIONS, Point, parse

DEVICE = "cuda_"  # the strategies' names begin with it
_SMALL: Final = ((5, 3, 24), (3, 16, 128), (4, 1, 64))  # T, B, H: below, at and above what tiles are made of


def contest(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    import rnnkern as rk

    bout = contenders.Bout(parse(request["point"]), ("rnnkern", "cudnn"), how)
    answer: dict[str, Any] = {"kernel": rk.explain(bout.modules["rnnkern"], bout.x).kernel}
    for mode in MODES:
        wrong = bout.wrong(mode)
        right = [name for name in ("rnnkern", "cudnn") if name not in wrong]
        found = bout.times(mode, right) if right else {}
        answer[mode] = found | {name: {"wrong": reason} for name, reason in wrong.items()}
        if len(right) == 2:
            answer[mode]["ratio"] = found["cudnn"]["median_us"] / found["rnnkern"]["median_us"]
    return answer


# A kernel and what else the environment is set to: cuda_grid has two ways in which blocks tell each other.
_WAYS: Final[dict[str, tuple[dict[str, str], ...]]] = {
    "cuda_grid": tuple({"RNNKERN_GRID_EXCHANGE": way} for way in ("flags", "sync", "data"))
}


# How the layers of a stack follow each other: as the model chooses, one after the other, in blocks of so many steps.
_WAVES: Final[dict[str, dict[str, str]]] = {
    "model": {},
    "in turn": {"RNNKERN_GPU_WAVE": "0"},
    **{f"blocks of {steps}": {"RNNKERN_GPU_WAVE": str(steps)} for steps in (16, 64, 256)},
}


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def strategies(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """Kernel, and way -> times, each checked first; with what the model that chooses had estimated."""
    import rnnkern as rk

    point = parse(request["point"])
    free = contenders.Bout(point, ("rnnkern",), how)
    with contenders.multiplying(point.precision):
        said = rk.explain(free.modules["rnnkern"], free.x)
    found: dict[str, Any] = {}
    for candidate in said.candidates:
        if candidate.declined:
            continue
        for way in _WAYS.get(candidate.name, ({},)):
            with _environment({"RNNKERN_KERNEL": candidate.name, **way}):
                bout = contenders.Bout(point, ("rnnkern",), how)
                mine: dict[str, Any] = {"estimate_us": [candidate.forward_us, candidate.backward_us]}
                for mode in MODES:
                    wrong = bout.wrong(mode).get("rnnkern")
                    mine[mode] = {"wrong": wrong} if wrong else bout.times(mode, ["rnnkern"])["rnnkern"]
            found[" ".join([candidate.name, *way.values()])] = mine
    return {"kernel": said.kernel, "strategies": found}


def stacks(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """A stack's times by how its layers follow each other, each checked first, and cuDNN's."""
    point = parse(request["point"])
    found: dict[str, Any] = {}
    for way, values in (*_WAVES.items(), ("cudnn", {})):
        name = "cudnn" if way == "cudnn" else "rnnkern"
        with _environment(values):
            bout = contenders.Bout(point, (name,), how)
            found[way] = {}
            for mode in MODES:
                wrong = bout.wrong(mode).get(name)
                found[way][mode] = {"wrong": wrong} if wrong else bout.times(mode, [name])[name]
    return {"kernel": "model", "strategies": found}


def cudnn(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    point = parse(request["point"])
    bout = contenders.Bout(point, ("cudnn",), how)
    answer: dict[str, Any] = {}
    for mode in MODES:
        answer[mode] = bout.times(mode, ["cudnn"])["cudnn"]
        answer[mode]["kernels"] = bout.kernels("cudnn", mode)
    answer["algorithm"] = contenders.algorithm(answer["inference"]["kernels"], point.seq_len)
    return answer


def facts(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """strategies: those that can run here. refused: why nothing can be measured by torch or by rnnkern."""
    import rnnkern as rk

    found: dict[str, Any] = {"info": rk.info(), "versions": record.versions(), "refused": record.refusal()}
    runs = [kernel.name for kernel in rk.kernels() if not kernel.unavailable and not kernel.weights]
    found["strategies"] = [name for name in runs if name.startswith(DEVICE)]
    if not found["refused"]:
        found["gpu"] = record.gpu()
        if not found["strategies"]:
            found["refused"] = f"no strategy of rnnkern runs here; CUDA: {found['info']['cuda']}"
    return found


def ready(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """Loads CUDA and cuDNN, by a call of torch.nn's."""
    contenders.Bout(Point("lstm", "f32", 8, 1, 2), (), how).answers("cudnn", "training")
    return {}


def smoke(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """wrong: mode -> how the answers differ; declined: why the kernel that is forced takes no such point."""
    bout = contenders.Bout(parse(request["point"]), ("rnnkern",), how)
    wrong: dict[str, str] = {}
    for mode in MODES:
        try:
            reason = bout.wrong(mode).get("rnnkern")
        except NotImplementedError as declined:
            return {"declined": str(declined)}
        wrong |= {mode: reason} if reason else {}
    return {"wrong": wrong} | _reported()


def _reported() -> dict[str, str]:
    """Returns {"error": ...} if kernels of earlier calls reported one, such as an expired wait, else {}. Without this,
    the next call would raise it."""
    import rnnkern as rk

    try:
        rk.check()
    except (RuntimeError, ValueError) as error:
        return {"error": str(error)}
    return {}


def same_bits(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """Every other repetition runs beside a large product on another stream: other blocks come and go meanwhile."""
    bout = contenders.Bout(parse(request["point"]), ("rnnkern",), how)
    stream: Any = torch.cuda.Stream
    side = stream() if how.device == "cuda" else None
    load = torch.randn((4096, 4096) if side else (1, 1), device=how.device)
    wrong = bout.wrong("training").get("rnnkern", "")
    first: dict[str, torch.Tensor] = {}
    differing: dict[str, int] = {}
    for turn in range(int(request["times"])):
        if side and turn % 2:
            with torch.cuda.stream(side):
                load @ load
        found = bout.answers("rnnkern", "training")
        first = first or {name: value.clone() for name, value in found.items()}
        for name in _differing(found, first):
            differing[name] = differing.get(name, 0) + 1
    return {"times": int(request["times"]), "differing": differing, "wrong": wrong} | _reported()


def graph(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """Weights and x change between replays, which pack the weights anew. declined: as smoke()."""
    bout = contenders.Bout(parse(request["point"]), ("rnnkern",), how)
    module, differing = bout.modules["rnnkern"], dict[str, str]()
    for mode in MODES:
        call = bout.call("rnnkern", mode)
        with contenders.multiplying(bout.point.precision):
            try:
                replay = contenders.captured(call, how.device)
            except NotImplementedError as declined:
                return {"declined": str(declined)}
            for scale in (1.0, -0.5):
                with torch.no_grad():
                    for array in (bout.x, *module.parameters()):
                        array.mul_(scale)
                got = {name: value.clone() for name, value in contenders.named(module, replay()).items()}
                names = _differing(got, contenders.named(module, call()))
                differing |= {f"{mode}, scaled by {scale}": ", ".join(names)} if names else {}
    return {"differing": differing} | _reported()


def _differing(found: dict[str, torch.Tensor], first: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, value in found.items() if not torch.equal(_bits(value), _bits(first[name]))]


def _bits(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(torch.int16 if value.element_size() == 2 else torch.int32)


def small(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    wrong: dict[str, str] = {}
    points = [Point(c, p, size, batch, steps) for c in CELLS for p in PRECISIONS for steps, batch, size in _SMALL]
    points = list(map(parse, request["points"])) if "points" in request else points
    for point in points:
        bout = contenders.Bout(point, ("rnnkern",), how)
        wrong |= {
            f"{point} {mode}": why for mode in MODES for name, why in bout.wrong(mode).items() if name == "rnnkern"
        }
    return {"points": len(points), "wrong": wrong}


def profile(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    for kernel, text in request["points"].items():
        with _environment({"RNNKERN_KERNEL": kernel}):
            contenders.Bout(parse(text), ("rnnkern",), how).answers("rnnkern", "training")
    return {"kernels": list(request["points"])} | _reported()


def flashrnn(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """LSTM, bf16, B = 16, T = 1024, of its paper; its input product is not inside. It compiles at the first call."""
    from flashrnn import flashrnn as run

    heads, size, batch, steps = int(request["heads"]), int(request["head_dim"]), 16, 1024

    def draw(*shape: int) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(shape, device=how.device, dtype=torch.bfloat16) * size**-0.5
        return drawn.requires_grad_()

    given = draw(batch, steps, 4, heads, size), draw(4, heads, size, size), draw(4, heads, size)
    states = torch.zeros((2, batch, 1, heads, size), device=how.device, dtype=torch.bfloat16)

    def forward() -> Any:
        return run(*given, states=states, function="lstm", backend="cuda_fused")[0][0]

    def infer() -> Any:
        with torch.no_grad():
            return forward()

    dy = torch.randn_like(forward())
    calls = {"inference": infer, "training": lambda: torch.autograd.grad(forward(), given, dy)}
    return {
        mode: {"us_per_step": median(found.blocks) * 1e6 / steps}
        for mode, found in timing.measure(calls, how.plan, how.repeat).items()
    }


_DO: Final[dict[str, Callable[[dict[str, Any], contenders.How], dict[str, Any]]]] = {
    "contest": contest,
    "strategies": strategies,
    "cudnn": cudnn,
    "facts": facts,
    "ready": ready,
    "smoke": smoke,
    "repeat": same_bits,
    "graph": graph,
    "small": small,
    "profile": profile,
    "stacks": stacks,
    "flashrnn": flashrnn,
}


def answer(request: dict[str, Any], how: contenders.How) -> dict[str, Any]:
    """An error of Python's is a result: it is recorded, and the other points go on. "last": this process is spoilt."""
    try:
        with _environment(request.get("environment", {})):
            return _DO[request["do"]](request, how)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return {"error": text, "last": "CUDA error" in text}


def serve(requests: Iterable[str], how: contenders.How) -> bool:
    """Whether no answer was an error or found something wrong. What else is printed goes to stderr."""
    fine = True
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        for line in requests:
            found = answer(json.loads(line), how)
            fine = fine and not (found.get("error") or found.get("wrong"))
            print(json.dumps(found), file=out, flush=True)
    finally:
        sys.stdout = out
    return fine


if __name__ == "__main__":
    sys.exit(0 if serve(sys.argv[1:] or sys.stdin, contenders.How()) else 1)
