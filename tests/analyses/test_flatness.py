"""Rank correlations against scipy and hand cases, their intervals by coverage, and real runs."""

from dataclasses import replace

import numpy as np
import pytest
import runs
import torch
from scipy.stats import kendalltau

from analyses.flatness import (
    Config,
    Measured,
    compared,
    hyperparameters,
    joined,
    study,
    units,
)
from analyses.rank_correlation import LEAST, correlated, holm, resamples, tau_b, telling
from analyses.trainings import NEAR, distances, half_width, medians, nearest, spread, trainings
from analyses.verdict import decided
from cnognp.tasks.problem import problem_of
from cnognp.training.config import Config as RunConfig
from cnognp.training.config import RunFolder
from cnognp.workers import results_of
from figures import flatness, sharpness, style
from figures.catalogue import figures_of
from landscape.results import Flatness, Panel, load, save, table
from landscape.sharpness import Options, panel

QUICK = Options(starts=1, steps=2, pairs=4, directions=6)


def source(seed=0):
    return np.random.default_rng(seed)


def given(
    measures, gap, group=None, run=None, names=("a", "b", "c", "d", "e"), coupled=False,
    distance=None,
):  # fmt: skip
    """Points whose panels hold these columns, all of them far apart if no distances are given."""
    measures, gap = np.asarray(measures, dtype=float), np.asarray(gap, dtype=float)
    panels = []
    for row in measures.reshape(len(gap), -1):
        k = len(row)
        arrays = {name: row for name in ("value", "error", "low", "high")}
        arrays |= {name: np.zeros(k) for name in ("evaluations", "products")}
        texts = ("kinds", "units", "radii", "notes", "invariant", "sources")
        made = {name: ("x",) * k for name in texts} | arrays
        panels.append(Panel(measures=names[:k], loss=0.0, dim=2, **made))
    n = len(gap)
    group = np.zeros(n, dtype=int) if group is None else np.asarray(group)
    run = np.arange(n) if run is None else np.asarray(run)
    points = tuple(f"p{i}" for i in range(n))
    if distance is None:
        distance = 1.0 - np.eye(n)
    return Measured(
        points, tuple(panels), np.zeros(n), gap, group, run, tuple(map(str, np.unique(run))),
        np.broadcast_to(coupled, n), distance,
    )  # fmt: skip


def correlation(x, y, group=None, run=None, count=400, confidence=0.95):
    n = len(x)
    group = np.zeros(n) if group is None else np.asarray(group)
    run = np.arange(n) if run is None else np.asarray(run)
    counts = resamples(run, count, source())
    return correlated(np.asarray(x, float), np.asarray(y, float), group, run, counts, confidence)


def test_tau_of_a_hand_case():
    # Of the ten pairs 8 go the same way and 2 do not.
    found = correlation([1, 2, 3, 4, 5], [1, 2, 4, 5, 3])
    assert found.tau == pytest.approx(0.6)
    assert found.note == "5 trainings are too few for an interval"
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("ties", [2, 3, 50])
def test_tau_equals_scipy_with_ties_and_with_every_resample(ties):
    x, y = source(1).integers(0, ties, size=(2, 15)).astype(float)
    counts = resamples(np.arange(15), 20, source(2))
    for found, count in zip(tau_b(x, y, counts), counts.astype(int), strict=True):
        truth = kendalltau(np.repeat(x, count), np.repeat(y, count)).statistic
        np.testing.assert_allclose(found, truth, rtol=1e-12)
    assert correlation(x, y).p_value == kendalltau(x, y).pvalue


def test_infinite_measures_are_the_largest_and_missing_ones_are_left_out():
    y = np.arange(8.0)
    found = correlation([0, 1, 2, 3, 4, 5, np.inf, np.nan], y)
    assert (found.tau, found.points) == (1.0, 7)


def test_tau_within_groups_does_not_see_what_the_groups_have_in_common():
    # Groups rise together, points inside them fall: Simpson's paradox.
    group = np.repeat([0, 1, 2], 3)
    x = np.array([3, 2, 1, 13, 12, 11, 23, 22, 21])
    y = np.tile([1, 2, 3], 3) + 10 * group
    found = correlation(x, y, group)
    assert found.within == -1
    assert found.tau == pytest.approx((27 - 9) / 36)
    assert found.pairs == 9


