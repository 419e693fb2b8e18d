"""The loss along a line."""

from dataclasses import dataclass

from cnognp.measuring.directions import chosen
from cnognp.measuring.place import Place
from cnognp.measuring.settings import Slice
from cnognp.ranges import require
from landscape import slices
from landscape.results import Result


@dataclass(frozen=True)
class Line(Slice):
    """The loss along one direction, or along several random ones.

    Args:
        points: points along a line, at least 2.
        seeds: random directions of a line, at least 1; a band from 2 on.
    """

    points: int = 101
    seeds: int = 1

    def __post_init__(self):
        super().__post_init__()
        require(self.points >= 2, "points", "at least 2", self.points)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        together = self.direction == "random" and not self.metrics and not self.standard_errors
        if self.seeds > 1 and not together:
            raise ValueError(
                "seeds make a band of random directions, without metrics or standard errors; "
                "measure those along one direction"
            )

    @property
    def keeps_cells(self) -> bool:
        """Whether the points that are done can be kept: those of a band cannot."""
        return self.seeds == 1

    def measure(self, place: Place) -> Result:
        """The loss, or the losses."""
        alpha = slices.span(*self.reach, self.points)
        u, (name, *_) = chosen(place, self, self.seeds)
        options = self.options(place)
        if self.seeds == 1:
            return slices.line(place.objective, place.z, u[0], alpha=alpha, name=name, **options)
        for alone in ("metrics", "standard_errors"):
            del options[alone]
        return slices.lines(place.objective, place.z, list(u), alpha=alpha, name=name, **options)
