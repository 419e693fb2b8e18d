"""Local search, and basin hopping from minimum to minimum, on whole populations."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cnognp.method import Info, Traits, norms, require
from cnognp.methods.descent import DescentState
from cnognp.methods.hyperparameters import Rate, descended, require_not_negative, require_positive
from cnognp.methods.noise import uniform_ball
from cnognp.methods.stochastic_hopping import StochasticHopping
from landscape.objective import Objective, value_and_grad
from landscape.randomness import derive, draw_rows

Perturbation = Literal["gradient", "model"]
Acceptance = Literal["always", "monotone", "metropolis"]


class Found(NamedTuple):
    """Where local searches have ended, loss and gradient there, and the gradients each has used."""

    position: Float[Tensor, "n p"]
    loss: Float[Tensor, " n"]
    grad: Float[Tensor, "n p"]
    evaluations: Int[Tensor, " n"]


class HoppingState(NamedTuple):
    """The minima last accepted, the candidates last found, and the gradients (N,) used so far.

    ``round`` counts the hops; it lives on the CPU, so that no step waits for an accelerator.
    """

    position: Tensor
    trial: Tensor
    evaluations: Tensor
    round: Tensor


@dataclass(frozen=True)
class LocalSearch:
    r"""Gradient descent until the gradient is small, as one step.

    Up to ``tau`` steps :math:`z \leftarrow z - \eta g`; a member stops where
    :math:`\|g\| < \epsilon`. The end point is evaluated too, so that a search uses at most
    tau + 1 gradients.

    Args:
        lr: step length :math:`\eta`, not negative.
        eps: gradient norm that counts as none, not negative.
        tau: steps at most, at least 1.

    Raises:
        ValueError: if one is out of range.
    """

    lr: Rate
    eps: float = 1e-3
    tau: int = 100
    traits: ClassVar[Traits] = Traits("search")

    def __post_init__(self):
        require_not_negative("lr", self.lr)
        require_not_negative("eps", self.eps)
        require(self.tau >= 1, "tau", "at least 1", self.tau)

    def init(self, objective: Objective, z: Tensor) -> DescentState:
        return DescentState(z)

    def step(
        self, objective: Objective, state: DescentState, generator: torch.Generator
    ) -> tuple[DescentState, Info]:
        position, loss, grad, used = self.descend(objective, state.position)
        cost = float(used.double().mean())
        return DescentState(position), Info(position, loss, norms(grad), loss, cost)

    def descend(self, objective: Objective, z: Float[Tensor, "n p"]) -> Found:
        """The ends of the descents from ``z``; a member that has stopped costs nothing more."""
        loss, grad = value_and_grad(objective, z)
        moving = Found(z, loss, grad, torch.ones_like(loss, dtype=torch.int64))
        ends, rows = Found(*map(torch.clone, moving)), torch.arange(len(z), device=z.device)
        for _ in range(self.tau):
            goes_on = norms(moving.grad) >= self.eps
            if not bool(goes_on.all()):
                _put(ends, rows, moving)
                rows, moving = rows[goes_on], Found(*(part[goes_on] for part in moving))
            if len(rows) == 0:
                return ends
            z = descended(moving.position, self.lr, moving.grad)
            moving = Found(z, *value_and_grad(objective, z), moving.evaluations + 1)
        _put(ends, rows, moving)
        return ends


@dataclass(frozen=True)
class BasinHopping:
    r"""Perturb and descend, again and again; one step is one hop.

    The first step descends from the start. Every later one perturbs the minimum w that was accepted
    last, descends to a candidate c, and accepts it or stays at w. With :math:`\zeta` uniform in a
    ball, the descent starts at :math:`w - \eta (\nabla f(w) + \zeta)`, or at :math:`w + \zeta`.

    Loss and gradient at w are evaluated again in every hop that needs them, for the objective may
    have changed. On mini-batches it is `StochasticHopping`.

    Args:
        lr: step length of the descent, and of the perturbed step before it; not negative.
        rho: radius of the ball that the noise is uniform in, not negative.
        eps: gradient norm at which a descent stops, not negative.
        tau: steps of a descent at most, at least 1.
        perturbation: of the ``"gradient"`` (NiG) or of the ``"model"`` (NiM).
        acceptance: ``"always"``; ``"monotone"``, if f(c) < f(w); or ``"metropolis"``, with
            probability :math:`\min(1, e^{-(f(c) - f(w)) / T})`.
        temperature: T of the Metropolis rule, positive.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.

    Raises:
        ValueError: if one is out of range.

    Reference: Inan, Liu & Shehu (2024), whose listing of NiM-MBH compares the candidate with the
    perturbed point instead of w and so accepts whatever descends.
    """

    lr: Rate = 0.1
    rho: float = 0.05
    eps: float = 1e-3
    tau: int = 100
    perturbation: Perturbation = "gradient"
    acceptance: Acceptance = "always"
    temperature: float = 1.0
    per_tensor: bool = False
    traits: ClassVar[Traits] = Traits("search", random=True)

    def __post_init__(self):
        LocalSearch(self.lr, self.eps, self.tau)
        require_not_negative("rho", self.rho)
        require_positive("temperature", self.temperature)
        for name, choices in (("perturbation", Perturbation), ("acceptance", Acceptance)):
            known = choices.__args__  # type: ignore[attr-defined]
            require(getattr(self, name) in known, name, f"one of {known}", getattr(self, name))

    @classmethod
    def named(cls, *, temperature: float = 0.0, **keys: Any) -> "BasinHopping":
        """The method; a temperature above 0 makes it accept by Metropolis' rule.

        Args:
            temperature: above 0, a hop that raises the loss is accepted by Metropolis' rule.
            **keys: the other fields.

        Raises:
            ValueError: if one is out of range.
        """
        require_not_negative("temperature", temperature)
        if temperature:
            keys |= {"acceptance": "metropolis", "temperature": temperature}
        return cls(**keys)

    def on_minibatches(self) -> StochasticHopping:
        """The hopping whose descents take a mini-batch for every step.

        Raises:
            ValueError: if it compares the ends of descents, which takes the whole data.
        """
        require(self.acceptance == "always", "acceptance", "'always' on mini-batches",
                self.acceptance)  # fmt: skip
        return StochasticHopping(
            self.lr, self.rho, self.eps, self.tau, self.perturbation, self.per_tensor
        )

    def init(self, objective: Objective, z: Tensor) -> HoppingState:
        used = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        return HoppingState(z, z, used, torch.zeros((), dtype=torch.int64, device="cpu"))

    def step(
        self, objective: Objective, state: HoppingState, generator: torch.Generator
    ) -> tuple[HoppingState, Info]:
        w, extra, here = state.position, 0, None
        first = int(state.round) == 0
        if not first and (self.perturbation == "gradient" or self.acceptance != "always"):
            here, extra = value_and_grad(objective, w), 1
        start = w if first else self._perturbed(objective, w, here, derive(generator, "noise"))
        found = LocalSearch(self.lr, self.eps, self.tau).descend(objective, start)
        used = found.evaluations + extra
        position, loss, norm = found.position, found.loss, norms(found.grad)
        if here is not None:
            taken = self._accepted(found.loss, here[0], derive(generator, "acceptance"))
            position = torch.where(taken.unsqueeze(-1), position, w)
            loss = torch.where(taken, loss, here[0])
            norm = torch.where(taken, norm, norms(here[1]))
        new = HoppingState(position, found.position, state.evaluations + used, state.round + 1)
        return new, Info(position, loss, norm, loss, float(used.double().mean()))

    def _perturbed(
        self,
        objective: Objective,
        w: Tensor,
        here: tuple[Tensor, Tensor] | None,
        generator: torch.Generator,
    ) -> Tensor:
        zeta = uniform_ball(objective, w, self.rho, generator, self.per_tensor)
        if self.perturbation == "model":
            return w + zeta
        return w - self.lr * (here[1] + zeta)  # type: ignore[index]

    def _accepted(self, candidate: Tensor, loss: Tensor, generator: torch.Generator) -> Tensor:
        """(N,) booleans. A candidate or a minimum whose loss is NaN loses every comparison."""
        if self.acceptance == "always":
            return torch.ones_like(loss, dtype=torch.bool)
        if self.acceptance == "monotone":
            return candidate < loss
        drawn = draw_rows("uniform", tuple(loss.shape), generator, loss)
        return drawn < torch.exp((loss - candidate) / self.temperature)


def _put(ends: Found, rows: Tensor, moving: Found) -> None:
    for all_ends, some in zip(ends, moving, strict=True):
        all_ends[rows] = some
