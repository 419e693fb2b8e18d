"""A network, its loss, its data, and where a population of it starts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn
from torch.utils.data import DataLoader, Dataset

from landscape.networks import Data, Layout, Network, Unpack, dense_parts, is_dataset, tensors_of
from landscape.randomness import derived_seed

Initial = Callable[[Layout, torch.Generator], Tensor]
LossOf = Literal["output", "model"]


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained and measured: a model, a loss and up to three splits of data.

    A split is one batch ``(inputs, target)``, a list of batches, a ``Dataset`` or a ``DataLoader``;
    what else a batch may be says `landscape.networks.batches.batch_of`. Inputs go into the model as
    one argument, ``*tuple`` or ``**dict``.

    Args:
        model: any module. Member 0 of a population starts at its parameters.
        loss: ``loss(output, target)`` gives the mean over the batch, or ``(sum, weight)``. The
            parameters of a loss that is a module are trained too.
        train: the split that is trained on.
        validation: the split that choices are made on.
        test: the split that nothing is chosen on.
        metrics: ``metric(output, target)`` by name, each a mean over the batch.
        initial: ``initial(layout, generator)`` gives the (p,) start of each member but the first;
            None resets the model's modules, see `initial_population`.
        name: what results and pictures call it.
        loss_of: ``"output"``; or ``"model"``, where loss and metrics are functions
            ``(model, batch)`` of the whole model, as in `landscape.networks.risk.ModelRisk`.
        unpack: a function from a batch to (inputs, target, samples), where a batch is no pair.
        prepare: from inputs as they are kept to what the model takes, for instance from bytes to
            normalised images; runs on the device, on a few thousand samples at most.
        augment: ``augment(inputs, seed, step)`` of the inputs of a training mini-batch, before
            ``prepare``, on the device; must follow from its arguments. Who judges, measures or
            takes steps on the whole data sees every sample as it is.
        training_loss: what steps on mini-batches minimise, where that is not ``loss``, by which
            members are judged and measured; without parameters that are trained.
        provenance: what results say beside their own of where the data come from, as JSON has it.

    Raises:
        TypeError: if the model is no module, a loss, a metric, ``initial``, ``prepare`` or
            ``augment`` cannot be called, or a split is of another kind.
        ValueError: if a split holds no sample, one input and a target of different lengths, or a
            number that is not finite (minus infinity is allowed in a mask beside other inputs); or
            ``training_loss`` has parameters that are trained.
            What a ``Dataset`` or a ``DataLoader`` gives is not read, so not checked.
    """

    model: nn.Module
    loss: Callable[..., Any]
    train: Any
    validation: Any = None
    test: Any = None
    metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    initial: Initial | None = None
    name: str = ""
    loss_of: LossOf = "output"
    unpack: Unpack | None = None
    prepare: Callable[[Any], Any] | None = None
    augment: Callable[[Any, int, int], Any] | None = None
    training_loss: Callable[..., Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.loss_of not in get_args(LossOf):
            raise ValueError(f"loss_of must be 'output' or 'model', got {self.loss_of!r}")
        if self.unpack is not None and not callable(self.unpack):
            raise TypeError(
                "unpack must be a function from a batch to (inputs, target, samples), got "
                f"{_kind(self.unpack)}"
            )
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {_kind(self.model)}")
        if not callable(self.loss):
            raise TypeError(f"loss must be a function (output, target), got {_kind(self.loss)}")
        own = self.training_loss
        if own is not None and not callable(own):
            raise TypeError(f"training_loss must be a function (output, target), got {_kind(own)}")
        if isinstance(own, nn.Module) and any(p.requires_grad for p in own.parameters()):
            raise ValueError("training_loss has parameters that are trained: make it the loss")
        if self.initial is not None and not callable(self.initial):
            raise TypeError(
                f"initial must be a function (layout, generator), got {_kind(self.initial)}"
            )
        for name in ("prepare", "augment"):
            change = getattr(self, name)
            if change is not None and not callable(change):
                raise TypeError(f"{name} must be a function of inputs, got {_kind(change)}")
        if not isinstance(self.metrics, Mapping):
            raise TypeError(
                f"metrics must map names to functions (output, target), got {_kind(self.metrics)}"
            )
        for name, metric in self.metrics.items():
            if not callable(metric):
                raise TypeError(
                    f"metric {name!r} must be a function (output, target), got {_kind(metric)}"
                )
        object.__setattr__(self, "metrics", dict(self.metrics))
        if self.train is None:
            raise ValueError("train is None: a task needs data to train on")
        for split in ("train", "validation", "test"):
            free = self.loss_of == "model" or self.unpack is not None
            object.__setattr__(self, split, _checked(split, getattr(self, split), free))


def initial_population(
    task: Task,
    layout: Layout,
    members: int,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    first: int = 0,
) -> Float[Tensor, "members p"]:
    """The points at which the members of a population start.

    Member 0 starts at the task's model as it is. Every other member starts at ``task.initial``
    where it is given; otherwise at a copy of the model on which ``reset_parameters`` of every
    module that has it was called, children before parents. Parameters that no such module owns
    keep the model's values. Member m depends on (seed, m) alone, not on ``members`` or on
    ``device``: all draws are made on the CPU. Neither the model nor torch's random state changes.

    Args:
        task: gives the model and ``initial``.
        layout: of the model's trainable parameters.
        members: how many members: population size N, or some of a larger population.
        seed: any integer.
        device: where the points are put.
        dtype: of the points.
        first: number of the first of them.

    Raises:
        ValueError: if ``members`` is below 1, if resetting the modules changes no parameter, or if
            ``task.initial`` gives a vector of another length or with a number that is not finite.
        TypeError: if ``task.initial`` gives no floating-point tensor.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    given = given_point(layout, task)
    points = torch.empty((members, *given.shape), device=device, dtype=dtype)
    for place, member in enumerate(range(first, first + members)):
        if member == 0:
            points[place] = given
            continue
        generator = torch.Generator(device="cpu").manual_seed(derived_seed(seed, "start", member))
        with torch.random.fork_rng(devices=[]):
            # reset_parameters can draw from nothing but the default generator.
            torch.default_generator.manual_seed(generator.initial_seed())
            if task.initial is None:
                points[place] = _reset(task, layout, given)
            else:
                points[place] = _started(task.initial(layout, generator), layout)
    return points


def accuracy(output: Float[Tensor, "*batch classes"], target: Tensor) -> Float[Tensor, ""]:
    """The share of samples whose largest output is that of their class.

    >>> output = torch.tensor([[2.0, 1.0], [0.0, 3.0]], device="cpu")
    >>> accuracy(output, torch.tensor([0, 0], device="cpu"))
    tensor(0.5000)
    """
    return (output.argmax(-1) == target).to(output.dtype).mean()


def binary_accuracy(output: Float[Tensor, "*batch 1"], target: Tensor) -> Float[Tensor, ""]:
    """The share of samples whose logit has the sign of their class: positive for 1, else 0."""
    return ((output.squeeze(-1) > 0) == (target > 0.5)).to(output.dtype).mean()


def smoothed(label_smoothing: float) -> nn.CrossEntropyLoss | None:
    """The mean cross-entropy against classes that give this share to all alike; None for 0.

    Raises:
        ValueError: if the share is not from 0 to below 1.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be from 0 to below 1, got {label_smoothing}")
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing) if label_smoothing else None


