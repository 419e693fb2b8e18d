"""The pictures of the gallery, and the example of weights trained elsewhere."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from cnognp.tasks import load
from figures import style
from figures.gallery import __main__ as gallery

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def test_every_picture_is_there_and_small_and_every_file_is_one_of_them():
    names = [name for drawn in gallery.PICTURES.values() for name in drawn.values()]
    names = [f"{name}.png" for name in (*names, "learning-curves", "overview")]
    names.append("himmelblau-walks.gif")
    assert len(set(names)) == len(names)
    files = {path.name: path for path in gallery.HERE.iterdir() if path.suffix in (".png", ".gif")}
    assert set(files) == set(names)
    assert all(path.stat().st_size < 350_000 for path in files.values())


def test_a_large_picture_keeps_its_colours_in_fewer_bytes(tmp_path, monkeypatch):
    with style.context():
        figure = Figure((1.0, 1.0), facecolor=style.VERMILION)
    monkeypatch.setattr(gallery, "HERE", tmp_path)
    for most, mode in ((10**9, "RGBA"), (0, "P")):
        monkeypatch.setattr(gallery, "LARGE", most)
        gallery.write(figure, "square")
        picture = Image.open(tmp_path / "square.png")
        assert picture.mode == mode and picture.size == (200, 200)
        assert picture.convert("RGB").getpixel((100, 100)) == (0xD5, 0x5E, 0x00)
    assert [path.name for path in tmp_path.iterdir()] == ["square.png"]


def test_runs_without_results_change_no_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "HERE", tmp_path / "pictures")
    gallery.main(tmp_path)
    assert not (tmp_path / "pictures").exists()


@pytest.mark.skipif(not DATA.is_dir(), reason="the CIFAR-10 images and weights are not here")
def test_the_example_task_has_the_images_that_its_weights_classify():
    safetensors = pytest.importorskip("safetensors.torch")
    task = load(f"{ROOT / 'benchmarks' / 'resnet20_cifar10.py'}:make_task", data=str(DATA), seed=0)
    weights = safetensors.load_file(DATA / "weights" / "cifar10_resnet20.safetensors")
    task.model.load_state_dict(weights)
    images, classes = task.train
    with torch.no_grad():
        # The weights classify each of the first 500 training images correctly.
        assert task.metrics["accuracy"](task.model(images), classes) == 1
    assert images.shape == (128, 3, 32, 32) and not task.model.training
