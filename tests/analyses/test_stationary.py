"""Where methods end, against seeded counts, watersheds, basin areas and closed forms."""

import itertools
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from analyses.basins import BASINS, CELLS, areas, basins, flow
from analyses.outcomes import labels, mirror_p_value, mirror_pairs, wilson
from analyses.restarts import Plan, ends, starts
from analyses.stationary import STEPS, Config, study
from cnognp import METHODS
from cnognp.method import traits_of
from cnognp.methods.descent import GradientDescent
from cnognp.run import run
from landscape.functions import CATALOGUE, f1, f2, himmelblau, six_hump_camel, two_wells
from landscape.objective import value, value_and_grad
from landscape.results import load, save

SMALL = {"grid": 5}


@pytest.mark.parametrize(
    "function, lr, iterations, counts",
    [
        ("himmelblau", 0.001, 1500, [130, 154, 96, 120, 0]),
        ("himmelblau", 0.01, 500, [130, 155, 95, 120, 0]),
        ("three-hump-camel", 0.001, 4000, [165, 142, 193, 0]),
        ("six-hump-camel", 0.001, 1500, [96, 107, 82, 110, 48, 57, 0]),
        ("six-hump-camel", 0.01, 400, [118, 125, 74, 98, 42, 43, 0]),
    ],
)
def test_gradient_descent_from_the_seeded_starts_ends_where_it_is_known_to_end(
    function, lr, iterations, counts
):
    found = study(
        Config(function, iterations=iterations, method_options={"lr": lr}, seed=0, **SMALL)
    )
    assert found.counts.tolist() == counts
    assert found.names == tuple(minimum.name for minimum in CATALOGUE[function].minima)
    assert np.array_equal(np.bincount(found.label, minlength=len(counts)), counts)
    assert found.evaluations == 500 * iterations


@pytest.mark.parametrize(
    "function, iterations",
    [("himmelblau", 1500), ("three-hump-camel", 4000), ("six-hump-camel", 1500)],
)
def test_the_defaults_are_the_declared_benchmark(function, iterations):
    config = Config(function).resolved()
    assert (config.restarts, config.iterations) == (500, iterations)
    assert config.method_options["lr"] == 0.001
    assert (config.tolerance, config.gradient_tolerance) == (0.1, 1e-3)


@pytest.mark.parametrize("function", ["himmelblau", "six-hump-camel"])
@pytest.mark.parametrize(
    "method", [n for n in METHODS if traits_of(METHODS[n]()).stride == "length"]
)
def test_steps_of_a_length_settle_since_the_length_falls(method, function):
    found = study(Config(function, method, restarts=50, **SMALL))
    assert found.status == "converged"
    assert found.counts[-1] == 0


def test_how_long_and_how_far_a_method_steps_follows_from_what_it_says_of_itself():
    def settled(method, **options):
        found = Config("himmelblau", method, method_options=options).resolved()
        return found.iterations, found.budget, found.method_options.get("lr")

    assert settled("gd") == settled("sam") == (1500, None, 0.001)
    assert settled("adam") == settled("sam", base="adam") == (1500, None, 0.01)
    assert settled("bfgs") == settled("lbfgs-gss") == (100, None, None)
    assert settled("nig-bh") == settled("nim-mbh") == (None, 1500, 0.001)
    assert settled("pso-bfgs") == (100, None, None)
    lion = Config("himmelblau", "sam", method_options={"base": "lion"}).resolved().method_options
    assert (lion["schedule"], lion["horizon"], lion["lr"]) == ("cosine", 1500, 0.01)


def test_starts_are_those_of_the_seeded_numpy_generator():
    found = study(Config(restarts=7, iterations=1, seed=3, **SMALL))
    drawn = np.random.default_rng(3).uniform([-3, -2], [3, 2], size=(7, 2))
    assert np.array_equal(found.start, drawn)
    slope = value_and_grad(six_hump_camel, torch.from_numpy(drawn))[1].numpy()
    np.testing.assert_allclose(found.position, drawn - 0.001 * slope, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["f1", "f2", "f3"])
