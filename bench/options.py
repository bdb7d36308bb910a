"""What an option of a cell costs: plain layers with it against the same layer without.

    python -m bench.options --json out.json                (from a checkout)

Microseconds a step of inference (a call) and of training (forward and backward, every gradient), float32, I = H, in
blocks that alternate between the plain layer and the one with the option, so that a shared machine's moods meet both.
``masked`` leaves out a tenth of all steps, ``reset`` begins anew at one step in twenty, ``half padding`` gives every
row half of the length: its figure is the speed against full rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, Final

import numpy as np

import rnnkern as rk

from . import machine, page, timing

_SIZES: Final = ((64, 100), (128, 100), (256, 100), (512, 50))  # I = H, T
_BATCHES: Final = (1, 16, 64)
_OPTIONS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "lstm": {
        "peephole": {"peephole": True},
        "coupled": {"coupled": True},
        "clip": {"clip": 3.0},
        "zoneout": {"zoneout": (0.1, 0.1)},
        "recurrent_dropout": {"recurrent_dropout": 0.2},
        "masked": {},
        "reset": {},
        "half padding": {},
        "layer_norm": {"layer_norm": True},
    },
    "gru": {
        "clip": {"clip": 3.0},
        "zoneout": {"zoneout": 0.1},
        "masked": {},
        "reset": {},
        "half padding": {},
        "layer_norm": {"layer_norm": True},
        "reset before": {"reset_after": False},
    },
    "rnn": {"clip": {"clip": 3.0}, "zoneout": {"zoneout": 0.1}, "masked": {}, "layer_norm": {"layer_norm": True}},
}
_LAYERS: Final = {"lstm": rk.LSTM, "gru": rk.GRU, "rnn": rk.RNN}


def _calls(layer: Any, x: Any, dy: Any, extra: dict[str, Any]) -> dict[str, Any]:
    def train() -> None:
        _, _, tape = layer.forward(x, **extra)
        layer.backward(tape, dy)

    return {"inference": lambda: layer(x, **extra), "training": train}


def _extra(name: str, rng: Any, steps: int, batch: int) -> dict[str, Any]:
    if name == "masked":
        return {"mask": rng.random((steps, batch)) < 0.9}
    if name == "reset":
        return {"reset": rng.random((steps, batch)) < 0.05}
    if name == "half padding":
        return {"lengths": np.full(batch, steps // 2)}
    return {}


def measure(cell: str, name: str, size: int, steps: int, batch: int, blocks: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, batch, size)).astype(np.float32)
    dy = rng.standard_normal((steps, batch, size)).astype(np.float32)
    plain = _calls(_LAYERS[cell](size, size, seed=0), x, dy, {})
    other = _calls(_LAYERS[cell](size, size, seed=0, **_OPTIONS[cell][name]), x, dy, _extra(name, rng, steps, batch))
    rows = []
    for mode in ("inference", "training"):
        both = {"plain": plain[mode], "option": other[mode]}
        times = timing.measure(both, timing.Plan(blocks=blocks, block=0.02, pause=0.002))
        medians = {who: statistics.median(t.blocks) * 1e6 / steps for who, t in times.items()}
        ratio = times["option"].over(times["plain"])
        rows.append(
            {"cell": cell, "option": name, "mode": mode, "batch": batch, "size": size, "steps": steps}
            | {"plain_us": medians["plain"], "option_us": medians["option"], "ratio": ratio}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every point and the machine to this file")
    parser.add_argument("--blocks", type=int, default=9, help="number of timed blocks")
    parser.add_argument("--only", help="measure this option alone")
    parser.add_argument("--sizes", default="64,128,256,512", help="values of H, separated by commas")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for cell, names in _OPTIONS.items():
        for name in names:
            if arguments.only not in (None, name):
                continue
            for size, steps in _SIZES:
                for batch in _BATCHES if str(size) in arguments.sizes.split(",") else ():
                    rows += measure(cell, name, size, steps, batch, arguments.blocks)
                    for row in rows[-2:]:
                        where = "{cell} {option} {mode} b{batch} h{size}".format(**row)
                        print("{}: {plain_us:.2f} -> {option_us:.2f} us, {ratio:.3f}".format(where, **row), flush=True)
    print(page.option_table(rows))
    if arguments.json:
        facts = {"machine": machine.facts(rk.get_num_threads()), "rows": rows}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
