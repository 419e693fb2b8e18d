"""Small tables from scikit-learn, and what every built-in task shares: splits, tensors, starts.

Splits are stratified and follow from the seed. Scales are fitted on the training rows alone.
Tensors are float32 on the CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from cnognp.tasks.classification import BINARY, SCORES
from cnognp.tasks.networks import mlp
from cnognp.tasks.starts import beside, file_of
from cnognp.tasks.task import Task, binary_cross_entropy
from cnognp.tasks.weights import load
from landscape.networks.batches import mapped
from landscape.randomness import derived_seed


def wine(seed: int = 0, hidden: tuple[int, ...] = (10,)) -> Task:
    """Wine: 3 cultivars from 13 measurements, 178 rows, a perceptron.

    106 / 36 / 36 rows for training, validation and test; inputs are standardised; the loss is the
    cross-entropy of 3 outputs. One hidden layer of 10 units makes 173 parameters.

    Args:
        seed: of the splits and of the starting weights.
        hidden: units of each hidden layer.
    """
    inputs, target = load_wine(return_X_y=True)
    splits = _standardised(inputs, target, seed)
    return perceptron("wine", splits, 3, hidden, seed, loss=F.cross_entropy, metrics=SCORES)


def breast_cancer(seed: int = 0, hidden: tuple[int, ...] = (10,)) -> Task:
    """Breast Cancer Wisconsin: benign (1) or not (0) from 30 measurements, 569 rows, a perceptron.

    341 / 114 / 114 rows for training, validation and test; inputs are standardised; the loss is the
    cross-entropy of one logit. One hidden layer of 10 units makes 321 parameters.

    Args:
        seed: of the splits and of the starting weights.
        hidden: units of each hidden layer.
    """
    inputs, target = load_breast_cancer(return_X_y=True)
    splits = _standardised(inputs, target.astype(float), seed)
    return perceptron(
        "breast-cancer", splits, 1, hidden, seed,
        loss=binary_cross_entropy, metrics=BINARY,
    )  # fmt: skip


class Splits(NamedTuple):
    """Three of a kind: row numbers, or pairs of inputs and target."""

    train: Any
    validation: Any
    test: Any


def split(target: np.ndarray, seed: int) -> Splits:
    """Sorted row numbers of the training, validation and test split: 60, 20 and 20 percent.

    Stratified: each class has its share of every split, up to rounding.

    Args:
        target: (n,) classes.
        seed: any integer.
    """
    size = round(0.2 * len(target))
    rest, test = held_out(np.arange(len(target)), target, size, seed, "test")
    train, validation = held_out(rest, target[rest], size, seed, "validation")
    return Splits(train, validation, test)


def held_out(
    rows: np.ndarray, target: np.ndarray, size: int, seed: int, purpose: str
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that stay and the ``size`` rows that are held out, both sorted, stratified.

    Args:
        rows: (n,) row numbers.
        target: (n,) their classes.
        size: number of rows to hold out.
        seed: any integer.
        purpose: draws with different purposes are independent.
    """
    state = np.random.RandomState(derived_seed(seed, "split", purpose) % 2**32)
    kept, drawn = train_test_split(rows, test_size=size, stratify=target, random_state=state)
    return np.sort(kept), np.sort(drawn)


def few(task: Task, count: int, seed: int, name: str = "images", split: str = "train") -> Task:
    """The task with so many samples of a split, as many of each class; with all where 0.

    Args:
        task: the split is a pair, inputs and target; of several labels the rarest is a class.
        count: how many.
        seed: any integer.
        name: what the samples are called.
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        ValueError: if there are too few or too many for every class to be among those that stay
            and among those that go.
    """
    inputs, target = getattr(task, split)
    if not count or count == len(target):
        return task
    classes = _rarest(target.numpy()) if target.ndim > 1 else target.numpy()
    least = len(np.unique(classes))
    most = len(target) - least
    if not least <= count <= most:
        raise ValueError(
            f"{name} must be 0 or {len(target)} for all of {split}, or from {least} to {most} "
            f"of them, so that every class is there, got {count}"
        )
    purpose = name if split == "train" else f"{name} of {split}"
    rows = held_out(np.arange(len(target)), classes, count, seed, purpose)[1]
    kept: dict[str, Any] = {split: mapped((inputs, target), lambda tensor: tensor[rows])}
    return replace(task, **kept)


