"""A chain of straight pieces between two points with low mean loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective
from landscape.paths.curves import Curve, chain, hats
from landscape.paths.drawn import Drawn
from landscape.paths.finder import find
from landscape.results import Path


@dataclass(frozen=True)
class Polygon(Drawn):
    """A chain with as many corners as bends. Settings as in `landscape.paths.drawn`."""

    name: ClassVar[str] = "polygon"

    def weights(self, t: np.ndarray) -> np.ndarray:
        return hats(t, self.bends + 2)

    def curve(self, control: Tensor) -> Curve:
        return chain(control)


def polygon(
    objective: Objective, a: Float[Tensor, " p"], b: Float[Tensor, " p"], **settings: Any
) -> Path:
    """The path that `Polygon` finds from the straight line between a and b.

    Args:
        objective: what is evaluated; without random modules.
        a: (p,), one end.
        b: (p,), the other.
        settings: fields of `landscape.paths.drawn.Drawn` and of `landscape.paths.Options`.

    Returns:
        as `landscape.paths.fourier`.

    Raises:
        ValueError: as `landscape.paths.linear`, or if a setting is out of range.
        RuntimeError: if the objective is random.
    """
    return find(Polygon, objective, a, b, settings)
