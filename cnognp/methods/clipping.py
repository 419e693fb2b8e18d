"""Gradients that are shortened to a largest norm."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cnognp.method import Info, Method, norms, require
from cnognp.methods.given_gradient import BaseState, redirected_step
from landscape.objective import Objective

_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class Clipped:
    """A method whose gradients are shortened to a largest norm, each member's on its own.

    Args:
        base: what does the step. What makes a gradient of its own (SAM) stands outside, so that
            the gradient that moves is the one that is clipped.
        bound: largest Euclidean norm over all parameters, positive.

    Raises:
        ValueError: if ``bound`` is out of range.

    Reference: Pascanu, Mikolov & Bengio (2013), algorithm 1.
    """

    base: Method
    bound: float

    def __post_init__(self):
        require(self.bound > 0, "clip", "positive", self.bound)

    def init(self, objective: Objective, z: Tensor) -> BaseState:
        return BaseState(z, self.base.init(objective, z))

    def step(
        self, objective: Objective, state: BaseState, generator: torch.Generator
    ) -> tuple[BaseState, Info]:
        return redirected_step(self.base, self.gradient, 1, objective, state, generator)

    def gradient(self, objective: Objective, z: Tensor, grad: Tensor) -> Tensor:
        """The clipped gradient at ``z``, where the gradient is ``grad``."""
        return clipped(grad, self.bound)


def clipped(grad: Float[Tensor, "n p"], bound: float) -> Float[Tensor, "n p"]:
    r"""The gradients (N, p), each of a norm of at most ``bound``.

    They are multiplied by :math:`\min(1, b / (\lVert g \rVert + 10^{-6}))`, each by its own, as
    ``torch.nn.utils.clip_grad_norm_`` does it. A gradient that is not finite stays so, for its
    member to be seen to have diverged.
    """
    return grad * (bound / (norms(grad) + _EPSILON)).clamp(max=1.0).unsqueeze(-1)
