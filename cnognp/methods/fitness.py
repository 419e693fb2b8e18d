"""What a swarm ranks its members by: functions of a point, its loss and its gradient.

At a stationary point the gradient vanishes, so a penalty on it changes nothing there: the global
minimisers of the penalised fitness are exactly those of the loss, and full-batch fitness cannot
rank exact minima by their flatness. What changes is which points off the minima win.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from cnognp.method import norms, require
from landscape.objective import Objective


@runtime_checkable
class Fitness(Protocol):
    """A number to minimise for each member, from what one evaluation gave.

    ``needs_gradient`` says whether ``grad`` must be there; it is None else. A fitness that
    evaluates the objective itself says in ``evaluations`` how often it does so for each member, at
    most; one without this attribute does not. One that needs no more of the gradient than its norm
    may have ``of_norm(loss, norm)``.
    """

    needs_gradient: bool

    def __call__(
        self, objective: Objective, z: Tensor, loss: Tensor, grad: Tensor | None
    ) -> Tensor: ...


@dataclass(frozen=True)
class Loss:
    """The loss itself."""

    needs_gradient = False

    def of_norm(self, loss: Tensor, norm: Tensor | None) -> Tensor:
        """The same, whatever the norm."""
        return loss

    def __call__(
        self, objective: Objective, z: Tensor, loss: Tensor, grad: Tensor | None
    ) -> Tensor:
        return loss


@dataclass(frozen=True)
class GradientNormPenalty:
    r"""Loss plus gradient norm, :math:`\varphi(z) = f(z) + \lambda \|\nabla f(z)\|_2^2`.

    Args:
        penalty: weight of the gradient norm in the fitness (lambda), not negative.
        power: penalise the squared norm (as published) or the norm (as the published code does).

    Raises:
        ValueError: if one is out of range.
    """

    penalty: float = 0.01
    power: Literal["squared", "norm"] = "squared"
    needs_gradient = True

    def __post_init__(self):
        weighs = self.penalty >= 0 and isfinite(self.penalty)
        require(weighs, "penalty", "at least 0 and finite", self.penalty)
        require(self.power in ("squared", "norm"), "power", "'squared' or 'norm'", self.power)

    def __call__(
        self, objective: Objective, z: Tensor, loss: Tensor, grad: Tensor | None
    ) -> Tensor:
        return self.of_norm(loss, norms(grad))  # type: ignore[arg-type]

    def of_norm(self, loss: Tensor, norm: Tensor) -> Tensor:
        """The same from the gradient's norm, which a swarm has."""
        return loss + self.penalty * (norm**2 if self.power == "squared" else norm)
