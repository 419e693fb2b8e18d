"""Why parameters that FSDP2 has sharded are refused: their gradients have no graph."""

import json

import pytest
import ranks
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


def test_sharded_parameters_are_refused_with_the_reason(sharded):
    batch = torch.ones(6, 4, device="cpu"), torch.arange(6, device="cpu") % 3
    with pytest.raises(TypeError, match="weight is sharded over devices"):
        EmpiricalRisk(sharded, batch, cross_entropy)


# Where this changes, so may the refusal.
SHARDED = """
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

ranks = start()
model = fully_shard(torch.nn.Linear(9, 4), mesh=init_device_mesh("cpu", (2,)))
loss = torch.nn.functional.cross_entropy(model(x), y)
loss.backward(create_graph=True)
slopes = [p.grad for p in model.parameters()]
if ranks.leads:
    print(json.dumps([slope is not None and slope.requires_grad for slope in slopes]))
ranks.close()
"""


@pytest.mark.slow
def test_gradients_through_two_shards_have_no_graph():
    first, second = ranks.together(SHARDED, 2)
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert json.loads(first[1]) == [False, False]
