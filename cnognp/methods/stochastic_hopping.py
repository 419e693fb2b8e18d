"""Basin hopping whose descents take a mini-batch for every step."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Traits, norms, require
from cnognp.methods.hyperparameters import Rate, descended, require_not_negative
from cnognp.methods.noise import uniform_ball
from landscape.objective import Objective, value_and_grad
from landscape.randomness import derive


class StochasticHoppingState(NamedTuple):
    """Where the members are, and how many steps (N,) their descents have taken; -1 at the end."""

    position: Tensor
    taken: Tensor


@dataclass(frozen=True)
class StochasticHopping:
    r"""Descents of stochastic gradient descent, with a perturbation between each two of them.

    A descent takes steps :math:`z \leftarrow z - \eta g`, each with the gradient of the mini-batch
    at hand, and ends after tau of them, or where :math:`\|g\| < \epsilon`. The next one begins at
    :math:`z - \eta (g + \zeta)` or at :math:`z + \zeta`, with :math:`\zeta` uniform in a ball, and
    is always accepted: to compare the ends of descents would take the whole data. A step takes one
    gradient, whether it perturbs or not.

    Args:
        lr: step length, not negative.
        rho: radius of the ball that the noise is uniform in, not negative.
        eps: norm of a mini-batch's gradient at which a descent ends, not negative.
        tau: steps of a descent at most, at least 1.
        perturbation: of the ``"gradient"`` (NiG) or of the ``"model"`` (NiM).
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.

    Raises:
        ValueError: if one is out of range.

    Reference: Inan, Liu & Shehu (2024), algorithms 6 and 7, with mini-batches in local search.
    """

    lr: Rate = 0.1
    rho: float = 0.05
    eps: float = 1e-3
    tau: int = 100
    perturbation: str = "gradient"
    per_tensor: bool = False
    traits: ClassVar[Traits] = Traits(random=True)

    def __post_init__(self):
        for name in ("lr", "rho", "eps"):
            require_not_negative(name, getattr(self, name))
        require(self.tau >= 1, "tau", "at least 1", self.tau)
        known = ("gradient", "model")
        require(self.perturbation in known, "perturbation", f"one of {known}", self.perturbation)

    def init(self, objective: Objective, z: Tensor) -> StochasticHoppingState:
        return StochasticHoppingState(z, torch.zeros(len(z), dtype=torch.int64, device=z.device))

    def step(
        self, objective: Objective, state: StochasticHoppingState, generator: torch.Generator
    ) -> tuple[StochasticHoppingState, Info]:
        z, hops = state.position, state.taken < 0
        noise: Tensor | float = 0.0
        if bool(hops.any()):
            source = derive(generator, "noise")
            drawn = uniform_ball(objective, z, self.rho, source, self.per_tensor)
            noise = torch.where(hops.unsqueeze(-1), drawn, 0)
            if self.perturbation == "model":
                z = z + noise
        loss, grad = value_and_grad(objective, z)
        norm = norms(grad)
        info = Info(z, loss, norm, loss, 1)
        if self.perturbation == "gradient":
            grad = grad + noise
        # The perturbed step of NiG leads to where the next descent starts, and is none of it.
        begun = 0 if self.perturbation == "gradient" else 1
        taken = torch.where(hops, begun, state.taken + 1)
        over = (taken >= self.tau) | ((norm < self.eps) & (taken > 0))
        return StochasticHoppingState(
            descended(z, self.lr, grad), torch.where(over, -1, taken)
        ), info
