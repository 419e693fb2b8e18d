"""Two small sets of MedMNIST."""

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnognp.tasks.architectures import Norm, architecture, memory_format
from cnognp.tasks.classification import SCORES
from cnognp.tasks.tabular import Splits, starts, tensors
from cnognp.tasks.task import Task, smoothed
from landscape.files import DamagedFile, UnfitFile
from landscape.networks import cropped_and_flipped, normalised

_MIDDLE, _EDGE, _SHIFT = 0.5, 2, 2
_SPLITS, _CLASSES, _SHAPE = ("train", "val", "test"), (0, 1), (28, 28)


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
    verify: bool = True,
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
        weights: at which the first member starts, instead of fresh ones: a file, a run's folder for
            its best member, or one of torchvision's names, such as IMAGENET1K_V1.
        spread: deviation of the normal noise that the other members start with beside them.
        augment: shift every image of a training mini-batch by up to 2 pixels and mirror every
            other one, in the same way for all members.
        label_smoothing: share of a label that training gives to all classes alike, from 0 to below
            1; members are judged and measured by the plain cross-entropy.
        verify: take nothing but the published file; false takes any file of its form, and results
            say that it is another.

    Raises:
        FileNotFoundError: if a file is missing.
        DamagedFile: if it is not the published one, or the weights cannot be read.
        UnfitFile: if a file that is not verified has another form, or the weights are those of
            another network.
        ValueError: if there is no such network, or ``spread`` is negative.
    """
    return _task(
        _BREAST, seed, data, network, norm, weights, spread, augment, label_smoothing, verify,
    )  # fmt: skip


def pneumoniamnist(
    seed: int = 0,
    data: str = "data",
    network: str = "resnet20",
    norm: Norm = "batch",
    weights: str = "",
    spread: float = 1e-4,
    augment: bool = False,
    label_smoothing: float = 0.0,
    verify: bool = True,
) -> Task:
    """PneumoniaMNIST: pneumonia (1) or not (0), 5,856 chest X-rays of 28 x 28; as breastmnist.

    4,708 / 524 / 624 images for training, validation and test, as published.

    Args:
        seed: of the starting weights.
        data: folder that holds ``pneumoniamnist.npz``.
        network: as in cifar10: resnet20, wrn16-4, vgg11, vit-t, torchvision:NAME and others.
        norm: ``"group"`` puts GroupNorm in the place of BatchNorm.
        weights: at which the first member starts, instead of fresh ones: a file, a run's folder for
            its best member, or one of torchvision's names, such as IMAGENET1K_V1.
        spread: deviation of the normal noise that the other members start with beside them.
        augment: shift and mirror the images of training mini-batches, as in breastmnist.
        label_smoothing: share of a label that training gives to all classes, as in breastmnist.
        verify: take nothing but the published file, as in breastmnist.

    Raises:
        FileNotFoundError: if a file is missing.
        DamagedFile: if it is not the published one, or the weights cannot be read.
        UnfitFile: if a file that is not verified has another form, or the weights are those of
            another network.
        ValueError: if there is no such network, or ``spread`` is negative.
    """
    return _task(
        _PNEUMONIA, seed, data, network, norm, weights, spread, augment, label_smoothing, verify,
    )  # fmt: skip


def _task(
    known: _File, seed: int, data: str, network: str, norm: Norm, weights: str, spread: float,
    augment: bool, label_smoothing: float, verify: bool,
) -> Task:  # fmt: skip
    begun = starts(partial(architecture, network, len(_CLASSES), norm), seed, weights, spread)
    splits, provenance = _read(known, Path(data).expanduser(), verify)
    return Task(
        **begun,
        **splits._asdict(),
        loss=F.cross_entropy,
        metrics=SCORES,
        name=known.name,
        prepare=partial(_prepared, lies=memory_format(network)),
        augment=_augmented if augment else None,
        training_loss=smoothed(label_smoothing),
        provenance=provenance,
    )


def _prepared(images: Tensor, lies: torch.memory_format) -> Tensor:
    coloured = F.pad(images, 4 * (_EDGE,)).expand(-1, 3, -1, -1)
    return normalised(coloured, 3 * (_MIDDLE,), 3 * (_MIDDLE,), lies)


def _augmented(images: Tensor, seed: int, step: int) -> Tensor:
    return cropped_and_flipped(images, seed, 0, step, _SHIFT)


def check_data(name: str, folder: Path) -> None:
    """Nothing, if the file of one of the tasks is in the folder.

    Raises:
        FileNotFoundError: if not; says how to get it.
    """
    _file({"breastmnist": _BREAST, "pneumoniamnist": _PNEUMONIA}[name], folder)


def _file(known: _File, folder: Path) -> tuple[Path, str]:
    """Where the file of one of the sets is, and where it is fetched from.

    Raises:
        FileNotFoundError: if it is not there.
    """
    path = folder / f"{known.name}.npz"
    fetch = f"https://zenodo.org/records/10519652/files/{known.name}.npz?download=1 ({known.size})"
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: name the folder that holds it with --data, or fetch it from {fetch}"
        )
    return path, fetch


def _read(known: _File, folder: Path, verify: bool) -> tuple[Splits, dict[str, Any]]:
    """Pairs of images (n, 1, 28, 28), bytes, and classes (n,), and what is to be said of the file.

    Raises:
        FileNotFoundError: if there is none; says how to get it.
        DamagedFile: if it is another than the published one, and that is not allowed.
        UnfitFile: if another one has another form.
    """
    path, fetch = _file(known, folder)
    content = path.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 == known.md5:
        return tensors(_splits(path, content)), {}
    if verify:
        raise DamagedFile(
            path,
            "it is not the published file, its MD5 is another",
            f"see {fetch}; a file of your own in its place is taken with --task.verify false",
        )
    said = {"name": path.name, "official": False, "md5": md5, "official_md5": known.md5}
    return tensors(_splits(path, content)), {"data_file": said}


def _splits(path: Path, content: bytes) -> Splits:
    """Pairs of images (n, 1, 28, 28) and classes (n,) in the bytes of a file.

    Raises:
        DamagedFile: if they are no NumPy archive.
        UnfitFile: if it holds something else, or a class is missing in a split.
    """
    names = [f"{split}_{part}" for split in _SPLITS for part in ("images", "labels")]
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names if name in archive}
    except Exception as error:  # bytes of anybody's meet every part of the reader
        raise DamagedFile(path, f"it is no whole archive of NumPy ({error})") from None
    advice = f"A file in the form of MedMNIST at 28 x 28 pixels has {', '.join(names)}"
    if missing := [name for name in names if name not in arrays]:
        raise UnfitFile(path, f"it has no {', '.join(missing)}", advice)
    pairs = [(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in _SPLITS]
    for split, (images, labels) in zip(_SPLITS, pairs, strict=True):
        if reason := _unlike(images, labels):
            raise UnfitFile(path, f"{split}_{reason}", advice)
    return Splits(*((images[:, None], labels.reshape(-1)) for images, labels in pairs))


def _unlike(images: np.ndarray, labels: np.ndarray) -> str:
    """What of a split is not as it should be, behind the name of the split; empty if nothing."""
    if images.dtype != np.uint8 or images.shape[1:] != _SHAPE or images.ndim != 3:
        return f"images are {images.dtype} {images.shape}, expected uint8 (n, 28, 28)"
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(images), 1), (len(images),)):
        return f"labels are {labels.dtype} {labels.shape}, expected integers ({len(images)}, 1)"
    if wrong := sorted({*labels.flat} - {*_CLASSES}):
        return f"labels hold {wrong[0]}, expected {' or '.join(map(str, _CLASSES))}"
    if empty := [c for c in _CLASSES if c not in labels]:
        return f"labels hold no {empty[0]}, so that class is empty in this split"
    return ""
