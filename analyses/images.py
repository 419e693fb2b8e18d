"""A few images of a task, and what networks make of its images."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnognp.tasks.problem import Problem
from cnognp.tasks.tabular import held_out
from cnognp.tasks.task import Task
from landscape.networks import is_batchnorm


def settled(problem: Problem, z: Tensor, batch: int, seed: int) -> nn.Module:
    """The network at a point with the BatchNorm statistics of the images as training sees them.

    Those of the images as they are, without shifts and their black edges, cost the published
    ResNet-20 2.8 points of accuracy.

    Args:
        problem: whose training split is a pair of tensors.
        z: (p,), the point.
        batch: images in a mini-batch.
        seed: of the shifts.
    """
    network, task = problem.as_given.network(z).train(), problem.task
    norms: list[Any] = [module for module in network.modules() if is_batchnorm(module)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for step, part in enumerate(task.train[0].split(batch)):
            images = part.to(problem.device)
            images = images if task.augment is None else task.augment(images, seed, step)
            network(images if task.prepare is None else task.prepare(images))
    return network.eval()


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
