"""Measurements of runs and of weights: equal to plain torch, and with where they come from."""

from dataclasses import fields

import numpy as np
import pytest
import runs
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import vector_to_parameters

from cnognp import tasks
from cnognp.measuring import subjects
from cnognp.measuring.kinds import KINDS
from cnognp.training import checkpoint
from cnognp.training.config import RunFolder
from landscape import directions, results
from landscape.networks.layout import Layout

SMALL = ("--grid", 3, "--points", 5, "--k", 2)


@pytest.fixture
def call(capsys):
    return runs.calls(capsys)


@pytest.fixture(scope="module")
def forks():
    return runs.forks()


@pytest.fixture(scope="module")
def wine(forks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "wine"
    assert forks(runs.train(folder, members=3))[0].code == 0
    return folder


@pytest.fixture
def own(tmp_path):
    return runs.task_file(tmp_path)


@pytest.fixture
def conv(forks, own, tmp_path):
    folder = tmp_path / "conv"
    argv = runs.train(folder, "--method", "sgd", task=f"{own}:conv", members=2, iterations=2)
    assert forks(argv)[0].code == 0
    return folder


def measured(call, run, out, *more):
    """The results of ``analyze`` by file name."""
    outcome = call("analyze", run, "--out", out, "--json", *SMALL, *more)
    assert (outcome.code, outcome.err) == (0, "")
    found = {path.stem: results.load(path) for path in (out / "analysis").glob("*.h5")}
    assert set(found) == set(outcome.document["results"])
    return found


def loss_and_norm(model, data):
    loss = cross_entropy(model(data[0]), data[1])
    grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return loss.item(), torch.cat([g.flatten() for g in grads]).norm().item()


def best_model(task, run):
    task.model.load_state_dict(load_file(run / "best.safetensors"))
    return task.model.eval()


def test_gradients_are_those_of_every_member(call, wine, tmp_path):
    gradient = measured(call, wine, tmp_path, "--only", "gradient")["gradient"]
    task = tasks.load("wine", seed=0)
    position = runs.final(wine).arrays["state/position"]
    assert gradient.member.tolist() == [0, 1, 2]
    for z, loss, norm in zip(position, gradient.loss, gradient.gradient_norm, strict=True):
        vector_to_parameters(torch.from_numpy(z), task.model.parameters())
        assert loss_and_norm(task.model, task.train) == pytest.approx((loss, norm), rel=1e-5)


def test_eigenvalues_are_those_of_the_dense_hessian_at_the_best_member(call, wine, tmp_path):
    spectrum = measured(call, wine, tmp_path, "--only", "spectrum", "--k", 4)["spectrum"]
    task = tasks.load("wine", seed=0)
    model, layout = best_model(task, wine).double(), Layout.of(task.model)
    z = layout.flatten({name: p.detach() for name, p in model.named_parameters()})

    def loss(z):
        return cross_entropy(
            functional_call(model, layout.unflatten(z), task.train[0].double()), task.train[1]
        )

    hessian = torch.autograd.functional.hessian(loss, z)
    exact = torch.linalg.eigvalsh(hessian).numpy()
    exact = exact[np.argsort(-np.abs(exact))][:4]
    assert spectrum.eigenvalues == pytest.approx(exact, abs=1e-3 * abs(exact[0]))
    assert spectrum.dim == 173 and spectrum.vectors is None


def test_slices_are_the_loss_at_the_points_that_they_name(call, wine, tmp_path):
    found = measured(call, wine, tmp_path, "--only", "line,plane", "--seed", 4, "--span", 0.5)
    task = tasks.load("wine", seed=0)
    model, layout = best_model(task, wine), Layout.of(task.model)
    z = layout.flatten({name: p.detach() for name, p in model.named_parameters()})
    center = loss_and_norm(model, task.train)[0]

    def along(*steps):
        generator = torch.Generator("cpu").manual_seed(4)
        vectors = directions.random(layout, z, generator, count=len(steps))
        vector_to_parameters(
            z + sum(t * u for t, u in zip(steps, vectors, strict=True)), model.parameters()
        )
        return loss_and_norm(model, task.train)[0]

    line, plane = found["line"], found["plane"]
    assert line.alpha.tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]
    assert line.loss == pytest.approx([along(a) for a in line.alpha], rel=1e-5)
    expected = [[along(a, b) for b in plane.beta] for a in plane.alpha]
    assert plane.loss == pytest.approx(np.array(expected), rel=1e-5)
    assert line.center == plane.center == pytest.approx(center, rel=1e-5)
    assert line.loss[2] == plane.loss[1, 1] == pytest.approx(center, rel=1e-5)


