"""How a population moves: the interface that every optimiser here has."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from landscape.objective import Objective

State = Any


class Info(NamedTuple):
    """What a human wants to see of a step; nothing of it feeds back.

    ``loss`` and ``gradient_norm`` (N,) are those of the step's objective at ``position`` (N, p),
    and ``fitness`` is what the method ranks by there. A method that does not evaluate the objective
    leaves them None; one that uses no gradient has a ``gradient_norm`` of NaN. ``evaluations``
    counts passes over the objective's whole data per member, with or without gradient, that the
    method itself needs.
    """

    position: Tensor | None
    loss: Tensor | None
    gradient_norm: Tensor | None
    fitness: Tensor | None
    evaluations: float


@runtime_checkable
class Method(Protocol):
    """Frozen hyper-parameters with ``init`` and ``step``.

    The population axis is always there: z is (N, p). ``step`` is pure: state goes in, state comes
    out, and every random number comes from the generator. A state is a (nested) NamedTuple of
    tensors with a field ``position`` (N, p).
    """

    def init(self, objective: Objective, z: Tensor) -> State: ...

    def step(
        self, objective: Objective, state: State, generator: torch.Generator
    ) -> tuple[State, Info]: ...


def norms(grad: Tensor) -> Tensor:
    """Euclidean norm over all parameters, (N,)."""
    return torch.linalg.vector_norm(grad, dim=-1)


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Nothing, if a hyper-parameter is in range.

    Raises:
        ValueError: if it is not; names what was expected and what came.
    """
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {got}")
