"""The record of a command: bench/results/<gpu>/<date>-<command>.json, complete on disk after every figure.

Also what goes into its head: the commit, the GPU and its clocks, the versions of driver and libraries.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

SCHEMA: Final = 1  # raised when a field changes its meaning or goes; new fields may come at any time
REFUSED: Final = 3  # exit status where nothing can be measured; typer and argparse have 2 for wrong arguments

_ASKED: Final = (
    *("name", "driver_version", "pstate", "temperature.gpu", "power.draw", "power.limit"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "clocks_event_reasons.active"),
)


class Record:
    """A JSON document that is written anew, in one step, whenever something is added."""

    def __init__(self, path: Path, command: str, head: dict[str, Any]) -> None:
        self.path = path
        self.document: dict[str, Any] = {"schema": SCHEMA, "command": command, "started": _now(), "ended": None, **head}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def put(self, name: str, value: Any) -> None:
        self.document[name] = value
        self._write()

    def add(self, name: str, entry: Any) -> None:
        """Appends to the list `name`."""
        self.document.setdefault(name, []).append(entry)
        self._write()

    def end(self) -> None:
        """Only a record that has this was not cut off."""
        self.put("ended", _now())

    def _write(self) -> None:
        beside = self.path.with_name(self.path.name + ".part")
        beside.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.path)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def slug(gpu: str) -> str:
    """The folder of a GPU: "NVIDIA H100 80GB HBM3" -> "h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().removeprefix("nvidia")).strip("-")


def place(results: Path, gpu: str, command: str, date: str = "") -> Path:
    """A file that is not there yet: a second record of a day gets a number."""
    stem = f"{date or _now()[:10]}-{command}"
    names = [f"{stem}.json", *(f"{stem}-{count}.json" for count in range(2, 1000))]
    return next(path for path in (results / slug(gpu) / name for name in names) if not path.exists())


def commit(checkout: Path) -> str:
    """The checkout's commit, "-dirty" after it where files differ from it; "" where git cannot say."""
    if not shutil.which("git"):
        return ""
    try:
        head = ("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
        done = subprocess.run(["git", "-C", str(checkout), *head], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def refusal() -> str:
    """Why nothing can be measured here, or ""."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported: {error}"
    if torch.cuda.is_available():
        return ""
    built = (
        f"torch {torch.__version__}, built {'for CUDA ' + torch.version.cuda if torch.version.cuda else 'without CUDA'}"
    )
    return f"there is no CUDA device: torch.cuda.is_available() is False ({built})"


def clocks(uuid: str = "") -> dict[str, str]:
    """What nvidia-smi says of the GPU at this moment, by its own names; {} where it is not installed."""
    if not shutil.which("nvidia-smi"):
        return {}
    which = [f"--id={uuid}"] if uuid else []
    done = subprocess.run(
        ["nvidia-smi", *which, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        return {"error": (done.stdout + done.stderr).strip()}
    return split_clocks(done.stdout)


def split_clocks(line: str) -> dict[str, str]:
    """The first line that nvidia-smi printed, by the names that were asked for."""
    return dict(zip(_ASKED, (word.strip() for word in line.splitlines()[0].split(",")), strict=True))


def gpu() -> dict[str, Any]:
    """The GPU that torch uses. Only where `refusal` is ""."""
    import torch

    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": about.name,
        "capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
        "memory_bytes": about.total_memory,
        "now": clocks(f"GPU-{about.uuid}"),
    }


def versions() -> dict[str, Any]:
    """Versions of torch and of what it brings along."""
    import torch

    cudnn: Any = torch.backends.cudnn
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn.version()}
