"""A folder of images against torchvision's own transforms, and what is wrong with a folder."""

import numpy as np
import pytest
import torch

from cnognp.cli.main import main
from cnognp.tasks import imagenet, load
from cnognp.tasks.problem import Problem
from landscape.networks import data, resized_and_flipped

image = pytest.importorskip("PIL.Image")
torchvision = pytest.importorskip("torchvision")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"network": "resnet20", "validation": 3, "batch": 4, "workers": 0}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    # Small pictures, so that looking at a network is no work.
    monkeypatch.setattr(imagenet, "_SIDE", 40)
    monkeypatch.setattr(imagenet, "_SEEN", 32)
    source = np.random.default_rng(0)
    for name, count in (("train", 5), ("val", 2)):
        for kind in ("ant", "bee", "cat"):
            (tmp_path / name / kind).mkdir(parents=True)
            for k in range(count):
                height, width = source.integers(42, 70, 2)
                pixels = source.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
                picture = image.fromarray(pixels).resize((width, height))
                picture.save(tmp_path / name / kind / f"{k}.png")
    return tmp_path


def plain(folder, name):
    """All images as the usual evaluation sees them, and their classes."""
    usual = torchvision.transforms.Compose([
        torchvision.transforms.Resize(40), torchvision.transforms.CenterCrop(32),
        torchvision.transforms.ToTensor(), torchvision.transforms.Normalize(MEAN, DEVIATION),
    ])  # fmt: skip
    found = torchvision.datasets.ImageFolder(str(folder / name), transform=usual)
    pictures, classes = zip(*(found[k] for k in range(len(found))), strict=True)
    return torch.stack(pictures), torch.tensor(classes)


@pytest.mark.parametrize("resident", [True, False])
def test_whoever_judges_sees_what_the_usual_evaluation_sees(folder, resident, monkeypatch):
    monkeypatch.setattr(data, "RESIDENT_BYTES", 2**28 if resident else 1000)
    problem = Problem(load("imagenet", data=str(folder), **SMALL), torch.device("cpu"))
    read = problem.data("test")
    assert read.resident is resident and read.samples == 6
    inputs, target = (torch.cat([batch[k] for batch in read]) for k in (0, 1))
    expected, classes = plain(folder, "val")
    assert torch.equal(target, classes)
    # Normalised after 8 bits or before: the same but for rounding.
    torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("resident", [True, False])
def test_training_sees_every_image_once_an_epoch_in_parts_of_its_own(folder, resident, monkeypatch):
    monkeypatch.setattr(data, "RESIDENT_BYTES", 2**28 if resident else 1000)
    problem = Problem(load("imagenet", data=str(folder), **SMALL), torch.device("cpu"))
    epochs = [
        list(problem.training.minibatches(4, torch.Generator().manual_seed(seed), epochs=1))
        for seed in (0, 0, 1)
    ]
    for first, again, other in zip(*epochs, strict=True):
        one, same, new = (risk.data.first for risk in (first, again, other))
        assert one.inputs.shape[1:] == (3, 32, 32)
        assert torch.equal(one.inputs, same.inputs) and not torch.equal(one.inputs, new.inputs)
    assert sum(risk.samples for risk in epochs[0]) == 12
    classes = torch.cat([risk.data.first.target for risk in epochs[0]])
    assert classes.bincount().tolist() == [4, 4, 4]


def test_a_run_from_the_command_line_ends(folder, tmp_path):
    words = ["train", "imagenet", "--data", str(folder), "--method", "sgd", "--members", "1"]
    for key, number in SMALL.items():
        words += [f"--task.{key}", str(number)]
    more = ["--iterations", "1", "--batch-size", "4", "--out", str(tmp_path / "run")]
    assert main([*words, *more]) == 0


def test_parts_are_functions_of_their_counters_and_inside_the_image():
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 20, 30), generator=source, dtype=torch.uint8)
    found = resized_and_flipped(images, 1, 0, 2, 16)
    assert found.shape == (6, 3, 16, 16) and found.dtype == torch.float32
    assert torch.equal(found[:2], resized_and_flipped(images[:2], 1, 0, 2, 16))
    assert not torch.equal(found, resized_and_flipped(images, 1, 0, 3, 16))
    assert 0 <= found.min() and found.max() <= 255


def test_a_part_has_the_area_and_ratio_that_are_said():
    # Coordinates as colours tell where a part came from.
    down, across = torch.meshgrid(torch.arange(400.0), torch.arange(500.0), indexing="ij")
    images = torch.stack([down, across]).expand(400, 2, 400, 500)
    found = resized_and_flipped(images, 0, 0, 0, 32)
    high = (found[:, 0, -1, 0] - found[:, 0, 0, 0]) * 32 / 31
    wide = (found[:, 1, 0, -1] - found[:, 1, 0, 0]) * 32 / 31
    mirrored = (wide < 0).double().mean()
    assert abs(mirrored - 0.5) < 4 * 0.5 / 20
    share = high * wide.abs() / (400 * 500)
    assert share.min() > 0.075 and share.max() <= 1.001
    inner = (high < 396) & (wide.abs() < 496)
    ratio = (wide.abs() / high)[inner]
    assert ratio.min() > 0.74 and ratio.max() < 1.35
    # The area is uniform where the sides do not cut it: 0.54 on average, 0.0133 the error of it.
    assert abs(share.mean() - 0.54) < 5 * 0.0133
    assert found[:, 0].min() >= 0 and found[:, 0].max() <= 399


@pytest.mark.parametrize(
    "change, options, error, message",
    [
        ("none", {"validation": 14}, ValueError, "validation must be 0, or from 3 to 12 images"),
        ("none", {"deviation": (0.0, 1.0, 1.0)}, ValueError, "deviation must be positive"),
        ("none", {"batch": 0}, ValueError, "batch must be at least 1"),
        ("missing", {}, FileNotFoundError, "no images in .*val .*--data"),
        ("other", {}, ValueError, "other classes: 'cat' is in one alone"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(folder, change, options, error, message):
    if change == "missing":
        (folder / "val").rename(folder / "elsewhere")
    if change == "other":
        (folder / "val" / "cat").rename(folder / "val" / "dog")
    with pytest.raises(error, match=message):
        load("imagenet", data=str(folder), **{**SMALL, **options})