def binary_cross_entropy(output: Float[Tensor, "*batch 1"], target: Tensor) -> Float[Tensor, ""]:
    """The mean cross-entropy of logits (n, 1) against classes 0 and 1 in a vector (n,).

    >>> output = torch.zeros(3, 1, device="cpu")
    >>> binary_cross_entropy(output, torch.tensor([0, 1, 1], device="cpu"))
    tensor(0.6931)
    """
    return F.binary_cross_entropy_with_logits(output.squeeze(-1), target.to(output.dtype))


def given_point(layout: Layout, task: Task) -> Tensor:
    """The point (p,) of the task's model, and of its loss, as they are."""
    known = Network(task.model, "frozen", loss=task.loss).parameters
    return layout.flatten({name: p.detach().cpu() for name, p in known.items()})


def _reset(task: Task, layout: Layout, given: Tensor) -> Tensor:
    """The point of the model with its modules reset, which it is only meanwhile.

    Raises:
        ValueError: if that changes nothing.
    """
    model = task.model
    tensors = [*model.parameters(), *model.buffers()]
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        # A parent that initialises its children has the last word, as it has at construction.
        for module in reversed(list(model.modules())):
            # MultiheadAttention and Transformer spell it with an underscore.
            reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if callable(reset):
                reset()
        point = given_point(layout, task)
    finally:
        with torch.no_grad():
            for tensor, old in zip(tensors, saved, strict=True):
                tensor.copy_(old)
    if torch.equal(point, given):
        raise ValueError(
            f"resetting the modules of {type(model).__name__} changes no parameter, so all members "
            "would start at one point. Give the Task initial=function(layout, generator), which "
            "returns a start as a vector, or give the modules a reset_parameters method"
        )
    return point


