"""ImageNet, and any folder of images like it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from cnognp.tasks.architectures import Norm, architecture, memory_format, torchvision
from cnognp.tasks.cifar import Colour
from cnognp.tasks.classification import SCORES
from cnognp.tasks.tabular import held_out, starts
from cnognp.tasks.task import Task, smoothed
from landscape.networks import normalised, resized_and_flipped

_SIDE, _SEEN = 256, 224
_FOLDERS = ("train", "val")


def imagenet(
    seed: int = 0,
    data: str = "data",
    network: str = "torchvision:resnet18",
    norm: Norm = "batch",
    weights: str = "",
    spread: float = 1e-7,
    validation: int = 10000,
    augment: bool = True,
    label_smoothing: float = 0.0,
    batch: int = 256,
    workers: int = 4,
    mean: Colour = (0.485, 0.456, 0.406),
    deviation: Colour = (0.229, 0.224, 0.225),
) -> Task:
    """ImageNet, or any folder of images like it: train/CLASS/IMAGE and val/CLASS/IMAGE.

    The folder ``val`` is the test split; images of validation are drawn from those of training by
    seed, as many of each class. Worker processes shorten the shorter side to 256 pixels and cut out
    the middle; what fits in memory stays there as bytes, the rest is read again in every pass. The
    middle 224 pixels are judged. The loss is the cross-entropy.

    Args:
        seed: of the validation split and of the starting weights.
        data: folder that holds ``train`` and ``val``.
        network: torchvision:NAME, a classifier of torchvision for images of 224 x 224, or one of
            the networks of cifar10.
        norm: ``"group"`` puts GroupNorm in the place of BatchNorm.
        weights: at which the first member starts, instead of fresh ones: a file, a run's folder for
            its best member, or one of torchvision's names, such as IMAGENET1K_V1.
        spread: deviation of the normal noise that the other members start with beside them.
        validation: images of the validation split; 0 for none.
        augment: cut a part of 8 to 100 percent out of every image of a training mini-batch, and
            mirror every other one, in the same way for all members. Who judges, measures or takes
            steps on the whole data sees the middle.
        label_smoothing: share of a label that training gives to all classes alike, from 0 to below
            1; members are judged and measured by the plain cross-entropy.
        batch: images that are read together; mini-batches have as many where not all stay in
            memory.
        workers: processes that read images; 0 reads in this one.
        mean: of the red, green and blue that a network takes as 0, from 0 to 1.
        deviation: from the mean that a network takes as 1.

    Raises:
        FileNotFoundError: if the folder has no images in ``train`` and ``val``, or there is no file
            of weights.
        DamagedFile: if the weights cannot be read.
        UnfitFile: if the weights are those of another network.
        ValueError: if the folders have other classes, there is no such network, or a number is out
            of range.
        ModuleNotFoundError: if torchvision is not installed.
    """
    if min(deviation) <= 0:
        raise ValueError(f"deviation must be positive, got {deviation}")
    if batch < 1 or workers < 0:
        raise ValueError(f"batch must be at least 1 and workers at least 0, got {batch}, {workers}")
    train, test = (_folder(Path(data).expanduser(), name) for name in _FOLDERS)
    if train.classes != test.classes:
        other = sorted(set(train.classes) ^ set(test.classes))[0]
        raise ValueError(f"train and val in {data} have other classes: {other!r} is in one alone")
    build = partial(architecture, network, len(train.classes), norm)
    kept, drawn = _split(train, validation, seed)
    read = partial(_reader, batch=batch, workers=workers)
    return Task(
        **starts(build, seed, weights, spread),
        train=read(kept, shuffled=True),
        validation=None if drawn is None else read(drawn),
        test=read(test),
        loss=F.cross_entropy,
        metrics=SCORES,
        name="imagenet",
        prepare=partial(_prepared, mean=mean, deviation=deviation, lies=memory_format(network)),
        augment=_augmented if augment else None,
        training_loss=smoothed(label_smoothing),
    )


def _folder(data: Path, name: str) -> Any:
    """The images in one of the folders, as bytes (3, 256, 256).

    Raises:
        FileNotFoundError: if there are none.
    """
    transforms = torchvision("transforms")
    scaled = transforms.Compose([
        transforms.Resize(_SIDE),
        transforms.CenterCrop(_SIDE),
        transforms.PILToTensor(),
    ])
    try:
        return torchvision("datasets").ImageFolder(str(data / name), transform=scaled)
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"no images in {data / name} ({reason}): it must have a folder for each class. "
            "ImageNet (ILSVRC 2012; 1.28 million images, 150 GB) is given out at image-net.org "
            "after signing up; name the folder that holds train and val with --data"
        ) from None


def _split(train: Any, size: int, seed: int) -> tuple[Any, Any]:
    """The images that stay, and those of validation; None for no split.

    Raises:
        ValueError: if the split is too small or too large to have every class.
    """
    if size == 0:
        return train, None
    classes, most = len(train.classes), len(train) - len(train.classes)
    if not classes <= size <= most:
        raise ValueError(
            f"validation must be 0, or from {classes} to {most} images, so that every class is in "
            f"it and is left for training, got {size}: --task.validation"
        )
    target = np.asarray(train.targets)
    kept, drawn = held_out(np.arange(len(target)), target, size, seed, "validation")
    return Subset(train, kept.tolist()), Subset(train, drawn.tolist())


def _reader(images: Any, batch: int, workers: int, shuffled: bool = False) -> Any:
    """A loader of them, its pages pinned where there is an accelerator to copy them to."""
    return DataLoader(
        images, batch_size=batch, shuffle=shuffled, num_workers=workers,
        pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
    )  # fmt: skip


def _prepared(images: Tensor, mean: Colour, deviation: Colour, lies: torch.memory_format) -> Tensor:
    """The middle 224 pixels, normalised."""
    top, left = ((size - _SEEN) // 2 for size in images.shape[-2:])
    middle = images[..., top : top + _SEEN, left : left + _SEEN]
    return normalised(middle, mean, deviation, lies)


def _augmented(images: Tensor, seed: int, step: int) -> Tensor:
    return resized_and_flipped(images, seed, 0, step, _SEEN)
