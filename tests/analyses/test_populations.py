"""Populations of trajectories: sets, budgets, tests as published and exact ones, the search."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from analyses import claims, populations
from analyses.published import MEDIANS
from cnognp.workers import results_of
from landscape.results import load, save
from landscape.results.populations import Course, Populations

SMALL = populations.Config(
    methods=("sgd", "sam", "nim-bh", "cnognp"), trajectories=2, points=3, passes=8, trials=2,
    trial_passes=4, held=100, tau=3,
)  # fmt: skip
SPLITS = ("train", "validation", "test")


def trajectory(method, number, value, rate=0.1, epoch=None, seconds=1.0):
    """One with given numbers (point, split, measure)."""
    value = np.asarray(value, float)
    epoch = np.arange(1, len(value) + 1) if epoch is None else np.asarray(epoch)
    return Course(
        task="cifar10", method=method, number=number, splits=SPLITS, measures=("loss", "accuracy"),
        epoch=epoch, passes=epoch * (2.0 if method == "sam" else 1.0), value=value,
        seconds=seconds, rate=rate, radius=np.nan,
    )  # fmt: skip


def drawn(seed, methods=("sgd", "sam"), count=5, points=12, shift=0.0):
    """Trajectories by method, whose points are alike."""
    source = np.random.default_rng(seed)
    return [
        [
            trajectory(
                method, number,
                0.5 + source.normal(size=(1, 3, 2)) * 0.05 + m * shift
                + source.normal(size=(points // (1 + (method == "sam")), 3, 2)) * 0.01,
            )
            for number in range(count)
        ]
        for m, method in enumerate(methods)
    ]  # fmt: skip


def told(runs, points=4, methods=("sgd", "sam"), published="cifar10-resnet50"):
    return claims.told({"base": [runs]}, methods, {"cifar10": published}, points, 0.005, 0.95)


def test_sets_are_the_best_points_of_each_trajectory():
    runs = drawn(0)
    fields = told(runs)
    value = fields["value"][0, 0, 0]
    for m, method in enumerate(runs):
        for r, run in enumerate(method):
            orders = (
                sorted(run.value.tolist(), key=lambda p: p[0][0]),
                sorted(run.value.tolist(), key=lambda p: -p[1][1]),
                sorted(run.value.tolist(), key=lambda p: -p[2][1]),
            )
            for k, order in enumerate(orders):
                expected = [[p[0][0], p[2][1], p[2][0]] for p in order[:4]]
                np.testing.assert_array_equal(value[m, r, k], expected)


def test_equal_epochs_leave_out_what_the_slowest_method_does_not_have():
    runs = drawn(1)
    fields = told(runs, points=12)
    assert fields["views"] == ("equal gradients", "equal epochs")
    np.testing.assert_array_equal(fields["epochs"][:, 0, 0], [[12, 6], [6, 6]])
    np.testing.assert_array_equal(fields["passes"][0, 0], [12, 12])
    late = fields["value"][1, 0, 0, 0, 0, 0]
    assert np.isfinite(late[:6]).all() and np.isnan(late[6:]).all()
    first = runs[0][0].value[:6, 0, 0]
    np.testing.assert_array_equal(np.sort(late[:6, 0]), np.sort(first))


def test_p_values_are_those_of_scipy_and_of_going_through_all_orders():
    runs = drawn(2, shift=0.03)
    fields = told(runs)
    names = list(zip(fields["table"], fields["row_compared"], strict=True))
    value = fields["value"][0, 0, 0]
    score = value[..., 1]
    at = names.index(("Table 6: test score, SetA of two methods", "sgd vs sam"))
    pooled = stats.mannwhitneyu(score[0, :, 0].ravel(), score[1, :, 0].ravel()).pvalue
    assert fields["pooled"][0, at] == pytest.approx(pooled, rel=1e-12)
    a, b = score[0, :, 0].mean(-1), score[1, :, 0].mean(-1)
    both = np.concatenate([a, b])
    apart = [
        both[list(one)].mean() - np.delete(both, list(one)).mean()
        for one in combinations(range(10), 5)
    ]
    exact = np.mean(np.abs(apart) >= abs(a.mean() - b.mean()) * (1 - 1e-12))
    assert fields["exact"][0, at] == pytest.approx(exact, rel=1e-9)
    assert fields["least"][0, at] == pytest.approx(2 / 252)
    # SetA and SetB of one method: pooled by what is best on test, exact by validation, in pairs.
    at = names.index(("Table 3b: test score, SetA and SetB", "sgd"))
    pooled = stats.ttest_ind(score[0, :, 0].ravel(), score[0, :, 2].ravel()).pvalue
    assert fields["pooled"][0, at] == pytest.approx(pooled, rel=1e-12)
    less = score[0, :, 0].mean(-1) - score[0, :, 1].mean(-1)
    signs = np.array(list(product([1, -1], repeat=5)))
    exact = np.mean(np.abs((signs * less).mean(1)) >= abs(less.mean()) * (1 - 1e-12))
    assert fields["exact"][0, at] == pytest.approx(exact, rel=1e-9)
    assert fields["difference"][0, at] == pytest.approx(less.mean(), rel=1e-9)


def test_holm_is_within_a_table_and_a_margin_of_scores_says_nothing_of_a_loss():
    fields = told(drawn(3))
    loss = np.array([name.startswith("Table 5") for name in fields["table"]])
    assert np.isnan(fields["p_same"][:, loss]).all()
    assert np.isfinite(fields["p_same"][:, ~loss]).all()
    at = np.array([name.startswith("Table 2b") for name in fields["table"]])
    p, corrected = fields["exact"][0, at], fields["holm"][0, at]
    assert corrected.min() == pytest.approx(min(1.0, 2 * p.min()))


def test_published_numbers_stand_beside_those_of_their_task_and_nowhere_else():
    fields = told(drawn(4))
    names = list(zip(fields["table"], fields["row_compared"], strict=True))
    at = names.index(("Table 6: test score, SetA of two methods", "sgd vs sam"))
    assert fields["published"][at] == 0.32458
    assert tuple(fields["published_median"][0, 0, [0, 2]]) == (
        MEDIANS["sgd", "cifar10-resnet50", "SetA"][0],
        MEDIANS["sgd", "cifar10-resnet50", "SetB"][0],
    )
    assert np.isnan(fields["published_median"][0, 0, 1])
    assert np.isnan(told(drawn(4), published="")["published"]).all()


def test_a_trajectory_without_a_number_is_left_out_and_others_stay():
    runs = drawn(5)
    runs[0][1] = trajectory("sgd", 1, np.full((12, 3, 2), np.nan))
    fields = told(runs)
    names = list(zip(fields["table"], fields["row_compared"], strict=True))
    at = names.index(("Table 6: test score, SetA of two methods", "sgd vs sam"))
    assert fields["least"][0, at] == pytest.approx(2 / 126)
    assert np.isfinite(fields["exact"][0, at])
    assert np.isfinite(fields["median"][0]).all()


def test_claims_count_what_is_rejected_and_say_what_cannot_be():
    runs = drawn(6, shift=0.5)
    (text,) = [each for each in told(runs)["claims"] if "no method" in each]
    assert "Of 1 comparisons the pooled test as published rejects 1" in text
    assert "reject 1, and 0 are the same" in text and text.endswith(".")
    few = [each[:3] for each in runs]
    (text,) = [each for each in told(few)["claims"] if "no method" in each]
    assert "no exact test can reject here: the least p value is 0.1" in text


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    first = results_of(populations.units(SMALL), folder)
    more = results_of(populations.further(SMALL, first), folder)
    return folder, first, more


def test_budgets_are_equal_in_gradients(small):
    _, first, more = small
    by = {(run.method, run.number): run for run in first if run.number >= 0}
    assert len(by) == 8 and len(first) == 16 and len(more) == 8
    for (method, _), run in by.items():
        assert run.passes.max() <= 8
        rounds = {"sgd": 8, "sam": 4, "nim-bh": 8, "cnognp": 3}[method]
        assert run.epoch.max() == rounds
    assert all(run.passes.max() <= 4 for run in first if run.number < 0)


def test_trajectories_of_a_number_have_start_and_mini_batches_in_common(small):
    """Until a hop comes, basin hopping is SGD, step for step."""
    config = replace(SMALL, passes=2, tau=10**6, eps=0.0)
    runs = [
        populations.trained(populations.Training(config, "digits", method, 1, given))
        for method in ("sgd", "nim-bh", "nim-sgd")
        for given in (config.settings("digits", method),)
    ]
    np.testing.assert_array_equal(runs[0].value, runs[1].value)
    np.testing.assert_array_equal(runs[0].value, runs[2].value)
    other = populations.trained(
        populations.Training(config, "digits", "sgd", 0, config.settings("digits", "sgd"))
    )
    assert (other.value != runs[0].value).any()


def test_what_is_tuned_is_best_on_validation(small):
    _, first, more = small
    for k, method in enumerate(SMALL.methods):
        trials = [run for run in first if run.method == method and run.number < 0]
        best = max(trials, key=lambda run: run.value[:, 1, 1].max())
        own = more[2 * k : 2 * k + 2]
        assert {run.method for run in own} == {method}
        assert {run.rate for run in own} == {best.rate}
        assert len({run.rate for run in trials}) == 2
    # Trials of one number scale all methods alike.
    rates = [[r.rate for r in first if r.method == m and r.number < 0] for m in SMALL.methods]
    assert all(each == rates[0] for each in rates)


def test_the_tables_go_to_a_file_and_back(small, tmp_path):
    _, first, more = small
    result = populations.joined(SMALL, [*first, *more])["populations"]
    assert isinstance(result, Populations) and result.settings == ("base", "tuned")
    save(result, tmp_path / "populations.h5")
    again = load(tmp_path / "populations.h5")
    assert again.claims == result.claims
    np.testing.assert_array_equal(again.pooled, result.pooled)
    titles = [title for title, *_ in result.tables()]
    for number in ("2a", "2b", "3a", "3b", "4", "5a", "5b", "6"):
        assert any(f"Table {number}" in title for title in titles)
    assert titles[-1] == "Trials of the search"
    for _, columns, rows in result.tables():
        assert all(len(row) == len(columns) for row in rows)


def test_a_study_that_goes_on_takes_what_is_done(small):
    folder, first, more = small
    told = []
    again = results_of(populations.units(SMALL), folder, resume=True, progress=told.append)
    files = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
    results_of(populations.further(SMALL, again), folder, resume=True)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5")} == files
    assert len(files) == 24 and len(told) == 16


def test_without_trials_all_tables_are_of_base_settings():
    config = replace(SMALL, trials=0, methods=("sgd",), passes=3, points=2)
    found = results_of(populations.units(config))
    assert populations.further(config, found) == []
    result = populations.joined(config, found)["populations"]
    assert set(result.row_setting) == {"base"} and result.trials.shape == (1, 1, 0, 3)


def test_each_table_is_there_once_where_nothing_was_tuned():
    fields = told(drawn(7))
    names = dict.fromkeys(name.partition(":")[0] for name in fields["table"])
    assert list(names) == ["Table 2b", "Table 3b", "Table 5a", "Table 5b", "Table 6"]
    (text,) = [each for each in fields["claims"] if "same test score" in each]
    assert "Of 2 comparisons" in text


def test_a_method_whose_noise_never_came_is_said_to_be_another():
    config = replace(SMALL, trials=0, methods=("sgd", "nim-sgd", "sam"), eps=0.0, passes=4)
    result = populations.joined(config, results_of(populations.units(config)))["populations"]
    (note,) = set(result.notes) - set(populations.NOTES)
    assert note.startswith("nim-sgd took the steps of sgd on digits at base settings")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tasks": ("mars",)}, "tasks must be one of"),
        ({"methods": ("sgd", "sgd")}, "methods must differ"),
        ({"trajectories": 1}, "trajectories must be at least 2, got 1"),
        ({"noise": 0.0}, "noise must be positive"),
        ({"margin": -1.0}, "margin must be positive"),
        ({"confidence": 0.2}, "confidence must lie between"),
        ({"members": 1000}, "members must be at most 100"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        populations.Config(**given)


def test_a_budget_that_pays_for_no_round_is_said():
    config = replace(SMALL, passes=2, trials=0)
    unit = populations.units(replace(config, methods=("cnognp",)))[0]
    with pytest.raises(ValueError, match="the budget of 2 does not pay for it"):
        unit.work(unit.argument)