def test_in_one_dimension_the_maxima_are_the_watersheds(name):
    function = CATALOGUE[name]
    found = study(Config(name, iterations=1500, tolerance=0.2, **SMALL))
    tops = sorted(top.point[0] for top in function.maxima)
    home = np.searchsorted(tops, found.points[:, 0])
    arrived = found.label < len(home)
    start_home = np.searchsorted(tops, found.start[arrived, 0])
    assert np.array_equal(home[found.label[arrived]], start_home)
    assert arrived.mean() > 0.7
    assert found.alpha.shape == (5,)
    assert found.beta.tolist() == [0.0]
    curve = value(function, torch.tensor(found.alpha[:, None])).numpy()
    assert np.array_equal(found.surface, curve[:, None])


def test_a_sum_over_coordinates_descends_in_each_coordinate_by_itself():
    found = study(Config("f2-2d", iterations=1000, tolerance=0.2, **SMALL))
    tops = sorted(top.point[0] for top in f2().maxima)
    home = np.searchsorted(tops, found.start)
    arrived = found.label < 25
    assert np.array_equal(found.label[arrived], (5 * home[:, 0] + home[:, 1])[arrived])
    assert arrived.mean() > 0.5
    assert found.names[7] == "1,2"


@pytest.mark.parametrize("name", ["himmelblau", "six-hump-camel"])
def test_shares_are_the_areas_of_the_basins_within_their_sampling_error(name):
    found = study(Config(name, restarts=2000, seed=11, **SMALL))
    error = np.sqrt(found.basin * (1 - found.basin) / found.restarts)
    assert (np.abs(found.share[:-1] - found.basin) < 4 * error).all()
    assert found.counts[-1] == 0


@pytest.mark.parametrize("name", BASINS)
def test_declared_basins_are_the_areas_that_gradient_flow_finds_on_a_coarse_grid(name):
    found = areas(CATALOGUE[name], 64, step=0.02)
    np.testing.assert_allclose(found[:-1], BASINS[name], rtol=0, atol=0.003)
    assert found[-1] == 0
    assert sum(found) == pytest.approx(1)
    assert CELLS.keys() == BASINS.keys()


@pytest.mark.parametrize("name", ["himmelblau", "six-hump-camel"])
def test_gradient_flow_takes_a_point_where_descent_with_small_steps_takes_it(name):
    start = starts(CATALOGUE[name], 7, 200)
    stream = itertools.repeat(CATALOGUE[name], 2000)
    *_, (state, _) = run(GradientDescent(0.001), stream, start, torch.Generator("cpu"))
    descended = labels(CATALOGUE[name], state.position.numpy(), 0.1)
    assert (flow(CATALOGUE[name], start.numpy()) != descended).mean() <= 0.01


def test_flow_that_reaches_no_minimum_is_else():
    top = np.array([himmelblau.maxima[0].point])
    uphill = replace(himmelblau, gradient=lambda z: -himmelblau.gradient(z))
    assert flow(uphill, top + 0.5, step=1.0).tolist() == [4]
    with pytest.raises(ValueError, match="areas are those of a box of 2 coordinates; f1 has 1"):
        areas(f1(), 4)


@pytest.mark.parametrize("function", CATALOGUE.values(), ids=lambda f: f.name)
def test_basins_fill_the_box_where_they_are_known(function):
    shares = basins(function)
    if function is two_wells:
        assert shares is None
        return
    assert len(shares) == len(function.minima)
    assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_basins_in_one_dimension_are_the_intervals_between_maxima():
    assert basins(f1()) == pytest.approx((1.1195151349 / 1.6, *[0.4804848651 / 3.2] * 2))
    assert basins(f1(2))[1] == pytest.approx(1.1195151349 / 1.6 * 0.4804848651 / 3.2)


def test_mirror_images_are_found_where_function_and_box_are_even():
    assert mirror_pairs(six_hump_camel) == [(0, 1), (2, 3), (4, 5)]
    assert mirror_pairs(CATALOGUE["three-hump-camel"]) == [(1, 2)]
    assert mirror_pairs(himmelblau) == mirror_pairs(f2()) == []
    half = replace(six_hump_camel, box=((0.0, 3.0), (-2.0, 2.0)))
    assert mirror_pairs(half) == []


