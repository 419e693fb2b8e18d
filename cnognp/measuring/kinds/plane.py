"""The loss over a plane."""

from dataclasses import dataclass

from cnognp.measuring.directions import chosen
from cnognp.measuring.place import Place
from cnognp.measuring.settings import Slice, written
from cnognp.ranges import require
from landscape import slices
from landscape.results import Result


def _sides(text: str) -> int | tuple[int, int]:
    """The points along each side of a plane, or along one and the other.

    Raises:
        ValueError: if the text says neither.
    """
    try:
        sides = [int(word) for word in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise ValueError(f"--grid: expected points such as 41, or 41x21, got {text}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


@dataclass(frozen=True)
class Plane(Slice):
    """The loss over the plane of two directions.

    Args:
        grid: points along each side of a plane, at least 2, or along one and the other.
        adaptive: measure a plane only where it bends, and interpolate the rest.
    """

    grid: int | tuple[int, int] = written("41", "N | NxM", _sides)
    adaptive: bool = False

    def __post_init__(self):
        super().__post_init__()
        require(all(n >= 2 for n in self.grids), "grid", "at least 2", self.grid)

    @property
    def grids(self) -> tuple[int, int]:
        """The points along the two sides."""
        return self.grid if isinstance(self.grid, tuple) else (self.grid, self.grid)

    def measure(self, place: Place) -> Result:
        """The losses on the grid."""
        (u, v), names = chosen(place, self, 2)
        options = {"names": names, **self.options(place)}
        if self.adaptive:
            return slices.adaptive_plane(
                place.objective, place.z, u, v, alpha=self.reach, beta=self.reach,
                count=self.grids, scale="log", **options,
            )  # fmt: skip
        alpha, beta = (slices.span(*self.reach, count) for count in self.grids)
        return slices.plane(place.objective, place.z, u, v, alpha=alpha, beta=beta, **options)
