"""Points that are kept along trajectories: which they are, and that no kill or cut changes them."""

import json
import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import runs
import torch
from sklearn.metrics import f1_score
from torch.nn.functional import cross_entropy
from torch.nn.utils import vector_to_parameters

from cnognp.measuring import subjects
from cnognp.tasks import load
from cnognp.tasks.problem import SPLITS
from cnognp.training import checkpoint
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from cnognp.training.snapshots import TRAIN, VALIDATION, Snapshots, pooled
from landscape import results
from landscape.files import DamagedFile, hdf5, temporaries
from landscape.objective import value

ROUNDS, MEMBERS, MOST = 7, 3, 2
METHODS = {
    "sgd": {"lr": 2.0},
    "cnognp": {"lr": 1.5, "fitness_from": "epoch", "batch_size": 32},
}


@pytest.fixture(autouse=True)
def quick():
    """Annotations are checked elsewhere; here it would take most of the time."""
    with runs.annotations_unchecked():
        yield


def config(method="sgd", task="wine", every=1, **more):
    return Config(
        task=task, method=method, members=MEMBERS, iterations=ROUNDS, seed=4, device="cpu",
        threads=1, checkpoint_every=every, snapshots=MOST,
        method_options=METHODS.get(method, {}), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of whole runs by method."""
    found = {}
    for method in METHODS:
        found[method] = RunFolder(tmp_path_factory.mktemp(method) / "run")
        with runs.annotations_unchecked():
            train(config(method), found[method])
    return found


def judged(z):
    """Loss, accuracy and macro-F1 on every split by plain torch and scikit-learn."""
    task, found = load("wine", seed=4), {}
    vector_to_parameters(torch.from_numpy(z), task.model.parameters())
    for split in SPLITS:
        inputs, target = getattr(task, split)
        with torch.no_grad():
            output = task.model(inputs)
        said = output.argmax(-1)
        found[split] = {
            "loss": float(cross_entropy(output, target)),
            "accuracy": float((said == target).float().mean()),
            "macro_f1": float(f1_score(target, said, average="macro")),
        }
    return found


def trajectory(folder, member):
    """Where a member stood after each round."""
    for number in range(1, ROUNDS + 1):
        yield number, checkpoint.load(folder.checkpoints, number).arrays["state/position"][member]


@pytest.mark.parametrize("method", METHODS)
def test_kept_are_the_lowest_on_all_training_data_and_the_best_on_validation_data(trained, method):
    kept = trained[method].kept()
    assert set(kept) == {TRAIN, VALIDATION}
    for member in range(MEMBERS):
        walk = dict(trajectory(trained[method], member))
        numbers = {round: judged(z) for round, z in walk.items()}
        by_loss = sorted(walk, key=lambda k: (numbers[k]["train"]["loss"], k))[:MOST]
        score = {k: numbers[k]["validation"] for k in walk}
        by_score = sorted(walk, key=lambda k: (-score[k]["accuracy"], score[k]["loss"], k))[:MOST]
        for kind, expected in ((TRAIN, by_loss), (VALIDATION, by_score)):
            points = kept[kind][member]
            assert [point.round for point in points] == expected
            for point in points:
                assert point.point().numpy().tobytes() == walk[point.round].tobytes()
                for split in SPLITS:
                    told, known = point.measured[split], numbers[point.round][split]
                    assert told == pytest.approx(known, rel=1e-5)
    names = {path.name for path in trained[method].snapshots.iterdir()}
    points = [p for own in kept.values() for one in own.values() for p in one]
    assert names == {point.path.name for point in points}


def test_a_lucky_epoch_is_not_kept_for_its_luck(trained):
    """What epochs saw on their way would have chosen others."""
    history = results.load(trained["cnognp"].analysis / "history.h5")
    assert history.loss.shape == (ROUNDS, MEMBERS)  # means over the mini-batches of epochs
    kept = trained["cnognp"].kept()[TRAIN]
    lucky = 1 + np.argsort(history.loss, axis=0, kind="stable")[:MOST].T
    assert lucky.tolist() != [[p.round for p in kept[m]] for m in range(MEMBERS)]


def test_the_points_of_all_members_are_numbered_together(trained):
    kept = trained["sgd"].kept()[TRAIN]
    losses = [point.measured["train"]["loss"] for point in pooled(TRAIN, kept)]
    assert len(losses) == MEMBERS * MOST and losses == sorted(losses)


def test_a_point_is_measured_by_its_name(trained):
    folder = trained["sgd"]
    kept = folder.kept()
    for name, point in {
        "train-1": pooled(TRAIN, kept[TRAIN])[0],
        "validation-3": pooled(VALIDATION, kept[VALIDATION])[2],
        "1:train-2": kept[TRAIN][1][1],
    }.items():
        subject = subjects.of_run(folder, name, "last", "", False)
        ((called, z),) = subject.points.items()
        assert called == name.replace("1:", "member001-")
        assert float(value(subject.objective(z), z)) == point.measured["train"]["loss"]
        noted = {"member": point.member, "round": point.round}
        assert subject.origin["snapshots"] == {called: noted}
    assert [*subjects.of_run(folder, "2:validation", "last", "", False).points] == [
        "member002-validation-1", "member002-validation-2",
    ]  # fmt: skip
    for wrong in ("train-7", "train-0", "9:train-1"):
        with pytest.raises(ValueError, match="has kept . points of the kind train"):
            subjects.of_run(folder, wrong, "last", "", False)
    with pytest.raises(ValueError, match="such as train-1"):
        subjects.of_run(folder, "test-1", "last", "", False)


def test_they_are_listed_and_analysed_from_the_command_line(trained, capsys, tmp_path):
    call, folder = runs.calls(capsys), trained["sgd"]
    listed = call("show", folder.path, "--json").document["snapshots"]
    assert [entry["point"] for entry in listed[: MEMBERS * MOST]] == [
        f"train-{k}" for k in range(1, 1 + MEMBERS * MOST)
    ]
    assert "points kept" in call("show", folder.path).out
    outcome = call(
        "analyze", folder.path, "--only", "line", "--member", "train-1", "--grid", "3",
        "--json", "--out", tmp_path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    line = results.load(tmp_path / "analysis" / "line-train-1.h5")
    assert line.center == pytest.approx(listed[0]["metrics"]["train"]["loss"], rel=1e-6)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.snapshots.iterdir())}


@pytest.mark.parametrize("home", ["device", "host"])
def test_a_run_that_was_cut_has_kept_the_same_points(trained, tmp_path, home):
    cut, asked = RunFolder(tmp_path / "run"), iter(range(99))
    elsewhere = config(every=3, members_live=home)
    for most in (1, 4, 99):
        train(elsewhere, cut, resume=True, leave=lambda most=most: next(asked) >= most)
    whole = trained["sgd"]
    assert files(cut) == files(whole)
    ends = [runs.final(folder.path).arrays for folder in (cut, whole)]
    assert ends[0].keys() == ends[1].keys()
    assert all(array.tobytes() == ends[1][name].tobytes() for name, array in ends[0].items())


ARGUMENTS = ("--method", "sgd", "--method.lr", "2", "--snapshots", "2")
SIZES = {"members": 2, "iterations": 5, "every": 2}
# In the first rounds all points are written, and later worse ones are removed.
DEATHS = [
    ("replace", 2, "before"), ("replace", 3, "after"), ("bytes", 3, "half"), ("bytes", 6, "after"),
    ("fsync", 9, "before"), ("replace", 9, "before"), ("unlink", 12, "before"),
    ("unlink", 22, "after"), ("replace", 13, "after"),
]  # fmt: skip


def test_a_run_that_was_killed_has_kept_the_same_points(tmp_path):
    forks = runs.forks()
    whole = RunFolder(tmp_path / "whole")
    outcome, counts = forks(runs.train(whole.path, *ARGUMENTS, **SIZES))
    assert outcome.code == 0, outcome.err
    killed = 0
    for number, death in enumerate(DEATHS):
        folder = RunFolder(tmp_path / str(number))
        outcome, _ = forks(runs.train(folder.path, *ARGUMENTS, **SIZES), die=death)
        killed += outcome.code < 0
        for path in folder.snapshots.glob("*.h5"):
            arrays, _ = hdf5.read(path)  # whole, or not there
            assert arrays["position"].shape == (173,)
        # What the newest checkpoint knows of can be read, wherever the run was killed.
        for own in folder.kept().values() if folder.config_path.exists() else ():
            assert all(len(point.point()) == 173 for one in own.values() for point in one)
        outcome, _ = forks(runs.train(folder.path, "--resume", *ARGUMENTS, **SIZES))
        assert (outcome.code, outcome.err) == (0, "")
        assert files(folder) == files(whole)
        assert temporaries(folder.snapshots) == []
        runs.assert_same_run(folder.path, whole.path)
    assert killed == len(DEATHS), counts


@pytest.mark.parametrize("method", ["sgd", "cnognp"])
def test_a_run_in_bfloat16_that_a_signal_ends_has_kept_the_same_points(tmp_path, method):
    forks, own = runs.forks(), f"{runs.task_file(tmp_path)}:conv"
    words = ["--method", method, "--method.lr", "0.5", "--batch-size", "16", "--snapshots", "2"]
    words += ["--precision", "bfloat16", "--schedule", "cosine", "--schedule-per", "step"]
    sizes = {"task": own, "members": 2, "iterations": 6, "every": 4}
    whole, cut = (RunFolder(tmp_path / name) for name in ("whole", "cut"))
    assert forks(runs.train(whole.path, *words, **sizes))[0].code == 0
    for last in (1, 3, 5):
        outcome, _ = forks(
            runs.train(cut.path, "--resume", *words, **sizes), signal=(signal.SIGTERM, last)
        )
        assert outcome.code == 143, outcome.err
    outcome, _ = forks(["train", "--resume", "--out", cut.path])
    assert (outcome.code, outcome.err) == (0, "")
    assert files(cut) == files(whole) and temporaries(cut.snapshots) == []
    runs.assert_same_run(cut.path, whole.path)


def test_the_checkpoint_before_a_damaged_one_has_its_points(tmp_path):
    folder, asked = RunFolder(tmp_path / "run"), iter(range(99))
    train(config(every=2), folder, leave=lambda: next(asked) == 4)
    newest = checkpoint.steps(folder.checkpoints)[-1]
    assert newest == 5
    (folder.checkpoints / f"{newest:08d}.h5").write_bytes(b"broken")
    for own in folder.kept().values():
        assert all(point.round <= 4 for one in own.values() for point in one)
        assert all(len(point.point()) == 173 for one in own.values() for point in one)


def test_a_point_that_is_gone_or_another_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(config(), folder)
    first, second = folder.kept()[TRAIN][0]
    first.path.write_bytes(second.path.read_bytes())
    with pytest.raises(DamagedFile, match="not the one that was kept"):
        first.point()
    second.path.unlink()
    with pytest.raises(DamagedFile, match="better points were found"):
        second.point()


TASKS = """
import torch
from own import data, network, task
from cnognp.tasks.classification import SCORES

def splits(**mixed):
    torch.manual_seed(9)
    sets = {"validation": data(40), "test": data(30)}
    for name in sets:
        x, y = sets[name]
        sets[name] = (x + 0.5 * torch.randn(x.shape), y.flip(0) if name in mixed else y)
    return task(network(), data(), metrics=SCORES, **sets)

def usual(): return splits()
def other_test(): return splits(test=True)
def other_validation(): return splits(validation=True)
def alone(): return task(network(), data(), test=data(30), metrics=SCORES)
"""


@pytest.fixture
def tasks(tmp_path):
    runs.task_file(tmp_path)
    (tmp_path / "mixed.py").write_text(TASKS)
    return tmp_path / "mixed.py"


def rounds_of(folder, kind):
    kept = folder.kept()[kind]
    return {member: [point.round for point in own] for member, own in kept.items()}


def test_nothing_is_chosen_on_the_test_split_and_only_points_on_the_other(tasks, tmp_path):
    found = {}
    for name in ("usual", "other_test", "other_validation"):
        found[name] = RunFolder(tmp_path / name)
        train(config("cnognp", f"{tasks}:{name}"), found[name])
    ends = {name: runs.final(folder.path) for name, folder in found.items()}
    for name, folder in found.items():
        assert folder.best.read_bytes() == found["usual"].best.read_bytes()
        for key, array in ends["usual"].arrays.items():
            if not key.startswith("snapshots/"):
                assert array.tobytes() == ends[name].arrays[key].tobytes(), key
        assert rounds_of(folder, TRAIN) == rounds_of(found["usual"], TRAIN)
    assert files(found["other_test"]) == files(found["usual"])
    choices = [rounds_of(found[name], VALIDATION) for name in found]
    assert choices[0] == choices[1] != choices[2]
    told = [json.dumps(ends[name].meta["best"]["metrics"]["test"]) for name in found]
    assert told[0] == told[2] != told[1]


def test_without_a_validation_split_none_are_kept_for_it(tasks, tmp_path):
    folder = RunFolder(tmp_path / "alone")
    train(config("sgd", f"{tasks}:alone"), folder)
    kept = folder.kept()
    assert kept[VALIDATION] == {} and len(kept[TRAIN]) == MEMBERS
    measured = kept[TRAIN][0][0].measured
    assert measured["validation"] == {} and measured["test"]["macro_f1"] > 0


class Table:
    """A problem whose numbers are those of a table by the first coordinate of a point."""

    device = torch.device("cpu")

    def __init__(self, rows, metrics=("accuracy",), validation=True):
        self.rows, self.task = rows, SimpleNamespace(metrics=dict.fromkeys(metrics))
        self.splits = [s for s in SPLITS if validation or s != "validation"]

    def data(self, split):
        return 1 if split in self.splits else None

    def metrics(self, z, splits=SPLITS, only=None):
        loss, held, right = self.rows[int(z[0])]
        numbers = {"train": (loss, 0.5), "validation": (held, right), "test": (0.0, 0.0)}
        names = only or ("loss", *self.task.metrics)
        return {
            split: {n: numbers[split][n != "loss"] for n in names} if split in self.splits else {}
            for split in splits
        }


def offered(tmp_path, rows, most=2, **how):
    kept = Snapshots(most, tmp_path / "snapshots", Table(rows, **how))
    for number in range(len(rows)):
        kept.offer(number + 1, torch.tensor([[float(number)]]))
    return {kind: [p.round for p in own.get(0, [])] for kind, own in kept.kept.items()}


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rows", "lowest", "best"),
    [
        # Training loss, validation loss, validation accuracy.
        ([(1, 1, 0.5), (1, 1, 0.5), (1, 1, 0.5)], [1, 2], [1, 2]),
        ([(3, 1, 0.5), (2, 1, 0.5), (1, 1, 0.6)], [3, 2], [3, 1]),
        ([(3, 3, 0.9), (2, 2, 0.9), (1, 9, 0.8)], [3, 2], [2, 1]),
        ([(NAN, 1, 0.5), (INF, NAN, NAN), (-INF, 2, 0.5)], [], [1, 3]),
        ([(2, NAN, 0.5), (NAN, 1, 0.5)], [1], [2, 1]),
        ([(2, 1, 0.1)], [1], [1]),
    ],
    ids=["ties", "lower", "accuracy before loss", "no numbers", "accuracy alone", "few"],
)
def test_ties_numbers_that_are_none_and_few_points(tmp_path, rows, lowest, best):
    found = offered(tmp_path, rows)
    assert (found[TRAIN], found[VALIDATION]) == (lowest, best)


def test_without_accuracy_the_validation_loss_decides(tmp_path):
    rows = [(1, 3, 0.9), (2, 1, 0.1), (3, 2, 0.5)]
    assert offered(tmp_path, rows, metrics=())[VALIDATION] == [2, 3]
    assert offered(tmp_path, rows, validation=False) == {TRAIN: [1, 2], VALIDATION: []}


def test_a_place_that_is_not_finite_is_not_kept(tmp_path):
    kept = Snapshots(2, tmp_path / "snapshots", Table([(1, 1, 1)]))
    kept.offer(1, torch.tensor([[NAN], [INF], [0.0]]))
    assert [*kept.kept[TRAIN]] == [2]


@pytest.mark.parametrize("falling", [True, False])
def test_the_disk_holds_few_points_at_every_moment(tmp_path, falling):
    rounds, most, members = 40, 3, 2
    losses = [rounds - k if falling else 1 + k % 7 for k in range(rounds)]
    table = Table([(loss, 9 - loss, loss / rounds) for loss in losses])
    kept = Snapshots(most, tmp_path / "snapshots", table)
    for k in range(rounds):
        kept.offer(k + 1, torch.full((members, 1), float(k)))
        assert len(list(kept.folder.iterdir())) <= 3 * 2 * most * members
        if k % 5 == 4:
            kept.saved()
    kept.saved(last=True)
    wanted = {p.path.name for own in kept.kept.values() for one in own.values() for p in one}
    assert {path.name for path in kept.folder.iterdir()} == wanted
    assert len(wanted) <= 2 * most * members
    again = Snapshots(most, kept.folder, table)
    again.restore(kept.to_arrays(), {"snapshots": {**kept.described(), "splits": list(SPLITS)}})
    assert again.to_arrays().keys() == kept.to_arrays().keys()
    for name, array in kept.to_arrays().items():
        assert again.to_arrays()[name].tobytes() == array.tobytes()


def test_no_points_are_kept_unasked(tmp_path):
    folder = RunFolder(tmp_path / "run")
    last = train(replace(config(), snapshots=0), folder)
    assert not folder.snapshots.exists() and "snapshots" not in last.meta
    assert folder.kept() == {TRAIN: {}, VALIDATION: {}}
    with pytest.raises(ValueError, match="snapshots must be a whole number of at least 0"):
        replace(config(), snapshots=-1)
