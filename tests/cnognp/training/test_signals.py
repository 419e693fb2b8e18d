"""Signals, full disks, and what ``--resume`` makes of a run: its state is never lost or changed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import runs

from cnognp.training import checkpoint

SIGNALS = {"SIGTERM": 143, "SIGUSR1": 138, "SIGINT": 130}


@pytest.fixture(scope="module")
def forks():
    return runs.forks()


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert forks(runs.train(folder))[0].code == 0
    return folder


@pytest.fixture
def interrupted(forks, tmp_path):
    """A run that a signal has ended after 5 of 12 rounds."""
    folder = tmp_path / "run"
    assert forks(runs.train(folder), signal=(signal.SIGTERM, 5))[0].code == 143
    return folder


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_leaves_a_checkpoint_and_a_resume_gives_the_same_bits(
    forks, whole, tmp_path, name
):
    folder = tmp_path / "run"
    outcome, _ = forks(runs.train(folder, "--json"), signal=(getattr(signal, name), 5))
    assert outcome.code == SIGNALS[name]
    assert outcome.document["status"] == "interrupted" and outcome.document["iterations"] == 5
    assert outcome.err.splitlines() == [
        f"left after a signal; go on with: cnognp train --resume --out {folder}"
    ]
    shown, _ = forks(["show", folder, "--json"])
    assert shown.document == outcome.document
    assert runs.final(folder).iteration == 5
    # As the message says: task, method and numbers are those of the folder.
    outcome, _ = forks(["train", "--resume", "--out", folder])
    assert (outcome.code, outcome.err) == (0, "")
    runs.assert_same_run(folder, whole)


def test_an_interrupted_run_has_the_best_member_so_far_measured(forks, interrupted):
    best = forks(["show", interrupted, "--json"])[0].document["best"]
    assert best["loss"] > 0 and best["gradient_norm"] > 0
    assert set(best["metrics"]["test"]) == {"loss", "accuracy", "macro_f1"}
    assert (interrupted / "best.safetensors").exists()


def test_a_signal_in_the_last_round_leaves_a_finished_run(forks, whole, tmp_path):
    outcome, _ = forks(runs.train(tmp_path / "run"), signal=(signal.SIGTERM, 12))
    assert (outcome.code, outcome.err) == (0, "")
    runs.assert_same_run(tmp_path / "run", whole)


def test_a_run_that_is_interrupted_again_and_again_ends_alike(forks, whole, tmp_path):
    folder = tmp_path / "run"
    for last in (1, 2, 4, 7, 11):
        outcome, _ = forks(runs.train(folder, "--resume"), signal=(signal.SIGUSR1, last))
        assert outcome.code == 138
    assert forks(runs.train(folder, "--resume"))[0].code == 0
    runs.assert_same_run(folder, whole)


def test_a_second_interrupt_does_not_wait_for_the_round(tmp_path):
    task = tmp_path / "slow.py"
    task.write_text(
        "import time, os, signal, torch\nfrom cnognp.tasks import Task\ncalls = 0\n"
        "def loss(output, target):\n"
        "    global calls\n    calls += 1\n    if calls > 20:\n"
        "        os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(60)\n"
        "    return ((output - target) ** 2).mean()\n"
        "def make(): return Task(model=torch.nn.Linear(2, 1), loss=loss,\n"
        "                        train=(torch.ones(4, 2), torch.zeros(4, 1)))\n"
    )
    began = time.monotonic()
    outcome = runs.command(runs.train("run", task=f"{task}:make", iterations=50), tmp_path)
    assert outcome.code == 130 and time.monotonic() - began < 50
    assert checkpoint.newest(tmp_path / "run" / "checkpoints")[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_a_real_process_takes_a_signal_well(forks, tmp_path, name):
    folder = tmp_path / "run"
    sizes = {"iterations": 100_000, "every": 5}
    argv = [sys.executable, "-m", "cnognp", *runs.train(folder, "--json", **sizes)]
    process = subprocess.Popen(
        argv, env=runs.ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(folder.glob("checkpoints/*.h5")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == SIGNALS[name]
    document = runs.strict_json(out)
    assert document["status"] == "interrupted"
    assert len(err.splitlines()) == 1
    rounds = document["iterations"]
    assert runs.final(folder).iteration == rounds
    # The same rounds without a signal, up to where this one was left.
    outcome, _ = forks(
        runs.train(tmp_path / "other", **sizes), signal=(getattr(signal, name), rounds)
    )
    runs.assert_same_run(folder, tmp_path / "other")


def test_resuming_a_finished_run_changes_nothing(forks, tmp_path):
    folder = tmp_path / "run"
    first, _ = forks(runs.train(folder, "--json"))
    before = runs.contents(folder)
    for argv in (runs.train(folder, "--resume", "--json"), ["train", "--resume", "--json",
                 "--out", folder]):  # fmt: skip
        outcome, _ = forks(argv)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.document == first.document
        assert runs.contents(folder) == before


@pytest.mark.parametrize("flags", [[], ["--members", "6"], ["--device", "auto", "--threads", "0"]])
def test_flags_that_say_what_the_run_is_are_welcome(forks, whole, interrupted, flags):
    outcome, _ = forks(["train", "wine", "--resume", "--out", interrupted, *flags])
    assert (outcome.code, outcome.err) == (0, "")
    runs.assert_same_run(interrupted, whole)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--members", "7"], "members 6, not 7"),
        (["--seed", "1"], "seed 0, not 1"),
        (["--iterations", "13"], "iterations 12, not 13"),
        (["--method.lr", "0.2"], "method.lr 0.1, not 0.2"),
        (["--method", "sgd"], "method cnognp, not sgd"),
        (["--task", "digits"], "task wine, not digits"),
        (["--task.hidden", "[11]"], "task.hidden [10], not [11]"),
        (["--threads", "2"], "threads 1, not 2"),
    ],
)
def test_flags_that_contradict_the_run_are_refused(forks, interrupted, flags, said):
    before = runs.contents(interrupted)
    outcome, _ = forks(["train", "--resume", "--out", interrupted, *flags])
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert f"was begun with {said}; give the same" in line and "--out" in line
    assert runs.contents(interrupted) == before


def test_a_configuration_file_that_contradicts_the_run_is_refused(forks, interrupted, tmp_path):
    (tmp_path / "other.yaml").write_text("members: 9\n")
    outcome, _ = forks([
        "train",
        "--config",
        tmp_path / "other.yaml",
        "--resume",
        "--out",
        interrupted,
    ])
    assert outcome.code == 2 and "members 6, not 9" in outcome.err


def test_an_existing_folder_is_left_alone_without_resume(forks, interrupted, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    before = runs.contents(tmp_path)
    for name in ("run", "empty", "file"):
        outcome, _ = forks(runs.train(tmp_path / name))
        assert (outcome.code, outcome.out) == (2, "")
        (line,) = outcome.err.splitlines()
        assert f"{tmp_path / name} exists; go on with --resume, or choose another" in line
    assert runs.contents(tmp_path) == before


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"task": "digits"}, "task digits, not wine"),
        ({"more": ["--task.hidden", "[7]"]}, "task.hidden [7], not [10]"),
        ({"more": ["--seed", "1"]}, "seed 1, not 0"),
        ({"more": ["--method", "gd"]}, "method gd, not cnognp"),
        ({"members": 5}, "members 5, not 6"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(forks, interrupted, tmp_path, other, said):
    theirs = tmp_path / "theirs"
    assert forks(runs.train(theirs, *other.pop("more", []), iterations=8, **other))[0].code == 0
    for name in ("00000008.h5", "00000008.sha256"):
        shutil.copy(theirs / "checkpoints" / name, interrupted / "checkpoints" / name)
    before = runs.contents(interrupted)
    for argv in (runs.train(interrupted, "--resume"), ["show", interrupted]):
        outcome, _ = forks(argv)
        assert (outcome.code, outcome.out) == (3, "")
        (line,) = outcome.err.splitlines()
        assert "is of a run with" in line and said in line
    assert runs.contents(interrupted) == before


def test_a_model_that_has_changed_is_noticed(forks, tmp_path):
    own = runs.task_file(tmp_path)
    argv = runs.train(tmp_path / "run", task=f"{own}:plain", members=2)
    assert forks(argv, signal=(signal.SIGTERM, 5))[0].code == 143
    own.write_text(
        own.read_text().replace("(inputs, 6)", "(inputs, 7)").replace("(6, 2)", "(7, 2)")
    )
    for verb in (["train", "--resume", "--out"], ["analyze"]):
        outcome, _ = forks([*verb, tmp_path / "run"])
        assert outcome.code == 3 and "another model" in outcome.err
        assert outcome.err.count("\n") == 1


def test_data_that_have_changed_are_noticed(forks, tmp_path):
    own = runs.task_file(tmp_path)
    argv = runs.train(tmp_path / "run", task=f"{own}:plain", members=2)
    assert forks(argv, signal=(signal.SIGTERM, 5))[0].code == 143
    own.write_text(own.read_text().replace("manual_seed(1)", "manual_seed(3)"))
    for verb in (["train", "--resume", "--out"], ["analyze"]):
        outcome, _ = forks([*verb, tmp_path / "run"])
        assert outcome.code == 3 and "data" in outcome.err and outcome.err.count("\n") == 1


def test_a_checkpoint_that_describes_no_run_is_refused(forks, interrupted):
    last = runs.final(interrupted)
    meta = {key: last.meta[key] for key in last.meta if key != "status"}
    checkpoint.save(interrupted / "checkpoints", checkpoint.Checkpoint(6, last.arrays, meta))
    for argv in (runs.train(interrupted, "--resume"), ["show", interrupted],
                 ["analyze", interrupted]):  # fmt: skip
        outcome, _ = forks(argv)
        assert outcome.code == 3 and "says no status of its run" in outcome.err


@pytest.mark.parametrize("name", ["history/loss", "best/fitness", "state/position", "state/best"])
def test_a_checkpoint_whose_arrays_do_not_fit_is_refused(forks, interrupted, name):
    last = runs.final(interrupted)
    for change in ("left out", "too short"):
        arrays = {key: array for key, array in last.arrays.items() if key != name}
        if change == "too short" and last.arrays[name].ndim:
            arrays[name] = last.arrays[name][:-1]
        for path in (interrupted / "checkpoints").glob("00000005.*"):
            path.unlink()
        made = checkpoint.Checkpoint(5, arrays, last.meta)
        checkpoint.save(interrupted / "checkpoints", made)
        outcome, _ = forks(runs.train(interrupted, "--resume"))
        assert outcome.code == 3 and name in outcome.err and outcome.err.count("\n") == 1


def test_a_file_that_may_not_grow_is_one_clear_error_and_the_run_goes_on_later(
    forks, whole, interrupted
):
    before = runs.contents(interrupted / "checkpoints")
    outcome, _ = forks(runs.train(interrupted, "--resume"), limit=2000)
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert "could not write" in line and "File too large" in line and "space" in line
    after = runs.contents(interrupted / "checkpoints")
    assert {p: after[p] for p in before if p.suffix} == {p: before[p] for p in before if p.suffix}
    assert runs.final(interrupted).iteration == 5
    assert forks(runs.train(interrupted, "--resume"))[0].code == 0
    runs.assert_same_run(interrupted, whole)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(forks, whole, small_disk):
    folder = small_disk / "run"
    assert forks(runs.train(folder), signal=(signal.SIGTERM, 5))[0].code == 143
    filler = small_disk / "filler"
    for free in (20_000, 8_000, 0):
        with filler.open("wb") as file:
            space = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
            file.write(b"0" * max(space - free, 0))
        outcome, _ = forks(runs.train(folder, "--resume"))
        assert (outcome.code, outcome.out) == (1, "")
        (line,) = outcome.err.splitlines()
        assert "No space left on device" in line
        _, damaged = checkpoint.newest(folder / "checkpoints")
        assert damaged == []
        filler.unlink()
    assert forks(runs.train(folder, "--resume"))[0].code == 0
    runs.assert_same_run(folder, whole)
