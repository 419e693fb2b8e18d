"""Training runs: what lies in their folder, that it repeats bit for bit, and that it is true."""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from cnognp import METHODS, tasks
from cnognp.method import Info
from cnognp.tasks.problem import Problem
from cnognp.training.config import Config, RunFolder
from cnognp.training.record import Record
from cnognp.training.session import train
from landscape import results
from landscape.objective import value

ADULT = Path(__file__).resolve().parents[4] / "shared" / "data" / "adult"


@pytest.fixture
def call(capsys):
    return runs.calls(capsys)


@pytest.fixture
def own(tmp_path):
    return runs.task_file(tmp_path)


def trained(call, folder, *more, **sizes):
    """What a run says of itself when it has ended well."""
    outcome = call(*runs.train(folder, "--json", *more, **sizes))
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.document


def judged(model, data):
    """Loss, gradient norm and accuracy in evaluation mode, by plain torch."""
    inputs, target = data
    model.eval()
    output = model(inputs)
    loss = cross_entropy(output, target)
    grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))
    accuracy = float((output.argmax(1) == target).double().mean())
    return float(loss.detach()), norm, accuracy


def test_a_run_folder_holds_configuration_checkpoints_history_and_best_member(call, tmp_path):
    trained(call, tmp_path / "run", "--seed", "3")
    names = {str(p.relative_to(tmp_path / "run")) for p in tmp_path.rglob("*") if p.is_file()}
    steps = [f"checkpoints/{k:08d}" for k in (2, 4, 6, 8, 10, 12)]
    files = {f"{step}{end}" for step in steps for end in (".h5", ".sha256")}
    assert names == {*files, "run.yaml", "best.safetensors", "analysis/history.h5"}


def test_run_yaml_is_the_whole_configuration_in_plain_yaml(call, tmp_path):
    trained(call, tmp_path / "run", "--method", "sgd", "--method.lr", "1e-3", "--seed", "3")
    text = (tmp_path / "run" / "run.yaml").read_text()
    assert "!" not in text and "&" not in text
    keys = {
        "lr": 0.001, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "decoupled": False,
        "decay_of": "all", "clip": 0.0, "centralise": "none",
        "data": {"batch_size": 32, "accumulation": 1},
        "schedule": {"name": "constant", "horizon": 12, "warmup": 0, "per": "epoch"},
        "average": {"name": "none", "start": 0, "every": 1, "decay": 0.999},
    }  # fmt: skip
    assert yaml.safe_load(text) == {
        "task": {"name": "wine", "hidden": [10]},
        "method": {"name": "sgd", **keys},
        "members": 6, "iterations": 12, "seed": 3, "checkpoint_every": 2, "record_curvature": 0,
        "judge_every": 0, "members_live": "auto", "together": 0, "snapshots": 0, "weights": "",
        "spread": 0.0, "precision": "float32", "compile": False, "device": "cpu", "threads": 1,
    }  # fmt: skip


QUICK = ("cnognp", "sgd")


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in METHODS]
)
def test_run_yaml_given_back_repeats_the_run_and_so_does_a_run_cut_in_two(call, tmp_path, method):
    sizes = {"members": 3, "iterations": 6, "every": 2}
    trained(call, tmp_path / "run", "--method", method, **sizes)
    again = call("train", "--config", tmp_path / "run" / "run.yaml", "--out", tmp_path / "again")
    assert (again.code, again.err) == (0, "")
    runs.assert_same_run(tmp_path / "again", tmp_path / "run")
    cut = RunFolder(tmp_path / "cut")
    config = Config.from_yaml((tmp_path / "run" / "run.yaml").read_text())
    asked = []
    train(config, cut, leave=lambda: len(asked) == 2 or asked.append(1))
    assert runs.final(cut.path).iteration == 3
    train(config, cut, resume=True)
    runs.assert_same_run(cut.path, tmp_path / "run")


