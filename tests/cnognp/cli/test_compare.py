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
