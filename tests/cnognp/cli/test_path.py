"""The verb ``path``: two ends of any kind, a path between them, its saddle and its pictures."""

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import runs
import torch
from safetensors.torch import load_file, save_file

from cnognp.cli.main import main
from cnognp.cli.path import KINDS
from landscape.paths import FINDERS
from landscape.results import load

FEW = ["--points", "11", "--refinement", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of the same task and data, one of other data, and the tasks of a user's file."""
    folder = tmp_path_factory.mktemp("paths")
    (folder / "tasks.py").write_text(runs.TASKS)
    kinds = {"a": (), "b": ("--method", "gd"), "c": ("--seed", "1")}
    for name, words in kinds.items():
        words = runs.train(str(folder / name), "--json", *words, members=2, iterations=3)
        with redirect_stdout(StringIO()):
            assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture
def call(capsys, folder, monkeypatch):
    monkeypatch.chdir(folder)
    return runs.calls(capsys)


def test_the_kinds_of_help_are_the_finders_that_there_are():
    assert KINDS == tuple(FINDERS)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a:0", "a:1"), ("a", "b:1"), ("a/checkpoints/00000003.h5:1", "b"),
     ("a/best.safetensors", "b"), ("a:1", "c/best.safetensors")],
)  # fmt: skip
def test_ends_are_members_runs_checkpoints_and_weights(call, folder, one, other):
    outcome = call("path", one, other, "--kind", "linear", *FEW, "--out", "ends", "--json")
    assert outcome.code == 0, outcome.err
    row = outcome.document["results"]["path-linear"]
    assert row["names"] == [one, other] and row["finder"] == "linear"
    result = load(folder / "ends/analysis/path-linear.h5")
    for word, end in ((one, result.points[0]), (other, result.points[-1])):
        np.testing.assert_array_equal(end, _expected(folder, word))


def _expected(folder, word):
    """The point that a word stands for, read without the command."""
    run, _, member = word.partition(":")
    if run.endswith(".safetensors"):
        tensors = load_file(folder / run)
        names = [n for n in tensors]
        order = [n for part in ("0", "2", "4") for n in (f"{part}.weight", f"{part}.bias")]
        kept = [n for n in order if n in names]
        return np.concatenate([tensors[n].numpy().ravel() for n in kept])
    from landscape.files import hdf5

    arrays, _ = hdf5.read(folder / run.split("/")[0] / "checkpoints/00000003.h5")
    return arrays["state/position"][int(member)] if member else arrays["best/position"]


def test_a_path_with_metrics_and_error_bars_is_drawn(call, folder):
    words = ["a:0", "b:0", "--kind", "elastic-band", "--kind.cycles", "2", "--kind.steps", "3"]
    more = ["--metrics", "accuracy,test_loss,gradient_norm", "--standard-errors"]
    outcome = call("path", *words, *more, *FEW, "--out", "drawn", "--json")
    assert outcome.code == 0, outcome.err
    assert set(outcome.document["results"]) == {"path-elastic-band"}
    row = outcome.document["results"]["path-elastic-band"]
    assert row["height"] <= row["line_height"] and row["barrier_error"] >= 0
    result = load(folder / "drawn/analysis/path-elastic-band.h5")
    assert result.metrics == ("accuracy", "test_loss", "gradient_norm")
    assert ((result.metric_values[0] >= 0) & (result.metric_values[0] <= 1)).all()
    assert result.provenance["finder"]["cycles"] == 2
    assert call("path", "a:0", "b:0", "--kind", "linear", *FEW, "--out", "drawn").code == 0
    outcome = call("plot", "drawn", "--json")
    assert outcome.code == 0, outcome.err
    drawn = {path.rpartition("/")[2] for path in outcome.document["figures"]}
    assert {"path-elastic-band-along.png", "path-linear-along.png"} <= drawn
    # Their ends have the same names: the two are drawn together.
    assert "paths-along.png" in drawn


