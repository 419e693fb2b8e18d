"""An independent code finds the same eigenvalues and the same trace."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from landscape.crosscheck import pyhessian_eigenvalues, pyhessian_trace
from landscape.curvature import Hessian
from landscape.networks.risk import EmpiricalRisk
from landscape.spectrum import top_eigenpairs
from landscape.trace import trace

CPU = torch.device("cpu")


def network(kind):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if kind == "mlp":
            return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
        )


def samples(count):
    generator = torch.Generator(device=CPU).manual_seed(1)
    inputs = torch.randn(count, 1, 6, 6, generator=generator)
    return inputs, torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("uneven", [False, True])
def test_pyhessian_agrees_with_our_eigenvalues(kind, uneven):
    inputs, target = samples(30)
    data = (inputs, target)
    if uneven:
        data = list(zip(inputs.split(12), target.split(12), strict=True))
    model = network(kind)
    risk = EmpiricalRisk(model, data, cross_entropy)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    z = risk.point()
    ours = top_eigenpairs(risk, z, 2, tolerance=1e-5).eigenvalues
    theirs = pyhessian_eigenvalues(risk, z, 2, tolerance=1e-7, iterations=2000)
    np.testing.assert_allclose(theirs, ours, rtol=2e-3)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())


def test_batch_statistics_are_refused():
    risk = EmpiricalRisk(network("conv"), samples(10), cross_entropy, statistics="batch")
    with pytest.raises(ValueError, match="use frozen statistics"):
        pyhessian_eigenvalues(risk, risk.point(), 1)


def test_a_batch_that_is_no_tensor_is_refused():
    model, (inputs, target) = network("mlp"), samples(10)
    risk = EmpiricalRisk(model, ((inputs,), target), cross_entropy)
    with pytest.raises(ValueError, match="PyHessian cannot take this model"):
        pyhessian_eigenvalues(risk, risk.point(), 1)


def test_a_parameter_that_the_loss_does_not_use_changes_nothing():
    model = network("mlp")
    risk = EmpiricalRisk(model, samples(10), cross_entropy)
    without = pyhessian_eigenvalues(risk, risk.point(), 1, tolerance=1e-7)
    model.register_parameter("unused", nn.Parameter(torch.ones(2, device=CPU)))
    risk = EmpiricalRisk(model, samples(10), cross_entropy)
    found = pyhessian_eigenvalues(risk, risk.point(), 1, tolerance=1e-7)
    np.testing.assert_allclose(found, without, rtol=1e-3)
    assert model.unused.requires_grad


def test_attention_is_crosschecked_too():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
            self.out = nn.Linear(6, 3)

        def forward(self, x):
            x = x.squeeze(1)
            return self.out(self.mix(x, x, x, need_weights=False)[0].mean(1))

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        risk = EmpiricalRisk(Attention(), samples(20), cross_entropy)
    z = risk.point()
    ours = top_eigenpairs(risk, z, 1, tolerance=1e-5).eigenvalues
    theirs = pyhessian_eigenvalues(risk, z, 1, tolerance=1e-7)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("uneven", [False, True])
def test_pyhessian_agrees_with_our_trace_also_where_it_is_negative(sign, uneven):
    def loss(output, target):
        return sign * cross_entropy(output, target)

    inputs, target = samples(30)
    data = (inputs, target)
    if uneven:
        data = list(zip(inputs.split(12), target.split(12), strict=True))
    model = network("mlp")
    risk = EmpiricalRisk(model, data, loss)
    z = risk.point()
    exact = float(Hessian(risk, z.double()).dense().trace())
    estimate, error = pyhessian_trace(risk, z, probes=60)
    ours = trace(risk, z, probes=60)
    assert np.sign(estimate) == sign
    assert 0 < error < 0.2 * abs(exact)
    assert abs(estimate - exact) < 4 * error
    assert abs(estimate - ours.estimate) < 4 * np.hypot(error, ours.standard_error)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_pyhessian_needs_two_probes_for_an_error():
    risk = EmpiricalRisk(network("mlp"), samples(10), cross_entropy)
    with pytest.raises(ValueError, match="probes must be at least 2, got 1"):
        pyhessian_trace(risk, risk.point(), probes=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_pyhessian_takes_the_type_of_the_point_and_16_bits_in_single_precision(dtype):
    inputs, target = samples(20)
    single = EmpiricalRisk(network("mlp"), (inputs, target), cross_entropy)
    risk = EmpiricalRisk(network("mlp").to(dtype), (inputs, target), cross_entropy)
    z = risk.point()
    ours = top_eigenpairs(single, z.double(), 2, tolerance=1e-6).eigenvalues
    theirs = pyhessian_eigenvalues(risk, z, 2, tolerance=1e-7, iterations=2000)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3)


@pytest.mark.parametrize("k", [0, 10_000])
def test_pyhessian_is_not_asked_for_more_eigenvalues_than_there_are(k):
    risk = EmpiricalRisk(network("mlp"), samples(10), cross_entropy)
    with pytest.raises(ValueError, match=f"k must be from 1 to the number of parameters .* {k}"):
        pyhessian_eigenvalues(risk, risk.point(), k)