def test_tau_within_groups_is_the_mean_over_groups_weighted_by_pairs():
    x, y = source(3).normal(size=(2, 12))
    group = np.repeat([0, 1, 2], [3, 4, 5])
    taus = [kendalltau(x[group == g], y[group == g]).statistic for g in range(3)]
    assert correlation(x, y, group).within == pytest.approx(np.average(taus, weights=[3, 6, 10]))


def test_no_two_points_of_one_group_leave_no_tau_within():
    found = correlation(range(8), range(8), group=range(8))
    assert found.pairs == 0
    assert np.isnan([found.within, found.within_low, found.within_high]).all()


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_intervals_cover_the_true_tau(rho):
    """Of normal pairs of correlation rho tau is 2 / pi asin(rho); 150 samples of 30 points."""
    draws = source(4).normal(size=(150, 2, 30))
    truth, hits = 2 / np.pi * np.arcsin(rho), 0
    for a, b in draws:
        found = correlation(a, rho * a + np.sqrt(1 - rho**2) * b, count=200)
        hits += found.low < truth < found.high
    # Four standard errors of 150 draws are 7 points; a percentile interval may be 2 short.
    assert 0.86 < hits / 150 < 0.99


def test_points_that_share_a_run_are_drawn_together():
    """Runs of four equal points: drawing points would make the interval far too narrow."""
    shared = source(5).normal(size=(60, 2, 12))
    run = np.repeat(np.arange(12), 4)
    hits, naive = 0, 0
    for a, b in shared:
        noise = 1e-3 * source(6).normal(size=(2, 48))
        x, y = a[run] + noise[0], b[run] + noise[1]
        found, alone = correlation(x, y, run=run, count=200), correlation(x, y, count=200)
        hits += found.low < 0 < found.high
        naive += alone.low < 0 < alone.high
    assert hits / 60 > 0.8
    assert naive / 60 < 0.7


def test_few_runs_have_no_interval_however_many_points_they_have():
    run = np.repeat(np.arange(LEAST - 1), 10)
    found = correlation(source(7).normal(size=50), source(8).normal(size=50), run=run)
    assert found.note == "5 runs are too few for an interval"
    assert np.isnan([found.low, found.p_value]).all()
    assert np.isfinite(found.tau)


def test_one_odd_run_says_nothing_however_many_points_it_has():
    """Any of six runs is the odd one with the largest gap in one of three samples of noise."""
    run = np.repeat(np.arange(6), 4)
    found = correlation(1.0 * (run == 5), run + 0.01 * source(7).normal(size=24), run=run)
    assert found.low <= 0 < found.tau < found.high
    assert found.p_value > 1 / 3
    assert not telling([found], 0.95)[1].any()


def test_a_perfect_order_of_runs_is_as_likely_as_a_permutation_of_them():
    run = np.repeat(np.arange(6), 4)
    assert correlation(run, run, run=run, count=2000).p_value == pytest.approx(2 / 720)


@pytest.mark.parametrize(
    "x, y, note",
    [
        ([1, 2], [1, 2], "2 trainings are too few for a correlation"),
        ([np.nan] * 9, range(9), "0 trainings are too few for a correlation"),
        ([4] * 9, range(9), "the measure is the same in every training"),
        (range(9), [4] * 9, "the gap is the same in every training"),
    ],
)
def test_what_has_no_order_has_no_tau_and_says_why(x, y, note):
    found = correlation(x, y)
    assert found.note == note
    assert np.isnan(found.tau)


def test_a_correction_for_many_tests_keeps_their_order_and_never_lowers_a_p_value():
    p = source(9).uniform(size=20) ** 3
    corrected = holm(p)
    assert (corrected >= p).all() and (corrected <= 1).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert corrected.min() == pytest.approx(20 * p.min())


def test_only_the_measure_that_follows_the_gap_is_said_to_say_something():
    gap = source(10).normal(size=30)
    noise = source(11).normal(size=(30, 4))
    columns = np.column_stack([gap + 0.2 * noise[:, 0], -gap, *noise[:, 1:].T])
    found = compared(given(columns, gap), Config())
    assert found.says.tolist() == [True, True, False, False, False]
    assert found.tau[1] == -1
    assert "a rises with the gap (tau " in found.conclusion
    assert "b falls with the gap (tau -1.00, -1.00 to -1.00" in found.conclusion
    assert "The other 3 do not. Says something means: the 95 % interval" in found.conclusion
    nothing = compared(given(noise[:, 1:], gap), Config())
    assert nothing.conclusion.startswith(
        "Over 30 independent trainings in 30 runs, no measure says anything"
    )


