"""The gradients of all members."""

from dataclasses import dataclass

from cnognp.measuring.place import Place, Result
from cnognp.measuring.settings import Settings


@dataclass(frozen=True)
class Gradient(Settings):
    """The loss and the norm of its gradient for every member."""

    whole = True

    def measure(self, place: Place) -> Result:
        """The losses and gradient norms of the population."""
        from landscape.curvature import gradients

        return gradients(place.objective, place.population)
