"""The measurements of one point by name, each a function of an objective that gives a result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from cnognp.method import require
from landscape import directions, slices
from landscape.results import Result
from landscape.spectrum import top_eigenpairs

Measure = Callable[[Any, Tensor, "Settings"], Result]


@dataclass(frozen=True)
class Settings:
    """How fine a measurement is.

    Args:
        k: eigenvalues, at least 1; a network with fewer parameters has fewer.
        which: the end of the spectrum, as in `landscape.spectrum.top_eigenpairs`.
        tolerance: of the eigenvalues, relative to the largest.
        points: points along a line, at least 2.
        grid: points along each side of a plane, at least 2.
        span: a slice reaches from -span to span, in units of its directions; positive.
        seed: of the random directions and starting vectors.

    Raises:
        ValueError: if one is out of range.
    """

    k: int = 5
    which: str = "LM"
    tolerance: float = 1e-3
    points: int = 101
    grid: int = 41
    span: float = 1.0
    seed: int = 0

    def __post_init__(self):
        ends = ("LM", "LA", "SA", "BE")
        require(self.which in ends, "which", f"one of {', '.join(ends)}", self.which)
        require(self.k >= 1, "k", "at least 1", self.k)
        require(self.points >= 2, "points", "at least 2", self.points)
        require(self.grid >= 2, "grid", "at least 2", self.grid)
        require(self.span > 0, "span", "positive", self.span)
        require(0 < self.tolerance < 1, "tolerance", "between 0 and 1", self.tolerance)

    @property
    def generator(self) -> torch.Generator:
        """A fresh generator."""
        return torch.Generator(device="cpu").manual_seed(self.seed)


def spectrum(objective: Any, z: Tensor, settings: Settings) -> Result:
    """The eigenvalues at one end of the Hessian's spectrum, with bounds."""
    return top_eigenpairs(
        objective, z, min(settings.k, objective.dim), settings.which,  # type: ignore[arg-type]
        settings.tolerance, generator=settings.generator, vectors=False,
    )  # fmt: skip


def line(objective: Any, z: Tensor, settings: Settings) -> Result:
    """The loss along a random filter-normalised direction."""
    (u,) = directions.random(objective.layout, z, settings.generator, count=1)
    alpha = torch.linspace(
        -settings.span, settings.span, settings.points, dtype=torch.float64, device="cpu"
    )
    return slices.line(objective, z, u, alpha=alpha, name="random, filter-normalised")


def plane(objective: Any, z: Tensor, settings: Settings) -> Result:
    """The loss over a plane of two random filter-normalised directions."""
    u, v = directions.random(objective.layout, z, settings.generator, count=2)
    side = torch.linspace(
        -settings.span, settings.span, settings.grid, dtype=torch.float64, device="cpu"
    )
    names = ("random, filter-normalised", "random, filter-normalised")
    return slices.plane(objective, z, u, v, alpha=side, beta=side, names=names)


MEASURES: Mapping[str, Measure] = MappingProxyType({
    "spectrum": spectrum,
    "line": line,
    "plane": plane,
})
