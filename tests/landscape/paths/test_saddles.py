"""Saddles above paths: every one that is known is reached, and is a saddle for certain."""

from itertools import combinations

import numpy as np
import passes
import pytest
import torch
from objectives import CE, X, Y, built, normal
from torch import nn

from landscape import paths
from landscape.functions import himmelblau, six_hump_camel
from landscape.networks import EmpiricalRisk
from landscape.objective import Analytic
from landscape.results import load, save

A, B = passes.minima(himmelblau)["A"], passes.minima(himmelblau)["B"]


@pytest.mark.parametrize("function", passes.FUNCTIONS)
def test_the_climb_from_the_top_of_any_line_ends_at_a_saddle_of_the_table(function):
    function = passes.FUNCTIONS[function]
    ends, seen = passes.minima(function), set()
    for one, other in [*combinations(ends, 2)][:6]:
        path = paths.linear(function, ends[one], ends[other])
        found = paths.saddle(function, path)
        assert found.certified, (one, other, found.status)
        known = min(function.saddles, key=lambda s: np.linalg.norm(found.point - s.point))
        assert np.linalg.norm(found.point - known.point) < 1e-7
        assert found.loss == pytest.approx(known.value, abs=1e-10)
        np.testing.assert_allclose(found.eigenvalues, sorted(known.eigenvalues), rtol=1e-7)
        off = np.abs(found.eigenvalues - sorted(known.eigenvalues))
        assert (off <= found.bounds + 1e-7 * np.abs(found.eigenvalues)).all()
        seen.add(known.name)
    assert len(seen) >= 2


def test_a_height_becomes_a_critical_value():
    path = paths.elastic_band(passes.toy, *passes.TOY_ENDS)
    found = paths.saddle(passes.toy, path)
    assert found.certified
    np.testing.assert_allclose(found.point, passes.TOY_SADDLE, atol=1e-9)
    assert found.loss == pytest.approx(passes.TOY_PASS, abs=1e-10)
    assert found.loss - 1e-8 < path.height < found.loss + 1e-3
    assert found.start == pytest.approx(path.height, rel=1e-12)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert found.moved < 0.02


def test_many_coordinates_have_the_saddle_of_two():
    """Twice as many coordinates as are solved densely, with a saddle that is known."""
    rates = torch.linspace(1, 20, 60, dtype=torch.float64)

    def formula(z):
        well = (z[..., 0] ** 2 - 1) ** 2 + z[..., 0] * z[..., 1] / 4
        return well + (rates * z[..., 1:] ** 2).sum(-1) / 2

    function = Analytic(formula, 61)
    start = 0.2 * normal(61)
    found = paths.saddle(function, start)
    assert found.certified
    np.testing.assert_allclose(found.point, 0, atol=1e-6)
    dense = torch.autograd.functional.hessian(formula, torch.zeros(61, dtype=torch.float64))
    np.testing.assert_allclose(found.eigenvalues, torch.linalg.eigvalsh(dense)[:2], rtol=1e-3)


def test_a_smooth_network_has_a_saddle_between_two_minima():
    risk = EmpiricalRisk(built(lambda: nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3))),
                         (X, Y), CE)  # fmt: skip
    a = risk.point()
    path = paths.linear(risk, a, -a)
    found = paths.saddle(risk, path, steps=15)
    assert found.status == "certified" or found.gradient_norm > 0
    if found.certified:
        slope = torch.autograd.functional.jacobian(
            lambda z: next(iter(risk.terms()))(z), torch.tensor(found.point)
        )
        assert float(slope.norm()) <= 2 * found.tolerance


@pytest.mark.parametrize(
    ("formula", "start", "said"),
    [
        (lambda z: (z * z).sum(-1), [0.0, 0.0], "a minimum: the smallest eigenvalue is positive"),
        (lambda z: -(z * z).sum(-1), [0.0, 0.0], "of index 2 or more"),
        (lambda z: z[..., 0] ** 2, [0.0, 1.0], "the smallest eigenvalue may be zero"),
        (lambda z: -(z[..., 0] ** 2), [0.0, 1.0], "the second smallest eigenvalue may be zero"),
        (lambda z: z[..., 0] + 0 * z[..., 1] ** 2, [0.0, 1.0], "not critical"),
    ],
)
def test_what_is_no_certain_saddle_says_why(formula, start, said):
    found = paths.saddle(Analytic(formula, 2), torch.tensor(start).double(), steps=5)
    assert said in found.status and not found.certified


def test_a_climb_that_has_too_few_steps_says_so():
    found = paths.saddle(himmelblau, paths.linear(himmelblau, A, B), steps=1)
    assert found.status == "not critical: not converged in 1 steps"
    assert found.steps == 1 and found.gradient_norm > found.tolerance
    assert paths.saddle(himmelblau, A + 0.1, steps=0).steps == 0


def test_evaluations_and_products_are_counted():
    calls = []

    def counted(z):
        calls.append(z)
        return himmelblau.formula(z)

    found = paths.saddle(Analytic(counted, 2), A + 0.5)
    assert 0 < found.evaluations < len(calls)
    assert found.products > 0 and "products" in found.said()[1]


def test_a_saddle_is_saved_and_loaded(tmp_path):
    found = paths.saddle(six_hump_camel, torch.tensor([0.1, 0.1]).double())
    save(found, tmp_path / "saddle.h5")
    again = load(tmp_path / "saddle.h5")
    assert again.numbers()["loss"] == found.loss and again.said() == found.said()
    np.testing.assert_array_equal(again.direction, found.direction)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": torch.zeros(3)}, "point of length 2"),
        ({"start": torch.tensor([torch.nan, 0.0])}, "the loss at the start is nan"),
        ({"steps": -1}, "steps must not be negative"),
        ({"radius": 0.0}, "radius must be positive"),
        ({"tolerance": -1.0}, "tolerance must be positive"),
    ],
)
def test_bad_input_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        paths.saddle(himmelblau, **{"start": A, **change})
