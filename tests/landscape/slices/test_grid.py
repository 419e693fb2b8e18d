"""Planes of which a part is evaluated: against the whole grid of functions that are known."""

import numpy as np
import pytest
import torch
from objectives import case, normal

from landscape.functions import CATALOGUE
from landscape.objective import Analytic
from landscape.results import load, save
from landscape.slices import adaptive_plane, plane, span

ORIGIN = torch.zeros(2, dtype=torch.float64, device="cpu")
U, V = torch.eye(2, dtype=torch.float64, device="cpu")


def coned(z):
    return z[..., 0].abs() + (z[..., 1] - 0.3).abs()


def peaked(z):
    return torch.exp(-((z[..., 0] - 0.3) ** 2 + (z[..., 1] + 0.2) ** 2) / 0.02)


def walled(z):
    return 0.3 + (z[..., 0] ** 2 + 3 * z[..., 1] ** 2) * torch.exp(4 * z[..., 0])


KNOWN = {
    "himmelblau": (lambda z: CATALOGUE["himmelblau"].formula(4 * z), 0.2),
    "cone": (coned, 0.25),
    "peak": (peaked, 0.35),
    "wall": (walled, 0.2),
    "parabola": (lambda z: (z**2).sum(-1), 0.15),
    "plane": (lambda z: z[..., 0] - 2 * z[..., 1], 0.15),
}


def both(formula, **how):
    function = Analytic(formula, 2)
    fine = span(-1.0, 1.0, 51)
    found = adaptive_plane(function, ORIGIN, U, V, **how)
    return found, plane(function, ORIGIN, U, V, alpha=fine, beta=fine)


@pytest.mark.parametrize("name", KNOWN)
def test_a_part_of_the_cells_gives_the_surface_to_two_shares_of_the_tolerance(name):
    formula, most = KNOWN[name]
    found, whole = both(formula)
    assert found.loss.shape == (51, 51)
    assert found.evaluated.mean() < most
    assert found.evaluated.sum() == found.provenance["evaluated"]
    np.testing.assert_allclose(
        found.loss[found.evaluated], whole.loss[found.evaluated], rtol=1e-13, atol=1e-13
    )
    error = np.abs(found.loss - whole.loss).max() / np.ptp(whole.loss)
    assert error < 0.02


@pytest.mark.parametrize("name", ["himmelblau", "peak", "cone", "wall"])
def test_the_stated_error_is_no_small_part_of_the_largest_one(name):
    formula, _ = KNOWN[name]
    _, whole = both(formula)
    for seed in range(4):
        found, _ = both(formula, seed=seed)
        error = np.abs(found.loss - whole.loss).max() / np.ptp(whole.loss)
        assert found.interpolation_error > error / 3


def holed(seed):
    """A bowl with a round hole somewhere."""
    drawn = np.random.default_rng(seed)
    center, radius = torch.tensor(drawn.uniform(-1, 1, 2), device="cpu"), drawn.uniform(0.03, 0.2)

    def formula(z):
        inside = ((z - center) ** 2).sum(-1) < radius**2
        return torch.where(inside, torch.nan, (z**2).sum(-1))

    return formula


def test_no_cell_is_not_finite_by_interpolation():
    for seed in (19, 55, 59):  # a check hits the hole, and is part of an interpolation nearby
        found = adaptive_plane(Analytic(holed(seed), 2), ORIGIN, U, V, seed=seed)
        assert found.evaluated[~np.isfinite(found.loss)].all()


class Opposed:
    """Two halves of the data whose losses differ by a step that cancels in the sum."""

    dim, shares = 2, (0.5, 0.5)

    def terms(self):
        yield from self.batched_terms()

    def batched_terms(self):
        for sign in (-1, 1):
            yield lambda z, sign=sign: (z**2).sum(-1) / 2 + sign * (z[..., 0] > 0.1)


def test_interpolated_standard_errors_are_never_negative():
    found = adaptive_plane(Opposed(), ORIGIN, U, V, standard_errors=True)
    assert not found.evaluated.all()
    assert found.standard_error.min() == 0
    assert found.standard_error.max() >= 2


def test_polynomials_of_third_degree_are_interpolated_without_error():
    found, whole = both(lambda z: z[..., 0] ** 3 - z[..., 0] * z[..., 1] ** 2 + z[..., 1])
    assert not found.evaluated.all()
    np.testing.assert_allclose(found.loss, whole.loss, atol=1e-12)
    assert found.interpolation_error < 1e-12


def test_cells_are_spent_where_the_surface_bends():
    found, _ = both(peaked)
    a, b = np.meshgrid(found.alpha, found.beta, indexing="ij")
    near = (a - 0.3) ** 2 + (b + 0.2) ** 2 < 0.2**2
    assert found.evaluated[near].mean() > 3 * found.evaluated[~near].mean()


def test_levels_cost_cells_along_them_and_a_ceiling_saves_those_above_it():
    plain, _ = both(walled)
    levels, _ = both(walled, levels=(0.5, 1.0, 4.0))
    assert levels.evaluated.sum() > plain.evaluated.sum()
    low, whole = both(walled, ceiling=5.0)
    assert low.loss.max() == pytest.approx(whole.loss.max())
    error = np.abs(np.minimum(low.loss, 5) - np.minimum(whole.loss, 5)).max()
    assert error < 0.02 * (5 - whole.loss.min())
    assert low.evaluated[whole.loss > 60].mean() < low.evaluated[whole.loss < 10].mean()


