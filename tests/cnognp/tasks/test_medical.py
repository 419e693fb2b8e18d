"""BreastMNIST and PneumoniaMNIST against their files and published counts."""

import hashlib
import io
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cnognp.measuring.subjects import of_run
from cnognp.tasks import load, medical
from cnognp.tasks.problem import Problem
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from landscape import results
from landscape.files import DamagedFile, UnfitFile

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT.parent / "shared" / "data" / "breastmnist"
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
    with pytest.raises(DamagedFile, match="not the published file.*--task.verify false"):
        load("pneumoniamnist", data=str(few))
    path.write_bytes(b"no archive")
    with pytest.raises(DamagedFile, match="it is no whole archive of NumPy"):
        load("pneumoniamnist", data=str(few), verify=False)


# ------------------------------------------------------------------ files that are not published


def changed(folder, **others):
    """The small file with some of its arrays replaced, None for left out."""
    path = folder / "pneumoniamnist.npz"
    with np.load(path) as found:
        arrays = {**found, **others}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def linear(network, num_classes, norm, generator=None):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


def test_another_file_is_taken_where_one_says_so_and_results_tell(few, tmp_path, monkeypatch):
    monkeypatch.setattr(medical, "architecture", linear)
    changed(few, val_labels=np.arange(10, dtype=np.uint8) % 2)
    task = load("pneumoniamnist", data=str(few), verify=False)
    assert task.validation[1].tolist() == [0, 1] * 5
    md5 = hashlib.md5((few / "pneumoniamnist.npz").read_bytes()).hexdigest()
    told = task.provenance["data_file"]
    assert told["official"] is False and told["md5"] == md5 != told["official_md5"]
    options = {"data": str(few), "verify": False}
    config = Config("pneumoniamnist", "sgd", members=1, iterations=1, task_options=options)
    run = RunFolder(tmp_path / "run")
    train(config, run)
    assert results.load(run.analysis / "history.h5").provenance["data_file"] == told
    assert of_run(run, "best", "last", "", False).origin["data_file"] == told


def test_the_published_file_is_nothing_to_tell_of(few):
    for verify in (True, False):
        assert load("pneumoniamnist", data=str(few), verify=verify).provenance == {}


@pytest.mark.parametrize(("others", "said"), [
    ({"val_labels": None}, "it has no val_labels"),
    ({"test_images": np.zeros((20, 64, 64), np.uint8)}, r"test_images are uint8 .20, 64, 64."),
    ({"test_images": np.zeros((20, 28, 28, 3), np.uint8)}, r"test_images are uint8 .20, 28, 28, 3"),
    ({"train_images": np.zeros((30, 28, 28))}, "train_images are float64"),
    ({"train_labels": np.ones((29, 1), np.uint8)}, r"train_labels are uint8 .29, 1., expected"),
    ({"train_labels": np.full((30, 1), 2, np.uint8)}, "train_labels hold 2, expected 0 or 1"),
    ({"val_labels": np.zeros((10, 1), np.uint8)}, "val_labels hold no 1, so that class is empty"),
])  # fmt: skip
def test_another_file_of_another_form_is_refused(few, others, said):
    changed(few, **others)
    with pytest.raises(UnfitFile, match=said):
        load("pneumoniamnist", data=str(few), verify=False)


def test_a_run_that_was_begun_before_there_was_the_choice_goes_on():
    begun = Config("breastmnist", task_options={"data": "here"})
    again = Config("breastmnist", task_options={"data": "here", "verify": True})
    assert again.differences(begun) == [] == begun.differences(again)
    other = Config("breastmnist", task_options={"data": "here", "verify": False})
    assert other.differences(begun) == ["task.verify True, not False"]


def test_strips_are_unpacked_to_the_images_that_were_packed(few, tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    if not pytest.importorskip("PIL.features").check("webp"):
        pytest.skip("needs Pillow with WebP")
    with np.load(few / "pneumoniamnist.npz") as found:
        arrays = dict(found)
    packed = tmp_path / "packed" / "pneumoniamnist.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as archive:
        for split in SPLITS:
            images = arrays[f"{split}_images"]
            for number, part in enumerate(np.array_split(images, 3)):
                file = io.BytesIO()
                grey = part.reshape(-1, 28)
                image.fromarray(np.stack(3 * [grey], -1)).save(file, "WEBP", lossless=True)
                archive.writestr(f"{split}_images_{number:03d}.webp", file.getvalue())
            file = io.BytesIO()
            np.save(file, arrays[f"{split}_labels"].reshape(-1))
            archive.writestr(f"{split}_labels.npy", file.getvalue())
    monkeypatch.setattr("sys.argv", ["", str(packed), str(tmp_path / "out")])
    runpy.run_path(str(ROOT / "benchmarks" / "medmnist_strips.py"), run_name="__main__")
    assert "train 30, val 10, test 20" in capsys.readouterr().out
    with np.load(tmp_path / "out" / "pneumoniamnist.npz") as found:
        assert {*found} == {*arrays}
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert load("pneumoniamnist", data=str(tmp_path / "out"), verify=False).provenance
