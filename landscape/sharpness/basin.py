"""How far one can go from a point before the loss has risen by a stated amount."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.imports import bdtr, bdtrik
from landscape.objective import Objective, value, widened

_RUNGS = 14
_BISECTIONS = 12


class Widths(NamedTuple):
    """Radii along directions, (n,), the points evaluated, and whether every loss was finite."""

    radius: np.ndarray
    evaluations: int
    finite: bool


def widths(
    objective: Objective,
    z: Float[Tensor, " p"],
    directions: Float[Tensor, "n p"],
    delta: float,
    largest: float,
    loss: float,
) -> Widths:
    r"""The radius r along each direction at which :math:`f(z + r u) - f(z)` reaches ``delta``.

    Radii double from ``largest / 2**14`` on; between the first one at which the loss has risen by
    delta and the one before, bisection goes down to 1/4096 of that interval. A rise that comes and
    goes between two radii of this ladder is not seen. A loss that is not finite has risen.

    Costs at most 27 evaluations for each direction; all directions are evaluated together.

    Args:
        objective: what is evaluated.
        z: (p,), the point.
        directions: (n, p), used exactly as given.
        delta: the rise, positive.
        largest: the largest radius, in units of the directions; positive.
        loss: f(z).

    Returns:
        Radii, infinite where the loss has not risen by delta up to the largest radius.

    Raises:
        ValueError: if ``delta`` or ``largest`` is not positive.
    """
    if not delta > 0 or not 0 < largest < math.inf:
        raise ValueError(f"delta and largest must be positive, got {delta} and {largest}")
    count = len(directions)
    low, high = np.zeros(count), np.full(count, np.inf)
    evaluations, finite = 0, True

    def risen(radius: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        nonlocal evaluations, finite
        index = torch.as_tensor(chosen, device=z.device)
        reach = torch.as_tensor(radius[chosen], dtype=z.dtype, device=z.device)
        there = value(objective, z + reach.unsqueeze(-1) * directions[index])
        evaluations += len(chosen)
        finite = finite and bool(torch.isfinite(there).all())
        rise = (widened(there) - loss).cpu().numpy()
        return ~(rise < delta)

    for rung in range(_RUNGS + 1):
        (open_,) = np.nonzero(np.isinf(high))
        if not len(open_):
            break
        radius = np.full(count, largest / 2.0 ** (_RUNGS - rung))
        up = risen(radius, open_)
        high[open_[up]] = radius[open_[up]]
        low[open_[~up]] = radius[open_[~up]]
    (bracketed,) = np.nonzero(np.isfinite(high))
    for _ in range(_BISECTIONS if len(bracketed) else 0):
        middle = (low + np.where(np.isfinite(high), high, 0.0)) / 2
        up = risen(middle, bracketed)
        high[bracketed[up]] = middle[bracketed[up]]
        low[bracketed[~up]] = middle[bracketed[~up]]
    return Widths(np.where(np.isfinite(high), (low + high) / 2, np.inf), evaluations, finite)


def median(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """The median and the ends of its interval, by order statistics; values may be infinite.

    The interval lies between the j-th smallest and the j-th largest value, with the largest j for
    which a sign test at this confidence allows it. Too few values have none: its ends are NaN.

    >>> median(np.arange(1.0, 22.0))
    (11.0, 6.0, 16.0)
    >>> median(np.array([1.0, 2.0, np.inf]))
    (2.0, nan, nan)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    lower, upper = ordered[(count - 1) // 2], ordered[count // 2]
    middle = float(lower) if lower == upper else float(lower + upper) / 2
    # As many values may lie below as a fair coin shows heads at most, but for that probability.
    rare = (1 - confidence) / 2
    below = math.ceil(bdtrik(rare, count, 0.5)) if count and bdtr(0, count, 0.5) < rare else 0
    while below and bdtr(below - 1, count, 0.5) >= rare:
        below -= 1  # the inverse is rounded
    if below < 1:
        return middle, math.nan, math.nan
    return middle, float(ordered[below - 1]), float(ordered[count - below])
