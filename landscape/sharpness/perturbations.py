r"""Flatness by what the loss does around a point: the worst, the mean, and how far until it rises.

Every function takes a `Site` and gives a `Reading`. Losses are evaluated in the type of the point
and subtracted in float64; what the noise of the loss can do to a difference is the error of each,
or a part of it, see `landscape.rounding`. BatchNorm statistics are those of the objective.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import directions
from landscape.objective import Objective, offered, trait, value, widened
from landscape.rounding import noise
from landscape.sharpness.ascent import Ascent, rises, worst_case
from landscape.sharpness.basin import median, widths
from landscape.sharpness.reading import (
    NAN,
    Reading,
    Site,
    above_rounding,
    exact,
    lower_bound,
    outside,
    undefined,
)
from landscape.trace.hutchinson import summary

_BLOCK_NUMBERS = 2**24
_NOISY_BATCHES = 4


def worst_l2(site: Site) -> Reading:
    r"""Worst-case sharpness in a ball: :math:`\max_{\|u\|_2 \le \rho} f(z + u) - f(z)`.

    A lower bound, see `landscape.sharpness.worst_case` for the ascent and its cost. At a minimum of
    a quadratic it is :math:`\rho^2 \lambda_{\max} / 2`. Unit: loss. Invariant under permutations
    and rotations, not under rescaling.

    Reference: Foret, Kleiner, Mobahi & Neyshabur (2021), Sharpness-aware minimization.
    """
    return lower_bound(_climbed(site, "worst-l2", site.options.rho), site.noise.highest)


def worst_linf(site: Site) -> Reading:
    r"""Worst-case sharpness in a box: :math:`\max_{\|u\|_\infty \le \rho} f(z + u) - f(z)`.

    A lower bound. Unit: loss. Invariant under permutations of coordinates, not under rotations or
    rescaling.

    Reference: Andriushchenko, Croce, Mueller, Hein & Flammarion (2023), A modern look at the
    relationship between sharpness and generalization.
    """
    found = _climbed(site, "worst-linf", site.options.rho_linf, norm="linf")
    return lower_bound(found, site.noise.highest)


def adaptive(site: Site) -> Reading:
    r"""Adaptive sharpness: :math:`\max_{\|T^{-1} u\|_2 \le \rho} f(z + u) - f(z)`, T = |z| + eta.

    The radius has no unit: it is relative to the weights. With eta = 0 it is invariant under
    permutations and under any rescaling of single weights that leaves the loss alone, and weights
    that are zero cannot move; with eta > 0 it is invariant under permutations only. A lower bound.
    Unit: loss.

    Reference: Kwon, Kim, Park & Choi (2021), ASAM.
    """
    size = site.point.abs()
    zeros = int((size == 0).sum()) if site.options.eta == 0 else 0
    note = f"{zeros} of {len(size)} weights are zero and stay so, since eta = 0" if zeros else ""
    found = _climbed(site, "adaptive", site.options.rho_adaptive, scale=size + site.options.eta)
    return lower_bound(found, site.noise.highest, note)


def m_sharpness(site: Site) -> Reading:
    r"""m-sharpness: the mean over batches of size m of each batch's own maximum in the l2 ball.

    :math:`\sum_b \frac{m_b}{\sum m} \max_{\|u\|_2 \le \rho} f_b(z + u) - f_b(z)`, over one epoch of
    random batches, or over the first ``batches`` of it. A batch counts by its samples, or by its
    weight where the loss gives ``(sum, weight)``; one without weight is left out. Each maximum is a
    lower bound; ``error`` is the standard error of the mean over batches, or what rounding can do
    where that is more: the noise of up to four batches is measured, and the largest taken for all.
    Over a whole epoch at least as large as `worst_l2` if all ascents find the maximum. Unit: loss.
    Invariances as `worst_l2`.

    Reference: Foret, Kleiner, Mobahi & Neyshabur (2021), section 4.1.
    """
    options, total = site.options, _samples_of(site.objective)
    if not total:
        return undefined("the objective has no data")
    minibatches = offered(site.objective, "minibatches")
    if minibatches is None:
        return undefined("the objective has no mini-batches")
    stream = minibatches(options.batch_size, site.source("batches"), epochs=1)
    try:
        batches = list(islice(stream, options.batches or None))
    except ValueError as error:
        return undefined(error)
    weights = {batch: weight for batch in batches if (weight := _weight(batch)) > 0}
    if not weights:
        return undefined("no batch has a weight in the loss")
    found = [_climbed(site, "m-sharpness", options.rho, batch) for batch in weights]
    sizes = np.array([_samples_of(batch) for batch in weights], dtype=np.float64)
    share = np.array(list(weights.values())) / sum(weights.values())
    rise = np.array([each.rise for each in found])
    finite = all(each.finite for each in found)
    mean = float(share @ rise) if finite else math.inf
    spread = 0.0
    if finite and len(rise) > 1:
        spread = float(np.sqrt((share**2 @ (rise - mean) ** 2) * len(rise) / (len(rise) - 1)))
    cost = sum(each.evaluations * size for each, size in zip(found, sizes, strict=True)) / total
    settled = all(each.settled for each in found)
    whole = Ascent(mean, site.point, 0, settled, finite)
    batch_note = f"{len(weights)} batches of {min(options.batch_size, total)}"
    rounding = _noise_of_batches(list(weights), site) + float(share @ [*map(outside, found)])
    reading = lower_bound(whole, rounding, batch_note)
    return reading._replace(error=max(spread, reading.error), evaluations=cost)


def average(site: Site) -> Reading:
    r"""Average-case sharpness: :math:`E f(z + \sigma u) - f(z)` with u standard normal.

    The mean over pairs u, -u with its standard error; for small sigma about
    :math:`\sigma^2 \operatorname{tr} H / 2`. Unit: loss; sigma is for each coordinate, in units of
    the parameters. Costs ``1 + 2 * pairs`` evaluations. Invariant under permutations and rotations,
    not under rescaling.

    Reference: Neyshabur, Bhojanapalli, McAllester & Srebro (2017), Exploring generalization in deep
    learning.
    """
    source, pairs = site.source("average"), site.options.pairs
    means: list[Tensor] = []
    for count in _blocks(pairs, len(site.point)):
        drawn = torch.randn(
            (count, len(site.point)), generator=source, dtype=torch.float64, device=source.device
        )
        u = site.options.sigma * drawn.to(site.point)
        both = torch.cat([u, -u])
        means.append(rises(site.objective, site.point, both, site.loss).reshape(2, -1).mean(0))
    rise = torch.cat(means)
    evaluations = float(1 + 2 * pairs)
    if not bool(torch.isfinite(rise).all()):
        return Reading(
            math.inf, "estimate", evaluations=evaluations,
            status="the loss is not finite within the reach of the draws",
        )  # fmt: skip
    mean, error, (low, high) = summary(widened(rise).cpu().numpy())
    reading = Reading(mean, "estimate", error, float(low), float(high), evaluations)
    return above_rounding(reading, site.noise.mean(2 * pairs))


def keskar(site: Site) -> Reading:
    r"""Keskar's sharpness: :math:`100 \, (\max_y f(z + y) - f(z)) / (1 + f(z))` in a box.

    The box is :math:`|y_i| \le \epsilon (|z_i| + 1)`, in all coordinates (A is the identity). Unit:
    percent. A lower bound by our ascent, not by ten iterations of L-BFGS-B as published. Not
    defined where 1 + f is not positive. Invariant under permutations, not under rotations or
    rescaling.

    Reference: Keskar, Mudigere, Nocedal, Smelyanskiy & Tang (2017), On large-batch training for
    deep learning, metric 2.1.
    """
    if not 1 + site.loss > 16 * torch.finfo(site.point.dtype).eps:
        return undefined(f"1 + f is {1 + site.loss:.6g}, and it divides")
    found = _climbed(
        site, "keskar", site.options.epsilon, norm="linf", scale=site.point.abs() + 1
    )  # fmt: skip
    # Noise of the loss that divides moves the whole.
    rounding = site.noise.highest + found.rise * site.noise.single / (1 + site.loss)
    return lower_bound(found, rounding, unit=100 / (1 + site.loss))


def sam(site: Site) -> Reading:
    r"""SAM's one-step sharpness: :math:`f(z + \rho \, g / \|g\|_2) - f(z)`.

    Unit: loss. Costs 2 evaluations. 0 where the gradient is zero, which says nothing about the
    curvature there. Invariant under permutations and rotations, not under rescaling.

    Reference: Foret, Kleiner, Mobahi & Neyshabur (2021), equation 2.
    """
    slope, words = site.gradient
    length = torch.linalg.vector_norm(slope)
    if not bool(torch.isfinite(length)):
        return Reading(NAN, status="the gradient is not finite", evaluations=1.0)
    if not float(length) > 0:
        status = "the gradient is zero: the step has no direction"
        return Reading(0.0, "unresolved", evaluations=1.0, status=status)
    exactly = site.options.rho * slope / length
    step = exactly.to(site.point)
    rise = float(rises(site.objective, site.point, step.unsqueeze(0), site.loss)[0])
    if not math.isfinite(rise):
        return Reading(
            math.inf, evaluations=2.0, status="the loss is not finite at the end of the step"
        )
    # Where the step is as small as the rounding of the weights, another step is taken: to first
    # order its loss differs by this.
    taken = widened(site.point + step) - widened(site.point)
    missed = abs(float((taken - exactly) @ slope))
    reading = exact(rise, evaluations=2.0)._replace(status=words)
    return above_rounding(reading, site.noise.single + missed)


def basin_width(site: Site) -> Reading:
    r"""Basin width: the median radius r at which :math:`f(z + r u) - f(z)` reaches delta.

    u are random directions: with ``by="filter"`` normalised like the filters of the point, biases
    and normalisation scales kept, and r in multiples of them, or as long as the whole point where
    there are no layers; with ``by="none"`` isotropic of length 1, and r in units of the
    parameters. ``low`` and ``high`` are a 95 % interval of the median by order statistics,
    which needs six directions. Infinite where the median direction does not rise so far up to
    the largest radius. Costs at most 27 evaluations for each direction, see
    `landscape.sharpness.basin.widths`. Invariant under permutations; filter-normalised also
    under rescaling of whole layers, isotropic under rotations.
    """
    options = site.options
    layout = offered(site.objective, "layout") if options.by == "filter" else None
    by = "model" if options.by == "filter" and layout is None else options.by
    source = site.source("basin-width")
    # One by one: several at once would be made orthogonal, and there may be more than coordinates.
    try:
        u = torch.cat([
            directions.random(layout, site.point, source, count=1, by=by)  # type: ignore[arg-type]
            for _ in range(options.directions)
        ])
    except ValueError:
        u = torch.zeros_like(site.point)
    if not bool(u.any()):
        return undefined("the weights are zero, so a direction of their length is too")
    found = widths(
        site.objective, site.point, u, options.delta, options.largest, site.loss
    )  # fmt: skip
    middle, low, high = median(found.radius)
    beyond = int(np.isinf(found.radius).sum())
    notes = [f"{beyond} of {len(u)} directions do not rise so far"] if beyond else []
    if not found.finite:
        notes.append("the loss is not finite along some of them, which counts as risen")
    if by == "model":
        notes.append("without layers a direction is as long as the point")
    kind = "estimate"
    if not options.delta > site.noise.single:
        kind = "unresolved"
        notes = [f"delta is no larger than the noise of the loss, {site.noise.single:.2g}", *notes]
    return Reading(
        middle, kind, NAN, low, high, float(1 + found.evaluations), status="; ".join(notes)
    )


def interval_mean(site: Site) -> Reading:
    r"""Mean of :math:`|f(y) - f(z)|` over equispaced y in [z - r, z + r], as in CNOGNP's runs.

    Published for one coordinate; over two, ours is the mean over the points of a square grid. Not
    defined for more. Unit: loss; r in units of the parameters. Costs ``points ** p`` evaluations.
    Invariant under permutations of coordinates.

    Reference: the simulations of Collaborative Neurodynamic Optimization with Gradient Norm Penalty
    for Generalization Improvement, in their code.
    """
    return _interval(site, torch.mean, site.noise.single)


def interval_max(site: Site) -> Reading:
    r"""Maximum of :math:`|f(y) - f(z)|` over the same points as `interval_mean`."""
    return _interval(site, torch.max, site.noise.highest)


def _samples_of(objective: Any) -> int:
    """The number of samples behind an objective or one of its parts; 0 where there is no data."""
    return trait(objective, "samples", 0)


def _weight(batch: Objective) -> float:
    """What a mini-batch counts: the weight that its loss gives, else its samples."""
    weights = trait(batch, "weights")
    return sum(weights) if weights else float(_samples_of(batch))


def _climbed(
    site: Site, purpose: str, radius: float, objective: Objective | None = None, **ball: Any
) -> Ascent:
    return worst_case(
        objective or site.objective, site.point, radius, site.source(purpose),
        starts=site.options.starts, steps=site.options.steps, **ball,
    )  # fmt: skip


def _noise_of_batches(batches: list[Objective], site: Site) -> float:
    """What noise can do to the mean of the maxima: they are all too high by it, so it stays."""
    some = batches[:: -(-len(batches) // _NOISY_BATCHES)]
    return max(noise(batch, site.point, generator=site.source("noise")).highest for batch in some)


def _interval(site: Site, summary: Any, rounding: float) -> Reading:
    dim, options = len(site.point), site.options
    if dim > 2:
        return undefined(f"a grid over {dim} coordinates is too large; it is meant for one or two")
    side = torch.linspace(
        -options.radius, options.radius, options.points, dtype=site.point.dtype, device="cpu"
    )
    grid = torch.cartesian_prod(*[side] * dim).reshape(-1, dim).to(site.point)
    there = widened(value(site.objective, site.point + grid))
    rise = float(summary((there - site.loss).abs()))
    evaluations = float(1 + len(grid))
    if not math.isfinite(rise):
        return Reading(
            math.inf, evaluations=evaluations, status="the loss is not finite within the box"
        )
    return above_rounding(exact(rise, evaluations=evaluations), rounding)


def _blocks(count: int, dim: int) -> Iterator[int]:
    """Sizes of blocks of vectors that are drawn together, which bounds memory."""
    most = max(1, _BLOCK_NUMBERS // dim)
    while count > 0:
        yield min(most, count)
        count -= most