def _started(point: Any, layout: Layout) -> Tensor:
    if not isinstance(point, Tensor) or not point.is_floating_point():
        kind = f"a tensor of {point.dtype}" if isinstance(point, Tensor) else _kind(point)
        raise TypeError(f"Task.initial must return a floating-point vector, got {kind}")
    if point.shape != (layout.dim,):
        raise ValueError(
            f"Task.initial must return a vector of shape ({layout.dim},), got {tuple(point.shape)}"
        )
    if not point.isfinite().all():
        raise ValueError("Task.initial returned a vector with a number that is not finite")
    return point.detach()


def _checked(split: str, data: Any, free: bool) -> Any:
    if data is None or isinstance(data, (DataLoader, Data)):
        return data
    if isinstance(data, Dataset) or is_dataset(data):
        if hasattr(data, "__len__") and len(data) == 0:
            raise ValueError(f"{split} holds no sample")
        return data
    if isinstance(data, list) and not data:
        raise ValueError(f"{split} holds no batch")
    if isinstance(data, list) and not all(isinstance(item, Tensor) for item in data):
        for number, batch in enumerate(data):
            _check_batch(f"{split} batch {number}", batch, free)
    else:
        _check_batch(split, data, free)
    return data


def _check_batch(where: str, batch: Any, free: bool) -> None:
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if isinstance(batch, (tuple, list)) and not pair and not free:
        raise ValueError(
            f"{where} must be a pair (inputs, target), got {len(batch)} items; say what they are "
            "with unpack=lambda batch: (inputs, target, samples)"
        )
    if isinstance(batch, (str, bytes, int, float)) or callable(batch):
        raise TypeError(
            f"{where} must be a pair of tensors (inputs, target), a Dataset or a DataLoader, got "
            f"{_kind(batch)}"
        )
    parts = {"inputs": batch[0], "target": batch[1]} if pair else batch
    try:
        found = list(_tensors(parts))
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    if not found and not free:
        raise TypeError(f"{where} holds no tensor; got {_kind(batch)}")
    for label, tensor in found:
        _check_finite(where, label, tensor, mask=len(found) > 2)
    if 0 in [len(tensor) for _, tensor in found if tensor.ndim]:
        raise ValueError(f"{where} holds no sample")
    if not pair or free:
        return
    lengths = {}
    for label, tensor in found:
        if tensor.ndim == 0 and len(found) == 2:
            raise ValueError(f"{where}: {label} has no axis of samples, its shape is ()")
        lengths[label] = len(tensor) if tensor.ndim else 0
    if (
        len(found) == 2
        and all(isinstance(p, Tensor) for p in batch)
        and (len(set(lengths.values())) > 1)
    ):
        sizes = ", ".join(f"{label} {length}" for label, length in lengths.items())
        raise ValueError(f"{where}: the tensors must have one number of rows, got {sizes}")


def _tensors(parts: Any, label: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a batch with its place.

    Raises:
        TypeError: if a number stands where a list of tensors is begun.
    """
    if isinstance(parts, Mapping):
        for key, part in parts.items():
            yield from _tensors(part, f"{label}[{key!r}]" if label else str(key))
    elif isinstance(parts, (tuple, list)) and not isinstance(parts, rnn.PackedSequence):
        for number, part in enumerate(parts):
            yield from _tensors(part, f"{label}[{number}]")
    elif isinstance(parts, (int, float)) and label.endswith("]"):
        raise TypeError(f"{label} must be a tensor, got {_kind(parts)}")
    else:
        for tensor in tensors_of(parts):
            yield label or "batch", tensor


def _check_finite(where: str, label: str, tensor: Tensor, mask: bool) -> None:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    if tensor.layout != torch.strided:
        tensor = dense_parts(tensor)[-1]
    finite = tensor.isfinite()
    if mask and tensor.is_floating_point():
        finite |= tensor == -torch.inf
    if finite.all():
        return
    row, *columns = (int(i) for i in (~finite).nonzero()[0])
    place = f"row {row}"
    if columns:
        place += f", column {columns[0] if len(columns) == 1 else tuple(columns)}"
    found = tensor[(row, *columns)].item()
    raise ValueError(
        f"{where}: {label} hold {found} at {place} ({int((~finite).sum())} such values in all); "
        "every value must be finite, so fill the gap or drop the row"
    )


def _kind(thing: Any) -> str:
    return type(thing).__name__
