"""Two small sets of MedMNIST."""

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnognp.tasks.architectures import Norm, architecture, memory_format
from cnognp.tasks.classification import SCORES
from cnognp.tasks.tabular import Splits, starts, tensors
from cnognp.tasks.task import Task, smoothed
from landscape.files import DamagedFile
from landscape.networks import cropped_and_flipped, normalised

_MIDDLE, _EDGE, _SHIFT = 0.5, 2, 2


class _File(NamedTuple):
    """One of the sets: its name, the MD5 of its file, and how large that is."""

    name: str
    md5: str
    size: str


_BREAST = _File("breastmnist", "750601b1f35ba3300ea97c75c52ff8f6", "0.6 MB")
_PNEUMONIA = _File("pneumoniamnist", "28209eda62fecd6e6a2d98b1501bb15f", "4 MB")


def breastmnist(
    seed: int = 0,
    data: str = "data",
    network: str = "resnet20",
    norm: Norm = "batch",
    weights: str = "",
    spread: float = 1e-4,
    augment: bool = False,
    label_smoothing: float = 0.0,
) -> Task:
    """BreastMNIST: malignant (0) or not (1), 780 ultrasound images of 28 x 28, networks by name.

    546 / 78 / 156 images for training, validation and test, as published (Yang et al. 2023). The
    grey images stay bytes on the device; there they get an edge of 2 black pixels, three equal
    channels and values from -1 to 1, for networks on images of 32 x 32. The loss is the
    cross-entropy of 2 outputs. Not for clinical use.

    Args:
        seed: of the starting weights.
        data: folder that holds ``breastmnist.npz``.
        network: as in cifar10: resnet20, wrn16-4, vgg11, vit-t, torchvision:NAME and others.
        norm: ``"group"`` puts GroupNorm in the place of BatchNorm.
        weights: file of weights at which the first member starts, instead of fresh ones.
        spread: deviation of the normal noise that the other members start with beside them.
        augment: shift every image of a training mini-batch by up to 2 pixels and mirror every
            other one, in the same way for all members.
        label_smoothing: share of a label that training gives to all classes alike, from 0 to below
            1; members are judged and measured by the plain cross-entropy.

    Raises:
        FileNotFoundError: if a file is missing.
        DamagedFile: if it is not the published one, or the weights cannot be read.
        UnfitFile: if the weights are those of another network.
        ValueError: if there is no such network, or ``spread`` is negative.
    """
    return _task(_BREAST, seed, data, network, norm, weights, spread, augment, label_smoothing)


def pneumoniamnist(
    seed: int = 0,
    data: str = "data",
    network: str = "resnet20",
    norm: Norm = "batch",
    weights: str = "",
    spread: float = 1e-4,
    augment: bool = False,
    label_smoothing: float = 0.0,
) -> Task:
    """PneumoniaMNIST: pneumonia (1) or not (0), 5,856 chest X-rays of 28 x 28; as breastmnist.

    4,708 / 524 / 624 images for training, validation and test, as published.

    Args:
        seed: of the starting weights.
        data: folder that holds ``pneumoniamnist.npz``.
        network: as in cifar10: resnet20, wrn16-4, vgg11, vit-t, torchvision:NAME and others.
        norm: ``"group"`` puts GroupNorm in the place of BatchNorm.
        weights: file of weights at which the first member starts, instead of fresh ones.
        spread: deviation of the normal noise that the other members start with beside them.
        augment: shift and mirror the images of training mini-batches, as in breastmnist.
        label_smoothing: share of a label that training gives to all classes, as in breastmnist.

    Raises:
        FileNotFoundError: if a file is missing.
        DamagedFile: if it is not the published one, or the weights cannot be read.
        UnfitFile: if the weights are those of another network.
        ValueError: if there is no such network, or ``spread`` is negative.
    """
    return _task(_PNEUMONIA, seed, data, network, norm, weights, spread, augment, label_smoothing)


def _task(
    known: _File, seed: int, data: str, network: str, norm: Norm, weights: str, spread: float,
    augment: bool, label_smoothing: float,
) -> Task:  # fmt: skip
    return Task(
        **starts(partial(architecture, network, 2, norm), seed, weights, spread),
        **_read(known, Path(data).expanduser())._asdict(),
        loss=F.cross_entropy,
        metrics=SCORES,
        name=known.name,
        prepare=partial(_prepared, lies=memory_format(network)),
        augment=_augmented if augment else None,
        training_loss=smoothed(label_smoothing),
    )


def _prepared(images: Tensor, lies: torch.memory_format) -> Tensor:
    coloured = F.pad(images, 4 * (_EDGE,)).expand(-1, 3, -1, -1)
    return normalised(coloured, 3 * (_MIDDLE,), 3 * (_MIDDLE,), lies)


def _augmented(images: Tensor, seed: int, step: int) -> Tensor:
    return cropped_and_flipped(images, seed, 0, step, _SHIFT)


def _read(known: _File, folder: Path) -> Splits:
    """Pairs of images (n, 1, 28, 28), bytes, and classes (n,), from the published file.

    Raises:
        FileNotFoundError: if there is none; says how to get it.
        DamagedFile: if it is another.
    """
    path = folder / f"{known.name}.npz"
    fetch = f"https://zenodo.org/records/10519652/files/{known.name}.npz?download=1 ({known.size})"
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: name the folder that holds it with --data, or fetch it from {fetch}"
        )
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != known.md5:
        raise DamagedFile(path, "it is not the published file, its MD5 is another", f"see {fetch}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return tensors(Splits(*(
            (arrays[f"{split}_images"][:, None], arrays[f"{split}_labels"][:, 0])
            for split in ("train", "val", "test")
        )))  # fmt: skip