def test_equal_runs_give_equal_bytes(call, tmp_path):
    for name in ("one", "two"):
        trained(call, tmp_path / name)
    one, two = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "one", tmp_path / "two")
    )
    # The learning curves carry the time of their making.
    del one[Path("analysis/history.h5")], two[Path("analysis/history.h5")]
    assert one == two


@pytest.mark.parametrize("name", ["plain", "conv", "tied", "frozen", "dropout"])
def test_the_best_member_loads_strictly_into_the_plain_module(call, tmp_path, own, name):
    document = trained(call, tmp_path / "run", task=f"{own}:{name}", members=3, iterations=4)
    path = tmp_path / "run" / "best.safetensors"
    task = tasks.load(f"{own}:{name}")
    before = {key: tensor.clone() for key, tensor in task.model.state_dict().items()}
    task.model.load_state_dict(load_file(path), strict=True)
    raw = path.read_bytes()
    header = raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]]
    assert set(json.loads(header)["__metadata__"]) == {"sha256"}
    loss, norm, _ = judged(task.model, task.train)
    assert loss == pytest.approx(document["best"]["loss"], rel=1e-5)
    assert norm == pytest.approx(document["best"]["gradient_norm"], rel=1e-4)
    after = task.model.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    if name == "frozen":
        assert torch.equal(before["0.bias"], after["0.bias"])
    if name == "tied":
        assert torch.equal(after["encoder.weight"], after["decoder.weight"])


PENALTIES = {
    "squared": ("squared", lambda loss, norm: loss + 0.3 * norm**2),
    "norm": ("norm", lambda loss, norm: loss + 0.3 * norm),
}


