"""Noisy gradient descent and basin hopping by name."""

from typing import Any

from cnognp.methods.builders.parts import Decay, Method, scheduled


def nig(
    lr: float = 0.1,
    rho: float = 0.05,
    per_tensor: bool = False,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Gradient descent with noise in the gradient, uniform in a ball.

    Args:
        lr: step length.
        rho: radius of the ball.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.noise import NiG

    return scheduled(NiG(lr=lr, rho=rho, per_tensor=per_tensor), given)


def nim(
    lr: float = 0.1,
    rho: float = 0.05,
    eps: float = 0.001,
    tau: int = 100,
    per_tensor: bool = False,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Gradient descent with noise in the model, added where the gradient has become small.

    Args:
        lr: step length.
        rho: radius of the ball that the noise is uniform in.
        eps: gradient norm below which noise is added.
        tau: gradients before the first noise.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.noise import NiM

    return scheduled(NiM(lr=lr, rho=rho, eps=eps, tau=tau, per_tensor=per_tensor), given)


def nig_bh(
    lr: float = 0.1,
    rho: float = 0.05,
    eps: float = 0.001,
    tau: int = 100,
    per_tensor: bool = False,
) -> Method:
    """Basin hopping by noise in the gradient; one iteration is one hop, always accepted.

    Args:
        lr: step length of the perturbed step and of the descent after it.
        rho: radius of the ball that the noise is uniform in.
        eps: gradient norm at which a descent stops.
        tau: steps of a descent at most.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.
    """
    return _hopping("gradient", locals())


def nim_bh(
    lr: float = 0.1,
    rho: float = 0.05,
    eps: float = 0.001,
    tau: int = 100,
    per_tensor: bool = False,
) -> Method:
    """Basin hopping by noise in the model; one iteration is one hop, always accepted.

    Args:
        lr: step length of the descent.
        rho: radius of the ball that the noise is uniform in.
        eps: gradient norm at which a descent stops.
        tau: steps of a descent at most.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.
    """
    return _hopping("model", locals())


def nig_mbh(
    lr: float = 0.1,
    rho: float = 0.05,
    eps: float = 0.001,
    tau: int = 100,
    temperature: float = 0.0,
    per_tensor: bool = False,
) -> Method:
    """Monotone basin hopping by noise in the gradient; a hop must lower the loss.

    Args:
        lr: step length of the perturbed step and of the descent after it.
        rho: radius of the ball that the noise is uniform in.
        eps: gradient norm at which a descent stops.
        tau: steps of a descent at most.
        temperature: above 0, a hop that raises the loss is accepted by Metropolis' rule.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.
    """
    return _hopping("gradient", locals())


def nim_mbh(
    lr: float = 0.1,
    rho: float = 0.05,
    eps: float = 0.001,
    tau: int = 100,
    temperature: float = 0.0,
    per_tensor: bool = False,
) -> Method:
    """Monotone basin hopping by noise in the model; a hop must lower the loss.

    Args:
        lr: step length of the descent.
        rho: radius of the ball that the noise is uniform in.
        eps: gradient norm at which a descent stops.
        tau: steps of a descent at most.
        temperature: above 0, a hop that raises the loss is accepted by Metropolis' rule.
        per_tensor: a ball for each tensor, its radius rho times the norm of the tensor.
    """
    return _hopping("model", locals())


def _hopping(perturbation: Any, given: dict[str, Any]) -> Method:
    """Basin hopping from the keywords of its names; monotone where there is a temperature.

    Raises:
        ValueError: if a keyword is out of range.
    """
    from cnognp.methods.basin_hopping import BasinHopping
    from cnognp.methods.hyperparameters import require_not_negative

    given = dict(given)
    temperature = given.pop("temperature", None)
    if temperature is None:
        return BasinHopping(perturbation=perturbation, **given)
    require_not_negative("temperature", temperature)
    if not temperature:
        return BasinHopping(perturbation=perturbation, acceptance="monotone", **given)
    return BasinHopping(
        perturbation=perturbation, acceptance="metropolis", temperature=temperature, **given
    )
