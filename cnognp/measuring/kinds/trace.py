"""The trace of a matrix."""

from dataclasses import dataclass

from cnognp.measuring.place import Place
from cnognp.measuring.settings import Probed, one_of
from landscape import trace
from landscape.results import Result

METHODS = ("auto", "hutchinson", "exact")


@dataclass(frozen=True)
class Trace(Probed):
    """The trace of the matrix: exact where that holds, else with its standard error.

    Args:
        trace_method: exact (piecewise linear networks), hutchinson, or auto: exact where that
            holds.
    """

    pieces = True
    trace_method: str = "auto"

    def __post_init__(self):
        super().__post_init__()
        one_of("trace_method", METHODS, self.trace_method)

    def measure(self, place: Place) -> Result:
        """The trace."""
        return trace.trace(
            place.objective, place.z, self.trace_method,  # type: ignore[arg-type]
            probes=self.probes, generator=self.generator,
            elsewhere=None if place.spread is None else place.spread.forms(self, place.z),
            **self.matrix,
        )  # fmt: skip
