"""Methods that look for flat minima by other gradients or by averaging, by name."""

from typing import Literal

from cnognp.methods.builders.parts import Base, Decay, Method, base_step, trained


def sam(
    lr: float = 0.1,
    rho: float = 0.05,
    base: Base = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 32,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Sharpness-aware minimisation: the gradient at a worse point nearby; two for each step.

    Args:
        lr: step length.
        rho: distance of the point nearby.
        base: what does the step.
        momentum: factor on the velocity of sgd, from 0 to below 1.
        weight_decay: of the base step.
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.sharpness_aware import SAM

    return trained(SAM(base_step(given), rho=rho), given)


def asam(
    lr: float = 0.1,
    rho: float = 0.5,
    eta: float = 0.01,
    base: Base = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 32,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Adaptive SAM: the neighbourhood scales with the magnitude of each weight.

    Args:
        lr: step length.
        rho: distance of the point nearby, relative to the weights.
        eta: added to the weights' magnitudes.
        base: what does the step.
        momentum: factor on the velocity of sgd, from 0 to below 1.
        weight_decay: of the base step.
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.sharpness_aware import SAM

    return trained(SAM(base_step(given), rho=rho, adaptive=True, eta=eta), given)


def gcsam(
    lr: float = 0.1,
    rho: float = 0.05,
    variant: Literal["A1", "A2", "A3", "A4"] = "A1",
    conv_only: bool = False,
    adaptive: bool = False,
    base: Base = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 32,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """SAM with centralised gradients, in the variants of its sources.

    Args:
        lr: step length; the published code has 0.0001 with adam.
        rho: distance of the point nearby.
        variant: A1 centralises the ascent and divides by the norm before (the published code), A2
            by the norm after, A3 centralises the descent too, A4 the descent alone.
        conv_only: centralise only convolutions (tensors of more than three axes).
        adaptive: the neighbourhood scales with the magnitude of each weight.
        base: what does the step; the published code has adam.
        momentum: factor on the velocity of sgd, from 0 to below 1.
        weight_decay: of the base step.
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.sharpness_aware import GCSAM

    step = GCSAM(base_step(given), rho=rho, variant=variant, conv_only=conv_only, adaptive=adaptive)
    return trained(step, given)


def gnp(
    lr: float = 0.1,
    alpha: float = 0.8,
    r: float = 0.1,
    base: Base = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 32,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Gradient norm penalty: a mixture of the gradients here and at a worse point nearby.

    Args:
        lr: step length.
        alpha: share of the gradient nearby; 0 is the base step, 1 is SAM.
        r: distance of the point nearby; the penalty is alpha times r.
        base: what does the step.
        momentum: factor on the velocity of sgd, from 0 to below 1.
        weight_decay: of the base step.
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.sharpness_aware import GNP

    return trained(GNP(base_step(given), alpha=alpha, r=r), given)


def swa(
    lr: float = 0.1,
    start: int = 75,
    every: int = 1,
    base: Base = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    batch_size: int = 32,
    schedule: Decay = "constant",
    horizon: int = 100,
    warmup: int = 0,
) -> Method:
    """Stochastic weight averaging: the base method moves, its running average is reported.

    Args:
        lr: step length of the base method.
        start: iterations before averaging begins.
        every: iterations between two points that are averaged.
        base: what moves.
        momentum: factor on the velocity of sgd, from 0 to below 1.
        weight_decay: of the base step.
        batch_size: samples in a mini-batch; 0 takes one step on the whole data.
        schedule: how lr falls: not at all, to a tenth after each third of the horizon, or like a
            cosine.
        horizon: iterations that the schedule spans.
        warmup: iterations over which lr first rises from near 0; they belong to the horizon.
    """
    given = locals()
    from cnognp.methods.averaging import SWA

    return SWA(trained(base_step(given), given, evaluate=False), start=start, every=every)