@pytest.mark.parametrize("power", PENALTIES)
def test_the_stored_fitness_of_the_best_member_is_that_of_its_weights(call, tmp_path, power):
    given, fitness = PENALTIES[power]
    document = trained(
        call, tmp_path / "run", "--method.penalty", "0.3", "--method.power", given
    )  # fmt: skip
    task = tasks.load("wine", seed=0)
    task.model.load_state_dict(load_file(tmp_path / "run" / "best.safetensors"))
    loss, norm, accuracy = judged(task.model, task.train)
    best = document["best"]
    assert best["loss"] == pytest.approx(loss, rel=1e-5)
    assert best["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert best["fitness"] == pytest.approx(fitness(loss, norm), rel=1e-5)
    arrays = runs.final(tmp_path / "run").arrays
    assert arrays["best/fitness"] == pytest.approx(fitness(loss, norm), rel=1e-5)
    assert arrays["state/best_fitness"].min() == pytest.approx(fitness(loss, norm), rel=1e-5)
    assert arrays["state/best_fitness"].argmin() == best["member"]
    measured = best["metrics"]["train"]
    assert 0 < measured.pop("macro_f1") <= 1
    assert measured == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-5)
    for split in ("validation", "test"):
        loss, _, accuracy = judged(task.model, getattr(task, split))
        measured = best["metrics"][split]
        del measured["macro_f1"]
        assert measured == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "penalty"),
    [(["cnognp", "--method.penalty", "0.3"], 0.3), (["sgd", "--method.momentum", "0.9"], 0.0)],
    ids=["cnognp", "sgd"],
)
def test_a_network_with_batchnorm_is_judged_with_statistics_of_its_own_weights(
    call, tmp_path, method, penalty
):
    document = trained(
        call, tmp_path / "run", "--task.network", "conv", "--method", *method,
        "--method.batch_size", "64", task="digits", members=2, iterations=2,
    )  # fmt: skip
    task = tasks.load("digits", seed=0, network="conv")
    stored = load_file(tmp_path / "run" / "best.safetensors")
    task.model.load_state_dict(stored)
    loss, norm, accuracy = judged(task.model, task.train)
    best, arrays = document["best"], runs.final(tmp_path / "run").arrays
    assert best["loss"] == pytest.approx(loss, rel=1e-5)
    assert best["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert best["fitness"] == pytest.approx(loss + penalty * norm**2, rel=1e-4)
    assert arrays["best/fitness"] == pytest.approx(loss + penalty * norm**2, rel=1e-4)
    assert best["metrics"]["train"]["accuracy"] == pytest.approx(accuracy)
    assert best["metrics"]["test"]["loss"] == pytest.approx(judged(task.model, task.test)[0])
    # The statistics in the file are those of one pass over the training data.
    for module in task.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    task.model.train()(task.train[0])
    for key, tensor in task.model.state_dict().items():
        if "running" in key:
            assert torch.allclose(stored[key], tensor, rtol=1e-4, atol=1e-6), key


def test_member_0_starts_at_the_model_as_given(call, tmp_path, own):
    trained(
        call, tmp_path / "run", "--method", "gd", task=f"{own}:plain", members=2, iterations=3
    )  # fmt: skip
    task = tasks.load(f"{own}:plain")
    history = results.load(tmp_path / "run" / "analysis" / "history.h5")
    loss, norm, _ = judged(task.model, task.train)
    assert history.loss[0, 0] == pytest.approx(loss, rel=1e-6)
    assert history.gradient_norm[0, 0] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "passes"),
    [(["gd"], 1), (["cnognp", "--method.batch_size", "0"], 1), (["sgd"], 1), (["cnognp"], 2)],
    ids=lambda given: "-".join(given) if isinstance(given, list) else None,
)
def test_the_history_has_a_row_for_each_round_and_counts_evaluations(
    call, tmp_path, method, passes
):
    document = trained(call, tmp_path / "run", "--method", *method, members=3, iterations=7)
    history = results.load(tmp_path / "run" / "analysis" / "history.h5")
    assert history.iteration.tolist() == list(range(1, 8))
    # Every member passes once over the data in a round, and once more to judge a local epoch; a
    # swarm has judged its starts before.
    begun = method[0] == "cnognp"
    assert history.evaluations.tolist() == [3.0 * (passes * k + begun) for k in range(1, 8)]
    assert history.loss.shape == history.gradient_norm.shape == history.fitness.shape == (7, 3)
    assert np.isfinite(history.loss).all()
    assert (np.diff(history.best_fitness) <= 0).all()
    assert (history.best_fitness <= history.fitness.min(1) + 1e-12).all()
    assert (history.method, history.task, history.status) == (method[0], "wine", "finished")
    if method != ["gd"]:  # which is judged once more after its last step
        assert history.best_fitness[-1] == pytest.approx(document["best"]["fitness"], rel=1e-5)


def test_the_last_row_of_the_history_is_that_of_the_last_members(call, tmp_path):
    trained(call, tmp_path / "run")
    history = results.load(tmp_path / "run" / "analysis" / "history.h5")
    arrays = runs.final(tmp_path / "run").arrays
    task = tasks.load("wine", seed=0)
    for member, z in enumerate(torch.from_numpy(arrays["state/position"])):
        torch.nn.utils.vector_to_parameters(z, task.model.parameters())
        loss, norm, _ = judged(task.model, task.train)
        assert history.loss[-1, member] == pytest.approx(loss, rel=1e-5)
        assert history.gradient_norm[-1, member] == pytest.approx(norm, rel=1e-4)
    spread = np.linalg.norm(arrays["state/position"] - arrays["best/position"], axis=1).mean()
    assert history.diversity[-1] == pytest.approx(spread, rel=1e-5)


def test_a_method_that_moves_after_it_evaluates_is_judged_where_it_ends(call, tmp_path):
    document = trained(call, tmp_path / "run", "--method", "gd", "--method.lr", "0.01")
    arrays = runs.final(tmp_path / "run").arrays
    # With steps this small the loss falls in every round, so the last point is the best.
    best = arrays["state/position"][document["best"]["member"]]
    assert arrays["best/position"].tobytes() == best.tobytes()
    assert document["best"]["loss"] < arrays["history/loss"].min()


