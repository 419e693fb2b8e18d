"""Where a measurement is taken."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from cnognp.measuring.spread import Spread


class Place(NamedTuple):
    """Where a measurement is taken.

    Attributes:
        objective: what is measured, its statistics those of the point.
        z: (p,), the point; the first member where all are measured at once.
        population: (n, p), all members.
        metrics: further objectives of the task by name, such as its accuracy.
        store: where a slice keeps the cells that are done, until it is saved.
        progress: called with the number of points done and of all.
        towards: (p,), the other point that slices go to, where they do.
        spread: has pieces of the measurement done elsewhere; none where it is done here.
    """

    objective: Any
    z: Tensor
    population: Tensor
    metrics: Mapping[str, Any] = MappingProxyType({})
    store: Path | None = None
    progress: Callable[[int, int], None] | None = None
    towards: Tensor | None = None
    spread: "Spread | None" = None
