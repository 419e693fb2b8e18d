"""Handwritten digits of 28 x 28 pixels: scikit-learn's enlarged, or MNIST from its own files."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from cnognp.tasks.architectures import torchvision
from cnognp.tasks.classification import SCORES
from cnognp.tasks.strokes import SIDE, STROKES, drawn
from cnognp.tasks.tabular import Splits, held_out, split, starts, tensors
from cnognp.tasks.task import Task
from landscape.randomness import derived_seed

_ORDER = 0  # the seed of the one order of pixels that the LSTM reads, whatever the seed of a task
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
          "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip


def mnist(
    seed: int = 0, data: str = "", network: str = "fcp", images: int = 0, validation: int = 1000
) -> Task:
    """Handwritten digits of 28 x 28 pixels, four networks of the literature to choose from.

    Those of scikit-learn, 8 x 8 pixels enlarged by bilinear interpolation, 1,079 / 359 / 359 images
    for training, validation and test; or those of the files of MNIST. Pixels are from 0 to 1. The
    loss is the cross-entropy of 10 outputs, and for the autoencoder the mean squared error of a
    pixel.

    Args:
        seed: of the splits and of the starting weights.
        data: folder that holds ``MNIST/raw`` with the four files, unpacked, as torchvision keeps
            them; scikit-learn's digits where empty.
        network: fcp (784-50-50-10 without bias, 42,200 parameters), lenet (61,706), autoencoder
            (784-32-32-32-784 without bias, sigmoids at the end, 52,224), or lstm (over 28 rows of
            pixels in one random order, 15,456); hidden units are softplus.
        images: of the training images, drawn by seed, as many of each class; 0 for all.
        validation: images that are taken from the training images of MNIST; not used without.

    Raises:
        ValueError: if there is no such network, or fewer images.
        FileNotFoundError: if a file is missing.
    """
    if network not in STROKES:
        raise ValueError(f"network must be one of {', '.join(STROKES)}, got {network!r}")
    splits = _of_files(Path(data).expanduser(), validation, seed) if data else _enlarged(seed)
    pixels, target = splits.train
    if images:
        if not 10 <= images <= len(target) - 10:
            raise ValueError(
                f"images must be from 10 to {len(target) - 10}, or 0 for all, got {images}"
            )
        rows = held_out(np.arange(len(target)), target, images, seed, "images")[1]
        splits = splits._replace(train=(pixels[rows], target[rows]))
    shaped = Splits(*(_shaped(network, *each) for each in splits))
    rebuilt = network == "autoencoder"
    return Task(
        **starts(partial(drawn, STROKES[network]), seed),
        **tensors(shaped)._asdict(),
        loss=F.mse_loss if rebuilt else F.cross_entropy,
        metrics={} if rebuilt else SCORES,
        name="mnist" if data else "digits of 28 x 28 pixels",
    )


def check_files(data: str) -> None:
    """Nothing, if the files of MNIST are there, or none are needed; none is read.

    Raises:
        FileNotFoundError: if one is missing.
    """
    folder = Path(data).expanduser() / "MNIST" / "raw"
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if data and missing:
        raise FileNotFoundError(
            f"no {', '.join(missing)} in {folder}: name the folder that holds MNIST/raw with "
            "--data, or leave that out for the digits of scikit-learn"
        )


def _enlarged(seed: int) -> Splits:
    """Images (n, 784) from 0 to 1 and classes."""
    pixels, target = load_digits(return_X_y=True)
    small = torch.as_tensor(pixels / 16, dtype=torch.float32, device="cpu").reshape(-1, 1, 8, 8)
    large = F.interpolate(small, (SIDE, SIDE), mode="bilinear").flatten(1).numpy()
    return Splits(*((large[rows], target[rows]) for rows in split(target, seed)))


def _of_files(data: Path, validation: int, seed: int) -> Splits:
    """As `_enlarged`, of the files."""
    check_files(str(data))
    read: Any = torchvision("datasets").mnist
    folder = data / "MNIST" / "raw"

    def pair(images: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
        pixels = read.read_image_file(str(folder / images)).flatten(1).numpy()
        return (pixels / 255).astype(np.float32), read.read_label_file(str(folder / labels)).numpy()

    pixels, target = pair(*_FILES[:2])
    rows = np.arange(len(target))
    kept, held = held_out(rows, target, validation, seed, "validation")
    return Splits((pixels[kept], target[kept]), (pixels[held], target[held]), pair(*_FILES[2:]))


def _shaped(network: str, pixels: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and target as the network and its loss take them."""
    if network == "lenet":
        return pixels.reshape(-1, 1, SIDE, SIDE), target
    if network == "lstm":
        order = np.random.default_rng(derived_seed(_ORDER, "order")).permutation(SIDE * SIDE)
        return pixels[:, order].reshape(-1, SIDE, SIDE), target
    return (pixels, pixels) if network == "autoencoder" else (pixels, target)