@pytest.mark.slow
def test_pure_noise_is_taken_for_something_in_at_most_the_promised_share_of_studies():
    """Twelve measures in each of 40 studies of 12 points: the error rate of all together."""
    wrong = 0
    for seed in range(40):
        gap, columns = source(seed).normal(size=12), source(1000 + seed).normal(size=(12, 12))
        found = [correlation(column, gap, count=200) for column in columns]
        wrong += telling(found, 0.95)[1].any()
    # 5 % of 40 and four standard errors; without the correction it would be 18.
    assert wrong <= 7


def test_a_larger_metric_is_better_and_a_larger_loss_is_worse():
    held_out = np.arange(8.0)
    points = given(np.arange(8.0)[:, None], held_out)
    assert compared(points, Config()).gap.tolist() == held_out.tolist()
    assert compared(points, Config(criterion="accuracy")).tau.tolist() == [-1]


def test_measures_that_some_points_lack_are_left_out_there():
    many, few = (
        given(source(12).normal(size=(5, 2)), np.arange(5)),
        given(np.ones((4, 1)), range(4)),
    )
    mixed = Measured(
        many.points + few.points, many.panels + few.panels, np.zeros(9), np.arange(9.0),
        np.zeros(9, dtype=int), np.arange(9), tuple(map(str, range(9))), np.zeros(9, dtype=bool),
        1.0 - np.eye(9),
    )  # fmt: skip
    found = compared(mixed, Config())
    assert found.measures == ("a", "b")
    assert found.count.tolist() == [9, 5]
    assert np.isnan(found.value[5:, 1]).all()


def test_members_of_one_run_that_know_nothing_of_each_other_are_trainings_of_their_own():
    gap = np.arange(9.0)
    found = compared(given(gap, gap, run=np.zeros(9)), Config())
    assert (found.resampled, found.training.tolist()) == ("trainings", list(range(9)))
    assert decided(found) and found.says.all()
    assert found.conclusion.startswith("Over 9 independent trainings in 1 run, these measures say")


def test_a_swarm_is_one_training_however_many_members_order_themselves():
    """Twenty members on the way to one point: the measure falls with the gap without exception."""
    gap = np.arange(20.0)
    found = compared(given(-gap, gap, run=np.zeros(20), coupled=True), Config())
    assert not decided(found) and not found.says.any()
    assert np.isnan([found.tau, found.p_value, found.p_holm]).all()
    assert found.count.tolist() == [1]
    assert found.notes == ("1 training is too few for a correlation",)
    assert found.conclusion.startswith("No conclusion: 1 independent training is too few, 6 are")
    assert "The 20 points are of 1 independent training in 1 run" in found.conclusion
    assert "such as sgd or adam" in found.conclusion
    assert "say something" not in found.conclusion


def test_points_that_nearly_coincide_are_one_training_whatever_run_they_are_of():
    line = np.concatenate([1 + 0.3 * NEAR * np.arange(5), 2 + np.arange(5)])
    apart = np.abs(np.subtract.outer(line, line))
    kinds = trainings(np.arange(10), np.zeros(10, dtype=bool), apart)
    assert kinds.tolist() == [0] * 5 + [1, 2, 3, 4, 5]
    found = compared(given(line, line, distance=apart), Config())
    assert found.count.tolist() == [6] and decided(found)
    assert not decided(compared(given(line[:9], line[:9], distance=apart[:9, :9]), Config()))


def test_a_swarm_counts_beside_single_trainings_and_joins_what_comes_near():
    run = np.array([0, 0, 1, 2, 2, 3])
    coupled = np.array([True, True, False, False, False, True])
    apart = 1.0 - np.eye(6)
    assert trainings(run, coupled, apart).tolist() == [0, 0, 1, 2, 3, 4]
    apart[1, 2] = apart[2, 1] = 0.0
    apart[5, 2] = apart[2, 5] = 0.1 * NEAR
    assert trainings(run, coupled, apart).tolist() == [0, 0, 0, 1, 2, 0]


def test_a_training_counts_once_with_the_median_of_its_points():
    value = np.array([1.0, 3.0, 9.0, 4.0, 8.0, np.nan])
    gap = np.array([0.0, 1.0, 5.0, 2.0, 4.0, 6.0])
    run, coupled = np.array([0, 0, 0, 1, 1, 2]), True
    found = compared(given(value, gap, run=run, coupled=coupled), Config())
    assert medians(value, found.training).tolist()[:2] == [3.0, 6.0]
    assert found.count.tolist() == [2]
    assert found.spread[0] == pytest.approx(np.std(value[:5], ddof=1))
    assert medians(np.array([1.0, np.inf, np.inf]), np.zeros(3)).tolist() == [np.inf]


