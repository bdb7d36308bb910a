"""torch's time over rnnkern's for cells and single steps: `python -m bench.cells --json out.json` (from a checkout).

Each point is a module of torch.nn and the one that `rnnkern.torch.replace` puts in its place, with the same weights, in
alternating blocks: without gradients, and 20 steps with backward. `replace` leaves the kinds of which many points lose.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Final

import torch

import rnnkern.torch as rt

from .timing import ratio

KINDS: Final = ("RNNCell", "GRUCell", "LSTMCell")
HIDDEN: Final = (16, 32, 64, 128, 256, 512, 1024)
BATCH: Final = (1, 4, 16, 64)
STEPS: Final = 20


def call(cell: Any, x: Any) -> Callable[[], Any]:
    state = cell(x[0])
    return lambda: cell(x[0], state)


def training(cell: Any, x: Any) -> Callable[[], Any]:
    def run() -> None:
        state: Any = None
        for step in x:
            state = cell(step, state)
        h = state[0] if isinstance(state, tuple) else state
        cell.zero_grad()
        h.sum().backward()

    return run


def measure(seconds: float) -> Iterator[dict[str, Any]]:
    for kind in KINDS:
        for hidden in HIDDEN:
            for batch in BATCH:
                theirs = getattr(torch.nn, kind)(hidden, hidden)
                ours = getattr(torch.nn, kind)(hidden, hidden)
                ours.load_state_dict(theirs.state_dict())
                rt.replace(torch.nn.ModuleList([ours]), always=True)
                x = torch.randn(STEPS, batch, hidden)
                with torch.no_grad():
                    inference = ratio(call(theirs, x), call(ours, x), seconds)
                trained = ratio(training(theirs, x), training(ours, x), seconds)
                yield {"kind": kind, "H": hidden, "B": batch, "inference": inference, "training": trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.02, help="of a block")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    points = []
    for point in measure(args.seconds):
        points.append(point)
        print(
            "{kind:8} H={H:<4} B={B:<2} inference {inference:.2f}, training {training:.2f}".format(**point), flush=True
        )
    for kind in KINDS:
        own = [point for point in points if point["kind"] == kind]
        print(
            kind, *(f"{mode} {geometric_mean(point[mode] for point in own):.2f}" for mode in ("inference", "training"))
        )
    if args.json:
        args.json.write_text(
            json.dumps({"torch": torch.__version__, "threads": args.threads, "points": points}, indent=1)
        )


if __name__ == "__main__":
    main()