def test_dropout_is_drawn_anew_in_every_round_and_again_alike(own):
    problem = Problem(tasks.load(f"{own}:dropout"), torch.device("cpu"))
    z = problem.training.point()
    first, again = ([], [])
    for values, seed in ((first, 3), (again, 3)):
        stream = problem.stream(METHODS["gd"](), seed)
        values += [float(value(next(stream), z)) for _ in range(4)]
    assert len(set(first)) == 4 and first == again
    late = problem.stream(METHODS["gd"](), 3, start=2)
    assert float(value(next(late), z)) == first[2]
    other = problem.stream(METHODS["gd"](), 4)
    assert float(value(next(other), z)) != first[0]


def test_the_history_says_where_it_comes_from(call, tmp_path):
    trained(call, tmp_path / "run", "--seed", "3")
    origin = results.load(tmp_path / "run" / "analysis" / "history.h5").provenance
    assert origin["run"] == (tmp_path / "run" / "run.yaml").read_text()
    meta = runs.final(tmp_path / "run").meta
    assert (origin["seed"], origin["model"], origin["data"]) == (3, meta["model"], meta["data"])
    assert len(origin["model"]) == len(origin["data"]) == 64
    assert {"python", "torch", "numpy", "h5py"} <= set(origin["versions"])
    assert 0 < origin["wall_seconds"] < 600


@pytest.mark.parametrize("step", ["1e6", "1e38"])
@pytest.mark.parametrize("method", ["gd", "sgd", "egd", "cnognp"])
def test_a_step_far_too_long_ends_as_diverged_with_the_last_finite_state(
    call, tmp_path, method, step
):
    folder = tmp_path / "run"
    argv = runs.train(folder, "--json", "--method", method, "--method.lr", step, members=3)
    outcome = call(*argv)
    assert (outcome.code, outcome.err) == (0, "")
    document = outcome.document
    assert document["status"] == "diverged" and document["iterations"] < 12
    best = document["best"]
    assert all(math.isfinite(best[key]) for key in ("loss", "gradient_norm", "fitness"))
    # No worse than the best of the starts, which is member 0's or another's.
    assert best["loss"] < 3
    last = runs.final(folder)
    for name in ("state/position", "best/position"):
        assert np.isfinite(last.arrays[name]).all()
    assert all(t.isfinite().all() for t in load_file(folder / "best.safetensors").values())
    shown = call("show", folder, "--json")
    assert shown.code == 0 and shown.document == document
    assert call("show", folder).code == 0
    before = runs.contents(folder)
    again = call(*argv, "--resume")
    assert (again.code, again.err, again.document) == (0, "", document)
    assert runs.contents(folder) == before


def test_the_members_of_a_diverged_run_can_be_measured(call, tmp_path):
    folder = tmp_path / "run"
    assert trained(call, folder, "--method", "gd", "--method.lr", "1e4")["status"] == "diverged"
    only = ("--only", "gradient,line", "--points", 3, "--member", "all")
    outcome = call("analyze", folder, *only, "--json")
    assert (outcome.code, outcome.err) == (0, "") and len(outcome.document["results"]) == 7


@pytest.mark.parametrize("name", ["loader", "shuffled", "dataset", "worded", "dropout", "conv"])
@pytest.mark.parametrize("method", ["cnognp", "sgd"])
def test_tasks_of_every_kind_train_and_resume_bit_for_bit(tmp_path, own, name, method):
    options = {"batch_size": 20} if method == "sgd" else {}
    config = Config(
        f"{own}:{name}", method, members=2, iterations=4, threads=1, method_options=options
    )
    folder, cut = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "cut")
    torch.manual_seed(0)
    last = train(config, folder)
    first, final = last.arrays["history/loss"][0], last.arrays["history/loss"][-1]
    assert last.meta["status"] == "finished" and final.min() < first.min()
    # Another global state must not matter, neither now nor after the cut.
    torch.manual_seed(5)
    train(config, cut, leave=lambda: True)
    torch.manual_seed(6)
    train(config, cut, resume=True)
    for path in (cut.path, folder.path):
        assert runs.final(path).iteration == 4
    assert runs.final(cut.path).meta == last.meta
    runs.assert_same_run(cut.path, folder.path)


