"""A Bezier curve between two points with low mean loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective
from landscape.paths.curves import Curve, bernstein, bernstein_weights
from landscape.paths.drawn import Drawn
from landscape.paths.finder import find
from landscape.results import Path


@dataclass(frozen=True)
class Bezier(Drawn):
    """A Bezier curve, quadratic where it has one bend. Settings as in `landscape.paths.drawn`."""

    name: ClassVar[str] = "bezier"

    def weights(self, t: np.ndarray) -> np.ndarray:
        return bernstein_weights(t, self.bends + 1)

    def curve(self, control: Tensor) -> Curve:
        return bernstein(control[0], control[-1], control[1:-1])


def bezier(
    objective: Objective, a: Float[Tensor, " p"], b: Float[Tensor, " p"], **settings: Any
) -> Path:
    """The path that `Bezier` finds from the straight line between a and b.

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
    return find(Bezier, objective, a, b, settings)
