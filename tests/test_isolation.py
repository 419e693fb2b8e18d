"""Nothing here depends on a default device, and the core asks torch for none."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from landscape import directions, slices
from landscape.curvature import Hessian, gradients
from landscape.functions import CATALOGUE
from landscape.objective import Ridge, Sum, hvp, value, value_and_grad
from landscape.randomness import derive
from landscape.restriction import Restriction
from landscape.risk import EmpiricalRisk, Reestimated
from landscape.spectrum import top_eigenpairs

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator(device=CPU).manual_seed(seed)


def risk_of(kind, **keywords):
    inputs = torch.randn(12, 1, 5, 5, generator=seeded(1), device=CPU)
    target = torch.randint(0, 3, (12,), generator=seeded(2), device=CPU)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if kind == "mlp":
            model = nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.Tanh(), nn.Linear(4, 3))
        elif kind == "norm":
            model = nn.Sequential(nn.Flatten(), nn.LayerNorm(25), nn.Linear(25, 3))
        else:
            model = nn.Sequential(
                nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)
            )
    batches = [(inputs[:7], target[:7]), (inputs[7:], target[7:])]
    return EmpiricalRisk(model, batches, cross_entropy, **keywords)


OBJECTIVES = {
    "function": (lambda: CATALOGUE["six-hump-camel"], lambda o: torch.ones(2, device=CPU)),
    "stacked": (lambda: risk_of("mlp"), lambda o: o.point()),
    "vmap": (lambda: risk_of("norm"), lambda o: o.point()),
    "frozen": (lambda: risk_of("conv"), lambda o: o.point()),
    "batch": (lambda: risk_of("conv", statistics="batch"), lambda o: o.point()),
    "reestimated": (lambda: Reestimated(risk_of("conv")), lambda o: o.risk.point()),
}


def calls(objective, z, u, v):
    """Every public function of the core, each as numbers."""
    total = Sum(objective, Ridge(0.1, dim=objective.dim))
    rows = torch.stack([z, z + 0.01 * u])
    plane = Restriction(total, z, torch.stack([u, v]))
    spectrum = top_eigenpairs(total, z, 2, generator=seeded(4))
    basis = directions.random(getattr(objective, "layout", None), z, seeded(5))
    yield value(total, rows)
    yield from value_and_grad(total, rows)
    yield hvp(total, z, u)
    yield Hessian(total, z) @ torch.stack([u, v])
    yield value(plane, torch.zeros((2, 3, 2), dtype=z.dtype, device=CPU))
    yield gradients(total, rows).gradient_norm
    yield spectrum.eigenvalues
    yield spectrum.bounds
    yield basis
    yield slices.line(total, z, u, alpha=[-0.1, 0.2]).loss
    yield slices.plane(total, z, u, v, alpha=[-0.1, 0.2], beta=[0.0, 0.1, 0.3]).loss
    if hasattr(objective, "minibatches"):
        for batch in objective.minibatches(5, seeded(6), epochs=1):
            yield value(batch, z)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_core_gives_the_same_numbers_when_the_default_device_holds_none(name):
    make, point = OBJECTIVES[name]
    objective = make()
    z = point(objective)
    u, v = torch.randn(2, len(z), generator=seeded(3), device=CPU)
    expected = list(calls(objective, z, u, v))
    with torch.device("meta"):
        found = list(calls(objective, z, u, v))
        again = list(calls(make() if name == "function" else objective, z, u, v))
    for numbers in (found, again):
        for got, wanted in zip(numbers, expected, strict=True):
            if isinstance(got, torch.Tensor):
                assert got.device == CPU
                assert torch.equal(got, wanted)
            else:
                np.testing.assert_array_equal(got, wanted)


def test_derived_generators_live_where_their_parent_lives():
    with torch.device("meta"):
        child = derive(seeded(1), "noise", 3)
        drawn = torch.rand(4, generator=child, device=child.device)
    assert drawn.device == CPU
    assert torch.equal(drawn, torch.rand(4, generator=derive(seeded(1), "noise", 3), device=CPU))
