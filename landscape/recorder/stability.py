"""How much curvature the step length of an optimiser bears: thresholds of linear stability.

On a quadratic with Hessian H, an optimiser whose preconditioner P stands still diverges along every
eigenvector of P^-1/2 (H + decay) P^-1/2 whose eigenvalue lies above a threshold. Each formula is
where the linear recurrence along that eigenvector has the root -1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import widened

Rate = float | Tensor


class Stability(NamedTuple):
    r"""The threshold of an optimiser, and the operator that it is a threshold for.

    The optimiser is stable along the eigenvectors of
    :math:`D (H + \delta) D`, :math:`D = P^{-1/2}`, whose eigenvalues lie below ``threshold``.

    Attributes:
        threshold: the largest eigenvalue that is stable.
        rule: the formula of the threshold; empty where none is known.
        lr: the step length, the largest one where coordinates differ.
        scale: (p,), the diagonal of D; None where every entry is 1.
        decay: coupled weight decay :math:`\delta`, which the objective does not contain.
    """

    threshold: float
    rule: str
    lr: float
    scale: Tensor | None = None
    decay: Rate = 0.0

    @property
    def preconditioned(self) -> bool:
        """Whether the operator is more than the Hessian plus a number."""
        return self.scale is not None or isinstance(self.decay, Tensor)


class Preconditioned:
    """The operator D (H + decay) D, of which a `Stability` says where it is stable.

    Args:
        operator: multiplies by H.
        stability: has the diagonal of D, and the decay.
    """

    def __init__(self, operator: Any, stability: Stability):
        self._operator = operator
        self._scale = stability.scale
        self._decay = stability.decay

    def __matmul__(self, u: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        scale = 1.0 if self._scale is None else self._scale.to(u)
        decay = self._decay.to(u) if isinstance(self._decay, Tensor) else self._decay
        inner = scale * u
        return scale * (self._operator @ inner + decay * inner)


def descent(
    lr: Rate,
    momentum: float = 0.0,
    *,
    nesterov: bool = False,
    dampening: float = 0.0,
    weight_decay: Rate = 0.0,
    decoupled: bool = False,
) -> Stability:
    r"""The stability of gradient descent, with a heavy ball or Nesterov's look-ahead.

    :math:`2/\eta`; with momentum :math:`\beta` :math:`2 (1 + \beta) / \eta`; with look-ahead
    :math:`(2 + 2\beta) / (\eta (1 + 2\beta))`. Momentum as ``torch.optim.SGD`` defines it.
    Decoupled decay :math:`\delta` multiplies each by :math:`1 - \eta\delta / 2`; where that differs
    between coordinates, P is multiplied by it instead.

    Args:
        lr: :math:`\eta`, positive; (p,) where coordinates differ, and 0 for those that stand still.
        momentum: :math:`\beta`, from 0 to below 1.
        nesterov: look ahead.
        dampening: d, from 0 to below 1: what is held back of each gradient that enters the
            velocity.
        weight_decay: :math:`\delta`; a number or (p,).
        decoupled: whether decay shrinks the point instead of entering the gradient.

    Raises:
        ValueError: if a number is out of range, or velocities of a look-ahead are dampened.

    Reference: for the formulas without dampening, Cohen et al. (2021), "Gradient descent on neural
    networks typically occurs at the edge of stability".
    """
    eta, scale = _reference(lr)
    _check("momentum", momentum)
    _check("dampening", dampening)
    if nesterov and dampening:
        raise ValueError(f"nesterov needs a dampening of 0, got {dampening}")
    threshold, rule = 2 * (1 + momentum) / eta, "2(1+β)/η" if momentum else "2/η"
    if momentum and nesterov:
        threshold, rule = threshold / (1 + 2 * momentum), "(2+2β)/(η(1+2β))"
    elif momentum and dampening:
        threshold, rule = threshold / (1 - dampening), "2(1+β)/(η(1−d))"
    return _decayed(Stability(threshold, rule, eta, scale, weight_decay), lr, decoupled)


def adam(
    lr: Rate,
    betas: tuple[float, float],
    eps: float,
    square: Float[Tensor, " p"],
    steps: int | Float[Tensor, " p"],
    *,
    weight_decay: Rate = 0.0,
    decoupled: bool = False,
) -> Stability:
    r"""The stability of Adam or AdamW after some steps.

    :math:`P = (1 - \beta_1^t) \, \mathrm{diag}(\sqrt{v / (1 - \beta_2^t)} + \epsilon)`: with both
    bias corrections, so that a step is exactly :math:`-\eta P^{-1} m`. The threshold is
    :math:`(2 + 2\beta_1) / ((1 - \beta_1) \eta)`, which is :math:`38 / \eta` for
    :math:`\beta_1 = 0.9`. Decoupled decay :math:`\delta` as in `descent`.

    Args:
        lr: :math:`\eta`, positive; (p,) where coordinates differ.
        betas: :math:`\beta_1`, :math:`\beta_2`.
        eps: :math:`\epsilon`.
        square: (p,), v, the running mean of the squared gradients, not corrected.
        steps: t, at least 1; (p,) where coordinates differ, and 0 for those that have not moved.
        weight_decay: :math:`\delta`; a number or (p,).
        decoupled: whether decay shrinks the point instead of entering the gradient.

    Raises:
        ValueError: if a number is out of range.

    Reference: Cohen et al. (2022), "Adaptive gradient methods at the edge of stability".
    """
    eta, own = _reference(lr)
    beta1, beta2 = betas
    _check("beta1", beta1)
    _check("beta2", beta2)
    square = square.to(_at_least_single(square))
    moment = widened(square)
    t = widened(torch.as_tensor(steps, device="cpu")).to(moment.device)
    if not bool((t > 0).any()):
        raise ValueError(f"steps must be at least 1 somewhere, got {steps}")
    mean, spread = 1 - beta1**t, 1 - beta2**t
    diagonal = mean * ((moment / spread).sqrt() + eps)
    # A coordinate that has never had a gradient stands still, whatever the curvature.
    moving = (t > 0) & (diagonal > 0)
    scale = torch.where(moving, diagonal, torch.inf).rsqrt().to(square)
    scale = scale if own is None else scale * own.to(scale)
    threshold = 2 * (1 + beta1) / ((1 - beta1) * eta)
    found = Stability(threshold, "(2+2β₁)/((1−β₁)η)", eta, scale, weight_decay)
    return _decayed(found, lr, decoupled)


def of_optimiser(optimiser: Any, tensors: Sequence[Tensor]) -> Stability | None:
    """The stability of a ``torch.optim`` SGD, Adam or AdamW as it stands; None for any other.

    None also before Adam's first step, and where groups of parameters differ in anything but their
    step lengths and decay.

    Args:
        optimiser: read, never written to.
        tensors: the parameters in the order of the flat vector. One that the optimiser does not
            hold stands still.

    Raises:
        ValueError: if the optimiser holds none of them.
    """
    held = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    if not any(id(tensor) in held for tensor in tensors):
        raise ValueError(
            "the optimiser holds none of the model's parameters: give the model that it moves"
        )
    known = [held[id(tensor)] for tensor in tensors if id(tensor) in held]
    if any(group.get("maximize") for group in known):
        return None
    momentum = isinstance(optimiser, torch.optim.SGD)
    shared = ("momentum", "nesterov", "dampening") if momentum else ("betas", "eps", "amsgrad")
    if not momentum and not isinstance(optimiser, (torch.optim.Adam, torch.optim.AdamW)):
        return None
    if len({tuple(float(x) for x in _numbers(group, shared)) for group in known}) > 1:
        return None
    lr = _spread(tensors, [_number(held.get(id(t)), "lr") for t in tensors])
    # The decay of what stands still is nobody's, and should not make one number two.
    decay = _spread(tensors, [_number(held.get(id(t), known[0]), "weight_decay") for t in tensors])
    if not bool(torch.as_tensor(lr, device="cpu").any()):
        return None
    group = known[0]
    if momentum:
        return descent(
            lr, float(group["momentum"]), nesterov=group["nesterov"],
            dampening=float(group["dampening"]), weight_decay=decay,
        )  # fmt: skip
    return _adam_of(optimiser, tensors, group, lr, decay)


def _adam_of(
    optimiser: Any, tensors: Sequence[Tensor], group: Mapping[str, Any], lr: Rate, decay: Rate
) -> Stability | None:
    states = [optimiser.state.get(tensor) or {} for tensor in tensors]
    counts = [float(state.get("step", 0)) for state in states]
    if not any(counts):
        return None
    decoupled = isinstance(optimiser, torch.optim.AdamW) or group.get("decoupled_weight_decay")
    name = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
    square = torch.cat([
        state.get(name, torch.zeros_like(tensor)).detach().reshape(-1)
        for state, tensor in zip(states, tensors, strict=True)
    ])  # fmt: skip
    steps = _spread(tensors, counts)
    return adam(
        lr, (float(group["betas"][0]), float(group["betas"][1])), float(group["eps"]), square,
        steps if isinstance(steps, Tensor) else int(steps),
        weight_decay=decay, decoupled=bool(decoupled),
    )  # fmt: skip


def _numbers(group: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    values = [group[name] for name in names]
    return [x for value in values for x in (value if isinstance(value, tuple) else (value,))]


def _number(group: Mapping[str, Any] | None, name: str) -> float:
    """The group's number; 0 for a parameter without a group, which stands still."""
    return 0.0 if group is None else float(group[name])


