"""The verb ``compare``: learning curves side by side, and flatness against the gap."""

from contextlib import redirect_stdout
from io import StringIO

import pytest
import runs

from cnognp.cli.main import main


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with two finished runs, ``a`` and ``b``."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("a", "b"):
        words = runs.train(str(folder / name), "--json", members=3, iterations=3)
        with redirect_stdout(StringIO()):
            assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def call(capsys, two, monkeypatch):
    monkeypatch.chdir(two)
    return runs.calls(capsys)


def test_two_runs_give_one_object_and_a_picture(call, two):
    outcome = call("compare", "a", "b", "--out", "both", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert set(outcome.document) == {"runs", "figures"}
    assert set(outcome.document["runs"]) == {"a", "b"}
    assert outcome.document["runs"]["a"]["status"] == "finished"
    assert outcome.document["figures"]
    for figure in outcome.document["figures"]:
        assert (two / figure).stat().st_size > 0


def test_flatness_gives_a_row_for_each_measure_and_a_conclusion(call, two):
    outcome = call(
        "compare", "a", "b", "--flatness", "--measures", "gradient-norm", "--resamples", "100",
        "--out", "both", "--json",
    )  # fmt: skip
    # The two runs are the same one: their members coincide, and are one training.
    assert (outcome.code, outcome.err) == (1, "")
    (row,) = outcome.document["measures"]
    assert (row["measure"], row["trainings"]) == ("gradient-norm", 1)
    assert row["tau"] is None and row["spread"] > 0
    assert outcome.document["concluded"] is False
    assert outcome.document["conclusion"].startswith(
        "No conclusion: 1 independent training is too few"
    )
    trainings = outcome.document["trainings"]
    assert list(trainings) == [f"{run} member{k:03d}" for run in "ab" for k in range(3)]
    assert list(trainings.values()) == [0] * 6
    assert set(outcome.document["nearest"]) == set(trainings)
    assert (two / "both/analysis/flatness.h5").is_file()


def test_independent_members_of_one_run_are_concluded_from_and_a_swarm_is_not(call, two):
    words = runs.train(str(two / "starts"), "--json", "--method", "sgd", members=6, iterations=2)
    assert call(*words).code == 0
    for run, code in (("starts", 0), ("a", 1)):
        outcome = call(
            "compare", run, "--flatness", "--measures", "gradient-norm", "--resamples", "100",
            "--out", f"{run}-alone",
        )  # fmt: skip
        assert outcome.code == code, outcome.err
        assert ("No conclusion" in outcome.err) == bool(code)
        assert "spread" in outcome.out


@pytest.mark.slow
def test_flatness_goes_on_where_it_was_and_two_workers_say_the_same(call, two):
    words = ["compare", "a", "b", "--flatness", "--measures", "gradient-norm,sam", "--json"]
    one = call(*words, "--resamples", "100", "--out", "shared")
    units = two / "shared/units"
    written = {path: path.stat().st_mtime_ns for path in units.iterdir()}
    assert len(written) == 6
    lost = units / "a-member001.h5"
    lost.unlink()
    more = ["--resume", "--workers", "2"]
    again = call(*words, "--resamples", "100", "--out", "shared", *more)
    assert again.code == one.code and again.document["measures"] == one.document["measures"]
    after = {path: path.stat().st_mtime_ns for path in units.iterdir()}
    assert {path for path in written if after[path] != written[path]} == {lost}


@pytest.fixture(scope="module")
def groups(two):
    """Runs of three methods that kept points, and one with two members alone."""
    for name, method, members in (("gd", "sgd", 4), ("sam", "sam", 4), ("one", "adam", 1)):
        words = runs.train(
            str(two / name), "--json", "--method", method, "--snapshots", 3,
            members=members, iterations=6,
        )  # fmt: skip
        with redirect_stdout(StringIO()):
            assert main([str(word) for word in words]) == 0
    return two


def test_statistics_are_those_of_the_points_that_were_kept(call, groups):
    import numpy as np
    from scipy.stats import permutation_test, ttest_ind

    from cnognp.training.config import RunFolder

    outcome = call(
        "compare", "gd", "sam", "--statistics", "--criterion", "loss", "--split", "train",
        "--out", "told", "--json",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    told = outcome.document["statistics"]
    assert (told["groups"], told["sets"]) == (
        ["sgd", "sam"], ["SetA", "SetB", "SetB as published"],
    )  # fmt: skip
    assert told["comparisons"][:3] == ["sgd - sam, SetA", "sgd - sam, SetB", "sgd, SetA - SetB"]
    points = [
        np.array([[p.measured["train"]["loss"] for p in RunFolder(groups / run).kept()["train"][k]]
                  for k in range(4)])
        for run in ("gd", "sam")
    ]  # fmt: skip
    one, other = (each.mean(-1) for each in points)
    assert told["difference"][0] == pytest.approx(one.mean() - other.mean())
    p = dict(zip(told["tests"], told["p_value"][0], strict=True))
    assert p["t, pooled"] == pytest.approx(ttest_ind(points[0].ravel(), points[1].ravel()).pvalue)
    exact = permutation_test((one, other), lambda a, b: a.mean() - b.mean())
    assert p["permutation of trajectories"] == pytest.approx(exact.pvalue)
    assert told["least"][0] == pytest.approx(2 / 70) and told["least"][2] == 2 / 16
    notes = " ".join(told["notes"])
    assert "Budgets differ: evaluations of a member are sgd 6, sam 12." in notes
    assert "Nothing can be rejected here by the exact test" in notes
    test = [[sorted(p.measured["test"]["accuracy"] for p in
             {q.path: q for kind in ("train", "validation")
              for q in RunFolder(groups / run).kept()[kind][k]}.values())[-3:]
             for k in range(4)] for run in ("gd", "sam")]  # fmt: skip
    again = call("compare", "gd", "sam", "--statistics", "--criterion", "accuracy", "--out", "told",
                 "--json").document["statistics"]  # fmt: skip
    published = np.sort(np.array(again["value"])[:, 2], axis=-1)
    np.testing.assert_allclose(published, np.concatenate(test))
    assert (groups / "told/figures/comparison-comparisons.png").is_file()


def test_nothing_is_concluded_from_one_run_each_nor_from_a_swarm(call, groups):
    for run in ("one", "a"):
        outcome = call("compare", "gd", run, "--statistics", "--out", "few", "--json")
        assert outcome.code == 1, outcome.err
        told = outcome.document["statistics"]
        assert told["conclusion"].startswith("No conclusion: ")
        assert told["p_value"][0][2:] == [None] * 4 and told["low"][0] is None
    assert told["sets"] == ["end"]


def test_ends_that_are_measured_are_those_of_the_members(call, groups):
    outcome = call("compare", "gd", "a", "--statistics", "--out", "ends", "--json")
    told = outcome.document["statistics"]
    assert told["trajectories"] == ["gd 0", "gd 1", "gd 2", "gd 3", "a"]
    shown = call("show", "a", "--json").document["best"]
    (swarm,) = [row[0] for row, group in zip(told["value"], told["group"], strict=True) if group]
    assert shown["metrics"]["test"]["loss"] == pytest.approx(swarm[shown["member"]], rel=0.5)


def test_members_without_a_number_are_left_out_and_said():
    import numpy as np

    from analyses.comparison import Config, Trajectory, compared

    source = np.random.default_rng(0)
    found = [
        Trajectory(f"{name} {k}", name, {"SetA": source.normal(size=3), "SetB": np.zeros(3)})
        for name in ("x", "y", "z") for k in range(4)
    ]  # fmt: skip
    found[1].points["SetA"][2] = np.nan
    told = compared(Config(reference="x"), found, {"x": 1.0, "y": 1.0, "z": 1.0}, "task")
    assert told.comparisons[:2] == ("x - y, SetA", "x - z, SetA")
    assert not any(name.startswith("y - z") for name in told.comparisons)
    assert told.count[0].tolist() == [3, 4]
    assert "Left out where they have no finite number: x 1." in told.notes
    ties = told.comparisons.index("x - y, SetB")
    np.testing.assert_array_equal(told.p_value[ties], 1)
    # Four against four have 70 orders: too few for sameness to outlast Holm's correction.
    assert told.p_same[ties] >= 1 / 70 and told.verdict(ties) == "open"
    lost = [each._replace(points={"SetA": np.full(3, np.nan)}) for each in found[:4]]
    rest = [each._replace(points={"SetA": each.points["SetA"]}) for each in found[4:8]]
    nothing = compared(Config(), lost + rest, {"x": 1.0, "y": 1.0}, "task")
    assert np.isnan(nothing.p_value).all() and nothing.conclusion.startswith("No conclusion: x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["gd"],
            "two or more groups of runs are needed, which differ in more than the seed; got sgd",
        ),
        (["gd", "sam", "--criterion", "auc"], "no test auc; there are train loss, train accuracy"),
        (["gd", "sam", "--split", "some"], "split must be one of train, validation, test"),
        (["gd", "sam", "--margin", "0"], "margin must be positive, got 0"),
        (["gd", "sam", "--reference", "lion"], "reference must be one of sgd, sam, got 'lion'"),
        (["gd", "cancer"], "runs of one task are needed: gd is of wine, cancer of breast-cancer"),
        (["gd", "seeded"], "seeded has other training data than gd (a task may split its data by"),
        (["gd", "twin"], "gd and twin are one training twice"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(call, groups, words, said):
    import shutil

    others = {"cancer": ["breast-cancer", ()], "seeded": ["wine", ("--seed", "1")]}
    for name, (task, more) in others.items():
        if name in words and not (groups / name).is_dir():
            given = runs.train(str(groups / name), "--json", *more, task=task, iterations=2)
            assert call(*given).code == 0
    if "twin" in words and not (groups / "twin").is_dir():
        shutil.copytree(groups / "gd", groups / "twin")
    outcome = call("compare", *words, "--statistics", "--out", "bad", "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("cnognp compare: ") and outcome.err.count("\n") == 1
    assert said in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "a"], "runs must be different folders, got a, a"),
        (["a", "nowhere"], "nowhere is no run"),
        (["a", "b", "--flatness", "--measures", "nonsense"], "nonsense"),
        (["a", "b", "--flatness", "--criterion", "nonsense"], "nonsense"),
        (["a", "b", "--flatness", "--split", "nonsense"], "nonsense"),
        (["a", "b", "--flatness", "--resamples", "-1"], "resamples must be at least 100, got -1"),
    ],
)
def test_bad_input_is_answered_in_one_line(call, words, said):
    outcome = call("compare", *words, "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("cnognp compare: ") and outcome.err.count("\n") == 1
    assert said in outcome.err
