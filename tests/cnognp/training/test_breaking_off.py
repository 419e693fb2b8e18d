"""What takes long is broken off by a signal; the run goes on and ends like one that never was."""

import signal
import time

import pictures
import pytest
import runs
import torch

from cnognp.cli import signals
from cnognp.cli.main import main
from cnognp.tasks import cifar
from cnognp.tasks.problem import Problem
from cnognp.training import session
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import INTERRUPTED, Training, train
from landscape.files import temporaries

pytest.importorskip("torchvision")
METHODS = {
    "sgd": ["--method", "sgd", "--method.momentum", "0.9", "--batch-size", "16"],
    "per step": [
        "--method",
        "sgd",
        "--method.momentum",
        "0.9",
        "--batch-size",
        "16",
        "--schedule",
        "cosine",
        "--warmup",
        "1",
        "--schedule-per",
        "step",
    ],
    "swarm": ["--method", "cnognp", "--batch-size", "16"],
    "epochs": ["--method", "cnognp", "--batch-size", "16", "--method.fitness_from", "epoch"],
    "host": ["--method", "cnognp", "--batch-size", "16", "--members-live", "host"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    pictures.folder(path)
    return path


def argv(folder, run, method):
    task = f"{folder / 'pictures.py'}:make"
    return runs.train(run, *METHODS[method], task=task, members=2, iterations=4, every=1)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    known = {}

    def of(method):
        if method not in known:
            run = tmp_path_factory.mktemp("whole") / "run"
            with pytest.MonkeyPatch.context() as patch:
                # Never broken off, and its mini-batches are counted.
                counted = Breaking(patch, cifar, "_augmented", 0)
                assert main(argv(folder, run, method)) == 0
            known[method] = run, counted.calls
        return known[method]

    return of


def interrupted(*args):
    raise KeyboardInterrupt


class Breaking:
    """Breaks off whatever is breakable when a function was called so often."""

    def __init__(self, monkeypatch, owner, name, call, number=signal.SIGTERM):
        monkeypatch.setattr(signals, "GRACE", 1e-4)
        function, self.calls = getattr(owner, name), 0

        def counted(*args, **options):
            self.calls += 1
            if self.calls == call:
                signal.raise_signal(number)
                time.sleep(0.05)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize(("method", "share"), [
    ("sgd", 0.4),
    ("per step", 0.6),
    pytest.param("sgd", 0.5, marks=pytest.mark.slow),
    pytest.param("sgd", 0.75, marks=pytest.mark.slow),
    pytest.param("swarm", 0.6, marks=pytest.mark.slow),
    pytest.param("epochs", 0.6, marks=pytest.mark.slow),
])  # fmt: skip
def test_an_epoch_that_is_broken_off_is_done_again_with_the_same_bits(
    folder, whole, tmp_path, capsys, method, share
):
    reference, calls = whole(method)
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        Breaking(patch, cifar, "_augmented", round(share * calls))
        assert main(argv(folder, run, method)) == 143
    said = capsys.readouterr().err
    assert f"go on with: cnognp train --resume --out {run}" in said
    assert 0 < runs.final(run).iteration < 4
    assert main(["train", "--resume", "--out", str(run)]) == 0
    runs.assert_same_run(run, reference)


JUDGED = {
    "metrics of the end": (Problem, "metrics", 1, 4),
    "the constant": (session.baseline, "judgement", 1, 4),
    "the best member": (Problem, "state_dict", 1, 4),
}


@pytest.mark.parametrize(
    "what",
    [pytest.param(w, marks=[] if w == "the constant" else pytest.mark.slow) for w in JUDGED],
)
def test_the_judgement_of_the_end_is_broken_off_and_made_up_for(
    folder, whole, tmp_path, capsys, what
):
    reference, _ = whole("sgd")
    run = tmp_path / "run"
    owner, name, call, rounds = JUDGED[what]
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        Breaking(patch, owner, name, call, signal.SIGINT)
        code = main([*argv(folder, run, "sgd"), "--json"])
    out = runs.strict_json(capsys.readouterr().out)
    left = runs.final(run)
    assert left.iteration == rounds
    assert (code, out["status"]) == (130, "interrupted")
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert temporaries(run) == []
    runs.assert_same_run(run, reference)


@pytest.mark.slow
def test_members_that_are_written_over_are_not_broken_off_in_a_round(folder, whole, tmp_path):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        Breaking(patch, cifar, "_augmented", 8)
        assert main(argv(folder, run, "host")) == 143
    assert main(["train", "--resume", "--out", str(run)]) == 0
    runs.assert_same_run(run, whole("host")[0])


def test_before_the_first_round_is_done_there_is_nothing_to_save(folder, whole, tmp_path, capsys):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        Breaking(patch, cifar, "_augmented", 2)
        assert main(argv(folder, run, "sgd")) == 143
    said = capsys.readouterr().err
    assert f"before anything was saved; begin again with: cnognp train --resume --out {run}" in said
    assert main(["train", "--resume", "--out", str(run)]) == 0
    runs.assert_same_run(run, whole("sgd")[0])


def test_what_was_saved_before_is_gone_on_with_and_a_run_that_never_began_is_not(
    folder, tmp_path, capsys
):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        Breaking(patch, session, "problem_of", 1)
        patch.setattr(session.Problem, "check_finite", interrupted)
        assert main(argv(folder, run, "sgd")) == 143
    assert "before anything was saved: give the whole command once more" in capsys.readouterr().err
    assert not run.exists()
    with pytest.MonkeyPatch.context() as patch:
        Breaking(patch, cifar, "_augmented", 20)
        assert main(argv(folder, run, "sgd")) == 143
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        Breaking(patch, session, "problem_of", 1)
        patch.setattr(session.Problem, "check_finite", interrupted)
        assert main(["train", "--resume", "--out", str(run)]) == 143
    said = capsys.readouterr().err
    assert f"nothing new was saved; go on with: cnognp train --resume --out {run}" in said


def test_a_run_that_diverged_and_was_not_compared_diverges_again(tmp_path):
    config = Config("wine", "gd", members=2, iterations=5, method_options={"lr": 1e30})
    reference = train(config, RunFolder(tmp_path / "whole"))
    assert reference.meta["status"] == "diverged"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_compare", interrupted)
        left = train(config, RunFolder(tmp_path / "run"))
    assert left.meta["status"] == INTERRUPTED and left.iteration < reference.iteration
    again = train(config, RunFolder(tmp_path / "run"), resume=True)
    assert again.meta == reference.meta
    assert all((again.arrays[n] == a).all() for n, a in reference.arrays.items() if "hist" not in n)


def test_a_signal_lets_a_short_round_end():
    heeding = signals.Heeding()
    with heeding.heeded([signal.SIGTERM]):
        with heeding.breakable():
            signal.raise_signal(signal.SIGTERM)
            torch.ones(3).sum()
        assert heeding.received == [signal.SIGTERM]
        assert signal.getitimer(signal.ITIMER_REAL)[0] > signals.GRACE / 2
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
