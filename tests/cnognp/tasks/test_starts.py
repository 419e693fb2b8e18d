"""Populations that begin at weights of a file, for tasks of every kind."""

import shutil
from functools import partial
from pathlib import Path
from urllib.error import URLError

import pytest
import runs
import torch
import yaml
from torch import nn
from torch.nn.utils import parameters_to_vector

from cnognp import tasks
from cnognp.tasks.architectures import architecture
from cnognp.tasks.starts import begun_at, file_of
from cnognp.tasks.tabular import starts
from cnognp.tasks.task import Task
from cnognp.tasks.weights import encoded, load
from cnognp.training.config import SPREAD, Config, RunFolder
from cnognp.training.session import Training, train
from landscape.files import UnfitFile

OWN = runs.TASKS


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path / 'own.py'}:plain"


def weights_of(task, path, by=0.25):
    """A file of other weights than the task's, and these as a point."""
    model = tasks.load(task).model
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by)
    torch.save(model.state_dict(), path)
    return parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("kind", ["wine", "digits", "own"])
def test_member_0_is_exact_and_the_others_are_beside_it(kind, own, tmp_path):
    task = own if kind == "own" else kind
    point = weights_of(task, tmp_path / "w.pt")
    config = Config(task, members=40, weights=str(tmp_path / "w.pt"), spread=0.02, device="cpu")
    start = Training.of(config).start(slice(0, 40))
    assert torch.equal(start[0], point)
    away = start[1:] - point
    # Its deviation is known to one in the square root of twice the numbers.
    assert float(away.std()) == pytest.approx(0.02, rel=4 / (2 * away.numel()) ** 0.5)
    assert abs(float(away.mean())) < 4 * 0.02 / away.numel() ** 0.5
    fewer = Training.of(Config(task, members=2, weights=config.weights, spread=0.02, device="cpu"))
    assert torch.equal(fewer.start(slice(0, 2)), start[:2])


def test_a_spread_alone_is_around_the_weights_that_the_task_has(own):
    model = tasks.load(own).model
    start = Training.of(Config(own, members=3, spread=0.1, device="cpu")).start(slice(0, 3))
    assert torch.equal(start[0], parameters_to_vector(model.parameters()).detach())
    assert 0.05 < float((start[1] - start[0]).std()) < 0.15


def test_the_configuration_says_it_in_one_place(tmp_path):
    older = Config("cifar10", task_options={"network": "vgg11", "weights": "w.pt", "spread": 1e-3})
    newer = Config("cifar10", weights="w.pt", spread=1e-3, task_options={"network": "vgg11"})
    assert older == newer and older.differences(newer) == []
    said = yaml.safe_load(newer.to_yaml())
    assert (said["weights"], said["spread"]) == ("w.pt", 1e-3)
    assert said["task"] == {"name": "cifar10", "network": "vgg11"}
    assert Config.from_yaml(newer.to_yaml()) == newer
    assert Config("wine", weights="w.pt").spread == SPREAD
    # A task of a user's own may mean something else by these words.
    mine = Config("my.py:task", task_options={"weights": "w.pt"})
    assert mine.task_options == {"weights": "w.pt"} and mine.weights == ""


@pytest.mark.parametrize("spread", [-1.0, float("nan"), float("inf")])
def test_a_spread_out_of_range_is_refused(spread):
    with pytest.raises(ValueError, match="spread must be at least 0 and finite"):
        Config("wine", spread=spread)


def test_weights_of_another_network_are_refused(own, tmp_path):
    weights_of(own, tmp_path / "w.pt")
    with pytest.raises(UnfitFile):
        Training.of(Config("wine", weights=str(tmp_path / "w.pt"), device="cpu"))


def test_a_run_goes_on_from_the_best_of_another(capsys, tmp_path):
    call = runs.calls(capsys)
    first = call(*runs.train(tmp_path / "one", members=2, iterations=2), "--json").document
    more = ("--weights", tmp_path / "one" / "best.safetensors", "--spread", "1e-7")
    outcome = call(*runs.train(tmp_path / "two", members=2, iterations=2), "--json", *more)
    assert outcome.err == ""
    begun = outcome.document["judgement"]["start_loss"]
    assert begun == pytest.approx(first["best"]["loss"], rel=1e-4)
    assert RunFolder(tmp_path / "two").config().spread == 1e-7


def test_a_run_needs_the_weights_that_it_began_at_no_longer(capsys, tmp_path):
    call = runs.calls(capsys)
    file, whole, cut = (tmp_path / name for name in ("one", "two", "three"))
    assert call(*runs.train(file, members=2, iterations=2)).code == 0
    more = ("--weights", file, "--spread", "1e-3", "--json")
    first = call(*runs.train(whole, *more, members=2, iterations=3, every=1))
    assert first.code == 0 and runs.final(whole).iteration == 3
    task = tasks.load("wine")
    load(whole / "start" / "best.safetensors", task.model)
    begun = parameters_to_vector(task.model.parameters()).detach()
    assert begun.numpy().tobytes() == runs.final(file).arrays["best/position"].tobytes()
    given = Config.from_yaml((whole / "run.yaml").read_text())
    train(given, RunFolder(cut), leave=lambda: True)
    shutil.rmtree(file)
    assert call("train", "--resume", "--out", cut).code == 0
    for name, array in runs.final(whole).arrays.items():
        assert runs.final(cut).arrays[name].tobytes() == array.tobytes(), name
    assert call("analyze", whole, "--only", "gradient").code == 0
    # A run of before there were copies says what it misses.
    shutil.rmtree(whole / "start")
    outcome = call("analyze", whole, "--only", "gradient")
    assert outcome.code == 2 and f"no file {file}" in outcome.err


