"""Points in the span of a few vectors: values and slopes are those of each point by itself."""

import pytest
import torch
from objectives import CE, X, Y, built, chain, normal, uneven
from torch import nn

from landscape.networks import EmpiricalRisk, spanned
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
