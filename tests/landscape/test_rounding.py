"""The noise of a loss against noise that is known, and against what float64 says of networks."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from objectives import built, normal, seeded
from torch import nn

from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, value
from landscape.rounding import in_float64, noise

CPU = {"device": "cpu"}


class Counted:
    """An objective that notes how many points each call of it has."""

    def __init__(self, formula, dim):
        self.formula, self.dim, self.calls = formula, dim, []

    def terms(self):
        yield self.formula

    def batched_terms(self):
        yield self._counted

    def _counted(self, z):
        self.calls.append(len(z))
        return self.formula(z)


def scattered(level, smooth=lambda z: z.square().sum(-1)):
    """A smooth function with noise of this standard deviation that is a function of the point."""

    def formula(z):
        # The bits of the point, mixed: any change of it changes all of them.
        mixed = z.contiguous().view(torch.int64).sum(-1) * 6364136223846793005
        mixed = (mixed ^ (mixed >> 29)) * 2862933555777941757
        return smooth(z) + level * math.sqrt(3) * ((mixed >> 11).double() / 2**52)

    return Analytic(formula, 5)


def network(kind):
    """A risk in float32 whose forward pass loses digits before the loss, in one way or another."""
    generator = seeded(3)
    x = torch.randn(256, 20, generator=generator, **CPU)
    y = torch.randint(0, 5, (256,), generator=generator, **CPU)
    layers = {
        "plain": lambda: [nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 5)],
        "layer norm": lambda: [nn.Linear(20, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 5)],
    }
    made = layers.get(kind, layers["layer norm" if kind == "offset" else "plain"])
    model = built(lambda: nn.Sequential(*made())).float()
    with torch.no_grad():
        if kind == "shifted":
            model[-1].bias.add_(1e3)
        if kind == "large":
            model[-1].weight.mul_(1e3)
        if kind == "offset":
            model[0].bias.add_(1e4)
    return EmpiricalRisk(model, (x, y), F.cross_entropy)


KINDS = ["plain", "layer norm", "shifted", "large", "offset"]


@pytest.mark.parametrize("level", [1e-9, 1e-6, 1e-3])
def test_the_level_is_that_of_the_noise_that_was_added(level):
    found = [noise(scattered(level), normal(5), generator=seeded(s)).level for s in range(40)]
    # The largest of six rows, so that it is rather too high than too low.
    assert 0.8 * level < np.median(found) < 2 * level
    assert max(found) < 4 * level and min(found) > level / 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_level_is_what_float32_and_float64_differ_by_around_the_point(kind):
    risk = network(kind)
    z = risk.point()
    around = z.double() * (1 + 1e-5 * torch.randn(200, len(z), generator=seeded(1), dtype=float))
    truth = float((value(risk, around.float()).double() - value(risk, around)).std())
    found = [noise(risk, z, generator=seeded(s)).level for s in range(20)]
    found = [level for level in found if level > 0]
    # Too low is the dangerous side; level 0 means values that are equal, and 2 eps |f| is taken.
    assert len(found) > 10 and min(found) > truth / 3
    assert truth / 2 < np.median(found) < 6 * truth


def test_the_noise_of_a_shifted_loss_is_more_than_its_last_digit():
    plain, shifted = network("plain"), network("shifted")
    known, seen = (noise(risk, risk.point()) for risk in (plain, shifted))
    assert known.value == pytest.approx(seen.value, rel=1e-4)
    assert seen.level > 4 * known.level and seen.level > 2 * seen.eps * seen.value


def test_a_smooth_function_in_float64_has_the_noise_of_its_own_rounding():
    found = noise(Analytic(lambda z: 3 + z.square().sum(-1), 6), normal(6))
    assert 0 < found.level < 4 * 2**-52 * found.value and found.status == ""
    assert found.eps == 2**-52


def test_all_points_are_evaluated_in_one_call():
    objective = Counted(lambda z: z.square().sum(-1), 4)
    assert noise(objective, normal(4)).evaluations == 37
    assert objective.calls == [37]


def test_equal_generators_give_equal_levels():
    risk = network("plain")
    one, two = (noise(risk, risk.point(), generator=seeded(4)) for _ in range(2))
    assert one == two


def test_a_constant_function_has_no_noise():
    found = noise(Analytic(lambda z: 2 + 0 * z.sum(-1), 3), normal(3).float())
    assert found.level == 0.0 and found.status == "the values near the point are equal"
    assert found.single == found.highest == 2 * 2**-23 * 2
    assert found.mean(100) == 2**-23 * 2


def test_a_loss_that_goes_in_steps_is_seen_though_near_values_are_equal():
    steps = Analytic(lambda z: (z.square().sum(-1) * 2**10).round() / 2**10, 4)
    found = noise(steps, normal(4))
    # A step of 2^-10, as the rounding of a fixed point, scatters by its root of a twelfth or more.
    assert 2**-10 / math.sqrt(12) / 4 < found.level < 2**-5
    assert found.evaluations == 68


def test_the_point_of_zeros_is_left():
    found = noise(Analytic(lambda z: 1000 + z.square().sum(-1), 5), torch.zeros(5, **CPU))
    assert 0 < found.level < 4 * 2**-23 * 1000


def test_values_that_are_not_finite_have_no_level():
    found = noise(Analytic(lambda z: torch.sqrt(-z.sum(-1)), 3), normal(3).abs())
    assert math.isnan(found.level) and found.status == "the values near it are not finite"
    assert math.isnan(found.single)
    edge = noise(Analytic(lambda z: 1 / (z.sum(-1) > 0).to(z), 1), torch.zeros(1, **CPU))
    assert math.isnan(edge.level)


def test_a_point_of_16_bits_is_taken_in_float32():
    objective = Analytic(lambda z: 1 + z.sin().sum(-1), 4)
    assert noise(objective, normal(4).to(torch.bfloat16)).eps == 2**-23


@pytest.mark.usefixtures("unchecked")
def test_more_than_one_point_is_refused():
    with pytest.raises(ValueError, match=r"one point \(3,\) is needed, got shape \(2, 3\)"):
        noise(Analytic(lambda z: z.sum(-1), 3), normal(2, 3))


def test_what_cannot_be_taken_in_float64_says_why():
    z = torch.ones(3, **CPU)
    assert in_float64(lambda t: str(t.dtype), z) == ("torch.float64", "")

    def fixed(t):
        if t.dtype != torch.float32:
            raise RuntimeError("mat1 and mat2 must have the same dtype\nand more")
        return str(t.dtype)

    taken, words = in_float64(fixed, z)
    assert taken == "torch.float32"
    assert words == (
        "in torch.float32, rounding not measured (mat1 and mat2 must have the same dtype)"
    )
