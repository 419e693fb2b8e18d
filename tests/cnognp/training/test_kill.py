"""A run that is killed, wherever and whenever, goes on and ends like one that was never killed."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import runs

from cnognp.training import checkpoint
from landscape.files import DamagedFile, temporaries

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def forks():
    server = runs.forks()
    server(["tasks"])  # so that its start is in nobody's time
    return server


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """Runs that nobody killed, by their arguments: folder, seconds, and points passed."""
    known = {}

    def of(*more, **sizes):
        key = json.dumps([more, sizes])
        if key not in known:
            folder = tmp_path_factory.mktemp("whole") / "run"
            began = time.monotonic()
            outcome, counts = forks(runs.train(folder, *more, **sizes))
            assert outcome.code == 0, outcome.err
            known[key] = folder, time.monotonic() - began, counts
        return known[key]

    return of


def assert_nothing_partial(folder, reference):
    """Whatever has its final name after a kill is whole, and what the whole run has there too."""
    for step in checkpoint.steps(folder / "checkpoints"):
        found = checkpoint.load(folder / "checkpoints", step)
        expected = checkpoint.load(reference / "checkpoints", step)
        assert found.meta == expected.meta
        for name, array in expected.arrays.items():
            assert array.tobytes() == found.arrays[name].tobytes()
    for name in ("run.yaml", "best.safetensors"):
        if (folder / name).exists():
            assert (folder / name).read_bytes() == (reference / name).read_bytes()


def assert_ends_alike(forks, folder, reference, *more, **sizes):
    """The run in ``folder`` goes on without a complaint and ends like ``reference``."""
    outcome, _ = forks(runs.train(folder, "--resume", "--json", *more, **sizes))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.document["status"] == "finished"
    runs.assert_same_run(folder, reference)
    places = (folder, folder / "checkpoints", folder / "analysis")
    assert [path for place in places for path in temporaries(place)] == []
    assert {p.name for p in folder.rglob("*")} == {p.name for p in reference.rglob("*")}


SHORT = {"iterations": 4}

# Every step of writing run.yaml, two checkpoints with their digests, the learning curves and the
# best member; each number is a call, counted from the start of the run.
STEPS = [
    *(("mkdir", call, when) for call in (1, 2, 3) for when in ("before", "after")),
    *(("fsync", call, "before") for call in range(1, 15)),
    *(("replace", call, when) for call in range(1, 8) for when in ("before", "after")),
    *(("unlink", call, "before") for call in range(1, 9)),
    *(("text", call, when) for call in (1, 2, 3) for when in ("half", "after")),
    *(("bytes", call, when) for call in (1, 2, 3, 4) for when in ("before", "half", "after")),
]
SOME_STEPS = [("mkdir", 1, "after"), ("fsync", 5, "before"), ("replace", 3, "before")]


def test_the_steps_that_are_killed_at_are_all_there_are(whole):
    _, _, counts = whole(**SHORT)
    # What is unlinked beside the temporary files is the trial whether the folder can be written to.
    assert (counts["fsync"], counts["replace"], counts["unlink"]) == (14, 7, 8)
    assert (counts["text"], counts["bytes"]) == (3, 4)


@pytest.mark.parametrize(
    "step",
    [pytest.param(s, marks=[] if s in SOME_STEPS else pytest.mark.slow) for s in STEPS],
    ids=lambda step: "-".join(map(str, step)),
)
def test_a_run_killed_at_a_step_of_writing_ends_like_one_never_killed(forks, whole, tmp_path, step):
    reference, _, _ = whole(**SHORT)
    folder = tmp_path / "run"
    outcome, _ = forks(runs.train(folder, **SHORT), die=step)
    assert outcome.code == KILLED
    assert_nothing_partial(folder, reference)
    assert_ends_alike(forks, folder, reference, **SHORT)


@pytest.mark.slow
def test_runs_killed_at_random_times_end_like_one_never_killed(forks, whole, tmp_path):
    reference, seconds, _ = whole()
    moments = random.Random(7)
    killed = 0
    for number in range(45):
        folder = tmp_path / str(number)
        outcome, _ = forks(runs.train(folder), after=moments.uniform(0.1, 1.0) * seconds)
        killed += outcome.code == KILLED
        assert_nothing_partial(folder, reference)
        assert_ends_alike(forks, folder, reference)
    assert killed >= 25


def test_a_run_killed_again_and_again_ends_like_one_never_killed(forks, whole, tmp_path):
    reference, _, _ = whole()
    folder = tmp_path / "run"
    # Each attempt dies a little further on, the last of them while it clears up after the others.
    steps = [
        ("text", 2, "half"), ("replace", 4, "after"), ("bytes", 2, "half"),
        ("fsync", 3, "before"), ("replace", 2, "before"), ("unlink", 1, "before"),
    ]  # fmt: skip
    for step in steps:
        outcome, _ = forks(runs.train(folder, "--resume"), die=step)
        assert outcome.code == KILLED
        assert_nothing_partial(folder, reference)
    assert_ends_alike(forks, folder, reference)


KINDS = {
    "mini-batches": ("own.py:plain", ["--method", "sgd", "--method.momentum", "0.9"]),
    "batchnorm": ("own.py:conv", ["--method", "cnognp", "--method.batch_size", "16"]),
    "batchnorm-whole": ("own.py:conv", ["--method", "gd"]),
    "dropout": ("own.py:dropout", ["--method", "cnognp"]),
    "dropout-mini-batches": ("own.py:dropout", ["--method", "sgd", "--method.batch_size", "16"]),
    "loader": ("own.py:shuffled", ["--method", "sgd", "--method.batch_size", "20"]),
    "velocity": ("own.py:plain", ["--method", "pso"]),
    "quasi-newton": ("own.py:plain", ["--method", "pso-bfgs"]),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "dropout" else pytest.mark.slow) for k in KINDS]
)
def test_every_kind_of_run_survives_kills(forks, whole, tmp_path, kind):
    task, more = KINDS[kind]
    path = runs.task_file(tmp_path)
    sizes = {"task": str(path.with_name(task)), "members": 3, "iterations": 6}
    reference, seconds, _ = whole(*more, **sizes)
    for number, job in enumerate([
        {"die": ("replace", 4, "after")},
        {"die": ("bytes", 3, "half")},
        {"after": 0.6 * seconds},
    ]):
        folder = tmp_path / str(number)
        forks(runs.train(folder, *more, **sizes), **job)
        assert_nothing_partial(folder, reference)
        assert_ends_alike(forks, folder, reference, *more, **sizes)


@pytest.mark.slow
def test_five_real_processes_are_killed_and_go_on(forks, whole, tmp_path):
    sizes = {"iterations": 100, "every": 10}
    reference, _, _ = whole(**sizes)
    moments = random.Random(11)
    for number in range(5):
        folder = tmp_path / str(number)
        argv = [sys.executable, "-m", "cnognp", *runs.train(folder, **sizes)]
        process = subprocess.Popen(argv, env=runs.ENVIRONMENT, stdout=subprocess.DEVNULL)
        while number and not list(folder.glob("checkpoints/*.h5")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        assert process.wait() == KILLED
        assert_nothing_partial(folder, reference)
        if number == 1:
            assert runs.command(runs.train(folder, "--resume", **sizes)).code == 0
        assert_ends_alike(forks, folder, reference, **sizes)


@pytest.mark.parametrize("left", ["nothing", "folder", "run.yaml", "temporary files"])
def test_what_a_kill_in_the_first_moments_leaves_is_begun_anew(forks, whole, tmp_path, left):
    reference, _, _ = whole(**SHORT)
    folder = tmp_path / "run"
    if left != "nothing":
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "analysis").mkdir()
    if left == "run.yaml":
        (folder / "run.yaml").write_bytes((reference / "run.yaml").read_bytes())
    if left == "temporary files":
        for place in ("", "checkpoints", "analysis"):
            (folder / place / ".best.safetensors.12-ab.tmp").write_text("half")
    assert_ends_alike(forks, folder, reference, **SHORT)


@pytest.mark.parametrize("damage", ["flipped", "cut", "no digest"])
def test_a_damaged_newest_checkpoint_falls_back_with_one_warning(forks, whole, tmp_path, damage):
    reference, _, _ = whole()
    folder = tmp_path / "run"
    outcome, _ = forks(runs.train(folder), die=("replace", 7, "after"))
    newest = folder / "checkpoints" / "00000006.h5"
    data = bytearray(newest.read_bytes())
    if damage == "no digest":
        newest.with_suffix(".sha256").unlink()
    else:
        data[len(data) // 2] ^= 1
        newest.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    outcome, _ = forks(runs.train(folder, "--resume"))
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    assert "00000006.h5 is damaged" in line and "checkpoint before" in line
    runs.assert_same_run(folder, reference)


def test_a_run_without_a_whole_checkpoint_is_refused_and_left_as_it_is(forks, tmp_path):
    folder = tmp_path / "run"
    forks(runs.train(folder), die=("replace", 7, "after"))
    for path in (folder / "checkpoints").glob("*.h5"):
        path.write_bytes(path.read_bytes()[:-1])
    before = runs.contents(folder)
    for argv in (runs.train(folder, "--resume"), ["show", folder], ["analyze", folder]):
        outcome, _ = forks(argv)
        assert (outcome.code, outcome.out) == (3, "")
        (line,) = outcome.err.splitlines()
        assert "none of its 3 checkpoints is whole" in line
    assert runs.contents(folder) == before
    with pytest.raises(DamagedFile, match="none of its 3 checkpoints is whole"):
        checkpoint.newest(folder / "checkpoints")
