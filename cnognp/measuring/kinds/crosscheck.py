"""Two codes beside each other."""

from dataclasses import dataclass

from cnognp.measuring.place import Place
from cnognp.measuring.settings import Eigenvalues, Probed, WholeHessian
from landscape.crosscheck import crosscheck
from landscape.results import Result


@dataclass(frozen=True)
class Crosscheck(WholeHessian, Eigenvalues, Probed):
    """Eigenvalues and trace by PyHessian beside ours."""

    def measure(self, place: Place) -> Result:
        """Both, and how far apart they are."""
        return crosscheck(
            place.objective, place.z, min(self.k, place.objective.dim),
            tolerance=self.tolerance, probes=self.probes, seed=self.seed,
        )  # fmt: skip
