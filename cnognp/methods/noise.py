"""Normalised and noisy gradient descent on whole populations."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cnognp.method import Info, Traits, norms, require
from cnognp.methods.descent import DescentState
from cnognp.methods.hyperparameters import Rate, descended, require_not_negative
from landscape.devices import sent
from landscape.objective import Objective, offered, value_and_grad
from landscape.randomness import derive, draw_rows


class NoisyState(NamedTuple):
    """Where the members are, and how many gradients (N,) each of them has used."""

    position: Tensor
    evaluations: Tensor


@dataclass(frozen=True)
class NormalisedGD:
    r"""Normalised gradient descent: every step is as long as lr, whatever the gradient's norm.

    :math:`z \leftarrow z - \eta \, g / \|g\|`. Near a minimum it steps to and fro across it. Where
    the gradient is zero it stays.

    Args:
        lr: length of a step, not negative; the method ends at most so far from a minimum.

    Raises:
        ValueError: if ``lr`` is out of range.
    """

    lr: Rate = 0.01
    traits: ClassVar[Traits] = Traits("length")

    def __post_init__(self):
        require_not_negative("lr", self.lr)

    def init(self, objective: Objective, z: Tensor) -> DescentState:
        return DescentState(z)

    def step(
        self, objective: Objective, state: DescentState, generator: torch.Generator
    ) -> tuple[DescentState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        norm = norms(grad)
        moved = descended(z, self.lr, unit(grad, norm))
        return DescentState(moved), Info(z, loss, norm, loss, 1)


@dataclass(frozen=True)
class NiG:
    r"""Gradient descent with noise in the gradient, uniform in a ball.

    :math:`z \leftarrow z - \eta (g + \zeta)`.

    Args:
        lr: step length, not negative.
        rho: radius of the ball that the noise is uniform in, not negative.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.

    Raises:
        ValueError: if one is out of range.

    Reference: Ge, Huang, Jin & Yuan (2015); with noise from a ball, Inan, Liu & Shehu (2024).
    """

    lr: Rate = 0.1
    rho: float = 0.05
    per_tensor: bool = False
    traits: ClassVar[Traits] = Traits(random=True)

    def __post_init__(self):
        require_not_negative("lr", self.lr)
        require_not_negative("rho", self.rho)

    def init(self, objective: Objective, z: Tensor) -> DescentState:
        return DescentState(z)

    def step(
        self, objective: Objective, state: DescentState, generator: torch.Generator
    ) -> tuple[DescentState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        zeta = uniform_ball(objective, z, self.rho, derive(generator, "noise"), self.per_tensor)
        return DescentState(descended(z, self.lr, zeta.add_(grad))), Info(
            z, loss, norms(grad), loss, 1
        )


@dataclass(frozen=True)
class NiM:
    r"""Gradient descent with noise in the model, added where the gradient has become small.

    If :math:`\|g\| < \epsilon` and :math:`t > \tau`, :math:`z \leftarrow z + \zeta` and the
    gradient is taken anew; then :math:`z \leftarrow z - \eta g`. t is the number of gradients that
    the member has used, the one at z included.

    Args:
        lr: step length, not negative.
        rho: radius of the ball that the noise is uniform in, not negative.
        eps: gradient norm below which noise is added, not negative; 0 is gradient descent.
        tau: gradients before the first noise, at least 0.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.

    Raises:
        ValueError: if one is out of range.

    Reference: Jin, Ge, Netrapalli, Kakade & Jordan (2017), where tau gradients lie between any two
    perturbations; with tau at the beginning only, Inan, Liu & Shehu (2024).
    """

    lr: Rate = 0.1
    rho: float = 0.05
    eps: float = 1e-3
    tau: int = 100
    per_tensor: bool = False
    traits: ClassVar[Traits] = Traits(random=True)

    def __post_init__(self):
        require_not_negative("lr", self.lr)
        require_not_negative("rho", self.rho)
        require_not_negative("eps", self.eps)
        require(self.tau >= 0, "tau", "at least 0", self.tau)

    def init(self, objective: Objective, z: Tensor) -> NoisyState:
        return NoisyState(z, torch.zeros(len(z), dtype=torch.int64, device=z.device))

    def step(
        self, objective: Objective, state: NoisyState, generator: torch.Generator
    ) -> tuple[NoisyState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        norm, used = norms(grad), state.evaluations + 1
        still = (norm < self.eps) & (used > self.tau)
        rows = still.nonzero().squeeze(-1)
        info = Info(z, loss, norm, loss, float((1 + still.double()).mean()))
        if len(rows):
            noise = derive(generator, "noise")
            zeta = uniform_ball(objective, z, self.rho, noise, self.per_tensor)
            z = torch.where(still.unsqueeze(-1), z + zeta, z)
            grad = grad.index_copy(0, rows, value_and_grad(objective, z[rows])[1])
        return NoisyState(descended(z, self.lr, grad), used + still), info


def uniform_ball(
    objective: Objective,
    z: Float[Tensor, "n p"],
    rho: float,
    generator: torch.Generator,
    per_tensor: bool = False,
) -> Float[Tensor, "n p"]:
    r"""One point for each member, uniform in the ball of radius rho around 0.

    The direction is that of a normal vector, the length :math:`\rho \, U^{1/p}`. In many dimensions
    almost all of the ball lies near its surface, and one radius means something else for a large
    tensor than for a small one: with ``per_tensor`` every tensor of a network draws from a ball of
    its own, of radius rho times the norm of the tensor. A tensor of zeros then gets none.

    Args:
        objective: has the layout, needed only with ``per_tensor``.
        z: (N, p), the members; row i of the numbers drawn belongs to member i, whatever N is.
        rho: radius, absolute; relative to the tensors' norms with ``per_tensor``.
        generator: source of the numbers.
        per_tensor: one ball for each tensor.

    Raises:
        ValueError: if ``per_tensor`` and the objective knows no tensors.
    """
    layout = offered(objective, "layout")
    if per_tensor and layout is None:
        raise ValueError("per_tensor=True needs an objective with a layout, a network's")
    sizes = layout.sizes if per_tensor else (z.shape[-1],)  # type: ignore[union-attr]
    normal = draw_rows("normal", tuple(z.shape), derive(generator, "direction"), z)
    share = draw_rows("uniform", (len(z), len(sizes)), derive(generator, "length"), z)
    power = torch.tensor([1 / size for size in sizes], dtype=z.dtype, device="cpu")
    length = rho * share ** sent(power, z.device) / _norms(normal, sizes)
    if not per_tensor:
        return length * normal
    return layout.spread(length * _norms(z, sizes)) * normal  # type: ignore[union-attr]


def unit(grad: Float[Tensor, "n p"], norm: Float[Tensor, " n"]) -> Float[Tensor, "n p"]:
    """Each gradient divided by its norm; zero where that is zero."""
    return grad / norm.clamp_min(torch.finfo(grad.dtype).tiny).unsqueeze(-1)


def _norms(z: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The norms (N, t) of the pieces of each row."""
    return torch.stack([norms(piece) for piece in z.split(sizes, dim=-1)], dim=-1)
