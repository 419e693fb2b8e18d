"""Why parameters that FSDP2 has sharded are refused: their gradients have no graph."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

from landscape.risk import EmpiricalRisk


@pytest.fixture
def sharded():
    """A network whose parameters are sharded, over one device."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield fully_shard(nn.Linear(4, 3), mesh=init_device_mesh("cpu", (1,)))
    finally:
        dist.destroy_process_group()


def test_gradients_through_fsdp_cannot_be_differentiated_and_are_refused(sharded):
    batch = torch.ones(6, 4, device="cpu"), torch.arange(6, device="cpu") % 3
    with pytest.raises(TypeError, match="weight is sharded over devices"):
        EmpiricalRisk(sharded, batch, cross_entropy)
    loss = cross_entropy(sharded(batch[0]), batch[1])
    # Where this changes, so may the refusal.
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(loss, list(sharded.parameters()), create_graph=True)