def test_training_leaves_no_trace_in_the_process(tmp_path, own):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    config = Config(f"{own}:dropout", "sgd", members=2, iterations=3, threads=threads + 1)
    train(config, RunFolder(tmp_path / "run"))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert f"threads: {threads + 1}" in (tmp_path / "run" / "run.yaml").read_text()


@pytest.mark.slow
def test_adult_trains_from_a_folder(call, tmp_path):
    if not (ADULT / "adult.data").is_file():
        pytest.skip("the Adult data set is not beside the checkout")
    document = trained(
        call, tmp_path / "run", "--quiet", "--data", ADULT, task="adult", members=2, iterations=4
    )
    assert document["best"]["metrics"]["test"]["accuracy"] > 0.5
    tree = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert tree["task"] == {"name": "adult", "data": str(ADULT), "hidden": [10]}
    words = ("--config", tmp_path / "run" / "run.yaml", "--out", tmp_path / "again", "--quiet")
    again = call("train", *words)
    assert (again.code, again.err) == (0, "")
    runs.assert_same_run(tmp_path / "again", tmp_path / "run")
    assert call("train", "--resume", "--out", tmp_path / "run").code == 0


def info(loss, position=None):
    loss = torch.tensor(loss, device="cpu", dtype=torch.float32)
    position = torch.zeros(len(loss), 2, device="cpu") if position is None else position
    return Info(position, loss, loss.abs(), loss, 1)


class State:
    def __init__(self, position):
        self.position = torch.as_tensor(position, device="cpu")


def test_a_run_has_exploded_only_when_no_member_is_left():
    record = Record()
    state = State(torch.zeros(2, 2, device="cpu"))
    record.update(state, info([1.0, 2.0]))
    assert not record.exploded(state, info([1e3, math.nan]))
    assert not record.exploded(state, info([math.inf, 5.0]))
    assert record.exploded(state, info([math.inf, math.nan]))
    assert record.exploded(state, info([1e9, -1e9]))
    lost = State(torch.tensor([[math.nan, 0.0], [0.0, math.inf]], device="cpu"))
    assert record.exploded(lost, info([1.0, 2.0]))
    assert not record.exploded(State(torch.tensor([[0.0, 0.0], [math.nan, 0.0]])), info([1.0, 2.0]))
    silent = info([1.0, 2.0])._replace(loss=None)
    assert not record.exploded(state, silent) and record.exploded(lost, silent)


@pytest.mark.parametrize(
    ("last", "worse"),
    [([1.0, 400.0], False), ([301.0, 400.0], True), ([math.nan, 400.0], True),
     ([math.nan, 1.0], False), ([math.nan, math.nan], False)],
)  # fmt: skip
def test_a_run_ends_worse_when_nobody_is_near_where_the_worst_began(last, worse):
    record, state = Record(), State(torch.zeros(2, 2, device="cpu"))
    record.update(state, info([1.0, 2.0]))
    record.update(state, info(last))
    assert record.ended_worse() is worse


def test_the_best_so_far_is_never_a_nan_and_stays_where_nothing_is_better():
    record = Record()
    points = torch.arange(6.0, device="cpu").reshape(3, 2)
    record.offer(points, torch.tensor([math.nan, 2.0, 3.0], device="cpu"))
    assert (record.best_member, record.best_fitness) == (1, 2.0)
    record.offer(points + 1, torch.tensor([2.0, math.nan, math.inf], device="cpu"))
    assert record.best.tolist() == [2.0, 3.0]
    record.offer(points, torch.tensor([math.nan] * 3, device="cpu"))
    assert record.best_fitness == 2.0


