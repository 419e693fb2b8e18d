"""Populations that begin at weights that are there already, and beside them."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cnognp.ranges import require
from cnognp.tasks.task import Task, given_point, initial_population
from cnognp.tasks.weights import load
from landscape.networks import Layout


@dataclass(frozen=True)
class Starts:
    """Where the members of a population start; nobody keeps the places of large ones.

    Args:
        task: gives them.
        layout: of the model's trainable parameters.
        members: how many.
        seed: any integer.
        device: where they are put.
        dtype: of the points.
    """

    task: Task
    layout: Layout
    members: int
    seed: int
    device: torch.device
    dtype: torch.dtype

    def __call__(self, block: slice) -> Tensor:
        """The starts (n, p) of members in a row.

        Raises:
            ValueError: if the task gives none that differ, or are finite.
            TypeError: if it gives no tensors of numbers.
        """
        return initial_population(
            self.task, self.layout, block.stop - block.start, self.seed, self.device, self.dtype,
            block.start,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """Members and parameters."""
        return self.members, self.layout.dim

    @property
    def bytes(self) -> int:
        """What all of them take."""
        return self.members * self.layout.dim * self.dtype.itemsize


def begun_at(task: Task, weights: str, spread: float) -> Task:
    """The task, member 0 of whose populations starts at weights of a file, the others beside it.

    Args:
        task: whose model gets the weights.
        weights: a file; empty for the weights that the model has.
        spread: deviation of the normal noise on every parameter of the other members; 0 for the
            starts that the task gives them.

    Raises:
        ValueError: if the spread is negative.
        FileNotFoundError: if there is no such file.
        DamagedFile: if it cannot be read.
        UnfitFile: if its weights are those of another network.
    """
    require(spread >= 0, "spread", "at least 0", spread)
    if weights:
        load(Path(weights).expanduser(), task.model)
    return replace(task, initial=partial(_beside, task, spread)) if spread else task


def _beside(task: Task, spread: float, layout: Layout, generator: torch.Generator) -> Tensor:
    own = given_point(layout, task)
    return own + spread * torch.randn(own.shape, generator=generator, device="cpu")
