"""What so many trajectories can tell: power of t tests, least p values of exact ones."""

import math

from scipy import stats
from scipy.optimize import brentq


def power(effect: float, n: int | float, m: int | float = 0, level: float = 0.05) -> float:
    """How often a two-sided t test rejects.

    Args:
        effect: difference of the means over the standard deviation of trajectories.
        n: trajectories of the one, or pairs.
        m: trajectories of the other; 0 for pairs.
        level: of the test.

    >>> round(power(1.0, 5, 5), 4)
    0.2863
    """
    freedom, size = (n + m - 2, n * m / (n + m)) if m else (n - 1, n)
    if not (math.isfinite(effect) and freedom > 0):
        return math.nan
    far, apart = stats.t.isf(level / 2, freedom), abs(effect) * math.sqrt(size)
    above, below = (float(part) for part in (
        stats.nct.sf(far, freedom, apart), stats.nct.cdf(-far, freedom, apart)
    ))  # fmt: skip
    # Far out, where the distribution's function is not known, one is all or the other nothing.
    above = float(apart > far) if math.isnan(above) else above
    return above if math.isnan(below) else above + below


def needed(
    effect: float, level: float = 0.05, wanted: float = 0.8, *, paired: bool = False
) -> float:
    """How many trajectories of each, or pairs, a t test needs to have that power; no whole number.

    NaN for no effect, and at least 2.

    >>> round(needed(1.0), 2)
    16.71
    """
    if not (math.isfinite(effect) and effect):
        return math.nan

    def missing(n: float) -> float:
        return power(effect, n, 0 if paired else n, level) - wanted

    high = 4.0
    while missing(high) < 0:
        high *= 2
        if high > 1e7:
            return math.inf
    return 2.0 if missing(2.0) >= 0 else float(brentq(missing, 2.0, high))


def orders(n: int, m: int, paired: bool = False) -> int:
    """In how many ways trajectories can be shared among two groups, or swapped within pairs.

    >>> orders(5, 5), orders(5, 5, paired=True)
    (252, 32)
    """
    return 2**n if paired else math.comb(n + m, n)


def least(n: int, m: int, paired: bool = False) -> float:
    """The least p value that any data can have in a two-sided exact permutation test.

    >>> round(least(5, 5), 5), least(5, 5, paired=True)
    (0.00794, 0.0625)
    """
    return min(1.0, 2 / orders(n, m, paired))


def fewest(level: float, paired: bool = False) -> int:
    """How many trajectories of each an exact test needs that can have a p value below the level.

    >>> fewest(0.05), fewest(0.05 / 60), fewest(0.05, paired=True)
    (4, 7, 6)
    """
    return next(n for n in range(1, 1000) if least(n, n, paired) < level)