def test_members_that_are_lost_are_named():
    record = Record()
    here = torch.tensor([[0.0, 0.0], [math.nan, 0.0], [1.0, 1.0]], device="cpu")
    assert record.not_finite(here) == [1]
    record.update(State(torch.zeros(3, 2)), info([1.0, 2.0, math.inf]))
    assert record.not_finite(here) == [1, 2]
    record.update(State(torch.zeros(3, 2)), info([1.0, 2.0, 3.0])._replace(loss=None))
    assert record.not_finite(torch.zeros(3, 2, device="cpu")) == []


def test_a_configuration_comes_back_from_its_text():
    config = Config(
        "wine", "cnognp", members=3, seed=7, task_options={"hidden": (4, 5)},
        method_options={"lr": 1e-3, "box": None, "power": "norm"},
    )  # fmt: skip
    again = Config.from_yaml(config.to_yaml())
    assert again.to_yaml() == config.to_yaml() and config.differences(again) == []
    assert again.task_options == {"hidden": (4, 5)}


def test_differences_of_configurations_are_named():
    one = Config("wine", "gd", members=3, method_options={"lr": 0.1})
    assert one.differences(replace(one, members=4)) == ["members 4, not 3"]
    other = Config("wine", "sgd", members=3, method_options={"lr": 0.2, "momentum": 0.9})
    assert one.differences(other) == ["method sgd, not gd"]
    longer = replace(one, method_options={"lr": 0.1, "box": None, "momentum": 0.5})
    assert one.differences(longer) == ["method.momentum 0.5, not None"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "not YAML"),
        ("- 1", "keys task and method"),
        ("task: wine", "keys task and method"),
        ("task: {lr: 1}\nmethod: gd", "task needs a name"),
        ("task: wine\nmethod: gd\nmembrs: 3", "unknown key 'membrs'"),
        ("task: wine\nmethod: gd\nmembers: three", "members must be a whole number"),
        ("task: wine\nmethod: gd\nmembers: true", "members must be a whole number"),
        ("task: wine\nmethod: gd\nmembers: 2.5", "members must be a whole number"),
        ("task: wine\nmethod: gd\nmembers: -2", "members must be a whole number of at least 1"),
        ("task: wine\nmethod: gd\ndevice: 3", "device must be a name"),
    ],
)
def test_a_text_that_is_no_configuration_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        with runs.annotations_unchecked():
            Config.from_yaml(text)


def test_unknown_names_are_refused_before_a_folder_is_made(tmp_path):
    for config, message in (
        (Config("wien"), "no task is called 'wien'"),
        (Config("wine", "gdd"), "unknown method 'gdd'"),
        (Config("wine", device="nowhere"), "device 'nowhere' cannot be used here"),
        (Config("wine", method_options={"lr": -1.0}), "lr must be"),
    ):
        with pytest.raises(ValueError, match=message):
            train(config, RunFolder(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sgd", "adam", "sam", "swa", "cno"])
def test_mini_batches_are_seen_however_deep_a_method_holds_them(name):
    from cnognp import METHODS
    from cnognp.tasks.problem import takes_minibatches

    assert takes_minibatches(METHODS[name](batch_size=8))
    assert not takes_minibatches(METHODS[name](batch_size=0))


def test_of_two_runs_that_are_started_together_one_gets_the_folder(tmp_path):
    folder = RunFolder(tmp_path / "two")
    folder.create(Config("wine"))
    before = folder.config_path.read_text(encoding="utf-8")
    with pytest.raises(FileExistsError, match="two exists; go on with --resume"):
        folder.create(Config("digits"))
    assert folder.config_path.read_text(encoding="utf-8") == before
    folder.create(Config("digits"), fresh=False)
    assert folder.config().task == "digits"
