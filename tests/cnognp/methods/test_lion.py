"""Lion against its published pseudo-code, parameter by parameter."""

import copy

import invariants
import populations
import pytest
import torch
from populations import start
from torch.nn.functional import cross_entropy

from cnognp import METHODS
from cnognp.methods.descent import Epoch
from cnognp.methods.lion import Lion
from cnognp.methods.sharpness_aware import SAM
from landscape.functions import himmelblau
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import value_and_grad

every_objective = pytest.mark.parametrize("name", invariants.OBJECTIVES)


def published(model, batch, steps, rates, decays, beta1=0.9, beta2=0.99):
    """The parameters after algorithm 2, one rate and one decay for each tensor."""
    model = copy.deepcopy(model)
    moments = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(steps):
        model.zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        with torch.no_grad():
            for p, m, lr, decay in zip(model.parameters(), moments, rates, decays, strict=True):
                update = torch.sign(beta1 * m + (1 - beta1) * p.grad)
                p -= lr * (update + decay * p)
                m.copy_(beta2 * m + (1 - beta2) * p.grad)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_forty_steps_on_a_network_are_those_of_the_published_algorithm(
    weight_decay, dtype, tolerance
):
    x, target = populations.data()
    model, batch = populations.network(dtype), (x.to(dtype), target)
    risk = EmpiricalRisk(model, batch, cross_entropy)
    expected = published(model, batch, 40, [0.01] * 4, [weight_decay] * 4, 0.8, 0.95)
    method = Lion(lr=0.01, beta1=0.8, beta2=0.95, weight_decay=weight_decay)
    found = populations.last(method, risk, risk.point()[None], 40).position[0]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert (found - risk.point()).abs().max() > 0.2


def test_a_step_length_and_a_decay_per_coordinate_are_those_of_each_tensor():
    model, batch = populations.network(), populations.data()
    risk = EmpiricalRisk(model, batch, cross_entropy)
    rates, decays = (0.01, 0.03, 0.02, 0.05), (0.1, 0.0, 0.2, 0.3)
    lr, decay = (
        torch.cat([
            torch.full((p.numel(),), number, dtype=torch.float64)
            for p, number in zip(model.parameters(), numbers, strict=True)
        ])
        for numbers in (rates, decays)
    )
    method = Lion(lr=lr, weight_decay=decay)
    found = populations.last(method, risk, risk.point()[None], 20).position[0]
    expected = published(model, batch, 20, rates, decays)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@every_objective
def test_it_keeps_what_every_method_keeps(name):
    objective, method = invariants.OBJECTIVES[name](), Lion(lr=0.01, weight_decay=0.1)
    invariants.check_purity(method, objective)
    invariants.check_alone(method, objective)
    invariants.check_devices_and_types(method, objective)
    invariants.check_info(method, objective)


def test_as_the_base_of_sam_it_follows_the_gradient_nearby():
    z = start(himmelblau)
    near = z + 0.3 * torch.nn.functional.normalize(value_and_grad(himmelblau, z)[1])
    expected = z - 0.01 * (value_and_grad(himmelblau, near)[1].sign() + 0.2 * z)
    sam = METHODS["sam"](base="lion", lr=0.01, weight_decay=0.2, rho=0.3, batch_size=0)
    assert sam == SAM(Lion(lr=0.01, weight_decay=0.2), 0.3)
    found = populations.last(sam, himmelblau, z, 1).position
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_its_name_has_its_keywords():
    how = {"lr": 0.3, "beta1": 0.5, "beta2": 0.6, "weight_decay": 0.2}
    assert METHODS["lion"](**how, batch_size=4) == Epoch(Lion(**how), 4)
    for key, number in (("lr", -1.0), ("beta1", 1.0), ("beta2", -0.1), ("weight_decay", -0.1)):
        with pytest.raises(ValueError, match=f"{key} must be"):
            Lion(**{key: number})
