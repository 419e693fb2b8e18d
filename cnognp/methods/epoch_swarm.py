"""Swarms whose members are ranked by the epochs that moved them, at no further cost."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Method, require
from cnognp.methods.attraction import Move
from cnognp.methods.descent import Epoch, GradientDescent
from cnognp.methods.schedule import Scheduled
from cnognp.methods.swarm import Swarm
from landscape.objective import Objective
from landscape.randomness import derive

_DUMMY = 999.0  # loss and gradient norm that the published code has for every start


class EpochSwarmState(NamedTuple):
    """Members, and the points that they had reached in the best of their epochs.

    ``rank`` (n,) is the fitness of the epoch that led to ``best`` (n, p), no fitness of that point.
    ``local`` is that of the local search, its position where the last epoch ended, before the
    pulls.
    """

    position: Tensor
    best: Tensor
    rank: Tensor
    local: Any
    round: Tensor


@dataclass(frozen=True)
class EpochSwarm(Swarm):
    r"""A swarm that ranks members by means over the mini-batches of the epochs that moved them.

    The local search leads to :math:`\bar z` by an epoch. The mean over its mini-batches of loss
    plus penalty on the gradient's norm, each where the member then was, is the rank of
    :math:`\bar z`. After all epochs of the round p and g are found anew, and then

    .. math:: z \leftarrow \bar z + c_1 r_1 (p - \bar z) + c_2 r_2 (g - \bar z).

    The starts are ranked by the same means over an epoch that does not move them, so that an epoch
    of training is compared with one. Members share their mini-batches. Between rounds the order of
    the samples and their augmentation differ, so that a rank is lucky or not, and a mini-batch's
    gradient is longer than that of all data: a rank says who pulls, never which point is best.
    `Info` tells the means, which belong to no point.

    Args:
        published: as in the published script: the starts have the rank of a loss and a gradient
            norm of 999, and a member follows the leader among those that moved before it. Other
            than there, members share their mini-batches. For comparison only.

    Raises:
        ValueError: if the local search is no epoch, or the fitness needs more than norms.

    Reference: the published script that trains CIFAR-10 networks further.
    """

    published: bool = False

    fitness_from = "epoch"

    def __post_init__(self):
        super().__post_init__()
        found = _epoch_of(self.local) is not None
        require(found, "fitness_from", "'point' without mini-batches: set batch_size", "'epoch'")
        known = hasattr(self.fitness, "of_norm")
        require(known, "fitness", "one of loss and gradient norm", type(self.fitness).__name__)
        require(not self.velocity, "velocity", "False in epochs", self.velocity)
        require(not self.stale_fitness, "stale_fitness", "False in epochs", self.stale_fitness)

    def init(self, objective: Objective, z: Tensor) -> EpochSwarmState:  # type: ignore[override]
        z = self._clipped(z)
        local = self.local.init(objective, z)  # type: ignore[union-attr]
        if self.published:
            dummy = torch.full_like(z[:, 0], _DUMMY)
            rank = self.fitness.of_norm(dummy, dummy)  # type: ignore[attr-defined]
        else:
            epoch = replace(
                _epoch_of(self.local), method=GradientDescent(0.0), fitness=self.fitness
            )
            first = torch.Generator(device="cpu").manual_seed(0)
            rank = _told(epoch.step(objective, epoch.init(objective, z), first)[1])
            rank = torch.where(rank.isfinite(), rank, math.inf)
        rounds = torch.zeros((), dtype=torch.int64, device="cpu")
        return EpochSwarmState(z, z, rank, local, rounds)

    def step(  # type: ignore[override]
        self,
        objective: Objective,
        state: EpochSwarmState,
        generator: torch.Generator,
        leader: Tensor | None = None,
        over: bool = False,
    ) -> tuple[EpochSwarmState, Info]:
        """The next state, and the means over the mini-batches of the epoch.

        Args:
            objective: what is minimised.
            state: of all members.
            generator: of the round.
            leader: nothing that members here can be given.
            over: without effect.
        """
        before = self._leader(state)
        new, told = self.searched(objective, state, generator)
        leaders = self.followed(state.rank, before, new)
        return self.pulled(objective, new, generator, leaders), told

    def searched(
        self, objective: Objective, state: EpochSwarmState, generator: torch.Generator
    ) -> tuple[EpochSwarmState, Info]:
        """The state after the epochs of these members and before any pull, and what they tell."""
        search = _telling(self.local, self.fitness)
        begun = state.local._replace(position=state.position)
        local, info = search.step(objective, begun, derive(generator, "local"))
        found, rank = self._clipped(local.position), _told(info)
        better = (rank < state.rank) & (rank > -math.inf)
        new = state._replace(
            position=found if self.inertia == 1 else state.position.lerp(found, self.inertia),
            best=torch.where(better[:, None], found, state.best),
            rank=torch.where(better, rank, state.rank),
            local=local._replace(position=found),
        )
        ranked = 0 if int(state.round) or self.published else 1
        told = info._replace(evaluations=info.evaluations + ranked)
        return new, told._replace(position=found) if self.published else told

    def followed(
        self, before: Tensor, first: Tensor, new: EpochSwarmState, members: slice = slice(None)
    ) -> Tensor:
        """Whom members follow after the epochs of all, (p,) or a row for each of them.

        Args:
            before: (n,), the ranks before these epochs.
            first: (p,), the leader then.
            new: the state of all members, with the epochs' best points.
            members: some of them.
        """
        if not self.published:
            return self._leader(new)
        # After those that move before it and no others.
        better = new.rank < before
        rank, member = torch.where(better, new.rank, math.inf).cummin(dim=0)
        member = torch.where(rank < before.min(), member, -1)[members].to(new.best.device)
        return torch.where((member < 0)[:, None], first.to(new.best), new.best[member])

    def pulled(
        self,
        objective: Objective,
        new: EpochSwarmState,
        generator: torch.Generator,
        leader: Tensor,
    ) -> EpochSwarmState:
        """The next state of members whose epochs are done.

        Args:
            objective: what is minimised.
            new: as `searched` gives it.
            generator: of the round.
            leader: whom they follow, (p,) or a row for each.
        """
        z = self._clipped(self._pulled(objective, new, leader, generator))
        if self.mutation is not None:
            z = self._mutated(z, new, generator)
        return new._replace(position=z, round=new.round + 1)

    def leader(self, state: EpochSwarmState) -> Tensor:  # type: ignore[override]
        """The point (p,) that the best epoch of all has reached so far."""
        return self._leader(state)

    def elected(self, state: EpochSwarmState, info: Info) -> tuple[int, Tensor]:
        """Which member had the best epoch in the last round, and where (1, p) that has ended.

        All members have seen the same mini-batches.
        """
        fitness = _told(info)
        member = int(torch.where(fitness.isnan(), math.inf, fitness).argmin())
        return member, state.local.position[member : member + 1]

    def _leader(self, state: Any) -> Tensor:
        return state.best[state.rank.argmin()]

    def _pulled(
        self, objective: Objective, new: EpochSwarmState, leader: Tensor, generator: torch.Generator
    ) -> Tensor:
        own, common = self._factors(objective, new.position, generator)
        z = torch.empty_like(new.position)
        Move(
            new.position, new.best, leader, own, common,
            grad=None, found=None, velocity=None, out=z, onward=None,
        ).take(1.0, 0.0)  # fmt: skip
        return z


def _told(info: Info) -> Tensor:
    """The mean fitness (n,) of an epoch."""
    return info.fitness  # type: ignore[return-value]


def _epoch_of(local: Any) -> Any:
    """The epoch that the local search is, itself or by a schedule; None if there is none."""
    if isinstance(local, Scheduled):
        return _epoch_of(local.method)
    return local if isinstance(local, Epoch) else None


def _telling(local: Any, fitness: Any) -> Method:
    """The local search, whose epoch tells the mean fitness over its mini-batches."""
    if isinstance(local, Scheduled):
        return replace(local, method=_telling(local.method, fitness))
    return replace(local, fitness=fitness)