def test_every_result_says_where_it_comes_from(call, wine, tmp_path):
    found = measured(call, wine, tmp_path, "--seed", 4, "--member", "all")
    meta = runs.final(wine).meta
    assert len(found) == 1 + 4 * 3
    for name, result in found.items():
        origin = result.provenance
        assert origin["run"] == (wine / "run.yaml").read_text()
        assert yaml.safe_load(origin["run"])["seed"] == 0
        assert (origin["round"], origin["member"]) == (12, "all")
        assert (origin["model"], origin["data"]) == (meta["model"], meta["data"])
        own = {entry.name for entry in fields(KINDS[name.partition("-")[0]])}
        assert origin["settings"].keys() == own and origin["settings"].get("seed", 4) == 4
        assert origin["settings"].get("grid", 3) == 3
        assert {"python", "torch", "numpy", "h5py", "cnognp"} <= set(origin["versions"])
        assert 0 < origin["wall_seconds"] < 600 and origin["created"]


def test_members_and_checkpoints_are_measured_apart(call, wine, tmp_path):
    found = measured(call, wine, tmp_path / "a", "--only", "line", "--member", "all")
    assert set(found) == {"line-member000", "line-member001", "line-member002"}
    one = measured(call, wine, tmp_path / "b", "--only", "line", "--member", "1")
    assert set(one) == {"line-member001"}
    assert one["line-member001"].loss.tobytes() == found["line-member001"].loss.tobytes()
    steps = measured(call, wine, tmp_path / "c", "--only", "gradient", "--checkpoint", "all")
    assert set(steps) == {f"gradient-step{k}" for k in (2, 4, 6, 8, 10, 12)}
    history = results.load(wine / "analysis" / "history.h5")
    for step in (2, 12):
        losses = steps[f"gradient-step{step}"].loss
        assert losses == pytest.approx(history.loss[step - 1], rel=1e-5)
    single = measured(call, wine, tmp_path / "d", "--only", "gradient", "--checkpoint", "4")
    assert single["gradient-step4"].provenance["round"] == 4


