"""How a population moves: the interface that every optimiser here has."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from cnognp.ranges import require as require
from landscape.objective import Objective, offered

State = Any


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
    """

    position: Tensor | None
    loss: Tensor | None
    gradient_norm: Tensor | None
    fitness: Tensor | None
    evaluations: float

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
    tensors with a field ``position`` (N, p). A method whose members learn from each other says so
    in ``couples_members``; in one without this attribute every member is on its own.
    """

    def init(self, objective: Objective, z: Tensor) -> State: ...

    def step(
        self, objective: Objective, state: State, generator: torch.Generator
    ) -> tuple[State, Info]: ...


def couples_members(method: Method) -> bool:
    """Whether members learn from each other, so that they are no independent trainings.

    A method says so itself, by its attribute ``couples_members``. One that moves by another inside
    couples members where that one does.
    """
    if getattr(method, "couples_members", False):
        return True
    inside = (getattr(method, name, None) for name in ("local", "method", "base"))
    return any(couples_members(part) for part in inside if part is not None)


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
    marks = torch.tensor(known, device=new.device).to(new)
    return torch.where(objective.layout.spread(marks) > 0, new, old)  # type: ignore[attr-defined]