def test_the_mirror_test_rejects_as_often_as_its_level_says():
    generator = np.random.default_rng(0)
    pairs = mirror_pairs(six_hump_camel)
    shares = [0.2, 0.2, 0.175, 0.175, 0.125, 0.125, 0]
    drawn = generator.multinomial(500, shares, size=2000)
    rejected = np.mean([mirror_p_value(counts, pairs) < 0.05 for counts in drawn])
    assert rejected == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 2000))
    # The published row of gradient descent, in 500 restarts and the order G, H, M.
    assert mirror_p_value([21, 118, 114, 86, 8, 51, 102], pairs) < 1e-10
    assert math.isnan(mirror_p_value([5, 0, 0, 2], [(1, 2)]))
    assert math.isnan(mirror_p_value([5, 6], []))


def test_starts_need_a_box_with_low_below_high():
    for box in ((), ((0.0, 0.0), (0.0, 1.0)), ((0.0, 1.0),)):
        with pytest.raises(ValueError, match="uniform in the box of himmelblau: it must have"):
            ends(replace(himmelblau, box=box), GradientDescent(0.1), Plan(2, 1, 3, None, 0))


def test_wilson_intervals_are_those_of_the_closed_form():
    n, z = 500, 1.959963984540054
    counts = np.array([0, 1, 130, 250, 499, 500])
    low, high = wilson(counts, n)
    share = counts / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(low, middle - half, rtol=0, atol=1e-12)
    np.testing.assert_allclose(high, middle + half, rtol=0, atol=1e-12)


def test_a_label_is_the_nearest_minimum_within_the_tolerance_and_else_beyond():
    minima = np.array([minimum.point for minimum in himmelblau.minima])
    assert labels(himmelblau, minima, 1e-12).tolist() == [0, 1, 2, 3]
    beside = minima + [[0.0999, 0], [0, -0.0999], [0.1001, 0], [0.08, 0.08]]
    assert labels(himmelblau, beside, 0.1).tolist() == [0, 1, 4, 4]
    assert labels(himmelblau, np.array([[3.3, 0.3]]), 100.0).tolist() == [0]


def test_points_at_infinity_belong_to_no_minimum():
    far = np.array([[math.nan, 0], [math.inf, 0], [1e200, -1e200], [3.0, 2.0]])
    assert labels(himmelblau, far, 0.1).tolist() == [4, 4, 4, 0]


def test_divergence_is_a_status_and_counts_as_else():
    found = study(
        Config("himmelblau", restarts=50, iterations=60, method_options={"lr": 0.1}, **SMALL)
    )
    lost = ~np.isfinite(found.position).all(axis=1)
    assert lost.sum() > 25
    assert f"{lost.sum()} diverged" in found.status
    assert found.provenance["unsettled"] <= 50 - lost.sum()
    assert (found.label[lost] == 4).all()
    assert found.counts.sum() == 50


def test_members_near_a_minimum_with_a_gradient_are_counted_there_and_called_unsettled():
    config = Config(restarts=100, iterations=900, **SMALL)
    found = study(config)
    slope = value_and_grad(six_hump_camel, torch.tensor(found.position))[1]
    steep = slope.norm(dim=1).numpy() > 1e-3
    assert steep[found.label < 6].any()
    steep = int(steep.sum())
    assert found.status == f"{steep} unsettled"
    assert found.provenance["unsettled"] == steep
    looser = study(replace(config, gradient_tolerance=100.0))
    assert looser.status == "converged"
    assert np.array_equal(looser.counts, found.counts)


def test_members_that_are_still_far_from_every_minimum_are_else():
    found = study(Config(restarts=100, iterations=1, **SMALL))
    assert found.counts[-1] > 50
    assert found.status == "100 unsettled"
    assert found.share.sum() == pytest.approx(1)