def test_distances_are_relative_to_the_larger_norm():
    made = torch.Generator(device="cpu").manual_seed(0)
    base = torch.randn(40, generator=made)
    points = [base, base * (1 + 1e-5), -base, torch.zeros(40), torch.ones(3)]
    found = distances(points)
    assert found[0, 1] == pytest.approx(1e-5, rel=1e-2)
    assert found[0, 2] == pytest.approx(2.0)
    assert found[0, 3] == pytest.approx(1.0)
    assert np.isinf(found[:4, 4]).all() and (np.diag(found) == 0).all()
    assert (found == found.T).all()
    assert nearest(found)[:2].tolist() == [found[0, 1]] * 2
    assert np.isnan(nearest(distances([base]))).all()


def test_the_conclusion_says_how_far_points_and_measures_are_apart_beside_their_errors():
    gap = np.arange(8.0)
    points = given(np.column_stack([gap, 100 * gap]), gap)
    panels = [replace(p, low=p.value - 10, high=p.value + 10) for p in points.panels]
    found = compared(points._replace(panels=tuple(panels)), Config())
    assert found.own_error.tolist() == [10.0, 10.0]
    assert found.spread[0] == pytest.approx(np.std(gap, ddof=1))
    assert "The nearest other point is 1 of the norm away (median; 1 to 1)" in found.conclusion
    assert "No wider apart than their own errors: a." in found.conclusion
    assert np.isnan(half_width(gap, np.full(8, np.inf))) and np.isnan(spread(np.array([np.inf])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs_of", "members", "coupled"),
    [(1, 20, False), (6, 8, True), (12, 5, True), (6, 8, False), (10, 4, False)],
)
def test_points_without_any_relation_are_concluded_from_at_most_as_often_as_promised(
    runs_of, members, coupled
):
    """Each run draws measure and gap apart, and its members order themselves alike in both.

    Two measures in each of 100 studies; what members of a coupled run have in common has nothing
    to do with what runs have.
    """
    run = np.repeat(np.arange(runs_of), members)
    wrong = 0
    for seed in range(100):
        drawn = source(seed)
        gap, *columns = drawn.normal(size=(3, runs_of))[:, run]
        own = drawn.normal(size=len(run))
        together = own if coupled else drawn.normal(size=(3, len(run)))
        shared = np.broadcast_to(together, (3, len(run)))
        strength = 0.3 if runs_of > 1 else 1.0
        points = given(
            np.column_stack([columns[k] + strength * shared[k] for k in range(2)]),
            gap + strength * shared[2], run=run, coupled=coupled,
        )  # fmt: skip
        wrong += compared(points, Config(resamples=200)).says.any()
    # 5 % of 100 and three standard errors.
    assert wrong <= 5 + 3 * np.sqrt(100 * 0.05 * 0.95)


def test_one_dependent_population_is_never_concluded_from():
    """What the old study did: members on a line, measure and gap functions of how far along."""
    for seed in range(20):
        along = 1e-5 * source(seed).normal(size=20)
        points = given(
            np.column_stack([1 + along, 2 - along**3]), 0.3 - along, run=np.zeros(20), coupled=True
        )
        found = compared(points, Config(resamples=100))
        assert not found.says.any() and not decided(found)


def test_six_swarms_of_a_true_relation_are_concluded_from():
    run = np.repeat(np.arange(9), 5)
    noise = 0.1 * source(17).normal(size=(2, 45))
    points = given(run + noise[0], run + noise[1], run=run, coupled=True)
    found = compared(points, Config())
    assert decided(found) and found.says.tolist() == [True]
    assert found.count.tolist() == [9]


def test_members_that_are_not_finite_are_left_out_and_counted():
    points = given(source(13).normal(size=(9, 1)), np.arange(9))
    said = compared(points._replace(lost=2), Config()).conclusion
    assert "Members with numbers that are not finite, left out: 2." in said


def test_a_study_survives_a_file_and_a_table(tmp_path):
    found = compared(given(source(14).normal(size=(9, 3)), np.arange(9)), Config())
    save(found, tmp_path / "flatness.h5")
    assert repr(table(load(tmp_path / "flatness.h5"))) == repr(table(found))
    assert [row["measure"] for row in table(found)] == ["a", "b", "c"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "entries, message",
    [
        ({"runs": ("a", "a")}, "runs must be different folders"),
        ({"runs": "runs/wine"}, "runs must be different folders in a tuple"),
        ({"measures": ("depth",)}, "measures must be some of lambda-max, .*got 'depth'"),
        ({"split": "train"}, "split must be test or validation, got 'train'"),
        ({"resamples": 10}, "resamples must be at least 100, got 10"),
        ({"confidence": 95}, "confidence must lie between 0.5 and 1, got 95"),
    ],
)
def test_a_configuration_that_cannot_run_is_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        Config(**entries)


def test_points_that_do_not_fit_together_are_refused():
    points = given(np.ones((4, 1)), range(4))
    with pytest.raises(ValueError, match="as many entries as panels, 4, .*'train': 3"):
        compared(points._replace(train=np.zeros(3)), Config())
    with pytest.raises(ValueError, match="runs must name at least one folder"):
        study(Config())


# -------------------------------------------------------------------------------- pictures


def drawn_text(figure):
    return " ".join(
        text.get_text()
        for text in figure.findobj(lambda a: hasattr(a, "get_text"))
        if text.get_text()
    )


def test_the_picture_of_a_study_shows_tau_with_its_interval_from_high_to_low():
    gap = source(15).normal(size=20)
    found = compared(
        given(np.column_stack([-gap, gap**3, source(16).normal(size=20)]), gap), Config()
    )
    figures = figures_of(found)
    assert sorted(figures) == ["gaps", "tau"]
    ax = style.new_figure().add_subplot()
    artists = sharpness.tau(found, ax)
    line, _, (bars,) = artists["all"]
    order = [1, 2, 0]
    np.testing.assert_allclose(line.get_xdata(), found.tau[order])
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.column_stack([found.tau_low, found.tau_high])[order])
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "b (n = 20)", "c (n = 20)", "a (n = 20)",
    ]  # fmt: skip
    assert artists["says"].get_xdata().tolist() == [1, -1]
    assert "within" not in artists


