"""Mean curvature at a distance."""

from collections.abc import Sequence
from dataclasses import dataclass

from cnognp.measuring.kinds.trace import Trace
from cnognp.measuring.place import Place
from cnognp.measuring.settings import WholeHessian, names, written
from cnognp.ranges import require
from landscape.results import Result
from landscape.trace import finite_scale


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers.

    Raises:
        ValueError: if a word is none.
    """
    try:
        return tuple(float(word) for word in names(text))
    except ValueError:
        raise ValueError(f"scales must be numbers, comma-separated, got {text!r}") from None


@dataclass(frozen=True)
class FiniteScale(WholeHessian, Trace):
    """The mean curvature at a ladder of distances, beside the trace at the point itself.

    Args:
        scales: distances, standard deviations of each parameter, comma-separated.
    """

    pieces = False
    scales: Sequence[float] = written("1e-3,3e-3,1e-2,3e-2,1e-1", None, _numbers)

    def __post_init__(self):
        super().__post_init__()
        for scale in self.scales:
            require(0 < scale < float("inf"), "scales", "positive and finite", scale)
        require(len(self.scales) > 0, "scales", "at least one distance", "none")

    def measure(self, place: Place) -> Result:
        """The curvatures by distance."""
        return finite_scale(
            place.objective, place.z, self.scales, probes=self.probes,
            beside=Trace.measure(self, place), generator=self.generator,  # type: ignore[arg-type]
        )  # fmt: skip
