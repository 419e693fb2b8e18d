"""What a flatness measure is asked and what it answers: options, the site, and one reading."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import Hessian
from landscape.imports import stdtrit
from landscape.objective import Objective, value, value_and_grad, widened
from landscape.randomness import derive
from landscape.rounding import Noise, in_float64, noise
from landscape.sharpness.ascent import Ascent

NAN = math.nan


@dataclass(frozen=True)
class Options:
    r"""Radii and budgets of the flatness measures.

    Args:
        rho: radius of the l2 ball, of m-sharpness and of SAM's step, in units of the parameters.
        rho_linf: radius of the l-inf ball, in units of the parameters.
        rho_adaptive: radius of ASAM's ball, without unit.
        eta: added to the weights' magnitudes in ASAM's ball, not negative. Only with 0 is it
            invariant under rescaling, and then weights that are zero stay zero.
        epsilon: radius of Keskar's box.
        sigma: standard deviation of the random perturbations, for each coordinate.
        starts: of each ascent, at least 1.
        steps: of each start, at least 1.
        batch_size: m of m-sharpness, in samples, at least 1.
        batches: how many batches m-sharpness takes at most; 0 for all.
        pairs: of random perturbations u and -u, at least 2.
        delta: the rise that ends a basin, in units of the loss.
        largest: radius at which the search for the end of a basin stops, in units of its direction.
        directions: along which a basin's width is measured, at least 1.
        by: ``"filter"`` for random directions with filters as long as those of the point, radius in
            multiples of it; ``"none"`` for isotropic ones of length 1, radius in parameters.
        radius: half the side of the box of the CNOGNP simulations.
        points: along that side, at least 2.
        layers: whose relative flatness is taken; all linear layers where empty.
        probes: random vectors of every trace, at least 2.
        budget: Hessian-vector products that an exact sum may take in place of an estimate.
        tolerance: of the largest eigenvalue, relative.
        likelihood: what the outputs of the model mean for its Fisher matrix, ``"categorical"`` or
            ``"gaussian"``, see `landscape.operators.Fisher`; from the loss where empty.

    Raises:
        ValueError: if a number is out of range or a name is unknown.
    """

    rho: float = 0.05
    rho_linf: float = 0.001
    rho_adaptive: float = 0.5
    eta: float = 0.0
    epsilon: float = 1e-3
    sigma: float = 0.01
    starts: int = 4
    steps: int = 20
    batch_size: int = 32
    batches: int = 0
    pairs: int = 64
    delta: float = 0.1
    largest: float = 10.0
    directions: int = 20
    by: Literal["filter", "none"] = "filter"
    radius: float = 0.1
    points: int = 101
    layers: tuple[str, ...] = ()
    probes: int = 100
    budget: int = 512
    tolerance: float = 1e-3
    likelihood: Literal["", "categorical", "gaussian"] = ""

    def __post_init__(self):
        lengths = ("rho", "rho_linf", "rho_adaptive", "epsilon", "sigma", "delta", "largest")
        for name in (*lengths, "radius", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta must be at least 0 and finite, got {self.eta}")
        if not self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {self.tolerance}")
        least = {"batches": 0, "budget": 0, "pairs": 2, "points": 2, "probes": 2}
        least |= dict.fromkeys(("starts", "steps", "batch_size", "directions"), 1)
        for name, bound in least.items():
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < bound:
                raise ValueError(f"{name} must be a whole number from {bound} on, got {number}")
        if self.by not in ("filter", "none"):
            raise ValueError(f"by must be filter or none, got {self.by!r}")
        if self.likelihood not in ("", "categorical", "gaussian"):
            raise ValueError(
                f"likelihood must be categorical, gaussian or empty, got {self.likelihood!r}"
            )
        if isinstance(self.layers, str):
            raise ValueError(f"layers must be names in a tuple, got {self.layers!r}")


@dataclass(frozen=True, eq=False)
class Site:
    """The point that is measured, with what several measures need of it.

    Args:
        objective: what is measured, without random modules.
        point: (p,), where.
        options: radii and budgets.
        generator: where every measure's own generator is derived from.
    """

    objective: Objective
    point: Float[Tensor, " p"]
    options: Options
    generator: torch.Generator

    @cached_property
    def loss(self) -> float:
        """f(z)."""
        return float(value(self.objective, self.point))

    @cached_property
    def gradient(self) -> tuple[Float[Tensor, " p"], str]:
        """The gradient at z and words as `in_float64`: near a minimum float32 cannot tell it."""
        slope, words = in_float64(lambda z: value_and_grad(self.objective, z)[1], self.point)
        return widened(slope), words

    @cached_property
    def hessian(self) -> tuple[Float[Tensor, "p p"], str] | None:
        """The whole Hessian and words as `in_float64`; None where it takes more than the budget."""
        if len(self.point) > self.options.budget:
            return None
        dense, words = in_float64(lambda z: Hessian(self.objective, z).dense(), self.point)
        return widened(dense), words

    def source(self, purpose: str) -> torch.Generator:
        """The generator of one measure: what else is measured does not change its draws."""
        return derive(self.generator, purpose)

    @cached_property
    def noise(self) -> Noise:
        """The noise of the objective around z."""
        return noise(self.objective, self.point, generator=self.source("noise"))


class Reading(NamedTuple):
    """One number and what is known of it.

    ``error`` is a proven bound where ``kind`` is "bound", a standard error where it is "estimate",
    else what rounding can do. ``low`` and ``high`` hold what is known, or a 95 % interval; they are
    NaN where neither is known. ``kind`` is "exact" (to rounding), "bound", "lower bound",
    "estimate", or "unresolved" where the value is no larger than what rounding can do to it.
    ``evaluations`` counts passes over the whole data with or without gradient, those for the noise
    of the loss left out, ``products`` Hessian-vector products.
    """

    value: float
    kind: str = "exact"
    error: float = NAN
    low: float = NAN
    high: float = NAN
    evaluations: float = 0.0
    products: int = 0
    status: str = ""
    part: str = ""


def undefined(reason: Any) -> Reading:
    """The reading of a measure that has no meaning for this objective."""
    return Reading(NAN, "none", status=f"not defined here: {reason}")


def exact(value: float, words: str = "", **more: Any) -> Reading:
    """The reading of a number that is exact up to rounding in float64, or not known so by words."""
    if words:
        status = "; ".join(filter(None, (more.pop("status", ""), words)))
        return Reading(value, "exact", status=status, **more)
    return Reading(value, "exact", 0.0, value, value, **more)


def estimate(value: float, error: float, samples: int, **more: Any) -> Reading:
    """The reading of a mean of samples with its standard error and Student's 95 % interval."""
    half = float(stdtrit(samples - 1, 0.975)) * error
    return Reading(value, "estimate", error, value - half, value + half, **more)


