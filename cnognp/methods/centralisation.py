"""Gradient centralisation: every row of a weight tensor's gradient with mean 0."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cnognp.method import Info, Method
from cnognp.methods.given_gradient import BaseState, redirected_step
from cnognp.methods.hyperparameters import require_not_negative
from landscape.objective import Objective, offered


@dataclass(frozen=True)
class Centralised:
    r"""Gradient centralisation around any base method, :math:`GC(g + \delta z)` in place of g.

    Args:
        base: what does the step.
        conv_only: centralise only tensors of more than three axes.
        weight_decay: :math:`\delta`, coupled decay that is centralised with the gradient, as in the
            published code; the decay of ``base`` comes after it and is not. Without any decay,
            gradient descent then keeps the mean weight of every centralised row.

    Raises:
        ValueError: if ``weight_decay`` is out of range.

    Reference: Yong, Huang, Hua & Zhang (2020).
    """

    base: Method
    conv_only: bool = False
    weight_decay: float = 0.0

    def __post_init__(self):
        require_not_negative("weight_decay", self.weight_decay)

    def init(self, objective: Objective, z: Tensor) -> BaseState:
        return BaseState(z, self.base.init(objective, z))

    def step(
        self, objective: Objective, state: BaseState, generator: torch.Generator
    ) -> tuple[BaseState, Info]:
        return redirected_step(self.base, self.gradient, 1, objective, state, generator)

    def gradient(self, objective: Objective, z: Tensor, grad: Tensor) -> Tensor:
        """The centralised gradient at ``z``, where the gradient is ``grad``."""
        decayed = grad + self.weight_decay * z if self.weight_decay else grad
        return centralised(objective, decayed, self.conv_only)


def centralised(
    objective: Objective, grad: Float[Tensor, "n p"], conv_only: bool = False
) -> Float[Tensor, "n p"]:
    r"""The gradient with mean 0 in every row of every weight tensor, :math:`GC(g)`.

    A row is a slice along the first axis, the output channel. A tensor of one axis (a bias, a
    normalisation scale) stays as it is, and so does the whole gradient of an objective without a
    layout. Each row is multiplied by the projector :math:`I - \mathbf{1} \mathbf{1}^\top / M`.

    Args:
        objective: has the layout.
        grad: (N, p).
        conv_only: only tensors of more than three axes.

    Reference: Yong, Huang, Hua & Zhang (2020).
    """
    layout = offered(objective, "layout")
    least = 4 if conv_only else 2
    central = grad.clone(memory_format=torch.contiguous_format)
    for entry in layout.entries if layout is not None else ():
        if len(entry.shape) >= least:
            rows = central[:, entry.span].unflatten(-1, (entry.shape[0], -1))
            rows -= rows.mean(-1, keepdim=True)
    return central
