"""From the top of a path to the saddle: up along the lowest curvature, down across it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.curvature import Hessian
from landscape.networks import reestimated
from landscape.objective import (
    Objective,
    check_deterministic,
    judged,
    normalisation_of,
    trait,
    value_and_grad,
    widened,
)
from landscape.paths.ground import Statistics
from landscape.results import Path, Saddle, Spectrum, provenance
from landscape.spectrum import top_eigenpairs

# How far the loss may be from what its second-order expansion says for a step to be taken, and to
# be taken longer.
_TAKEN, _LONGER = 0.5, 0.2
_PAIRS = 2
# How well the lowest eigenvector has to be known to climb along it, relative to the largest.
_ROUGH = 0.02


def saddle(
    objective: Objective,
    start: Path | Float[Tensor, " p"],
    *,
    steps: int = 100,
    tolerance: float | None = None,
    radius: float | None = None,
    eigenvalue_tolerance: float = 1e-3,
    statistics: Statistics = "reestimated",
) -> Saddle:
    r"""The saddle that a climb from the top of a path comes to, and whether it is one for certain.

    A step is Newton's with the lowest eigenvector v of the Hessian turned around: up along v by
    :math:`v \cdot g / |\lambda|`, and across v to the minimum of the quadratic (conjugate
    gradients, to the border of a trust region where they meet negative curvature). At last the two
    smallest eigenvalues are found with their bounds: one negative and the other positive, each by
    more than its bound, is a saddle of index 1, and the status is then ``"certified"``. The bound
    proves that an eigenvalue is there and not that none was missed, see
    `landscape.spectrum.top_eigenpairs`; up to 32 coordinates none can be.

    A loss with kinks (ReLU) has a saddle on a kink more often than not, where no gradient vanishes:
    the status then says that the gradient did not.

    Args:
        objective: what is differentiated twice; without random modules.
        start: a path, whose summit is taken, or a point (p,).
        steps: at most.
        tolerance: of the gradient's norm; where None the square root of the point's rounding, times
            the norm at the start where that is above 1.
        radius: of the trust region at first; where None a hundredth of the path's length, and of a
            point's a tenth of its norm or of 1.
        eigenvalue_tolerance: of the eigenvalues, relative to the largest by magnitude.
        statistics: of BatchNorm, as in `landscape.paths.linear`; held fixed in derivatives.

    Raises:
        ValueError: if the point is not one of the objective, its loss is not finite, or an option
            is out of range.
        RuntimeError: if the objective is random, or its second derivatives are not symmetric.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    for name, given in (("tolerance", tolerance), ("radius", radius)):
        if given is not None and not given > 0:
            raise ValueError(f"{name} must be positive, got {given}")
    if isinstance(start, Path):
        z = torch.tensor(start.summit, device=trait(objective, "device", "cpu"))
    else:
        z = start.detach()
    if z.shape != (objective.dim,):
        raise ValueError(
            f"the start must be a point of length {objective.dim}, got shape {tuple(z.shape)}"
        )
    if radius is None:
        far = start.length / 100 if isinstance(start, Path) else 0.1 * max(1.0, float(z.norm()))
        radius = far or 0.1
    measured: Any = reestimated(objective) if statistics == "reestimated" else objective
    check_deterministic(measured, z)
    climb = _Climb(measured, z, radius, eigenvalue_tolerance)
    if not np.isfinite(climb.site.loss):
        raise ValueError(f"the loss at the start is {climb.site.loss}: take one where it is finite")
    if tolerance is None:
        tolerance = torch.finfo(z.dtype).eps ** 0.5 * max(1.0, climb.site.norm)
    taken, ended = climb.run(steps, tolerance)
    return _result(climb, z, taken, ended, tolerance)


class _Site(NamedTuple):
    """A point with its loss and gradient."""

    z: Tensor
    loss: float
    gradient: Tensor

    @property
    def norm(self) -> float:
        """Of the gradient."""
        return float(torch.linalg.vector_norm(widened(self.gradient)))


