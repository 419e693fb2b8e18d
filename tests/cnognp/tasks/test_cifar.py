"""CIFAR against networks trained elsewhere, torchvision's own reader, and its own definition."""

import copy
import inspect
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnognp.cli.main import main
from cnognp.methods import METHODS
from cnognp.tasks import TASKS, cifar, initial_population, load
from cnognp.tasks.architectures import architecture
from cnognp.tasks.problem import Problem
from cnognp.tasks.weights import load as load_weights
from cnognp.training.config import Config
from cnognp.training.session import Training
from landscape.files import DamagedFile, UnfitFile
from landscape.networks import Data, EmpiricalRisk, Layout, cropped_and_flipped, normalised
from landscape.objective import value

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
CPU = torch.device("cpu")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}
needs_data = pytest.mark.skipif(
    not (SHARED / "cifar10").is_dir(), reason=f"needs the images and weights in {SHARED}"
)


def strips(path, labels, count):
    """The first images of a packed file, (n, 32, 32, 3), and their classes."""
    image = pytest.importorskip("PIL.Image")
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".webp"))[: count // 500]
        parts = [np.asarray(image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names]
        target = np.load(io.BytesIO(archive.read(labels)))
    images = np.concatenate([part.reshape(-1, 32, 32, 3) for part in parts])[:count]
    return images, target[:count].astype(np.int64)


def pair(images, target):
    return torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(target)


class Folder:
    """What of torchvision's class is used, on a few random images."""

    base_folder = "few"
    train_list = (("one", ""), ("two", ""))
    test_list = (("three", ""),)
    meta = {"filename": "names"}
    sound, classes = True, 10

    def __init__(self, root, train):
        if not self.sound:
            raise RuntimeError("Dataset not found or corrupted.")
        source = np.random.default_rng(train)
        count = 120 if train else 40
        self.data = source.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = [k % self.classes for k in range(count)]


@pytest.fixture
def few(monkeypatch, tmp_path):
    hundred = type("CIFAR100", (Folder,), {"classes": 30})
    known = SimpleNamespace(CIFAR10=Folder, CIFAR100=hundred)
    monkeypatch.setattr(cifar, "torchvision", lambda part: known)
    (tmp_path / "few").mkdir()
    for name in ("one", "two", "three", "names"):
        (tmp_path / "few" / name).write_bytes(b"")
    return tmp_path


def task_of(folder, **options):
    return load("cifar10", **{"data": str(folder), "validation": 20, **options})


@pytest.mark.parametrize("network", ["resnet20", "wrn16-4", "vgg11"])
def test_images_of_residual_networks_alone_have_channels_last_and_the_same_numbers(few, network):
    task = task_of(few, network=network)
    seen, plain = task.prepare(task.test[0]), normalised(
        task.test[0], (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    )  # fmt: skip
    assert torch.equal(seen, plain) and plain.is_contiguous()
    last = seen.is_contiguous(memory_format=torch.channels_last)
    assert (last, seen.is_contiguous()) == ((False, True) if "vgg" in network else (True, False))
    # What comes out differs by rounding alone.
    with torch.no_grad():
        model = task.model.eval()
        torch.testing.assert_close(model(seen), model(plain), rtol=1e-4, atol=1e-4)


def test_smoothed_labels_are_those_of_torch_in_training_alone(few, tmp_path):
    task = task_of(few, network="resnet20", label_smoothing=0.1, augment=False)
    problem = Problem(task, CPU)
    images, target = task.prepare(task.train[0]), task.train[1]
    z = problem.training.point()
    with torch.no_grad():
        output = copy.deepcopy(task.model).train()(images)
    truth = F.cross_entropy(output, target, label_smoothing=0.1)
    torch.testing.assert_close(value(problem.training, z), truth, rtol=1e-4, atol=1e-5)
    # Statistics of one batch are those that it is normalised with, but for n / (n - 1).
    plain, judged = F.cross_entropy(output, target), value(problem.evaluation, z)
    torch.testing.assert_close(judged, plain, rtol=0.01, atol=0.01)
    assert abs(float(truth - plain)) > 0.003
    train, test = (problem.metrics(z)[split]["loss"] for split in ("train", "test"))
    assert train == pytest.approx(float(judged), rel=1e-5) and np.isfinite(test)
    with pytest.raises(ValueError, match="label_smoothing must be from 0 to below 1, got 1"):
        task_of(few, label_smoothing=1.0)
    config = Config(
        task="cifar10", method="gd", members=1, device="cpu",
        task_options={"data": str(few), "validation": 20, "label_smoothing": 0.1},
    )  # fmt: skip
    with pytest.raises(ValueError, match="label_smoothing. is for steps on mini-batches"):
        Training.of(config)


def test_a_few_images_are_as_many_of_each_class_whatever_else_is_asked(few):
    whole = task_of(few)
    for name, classes, validation, images in (
        ("cifar10", 10, 20, 30), ("cifar100", 30, 0, 45),
    ):  # fmt: skip
        how = {"data": str(few), "validation": validation, "images": images}
        one, again, other = (load(name, **how, seed=seed) for seed in (0, 0, 1))
        counts = torch.bincount(one.train[1])
        assert len(one.train[1]) == images and set((counts - images // classes).tolist()) <= {0, 1}
        assert torch.equal(one.train[0], again.train[0])
        assert not torch.equal(one.train[0], other.train[0])
        plain = load(name, **{**how, "images": 0})
        known = {image.numpy().tobytes() for image in plain.train[0]}
        assert {image.numpy().tobytes() for image in one.train[0]} <= known
        for split in ("validation", "test") if validation else ("test",):
            assert torch.equal(getattr(one, split)[0], getattr(plain, split)[0])
    assert len(task_of(few, images=100).train[1]) == len(whole.train[1]) == 100
    for images in (9, 91, 99, 101, -1):
        with pytest.raises(ValueError, match="images must be 0 or 100 for all .*from 10 to 90"):
            task_of(few, images=images)
    old = Config(task="cifar10", task_options={"network": "resnet32"})
    assert (
        old.differences(Config(task="cifar10", task_options={"network": "resnet32", "images": 0}))
        == []
    )


def test_a_run_of_before_there_were_smoothed_labels_goes_on():
    old, new, other = (
        Config(task="cifar10", task_options={"network": "resnet32", **options})
        for options in ({}, {"label_smoothing": 0.0}, {"label_smoothing": 0.1})
    )
    assert old.differences(new) == new.differences(old) == []
    assert old.differences(other) == ["task.label_smoothing 0.1, not 0.0"]


# ------------------------------------------------------------ networks that were trained elsewhere


@needs_data
@pytest.mark.parametrize(("name", "correct", "entropy"), [
    ("resnet20", 915, 0.384205),
    pytest.param("resnet32", 928, 0.314642, marks=pytest.mark.slow),
])  # fmt: skip
def test_trained_networks_are_as_good_as_published_on_a_thousand_images(name, correct, entropy):
    images, target = strips(SHARED / "cifar10" / "test_batch.zip", "labels.npy", 1000)
    model = architecture(name, 10)
    load_weights(SHARED / "weights" / f"cifar10_{name}.safetensors", model)
    data = Data(pair(images, target), prepare=lambda x: normalised(x, *IMAGENET.values()))
    risk = EmpiricalRisk(model, data, F.cross_entropy)
    hits = risk.measuring(lambda output, y: (output.argmax(1) == y).float().mean())
    assert round(1000 * float(value(hits, risk.point()))) == correct
    assert float(value(risk, risk.point())) == pytest.approx(entropy, abs=2e-5)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    pytest.importorskip("torchvision")
    folder = tmp_path_factory.mktemp("cifar")
    script = [sys.executable, str(SHARED / "unpack_cifar10.py"), str(folder)]
    subprocess.run(script, check=True, capture_output=True)
    return folder


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "correct", "entropy"), [
    ("resnet20", 9173, 0.37266), ("resnet32", 9263, 0.37410),
])  # fmt: skip
def test_trained_networks_are_as_good_as_published_on_all(unpacked, name, correct, entropy):
    file = SHARED / "weights" / f"cifar10_{name}.safetensors"
    task = load("cifar10", data=str(unpacked), network=name, weights=str(file), **IMAGENET)
    assert [len(split[1]) for split in (task.train, task.validation, task.test)] == [
        45_000, 5000, 10_000,
    ]  # fmt: skip
    assert torch.equal(task.validation[1].bincount(), torch.full((10,), 500))
    problem = Problem(task, CPU)
    z = problem.as_given.point()
    # One pass for both numbers.
    risk = problem.metric("test_loss", z, own_statistics=True)
    with torch.no_grad():
        pairs = [(risk.outputs(z, batch), batch.target) for batch in risk.data]
    output, target = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    assert int((output.argmax(1) == target).sum()) == correct
    assert float(F.cross_entropy(output, target)) == pytest.approx(entropy, abs=1e-5)


@needs_data
def test_normalised_images_of_cifar100_have_mean_0_and_deviation_1():
    images, target = strips(SHARED / "cifar100" / "train_10k.zip", "fine_labels.npy", 5000)
    defaults = inspect.signature(TASKS["cifar100"]).parameters
    pixels, _ = pair(images, target)
    found = normalised(pixels, defaults["mean"].default, defaults["deviation"].default)
    assert found.mean((0, 2, 3)).abs().max() < 0.02
    assert (found.std((0, 2, 3)) - 1).abs().max() < 0.02


# ------------------------------------------------------------------------------------ the splits


def test_images_are_bytes_of_the_reader_channels_first_and_validation_is_cut_from_training(few):
    task = task_of(few)
    assert [len(part[0]) for part in (task.train, task.validation, task.test)] == [100, 20, 40]
    whole, test = Folder("", train=True), Folder("", train=False)
    assert torch.equal(task.test[0], torch.tensor(test.data).permute(0, 3, 1, 2))
    assert task.test[1].tolist() == test.targets
    assert task.validation[1].bincount().tolist() == [2] * 10
    found = {image.numpy().tobytes() for part in (task.train, task.validation) for image in part[0]}
    assert found == {image.transpose(2, 0, 1).tobytes() for image in whole.data}
    assert task.train[0].dtype == torch.uint8
    other = task_of(few, seed=1)
    assert torch.equal(task.test[0], other.test[0])
    assert not torch.equal(task.validation[0], other.validation[0])
    assert task_of(few, validation=0).validation is None


def test_cifar100_has_a_hundred_outputs_and_a_name_of_its_own(few):
    task = load("cifar100", data=str(few), validation=0)
    assert task.name == "cifar100" and int(task.train[1].max()) == 29
    with torch.no_grad():
        assert task.model.eval()(task.prepare(task.test[0][:2])).shape == (2, 100)


@pytest.mark.parametrize(("options", "message"), [
    ({"validation": 9}, "validation must be 0, or from 10 to 110 images"),
    ({"validation": 111}, "validation must be 0, or from 10 to 110 images"),
    ({"deviation": (1.0, 0.0, 1.0)}, "deviation must be positive"),
    ({"spread": -1.0}, "spread must be at least 0, got -1.0"),
    ({"network": "resnet21"}, "no network is called 'resnet21'"),
])  # fmt: skip
def test_options_out_of_range_are_refused(few, options, message):
    with pytest.raises(ValueError, match=message):
        task_of(few, **options)


def test_missing_files_are_named_with_the_way_to_get_them(few):
    for name in ("two", "names"):
        (few / "few" / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        task_of(few)
    said = str(caught.value)
    assert f"no two, names in {few / 'few'}, where CIFAR-10 is looked for" in said
    assert f"CIFAR10({str(few)!r}, download=True)" in said and "170 MB to fetch" in said


def test_files_of_another_content_are_refused(few, monkeypatch):
    monkeypatch.setattr(Folder, "sound", False)
    with pytest.raises(DamagedFile, match="its files are not those of CIFAR-10"):
        task_of(few)


def test_what_torchvision_looks_for_is_what_is_missed(tmp_path):
    pytest.importorskip("torchvision")
    files = {
        "cifar10": ("cifar-10-batches-py", "data_batch_1"),
        "cifar100": ("cifar-100-python", "train"),
    }
    for name, (inner, first) in files.items():
        with pytest.raises(FileNotFoundError, match=f"no {first}, .* in .*{inner}"):
            load(name, data=str(tmp_path))


# -------------------------------------------------------------- what training and judging see


def test_training_sees_moved_images_and_judging_plain_ones(few):
    task = task_of(few)
    problem = Problem(task, CPU)
    images, target = task.train
    plain = normalised(images, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    for split in ("train", "validation", "test"):
        truth = normalised(
            getattr(task, split)[0], (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)
        )
        assert torch.equal(torch.cat([b.inputs for b in problem.data(split)]), truth)
    risk = problem.training
    assert torch.equal(risk.data.first.inputs, plain)

    def epoch():
        source = torch.Generator(device="cpu").manual_seed(4)
        return [next(iter(one.data)) for one in risk.minibatches(32, source, epochs=1)]

    first, again = epoch(), epoch()
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    seen = torch.cat([batch.inputs for batch in first])
    assert len(seen) == 100
    known = {image.numpy().tobytes() for image in plain}
    assert sum(image.numpy().tobytes() in known for image in seen) < 15
    left = Problem(task_of(few, augment=False), CPU).training
    source = torch.Generator(device="cpu").manual_seed(4)
    order = [next(iter(one.data)) for one in left.minibatches(32, source, epochs=1)]
    assert {image.numpy().tobytes() for b in order for image in b.inputs} == known
    assert [b.target.tolist() for b in order] == [b.target.tolist() for b in first]


def test_a_mini_batch_is_the_crop_that_seed_and_step_say(few):
    task = task_of(few)
    data = Problem(task, CPU).training.data
    source = torch.Generator(device="cpu").manual_seed(9)
    order = torch.randperm(100, generator=torch.Generator(device="cpu").manual_seed(9))
    for step, (batch, index) in enumerate(
        zip(data.epoch(48, source), order.split(48), strict=True)
    ):
        moved = cropped_and_flipped(task.train[0][index], 9, 0, step)
        assert torch.equal(batch.inputs, task.prepare(moved))


def test_a_member_trains_on_the_same_images_however_many_there_are(few):
    task = task_of(few)
    problem, method = Problem(task, CPU), METHODS["sgd"](lr=0.1, momentum=0.9, batch_size=50)
    z = initial_population(task, Layout.of(task.model), 3, seed=0)
    ends = []
    for members in (1, 3):
        source = torch.Generator(device="cpu").manual_seed(6)
        objective = next(problem.stream(method, 0))
        state, _ = method.step(objective, method.init(objective, z[:members]), source)
        ends.append(state.position)
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.equal(ends[0][0], z[0])


@pytest.mark.slow
def test_a_population_trains_from_the_command_line_and_is_measured(few, capsys):
    run = str(few / "run")
    options = ["--data", str(few), "--task.validation", "20", "--method.batch_size", "50"]
    options += ["--task.norm", "group", "--members", "1", "--iterations", "1"]
    assert main(["train", "cifar10", "--method", "sgd", *options, "--out", run, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert set(best["metrics"]) == {"train", "validation", "test"}
    model = architecture("resnet20", 10, "group")
    load_weights(few / "run" / "best.safetensors", model)
    task = task_of(few, norm="group")
    with torch.no_grad():
        truth = F.cross_entropy(model.eval()(task.prepare(task.train[0])), task.train[1])
    assert best["loss"] == pytest.approx(float(truth), rel=1e-4)
    assert main(["analyze", run, "--only", "gradient", "--json"]) == 0


# ------------------------------------------------------------------------------------- weights


def test_a_population_begins_at_the_weights_of_a_file_and_beside_them(few, tmp_path):
    trained = architecture("resnet20", 10, generator=torch.Generator().manual_seed(8))
    path = tmp_path / "trained.pt"
    state = {f"module.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    task = task_of(few, weights=str(path), spread=1e-3)
    layout = Layout.of(task.model)
    z = initial_population(task, layout, 3, seed=0)
    own = layout.flatten({name: p.detach() for name, p in trained.named_parameters()})
    assert torch.equal(z[0], own)
    for member in (1, 2):
        away = z[member] - own
        assert float(away.std()) == pytest.approx(1e-3, rel=0.01)
        assert abs(float(away.mean())) < 1e-5
    assert not torch.equal(z[1], z[2])


def test_weights_of_another_network_are_refused_with_the_first_names(few, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(architecture("resnet20", 100).state_dict(), path)
    with pytest.raises(UnfitFile) as caught:
        task_of(few, weights=str(path))
    said = str(caught.value)
    assert "linear.weight has the shape (100, 64), in the model (10, 64)" in said
    assert "linear.bias has the shape (100,), in the model (10,)" in said
