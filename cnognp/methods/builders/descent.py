"""Descent methods by name: normalised, adaptive and quasi-Newton."""

from collections.abc import Mapping
from typing import Any

from cnognp.methods.builders.parts import Centre, Decay, Method, scheduled, trained


def normalised_gd(
    lr: float = 0.01,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Normalised gradient descent: every step is as long as lr, whatever the gradient's norm.

    Args:
        lr: length of a step; the method ends at most so far from a minimum.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.noise import NormalisedGD

    return scheduled(NormalisedGD(lr=lr), given)


def adam(
    lr: float = 0.001,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    centralise: Centre = "none",
    batch_size: int = 32,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Adam, with coupled weight decay; one iteration is one epoch of mini-batches.

    Args:
        lr: step length, about how far each coordinate moves at most.
        beta1: memory of the mean gradient, from 0 to below 1.
        beta2: memory of the mean squared gradient, from 0 to below 1.
        eps: added to the root of the mean square.
        weight_decay: coupled decay, added to the gradient.
        centralise: subtract row means from the gradients of weights: of none, of all tensors of
            more than one axis, or of convolutions alone (more than three axes).
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.adaptive import Adam

    step = Adam(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    return trained(_centralised(step, centralise), given)


def adamw(
    lr: float = 0.001,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    centralise: Centre = "none",
    batch_size: int = 32,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Adam with decoupled weight decay; one iteration is one epoch of mini-batches.

    Args:
        lr: step length, about how far each coordinate moves at most.
        beta1: memory of the mean gradient, from 0 to below 1.
        beta2: memory of the mean squared gradient, from 0 to below 1.
        eps: added to the root of the mean square.
        weight_decay: decoupled decay; a step shrinks the weights by lr times this share.
        centralise: subtract row means from the gradients of weights: of none, of all tensors of
            more than one axis, or of convolutions alone (more than three axes).
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.adaptive import AdamW

    step = AdamW(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    return trained(_centralised(step, centralise), given)


def bfgs(trials: int = 30) -> Method:
    """BFGS with dense matrices and Wolfe line searches, for up to 2000 parameters.

    Args:
        trials: evaluations in a line search at most.
    """
    from cnognp.methods.bfgs import BFGS

    return BFGS(trials=trials)


def lbfgs_gss(
    history: int = 10, trials: int = 10, tolerance: float = 0.1, published: bool = False
) -> Method:
    """Limited-memory BFGS whose step length is found by golden sections.

    Args:
        history: pairs of moves and gradient changes that are remembered.
        trials: evaluations in a line search at most.
        tolerance: of the step length, relative.
        published: the line search as published, of 6 trials, which may raise the loss; trials and
            tolerance are then not used.
    """
    from cnognp.methods.quasi_newton import LBFGSGoldenSection

    return LBFGSGoldenSection(
        history=history, trials=trials, tolerance=tolerance, published=published
    )


def _centralised(method: Method, centralise: Centre) -> Method:
    """The method with gradient centralisation, where it is asked for.

    Raises:
        ValueError: if there is no such choice.
    """
    from cnognp.method import require
    from cnognp.methods.centralisation import Centralised

    choices: Mapping[str, Any] = {"none": None, "all": False, "convolutions": True}
    require(centralise in choices, "centralise", f"one of {tuple(choices)}", centralise)
    if centralise == "none":
        return method
    return Centralised(method, conv_only=choices[centralise])
