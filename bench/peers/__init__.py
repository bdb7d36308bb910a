"""The opponents, one file each. A peer imports its library when it is made, and says why when it cannot."""

from __future__ import annotations

import importlib
from typing import Final, Protocol

from rnnkern.problems import Problem

from ..data import Data, Run

# Name -> module of this package. The order is the order of the table's columns.
PEERS: Final = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "jax": "jax",
    "flax": "flax",
    "keras": "keras",
}

# A table that is published must have these.
PUBLISHED: Final = ("torch", "onnxruntime", "openvino")


class Peer(Protocol):
    """Every peer is a class `Peer` in its module.

    Peer(threads) imports the library and holds it to that many threads; ImportError when it is not installed.
    A peer works on copies in its own native arrays, made in `prepare`: nothing is converted while the clock runs.
    """

    name: str
    version: str

    def __init__(self, threads: int) -> None: ...

    def declines(self, problem: Problem, mode: str) -> str:
        """Why this peer cannot do the problem in this mode ("inference" or "training"), or ""."""

    def prepare(self, problem: Problem, data: Data, mode: str) -> Run:
        """Makes the problem ready. May compile; the first call may still warm up."""


def load(name: str, threads: int) -> Peer:
    """The peer `name`. ValueError for a name that is not in PEERS, ImportError when its library is not installed."""
    if name not in PEERS:
        raise ValueError(f"peers: expected some of {', '.join(PEERS)}, got {name!r}")
    peer: Peer = importlib.import_module(f"{__name__}.{PEERS[name]}").Peer(threads)
    return peer
