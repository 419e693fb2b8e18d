"""The gradients of all members."""

from dataclasses import dataclass

from cnognp.measuring.place import Place
from cnognp.measuring.settings import Settings
from landscape.curvature import gradients
from landscape.results import Result


@dataclass(frozen=True)
class Gradient(Settings):
    """The loss and the norm of its gradient for every member."""

    whole = True
    summed = True

    def measure(self, place: Place) -> Result:
        """The losses and gradient norms of the population."""
        return gradients(place.objective, place.population)