def test_the_copy_has_the_parameters_of_a_loss_and_what_is_frozen(tmp_path):
    (tmp_path / "own.py").write_text(
        OWN + "\n\nclass Scaled(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = nn.Parameter(torch.ones(2))\n\n"
        "    def forward(self, output, target):\n"
        "        return cross_entropy(output * self.scale, target)\n\n\n"
        "def scaled():\n"
        "    model = network(nn.BatchNorm1d(6))\n"
        "    model[0].bias.requires_grad_(False)\n"
        "    return Task(model=model, loss=Scaled(), train=data())\n"
    )
    spec = f"{tmp_path / 'own.py'}:scaled"
    first, second = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    train(Config(spec, "adam", members=1, iterations=2, device="cpu"), first)
    given = Config(spec, "adam", members=2, iterations=1, device="cpu", weights=str(first.path))
    train(given, second)
    assert second.start.best_loss.read_bytes() == first.best_loss.read_bytes()
    assert second.start.best.read_bytes() == first.best.read_bytes()
    shutil.rmtree(first.path)
    again = Training.of(given, second.path).start(slice(0, 1))
    model = tasks.load(spec).model
    load(second.start.best, model)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert torch.equal(again[0][:-2], parameters_to_vector(trained).detach())
    assert not torch.equal(again[0][-2:], torch.ones(2))


# ------------------------------------------------------------------- what weights may be called


def test_the_folder_of_a_run_is_its_best_member(tmp_path):
    run = RunFolder(tmp_path / "run")
    train(Config("wine", "gd", members=3, iterations=3, device="cpu"), run)
    training = Training.of(Config("wine", members=2, weights=str(run.path), device="cpu"))
    start = training.start(slice(0, 1))
    assert start[0].numpy().tobytes() == runs.final(run.path).arrays["best/position"].tobytes()
    run.best.unlink()
    with pytest.raises(FileNotFoundError, match="is a folder without best.safetensors"):
        Training.of(Config("wine", members=2, weights=str(run.path), device="cpu"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of torch's for what is fetched, and no network."""
    pytest.importorskip("torchvision")
    fetched = []

    def refuse(url, path, **options):
        fetched.append(url)
        raise URLError("there is no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints", fetched


def test_names_of_torchvision_are_files_where_torch_keeps_them(hub):
    folder, fetched = hub
    network = "torchvision:squeezenet1_1"
    with pytest.raises(FileNotFoundError) as caught:
        file_of("IMAGENET1K_V1", network)
    path = folder / "squeezenet1_1-b8a52dc0.pth"
    for words in (str(path), fetched[0], "there is no network", "TORCH_HOME"):
        assert words in str(caught.value)
    trained = architecture(network, 10, generator=torch.Generator().manual_seed(5))
    torch.save(trained.state_dict(), path)
    assert file_of("DEFAULT", network) == file_of("IMAGENET1K_V1", network) == path
    model = architecture(network, 10)
    load(file_of("IMAGENET1K_V1", network), model)
    assert all(map(torch.equal, model.state_dict().values(), trained.state_dict().values()))
    begun = starts(partial(architecture, network, 10), 0, "IMAGENET1K_V1", 1e-4)["model"]
    assert all(map(torch.equal, begun.state_dict().values(), trained.state_dict().values()))
    assert len(fetched) == 1


def test_a_name_that_torchvision_does_not_have_is_refused_with_those_it_has(hub):
    with pytest.raises(ValueError, match="no weights of that name.*there are IMAGENET1K_V1"):
        file_of("IMAGENET1K_V9", "torchvision:resnet18")
    # A network of ours has no such names: it is a file that is not there.
    assert file_of("IMAGENET1K_V1", "resnet20") == Path("IMAGENET1K_V1")
    assert file_of("w.pt", "torchvision:resnet18") == Path("w.pt")


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("weight", torch.ones(3))

    def forward(self, output, target):
        return nn.functional.cross_entropy(output * self.scale, target)


def test_a_run_gives_the_trained_parameters_of_its_loss_as_well(tmp_path):
    model, loss = nn.Linear(2, 3), Scaled()
    task = Task(model, loss, (torch.randn(6, 2), torch.arange(6) % 3))
    trained = {"scale": torch.tensor([2.0, 3.0, 4.0]), "weight": torch.full((3,), 7.0)}
    (tmp_path / "best.safetensors").write_bytes(encoded(nn.Linear(2, 3).state_dict()))
    (tmp_path / "best_loss.safetensors").write_bytes(encoded(trained))
    begun_at(task, str(tmp_path), 0.0)
    assert torch.equal(loss.scale.detach(), trained["scale"])
    assert torch.equal(loss.weight, torch.ones(3))
    (tmp_path / "best_loss.safetensors").write_bytes(encoded({"scale": torch.ones(2)}))
    with pytest.raises(UnfitFile, match="no scale of the shape"):
        begun_at(task, str(tmp_path), 0.0)
