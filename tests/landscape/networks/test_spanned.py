"""Points in the span of a few vectors: values and slopes are those of each point by itself."""

import pytest
import torch
from objectives import CE, X, Y, built, chain, normal, uneven
from torch import nn

from landscape.networks import EmpiricalRisk, softplus, spanned
from landscape.objective import value_and_grad

BASIS, COEFFICIENTS = 3, 9


def squares(output, target):
    return (output - target.unsqueeze(-1)).square().mean()


@pytest.mark.parametrize("loss", [CE, squares], ids=["cross-entropy", "squares"])
@pytest.mark.parametrize("data", [(X, Y), uneven(X, Y)], ids=["whole", "batches"])
@pytest.mark.parametrize("room", [2**29, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_slopes_are_those_of_each_point(monkeypatch, loss, data, room, bias):
    monkeypatch.setattr(spanned, "_BYTES", room)

    def network():
        return nn.Sequential(
            nn.Linear(4, 5, bias=bias), nn.Softplus(), nn.Linear(5, 3, bias=bias)
        )  # fmt: skip

    risk = EmpiricalRisk(built(network), data, loss)
    basis, c = normal(BASIS, risk.dim), normal(COEFFICIENTS, BASIS, seed=1)
    values, slope = risk.spanned(basis, c, lambda values: torch.softmax(values, 0))
    expected, grads = value_and_grad(risk, c @ basis)
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
    weights = torch.softmax(expected, 0)
    torch.testing.assert_close(slope, (c * weights[:, None]).T @ grads, rtol=1e-9, atol=1e-11)


def test_what_does_not_go_through_stacked_layers_is_not_spanned():
    convolution = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, 3))
    risk = EmpiricalRisk(built(lambda: convolution), (X.unsqueeze(1), Y), CE)
    assert risk.spanned is None
    assert EmpiricalRisk(built(chain), (X, Y), CE, evaluation="sequential").spanned is None


def test_softplus_is_that_of_torch_to_a_rounding_error():
    x = torch.cat([torch.linspace(-100, 100, 70_001), torch.tensor([-1e30, 1e30])]).view(-1, 1)
    leaf, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    ours, theirs = softplus.softplus(leaf), nn.functional.softplus(wide, threshold=1000)
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-7, atol=2e-7)
    (slope,) = torch.autograd.grad((3 * ours).sum(), leaf)
    (expected,) = torch.autograd.grad((3 * theirs).sum(), wide)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-6, atol=1e-30)
    assert bool(softplus.softplus(torch.tensor([torch.nan])).isnan())
    assert not softplus.suits(nn.Softplus(beta=2), x) and not softplus.suits(nn.ReLU(), x)
    assert softplus.suits(nn.Softplus(), x) and not softplus.suits(nn.Softplus(), x.double())


def test_an_output_next_to_nothing_keeps_its_digits():
    network = nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 1), nn.Softplus())
    for piece in network.parameters():
        nn.init.constant_(piece, 0.1)
    nn.init.constant_(network[2].bias, -30.0)
    risk = EmpiricalRisk(network, (X.float(), Y), lambda output, _: -output.log().mean())
    values, _ = risk.spanned(risk.point()[None], torch.ones(1, 1), torch.ones_like)
    expected = -network.double()(X.float().double()).log().mean().detach()
    assert float(values) == pytest.approx(float(expected), rel=1e-6)


def test_float32_has_the_slopes_of_double():
    def network():
        return nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 3))

    risk = EmpiricalRisk(built(network).float(), (X.float(), Y), CE)
    basis, c = normal(BASIS, risk.dim).float(), normal(COEFFICIENTS, BASIS, seed=1).float()
    values, slope = risk.spanned(basis, c, torch.ones_like)
    truth = EmpiricalRisk(built(network), (X.float().double(), Y), CE)
    expected, grads = value_and_grad(truth, c.double() @ basis.double())
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope.double(), c.double().T @ grads, rtol=1e-4, atol=1e-5)
