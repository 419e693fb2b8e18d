"""The spectral density against spectra that are known."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.nn.functional import cross_entropy

from landscape import results
from landscape.curvature import Hessian
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic
from landscape.randomness import derive
from landscape.spectrum import density
from landscape.spectrum.quadrature import _distributions, _quadrature, interval

CPU = {"device": "cpu"}


def generator(seed=0):
    return torch.Generator(**CPU).manual_seed(seed)


def bowl(eigenvalues):
    """A quadratic whose Hessian is diagonal, with these entries."""
    values = torch.as_tensor(np.array(eigenvalues), dtype=torch.float64, **CPU)
    return Analytic(lambda z: 0.5 * (values.to(z) * z**2).sum(-1), dim=len(values))


def origin(objective, dtype=torch.float64):
    return torch.zeros(objective.dim, dtype=dtype, **CPU)


def shares(eigenvalues, places):
    return (np.array(eigenvalues)[None] <= places[:, None]).mean(1)


MANY = [*np.linspace(-1, 2, 191), 5.0, 7.0, 7.0, 30.0, 200.0, -20.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bounds_of_each_probe_hold_for_its_own_measure(dtype):
    objective = bowl(MANY)
    operator = Hessian(objective, origin(objective, dtype))
    rule = _quadrature(operator, 12, generator(), list(range(20)))
    places = np.linspace(-25, 210, 5001)
    slack = 16 * torch.finfo(dtype).eps * np.abs(rule.nodes).max()
    below, _, above = _distributions(rule, places, slack)
    for number in range(20):
        v = torch.randn(len(MANY), generator=derive(generator(), "probe", number),
                        dtype=torch.float64, **CPU).to(dtype).double()  # fmt: skip
        share = (v / v.norm()).numpy() ** 2
        truth = (np.array(MANY)[None] <= places[:, None]) @ share
        rounding = 100 * torch.finfo(dtype).eps
        assert (below[number] <= truth + rounding).all()
        assert (above[number] >= truth - rounding).all()
    assert (above - below).mean() < 0.1


@pytest.mark.parametrize("bulk", [[0.0] * 20, list(np.linspace(-1e-3, 1e-3, 78)) + [50.0, 100.0]])
def test_the_bounds_hold_where_nodes_are_nearer_than_rounding(bulk):
    objective = bowl(bulk)
    z = origin(objective, torch.float32)
    rule = _quadrature(Hessian(objective, z), len(bulk), generator(), [0, 1])
    slack = 16 * torch.finfo(torch.float32).eps * float(max(bulk))
    places = np.unique([*np.linspace(-2e-3, 2e-3, 101), *bulk])
    below, _, above = _distributions(rule, places, slack)
    for i in range(2):
        v = torch.randn(
            len(bulk), generator=derive(generator(), "probe", i), dtype=torch.float64, **CPU
        ).numpy()
        mass = v**2 / (v @ v)
        truth = (mass * (np.array(bulk) <= places[:, None])).sum(1)
        assert (below[i] <= truth + 1e-5).all() and (truth <= above[i] + 1e-5).all()


def test_as_many_steps_as_coordinates_give_the_measure_itself():
    values = [-3.0, 0.0, 0.5, 2.0, 11.0]
    found = density(bowl(values), origin(bowl(values)), steps=50, probes=3)
    assert found.steps == 5 and found.products == 15
    assert np.allclose(found.nodes, np.array(values), atol=1e-12)
    assert np.allclose(found.weights.sum(1), 1)


def test_the_band_of_the_distribution_covers_the_truth_in_most_runs():
    objective = bowl(MANY)
    runs, covered = 60, 0.0
    for seed in range(runs):
        found = density(objective, origin(objective), steps=15, probes=8, points=40,
                        generator=generator(seed))  # fmt: skip
        truth = shares(MANY, found.eigenvalue)
        inside = (found.distribution_low <= truth) & (truth <= found.distribution_high)
        covered += inside.mean() / runs
    # Pointwise 95 %; places of one run go together, so runs count as single trials.
    assert covered > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize("probes", [1, 2, 3, 10])
@pytest.mark.parametrize(("below", "dim"), [(1, 60), (59, 60), (20, 60), (1, 1000), (500, 1000)])
def test_the_share_of_a_random_direction_has_an_interval_at_its_nominal_rate(below, dim, probes):
    runs = 2000
    draws = np.random.default_rng(0).normal(size=(probes, dim, runs)) ** 2
    weights = (draws[:, :below].sum(1) / draws.sum(1)).mean(0)
    low, high = interval(weights, probes, dim)
    covered = ((low <= below / dim) & (below / dim <= high)).mean()
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize("probes", [1, 2, 10])
def test_bands_hold_for_one_probe_as_for_many(probes):
    values = [*np.linspace(-1, 1, 30), 3.0, 3.0, 10.0]
    objective, runs = bowl(values), 100
    shares_in, density_in = [], []
    for seed in range(runs):
        found = density(objective, origin(objective), steps=33, probes=probes, points=41, unit=0.0,
                        width=0.4, generator=generator(seed))  # fmt: skip
        truth = shares(values, found.eigenvalue)
        low, high = found.distribution_low, found.distribution_high
        shares_in.append(((low <= truth + 1e-9) & (truth <= high + 1e-9)).mean())
        smooth = norm.pdf(found.eigenvalue[:, None], np.array(values), 0.4).mean(1)
        seen = smooth > 1e-3 * smooth.max()
        inside = (found.density_low <= smooth) & (smooth <= found.density_high)
        density_in.append(inside[seen].mean())
    # Places of one run go together, so runs count as single trials.
    least = 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)
    assert np.mean(shares_in) > least and np.mean(density_in) > least


def test_the_density_integrates_to_one_and_follows_the_spectrum():
    objective = bowl(np.linspace(1.0, 3.0, 400))
    found = density(objective, origin(objective), steps=40, probes=20, unit=0.0, width=0.1,
                    points=2001)  # fmt: skip
    assert np.trapezoid(found.density, found.eigenvalue) == pytest.approx(1.0, abs=2e-2)
    middle = (found.eigenvalue > 1.5) & (found.eigenvalue < 2.5)
    assert np.abs(found.density[middle] - 0.5).max() < 0.1
    assert (found.density_low <= found.density).all()
    assert (found.density <= found.density_high).all()


def test_the_logarithmic_coordinate_keeps_the_integral():
    objective = bowl(MANY)
    found = density(objective, origin(objective), steps=30, probes=4, points=4000)
    assert found.unit > 0
    assert np.trapezoid(found.density, found.eigenvalue) == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outliers_are_eigenvalues_with_their_number(dtype):
    objective = bowl(MANY)
    found = density(objective, origin(objective, dtype), steps=40, probes=20)
    for value, bound in zip(found.outliers, found.outlier_bounds, strict=True):
        assert np.abs(np.array(MANY) - value).min() <= bound + 1e-9
    assert {200, 30, 7, 5, -20} <= set(np.round(found.outliers).astype(int))
    tied = int(np.argmin(np.abs(found.outliers - 7)))
    assert abs(found.outlier_count[tied] - 2) < 4 * found.outlier_count_error[tied]
    assert (np.diff(found.outliers) < 0).all()


def test_a_network_agrees_with_its_dense_hessian():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 3)).double()
        x = torch.randn(20, 4, dtype=torch.float64, **CPU)
        y = torch.randint(0, 3, (20,), **CPU)
    risk = EmpiricalRisk(model, [(x[:12], y[:12]), (x[12:], y[12:])], cross_entropy)
    exact = torch.linalg.eigvalsh(Hessian(risk, risk.point()).dense()).numpy()
    found = density(risk, risk.point(), steps=25, probes=12)
    truth = shares(exact, found.eigenvalue)
    outside = np.maximum(found.distribution_low - truth, truth - found.distribution_high)
    # Where eigenvalues lie dense in the bulk a value may fall on either side of them.
    assert np.quantile(outside, 0.9) <= 0.0


def test_equal_generators_give_equal_bits_however_many_probes_go_together():
    objective = bowl(MANY)
    z = origin(objective)
    one = density(objective, z, steps=20, probes=6, generator=generator(3))
    two = density(objective, z, steps=20, probes=6, generator=generator(3))
    few = density(objective, z, steps=20, probes=6, memory=20 * len(MANY) * 8,
                  generator=generator(3))  # fmt: skip
    assert np.array_equal(one.nodes, two.nodes)
    assert np.allclose(one.nodes, few.nodes, rtol=1e-6, atol=1e-8)


def test_no_curvature_is_one_node_at_zero():
    flat = Analytic(lambda z: 0.0 * z.sum(-1), dim=50)
    found = density(flat, origin(flat), steps=10, probes=2)
    assert np.abs(found.nodes).max() == 0
    assert found.status == "finite"
    assert np.isfinite(found.density).all()


def test_one_coordinate_and_one_probe_are_enough():
    found = density(bowl([4.0]), origin(bowl([4.0])), probes=1)
    assert found.nodes.tolist() == [[4.0]]
    # A single eigenvalue has all the weight of every direction.
    seen = found.density > 1e-3 * found.density.max()
    for end in (found.density_low, found.density_high):
        np.testing.assert_allclose(end[seen], found.density[seen], rtol=1e-6)


def test_curvature_that_is_no_number_is_a_status():
    broken = Analytic(lambda z: torch.sqrt(z[..., 0] - 1) + z[..., 1] ** 2, dim=2)
    found = density(broken, torch.zeros(2, dtype=torch.float64, **CPU), probes=2)
    assert "not finite" in found.status
    assert np.isnan(found.density).all()


def test_a_density_survives_its_file(tmp_path):
    found = density(bowl(MANY), origin(bowl(MANY)), steps=10, probes=2)
    results.save(found, tmp_path / "density.h5")
    again = results.load(tmp_path / "density.h5")
    assert np.array_equal(again.density, found.density) and again.width == found.width


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"probes": 0}, "probes must be at least 1, got 0"),
        ({"points": 1}, "points must be at least 2, got 1"),
        ({"width": 0.0}, "width must be positive, got 0.0"),
        ({"unit": -1.0}, "unit must be positive, got -1.0"),
        ({"memory": 100}, "steps need .* and memory is 100"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        density(bowl(MANY), origin(bowl(MANY)), **arguments)


def test_a_random_model_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    x, y = torch.ones(4, 2, **CPU), torch.zeros(4, dtype=torch.int64, **CPU)
    risk = EmpiricalRisk(model, (x, y), cross_entropy)
    with pytest.raises(RuntimeError, match="1"):
        density(risk, risk.point())
