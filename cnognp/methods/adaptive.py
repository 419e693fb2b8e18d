"""Adam and AdamW on whole populations, as ``torch.optim`` defines them."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Traits, kept, norms, reached, require
from cnognp.methods.hyperparameters import Rate, descended, require_not_negative
from landscape.objective import Objective, offered, value_and_grad


class AdamState(NamedTuple):
    """Where the members are, the running means of their gradients and of the squares of these.

    ``round`` counts the steps; it lives on the CPU, so that no step waits for an accelerator. It is
    one number, or one per tensor where the objective says which ones its gradients have reached.
    """

    position: Tensor
    mean: Tensor
    square: Tensor
    round: Tensor


@dataclass(frozen=True)
class Adam:
    r"""Adam, with coupled weight decay; one iteration is one epoch of mini-batches.

    :math:`g \leftarrow \nabla f(z) + \delta z`,
    :math:`m \leftarrow \beta_1 m + (1 - \beta_1) g`,
    :math:`v \leftarrow \beta_2 v + (1 - \beta_2) g^2`, and
    :math:`z \leftarrow z - \eta \hat m / (\sqrt{\hat v} + \epsilon)` with
    :math:`\hat m = m / (1 - \beta_1^t)` and :math:`\hat v = v / (1 - \beta_2^t)`.

    Args:
        lr: step length, about how far each coordinate moves at most; not negative.
        betas: :math:`\beta_1` and :math:`\beta_2`, each from 0 to below 1.
        eps: added to the root of the mean square; not negative.
        weight_decay: coupled decay, added to the gradient; not negative.

    Raises:
        ValueError: if one is out of range.

    Reference: Kingma & Ba (2015), algorithm 1.
    """

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: Rate = 0.0
    traits: ClassVar[Traits] = Traits("adaptive")

    def __post_init__(self):
        require_not_negative("lr", self.lr)
        inside = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(inside, "betas", "two numbers from 0 to below 1", self.betas)
        require_not_negative("eps", self.eps)
        require_not_negative("weight_decay", self.weight_decay)

    @classmethod
    def named(cls, *, beta1: float = 0.9, beta2: float = 0.999, **keys: Any) -> "Adam":
        """The method, each of ``betas`` by a name of its own.

        Args:
            beta1: memory of the mean gradient, from 0 to below 1.
            beta2: memory of the mean squared gradient, from 0 to below 1.
            **keys: the other fields.
        """
        return cls(betas=(beta1, beta2), **keys)

    def init(self, objective: Objective, z: Tensor) -> AdamState:
        zeros, known = torch.zeros_like(z), offered(objective, "reached")
        shape = () if known is None else (len(known),)
        return AdamState(z, zeros, zeros, torch.zeros(shape, dtype=torch.int64, device="cpu"))

    def step(
        self, objective: Objective, state: AdamState, generator: torch.Generator
    ) -> tuple[AdamState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        info = Info(z, loss, norms(grad), loss, 1)
        if _decays(self.weight_decay):
            grad = (self.weight_decay * z).add_(grad)
        return _moved(self, objective, z, grad, state), info


@dataclass(frozen=True)
class AdamW(Adam):
    r"""Adam with decoupled weight decay; one iteration is one epoch of mini-batches.

    :math:`z \leftarrow (1 - \eta \delta) z` in every step, and the running means never see the
    decay. Everything else is as in `Adam`.

    Args:
        weight_decay: decoupled decay; a step shrinks the weights by lr times this share.

    Raises:
        ValueError: if one is out of range.

    Reference: Loshchilov & Hutter (2019), algorithm 2, with the decay scaled by the step length as
    in ``torch.optim.AdamW``.
    """

    weight_decay: Rate = 1e-2

    def step(
        self, objective: Objective, state: AdamState, generator: torch.Generator
    ) -> tuple[AdamState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        info = Info(z, loss, norms(grad), loss, 1)
        if _decays(self.weight_decay):
            z = z * (1 - self.lr * self.weight_decay)
        return _moved(self, objective, z, grad, state), info


def _decays(weight_decay: Rate) -> bool:
    return isinstance(weight_decay, Tensor) or weight_decay > 0


def _moved(
    method: Adam, objective: Objective, z: Tensor, grad: Tensor, state: AdamState
) -> AdamState:
    """The members one step along ``grad``; in place only on what is made here."""
    (beta1, beta2), known = method.betas, reached(objective)
    mean = torch.lerp(state.mean, grad, 1 - beta1)
    square = (beta2 * state.square).addcmul_(grad, grad, value=1 - beta2)
    rounds = state.round + (1 if known is None else state.round.new_tensor(known))
    # Both bias corrections in one number each, not in passes over the vector.
    steps = rounds if known is None else rounds[rounds > state.round]
    first, second = _corrections(method.betas, steps, rounds, objective, z)
    scale = square.sqrt().add_(method.eps * second)
    rate = method.lr * (second / first)
    if isinstance(rate, Tensor):
        z = descended(z, rate, torch.div(mean, scale, out=scale))
    else:
        z = torch.addcdiv(z, mean, scale, value=-rate, out=scale)
    return AdamState(
        kept(objective, z.to(state.position), state.position),
        kept(objective, mean, state.mean),
        kept(objective, square, state.square),
        rounds,
    )


def _corrections(
    betas: tuple[float, float], steps: Tensor, rounds: Tensor, objective: Objective, z: Tensor
) -> tuple[Rate, Rate]:
    r""":math:`1 - \beta_1^t` and :math:`\sqrt{1 - \beta_2^t}`.

    They are numbers where all that step now have the same t, and (p,) else.

    Args:
        betas: of the method.
        steps: t of each tensor that steps now.
        rounds: t of every tensor.
        objective: has the layout.
        z: has device and type; what is returned has single precision at least.
    """
    t = int(steps.max()) if steps.numel() else 1
    if bool((steps == t).all()):
        return 1 - betas[0] ** t, math.sqrt(1 - betas[1] ** t)
    # A tensor that has never stepped does not step now either; its t is any.
    each = rounds.clamp_min(1).double()
    spread = objective.layout.spread  # type: ignore[attr-defined]
    first, second = 1 - betas[0] ** each, (1 - betas[1] ** each).sqrt()
    dtype = torch.promote_types(z.dtype, torch.float32)
    return spread(first.to(z.device, dtype)), spread(second.to(z.device, dtype))