def test_metrics_and_losses_are_those_that_the_run_reports(call, folder):
    outcome = call("path", "a", "b", "--kind", "linear", *FEW, "--metrics", "test_loss", "--out",
                   "same", "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    result = load(folder / "same/analysis/path-linear.h5")
    for place, run in ((0, "a"), (-1, "b")):
        best = call("show", run, "--json").document["best"]
        assert result.loss[place] == pytest.approx(best["loss"], rel=1e-5)
        known = best["metrics"]["test"]["loss"]
        assert result.metric_values[0, place] == pytest.approx(known, rel=1e-5)


def test_a_test_function_has_paths_between_its_minima(call, folder):
    words = ["path", "himmelblau:A", "himmelblau:B", "--kind", "string", "--saddle"]
    outcome = call(*words, "--out", "function", "--json")
    assert outcome.code == 0, outcome.err
    rows = outcome.document["results"]
    assert rows["path-string"]["height"] == pytest.approx(13.3119262704, abs=1e-3)
    assert rows["path-string-saddle"]["loss"] == pytest.approx(13.3119262704, abs=1e-9)
    assert rows["path-string-saddle"]["status"] == "certified"
    outcome = call("plot", "function", "--json")
    assert any(path.endswith("path-string-contour.png") for path in outcome.document["figures"])


def test_two_files_of_weights_need_a_task_and_batchnorm_is_reestimated(call, folder):
    from cnognp.tasks.registry import load as task_of

    model = task_of("tasks.py:conv").model
    for seed, name in enumerate(("one.safetensors", "two.safetensors")):
        g = torch.Generator("cpu").manual_seed(seed)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3, generator=g)
        save_file(model.state_dict(), folder / name)
    outcome = call("path", "one.safetensors", "two.safetensors", "--json")
    assert outcome.code == 2 and "--task my_task.py:make_task" in outcome.err
    words = ["one.safetensors", "two.safetensors", "--task", "tasks.py:conv", *FEW, "--json"]
    outcome = call("path", *words, "--kind", "bezier", "--kind.steps", "3", "--kind.batch_size",
                   "16", "--out", "weights")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "re-estimated" in outcome.document["results"]["path-bezier"]["statistics"]
    outcome = call("path", *words, "--kind", "linear", "--statistics", "as given")
    assert "held fixed" in outcome.document["results"]["path-linear"]["statistics"]
    assert "every point" not in outcome.document["results"]["path-linear"]["statistics"]


def test_a_result_with_other_settings_is_set_aside(call, folder):
    words = ["path", "six-hump-camel:G-", "six-hump-camel:G+", "--kind", "linear", "--out", "twice"]
    assert call(*words).code == 0
    assert "set" not in call(*words).err
    outcome = call(*words, "--points", "21")
    assert "path-linear.h5 had other settings; that result is now path-linear-2.h5" in outcome.err
    assert len(load(folder / "twice/analysis/path-linear-2.h5").loss) == 101


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a", "nowhere"], 2, "nowhere is no run, checkpoint or file of weights"),
        (["a", "c"], 2, "c is of other data than the other end"),
        (["a:7", "b"], 2, "member must be best"),
        (["a:all", "b"], 2, "a:all is 2 points, and an end is one"),
        (["a", "b", "--kind", "geodesic"], 2, "unknown kind 'geodesic'"),
        (["a", "b", "--kind", "fourier", "--kind.cycles", "3"], 2, "unknown option --kind.cycles"),
        (["a", "b", "--kind.sines", "90"], 2, "sines must be 1 to 48"),
        (["a", "b", "--points", "1"], 2, "points must be at least 3"),
        (["a", "b", "--statistics", "none"], 2, "statistics must be one of reestimated, as given"),
        (["a", "b", "--metrics", "beauty"], 2, "the task has no metric 'beauty'"),
        (["himmelblau:A", "himmelblau:Z"], 2, "himmelblau has no minimum 'Z'"),
        (["himmelblau:A", "a"], 2, "minima of one function"),
        (["himmelblau:A", "himmelblau:B", "--metrics", "accuracy"], 2, "has no metric 'accuracy'"),
    ],
)
def test_bad_input_is_answered_in_one_line(call, words, code, said):
    outcome = call("path", *words, "--json")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("cnognp path: ") and outcome.err.count("\n") == 1
    assert said in outcome.err


def test_show_tells_the_results_of_a_folder_that_is_no_run(call):
    assert (
        call("path", "himmelblau:A", "himmelblau:D", "--kind", "linear", "--out", "way").code == 0
    )
    outcome = call("show", "way", "--json")
    assert outcome.code == 0 and outcome.document["path-linear"]["kind"] == "Path"
    # The largest value on the segment, see test_paths.
    assert outcome.document["path-linear"]["height"] == pytest.approx(71.08045957, rel=1e-6)
    assert "71.08" in call("show", "way").out
    empty = call("show", "nothing")
    assert (empty.code, empty.out) == (2, "") and "nothing is no run" in empty.err
