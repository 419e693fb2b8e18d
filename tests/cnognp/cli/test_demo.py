"""``cnognp demo``: a method on functions, and what it cannot run is refused."""

import json

import numpy as np
import pytest
import runs

from landscape.results import load


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runs.calls(capsys)


def test_a_budget_takes_the_place_of_iterations(call):
    told = call("demo", "himmelblau", "--method", "sam", "--budget", "6", "--restarts", "2",
                "--out", "b", "--json")  # fmt: skip
    assert told.code == 0 and json.dumps(told.document["shares"])


def test_what_is_composed_with_a_method_is_said_without_its_group(call, tmp_path):
    sizes = ["--method", "sam", "--restarts", "4", "--iterations", "30", "--json"]
    ends = []
    for flags in (["--schedule", "step"], ["--method.schedule", "step"], []):
        assert call("demo", "himmelblau", *sizes, *flags).code == 0
        ends.append(load(tmp_path / "runs/demo/analysis/himmelblau-sam.h5").position)
    assert np.array_equal(ends[0], ends[1]) and not np.array_equal(ends[0], ends[2])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--table", "use: cnognp study distribution"),
        ("f2 --flat", "use: cnognp study flat-minima"),
        ("himmelblau --paths", "use: cnognp study walks"),
        ("--cycle --method sam", "use: cnognp study cycle"),
        ("himmelblau --methods gd", "unknown option --methods"),
        ("himmelblau --method gd --method.lr -1", "lr must be at least 0"),
        ("--seed -3", "seed must be at least 0, got -3"),
        ("--tolerance 0", "tolerance must be positive, got 0.0"),
        ("--budget 0", "budget must be at least 1, got 0"),
        ("--restarts 1.5", "--restarts: expected int, got 1.5"),
    ],
)
def test_what_cannot_be_run_is_exit_code_2_and_leaves_no_trace(call, tmp_path, argv, said):
    outcome = call("demo", *argv.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())