def lower_bound(found: Ascent, rounding: float, *notes: str, unit: float = 1.0) -> Reading:
    """The reading of an ascent: the maximum is at least as large, up to what rounding can do.

    Where the perturbation as added in the type of the point is longer than the radius, the share of
    the rise that a quadratic would lose on the way back is added to that.
    """
    notes = tuple(note for note in notes if note)
    if not found.finite:
        notes = ("the loss is not finite within the ball", *notes)
    elif not found.settled:
        notes = ("the ascent was still rising when its steps were spent", *notes)
    reading = Reading(
        found.rise * unit, "lower bound", 0.0, found.rise * unit, math.inf,
        evaluations=float(found.evaluations), status="; ".join(notes),
    )  # fmt: skip
    return above_rounding(reading, (rounding + outside(found)) * unit)


def outside(found: Ascent) -> float:
    """The part of a rise that may come from outside the ball, where rounding has led there."""
    return found.rise * (1 - max(1.0, found.reach) ** -2) if found.rise > 0 else 0.0


def above_rounding(reading: Reading, rounding: float) -> Reading:
    """The reading of a difference of losses, with what rounding can do to it.

    Its range is widened by that. Where the value is no larger it is "unresolved", with a note; no
    rise at all is a lower bound in any case, since the centre belongs to the ball.
    """
    value, kind, floor = reading.value, reading.kind, reading.kind == "lower bound"
    if not math.isfinite(value) or (floor and value == 0):
        return reading
    error = math.hypot(reading.error, rounding) if kind == "estimate" else rounding
    low, high, note = reading.low - rounding, reading.high + rounding, ""
    if not abs(value) > rounding:
        known = f"{rounding:.2g}" if math.isfinite(rounding) else "which is not known"
        kind, note = "unresolved", f"no larger than the noise of the loss, {known}"
    elif floor and rounding > 0.02 * abs(value):
        note = f"up to the noise of the loss, {rounding:.2g}"
    if floor:
        error, low = max(error, reading.error), max(low, 0.0) if kind != "unresolved" else 0.0
    status = "; ".join(part for part in (note, reading.status) if part)
    return reading._replace(kind=kind, error=error, low=low, high=high, status=status)