class _Climb:
    """The climb: where it is, how far it may go, and what it has cost."""

    def __init__(self, objective: Any, z: Tensor, radius: float, tolerance: float):
        self.objective, self._radius, self._tolerance = objective, radius, tolerance
        self.evaluations = self.products = 0
        self.site = self._at(z)
        self.start = self.site.loss

    def run(self, steps: int, tolerance: float) -> tuple[int, str]:
        """How many steps were taken, and what is missing where they did not arrive; else nothing.

        Steps that are not taken count as well.
        """
        for count in range(steps):
            if self.site.norm <= tolerance:
                return count, ""
            if not self._step():
                return count, "the steps have become too short"
        return steps, "" if self.site.norm <= tolerance else f"not converged in {steps} steps"

    def spectrum(self, pairs: int) -> Spectrum:
        """The smallest eigenvalues where it is."""
        site = self.site
        last = pairs > 1
        found = top_eigenpairs(
            self.objective, site.z, min(pairs, self.objective.dim), "SA",
            self._tolerance if last else max(self._tolerance, _ROUGH), check=last, double=last,
        )  # fmt: skip
        self.products += found.products + found.check_products
        return found

    def _step(self) -> bool:
        """Whether a step could be tried; the site is then the next one, if that is as expected."""
        site = self.site
        found = self.spectrum(1)
        if found.vectors is None or not len(found.eigenvalues):
            return False
        v = torch.tensor(found.vectors[0]).to(site.z)
        hessian = Hessian(self.objective, site.z)
        while self._radius > 1e-12 * (1.0 + float(torch.linalg.vector_norm(site.z))):
            step, expected = self._proposed(hessian, v, float(found.eigenvalues[0]))
            other = self._at(site.z + step)
            change = other.loss - site.loss
            # Close to the saddle the losses say nothing any more, and the gradients do.
            rounding = 32 * torch.finfo(site.z.dtype).eps * (1 + abs(site.loss))
            off = abs(change - expected) / max(abs(expected), rounding)
            small = abs(expected) <= rounding and other.norm < site.norm
            if np.isfinite(change) and (off <= _TAKEN or small):
                self.products += hessian.products
                self.site = other
                if off <= _LONGER:
                    self._radius *= 2
                return True
            self._radius /= 4
        self.products += hessian.products
        return False

    def _proposed(self, hessian: Any, v: Tensor, curvature: float) -> tuple[Tensor, float]:
        """A step within the trust region, and the change of the loss that it should make."""
        slope = self.site.gradient
        uphill = float(v @ slope)
        along = uphill / max(abs(curvature), 1e-12)
        along = float(np.clip(along, -self._radius, self._radius))
        across, image = _across(hessian, slope - uphill * v, v, self._radius)
        change = along * uphill + curvature * along**2 / 2
        change += float(slope @ across) + float(across @ image) / 2
        return along * v + across, change

    def _at(self, z: Tensor) -> _Site:
        self.evaluations += 1
        loss, gradient = value_and_grad(self.objective, z)
        return _Site(z, float(loss), gradient)


def _across(
    hessian: Any, slope: Tensor, v: Tensor, radius: float, most: int = 50
) -> tuple[Tensor, Tensor]:
    """The minimum of the quadratic across v within a radius, and its product with the Hessian.

    Conjugate gradients, cut off as in Steihaug (1983).
    """
    step, image = torch.zeros_like(slope), torch.zeros_like(slope)
    residual = slope.clone()
    direction = -residual
    square = float(residual @ residual)
    # Newton's steps near the end have to be accurate, far away not.
    enough = min(0.1, square**0.25) ** 2 * square
    for _ in range(min(most, len(slope) - 1)):
        if not square > 0:
            break
        product = hessian @ direction
        product = product - (v @ product) * v
        curvature = float(direction @ product)
        length = square / curvature if curvature > 0 else float("inf")
        ahead = step + length * direction if curvature > 0 else None
        if ahead is None or float(torch.linalg.vector_norm(ahead)) >= radius:
            length = _to_border(step, direction, radius)
            return step + length * direction, image + length * product
        step, image = ahead, image + length * product
        residual = residual + length * product
        before, square = square, float(residual @ residual)
        if square <= enough:
            break
        direction = -residual + square / before * direction
    return step, image


def _to_border(step: Tensor, direction: Tensor, radius: float) -> float:
    """How far along a direction the border of a ball is."""
    a, b = float(direction @ direction), float(step @ direction)
    c = float(step @ step) - radius**2
    return (-b + max(b * b - a * c, 0.0) ** 0.5) / a


def _result(climb: _Climb, start: Tensor, steps: int, ended: str, tolerance: float) -> Saddle:
    site = climb.site
    found = climb.spectrum(_PAIRS)
    values, bounds = found.eigenvalues, found.bounds
    least = float(np.abs(values).min()) if len(values) else float("nan")
    vector = torch.zeros_like(site.z) if found.vectors is None else found.vectors[0]
    return Saddle(
        point=site.z.cpu().numpy(),
        loss=site.loss,
        error=site.norm**2 / (2 * least) if least > 0 else float("inf"),
        gradient_norm=site.norm,
        tolerance=tolerance,
        eigenvalues=values,
        bounds=bounds,
        direction=np.asarray(vector),
        start=climb.start,
        moved=float(torch.linalg.vector_norm(widened(site.z) - widened(start))),
        steps=steps,
        evaluations=climb.evaluations,
        products=climb.products,
        status=_status(ended, values, bounds),
        statistics=normalisation_of(climb.objective),
        provenance=provenance(judged=judged(climb.objective, site.z), spectrum=found.status),
    )


def _status(ended: str, values: np.ndarray, bounds: np.ndarray) -> str:
    """Whether the point is a saddle of index 1 for certain, or what is missing."""
    if ended:
        return f"not critical: {ended}"
    if not len(values):
        return "critical, its eigenvalues not known: the Hessian is not finite"
    negative, positive = values + bounds < 0, values - bounds > 0
    if positive[0]:
        return "a minimum: the smallest eigenvalue is positive"
    if not negative[0]:
        return "critical, but the smallest eigenvalue may be zero"
    if len(values) > 1 and negative[1]:
        return "critical, of index 2 or more: a lower path leads around it"
    if len(values) > 1 and not positive[1]:
        return "critical, but the second smallest eigenvalue may be zero"
    return "certified"
