"""Moves: outputs that stay, norms that fall, minima that are new."""

import pytest
import torch
from objectives import CE, IMAGES, X, Y, built, convolution, normal
from scipy.optimize import minimize
from torch import nn

from landscape.functions import himmelblau, six_hump_camel
from landscape.moves import Bumps, restarts, shifted
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import value, value_and_grad

close = torch.testing.assert_close


def test_the_smallest_weights_are_the_published_ones():
    model = built(lambda: nn.Sequential(nn.Linear(3, 2, bias=False)))
    inputs = torch.tensor([[1.0, 2, 0], [0, 1, 1]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 0], [2, 1], [3, -1]], dtype=torch.float64)
    risk = EmpiricalRisk(model, (inputs, torch.tensor([0, 1])), CE)
    found = shifted(risk, weights.T.flatten())
    expected = torch.tensor([[0, 2 / 3], [2.5, 2 / 3], [2.5, -2 / 3]], dtype=torch.float64)
    close(found.z.view(2, 3).T, expected)
    (layer,) = found.layers
    assert (layer.inputs, layer.rank) == (3, 2)
    assert (layer.before, layer.after) == pytest.approx((4.0, 3.7193189341))


def wide():
    return nn.Sequential(
        nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 25), nn.ReLU(), nn.Linear(25, 3)
    )


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 40, 3, padding="same"),
        nn.Tanh(), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip


def sequences():
    return nn.Sequential(
        nn.Conv1d(3, 9, 2, padding=1, dilation=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )


NETWORKS = {
    "chain": (wide, X),
    "convolutions": (convolutions, normal(10, 2, 6, 5)),
    "sequences": (sequences, normal(10, 3, 6)),
    "batch-normalised": (convolution, IMAGES),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_and_all_outputs_stay_and_norms_fall(name):
    make, inputs = NETWORKS[name]

    def ready():
        model = make()
        model(inputs.float())  # lazy layers learn their shapes
        return model

    model = built(ready).eval()
    risk = EmpiricalRisk(model, [(inputs[:4], Y[:4]), (inputs[4:], Y[4:])], CE)
    z = risk.point()
    found = shifted(risk, z)
    assert (
        found.after
        == pytest.approx(found.before, abs=1e-10)
        == pytest.approx(float(value(risk, z)))
    )
    assert any(layer.rank < layer.inputs for layer in found.layers)
    for layer in found.layers:
        shorter = layer.after < layer.before * (1 - 1e-6)
        assert shorter == (layer.rank < layer.inputs) or layer.after <= layer.before * (1 + 1e-12)
    with torch.no_grad():
        expected = model(inputs)
        changed = torch.func.functional_call(model, risk.layout.unflatten(found.z), (inputs,))
    close(changed, expected, rtol=1e-8, atol=1e-9)
    close(shifted(risk, found.z).z, found.z, rtol=1e-7, atol=1e-9)
    close(risk.point(), z)


def test_only_the_layers_that_are_named_move():
    risk = EmpiricalRisk(built(wide), (X, Y), CE)
    z = risk.point()
    found = shifted(risk, z, ["4"])
    assert [layer.name for layer in found.layers] == ["4"]
    own = [entry.span for entry in risk.layout.entries if entry.name.startswith("4.")]
    moved = (found.z != z).nonzero().flatten()
    assert len(moved) and all(any(s.start <= k < s.stop for s in own) for k in moved.tolist())


def test_layers_that_are_not_there_or_used_twice_are_told():
    risk = EmpiricalRisk(built(wide), (X, Y), CE)
    with pytest.raises(ValueError, match="convolution without groups 9; there are 0, 2, 4"):
        shifted(risk, risk.point(), ["9"])

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(torch.tanh(self.first(x)) + x @ self.first.weight**2)

    few = EmpiricalRisk(built(Tied), (X[:2], Y[:2]), CE)
    with pytest.raises(ValueError, match="is used elsewhere too"):
        shifted(few, few.point())


def test_bells_have_their_formula_and_gradient():
    centers = normal(3, 5)
    z = normal(2, 5, seed=1).requires_grad_()
    mask = torch.tensor([1.0, 1, 0, 1, 0], dtype=z.dtype)
    for part in (None, mask):
        weights = torch.ones(5, dtype=z.dtype) if part is None else part
        squares = (((z[:, None] - centers) * weights) ** 2).sum(-1)
        truth = 1.5 * torch.exp(-squares / (2 * 0.7**2)).sum(-1)
        (slope,) = torch.autograd.grad(truth.sum(), z)
        found = value_and_grad(Bumps(centers, 1.5, 0.7, part), z.detach())
        close(found, (truth.detach(), slope))
    with pytest.raises(ValueError, match="height must not be negative and width positive"):
        Bumps(centers, 1.0, 0.0)


def descent(objective, z):
    for _ in range(2000):
        z = (z - 0.01 * value_and_grad(objective, z)[1]).clamp(-3, 3)
    return z


def quasi_newton(objective, z):
    def function(x):
        loss, grad = value_and_grad(objective, torch.as_tensor(x))
        return float(loss), grad.numpy()

    return torch.as_tensor(minimize(function, z.numpy(), jac=True, method="L-BFGS-B").x)


def test_restarts_find_other_minima_of_the_function_itself():
    start = torch.tensor([0.3, 0.3], dtype=torch.float64)
    found = restarts(
        himmelblau, start, quasi_newton, rounds=6, height=200.0, width=2.0, tolerance=1e-2
    )
    assert len(found.minima) >= 3 and (found.loss < 1e-8).all()
    assert found.found[0] == 0 and found.label.max() == len(found.minima) - 1
    close(found.minima, found.ends[found.found])
    close(found.minima[found.label], found.ends, atol=1e-2, rtol=0)


@pytest.mark.slow
def test_restarts_of_the_six_hump_camel_find_the_minima_that_one_start_finds():
    """From (0.3, 0.3), bells of height 2 and width 0.5: new ones in rounds 0, 1, 2 and 4."""
    start = torch.tensor([0.3, 0.3], dtype=torch.float64)
    found = restarts(
        six_hump_camel, lambda number: start + 1e-3 * (number > 0), descent, rounds=5, height=2.0,
        width=0.5, tolerance=0.05,
    )  # fmt: skip
    assert found.found.tolist() == [0, 1, 2, 4]
    assert (found.gradient_norm < 1e-6).all()
    close(found.loss[0], torch.tensor(-1.0316284535, dtype=torch.float64))
    close(found.minima, found.ends[found.found])


def test_a_restart_that_diverges_is_no_minimum():
    start = torch.tensor([0.3, 0.3], dtype=torch.float64)
    found = restarts(
        six_hump_camel, start, lambda objective, z: z * torch.nan, rounds=2, height=1.0, width=1.0,
        tolerance=0.1,
    )  # fmt: skip
    assert found.label.tolist() == [-1, -1] and len(found.minima) == 0
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        restarts(six_hump_camel, start, descent, rounds=0, height=1.0, width=1.0, tolerance=0.1)
