"""Kendall's tau-b between a measure and a gap: over all points, within groups, with intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau, rankdata
from scipy.stats import t as student

LEAST = 6
"""Fewer points, or runs where runs are drawn, have no interval: 1 of 360 orders of six is perfect,
and 1 of 60 orders of five."""


class Correlation(NamedTuple):
    """Tau-b of one measure, its bootstrap interval and p value, and the same within groups.

    ``points`` and ``pairs`` (of points of one group) are those at which both are known; ``note``
    says why something is missing. Points are independent trainings here.
    """

    tau: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p_value: float = np.nan
    within: float = np.nan
    within_low: float = np.nan
    within_high: float = np.nan
    points: int = 0
    pairs: int = 0
    note: str = ""


def tau_b(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, together: np.ndarray | None = None
) -> np.ndarray:
    """Kendall's tau-b of samples in which point i occurs ``weight[b, i]`` times, (b,).

    Args:
        x: (n,); infinite values are allowed, NaN is not.
        y: (n,), likewise.
        weight: (b, n) whole numbers.
        together: (n, n), which pairs count; all where None.

    >>> tau_b(np.array([1, 2, 3]), np.array([1, 3, 2]), np.ones((1, 3)))
    array([0.33333333])
    """
    s, t = (np.sign(np.subtract.outer(ranks, ranks)) for ranks in (rankdata(x), rankdata(y)))
    if together is not None:
        s, t = s * together, t * together
    sums = [((weight @ part) * weight).sum(1) for part in (s * t, s * s, t * t)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[0] / np.sqrt(sums[1] * sums[2])


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p values; NaN stays NaN and does not count.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03]))
    array([0.03, 0.06,  nan, 0.06])
    """
    corrected = np.full(len(p_values), np.nan)
    (known,) = np.nonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return corrected


def correlated(
    value: np.ndarray,
    gap: np.ndarray,
    group: np.ndarray,
    run: np.ndarray,
    counts: np.ndarray,
    confidence: float,
) -> Correlation:
    """Kendall's tau-b between a measure and a gap.

    A resample in which the measure or the gap has no order counts as a tau of 0. Where runs are
    drawn, the p value is the largest of the bootstrap's, of Student's from the jackknife over runs,
    and of Kendall's test between the medians of the runs, which alone keeps the level that it
    promises: in samples of noise of six to twelve runs the bootstrap alone was seen to be below
    0.05 in up to 9 %. Fewer than `LEAST` of what is drawn have neither interval nor p value.

    Args:
        value: (n,), the measure; NaN where it is not defined.
        gap: (n,), the gap; NaN where it is not defined.
        group: (n,), which points count as alike.
        run: (n,), which points were drawn together.
        counts: (resamples, n) from `resamples`.
        confidence: of the intervals.
    """
    known = ~(np.isnan(value) | np.isnan(gap))
    n = int(known.sum())
    x, y, group = value[known], gap[known], group[known]
    together = np.equal.outer(group, group)
    pairs = int(together.sum() - n) // 2
    if n < 3:
        return Correlation(
            points=n, pairs=pairs, note=f"{counted(n, 'training')} too few for a correlation"
        )  # fmt: skip
    for what, numbers in (("measure", x), ("gap", y)):
        if np.unique(numbers).size == 1:
            note = f"the {what} is the same in every training"
            return Correlation(points=n, pairs=pairs, note=note)
    once = np.ones((1, n))
    tau, within = (float(tau_b(x, y, once, mask)[0]) for mask in (None, together))
    runs = by_run(run)
    found = Correlation(tau, within=within, points=n, pairs=pairs)
    units = len(np.unique(run[known])) if runs else n
    if units < LEAST:
        what = counted(units, "run" if runs else "training")
        return found._replace(note=f"{what} too few for an interval")
    if not runs:
        found = found._replace(p_value=float(kendalltau(x, y).pvalue))
    drawn = np.nan_to_num(tau_b(x, y, counts[:, known]))
    low, high = _interval(drawn, confidence)
    if runs:
        found = found._replace(p_value=_p_value(x, y, tau, run[known], drawn))
    if np.isfinite(within) and pairs >= LEAST:
        inner = _interval(np.nan_to_num(tau_b(x, y, counts[:, known], together)), confidence)
        found = found._replace(within_low=inner[0], within_high=inner[1])
    return found._replace(low=low, high=high)


def telling(found: Sequence[Correlation], confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The p values corrected for all measures, and which measures say something.

    A measure says something if its interval excludes 0 and its corrected p value is below
    ``1 - confidence``.
    """
    p_holm = holm(np.array([each.p_value for each in found]))
    apart = np.array([each.low > 0 or each.high < 0 for each in found], dtype=bool)
    return p_holm, apart & (p_holm < 1 - confidence)


def resamples(run: np.ndarray, count: int, source: np.random.Generator) -> np.ndarray:
    """(count, n): how often each point occurs in each bootstrap sample, of points or of runs."""
    cluster = run if by_run(run) else np.arange(len(run))
    names, index = np.unique(cluster, return_inverse=True)
    even = np.full(len(names), 1 / len(names))
    return source.multinomial(len(names), even, size=count)[:, index].astype(np.float64)


def by_run(run: np.ndarray) -> bool:
    """Whether runs are drawn in place of points: there are several, and not all of one point.

    Points of one run share its data, hyper-parameters and order of mini-batches; points of another
    have others, so that the runs are what was drawn.
    """
    return 1 < len(np.unique(run)) < len(run)


def counted(number: int, what: str) -> str:
    """A number of things with its verb.

    >>> counted(1, "run"), counted(3, "run")
    ('1 run is', '3 runs are')
    """
    return f"{number} {what} is" if number == 1 else f"{number} {what}s are"


def _p_value(x: np.ndarray, y: np.ndarray, tau: float, run: np.ndarray, drawn: np.ndarray) -> float:
    """That of a tau of 0 where runs are drawn, for the alternative on either side."""
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    names = np.unique(run)
    count = len(names)
    without = np.nan_to_num(tau_b(x, y, np.not_equal.outer(names, run).astype(np.float64)))
    error = math.sqrt((count - 1) * without.var())
    jackknife = 2 * float(student.sf(abs(tau) / error, count - 1)) if error > 0 else float(tau == 0)
    bootstrap = 2 * (1 + beyond) / (1 + len(drawn))
    middles = [[np.median(column[run == name]) for name in names] for column in (x, y)]
    order = float(kendalltau(*middles).pvalue)
    return min(1.0, max(bootstrap, jackknife, 1.0 if np.isnan(order) else order))


def _interval(drawn: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
