"""What tests/torch/test_distributed.py runs in processes of its own, which find it here by name."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import rnnkern as rk
import rnnkern.torch as rt

IN, H, STEPS, BATCH = 4, 8, 5, 4
PROCESSES = 2


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = rt.LSTM(IN, H, 2, bidirectional=True)
        self.decoder = rt.GRU(2 * H, H)
        self.head = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)[0])[0]).square().mean()  # type: ignore[no-any-return]


def batches() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(7, BATCH, IN) for _ in range(STEPS)]


def train(model: nn.Module, share: slice) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for x in batches():
        optimiser.zero_grad()
        model(x[:, share]).backward()
        optimiser.step()


def worker(rank: int, folder: str, kind: str) -> None:
    torch.set_num_threads(1)
    rk.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{kind}", rank=rank, world_size=PROCESSES)
    try:
        model: Any = Model()
        share = slice(rank, None, PROCESSES)
        if kind == "ddp":
            train(nn.parallel.DistributedDataParallel(model), share)
            state = model.state_dict()
        else:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh("cpu", (PROCESSES,))
            for part in (model.encoder, model.decoder, model):
                fully_shard(part, mesh=mesh)
            train(model, share)
            state = {name: value.full_tensor() for name, value in model.state_dict().items()}
        if rank == 0:
            torch.save(state, f"{folder}/{kind}.pt")
    finally:
        dist.destroy_process_group()
    # Not through the interpreter's end: gloo's threads may let go of tensors then, and abort for want of the GIL
    # (pytorch issue 190489: "terminate called without an active exception"), here once in some twenty runs of FSDP.
    os._exit(0)


class Encoded(torch.utils.data.Dataset[Tensor]):
    """Each item is computed by a layer, in whatever process asks."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layer, self.plain = rt.GRU(IN, H).requires_grad_(False), rk.LSTM(IN, H, seed=0)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        x = np.full((5, 1, IN), index, np.float32)
        return self.layer(torch.from_numpy(x))[0] + torch.from_numpy(self.plain(x)[0])