def test_the_picture_of_gaps_has_every_finite_point():
    values = np.array([[1, np.nan], [2, np.inf], [3, np.nan], [5, np.nan]])
    found = compared(given(values, [0.4, 0.1, 0.3, np.nan]), Config())
    axes = style.new_figure().subplots(1, 2)
    artists = sharpness.gaps(found, axes)
    assert list(artists) == ["a"]
    points = np.concatenate([bars[0].get_xydata() for bars in artists["a"]])
    assert sorted(map(tuple, points.tolist())) == [(0.1, 2), (0.3, 3), (0.4, 1)]
    assert not axes[1].get_visible()


def test_studies_and_panels_with_nothing_to_show_say_so():
    nothing = compared(given(np.full((2, 1), np.nan), [1, 2]), Config())
    figures = figures_of(nothing)
    assert "no measure has a correlation" in drawn_text(figures["tau"])
    assert "no measure has a finite value" in drawn_text(figures["gaps"])
    assert "no measure has a value" in drawn_text(figures_of(nothing_at_all())["panel"])
    with pytest.raises(ValueError, match="at least one panel is needed"):
        flatness.panels({})


def nothing_at_all():
    return given(np.full((1, 2), np.nan), [1]).panels[0]


def test_the_picture_of_several_panels_has_one_axis_a_unit_and_a_mark_a_point():
    first, second = given([[1, 2, np.nan], [4, np.inf, np.nan]], [1, 2]).panels
    results = {"flat": first, "sharp": second}
    assert sharpness.units(list(results.values())) == {"x": ["a", "b"]}
    ax = style.new_figure().add_subplot()
    artists = sharpness.panels(results, [ax])
    assert artists["flat"][0][0].get_xdata().tolist() == [1, 2]
    assert artists["sharp"][0][0].get_xdata().tolist() == [4]
    assert artists["sharp"][1].get_text() == "∞"
    assert "sharp" in drawn_text(flatness.panels(results))


# ------------------------------------------------------------------------------ real runs


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    """Two runs of equal hyper-parameters, and one of others."""
    forks, folder = runs.forks(), tmp_path_factory.mktemp("runs")
    for name, *more in (("one",), ("two", "--seed", 1), ("other", "--method.penalty", 0.3)):
        assert forks(runs.train(folder / name, *more, members=3, iterations=4))[0].code == 0
    return folder


