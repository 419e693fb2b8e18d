"""The table of stationary distributions, against seeded counts, symmetry and closed forms."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import chi2, chisquare

from analyses import outcomes, stationary
from analyses.basins import BASINS
from analyses.distribution import Config, distribution, maps, measured, study
from analyses.outcomes import order
from analyses.published import (
    LABELS,
    NAMES,
    PUBLISHED,
    PUBLISHED_SUMS,
    RELABELLED,
    compared,
    mirrored,
)
from analyses.restarts import starts, walk
from analyses.tabulation import Cell, tabulated
from cnognp import METHODS
from cnognp.cli.main import main
from cnognp.run import run
from figures import catalogue
from landscape.functions import CATALOGUE, himmelblau, six_hump_camel
from landscape.objective import value
from landscape.results import Distribution, load, save

GOLDEN = {
    "himmelblau": [130, 154, 96, 120, 0],
    "three-hump-camel": [165, 142, 193, 0],
    "six-hump-camel": [96, 107, 82, 110, 48, 57, 0],
}
TWO = Config(
    methods=("gd", "sam"), functions=("himmelblau", "six-hump-camel"), restarts=20, budget=400
)


@pytest.fixture(scope="module")
def descent():
    return study(Config(methods=("gd",)))


@pytest.fixture(scope="module")
def cells():
    return measured(TWO)


@pytest.fixture(scope="module")
def small(cells):
    return distribution(TWO, cells)


def row(function, method, **given):
    return stationary.study(stationary.Config(function, method, **{"grid": 2, **given}))


def test_gradient_descent_has_the_known_counts_on_all_three_functions(descent):
    assert descent.counts[0].tolist() == sum(GOLDEN.values(), [])
    assert descent.evaluations[0].tolist() == [1500, 4000, 1500]
    assert (descent.moved == 0).all()


def test_p_values_are_those_of_pearsons_test_against_the_areas_of_the_basins(descent):
    for k, (name, counts) in enumerate(GOLDEN.items()):
        expected = 500 * np.array(BASINS[name]) / sum(BASINS[name])
        statistic = ((np.array(counts[:-1]) - expected) ** 2 / expected).sum()
        assert chisquare(counts[:-1], expected).statistic == pytest.approx(statistic)
        assert descent.p_value[0, k] == pytest.approx(chisquare(counts[:-1], expected).pvalue)


def test_mirror_images_are_tested_where_the_function_has_some(descent):
    assert math.isnan(descent.mirror_p[0, 0])
    statistic = (142 - 193) ** 2 / (142 + 193)
    assert descent.mirror_p[0, 1] == pytest.approx(math.erfc(math.sqrt(statistic / 2)))
    pairs = [(96, 107), (82, 110), (48, 57)]
    statistic = sum((a - b) ** 2 / (a + b) for a, b in pairs)
    assert descent.mirror_p[0, 2] == pytest.approx(chi2.sf(statistic, 3))


@pytest.mark.parametrize("method", ["gd", "sam", "adam"])
def test_a_method_without_randomness_takes_mirrored_starts_to_mirrored_minima(method):
    plan = stationary.Config("six-hump-camel", method, restarts=40).resolved().plan()
    plan = plan._replace(iterations=150)
    made = METHODS[method](**stationary.Config("six-hump-camel", method).resolved().method_options)
    start = starts(six_hump_camel, 0, 40)
    ends = []
    for begin in (start, -start):
        *_, (state, _) = walk(six_hump_camel, made, begin, plan)
        ends.append(outcomes.labels(six_hump_camel, state.position.numpy(), 1.0))
    mirrored = np.array([1, 0, 3, 2, 5, 4, 6])
    assert np.array_equal(mirrored[ends[0]], ends[1])


def test_maps_and_table_are_made_of_what_was_measured(cells, small):
    shown = maps(cells)
    assert [map.function for map in shown] == list(TWO.functions)
    for k, map in enumerate(shown):
        here = small.function == k
        counts = [np.bincount(row, minlength=here.sum()) for row in map.label]
        assert np.array_equal(counts, small.counts[:, here])
        assert map.position.shape == (2, 20, 2)
        assert map.methods == ("GD", "SAM")


def test_restarts_of_sam_that_reach_no_minimum_are_said_to_be_at_saddles():
    config = Config(("six-hump-camel",), ("sam",), restarts=100, budget=300, rho=0.5, lr=0.01)
    found = measured(config)["six-hump-camel"][0]
    lost = found.position[found.label == 6]
    points = (*six_hump_camel.saddles, *six_hump_camel.maxima)
    others = np.array([point.point for point in points])
    beside = (np.linalg.norm(lost[:, None] - others, axis=2) < 0.1).any(axis=1).sum()
    assert beside > 5
    note = f"{beside} of the {len(lost)} restarts of SAM at no minimum end beside a saddle"
    assert any(note in told for told in distribution(config, {"six-hump-camel": [found]}).notes)


def test_deviations_from_the_published_row_are_standard_errors_of_a_difference(descent):
    ours, theirs = 130 / 500, 0.28
    pooled = (ours + theirs) / 2
    expected = (ours - theirs) / math.sqrt(pooled * (1 - pooled) * 2 / 500)
    assert descent.deviation[0, 0] == pytest.approx(expected)
    assert descent.deviation[0, 4] == 0


def test_the_published_six_hump_row_disagrees_as_labelled_and_mostly_agrees_relabelled(descent):
    here = descent.function == 2
    assert (np.abs(descent.deviation[0, here]) > 3).sum() == 5
    assert (np.abs(descent.deviation_relabelled[0, here]) > 3).sum() == 3
    assert any("A hypothesis" in note for note in descent.notes)
    assert (np.abs(descent.deviation[0, ~here]) < 3).all()


def test_what_is_not_in_the_published_table_stays_unknown(small):
    assert np.isfinite(small.published).all() and np.isfinite(small.deviation).all()
    other = compared([six_hump_camel], ["adam"], np.full((1, 7), 1 / 7), 10)
    assert np.isnan(other["published"]).all()


def test_every_cell_is_there_and_most_rows_are_whole():
    odd = {}
    for function, rows in PUBLISHED.items():
        assert len(LABELS[function]) == len(CATALOGUE[function].minima) + 1
        assert list(rows) == list(NAMES)
        for method, cells in rows.items():
            assert len(cells) == len(LABELS[function]) and np.isfinite(cells).all()
            if PUBLISHED_SUMS[function][method] != 100:
                odd[function, method] = PUBLISHED_SUMS[function][method]
    methods = {"nim": 98.995, "sam": 100.61, "nig-bh": 99.75, "nim-bh": 100.25, "nim-mbh": 96}
    assert odd == {("six-hump-camel", method): total for method, total in methods.items()}
    assert PUBLISHED["six-hump-camel"]["gd"] == (4.25, 23.5, 22.75, 17.25, 1.5, 10.25, 20.5)
    for function, labels in RELABELLED.items():
        assert sorted(labels) == sorted(LABELS[function])


def test_only_two_published_columns_can_be_mirror_images():
    found = mirrored("six-hump-camel")
    assert len(found) == 15
    rows = np.array(list(PUBLISHED["six-hump-camel"].values()))
    tables = [5 * rows[:, list(pair)] for pair in found]
    # Against Pearson's statistic of each row, with equal shares expected.
    expected = [sum(chisquare(row).statistic for row in table) for table in tables]
    np.testing.assert_allclose(list(found.values()), expected)
    alike = [pair for pair, statistic in found.items() if chi2.sf(statistic, 8) > 0.01]
    assert alike == [(1, 2)]


def test_both_orders_of_flatness_are_those_of_the_declared_eigenvalues(descent):
    himmelblau = descent.outcomes[:5]
    assert himmelblau == ("A", "B", "C", "D", "else")
    assert descent.order_largest[:5].tolist() == [1, 2, 3, 0, -1]
    assert descent.order_trace[:5].tolist() == [0, 1, 3, 2, -1]
    for places in (descent.order_largest, descent.order_trace):
        assert places[5:9].tolist() == [0, 1, 1, -1]
        assert places[9:].tolist() == [1, 1, 2, 2, 0, 0, -1]
    assert order(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2, 0, 2, 1]


def test_the_flattest_share_is_that_of_the_flattest_minima_together(descent):
    flattest = np.array([[120, 130], [165, 165], [105, 105]]) / 500
    np.testing.assert_allclose(descent.flattest[0], flattest, rtol=0, atol=1e-15)
    assert (descent.flattest_low < descent.flattest).all()
    assert (descent.flattest_high > descent.flattest).all()


def test_moved_counts_restarts_that_end_elsewhere_than_those_of_the_first_method(small):
    first, second = (
        row("himmelblau", name, restarts=20, budget=400).label for name in ("gd", "sam")
    )
    assert small.moved[0].tolist() == [0, 0]
    assert small.moved[1, 0] == (first != second).mean()


@pytest.mark.parametrize(
    "method", ["gd", *(pytest.param(m, marks=pytest.mark.slow) for m in ("nig", "nim", "nig-bh"))]
)
def test_mirror_images_get_equal_shares_within_sampling_error(method):
    found = row("six-hump-camel", method, restarts=1000, seed=5)
    first, second = found.counts[:-1:2], found.counts[1:-1:2]
    # The difference of two multinomial counts has the variance of their sum, at most.
    assert (np.abs(first - second) < 4 * np.sqrt(first + second)).all()


def test_sam_ends_outside_the_tolerance_where_its_two_cycle_is_wider():
    options = {"lr": 0.01, "rho": 0.05}
    found = row("himmelblau", "sam", restarts=1000, method_options=options, iterations=500)
    # 11.7 % of 2,000 starts; four standard errors of the difference from 1,000.
    error = 4 * math.sqrt(0.117 * 0.883 * (1 / 1000 + 1 / 2000))
    assert found.share[-1] == pytest.approx(0.117, abs=error)
    # On the quadratic at C the half-amplitude is just beyond the tolerance of 0.1.
    assert 0.05 * 0.01 * 133.7856152130671 / (2 - 0.01 * 133.7856152130671) > 0.1
    lost = found.position[found.label == 4]
    distance = np.linalg.norm(lost - found.points[2], axis=1)
    assert (distance < 0.12).mean() > 0.95


def test_only_monotone_hopping_never_ends_above_its_first_minimum():
    def heights(method, hops):
        options = {"rho": 2.0, "lr": 0.01, "tau": 100}
        given = {"restarts": 60, "method_options": options, "iterations": hops}
        return value(six_hump_camel, torch.tensor(row("six-hump-camel", method, **given).position))

    assert (heights("nim-mbh", 6) <= heights("nim-mbh", 1)).all()
    assert (heights("nim-bh", 6) > heights("nim-bh", 1) + 0.1).any()


def test_large_hops_empty_the_shallowest_pair_first():
    found = row("six-hump-camel", "nim-bh", method_options={"rho": 0.5, "lr": 0.01}, budget=800)
    high = found.share[4:6]
    assert (high < 0.05).all()
    assert (found.share[:4] > 0.15).all()
    # Basins alone would give 12.4 % each.
    assert found.high[4:6].max() < 0.124


@pytest.mark.parametrize("method", ["nim-bh", "nig-mbh", "nim"])
def test_a_budget_ends_each_restart_with_the_step_that_reaches_it(method):
    found = row("six-hump-camel", method, restarts=20, budget=60)
    tau = 6
    assert 20 * 60 <= found.evaluations <= 20 * (60 + tau + 2)
    assert found.provenance["configuration"]["method_options"]["tau"] == tau


def test_a_step_of_sam_costs_two_evaluations_of_a_budget():
    found = row("himmelblau", "sam", restarts=10, budget=50)
    same = row("himmelblau", "sam", restarts=10, iterations=25)
    assert found.evaluations == same.evaluations == 500
    assert np.array_equal(found.position, same.position)


def test_a_restart_stays_where_its_own_budget_ended():
    budget, tau = 150, 60
    options = {"lr": 0.01, "rho": 0.05, "tau": tau}
    found = row("himmelblau", "nim-bh", restarts=20, budget=budget, method_options=options)
    stream, generator = itertools.repeat(himmelblau, budget), torch.Generator("cpu").manual_seed(0)
    steps = run(METHODS["nim-bh"](**options), stream, torch.tensor(found.start), generator)
    states = list(itertools.takewhile(lambda s: s[0].evaluations.min() < 3 * budget, steps))
    used = torch.stack([state.evaluations for state, _ in states])
    assert len(set((used >= budget).int().argmax(dim=0).tolist())) > 1
    for member in range(20):
        first = int((used[:, member] >= budget).int().argmax())
        assert np.array_equal(found.position[member], states[first][0].position[member].numpy())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_with_its_defaults_on_a_function(method):
    config = stationary.Config("six-hump-camel", method).resolved()
    short = {} if config.budget else {"iterations": min(config.iterations, 40)}
    config = replace(config, restarts=6, members=5, grid=2, **short)
    if config.budget:
        config = replace(config, budget=200)
    found = stationary.study(config)
    assert found.counts.sum() == 6
    assert np.isfinite(found.position).all()
    assert found.evaluations >= 6


def test_counts_of_nothing_at_a_minimum_have_no_p_value():
    cells = [[Cell(np.array([0, 0, 0, 0, 7]), 70, 7, 0)]]
    fields = tabulated([CATALOGUE["himmelblau"]], cells)
    assert np.isnan(fields["p_value"]).all()
    assert fields["share"][0].tolist() == [0, 0, 0, 0, 1]
    assert fields["evaluations"].tolist() == [[10]]


def test_the_legend_of_a_single_function_is_within_its_picture():
    config = Config(functions=("himmelblau",), methods=("gd",), restarts=5)
    figure = catalogue.figures_of(study(config))["shares"]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.legends[0].get_window_extent(canvas.get_renderer())
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_the_result_survives_a_file(small, tmp_path):
    save(small, tmp_path / "table.h5")
    again = load(tmp_path / "table.h5")
    assert type(again) is Distribution
    assert np.array_equal(again.published, small.published, equal_nan=True)
    assert (again.methods, again.notes) == (("GD", "SAM"), small.notes)
    assert again.conclusion.startswith("From the same starts")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"methods": ()}, r"methods must be different names, at least one, got \(\)"),
        ({"functions": ("himmelblau",) * 2}, "functions must be different names"),
        ({"methods": ("newton",)}, "method must be one of gd, .*got 'newton'"),
        ({"functions": ("himelblau",)}, "function must be one of himmelblau, "),
        ({"budget": 0}, "budget must be at least 1, got 0"),
    ],
)
def test_a_configuration_that_cannot_run_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Config(**given)


def test_the_pictures_show_the_shares_and_what_is_published(descent):
    shown = catalogue.figures_of(descent)
    assert sorted(shown) == ["flattest", "shares"]
    bars = shown["shares"].axes
    heights = [bar.get_height() for ax in bars for bar in ax.patches]
    np.testing.assert_allclose(heights, 100 * descent.share[0], rtol=0, atol=1e-12)
    printed = [
        line.get_ydata() for ax in bars for line in ax.lines if line.get_label() == "published"
    ]
    np.testing.assert_allclose(np.concatenate(printed), 100 * descent.published[0])
    points = shown["flattest"].axes[0].lines[0].get_xdata()
    np.testing.assert_allclose(points, [100 * 120 / 500])


@pytest.mark.slow
def test_the_command_prints_one_object_with_the_table_and_draws_it(tmp_path, capsys):
    given = ["--functions", "himmelblau", "--restarts", "3"]
    argv = ["study", "distribution", *given, "--json", "--out", str(tmp_path)]
    assert main(argv) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["methods"]) == list(NAMES.values())
    gd = told["methods"]["GD"]
    assert sum(gd["counts"].values()) == 3
    assert gd["published"]["himmelblau A"] == 0.28
    assert told["methods"]["NiG-GD"]["published"]["himmelblau B"] == 0.23
    assert math.isclose(gd["flattest"]["himmelblau"]["trace"]["share"], gd["share"]["himmelblau A"])
    assert (tmp_path / "figures" / "distribution-shares.png").exists()
    assert (tmp_path / "figures" / "himmelblau-maps.png").exists()
    assert isinstance(load(tmp_path / "analysis" / "distribution.h5"), Distribution)
