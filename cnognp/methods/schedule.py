"""Step lengths that change from round to round or step to step, for any method that has one."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from cnognp.method import Info, Method, parts_of, require
from cnognp.methods.descent import Epoch
from landscape.objective import Objective

Per = Literal["round", "step"]


@runtime_checkable
class Schedule(Protocol):
    """A factor on the step length, at least 0, as a function of the round, which counts from 0.

    One that may count steps has ``stretched(n)``, itself over n times as many rounds.
    """

    def __call__(self, round: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """The factor 1 in every round."""

    def __call__(self, round: int) -> float:
        return 1.0

    def stretched(self, times: int) -> "Constant":
        """Itself."""
        return self


@dataclass(frozen=True)
class StepDecay:
    r"""The factor :math:`\gamma^{\lfloor k / n \rfloor}`, as ``torch.optim.lr_scheduler.StepLR``.

    Args:
        every: n, the rounds between two drops, at least 1.
        factor: :math:`\gamma`, what the step length is multiplied by, in (0, 1].

    Raises:
        ValueError: if one is out of range.
    """

    every: int
    factor: float = 0.1

    def __post_init__(self):
        require(self.every >= 1, "every", "at least 1", self.every)
        require(0 < self.factor <= 1, "factor", "above 0 and at most 1", self.factor)

    def __call__(self, round: int) -> float:
        return self.factor ** (round // self.every)

    def stretched(self, times: int) -> "StepDecay":
        """The same over so many times as many rounds."""
        return StepDecay(self.every * times, self.factor)


@dataclass(frozen=True)
class Cosine:
    r"""The factor :math:`c + (1 - c) (1 + \cos(\pi k / K)) / 2`, which is c in round K.

    There it stays, also where c is 0; until then it is that of
    ``torch.optim.lr_scheduler.CosineAnnealingLR``.

    Args:
        horizon: K, rounds, at least 1.
        final: c, from 0 to 1.

    Raises:
        ValueError: if one is out of range.
    """

    horizon: int
    final: float = 0.0

    def __post_init__(self):
        require(self.horizon >= 1, "horizon", "at least 1", self.horizon)
        require(0 <= self.final <= 1, "final", "from 0 to 1", self.final)

    def __call__(self, round: int) -> float:
        done = min(round, self.horizon) / self.horizon
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2

    def stretched(self, times: int) -> "Cosine":
        """The same over so many times as many rounds."""
        return Cosine(self.horizon * times, self.final)


@dataclass(frozen=True)
class WarmUp:
    r"""The factor :math:`(k + 1) / n` for n rounds, then another schedule from its beginning.

    Args:
        rounds: n, at least 0.
        then: the schedule that follows.

    Raises:
        ValueError: if ``rounds`` is negative.
    """

    rounds: int
    then: Schedule = Constant()

    def __post_init__(self):
        require(self.rounds >= 0, "rounds", "at least 0", self.rounds)

    def __call__(self, round: int) -> float:
        if round < self.rounds:
            return (round + 1) / self.rounds
        return self.then(round - self.rounds)

    def stretched(self, times: int) -> "WarmUp":
        """The same over so many times as many rounds."""
        return WarmUp(self.rounds * times, self.then.stretched(times))  # type: ignore[attr-defined]


class ScheduledState(NamedTuple):
    """Where the members are, the state of the method that moves them, and the rounds so far."""

    position: Tensor
    inner: Any
    round: Tensor


@dataclass(frozen=True)
class Scheduled:
    """A method whose step length is multiplied by a schedule's factor.

    Every field ``lr`` is multiplied, of the method and of the methods inside it. A round is one
    step of ``method``: an epoch where it is an `Epoch`, a mini-batch where this stands inside one.

    Args:
        method: any method that has a step length, itself or in a part.
        schedule: from the round to a factor, at least 0.
        per: ``"step"`` changes the factor from one mini-batch of an `Epoch` to the next: the
            schedule is stretched to as many steps as its rounds have. What is no `Epoch` has
            rounds of one step.

    Raises:
        ValueError: if nothing in ``method`` has an ``lr``; 0 is none in a swarm. If ``per`` is no
            such word, or the schedule cannot be stretched.
    """

    method: Method
    schedule: Schedule
    per: Per = "round"

    def __post_init__(self):
        found = _has_rate(self.method)
        require(found, "method", "one with an lr, itself or in a part", self.method)
        require(self.per in get_args(Per), "per", f"one of {get_args(Per)}", self.per)
        fits = self.per == "round" or hasattr(self.schedule, "stretched")
        require(fits, "schedule", "one with stretched(n), where it counts steps", self.schedule)

    def init(self, objective: Objective, z: Tensor) -> ScheduledState:
        rounds = torch.zeros((), dtype=torch.int64, device="cpu")
        return ScheduledState(z, self.method.init(objective, z), rounds)

    def step(
        self, objective: Objective, state: ScheduledState, generator: torch.Generator
    ) -> tuple[ScheduledState, Info]:
        method = self.paced(int(state.round))
        inner = state.inner._replace(position=state.position)
        inner, info = method.step(objective, inner, generator)
        return ScheduledState(inner.position, inner, state.round + 1), info

    def paced(self, round: int) -> Method:
        """The method of a round, with step lengths of its own."""
        if self.per == "round" or not isinstance(self.method, Epoch):
            return slowed(self.method, self.schedule(round))
        return replace(self.method, paced=partial(self._at, round))

    def factor(self, round: int, steps: int) -> float:
        """The factor in the first step of a round that has so many."""
        if self.per == "round" or not isinstance(self.method, Epoch):
            return self.schedule(round)
        return self.schedule.stretched(steps)(round * steps)  # type: ignore[attr-defined]

    def _at(self, round: int, method: Method, step: int, steps: int) -> Method:
        """The method in a step of a round that has so many."""
        return slowed(method, self.schedule.stretched(steps)(round * steps + step))  # type: ignore[attr-defined]


def slowed(method: Any, factor: float) -> Any:
    """``method`` with every step length in it multiplied by ``factor``."""
    changes: dict[str, Any] = {name: slowed(part, factor) for name, part in parts_of(method)}
    if hasattr(method, "lr"):
        changes["lr"] = method.lr * factor
    return replace(method, **changes) if changes else method


def _has_rate(method: Any) -> bool:
    """Whether a method, or one inside it, has a step length that a factor can change."""
    own = getattr(method, "moves_by_lr", hasattr(method, "lr"))
    return own or any(_has_rate(part) for _, part in parts_of(method))
