"""Decay of weights alone, against parameter groups of torch's own optimisers."""

import populations
import pytest
import torch
from populations import seeded
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cnognp import METHODS
from cnognp.methods.clipping import Clipped
from cnognp.methods.descent import SGD, Epoch
from cnognp.methods.selective_decay import SelectiveDecay
from cnognp.run import run
from landscape.functions import himmelblau

TORCH = {
    "sgd": lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.5),
    "adam": lambda groups: torch.optim.Adam(groups, 0.1),
    "adamw": lambda groups: torch.optim.AdamW(groups, 0.1),
}


@pytest.mark.parametrize("of", ["all", "weights"])
@pytest.mark.parametrize("name", TORCH)
def test_biases_are_not_decayed(name, of):
    risk = populations.risk()
    z = populations.start(risk, 2)
    how = {"momentum": 0.5} if name == "sgd" else {}
    method = METHODS[name](lr=0.1, weight_decay=0.2, decay_of=of, batch_size=0, **how)
    found = populations.last(method, risk, z, 4).position
    inputs, target = populations.data()
    for row, point in zip(z, found, strict=True):
        model = populations.network()
        vector_to_parameters(row, model.parameters())
        parts = (
            [p for p in model.parameters() if p.ndim > 1],
            [p for p in model.parameters() if p.ndim == 1],
        )
        optimiser = TORCH[name]([
            {"params": parts[0], "weight_decay": 0.2},
            {"params": parts[1], "weight_decay": 0.2 if of == "all" else 0.0},
        ])
        for _ in range(4):
            optimiser.zero_grad()
            cross_entropy(model(inputs), target).backward()
            optimiser.step()
        expected = parameters_to_vector(model.parameters()).detach()
        torch.testing.assert_close(point, expected, rtol=1e-10, atol=1e-12)


def test_it_stands_around_the_step_that_decays():
    how = {"lr": 0.1, "weight_decay": 0.2, "decay_of": "weights"}
    spared = SelectiveDecay(SGD(0.1, weight_decay=0.2))
    assert METHODS["sgd"](**how, batch_size=8, clip=2.0) == Epoch(Clipped(spared, 2.0), 8)
    assert METHODS["sam"](**how, batch_size=0).base == spared
    assert METHODS["cno"](**how, batch_size=8).local == Epoch(spared, 8, evaluate=False)
    assert METHODS["cno"](**how, base="gcsam", batch_size=8).local.method.base == spared
    assert METHODS["sgd"](decay_of="weights", batch_size=0) == SGD()


@pytest.mark.parametrize("name", ["sgd", "sam", "cno"])
def test_a_schedule_and_mini_batches_go_through(name):
    risk = populations.risk()
    z = populations.start(risk, 2)
    how = {"lr": 0.1, "weight_decay": 0.2, "batch_size": 8, "schedule": "cosine", "horizon": 4}
    ends = [
        populations.last(METHODS[name](**how, decay_of=of), risk, z, 3).position
        for of in ("all", "weights")
    ]
    assert ends[1].isfinite().all() and not torch.equal(*ends)


def test_an_objective_without_tensors_is_refused():
    method = METHODS["sgd"](weight_decay=0.1, decay_of="weights", batch_size=0)
    z = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs an objective with a layout"):
        next(run(method, [himmelblau], z, seeded(0)))
