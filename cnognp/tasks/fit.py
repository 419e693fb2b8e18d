"""Whether the data of a task fit its model: the shapes of inputs, and the classes in targets."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape.networks import Data, called
from landscape.networks import batches as data_batches

if TYPE_CHECKING:
    from cnognp.tasks.problem import Problem

_SPLITS = ("train", "validation", "test")
_LISTED, _FEW = 4, 2


def check_classes(problem: "Problem") -> None:
    """Nothing, if every class in targets that stay in memory is one of the model's outputs.

    An accelerator that meets another one ends the whole process, so it is looked for before.

    Raises:
        ValueError: if one is not; says where it stands.
    """
    targets = dict(_classes(problem))
    outputs = _outputs(problem) if targets else None
    if outputs is None:
        return
    ignored = getattr(problem.task.loss, "ignore_index", -100)
    for split, target in targets.items():
        wrong = ((target < 0) | (target >= outputs)) & (target != ignored)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"{split}: the target holds the class {int(target[row])} at row {row} "
                f"({int(wrong.sum())} such rows in all), and the model has {outputs} outputs, for "
                f"the classes 0 to {outputs - 1}: mend the labels, or have the model give more"
            )


def empty_classes(problem: "Problem") -> list[str]:
    """One line for each split that lacks a class which another has; empty where none does.

    Of targets that stay in memory, where the loss is the cross-entropy.
    """
    present = {split: set(target.unique().tolist()) for split, target in _classes(problem)}
    known = set().union(*present.values())
    return [
        f"{split} has no sample of class {_listed(sorted(known - own))}, which another split has"
        for split, own in present.items() if known - own
    ]  # fmt: skip


def explained(problem: "Problem", error: Exception) -> str:
    """Which split the model or the loss does not take, in words; empty where they take all.

    Args:
        problem: what failed.
        error: how.
    """
    reason = f"{type(error).__name__}: {error}"
    trained = ""
    for split in _SPLITS:
        try:
            data = problem.data(split)
            first = None if data is None else data_batches.few(data.first, _FEW)
        except Exception:
            return ""
        if first is None or not isinstance(first.inputs, Tensor):
            continue
        shape = _shape(first.inputs)
        other = f", those of train are {trained}" if trained not in ("", shape) else ""
        trained = trained or shape
        try:
            output = _output(problem, first.inputs)
        except Exception:
            return f"{split}: the model does not take inputs of the form {shape}{other}: {reason}"
        if problem.task.loss_of == "output" and isinstance(output, Tensor):
            try:
                problem.task.loss(output, first.target)
            except Exception:
                target = _shape(first.target) if isinstance(first.target, Tensor) else "its target"
                return (
                    f"{split}: the loss does not take outputs of the form {_shape(output)} with a "
                    f"target of the form {target}: {reason}"
                )
    return ""


def _classes(problem: "Problem") -> Iterator[tuple[str, Tensor]]:
    """The classes (n,) of every split, where they stay in memory and are what the loss compares."""
    loss = problem.task.loss
    if problem.task.loss_of != "output":
        return
    if loss not in (F.cross_entropy, F.nll_loss) and not isinstance(
        loss, (nn.CrossEntropyLoss, nn.NLLLoss)
    ):
        return
    for split in _SPLITS:
        data = problem.data(split)
        targets = (
            [b.target for b in data.batches] if isinstance(data, Data) and data.resident else []
        )
        if targets and all(_is_classes(target) for target in targets):
            yield split, torch.cat(targets)


def _is_classes(target: Any) -> bool:
    return isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point()


def _outputs(problem: "Problem") -> int | None:
    """How many outputs the model has for a sample; None where that cannot be found out."""
    try:
        data: Any = problem.data("train")
        output = _output(problem, data_batches.few(data.first, _FEW).inputs)
    except Exception:
        # What is wrong with it is said elsewhere.
        return None
    return output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else None


def _output(problem: "Problem", inputs: Any) -> Any:
    """The output of the model in evaluation mode; the model and the random state stay as is."""
    model = problem.model
    modes = {module: module.training for module in model.modules()}
    cuda = [problem.device] if problem.device.type == "cuda" else []
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            return called(model, inputs)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _shape(tensor: Tensor) -> str:
    """Kind and shape of a batch, the number of its samples left open."""
    sizes = str(("n", *tensor.shape[1:])).replace("'", "")
    return f"{str(tensor.dtype).removeprefix('torch.')} {sizes}"


def _listed(classes: list[int]) -> str:
    more = f" and {len(classes) - _LISTED} more" if len(classes) > _LISTED else ""
    return ", ".join(map(str, classes[:_LISTED])) + more
