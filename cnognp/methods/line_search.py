"""Line searches on whole populations: every member has a line and a bracket of its own."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PHI = (1 + math.sqrt(5)) / 2
_SHORT = 2 - PHI


class Bracket(NamedTuple):
    """Where each member's minimum lies: low <= best <= high, and the value at ``best``, all (N,).

    Until a point beyond ``best`` is known that is not better, ``high`` is infinite.
    """

    low: Tensor
    best: Tensor
    high: Tensor
    value: Tensor


class Rules(NamedTuple):
    """How a golden-section search along a ray goes on, and when it ends.

    ``first`` (N,) is its first trial. While trials get better it expands: to ``leap`` times the
    first one, then by the factor ``stride``. It ends after ``trials`` evaluations, or where the
    bracket is shorter than ``width`` (N,) or than ``tolerance`` times its upper end.
    """

    first: Tensor
    leap: float
    stride: float
    trials: int
    width: Tensor
    tolerance: float


def golden_section(
    function: Callable[[Tensor], Tensor],
    low: Float[Tensor, " n"],
    high: Float[Tensor, " n"],
    tolerance: float,
) -> Bracket:
    r"""Brackets no longer than ``tolerance`` around a minimum of each member's function.

    One evaluation in the interval, then one for each of
    :math:`\lceil \log((b - a) / \epsilon) / \log \phi \rceil` reductions of the bracket by the
    golden ratio :math:`\phi = (1 + \sqrt 5) / 2`. A function with one minimum in the interval has
    it in its bracket.

    Args:
        function: maps (N,) to (N,), entry i along the line of member i.
        low: (N,), lower ends a.
        high: (N,), upper ends b.
        tolerance: :math:`\epsilon`, positive.

    Raises:
        ValueError: if an interval is empty or not finite, or ``tolerance`` is not positive.

    Reference: Kiefer (1953).
    """
    if not bool((low < high).all() and low.isfinite().all() and high.isfinite().all()):
        raise ValueError(f"low must be below high and both finite, got {low} and {high}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    best = low + _SHORT * (high - low)
    bracket = Bracket(low, best, high, function(best))
    longest = float((high - low).max()) if len(low) else tolerance
    for _ in range(math.ceil(math.log(longest / tolerance) / math.log(PHI))):
        t = _golden(bracket)
        bracket = _narrowed(bracket, t, function(t))
    return bracket


def search_ray(
    function: Callable[[Tensor, Tensor], Tensor],
    value: Float[Tensor, " n"],
    rules: Rules,
) -> tuple[Bracket, Tensor]:
    """The brackets that a golden-section search from 0 outwards ends with, and trials used (N,).

    Each member expands from 0 until a trial gets worse, or contracts towards 0 until one is better,
    and then narrows its bracket by golden sections. ``best`` never has a value above the one at 0;
    it is 0 where no trial was below that. A value that is NaN counts as worse.

    Args:
        function: from steps (m,) and the indices (m,) of their members to values (m,).
        value: (N,), the values at 0.
        rules: as described there.
    """
    zero = torch.zeros_like(value)
    bracket = Bracket(zero, zero, torch.full_like(value, math.inf), value)
    used = torch.zeros_like(value, dtype=torch.int64)
    for _ in range(rules.trials):
        length = bracket.high - bracket.low
        close = (length <= rules.width) | (length <= rules.tolerance * bracket.high)
        rows = (~(close & (bracket.best > 0) & bracket.high.isfinite())).nonzero().squeeze(-1)
        if len(rows) == 0:
            break
        t = _proposed(bracket, rules)
        # Whoever has finished is not evaluated, and keeps the bracket it has.
        active = torch.zeros_like(value, dtype=torch.bool)
        active[rows] = True
        found = torch.full_like(value, math.nan)
        found[rows] = function(t[rows], rows)
        narrowed = zip(_narrowed(bracket, t, found), bracket, strict=True)
        bracket = Bracket(*(torch.where(active, new, old) for new, old in narrowed))
        used += active
    return bracket, used


def search_wolfe(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    value: Float[Tensor, " n"],
    slope: Float[Tensor, " n"],
    first: Float[Tensor, " n"],
    trials: int,
    armijo: float = 1e-4,
    curvature: float = 0.9,
) -> tuple[Float[Tensor, " n"], Tensor]:
    r"""Steps t that satisfy the weak Wolfe conditions, and the trials used, both (N,).

    :math:`f(t) \le f(0) + c_1 t f'(0)` and :math:`f'(t) \ge c_2 f'(0)`, by doubling and bisection.
    Where the trials run out it is the longest step known that satisfies the first one, which is 0
    where none does.

    Args:
        function: from steps (m,) and the indices (m,) of their members to values and slopes (m,).
        value: (N,), f(0).
        slope: (N,), f'(0), negative.
        first: (N,), first trials.
        trials: evaluations at most.
        armijo: :math:`c_1`.
        curvature: :math:`c_2`, above :math:`c_1`.

    Reference: Lewis & Overton (2013), algorithm 2.6; constants as in Nocedal & Wright (2006).
    """
    low, high, t = torch.zeros_like(value), torch.full_like(value, math.inf), first
    rows = torch.arange(len(value), device=value.device)
    used = torch.zeros_like(value, dtype=torch.int64)
    for _ in range(trials):
        found, there = function(t[rows], rows)
        used[rows] += 1
        falls = found <= value[rows] + armijo * t[rows] * slope[rows]
        high[rows] = torch.where(falls, high[rows], t[rows])
        low[rows] = torch.where(falls, t[rows], low[rows])
        rows = rows[~(falls & (there >= curvature * slope[rows]))]
        if len(rows) == 0:
            break
        t = torch.where(high.isinf(), 2 * low, (low + high) / 2)
    return low, used


def descending(direction: Float[Tensor, "n p"], grad: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """The direction, or -grad for a member whose direction does not descend."""
    descends = (direction * grad).sum(-1) < 0
    return torch.where(descends.unsqueeze(-1), direction, -grad)


def cautious(grad: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    r"""First steps where nothing is known of the curvature, :math:`\min(1, 1 / \|g\|_1)`."""
    return (1 / grad.abs().sum(-1)).clamp_max(1.0)


def displaced(
    z: Float[Tensor, "n p"], t: Float[Tensor, " n"], direction: Float[Tensor, "n p"]
) -> Float[Tensor, "n p"]:
    """The members t along their directions; with t = 0 even a NaN direction does not matter."""
    t = t.unsqueeze(-1)
    return torch.where(t > 0, z + t * direction, z)


def _proposed(bracket: Bracket, rules: Rules) -> Tensor:
    """The next trials; a golden section of a bracket from 0 is also how one contracts."""
    best = bracket.best
    # Not where(mask, stride, leap): of two Python numbers it makes one in single precision.
    expanded = torch.where(bracket.low > 0, rules.stride * best, rules.leap * best)
    further = torch.where(best > 0, expanded, rules.first)
    return torch.where(bracket.high.isinf(), further, _golden(bracket))


def _golden(bracket: Bracket) -> Tensor:
    """The point that cuts the larger part by the golden ratio, the shorter end at ``best``."""
    low, best, high, _ = bracket
    above, below = high - best, best - low
    return torch.where(above > below, best + _SHORT * above, best - _SHORT * below)


def _narrowed(bracket: Bracket, t: Tensor, found: Tensor) -> Bracket:
    """The bracket that is left when the value at t is known."""
    low, best, high, value = bracket
    better, beyond = found < value, t > best
    return Bracket(
        low=torch.where(better, torch.where(beyond, best, low), torch.where(beyond, low, t)),
        best=torch.where(better, t, best),
        high=torch.where(better, torch.where(beyond, high, best), torch.where(beyond, t, high)),
        value=torch.where(better, found, value),
    )
