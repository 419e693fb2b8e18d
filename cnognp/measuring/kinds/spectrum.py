"""Eigenvalues at an end of a matrix's spectrum."""

from dataclasses import dataclass

from cnognp.measuring.place import Place
from cnognp.measuring.settings import ENDS, Eigenvalues, one_of
from landscape.operators.selection import selected
from landscape.results import Result
from landscape.spectrum import top_eigenpairs


@dataclass(frozen=True)
class Spectrum(Eigenvalues):
    """The eigenvalues at one end of the matrix's spectrum, with bounds.

    Args:
        which: the end: LM, LA, SA or BE, as in `landscape.spectrum.top_eigenpairs`.
    """

    which: str = "LM"

    def __post_init__(self):
        super().__post_init__()
        one_of("which", ENDS, self.which)

    def measure(self, place: Place) -> Result:
        """The eigenvalues."""
        objective, part = place.objective, self.matrix
        size = objective.dim
        if part["where"] is not None:
            size = len(selected(objective, part["where"], place.z.device))
        return top_eigenpairs(
            objective, place.z, min(self.k, size), self.which,  # type: ignore[arg-type]
            self.tolerance, generator=self.generator, vectors=False, **part,
        )  # fmt: skip
