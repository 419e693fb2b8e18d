"""The straight line between two points."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective
from landscape.paths.finder import Finder, find
from landscape.results import Path


@dataclass(frozen=True)
class Linear(Finder):
    """The straight line, which nothing has to be found for.

    Reference: Goodfellow, Vinyals & Saxe (2015); barriers as in Frankle et al. (2020) and in
    Entezari et al. (2022).
    """

    name: ClassVar[str] = "linear"


def linear(
    objective: Objective, a: Float[Tensor, " p"], b: Float[Tensor, " p"], **options: Any
) -> Path:
    """The loss along the straight line from a to b.

    Args:
        objective: what is evaluated; without random modules.
        a: (p,), one end.
        b: (p,), the other.
        options: fields of `landscape.paths.Options`.

    Returns:
        ``share`` and ``loss`` (n,) on a grid of equal arc length, ``height``, ``barrier`` above the
        mean of the ends, ``chord_barrier`` above the chord between them; see
        `landscape.results.Path`. Identical ends give a path of length 0 without a barrier.

    Raises:
        ValueError: if the ends are no two points of the objective, its loss there is not finite, or
            an option is out of range.
        RuntimeError: if the objective is random.
    """
    return find(Linear, objective, a, b, options)
