"""torch.nn's LSTM, GRU and RNN on this GPU: how fast cuDNN is where, and by which kernels. Needs torch only.

    python -m bench.gpu.cudnn_baseline --budget 480 --json out.json [--seq-len 1024]        (from a checkout)

cell x precision x H x B, most telling first, until the budget of seconds is spent. The record is complete after every
point.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from . import points, record


def line(point: points.Point, found: dict[str, Any]) -> str:
    """One point on the terminal."""
    if "error" in found:
        return f"{point!s:<34} {found['error']}"
    times = "  ".join(f"{mode} {found[mode]['us_per_step']:8.3f}" for mode in points.MODES)
    return f"{point!s:<34} {times} us/step  {found['algorithm']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="output file")
    parser.add_argument("--budget", type=float, default=480.0, help="time limit in seconds")
    parser.add_argument("--seq-len", type=int, default=points.SEQ_LEN, help="number of time steps T")
    arguments = parser.parse_args()
    if refused := record.refusal():
        print(f"cudnn_baseline: {refused}", file=sys.stderr)
        raise SystemExit(record.REFUSED)

    from . import contenders, worker

    budget = points.Budget(arguments.budget)
    head = {"gpu": record.gpu(), "versions": record.versions(), "budget_s": budget.seconds}
    kept = record.Record(arguments.json, "cudnn_baseline", head | {"commit": record.commit(Path.cwd()), "points": []})

    def measure(point: points.Point, left: float) -> None:
        found = worker.answer({"do": "cudnn", "point": str(point)}, contenders.How())
        kept.add("points", {"point": str(point)} | found)
        print(line(point, found), flush=True)

    unreached = points.walk(points.grid(seq_len=arguments.seq_len), budget, measure)
    kept.put("unreached", [str(point) for point in unreached])
    kept.put("gpu_after", record.gpu()["now"])
    kept.end()
    print(f"{len(kept.document['points'])} points, {len(unreached)} not reached, in {arguments.json}")


if __name__ == "__main__":
    main()
