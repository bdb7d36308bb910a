"""Plans of one layer in one direction, as tests of kernels call them: states [B, .], arguments by place and by name.

``HostPlan`` runs on the CPU through ``_core``; device_plan.py and gpu_plan.py have the same calls on devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from problems import Array
from rnnkern import _core

SLOTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "params")
STATES = {"h_0", "c_0", "h_n", "c_n", "dh_n", "dc_n", "dh_0", "dc_0"}


def keywords_of(options: dict[str, Any]) -> dict[str, Any]:
    """``_core.Plan``'s, from a layer's: reverse becomes a direction."""
    return options | {"direction": "reverse" if options.pop("reverse", False) else "forward"}


class OneLayer:
    """A subclass has ``_pack(weights, forward, backward)``, ``_run(which, packed, arguments)`` and ``sizes``."""

    def sizes(self, seq_len: int, batch: int) -> dict[str, int]:
        raise NotImplementedError

    def _pack(self, weights: list[Array | None], forward: bool, backward: bool) -> Any:
        raise NotImplementedError

    def _run(self, which: str, packed: Any, arguments: dict[str, Any]) -> None:
        raise NotImplementedError

    def pack(self, *arrays: Array | None, backward: bool = True, forward: bool = True, **more: Array | None) -> Any:
        """The arrays are SLOTS', by place or by name."""
        given = dict(zip(SLOTS, arrays, strict=False)) | more
        assert set(given) <= set(SLOTS)
        return self._pack([given.get(name) for name in SLOTS], forward, backward)

    def forward(
        self, packed: Any, x: Array, h_0: Any, c_0: Any, y: Array, h_n: Any, c_n: Any, lengths: Any = None,
        reserve: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        """more: mask, reset, random."""
        tensors = {"x": x, "h_0": h_0, "c_0": c_0, "y": y, "h_n": h_n, "c_n": c_n}
        self._call("forward", packed, tensors | {"lengths": lengths, "reserve": reserve} | more)

    def backward(
        self, packed: Any, reserve: Any, x: Array, h_0: Any, c_0: Any, y: Array, dy: Any, dh_n: Any, dc_n: Any,
        **more: Any,
    ) -> None:  # fmt: skip
        """more: lengths, mask, reset, random, clip_dh, and outputs: dx, dh_0, dc_0, dh, dweight_ih and the like."""
        tensors = {"x": x, "h_0": h_0, "c_0": c_0, "y": y, "dy": dy, "dh_n": dh_n, "dc_n": dc_n, "reserve": reserve}
        gradients = [more.pop(f"d{name}", None) for name in SLOTS]
        if any(each is not None for each in gradients):
            more["gradients"] = gradients
        if more.get("dh") is not None:
            more["dh"] = [more["dh"]]
        self._call("backward", packed, tensors | more)

    def _call(self, which: str, packed: Any, given: dict[str, Any]) -> None:
        layered = {name: value[None] for name, value in given.items() if name in STATES and value is not None}
        self._run(which, packed, given | layered)


class HostPlan(OneLayer):
    def __init__(self, cell: str, dtype: str, input_size: int, hidden_size: int, **options: Any) -> None:
        self.plan = _core.Plan(cell, dtype, input_size, hidden_size, **keywords_of(options))
        (self.kernel,) = self.plan.kernels
        self.param_rows, self.estimate = self.plan.param_rows, self.plan.estimate

    def sizes(self, seq_len: int, batch: int) -> dict[str, int]:
        return self.plan.sizes(seq_len, batch)

    def _pack(self, weights: list[Array | None], forward: bool, backward: bool) -> Any:
        return self.plan.pack(weights, forward, backward)

    def _run(self, which: str, packed: Any, arguments: dict[str, Any]) -> None:
        getattr(self.plan, which)(packed, **arguments)


def marks_of_walk(reset: Array | None, lengths: Sequence[int] | Array | None, reverse: bool) -> Array | None:
    """Resets as ``reference.layer`` takes them: before which steps of the walk the state is zero."""
    from rnnkern.reference.stack import turned

    return turned(reset, lengths) if reverse else (None if reset is None else np.asarray(reset))
