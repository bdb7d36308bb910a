"""CPU tensors that pose as tensors of ``cuda:0``, for tests of rnnkern.torch where ``_core`` runs on the SIMT executor.

The pose stands in at three places: what asks where a tensor is (``gpu.index_of``), torch's side of a GPU (its
allocator and streams), and the binding, which gets each tensor as a ``FakeArray`` on its memory. All between is what
runs on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fake_cuda
from rnnkern import _core
from rnnkern._engine import gradients, plans
from rnnkern.torch import gpu, kernels


class Library:
    """rnnkern._arrays.libraries.Torch without CUDA. New memory is full of NaN."""

    name = "torch"

    def index(self, array: Tensor) -> int | None:
        return 0

    def empty(self, shape: tuple[int, ...], dtype: str, index: int) -> Tensor:
        block = torch.full((int(np.prod(shape)),), 1, dtype=getattr(torch, dtype))
        if block.numel():
            block.view(torch.uint8).fill_(0xFF)
        return block.view(shape)

    def cast(self, array: Tensor, dtype: str) -> Tensor:
        return array.to(getattr(torch, dtype), copy=True).contiguous()

    def assign(self, to: Tensor, value: Any) -> None:
        to[...] = value

    def upload(self, host: np.ndarray[Any, Any], index: int) -> Tensor:
        fake_cuda.log.append("upload")
        return torch.from_numpy(host.copy())

    def download(self, array: Tensor) -> np.ndarray[Any, Any]:
        raise AssertionError("nothing of torch's comes back to the host")

    def adopt(self, array: Any, index: int) -> Tensor:
        raise AssertionError("torch's modules keep torch's parameters")

    def stream(self, index: int) -> int:
        return fake_cuda.streams[-1]

    def capturing(self, index: int) -> bool:
        return fake_cuda.capturing[-1]

    def synchronize(self, index: int) -> None:
        fake_cuda.log.append("synchronize")


class Generator:
    """The state that torch's generator of a GPU has on the host."""

    def __init__(self, seed: int = 5) -> None:
        self.seed, self.offset = seed, 0

    def initial_seed(self) -> int:
        return self.seed

    def get_offset(self) -> int:
        return self.offset

    def set_offset(self, offset: int) -> None:
        assert offset % 4 == 0, "torch refuses others"
        self.offset = offset


def _seen(value: Any) -> Any:
    """As the binding gets it."""
    if isinstance(value, Tensor):
        return fake_cuda.FakeArray(_core.as_numpy(value.detach()) if value.is_floating_point() else value.numpy())
    if isinstance(value, dict):
        return {key: _seen(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_seen(each) for each in value)
    return value._plan if isinstance(value, _Plan) else value


class _Plan:
    def __init__(self, *args: Any, **keywords: Any) -> None:
        self._plan = _core.Plan(*args, **keywords)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._plan, name)
        if name not in ("pack", "forward", "backward"):
            return found
        return lambda *args, **keywords: found(*_seen(args), **_seen(keywords))


class _Core:
    Plan = _Plan

    def __getattr__(self, name: str) -> Any:
        return getattr(_core, name)


CACHES = (plans.plan, plans.places_of, plans._bound, gradients._rows_of_block, kernels._spec)


def pose(patch: pytest.MonkeyPatch) -> Generator:
    """From here to ``patch.undo()``, after which ``forget()`` drops what was made for the pose."""
    forget()
    generator, library = Generator(), Library()
    patch.setattr(gpu, "index_of", lambda tensor: 0)
    patch.setattr(gpu, "library", lambda: library)
    patch.setattr(torch.backends.cudnn, "allow_tf32", False)  # torch's default is True, which is not compared here
    patch.setattr(torch.cuda, "default_generators", (generator,))
    patch.setattr(plans, "_core", _Core())
    return generator


def forget() -> None:
    for cache in CACHES:
        cache.cache_clear()
