"""A string of points that slides down the gradient, spread evenly along itself after every step."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective
from landscape.paths.finder import Finder, Found, Told, find, require
from landscape.paths.ground import Ground
from landscape.paths.pivots import between, distances, spline
from landscape.paths.profile import Profile
from landscape.paths.steps import Adaptive, Momentum
from landscape.results import Path


@dataclass(frozen=True)
class String(Finder):
    """The simplified string method: plain descent of every pivot, then equal arc length again.

    Between pivots the string is a natural cubic spline, along which they are spread after every
    step, and which is the path at last. It comes to rest on a path of steepest descent through a
    saddle. The last iterate is kept.

    Args:
        pivots: between the ends, at least 1.
        steps: of descent, at least 1.
        lr: step length; where it is not given, steps follow from the gradients, pivot by pivot
            (`landscape.paths.steps.Adaptive`), which fits any units and needs the full batch.
        batch_size: samples of a mini-batch, drawn anew for each step; the whole data where 0.
        seed: of the mini-batches.

    Raises:
        ValueError: if a setting is out of range.

    Reference: E, Ren & Vanden-Eijnden (2007), Simplified and improved string method.
    """

    name: ClassVar[str] = "string"

    pivots: int = 20
    steps: int = 100
    lr: float | None = None
    batch_size: int = 0
    seed: int = 0

    def __post_init__(self):
        for name in ("pivots", "steps"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.lr is None or self.lr > 0, "lr", "positive", self.lr)
        require(self.batch_size >= 0, "batch_size", "not negative", self.batch_size)
        adaptive = self.lr is None and self.batch_size
        require(not adaptive, "lr", "given with mini-batches, for instance 0.1", self.lr)

    def search(self, ground: Ground, line: Profile, told: Told) -> Found:
        """The string when it has slid so many steps."""
        rows = between(ground.a, ground.b, self.pivots)
        stream = ground.stream(self.batch_size, self.seed)
        step: Any = Adaptive() if self.lr is None else Momentum(0.0)
        for k in range(self.steps):
            inner = rows[1:-1]
            _, grads = ground.slopes(inner, next(stream))
            spacing = float(distances(rows)[-1]) / (len(rows) - 1)
            limit = 0.2 * spacing if self.lr is None else self.lr
            moved = step.step(inner, grads, limit)
            rows = _even(torch.cat([rows[:1], moved, rows[-1:]]))
            told(k + 1, self.steps)
        return Found(spline(rows), f"{self.steps} steps of {self.pivots} pivots")


def _even(rows: Tensor) -> Tensor:
    """The same number of rows at equal lengths along their spline."""
    return spline(rows, 16 * len(rows)).at(np.linspace(0.0, 1.0, len(rows)))


def string(
    objective: Objective, a: Float[Tensor, " p"], b: Float[Tensor, " p"], **settings: Any
) -> Path:
    """The path that `String` finds from the straight line between a and b.

    Args:
        objective: what is evaluated; without random modules.
        a: (p,), one end.
        b: (p,), the other.
        settings: fields of `String` and of `landscape.paths.Options`.

    Returns:
        as `landscape.paths.fourier`.

    Raises:
        ValueError: as `landscape.paths.linear`, or if a setting is out of range.
        RuntimeError: if the objective is random.
    """
    return find(String, objective, a, b, settings)
