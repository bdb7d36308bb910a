"""Data-parallel training of an rnnkern.torch model: DistributedDataParallel, or FSDP2 with ``--fsdp``.

    torchrun --nproc-per-node 2 examples/distributed.py
    torchrun --nproc-per-node 2 examples/distributed.py --fsdp

Every process trains on its own share of each batch. The backend is gloo, so this runs on CPUs.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import rnnkern.torch as rt


class Model(nn.Module):
    """Two recurrent layers and a linear head that guesses the mean of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = rt.LSTM(4, 32, bidirectional=True)
        self.decoder = rt.GRU(64, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.encoder(x)
        y, _ = self.decoder(y)
        return self.head(y[-1])  # type: ignore[no-any-return]


def main(sharded: bool) -> None:
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

    torch.manual_seed(0)  # the same initial weights in every process
    model: nn.Module = Model()
    if sharded:
        mesh = init_device_mesh("cpu", (processes,))
        for part in (model.encoder, model.decoder, model):
            fully_shard(part, mesh=mesh)
    else:
        model = nn.parallel.DistributedDataParallel(model)

    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        x = torch.rand(20, 16, 4)  # the same batch in every process; each one takes its rows
        mine = x[:, rank::processes]
        loss = (model(mine) - mine.mean(dim=(0, 2))[:, None]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if rank == 0 and step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.5f}", flush=True)

    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads can abort a normal interpreter exit (pytorch issue 190489)


if __name__ == "__main__":
    main(sharded="--fsdp" in sys.argv[1:])
