"""What is told along a training: a line, and curves that programs of others read."""

import math
import shutil
import signal
from types import SimpleNamespace

import pictures
import pytest
import runs

from cnognp.cli import progress as telling
from cnognp.cli.main import main
from cnognp.training import curves, judging
from cnognp.training.config import Config, RunFolder
from cnognp.training.pace import Pace, Told, line
from cnognp.training.session import train
from landscape import results


def read(folder):
    """The curves in event files: step and value of every point, by name."""
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install '.[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def argv(folder, *more):
    return runs.train(folder, "--method", "sgd", "--log", "tensorboard", *more, members=2)


def test_curves_are_those_of_the_history_and_the_run_is_what_it_is_without(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install '.[tensorboard]'")
    assert main(argv(tmp_path / "run")) == 0
    found = read(tmp_path / "run" / "log")
    history = results.load(tmp_path / "run" / "analysis" / "history.h5")
    steps = [*range(1, 13)]
    assert [step for step, _ in found["loss"]] == steps
    assert [v for _, v in found["loss"]] == pytest.approx(history.loss.min(1).tolist(), rel=1e-6)
    best = [v for _, v in found["best_fitness"]]
    assert best == pytest.approx(history.best_fitness.tolist(), rel=1e-6)
    assert all(value > 0 for _, value in found["samples_per_second"])
    last = runs.final(tmp_path / "run").meta["best"]["metrics"]["validation"]
    for name, value in last.items():
        assert found[f"validation/{name}"][-1] == (12, pytest.approx(value, rel=1e-6))
    assert main(runs.train(tmp_path / "plain", "--method", "sgd", members=2)) == 0
    runs.assert_same_run(tmp_path / "run", tmp_path / "plain")


def test_a_run_that_goes_on_goes_on_in_the_same_curves(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install '.[tensorboard]'")
    assert main(argv(tmp_path / "whole")) == 0
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        # Killed after round 5 was written, when the checkpoint of round 4 is the newest.
        write = curves.TensorBoard.write

        def killed(self, iteration, numbers):
            write(self, iteration, numbers)
            if iteration == 5:
                raise RuntimeError("killed")

        patch.setattr(curves.TensorBoard, "write", killed)
        assert main(argv(folder)) == 1
    assert [step for step, _ in read(folder / "log")["loss"]] == [1, 2, 3, 4, 5]
    assert main(argv(folder, "--resume")) == 0
    assert len(list((folder / "log").iterdir())) == 2
    ours, whole = read(folder / "log"), read(tmp_path / "whole" / "log")
    assert ours.keys() == whole.keys()
    for name in ours.keys() - {"samples_per_second"}:
        assert ours[name] == whole[name]


def test_the_way_to_go_on_says_where_the_curves_are(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install '.[tensorboard]'")
    with pytest.MonkeyPatch.context() as patch:
        write = curves.TensorBoard.write

        def signalled(self, iteration, numbers):
            write(self, iteration, numbers)
            if iteration == 3:
                signal.raise_signal(signal.SIGTERM)

        patch.setattr(curves.TensorBoard, "write", signalled)
        assert main(argv(tmp_path / "run")) == 143
    assert "--log tensorboard" in capsys.readouterr().err


@pytest.mark.parametrize("kind", curves.WRITERS)
def test_a_package_that_is_missing_is_one_line_before_there_is_a_folder(
    tmp_path, capsys, monkeypatch, kind
):
    monkeypatch.setitem(curves._MODULES, kind, "there_is_no_such_package")
    assert main(runs.train(tmp_path / "run", "--log", kind)) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"--log {kind} needs {kind}" in said and f"pip install 'cnognp[{kind}]'" in said
    assert not (tmp_path / "run").exists()


def test_a_run_of_weights_and_biases_keeps_its_identifier(tmp_path, monkeypatch):
    made = []

    class Run:
        def __init__(self, **options):
            self.options, self.points, self.ended = options, [], False
            made.append(self)

        def log(self, numbers, step):
            self.points.append((step, numbers))

        def finish(self):
            self.ended = True

    fake = SimpleNamespace(init=Run, Settings=lambda **options: options)
    monkeypatch.setattr(curves, "package", lambda kind: fake)
    (tmp_path / "run").mkdir()
    for first in (1, 3):
        writer = curves.WeightsAndBiases(tmp_path / "run" / "log", Config("wine"), first)
        writer.write(first, {"loss": 0.5})
        writer.close()
    one, two = made
    assert one.options["id"] == two.options["id"] and one.options["resume"] == "allow"
    assert (one.points, two.points) == ([(1, {"loss": 0.5})], [(3, {"loss": 0.5})])
    assert one.ended and two.ended


@pytest.mark.slow
def test_weights_and_biases_itself_keeps_a_run_in_the_folder(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    assert main(runs.train(folder, "--log", "wandb", members=2, iterations=3)) == 0
    files = list(folder.glob("log/wandb/offline-run-*/*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 0


# ------------------------------------------------------------------------------------ the line


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_pace_and_time_left_are_those_of_a_clock(tmp_path):
    clock, told = Clock(), []
    pace = Pace(clock=clock)

    def progress(training, info):
        training.began = 0.0
        clock.now += 2.0
        told.append(pace.told(training, info))

    config = Config("wine", "sgd", members=3, iterations=5)
    train(config, RunFolder(tmp_path / "run"), progress=progress)
    assert [t.iteration for t in told] == [1, 2, 3, 4, 5]
    # An epoch of 3 members on 106 rows in 2 seconds.
    assert [t.rate for t in told] == pytest.approx(5 * [3 * 106 / 2])
    assert [t.seconds for t in told] == pytest.approx([8, 6, 4, 2, 0])
    assert set(told[-1].validation) == {"loss", "accuracy", "macro_f1"}


def test_pace_of_rounds_that_come_by_tens_is_their_mean(tmp_path):
    clock, told = Clock(), []
    pace = Pace(clock=clock)

    def progress(training, info):
        training.began = 0.0
        clock.now += 1.0 if training.iteration % 10 == 1 else 0.0
        told.append(pace.told(training, info).seconds / (201 - training.iteration))

    train(Config("wine", "sgd", members=1, iterations=200), RunFolder(tmp_path / "run"),
          progress=progress)  # fmt: skip
    assert all(0.05 < seconds < 0.2 for seconds in told[40:-1])


def test_a_line_says_all_and_numbers_leave_out_what_is_not_known():
    told = Told(3, 12345.6, 3725.0, 0.123456, 0.1, {"loss": 1.0, "accuracy": 0.9876}, False)
    said = "12346 images/s, 1:02:05 left, loss 0.1235, validation accuracy 0.9876"
    assert line(told, "images") == said
    assert told.numbers() == {
        "loss": 0.123456, "best_fitness": 0.1, "samples_per_second": 12345.6,
    }  # fmt: skip
    fresh = told._replace(fresh=True, loss=math.nan, validation={"loss": math.inf, "f1": 0.5})
    assert fresh.numbers() == {
        "best_fitness": 0.1, "samples_per_second": 12345.6, "validation/f1": 0.5,
    }  # fmt: skip


def test_what_is_done_is_said_before_the_first_round(tmp_path, capsys, monkeypatch):
    task = pictures.folder(tmp_path / "pictures")
    monkeypatch.setattr(judging, "SMALL", 10)
    how = {"task": f"{task}:make", "members": 2, "iterations": 2}
    argv = runs.train(tmp_path / "run", "--method", "sgd", "--batch-size", "16", **how)
    assert main([*argv, "--quiet"]) == 0 and capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "run")
    assert main(argv) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{task}:make: 2,282 parameters, 80 images; 2 members by sgd, iterations 0 to 2 on cpu "
        f"with 1 thread, in {tmp_path / 'run'}"
    ]
    assert main([*argv, "--resume"]) == 0 and capsys.readouterr().err == ""


def test_that_data_are_read_is_said_before_they_are_there(tmp_path, capsys):
    argv = ["train", "breastmnist", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(argv) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"reading breastmnist for a run in {tmp_path / 'run'}"
    assert "breastmnist.npz" in last


@pytest.mark.parametrize(("more", "lines"), [([], 4), (["--quiet"], 0), (["--json"], 4)])
def test_where_there_is_no_terminal_there_are_lines_now_and_then(
    tmp_path, capsys, monkeypatch, more, lines
):
    monkeypatch.setattr(telling, "_FIRST", 0.0)
    monkeypatch.setattr(telling, "_BETWEEN", 0.0)
    assert main(runs.train(tmp_path / "run", *more, members=2, iterations=4)) == 0
    found = capsys.readouterr().err.splitlines()
    assert len(found) == lines
    for number, said in enumerate(found, 1):
        assert said.startswith(f"round {number} of 4: ") and "validation accuracy" in said
