"""What networks make of the images of a task."""

import torch
from torch import Tensor, nn

from cnognp.tasks.problem import Problem


def outputs(problem: Problem, split: str, network: nn.Module) -> tuple[Tensor, Tensor]:
    """The outputs (n, classes) of a network on a split, in double precision, and the classes (n,).

    Args:
        problem: whose splits are pairs of tensors.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        network: on the device of the problem.
    """
    images, target = getattr(problem.task, split)
    prepare = problem.task.prepare or (lambda images: images)
    with torch.no_grad():
        parts = [network(prepare(part.to(problem.device))) for part in images.split(500)]
    return torch.cat(parts).cpu().double(), target
