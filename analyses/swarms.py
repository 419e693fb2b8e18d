"""Many independent swarms of equal size, which move at once."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cnognp.method import norms, require
from cnognp.methods.swarm import Swarm, SwarmState
from landscape.randomness import derive


@dataclass(frozen=True)
class Swarms(Swarm):
    """Swarms side by side in one population: the first members are the first swarm's, and so on.

    Each swarm has its own leader and its own diversity. Members draw one after another, so that the
    first swarms do not depend on how many there are.

    Args:
        swarms: their number, at least 1; it divides the number of members.

    Raises:
        ValueError: if a part is out of range, or numbers are to be drawn for tensors.
    """

    swarms: int = 1

    def __post_init__(self):
        super().__post_init__()
        require(self.swarms >= 1, "swarms", "at least 1", self.swarms)
        known = ("particle", "coordinate")
        require(self.randomness in known, "randomness", f"one of {known}", self.randomness)

    def _mutated(self, z: Tensor, state: SwarmState, generator: torch.Generator) -> Tensor:
        apart = norms(z - self._leader(state)).view(self.swarms, -1)
        # A member that has diverged must not keep the others from scattering.
        diversity = apart.nanmean(dim=1, keepdim=True).expand_as(apart).reshape(-1, 1)
        low, high = self._bounds(z)
        scattered = self.mutation(z, low, high, state.round, derive(generator, "mutation"))  # type: ignore[misc]
        return torch.where(diversity < self.mutation.threshold, scattered, z)  # type: ignore[union-attr]

    def _leader(self, state: SwarmState) -> Tensor:
        """For every member (n, p) the best point of its swarm."""
        best = state.best.unflatten(0, (self.swarms, -1))
        first = state.best_fitness.view(self.swarms, -1).argmin(dim=1)
        leaders = best[torch.arange(self.swarms, device=best.device), first]
        return leaders.unsqueeze(1).expand_as(best).flatten(0, 1)


def together(swarm: Swarm, swarms: int) -> Swarms:
    """So many independent swarms, each like the one given."""
    parts = {entry.name: getattr(swarm, entry.name) for entry in fields(swarm)}
    return Swarms(**parts, swarms=swarms)