def test_measuring_changes_nothing_but_adds_results(call, forks, tmp_path):
    folder = tmp_path / "run"
    forks(runs.train(folder, members=2, iterations=2))
    before = runs.contents(folder)
    outcome = call("analyze", folder, *SMALL, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.document["folder"] == str(folder / "analysis")
    after = runs.contents(folder)
    added = {path.name for path in set(after) - set(before)}
    assert added == {f"{kind}.h5" for kind in ("gradient", "spectrum", "trace", "line", "plane")}
    places = {folder / "analysis"}
    assert {p: after[p] for p in set(before) - places} == {
        p: before[p] for p in set(before) - places
    }


def test_a_network_with_batchnorm_is_measured_with_statistics_of_its_point(
    call, conv, own, tmp_path
):
    found = measured(call, conv, tmp_path / "out")
    task = tasks.load(f"{own}:conv")
    loss, _ = loss_and_norm(best_model(task, conv), task.train)
    assert "re-estimated at every point" in found["gradient"].statistics
    for kind in ("line", "plane"):
        assert found[kind].center == pytest.approx(loss, rel=1e-5)
    for kind in ("spectrum", "line", "plane"):
        assert "re-estimated at the point" in found[kind].statistics
    best = runs.final(conv).meta["best"]
    member = best["member"]
    assert found["gradient"].loss[member] == pytest.approx(best["loss"], rel=1e-5)
    assert found["gradient"].gradient_norm[member] == pytest.approx(best["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("name", ["plain", "conv", "tied", "frozen"])
def test_given_weights_are_measured_with_the_statistics_that_come_with_them(
    call, own, tmp_path, name
):
    task = tasks.load(f"{own}:{name}")
    torch.manual_seed(3)
    weights = {
        key: t + 0.1 * torch.rand_like(t) if t.is_floating_point() else t
        for key, t in task.model.state_dict().items()
    }
    if name == "tied":
        weights["decoder.weight"] = weights["encoder.weight"].clone()
    save_file(weights, tmp_path / "weights.safetensors")
    task.model.load_state_dict(weights)
    expected = loss_and_norm(task.model.eval(), task.train)
    point = ("--point", tmp_path / "weights.safetensors")
    found = measured(call, f"{own}:{name}", tmp_path / "out", *point)
    gradient = found["gradient"]
    assert (gradient.loss[0], gradient.gradient_norm[0]) == pytest.approx(expected, rel=1e-4)
    assert found["line"].center == pytest.approx(expected[0], rel=1e-5)
    assert found["line"].provenance["weights"] == str(tmp_path / "weights.safetensors")
    assert len(found["line"].provenance["model"]) == 64


def test_a_task_that_draws_its_data_and_weights_is_measured_on_those_it_was_trained_on(
    call, tmp_path
):
    path = tmp_path / "drawn.py"
    path.write_text(
        "import torch\nfrom cnognp.tasks import Task\n"
        "def make(seed: int = 0):\n"
        "    x, y = torch.randn(30, 3), torch.randint(0, 2, (30,))\n"
        "    return Task(torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy, (x, y))\n"
    )
    torch.manual_seed(1)
    sizes = {"task": f"{path}:make", "members": 2, "iterations": 3}
    best = call(*runs.train(tmp_path / "run", "--json", **sizes)).document["best"]
    torch.manual_seed(2)
    weights = ("--point", tmp_path / "run" / "best.safetensors", "--only", "gradient")
    found = measured(call, f"{path}:make", tmp_path / "out", *weights)["gradient"]
    assert found.loss[0] == pytest.approx(best["loss"], rel=1e-6)
    found = measured(call, tmp_path / "run", tmp_path / "again", "--only", "gradient")["gradient"]
    assert found.loss[best["member"]] == pytest.approx(best["loss"], rel=1e-6)
    other = call(*runs.train(tmp_path / "other", "--seed", "1", "--json", **sizes)).document
    assert other["best"]["loss"] != best["loss"]


def test_a_model_is_measured_as_given_where_no_weights_are_named(call, own, tmp_path):
    found = measured(call, f"{own}:plain", tmp_path / "out", "--only", "gradient")
    task = tasks.load(f"{own}:plain")
    expected = loss_and_norm(task.model, task.train)
    got = found["gradient"].loss[0], found["gradient"].gradient_norm[0]
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("subject", ["run", "file"])
def test_active_dropout_is_refused_by_name_and_measured_in_evaluation_mode(
    call, forks, own, tmp_path, subject
):
    run = tmp_path / "run"
    forks(runs.train(run, task=f"{own}:dropout", members=2, iterations=2))
    what = run if subject == "run" else f"{own}:dropout"
    before = runs.contents(run)
    outcome = call("analyze", what, "--out", tmp_path / "out", *SMALL)
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert "1 (Dropout in training mode)" in line and "--eval-mode" in line
    assert not (tmp_path / "out").exists() and runs.contents(run) == before
    found = measured(call, what, tmp_path / "out", "--eval-mode", "--only", "line")
    task = tasks.load(f"{own}:dropout")
    model = best_model(task, run) if subject == "run" else task.model.eval()
    assert found["line"].center == pytest.approx(loss_and_norm(model, task.train)[0], rel=1e-5)


def test_a_loss_that_is_random_without_a_known_module_is_refused(call, tmp_path):
    path = tmp_path / "noisy.py"
    path.write_text(
        "import torch\nfrom cnognp.tasks import Task\n"
        "def loss(output, target): return ((output - target) ** 2).mean() + torch.rand(())\n"
        "def make(): return Task(model=torch.nn.Linear(2, 1), loss=loss,\n"
        "                        train=(torch.ones(4, 2), torch.zeros(4, 1)))\n"
    )
    outcome = call("analyze", f"{path}:make", "--out", tmp_path / "out")
    assert outcome.code == 1 and "found the loss (draws random numbers)" in outcome.err
    assert outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()
    measure = ("analyze", f"{path}:make", "--only", "gradient,spectrum", "--out", tmp_path / "out")
    assert call(*measure, "--noise-seed", "0").code == 0


def test_a_damaged_newest_checkpoint_is_passed_over_with_one_warning(call, forks, tmp_path):
    folder = tmp_path / "run"
    forks(runs.train(folder, members=2, iterations=4))
    newest = folder / "checkpoints" / "00000004.h5"
    newest.write_bytes(newest.read_bytes()[:-1])
    for argv in (["analyze", folder, "--only", "gradient"], ["show", folder]):
        outcome = call(*argv, "--json")
        assert outcome.code == 0 and outcome.document
        (line,) = outcome.err.splitlines()
        assert "00000004.h5 is damaged" in line
    assert results.load(folder / "analysis" / "gradient.h5").provenance["round"] == 2


def test_a_checkpoint_without_members_of_the_model_is_refused(call, forks, tmp_path):
    folder = tmp_path / "run"
    forks(runs.train(folder, members=2, iterations=2))
    last = runs.final(folder)
    for array in (None, last.arrays["state/position"][:, 1:], last.arrays["state/position"][0]):
        arrays = {**last.arrays, "state/position": array}
        arrays = {name: value for name, value in arrays.items() if value is not None}
        for path in (folder / "checkpoints").iterdir():
            path.unlink()
        checkpoint.save(folder / "checkpoints", checkpoint.Checkpoint(2, arrays, last.meta))
        outcome = call("analyze", folder)
        assert outcome.code == 3 and "no members of this model" in outcome.err


def test_what_is_asked_for_is_checked_before_anything_is_measured(wine, tmp_path):
    subject = subjects.of_run(RunFolder(wine), "best", "last", "", False)
    missing = KINDS["spectrum"](where=("head",))
    for kinds, message in (([missing], "'head'"), ([], "no measurement")):
        with pytest.raises(ValueError, match=message):
            subjects.analyze(subject, tmp_path / "out", kinds)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("k", 0), ("which", "XX"), ("points", 1), ("grid", 1), ("span", 0.0), ("tolerance", 1.0),
     ("span", float("nan")), ("tolerance", 0.0)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*, got {value}"):
        for page in KINDS.values():
            if field in page.__dataclass_fields__:
                page(**{field: value})