def _rarest(labels: np.ndarray) -> np.ndarray:
    """Of every row (n, classes) of 0 and 1 the label that the fewest rows have; (n,)."""
    order = labels.sum(0).argsort(kind="stable")
    return order[labels[:, order].argmax(1)]


def tensors(splits: Splits) -> Splits:
    """Pairs of arrays as pairs of CPU tensors: float32 or bytes, and classes as int64.

    A split that is None stays so.
    """

    def tensor(array: np.ndarray, whole: torch.dtype) -> torch.Tensor:
        dtype = torch.float32 if array.dtype.kind == "f" else whole
        return torch.as_tensor(array, dtype=dtype, device="cpu")

    def pair(inputs: np.ndarray, target: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        bytewise = torch.uint8 if inputs.dtype.kind == "u" else torch.int64
        return tensor(inputs, bytewise), tensor(target, torch.int64)

    return Splits(*(None if split is None else pair(*split) for split in splits))


def starts(
    build: Callable[..., Any], seed: int, weights: str = "", spread: float = 0.0
) -> dict[str, Any]:
    """The ``model`` of a task, drawn from ``seed``, and the ``initial`` that draws its siblings.

    Args:
        build: ``build(generator=...)`` gives a module with weights from that generator.
        seed: any integer.
        weights: what the model has instead, as in `cnognp.tasks.starts.file_of`; its siblings then
            begin beside it.
        spread: deviation of the normal noise between them.

    Raises:
        ValueError: if the spread is negative.
        FileNotFoundError: if there is no such file.
        DamagedFile: if it cannot be read.
        UnfitFile: if its weights are those of another network.
    """
    if not spread >= 0:
        raise ValueError(f"spread must be at least 0, got {spread}")
    generator = torch.Generator(device="cpu").manual_seed(derived_seed(seed, "model"))
    model = build(generator=generator)
    if not weights:
        return {"model": model, "initial": partial(_sibling, build)}
    network = getattr(build, "args", ())
    load(file_of(weights, str(network[0]) if network else ""), model)
    return {"model": model, "initial": partial(beside, partial(_point, model), spread)}


def perceptron(
    name: str, splits: Splits, outputs: int, hidden: Sequence[int], seed: int, *,
    loss: Callable[..., Any], metrics: Mapping[str, Callable[..., Any]],
) -> Task:  # fmt: skip
    """A task of a perceptron on rows of numbers, with the scores of a classification.

    Args:
        name: of the task.
        splits: pairs of arrays, inputs (n, d) and target (n,).
        outputs: number of outputs.
        hidden: units of each hidden layer.
        seed: of the starting weights.
        loss: ``loss(output, target)``.
        metrics: by name, as a `Task` has them.
    """
    build = partial(mlp, splits.train[0].shape[1], hidden, outputs)
    return Task(
        **starts(build, seed),
        **tensors(splits)._asdict(),
        loss=loss,
        metrics=metrics,
        name=name,
    )


def _sibling(build: Callable[..., Any], layout: Any, generator: Any) -> Any:
    return _point(build(generator=generator), layout)


def _point(model: Any, layout: Any) -> Any:
    return layout.flatten({name: p.detach() for name, p in model.named_parameters()})


def _standardised(inputs: np.ndarray, target: np.ndarray, seed: int) -> Splits:
    rows = split(target, seed)
    scaler = StandardScaler().fit(inputs[rows.train])
    return Splits(*((scaler.transform(inputs[r]), target[r]) for r in rows))