@pytest.mark.slow
def test_a_study_of_runs_takes_every_member_and_its_own_gap(wine):
    paths = tuple(str(wine / name) for name in ("one", "two", "other"))
    seen = []
    config = Config(runs=paths, measures=("sam", "gradient-norm"), options=QUICK)
    found = study(config, lambda *told: seen.append(told))
    assert isinstance(found, Flatness)
    assert seen == [*((name, k, 9) for k, name in enumerate(found.points)), ("", 9, 9)]
    # Three swarms of three members.
    assert found.training.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert found.count.tolist() == [3, 3] and not decided(found)
    assert ((0 < found.nearest) & (found.nearest < 2)).all()
    assert found.points[3] == "two member000"
    assert found.run.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert found.group.tolist() == [0] * 6 + [1] * 3
    assert found.resampled == "trainings"
    assert set(found.notes) == {"3 trainings are too few for an interval"}
    assert found.pairs.tolist() == [1] * 2
    folder = RunFolder(wine / "two")
    problem = problem_of(folder.config())
    z = torch.as_tensor(folder.newest()[0].arrays["state/position"][0], device="cpu")
    metrics = problem.metrics(z)
    assert found.gap[3] == metrics["test"]["loss"] - metrics["train"]["loss"]
    assert found.value[3].tolist() == panel(
        problem.at(z), z, only=config.measures, options=QUICK
    ).value.tolist()  # fmt: skip


@pytest.mark.slow
def test_members_measured_one_by_one_make_the_same_study(wine, tmp_path):
    paths = tuple(str(wine / name) for name in ("one", "other"))
    config = Config(runs=paths, measures=("sam", "gradient-norm"), options=QUICK, resamples=100)
    parts = units(config)
    assert len(parts) == 6 and len({part.argument.digest for part in parts}) == 6
    apart = joined(config, results_of(parts, tmp_path))["flatness"]
    for name, entry in vars(study(config)).items():
        if name != "provenance":
            np.testing.assert_array_equal(entry, getattr(apart, name))
    # Another bootstrap asks for the same panels.
    again = units(replace(config, resamples=200))
    assert [repr(unit.argument) for unit in again] == [repr(unit.argument) for unit in parts]


@pytest.mark.slow
def test_a_study_of_one_small_population_has_every_measure(wine):
    found = study(Config(runs=(str(wine / "one"),), options=QUICK, criterion="accuracy"))
    assert found.value.shape == (3, len(found.measures))
    lost = {"interval-mean", "interval-max"}
    for name, note in zip(found.measures, found.notes, strict=True):
        expected = "0 trainings are too few for a correlation" if name in lost else None
        assert note == expected or (name not in lost and note)
    with pytest.raises(ValueError, match="one of loss, accuracy, macro_f1, got 'depth'"):
        study(Config(runs=(str(wine / "one"),), criterion="depth"))


def test_runs_that_differ_in_how_they_were_computed_make_one_group():
    first = RunConfig("wine", "gd", members=3, seed=1)
    again = RunConfig("wine", "gd", members=3, seed=2, record_curvature=10, checkpoint_every=5)
    other = RunConfig("wine", "gd", members=3, seed=1, method_options={"lr": 0.5})
    assert hyperparameters(first) == hyperparameters(again) != hyperparameters(other)


def test_what_is_below_the_noise_is_hollow_without_an_arrow_and_said_so():
    (made,) = given([[1.0, 2.0, 3.0]], [1]).panels
    kinds, high = ("lower bound", "unresolved", "exact"), np.array([np.inf, np.inf, 3.1])
    errors = {"error": np.array([0.5, 4.0, 1e-9]), "low": np.array([0.5, 0.0, 2.9]), "high": high}
    result = replace(made, kinds=kinds, **errors)
    ax = style.new_figure().subplots()
    drawn = sharpness.panels({"here": result}, [ax])["here"]
    filled, hollow = (bars.lines[0] for bars in drawn[:2])
    assert filled.get_xdata().tolist() == [1.0, 3.0] and hollow.get_xdata().tolist() == [2.0]
    assert hollow.get_markerfacecolor() == "white" != filled.get_markerfacecolor()
    assert [text.get_text() for text in ax.texts] == ["→"]
    assert "below the noise" in drawn_text(flatness.panels({"here": result}))
    assert "below the noise" not in drawn_text(flatness.panels({"here": made}))
    ((_, _, rows),) = result.tables()
    assert [row[2] for row in rows] == ["lower bound, ± 0.5", "unresolved, ± 4", "exact"]
    assert result.said()[0] == "3 of 3 measures defined"
