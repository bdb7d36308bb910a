"""``_core.Plan`` on a device, called with NumPy arrays: what the tests of kernels hand over goes to the device, with
its strides, and what they read comes back. The device is a real GPU, with torch's memory, or the host SIMT executor of
a build made with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fake_cuda
from one_layer import OneLayer, keywords_of
from problems import Array
from rnnkern import _core

GPU = _core.device_count() > 0 and not fake_cuda.EXECUTOR


class _Copy:
    """An array's memory on the device, and a view of it with the same strides; those of gaps take the gaps along."""

    def __init__(self, array: Array) -> None:
        self.array = self.whole = array
        if not GPU:
            self.view: Any = fake_cuda.FakeArray(array)
            return
        import torch

        strides = [stride // array.itemsize for stride in array.strides]
        start = 0
        if any(stride < 0 for stride in strides):  # torch has none: as its copy
            self.whole = np.ascontiguousarray(array)
            strides = [stride // array.itemsize for stride in self.whole.strides]
        elif not array.flags.c_contiguous:
            while isinstance(self.whole.base, np.ndarray):
                self.whole = self.whole.base
            start = (array.ctypes.data - self.whole.ctypes.data) // array.itemsize
        kind = getattr(torch, array.dtype.name)
        self.block = torch.from_numpy(np.array(self.whole).reshape(-1).view(np.uint8)).cuda()
        self.view = self.block.view(kind).as_strided(array.shape, strides, start)

    def back(self) -> None:
        if GPU and self.array.flags.writeable:
            self.whole.reshape(-1).view(np.uint8)[...] = self.block.cpu().numpy()


def new_plan(kernel: str, *args: Any, **options: Any) -> GpuPlan:
    """As runner.new_plan."""
    return GpuPlan(*args, kernel=kernel, **options)


class GpuPlan(OneLayer):
    """The calls that tests make of a plan."""

    def __init__(self, cell: str, dtype: str, input_size: int, hidden_size: int, **options: Any) -> None:
        self.plan = _core.Plan(cell, dtype, input_size, hidden_size, device="cuda", **keywords_of(options))
        (self.kernel,), self.param_rows = self.plan.kernels, self.plan.param_rows

    def sizes(self, seq_len: int, batch: int) -> dict[str, int]:
        return self.plan.sizes(seq_len, batch)

    def _bytes(self, count: int) -> Any:
        if not GPU:
            return fake_cuda.FakeArray(fake_cuda._aligned((max(count, 1),), np.dtype(np.uint8)))
        import torch

        return torch.full((max(count, 1),), 0xFF, dtype=torch.uint8, device="cuda")

    def _pack(self, weights: list[Array | None], forward: bool, backward: bool) -> Any:
        given = [None if a is None else _Copy(np.ascontiguousarray(a)).view for a in weights]
        return self.plan.pack(given, forward, backward, into=self._bytes(self.sizes(0, 0)["packed"]))

    def _run(self, which: str, packed: Any, arguments: dict[str, Any]) -> None:
        copies: list[_Copy] = []

        def there(value: Any) -> Any:
            if isinstance(value, list):
                return [there(each) for each in value]
            if not isinstance(value, np.ndarray):
                return value
            copies.append(_Copy(value))
            return copies[-1].view

        workspace = self._bytes(self.sizes(*arguments["x"].shape[:2])[f"workspace_{which}"])
        given = {name: there(value) for name, value in arguments.items()}
        getattr(self.plan, which)(packed, workspace=workspace, **given)
        for copy in copies:
            copy.back()
