"""How a population moves: the interface that every optimiser here has."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from cnognp.ranges import require as require
from landscape.devices import sent
from landscape.objective import Objective, offered

State = Any
Stride = Literal["gradient", "adaptive", "length", "curvature", "search"]


@dataclass(frozen=True)
class Traits:
    """What others have to know of a method to use it well, and cannot see from outside.

    Args:
        stride: what decides how far a step goes; None where that is up to the method inside.
            ``gradient``: lr times a gradient, so that lr must fit the curvature. ``adaptive``: up
            to about lr in each coordinate, less where the gradient keeps changing its sign.
            ``length``: lr, whatever the gradient, so that it settles only as lr falls.
            ``curvature``: an estimate of the Hessian, so that few steps are enough. ``search``: a
            step is a whole descent, of as many gradients as it takes.
        random: whether a step draws random numbers.
        couples: whether members learn from each other, so that they are no independent trainings.
    """

    stride: Stride | None = None
    random: bool = False
    couples: bool = False


class Info(NamedTuple):
    """What a human wants to see of a step; nothing of it feeds back.

    ``loss`` and ``gradient_norm`` (N,) are those of the step's objective at ``position`` (N, p),
    and ``fitness`` is what the method ranks by there. What the method did not evaluate is None.

    ``evaluations`` counts passes over the objective's whole data for each member, with or without
    gradient; a Hessian-vector product counts as 2. It is a mean where members need different
    numbers, so that all of them together cost N times as much. An epoch of mini-batches is one
    pass for each evaluation of a batch, every trial of a line search is one, and a gradient at a
    neighbour is one more. What a method evaluates in ``init`` counts in its first step. What is
    evaluated only to be told here does not count: the end of an epoch, a weight average.

    ``leading`` (p,) is where the member of the lowest fitness was, if ``position`` is not there
    although it was evaluated: nobody keeps the places of all.
    """

    position: Tensor | None
    loss: Tensor | None
    gradient_norm: Tensor | None
    fitness: Tensor | None
    evaluations: float
    leading: Tensor | None = None

    @property
    def finite(self) -> Tensor | None:
        """Which members (N,) have a finite position, loss and gradient norm; None if not evaluated.

        A member of which this is False does not disturb the others, which go on. Most methods
        cannot bring it back.
        """
        if self.position is None or self.loss is None:
            return None
        finite = self.position.isfinite().all(-1) & self.loss.isfinite()
        return finite if self.gradient_norm is None else finite & self.gradient_norm.isfinite()


@runtime_checkable
class Method(Protocol):
    """Frozen hyper-parameters with ``init`` and ``step``.

    The population axis is always there: z is (N, p). ``step`` is pure: state goes in, state comes
    out, and every random number comes from the generator. A state is a (nested) NamedTuple of
    tensors with a field ``position`` (N, p). What others have to know of a method it says in
    ``traits``; in one without this attribute, members follow gradients without chance, each on its
    own.
    """

    def init(self, objective: Objective, z: Tensor) -> State: ...

    def step(
        self, objective: Objective, state: State, generator: torch.Generator
    ) -> tuple[State, Info]: ...


def traits_of(method: Any) -> Traits:
    """What a method says of itself in ``traits``, and of the methods that it moves by.

    A stride that nobody says is ``gradient``.
    """
    own = getattr(method, "traits", Traits())
    inside = [traits_of(part) for _, part in parts_of(method)]
    return Traits(
        own.stride or (inside[0].stride if inside else "gradient"),
        own.random or any(part.random for part in inside),
        own.couples or any(part.couples for part in inside),
    )


def parts_of(method: Any) -> list[tuple[str, Any]]:
    """The methods inside a method, by the names of their fields."""
    if not is_dataclass(method):
        return []
    known = ((field.name, getattr(method, field.name)) for field in fields(method))
    return [(name, part) for name, part in known if isinstance(part, Method)]


def norms(grad: Tensor) -> Tensor:
    """Euclidean norm over all parameters, (N,)."""
    return torch.linalg.vector_norm(grad, dim=-1)


def reached(objective: Objective) -> list[bool] | None:
    """Which tensors of its layout the objective's gradients have reached; None if all.

    Only an objective that says so in ``reached`` knows of any that were not. As in ``torch.optim``
    these stay where they are, and so do their velocities and running means, without decay.
    """
    known = offered(objective, "reached")
    return None if known is None or all(known) else list(known)


def kept(objective: Objective, new: Tensor, old: Tensor) -> Tensor:
    """``new`` (N, p), but ``old`` in tensors that the objective's gradients have not reached."""
    known = reached(objective)
    if known is None:
        return new
    marks = sent(torch.tensor(known, device="cpu"), new.device, new.dtype)
    return torch.where(objective.layout.spread(marks) > 0, new, old)  # type: ignore[attr-defined]
