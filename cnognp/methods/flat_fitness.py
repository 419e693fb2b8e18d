"""Fitness that sees flatness where the gradient vanishes.

The gradient norm penalty is zero at every stationary point. These look further: at gradients around
the point, at a loss nearby, or at the curvature. ``evaluations`` says what a fitness costs beyond
the loss and gradient that it is given, in evaluations of the objective.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cnognp.method import norms, require
from cnognp.methods.hyperparameters import require_not_negative, require_positive
from cnognp.methods.sharpness_aware import ascent
from landscape.networks import Layout
from landscape.objective import Objective, hvp, offered, value, value_and_grad
from landscape.randomness import derived_seed


@dataclass(frozen=True)
class BallGradientNorm:
    r"""Loss plus the mean squared gradient norm over a ball around the point.

    :math:`\varphi(z) = f(z) + \lambda \, E_u \|\nabla f(z + u)\|^2` with u uniform in the ball of
    radius :math:`\rho = \sigma \sqrt{d + 2}`, in which every coordinate has the variance
    :math:`\sigma^2`. At a minimum the mean is about :math:`\sigma^2 \|H\|_F^2`, which is
    :math:`\rho^2 \|H\|_F^2 / (d + 2)`; it is that exactly where f is quadratic.

    The draws come in pairs u, -u and are a function of (seed, d): all members and all rounds see
    the same ones, so that members are compared like with like. An estimate that selection has not
    seen needs others: ``dataclasses.replace(fitness, seed=...)``.

    Costs ``samples`` gradients for each member. Pairs are evaluated one after another, so that
    memory does not grow with their number.

    Args:
        penalty: :math:`\lambda`, not negative.
        radius: :math:`\sigma`, per coordinate, positive.
        samples: points in the ball, even, at least 2.
        scaling: ``"none"``, or ``"filter"``: :math:`\sigma` is relative to the root mean square
            weight of each filter, and tensors without filters (biases, normalisation scales) stay
            as they are. Needs a layout.
        seed: of the draws.

    Raises:
        ValueError: if one is out of range.
    """

    penalty: float
    radius: float
    samples: int = 8
    scaling: Literal["none", "filter"] = "none"
    seed: int = 0
    needs_gradient = False

    def __post_init__(self):
        require_not_negative("penalty", self.penalty)
        require_positive("radius", self.radius)
        pairs = self.samples >= 2 and self.samples % 2 == 0
        require(pairs, "samples", "even and at least 2", self.samples)
        known = ("none", "filter")
        require(self.scaling in known, "scaling", f"one of {known}", self.scaling)

    @property
    def evaluations(self) -> int:
        """Evaluations of the objective for each member."""
        return self.samples

    def __call__(
        self, objective: Objective, z: Tensor, loss: Tensor, grad: Tensor | None
    ) -> Tensor:
        return loss + self.penalty * self.mean_square(objective, z)

    def mean_square(
        self, objective: Objective, z: Float[Tensor, "*batch p"]
    ) -> Float[Tensor, "*batch"]:
        """The mean squared gradient norm over the ball around each point.

        Raises:
            ValueError: if filters are to scale the ball and the objective knows none.
        """
        scale = self._scale(objective, z)
        total = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
        for u in self._ball(z):
            pair = torch.stack((z + scale * u, z - scale * u))
            total += (norms(value_and_grad(objective, pair)[1]) ** 2).sum(0)
        return total / self.samples

    def _ball(self, z: Tensor) -> Tensor:
        """One point (samples / 2, p) of each pair, uniform in the ball."""
        dim = z.shape[-1]
        source = torch.Generator("cpu").manual_seed(derived_seed(self.seed, "ball", dim))
        how: dict[str, Any] = {"generator": source, "dtype": torch.float64, "device": "cpu"}
        normal = torch.randn((self.samples // 2, dim), **how)
        share = torch.rand((self.samples // 2, 1), **how)
        rho = self.radius * math.sqrt(dim + 2)
        return (rho * share ** (1 / dim) * normal / norms(normal).unsqueeze(-1)).to(z)

    def _scale(self, objective: Objective, z: Tensor) -> Tensor | float:
        if self.scaling == "none":
            return 1.0
        layout = offered(objective, "layout")
        if layout is None:
            raise ValueError("scaling='filter' needs an objective with a layout, a network's")
        return filter_rms(layout, z)


@dataclass(frozen=True)
class SAMSharpness:
    r"""Loss plus SAM's sharpness, :math:`f + \lambda \, (f(z + \rho\,g / \|g\|) - f(z))`.

    It looks along the gradient, which at an exactly stationary point says nothing: there the
    sharpness is 0. Close to a minimum it is about :math:`\rho^2 / 2` times the curvature along g.

    Costs one value for each member.

    Args:
        penalty: :math:`\lambda`, not negative.
        rho: distance of the neighbour, not negative.

    Raises:
        ValueError: if one is out of range.

    Reference: Foret, Kleiner, Mobahi & Neyshabur (2021), whose objective has penalty 1.
    """

    penalty: float
    rho: float = 0.05
    needs_gradient = True
    evaluations = 1

    def __post_init__(self):
        require_not_negative("penalty", self.penalty)
        require_not_negative("rho", self.rho)

    def __call__(
        self, objective: Objective, z: Tensor, loss: Tensor, grad: Tensor | None
    ) -> Tensor:
        there = value(objective, z + ascent(grad, grad, self.rho))  # type: ignore[arg-type]
        return loss + self.penalty * (there - loss)


@dataclass(frozen=True)
class HessianEigenvalue:
    r"""Loss plus the largest Hessian eigenvalue, :math:`f(z) + \lambda \, \lambda_{\max}(H(z))`.

    By Lanczos' method with full orthogonalisation, all members at once, from one starting vector
    that is a function of (seed, d). It is exact where there are as many iterations as coordinates,
    and from below otherwise.

    Costs a Hessian-vector product for each iteration and member, each counted as 2 evaluations.

    Args:
        penalty: :math:`\lambda`, not negative.
        iterations: Lanczos iterations at most, at least 1.
        seed: of the starting vector.

    Raises:
        ValueError: if one is out of range.

    Reference: the fitness of the published code's CNOHEP, whose Hessian is zero by mistake.
    """

    penalty: float
    iterations: int = 10
    seed: int = 0
    needs_gradient = False

    def __post_init__(self):
        require_not_negative("penalty", self.penalty)
        require(self.iterations >= 1, "iterations", "at least 1", self.iterations)

    @property
    def evaluations(self) -> int:
        """Evaluations of the objective for each member, where it has enough coordinates."""
        return 2 * self.iterations

    def __call__(
        self, objective: Objective, z: Tensor, loss: Tensor, grad: Tensor | None
    ) -> Tensor:
        rows = z.reshape(-1, z.shape[-1])
        return loss + self.penalty * self.largest(objective, rows).reshape(loss.shape)

    def largest(self, objective: Objective, z: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        """The largest Ritz value of each member's Hessian; NaN where the Hessian is not finite."""
        dim = z.shape[-1]
        source = torch.Generator("cpu").manual_seed(derived_seed(self.seed, "lanczos", dim))
        start = torch.randn(dim, generator=source, dtype=torch.float64, device="cpu")
        u = (start / torch.linalg.vector_norm(start)).to(z).expand_as(z)
        basis: list[Tensor] = []
        diagonal: list[Tensor] = []
        beside: list[Tensor] = []
        for _ in range(min(self.iterations, dim)):
            image = hvp(objective, z, u)
            basis.append(u)
            diagonal.append((image * u).sum(-1))
            left = _orthogonal(image, basis)
            length = norms(left)
            # Where nothing is left, the space found is invariant: zeros from here on decouple.
            goes_on = length > 100 * torch.finfo(z.dtype).eps * norms(image)
            beside.append(torch.where(goes_on, length, 0.0))
            u = torch.where(goes_on.unsqueeze(-1), left / length.unsqueeze(-1), 0.0)
        return _largest_ritz(diagonal, beside, basis)


