"""The highest loss near a point, by projected gradient ascent: a lower bound of the maximum."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Objective, value, value_and_grad, widened

Norm = Literal["l2", "linf"]

# Once the rise has grown by less than this share over so many steps, more of them are wasted.
_QUIET, _WINDOW = 1e-6, 5
_SETTLED = 0.01
# In units of the ball; a step of this length goes along the slope, whatever the start.
_LONGEST = 2.0**20


class Ascent(NamedTuple):
    """How far the loss rises within a ball.

    Attributes:
        rise: the largest f(z + u) - f(z) that was met, at least 0 since u = 0 is in the ball;
            infinite if the loss was not finite somewhere in the ball.
        perturbation: (p,), the u at which it was met.
        evaluations: of the loss and its gradient, in points.
        settled: whether the last quarter of the steps added less than 1 % of the rise.
        finite: whether the loss was finite wherever it was evaluated.
        reach: how long the perturbation is in the ball's norm once it has been added in the type of
            z, in radii: more than 1 by rounding, much more where the ball is as small as that.
    """

    rise: float
    perturbation: Tensor
    evaluations: int
    settled: bool
    finite: bool
    reach: float = 1.0


def worst_case(
    objective: Objective,
    z: Float[Tensor, " p"],
    radius: float,
    generator: torch.Generator,
    *,
    norm: Norm = "l2",
    scale: Float[Tensor, " p"] | None = None,
    starts: int = 4,
    steps: int = 20,
) -> Ascent:
    r"""The largest rise that ascent finds, a lower bound of :math:`\max_u f(z + u) - f(z)`.

    The ball is :math:`\{u = T v : \|v\| \le \rho\}` with :math:`T = \mathrm{diag}(\text{scale})`,
    so that coordinates of scale 0 stay where they are. Ascent moves v along the steepest direction
    of the norm, the normalised gradient for l2 and its signs for linf, and projects. A step that
    raises the loss is kept and doubled, any other is taken back and quartered, so that each start
    only ever rises; long steps are those of power iteration, which is what a quadratic needs. The
    first start is the end of the steepest step from z, or z itself where the loss at that end is no
    higher, so that a slope at z is climbed in any case. The others are random, on the boundary.

    The loss is taken as it is computed: a rise that is no larger than the noise of the loss, see
    `landscape.rounding.noise`, is a lower bound of nothing.

    Costs ``1 + starts * (1 + steps)`` evaluations of loss and gradient at most. All starts are
    evaluated together, in the type of z.

    Args:
        objective: what is climbed.
        z: (p,), the centre of the ball.
        radius: :math:`\rho`, positive.
        generator: source of the random starts.
        norm: ``"l2"`` or ``"linf"``.
        scale: (p,), the diagonal of T, not negative; ones where None.
        starts: at least 1.
        steps: of each start, at least 1.

    Raises:
        ValueError: if a number is out of range, or ``norm`` is unknown.
    """
    _check(radius, norm, starts, steps)
    scale = torch.ones_like(z) if scale is None else scale.to(z)
    reach = radius * scale
    loss, slope = value_and_grad(objective, z)
    if not bool(torch.isfinite(loss)):
        return Ascent(float("nan"), torch.zeros_like(z), 1, True, False)
    if not bool(reach.any()):
        return Ascent(0.0, torch.zeros_like(z), 1, True, True)
    base = float(loss)
    v = _starts(scale * slope, scale, starts, norm, generator)
    values, slopes = value_and_grad(objective, z + reach * v)
    evaluations = 1 + starts
    slopes, length = _usable(scale * slopes), torch.ones_like(values)
    finite = bool(torch.isfinite(values).all())
    uphill = _usable((scale * slope).unsqueeze(0))
    if finite and bool(uphill.any()) and bool(values[0] <= loss):
        # To the boundary was too far, and shorter steps may rise.
        v, values = torch.cat([0 * v[:1], v[1:]]), torch.cat([loss.reshape(1), values[1:]])
        slopes, length = torch.cat([uphill, slopes[1:]]), torch.cat([length[:1] / 4, length[1:]])
    history = [_highest(values, base)]
    for _ in range(steps if finite else 0):
        trial = _projected(v + length.unsqueeze(-1) * _steepest(slopes, norm), norm)
        found, ahead = value_and_grad(objective, z + reach * trial)
        evaluations += starts
        finite = bool(torch.isfinite(found).all())
        if not finite:
            v, values = trial, found
            break
        better, ahead = found > values, _usable(scale * ahead)
        longer = _lengthened(length, trial - v, ahead, slopes, norm)
        length = torch.where(better, longer, length / 4).clamp_max(_LONGEST)
        v, slopes = (
            torch.where(better.unsqueeze(-1), new, old)
            for new, old in ((trial, v), (ahead, slopes))
        )
        values = torch.where(better, found, values)
        history.append(_highest(values, base))
        if _quiet(history):
            break
    ended = _ended(v, values, reach, history, evaluations, base)
    return ended._replace(reach=_reached(z, ended.perturbation, reach, norm))


def rises(
    objective: Objective, z: Float[Tensor, " p"], u: Float[Tensor, "n p"], loss: float
) -> Float[Tensor, " n"]:
    """The rises f(z + u) - loss at perturbations ``u``, in float64."""
    return widened(value(objective, z + u)) - loss


def _ended(
    v: Tensor, values: Tensor, reach: Tensor, history: list[float], evaluations: int, base: float
) -> Ascent:
    lost = ~torch.isfinite(values)
    if bool(lost.any()):
        first = int(lost.int().argmax())
        return Ascent(float("inf"), reach * v[first], evaluations, True, False)
    best = int(values.argmax())
    if not history[-1] > 0:
        return Ascent(0.0, torch.zeros_like(reach), evaluations, True, True)
    late = history[-1] - history[max(0, len(history) - 1 - max(1, len(history) // 4))]
    settled = late <= _SETTLED * history[-1] and len(history) > 1
    rise = float(values[best]) - base
    return Ascent(rise, reach * v[best], evaluations, settled, True)


def _reached(z: Tensor, u: Tensor, reach: Tensor, norm: str) -> float:
    """The length of (z + u) - z as computed, in radii, over the coordinates that may move."""
    free = reach > 0
    moved = (widened((z + u)[free]) - widened(z[free])) / widened(reach[free])
    return float(torch.linalg.vector_norm(moved, ord=2 if norm == "l2" else math.inf))


def _check(radius: float, norm: str, starts: int, steps: int) -> None:
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius must be positive and finite, got {radius}")
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm must be l2 or linf, got {norm!r}")
    if starts < 1 or steps < 1:
        raise ValueError(f"starts and steps must be at least 1, got {starts} and {steps}")


def _starts(
    slope: Tensor, scale: Tensor, starts: int, norm: str, generator: torch.Generator
) -> Tensor:
    """(starts, p) points on the unit sphere: the steepest first, then random ones in pairs +-."""
    half = torch.randn(
        (-(-starts // 2), len(slope)),
        generator=generator,
        dtype=torch.float64,
        device=generator.device,
    ).to(slope)
    drawn = torch.cat([half, -half])[:starts]
    drawn = _steepest(drawn * (scale > 0), norm)
    first = _steepest(_usable(slope), norm)
    return torch.cat([first.unsqueeze(0), drawn[1:]]) if bool(first.any()) else drawn


def _steepest(slopes: Tensor, norm: str) -> Tensor:
    """The unit vector of the norm along which the loss rises fastest; zero where it is flat."""
    if norm == "linf":
        return slopes.sign()
    lengths = torch.linalg.vector_norm(slopes, dim=-1, keepdim=True)
    return torch.where(lengths > 0, slopes / lengths, torch.zeros_like(slopes))


def _lengthened(length: Tensor, moved: Tensor, ahead: Tensor, slopes: Tensor, norm: str) -> Tensor:
    """The next length after a step that has risen: that of Barzilai and Borwein, or twice as long.

    Along a direction of negative curvature their step is the one that ends where the slope is zero.
    """
    if norm == "linf":
        return 2 * length
    bend = -(moved * (ahead - slopes)).sum(-1)
    reach = moved.square().sum(-1) / bend * torch.linalg.vector_norm(ahead, dim=-1)
    return torch.where(
        (bend > 0) & torch.isfinite(reach), torch.minimum(reach, 2 * length), 2 * length
    )


def _projected(v: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return v.clamp(-1, 1)
    return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(1)


def _usable(slopes: Tensor) -> Tensor:
    """Slopes with those that are not finite, at a kink for one, set to zero."""
    whole = torch.isfinite(slopes).all(-1, keepdim=True)
    return torch.where(whole, slopes, torch.zeros_like(slopes))


def _highest(values: Tensor, base: float) -> float:
    return float(values.max()) - base


def _quiet(history: list[float]) -> bool:
    if len(history) <= _WINDOW:
        return False
    return history[-1] - history[-1 - _WINDOW] <= _QUIET * abs(history[-1])
