"""BreastMNIST and PneumoniaMNIST against their files and published counts."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from cnognp.tasks import load, medical
from cnognp.tasks.problem import Problem
from landscape.files import DamagedFile

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "data" / "breastmnist"
SPLITS = ("train", "val", "test")
needs_file = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}/breastmnist.npz")


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A folder with a small file in the place of the published one."""
    source, arrays = np.random.default_rng(0), {}
    for split, count in zip(SPLITS, (30, 10, 20), strict=True):
        arrays[f"{split}_images"] = source.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = source.integers(0, 2, (count, 1), dtype=np.uint8)
    path = tmp_path / "pneumoniamnist.npz"
    np.savez(path, **arrays)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(medical, "_PNEUMONIA", medical._PNEUMONIA._replace(md5=md5))
    return tmp_path


@needs_file
def test_the_breast_images_are_those_of_the_published_collection():
    task = load("breastmnist", data=str(FOLDER))
    splits = task.train, task.validation, task.test
    assert [len(target) for _, target in splits] == [546, 78, 156]
    # Al-Dhabyani et al. 2020: 210 malignant, 437 benign and 133 normal images.
    assert torch.cat([target for _, target in splits]).bincount().tolist() == [210, 570]
    assert all(images.shape[1:] == (1, 28, 28) for images, _ in splits)


def test_networks_see_three_equal_channels_from_minus_1_to_1_with_an_edge(few):
    task = load("pneumoniamnist", data=str(few))
    with np.load(few / "pneumoniamnist.npz") as arrays:
        images, target = arrays["train_images"], arrays["train_labels"]
    assert task.train[1].tolist() == target[:, 0].tolist()
    problem = Problem(task, torch.device("cpu"))
    seen = problem.training.data.first.inputs
    truth = torch.full((30, 3, 32, 32), -1.0)
    truth[:, :, 2:30, 2:30] = torch.tensor(images)[:, None].float() / 127.5 - 1
    torch.testing.assert_close(seen, truth)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert task.model(seen).shape == (30, 2)


def test_augmented_mini_batches_are_shifted_by_at_most_two_pixels(few):
    for wanted in (False, True):
        task = load("pneumoniamnist", data=str(few), augment=wanted)
        data = Problem(task, torch.device("cpu")).training.data
        source = torch.Generator(device="cpu").manual_seed(1)
        seen = torch.cat([batch.inputs for batch in data.epoch(8, source)])[:, 0]
        plain = data.first.inputs[:, 0]
        # What is in the middle is somewhere in the picture, as it was or mirrored.
        cores = plain[:, 6:26, 6:26]
        shifts = range(-2, 3) if wanted else (0,)
        for image in seen:
            places = [image[6 + i : 26 + i, 6 + j : 26 + j] for i in shifts for j in shifts]
            places += [place.flip(-1) for place in places if wanted]
            assert any((cores == place).flatten(1).all(1).any() for place in places)
        moved = sum(not (plain == image).flatten(1).all(1).any() for image in seen)
        assert moved > 20 if wanted else moved == 0


def test_a_missing_and_another_file_are_told_with_where_the_published_one_is(few, tmp_path):
    with pytest.raises(FileNotFoundError, match="files/breastmnist.npz.download=1 .0.6 MB."):
        load("breastmnist", data=str(tmp_path))
    path = few / "pneumoniamnist.npz"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DamagedFile, match="it is not the published file"):
        load("pneumoniamnist", data=str(few))
