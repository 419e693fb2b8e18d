"""CIFAR-10 and CIFAR-100."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from cnognp.tasks.architectures import Norm, architecture, memory_format, torchvision
from cnognp.tasks.classification import SCORES
from cnognp.tasks.tabular import Splits, few, held_out, starts, tensors
from cnognp.tasks.task import Task, smoothed
from landscape.files import DamagedFile
from landscape.networks import cropped_and_flipped, normalised

Colour = tuple[float, float, float]


class _Set(NamedTuple):
    """One of the data sets: its class in torchvision, its own name and its number of classes."""

    kind: str
    name: str
    classes: int


_CIFAR10, _CIFAR100 = _Set("CIFAR10", "CIFAR-10", 10), _Set("CIFAR100", "CIFAR-100", 100)


class _Options(NamedTuple):
    """What both tasks take, as `cifar10` describes it."""

    seed: int
    data: str
    network: str
    norm: Norm
    weights: str
    spread: float
    validation: int
    augment: bool
    label_smoothing: float
    mean: Colour
    deviation: Colour
    images: int


def cifar10(
    seed: int = 0,
    data: str = "data",
    network: str = "resnet20",
    norm: Norm = "batch",
    weights: str = "",
    spread: float = 1e-4,
    validation: int = 5000,
    augment: bool = True,
    label_smoothing: float = 0.0,
    mean: Colour = (0.4914, 0.4822, 0.4465),
    deviation: Colour = (0.2023, 0.1994, 0.2010),
    images: int = 0,
) -> Task:
    """CIFAR-10: 10 classes, 60,000 coloured images of 32 x 32 pixels, networks by name.

    The original test images are the test split (10,000 images); those of validation are drawn from
    the original training images by seed, as many of each class. The images stay bytes on the
    device; they are cropped, mirrored and normalised there. The loss is the cross-entropy of 10
    outputs.

    Args:
        seed: of the validation split and of the starting weights.
        data: folder that holds ``cifar-10-batches-py``, as torchvision makes it.
        network: resnet20, resnet32, resnet44, resnet56, resnet110, resnet8-w8 (of 8 channels),
            wrn16-4, vgg11, vgg16, vit-t, vit-s, or torchvision:NAME for a classifier of
            torchvision.
        norm: ``"group"`` puts GroupNorm in the place of BatchNorm.
        weights: at which the first member starts, instead of fresh ones: a file, a run's folder for
            its best member, or one of torchvision's names, such as IMAGENET1K_V1.
        spread: deviation of the normal noise that the other members start with beside them.
        validation: images of the validation split; 0 for none.
        augment: shift every image of a training mini-batch by up to 4 pixels and mirror every
            other one, in the same way for all members. Who judges, measures or takes steps on the
            whole data sees the images as they are.
        label_smoothing: share of a label that training gives to all classes alike, from 0 to below
            1; members are judged and measured by the plain cross-entropy.
        mean: of the red, green and blue that a network takes as 0, from 0 to 1.
        deviation: from the mean that a network takes as 1.
        images: how many of the training images that validation leaves are trained on, drawn by
            seed, as many of each class; 0 for all.

    Raises:
        FileNotFoundError: if the folder does not hold all files, or there is no file of weights.
        DamagedFile: if they are not the published ones, or the weights cannot be read.
        UnfitFile: if the weights are those of another network.
        ValueError: if there is no such network, or a number is out of range.
        ModuleNotFoundError: if torchvision is not installed.
    """
    return _task(_CIFAR10, _Options(
        seed, data, network, norm, weights, spread, validation, augment, label_smoothing, mean,
        deviation, images,
    ))  # fmt: skip


def cifar100(
    seed: int = 0,
    data: str = "data",
    network: str = "resnet20",
    norm: Norm = "batch",
    weights: str = "",
    spread: float = 1e-4,
    validation: int = 5000,
    augment: bool = True,
    label_smoothing: float = 0.0,
    mean: Colour = (0.5071, 0.4867, 0.4408),
    deviation: Colour = (0.2675, 0.2565, 0.2761),
    images: int = 0,
) -> Task:
    """CIFAR-100: 100 classes, 60,000 coloured images of 32 x 32 pixels; else as cifar10.

    Args:
        seed: of the validation split and of the starting weights.
        data: folder that holds ``cifar-100-python``, as torchvision makes it.
        network: resnet20, resnet32, resnet44, resnet56, resnet110, resnet8-w8 (of 8 channels),
            wrn16-4, vgg11, vgg16, vit-t, vit-s, or torchvision:NAME for a classifier of
            torchvision.
        norm: ``"group"`` puts GroupNorm in the place of BatchNorm.
        weights: at which the first member starts, instead of fresh ones: a file, a run's folder for
            its best member, or one of torchvision's names, such as IMAGENET1K_V1.
        spread: deviation of the normal noise that the other members start with beside them.
        validation: images of the validation split; 0 for none.
        augment: shift and mirror the images of training mini-batches, as in cifar10.
        label_smoothing: share of a label that training gives to all classes, as in cifar10.
        mean: of the red, green and blue that a network takes as 0, from 0 to 1.
        deviation: from the mean that a network takes as 1.
        images: how many of the training images that validation leaves are trained on, drawn by
            seed, as many of each class; 0 for all.

    Raises:
        FileNotFoundError: if the folder does not hold all files, or there is no file of weights.
        DamagedFile: if they are not the published ones, or the weights cannot be read.
        UnfitFile: if the weights are those of another network.
        ValueError: if there is no such network, or a number is out of range.
        ModuleNotFoundError: if torchvision is not installed.
    """
    return _task(_CIFAR100, _Options(
        seed, data, network, norm, weights, spread, validation, augment, label_smoothing, mean,
        deviation, images,
    ))  # fmt: skip


def _task(known: _Set, options: _Options) -> Task:
    """The task on one of the sets.

    Raises:
        ValueError: if a number is out of range.
    """
    if min(options.deviation) <= 0:
        raise ValueError(f"deviation must be positive, got {options.deviation}")
    build = partial(architecture, options.network, known.classes, options.norm)
    task = Task(
        # The network first: a slip in its name is said before the data are read.
        **starts(build, options.seed, options.weights, options.spread),
        **_splits(known, options)._asdict(),
        loss=F.cross_entropy,
        metrics=SCORES,
        name=known.kind.lower(),
        prepare=partial(
            normalised,
            mean=options.mean,
            deviation=options.deviation,
            memory_format=memory_format(options.network),
        ),  # fmt: skip
        augment=_augmented if options.augment else None,
        training_loss=smoothed(options.label_smoothing),
    )
    return few(task, options.images, options.seed)


def _augmented(images: Tensor, seed: int, step: int) -> Tensor:
    # Members share their mini-batches, so that they are compared on the same images.
    return cropped_and_flipped(images, seed, 0, step)


def _splits(known: _Set, options: _Options) -> Splits:
    """Pairs of images (n, 3, 32, 32), bytes, and classes; None for no validation split.

    Raises:
        ValueError: if the validation split is too small or too large to have every class.
    """
    folder = Path(options.data).expanduser()
    (images, target), test = (_read(known, folder, train) for train in (True, False))
    size, most = options.validation, len(target) - known.classes
    if size == 0:
        return tensors(Splits((images, target), None, test))
    if not known.classes <= size <= most:
        raise ValueError(
            f"validation must be 0, or from {known.classes} to {most} images, so that every class "
            f"is in it and is left for training, got {size}"
        )
    kept, drawn = held_out(np.arange(len(target)), target, size, options.seed, "validation")
    train, validation = ((images[rows], target[rows]) for rows in (kept, drawn))
    return tensors(Splits(train, validation, test))


def check_data(name: str, folder: Path) -> None:
    """Nothing, if the files of one of the tasks are in the folder.

    Raises:
        FileNotFoundError: if one is missing; says which, and how to get them.
    """
    _files({"cifar10": _CIFAR10, "cifar100": _CIFAR100}[name], folder)


def _files(known: _Set, folder: Path) -> tuple[Path, str]:
    """Where the files of one of the sets are, and how they are fetched.

    Raises:
        FileNotFoundError: if one is missing.
    """
    source = getattr(torchvision("datasets"), known.kind)
    inner = folder / source.base_folder
    names = [name for name, _ in (*source.train_list, *source.test_list)]
    missing = [n for n in (*names, source.meta["filename"]) if not (inner / n).is_file()]
    fetch = (
        f'python -c "from torchvision.datasets import {known.kind}; '
        f'{known.kind}({str(folder)!r}, download=True)" (170 MB to fetch, 186 MB unpacked, and '
        "the archive stays beside them)"
    )
    if missing:
        raise FileNotFoundError(
            f"no {', '.join(missing)} in {inner}, where {known.name} is looked for. Name the "
            f"folder that holds {source.base_folder} with --data, or fetch the files: {fetch}"
        )
    return inner, fetch


def _read(known: _Set, folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and classes (n,), from files whose MD5 are the published ones.

    Raises:
        FileNotFoundError: if a file is missing; says which, and how to get them.
        DamagedFile: if one is another.
    """
    inner, fetch = _files(known, folder)
    source = getattr(torchvision("datasets"), known.kind)
    try:
        found = source(str(folder), train=train)
    except RuntimeError:
        raise DamagedFile(
            inner,
            f"its files are not those of {known.name}, their MD5 are others",
            f"remove the folder and fetch them: {fetch}",
        ) from None
    images = np.ascontiguousarray(np.moveaxis(found.data, -1, 1))
    return images, np.asarray(found.targets, dtype=np.int64)
