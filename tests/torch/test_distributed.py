"""rnnkern.torch with torch as the engine for many processes: data parallel, sharded, and DataLoader workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

from distributed_cases import PROCESSES, Encoded, Model, train, worker

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_to_the_weights_of_one(kind: str, tmp_path: Path) -> None:
    spawn(worker, (str(tmp_path), kind), PROCESSES)
    got = torch.load(tmp_path / f"{kind}.pt")
    alone = Model()
    before = {name: value.clone() for name, value in alone.state_dict().items()}
    train(alone, slice(None))
    for name, wanted in alone.state_dict().items():
        # A mean of two halves, over five steps: roundings of numbers of this size.
        assert torch.allclose(got[name], wanted, rtol=0, atol=64 * torch.finfo(torch.float32).eps)
        assert not torch.equal(wanted, before[name])


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_data_loader_workers(start: str) -> None:
    data = Encoded()
    wanted = torch.stack([data[i] for i in range(len(data))])  # this process's own team is awake when it forks
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=start)
    assert torch.equal(torch.cat(list(loader)), wanted)
