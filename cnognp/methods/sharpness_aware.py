"""SAM and its relatives: methods that take the gradient at a neighbour of each member.

The members themselves never move there: `cnognp.methods.given_gradient` hands the neighbour's
gradient to a base method, which does the step from where the members are.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cnognp.method import Info, Method, norms, require
from cnognp.methods.centralisation import centralised
from cnognp.methods.given_gradient import BaseState, redirected_step
from cnognp.methods.hyperparameters import Rate, require_not_negative
from landscape.objective import Objective, value_and_grad

Variant = Literal["A1", "A2", "A3", "A4"]

# The published codes of SAM and GCSAM add this to the norm that they divide by.
_TINY = 1e-12


@dataclass(frozen=True)
class SAM:
    r"""Sharpness-aware minimisation: the gradient at a worse point nearby; two for each step.

    :math:`e = \rho \, g / \|g\|`, and the base method steps along :math:`\nabla f(z + e)`. With
    ``adaptive`` (ASAM) :math:`T = |z| + \eta` and :math:`e = \rho \, T^2 g / \|T g\|`, so that the
    neighbourhood scales with the weights. On mini-batches both gradients belong to the same one.

    With a constant rho it does not come to rest: at a minimum with largest curvature l it ends in
    a 2-cycle along that eigenvector, of half-amplitude :math:`\rho\,\eta\,l / (2 - \eta\,l)` with
    the step length :math:`\eta` of gradient descent.

    Args:
        base: what does the step, for instance `SGD` or `Adam`.
        rho: distance of the point nearby, not negative; relative to the weights in ASAM.
        adaptive: the neighbourhood scales with the magnitude of each weight.
        eta: added to the weights' magnitudes if adaptive, not negative.

    Raises:
        ValueError: if one is out of range.

    Reference: Foret, Kleiner, Mobahi & Neyshabur (2021); Kwon, Kim, Park & Choi (2021).
    """

    base: Method
    rho: Rate = 0.05
    adaptive: bool = False
    eta: Rate = 0.0

    def __post_init__(self):
        require_not_negative("rho", self.rho)
        require_not_negative("eta", self.eta)

    def init(self, objective: Objective, z: Tensor) -> BaseState:
        return BaseState(z, self.base.init(objective, z))

    def step(
        self, objective: Objective, state: BaseState, generator: torch.Generator
    ) -> tuple[BaseState, Info]:
        return redirected_step(self.base, self.gradient, 2, objective, state, generator)

    def gradient(self, objective: Objective, z: Tensor, grad: Tensor) -> Tensor:
        """The gradient at the neighbour of ``z``, where the gradient is ``grad``."""
        return gradient_nearby(self, objective, z, grad)

    def perturbation(self, objective: Objective, z: Tensor, grad: Tensor) -> Tensor:
        """From ``z``, where the gradient is ``grad``, to the neighbour."""
        scale = z.abs() + self.eta if self.adaptive else None
        return ascent(grad, grad, self.rho, scale)

    def mixed(self, objective: Objective, grad: Tensor, slope: Tensor) -> Tensor:
        """What the base method steps along: ``slope``, the gradient at the neighbour."""
        return slope


@dataclass(frozen=True)
class GCSAM:
    r"""SAM with centralised gradients, in the variants of its sources.

    The published code has Adam with a step length of 0.0001 as its base. With GC as in
    `cnognp.methods.centralisation.centralised`:

    - A1: :math:`e = \rho \, GC(g) / \|g\|`, the norm before centralisation; descent along
      :math:`\nabla f(z + e)`. The published code. As GC is a projection,
      :math:`\|e\| = \rho \|GC(g)\| / \|g\| \le \rho`: part of its effect is a smaller radius.
    - A2: :math:`e = \rho \, GC(g) / \|GC(g)\|`; descent along :math:`\nabla f(z + e)`.
    - A3: e as in A2; descent along :math:`GC(\nabla f(z + e))`.
    - A4: :math:`e = \rho \, g / \|g\|`; descent along :math:`GC(\nabla f(z + e))`.

    With ``adaptive`` the norm is that of :math:`|z| g`, and e is multiplied by :math:`z^2`.

    Args:
        base: what does the step, for instance `Adam`.
        rho: distance of the point nearby, not negative.
        variant: A1 centralises the ascent and divides by the norm before (the published code), A2
            by the norm after, A3 centralises the descent too, A4 the descent alone.
        conv_only: centralise only convolutions (tensors of more than three axes).
        adaptive: the neighbourhood scales with the magnitude of each weight.

    Raises:
        ValueError: if one is out of range.

    Reference: Hassan, Vakanski, Zhang & Xian (2025), and its code.
    """

    base: Method
    rho: Rate = 0.05
    variant: Variant = "A1"
    conv_only: bool = False
    adaptive: bool = False

    def __post_init__(self):
        require_not_negative("rho", self.rho)
        known = ("A1", "A2", "A3", "A4")
        require(self.variant in known, "variant", f"one of {known}", self.variant)

    def init(self, objective: Objective, z: Tensor) -> BaseState:
        return BaseState(z, self.base.init(objective, z))

    def step(
        self, objective: Objective, state: BaseState, generator: torch.Generator
    ) -> tuple[BaseState, Info]:
        return redirected_step(self.base, self.gradient, 2, objective, state, generator)

    def gradient(self, objective: Objective, z: Tensor, grad: Tensor) -> Tensor:
        """The gradient at the neighbour of ``z``, where the gradient is ``grad``."""
        return gradient_nearby(self, objective, z, grad)

    def perturbation(self, objective: Objective, z: Tensor, grad: Tensor) -> Tensor:
        """From ``z``, where the gradient is ``grad``, to the neighbour."""
        central = self.variant != "A4"
        direction = centralised(objective, grad, self.conv_only) if central else grad
        measured = direction if self.variant in ("A2", "A3") else grad
        scale = z.abs() if self.adaptive else None
        return ascent(direction, measured, self.rho, scale)

    def mixed(self, objective: Objective, grad: Tensor, slope: Tensor) -> Tensor:
        """What the base method steps along, ``slope`` being the gradient at the neighbour."""
        central = self.variant in ("A3", "A4")
        return centralised(objective, slope, self.conv_only) if central else slope


@dataclass(frozen=True)
class GNP:
    r"""Gradient norm penalty: a mixture of the gradients here and at a worse point nearby.

    The base method steps along :math:`(1 - \alpha) g + \alpha \nabla f(z + r\,g / \|g\|)`, which
    approximates the gradient of :math:`f + \lambda \|\nabla f\|` with
    :math:`\lambda = \alpha r`, exactly so where f is quadratic. :math:`\alpha = 0` is the base
    method itself, :math:`\alpha = 1` is SAM with rho = r. Weight decay that should be penalised too
    belongs into the objective (`landscape.objective.Ridge`).

    Args:
        base: what does the step, for instance `SGD`.
        alpha: share of the gradient nearby, from 0 to 1; 0 is the base step, 1 is SAM.
        r: distance of the point nearby, not negative; the penalty is alpha times r.

    Raises:
        ValueError: if one is out of range.

    Reference: Zhao, Zhang & Hu (2022).
    """

    base: Method
    alpha: float = 0.8
    r: Rate = 0.1

    def __post_init__(self):
        require(0 <= self.alpha <= 1, "alpha", "from 0 to 1", self.alpha)
        require_not_negative("r", self.r)

    def init(self, objective: Objective, z: Tensor) -> BaseState:
        return BaseState(z, self.base.init(objective, z))

    def step(
        self, objective: Objective, state: BaseState, generator: torch.Generator
    ) -> tuple[BaseState, Info]:
        return redirected_step(self.base, self.gradient, 2, objective, state, generator)

    def gradient(self, objective: Objective, z: Tensor, grad: Tensor) -> Tensor:
        """The mixture of ``grad``, the gradient at ``z``, and the one at the neighbour."""
        return gradient_nearby(self, objective, z, grad)

    def perturbation(self, objective: Objective, z: Tensor, grad: Tensor) -> Tensor:
        """From ``z``, where the gradient is ``grad``, to the neighbour."""
        return ascent(grad, grad, self.r)

    def mixed(self, objective: Objective, grad: Tensor, slope: Tensor) -> Tensor:
        """What the base method steps along, ``slope`` being the gradient at the neighbour."""
        return torch.lerp(grad, slope, self.alpha)


def gradient_nearby(
    method: SAM | GCSAM | GNP, objective: Objective, z: Tensor, grad: Tensor
) -> Tensor:
    """What the base of ``method`` steps along at ``z``, where the gradient is ``grad``."""
    there = z + method.perturbation(objective, z, grad)
    return method.mixed(objective, grad, value_and_grad(objective, there)[1])


def ascent(
    direction: Float[Tensor, "n p"],
    measured: Float[Tensor, "n p"],
    rho: Rate,
    scale: Float[Tensor, "n p"] | None = None,
) -> Float[Tensor, "n p"]:
    r"""The perturbation :math:`e = \rho \, T^2 d / \|T m\|` of each member, zero where m is.

    Args:
        direction: d.
        measured: m, the vector whose norm counts.
        rho: radius; one number, or one per coordinate (p,).
        scale: T; 1 where None.
    """
    if scale is not None:
        direction, measured = scale * scale * direction, scale * measured
    return rho / (norms(measured) + _TINY).unsqueeze(-1) * direction