def test_the_surface_has_alpha_first_and_spans_the_box():
    found = study(Config(restarts=2, iterations=1, grid=7))
    x, y = found.alpha[:, None], found.beta[None, :]
    assert (x.min(), x.max(), y.min(), y.max()) == (-3, 3, -2, 2)
    expected = (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (-4 + 4 * y**2) * y**2
    np.testing.assert_allclose(found.surface, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["gd", "cnognp"])
def test_a_restart_does_not_depend_on_how_many_others_run(method):
    config = Config(method=method, restarts=3, iterations=20, members=6, **SMALL)
    few, more = study(config), study(replace(config, restarts=5))
    np.testing.assert_allclose(few.position, more.position[:3], rtol=0, atol=1e-13)
    assert np.array_equal(few.start, more.start[:3])


@pytest.mark.parametrize("method", ["pso", "cno", "pso-bfgs"])
def test_a_swarm_ends_at_the_best_point_that_it_has_seen(method):
    found = study(Config(method=method, restarts=4, iterations=15, members=5, **SMALL))
    start, end = (value(six_hump_camel, torch.tensor(z)) for z in (found.start, found.position))
    drawn = np.random.default_rng(0).uniform([-3, -2], [3, 2], size=(4, 5, 2))
    first = value(six_hump_camel, torch.from_numpy(drawn))
    assert torch.equal(start, first.min(dim=1).values)
    assert (end <= start).all()
    assert (end < start).any()
    # Each of the 15 steps judges the new points, which pso-bfgs finds by 5 gradients; the starts
    # are judged once.
    steps = 15 * (6 if method == "pso-bfgs" else 1)
    assert found.evaluations == 4 * 5 * (steps + 1)


def test_the_swarm_without_attraction_is_gradient_descent():
    config = Config(restarts=30, iterations=200, **SMALL)
    flow, descent = study(replace(config, method="egd")), study(config)
    np.testing.assert_allclose(flow.position, descent.position, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_penalty_on_the_gradient_makes_a_swarm_find_the_flattest_minimum_more_often():
    options = {"lr": 0.01, "inertia": 0.7, "cognitive": 1.5, "social": 1.5, "box": (-2.0, 6.0)}
    config = Config("f2", "cnognp", restarts=40, iterations=30, members=30, **SMALL)
    flattest = [
        int(study(replace(config, method_options=options | {"penalty": penalty})).counts[0])
        for penalty in (0.0, 0.5)
    ]
    assert flattest[1] >= flattest[0] + 8


def test_equal_configurations_give_equal_results_and_other_seeds_others():
    config = Config(method="cno", restarts=3, iterations=10, members=4, **SMALL)
    a, b, c = study(config), study(config), study(replace(config, seed=1))
    assert np.array_equal(a.position, b.position)
    assert not np.array_equal(a.start, c.start)


def test_the_result_knows_the_configuration_as_resolved():
    config = Config("f1", restarts=2, gradient_tolerance=1e-2, **SMALL)
    found = study(replace(config, iterations=10))
    assert found.provenance["configuration"] == asdict(replace(config, iterations=10).resolved())
    assert found.provenance["configuration"]["method_options"]["lr"] == 0.005
    assert (found.function, found.method, found.restarts) == ("f1", "gd", 2)


@pytest.mark.parametrize("name", ["f2", "six-hump-camel"])
def test_the_result_survives_a_file(name, tmp_path):
    found = study(Config(name, restarts=4, iterations=5, **SMALL))
    save(found, tmp_path / "stationary.h5")
    again = load(tmp_path / "stationary.h5")
    assert type(again) is type(found)
    assert np.array_equal(again.position, found.position)
    assert (again.names, again.status) == (found.names, found.status)
    assert again.provenance == found.provenance


def test_there_are_steps_for_every_function():
    assert set(STEPS) == set(CATALOGUE)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"function": "himelblau"}, "function must be one of himmelblau, .*got 'himelblau'"),
        ({"method": "newton"}, "method must be one of gd, .*got 'newton'"),
        ({"method_options": {"eta": 1}}, "option of gd must be one of lr, .*got 'eta'"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"grid": 1}, "grid must be at least 2, got 1"),
        ({"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ({"gradient_tolerance": math.nan}, "gradient_tolerance must be positive, got nan"),
    ],
)
def test_a_configuration_that_cannot_run_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Config(**given)
