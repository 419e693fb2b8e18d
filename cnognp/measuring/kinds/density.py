"""The density of a matrix's eigenvalues."""

from dataclasses import dataclass

from cnognp.measuring.place import Place
from cnognp.measuring.settings import Matrix
from cnognp.ranges import require
from landscape.results import Result
from landscape.spectrum import density


@dataclass(frozen=True)
class Density(Matrix):
    """The density of the matrix's eigenvalues, with bands.

    Args:
        density_steps: products of Lanczos for each probe, at least 1.
        density_probes: random vectors, at least 1.
    """

    pieces = True
    density_steps: int = 100
    density_probes: int = 10

    def __post_init__(self):
        super().__post_init__()
        for name in ("density_steps", "density_probes"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))

    def measure(self, place: Place) -> Result:
        """The density."""
        return density(
            place.objective, place.z, steps=self.density_steps, probes=self.density_probes,
            generator=self.generator,
            elsewhere=None if place.spread is None else place.spread.rules(self, place.z),
            **self.matrix,
        )  # fmt: skip
