"""Measurements that several processes share, and what the others do meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from cnognp.measuring.place import Place
from cnognp.measuring.settings import Settings
from landscape.distributed import Distributed, Ranks, shards
from landscape.networks import Risk


class Sharing(NamedTuple):
    """Who shares what is a sum over the data, and how it is cut.

    Attributes:
        ranks: the processes, of which the first measures.
        shards: into how many parts the data are cut, as in `landscape.distributed.shards`.
    """

    ranks: Ranks
    shards: int

    @contextmanager
    def shared(self, kind: Settings, place: Place) -> Iterator[Place]:
        """The place with what the ranks share; as it is where the first measures alone.

        On other ranks it is entered when all is done.

        Raises:
            ValueError: if the data cannot be cut.
        """
        there = self.alone(kind, place)
        if there is place:
            yield place
            return
        with there.objective:
            yield there

    def alone(self, kind: Settings, place: Place) -> Place:
        """The place, its objective cut where the kind is a sum; entered it is shared.

        Raises:
            ValueError: if the data cannot be cut.
        """
        if not (kind.summed and isinstance(place.objective, Risk)):
            return place
        objective = Distributed(shards(place.objective, self.shards), self.ranks)
        return place._replace(objective=objective)

    def follow(self, kind: Settings, z: Tensor | None, objective_at: Any) -> None:
        """Nothing; this rank has done its part of a kind at a point.

        Args:
            kind: what the first rank measures.
            z: (p,), the point; None for all members.
            objective_at: gives the objective at a point.
        """
        if kind.summed:
            with self.shared(kind, Place(objective_at(z), z, z)):  # type: ignore[arg-type]
                pass
