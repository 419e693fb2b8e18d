"""Lion: steps of one length along the sign of a mean gradient, on whole populations."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Traits, kept, norms, require
from cnognp.methods.hyperparameters import Rate, descended, require_not_negative
from landscape.objective import Objective, value_and_grad


class LionState(NamedTuple):
    """Where the members are, and the running means of their gradients."""

    position: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Lion:
    r"""Steps along the sign of a mean gradient; one iteration is one epoch of mini-batches.

    :math:`g \leftarrow \nabla f(z)`, then
    :math:`z \leftarrow z - \eta (\mathrm{sign}(\beta_1 m + (1 - \beta_1) g) + \delta z)`, then
    :math:`m \leftarrow \beta_2 m + (1 - \beta_2) g`. Every coordinate moves by lr in every step,
    so that only a falling lr ends at a point.

    Args:
        lr: how far each coordinate moves in a step; not negative.
        beta1: share of the mean gradient in the direction of a step, from 0 to below 1.
        beta2: memory of the mean gradient, from 0 to below 1.
        weight_decay: decoupled decay; a step shrinks the weights by lr times this share.

    Raises:
        ValueError: if one is out of range.

    Reference: Chen et al. (2023), Symbolic Discovery of Optimization Algorithms, algorithm 2.
    """

    lr: Rate = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: Rate = 0.0
    traits: ClassVar[Traits] = Traits("length")

    def __post_init__(self):
        require_not_negative("lr", self.lr)
        for name in ("beta1", "beta2"):
            beta = getattr(self, name)
            require(0 <= beta < 1, name, "from 0 to below 1", beta)
        require_not_negative("weight_decay", self.weight_decay)

    def init(self, objective: Objective, z: Tensor) -> LionState:
        return LionState(z, torch.zeros_like(z))

    def step(
        self, objective: Objective, state: LionState, generator: torch.Generator
    ) -> tuple[LionState, Info]:
        z, mean = state
        loss, grad = value_and_grad(objective, z)
        along = torch.lerp(grad, mean, self.beta1).sign_()
        if isinstance(self.weight_decay, Tensor) or self.weight_decay:
            along += self.weight_decay * z
        new = LionState(
            kept(objective, descended(z, self.lr, along), z),
            kept(objective, torch.lerp(grad, mean, self.beta2), mean),
        )
        return new, Info(z, loss, norms(grad), loss, 1)