def filter_rms(layout: Layout, z: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
    """For each weight the root mean square of its filter; 0 in tensors that have no filters."""
    pieces = []
    for entry in layout.entries:
        piece = z[..., entry.span]
        if entry.filter_axis is None:
            pieces.append(torch.zeros_like(piece))
            continue
        tensor = piece.unflatten(-1, entry.shape)
        axes = [
            axis - len(entry.shape) for axis in range(len(entry.shape)) if axis != entry.filter_axis
        ]
        square = (tensor * tensor).mean(axes, keepdim=True)
        pieces.append(square.sqrt().expand_as(tensor).flatten(-len(entry.shape)))
    return torch.cat(pieces, dim=-1)


def _orthogonal(image: Tensor, basis: list[Tensor]) -> Tensor:
    """What is left of (n, p) images beside the basis; twice, since once loses digits."""
    known = torch.stack(basis, dim=1)
    for _ in range(2):
        image = image - ((known @ image.unsqueeze(-1)).mT @ known).squeeze(1)
    return image


def _largest_ritz(diagonal: list[Tensor], beside: list[Tensor], basis: list[Tensor]) -> Tensor:
    """The largest eigenvalues of tridiagonal matrices, whose dead ends repeat the first entry.

    The first entry is a Rayleigh quotient and so never above the largest eigenvalue.
    """
    alive = [norms(u) > 0 for u in basis]
    kept = [torch.where(on, entry, diagonal[0]) for on, entry in zip(alive, diagonal, strict=True)]
    matrices = torch.diag_embed(torch.stack(kept, dim=-1))
    if len(beside) > 1:
        off = torch.diag_embed(torch.stack(beside[:-1], dim=-1), offset=1)
        matrices = matrices + off + off.mT
    finite = matrices.isfinite().all(-1).all(-1)
    eigenvalues = torch.linalg.eigvalsh(torch.where(finite[:, None, None], matrices, 0.0))
    return torch.where(finite, eigenvalues[:, -1], math.nan)
