"""A few images of a task, and what networks make of its images."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from cnognp.tasks.problem import Problem
from cnognp.tasks.tabular import held_out
from cnognp.tasks.task import Task


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


def few(task: Task, images: int, seed: int) -> Task:
    """The task with so many of its training images, as many of each class; with all where 0."""
    inputs, target = task.train
    if not images or images == len(target):
        return task
    rows = held_out(np.arange(len(target)), target.numpy(), images, seed, "images")[1]
    return replace(task, train=(inputs[rows], target[rows]))