def test_on_a_log_scale_the_logarithm_is_what_is_right():
    found, whole = both(
        walled, scale="log", tolerance=0.005, levels=np.geomspace(0.31, 100, 6).tolist()
    )
    logs = np.log(whole.loss)
    assert np.abs(np.log(found.loss) - logs).max() < 0.01 * np.ptp(logs)
    assert (found.loss > 0).all()
    signed, truth = both(lambda z: z[..., 0], scale="log")
    assert signed.evaluated[truth.loss <= 0].all()


def test_a_tighter_goal_takes_more_cells_and_errs_less():
    shares, errors = [], []
    for tolerance in (0.1, 0.01, 0.001):
        found, whole = both(peaked, tolerance=tolerance)
        shares.append(found.evaluated.mean())
        errors.append(np.abs(found.loss - whole.loss).max())
    assert shares == sorted(shares) and shares[0] < shares[-1]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


def test_cells_that_are_not_finite_are_found_and_never_made_up():
    found, whole = both(lambda z: torch.where(z.sum(-1) > 0.5, torch.nan, (z**2).sum(-1)))
    np.testing.assert_array_equal(np.isnan(found.loss), np.isnan(whole.loss))
    assert found.evaluated[np.isnan(whole.loss)].all()
    kept = ~np.isnan(whole.loss)
    np.testing.assert_allclose(found.loss[kept], whole.loss[kept], atol=0.02)
    nowhere, _ = both(lambda z: torch.full_like(z[..., 0], torch.inf))
    assert (nowhere.loss == np.inf).all() and nowhere.evaluated.all()


def test_a_constant_is_constant():
    found, _ = both(lambda z: 3 + 0 * z.sum(-1))
    np.testing.assert_allclose(found.loss, 3.0, rtol=1e-13)
    assert found.interpolation_error < 1e-12


@pytest.mark.parametrize("count", [2, 3, 5, 8, (2, 9), (33, 4), (40, 17)])
def test_grids_of_any_size_have_their_axes_in_order(count):
    n, m = (count, count) if isinstance(count, int) else count
    function = Analytic(lambda z: z[..., 0] ** 3 + 10 * z[..., 1], 2)
    found = adaptive_plane(function, ORIGIN, U, V, alpha=(-2.0, 1.0), beta=(0.0, 4.0), count=count)
    whole = plane(function, ORIGIN, U, V, alpha=span(-2.0, 1.0, n), beta=span(0.0, 4.0, m))
    assert found.loss.shape == (n, m)
    np.testing.assert_allclose(found.loss, whole.loss, atol=1e-9)


def test_networks_are_refined_with_metrics_and_errors_and_go_through_a_file(tmp_path):
    risk, _, z = case("stacked-uneven")
    u, v = normal(2, len(z), seed=11)
    how = {"count": 9, "metrics": ["gradient_norm"], "standard_errors": True}
    found = adaptive_plane(risk, z, u, v, **how)
    whole = plane(
        risk, z, u, v, alpha=span(-1.0, 1.0, 9), beta=span(-1.0, 1.0, 9),
        metrics=["gradient_norm"], standard_errors=True,
    )  # fmt: skip
    at = found.evaluated
    np.testing.assert_allclose(found.standard_error[at], whole.standard_error[at], rtol=1e-9)
    np.testing.assert_allclose(found.metric_values[0][at], whole.metric_values[0][at], rtol=1e-9)
    assert np.isfinite(found.metric_values).all()
    save(found, tmp_path / "plane.h5")
    again = load(tmp_path / "plane.h5")
    np.testing.assert_array_equal(again.evaluated, found.evaluated)
    assert again.interpolation_error == found.interpolation_error


def test_a_refined_plane_goes_on_after_a_kill_bit_for_bit(tmp_path):
    seen = {"left": 10**9, "count": 0}

    def formula(z):
        seen["count"] += len(z.reshape(-1, 2))
        if seen["count"] > seen["left"]:
            raise KeyboardInterrupt
        return peaked(z)

    function = Analytic(formula, 2)
    whole = adaptive_plane(function, ORIGIN, U, V, chunk=7)
    how = {"chunk": 7, "store": tmp_path / "part"}
    seen.update(left=200, count=0)
    with pytest.raises(KeyboardInterrupt):
        adaptive_plane(function, ORIGIN, U, V, **how)
    seen.update(left=10**9, count=0)
    again = adaptive_plane(function, ORIGIN, U, V, **how)
    np.testing.assert_array_equal(again.loss, whole.loss)
    np.testing.assert_array_equal(again.evaluated, whole.evaluated)
    assert seen["count"] < whole.evaluated.sum() - 150


BAD = [
    ({"tolerance": 0.0}, "tolerance must be between 0 and 1, got 0.0"),
    ({"scale": "cubic"}, "scale must be 'linear' or 'log', got 'cubic'"),
    ({"scale": "log", "levels": [0.0, 1.0]}, "levels and ceiling must be positive on a log scale"),
    ({"alpha": (1.0, -1.0)}, "a range must go from a lower to a higher number, got 1.0 to -1.0"),
    ({"beta": (1.0, 1.0)}, "a range must go from a lower to a higher number, got 1.0 to 1.0"),
    ({"beta": (0.0, float("nan"))}, "a range must go from a lower to a higher number"),
    ({"count": 1}, "a range needs at least 2 coordinates, got 1"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_grids_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        adaptive_plane(Analytic(peaked, 2), ORIGIN, U, V, **given)