def _spread(tensors: Sequence[Tensor], numbers: Sequence[float]) -> Rate:
    """One number where all are equal, else (p,)."""
    if len(set(numbers)) == 1:
        return numbers[0]
    return torch.cat([
        torch.full((tensor.numel(),), number, dtype=_at_least_single(tensor), device=tensor.device)
        for tensor, number in zip(tensors, numbers, strict=True)
    ])  # fmt: skip


def _at_least_single(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _reference(lr: Rate) -> tuple[float, Tensor | None]:
    """The largest step length, and what that makes of P^-1/2 where coordinates differ.

    Raises:
        ValueError: if it is not positive.
    """
    if not isinstance(lr, Tensor) or lr.ndim == 0:
        eta, scale = float(lr), None
    else:
        eta = float(lr.max())
        scale = (lr / eta).sqrt()
    if not eta > 0:
        raise ValueError(f"lr must be positive, got {eta}")
    return eta, scale


def _decayed(coupled: Stability, lr: Rate, decoupled: bool) -> Stability:
    """The stability with the same decay taken out of the gradient, if it is decoupled."""
    decay = coupled.decay
    if not decoupled or (not isinstance(decay, Tensor) and not decay):
        return coupled
    factor = 1 - lr * decay / 2
    if isinstance(factor, Tensor) and factor.ndim:
        smallest = torch.finfo(factor.dtype).tiny
        scale = factor.clamp_min(smallest).rsqrt()
        return coupled._replace(
            scale=scale if coupled.scale is None else scale * coupled.scale.to(scale), decay=0.0
        )
    return coupled._replace(
        threshold=float(factor) * coupled.threshold, rule=f"(1−ηδ/2) {coupled.rule}", decay=0.0
    )


def _check(name: str, number: float) -> None:
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be from 0 to below 1, got {number}")
