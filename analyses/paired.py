"""Paired differences between methods: intervals, tests, and when two count as the same."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_1samp

from analyses.rank_correlation import holm
from landscape.results.finetuning import Finetuning


class Differences(NamedTuple):
    """The mean of each row of differences, its t-interval, and p values.

    ``p_value`` is that of the mean being 0, ``p_same`` that of it lying beyond the margin; both are
    NaN, as the interval is, where a row has fewer than two values or one that is no number.
    ``p_holm`` and ``p_same`` are corrected for all rows.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    p_holm: np.ndarray
    p_same: np.ndarray


def differences(given: np.ndarray, margin: float, confidence: float) -> Differences:
    """What is known of the means of rows of paired differences.

    The mean is the same as 0 to within the margin if two one-sided t tests reject that it lies
    below and above it (Schuirmann 1987); ``p_same`` is the larger of their p values.

    Args:
        given: (rows, n), the differences of n pairs.
        margin: differences below it count as none, positive.
        confidence: of the intervals, between 0 and 1.

    >>> found = differences(np.array([[1.0, 2.0, 3.0]]), 4.0, 0.95)
    >>> found.mean, found.low.round(3), found.high.round(3), found.p_same.round(3)
    (array([2.]), array([-0.484]), array([4.484]), array([0.037]))
    """
    rows = [(row.mean(), *_tested(row, margin, confidence)) for row in given]
    mean, low, high, p_value, p_same = np.array(rows).reshape(-1, 5).T
    return Differences(mean, low, high, p_value, holm(p_value), holm(p_same))


def conclusion(found: Finetuning) -> str:
    """Which methods differ from the reference, which are the same, and of which neither is known.

    Args:
        found: the study.
    """
    told: dict[str, list[str]] = {"differs": [], "same": [], "open": []}
    for k, network in enumerate(found.networks):
        for i, name in enumerate(found.methods):
            if verdict := found.verdict(k, i):
                mean, low, high = (column[k, i] for column in (
                    found.difference, found.low, found.high
                ))  # fmt: skip
                said = f"{name} on {network} ({mean:+.2f}, {low:+.2f} to {high:+.2f})"
                told[verdict].append(said if low == low else f"{name} on {network}")
    heads = {
        "differs": f"Different from {found.reference}",
        "same": f"The same to within {found.margin:g} points",
        "open": f"Neither shown to differ nor to be within {found.margin:g} points",
    }
    parts = [f"{heads[key]}: {', '.join(names) or 'none'}." for key, names in told.items()]
    count = sum(map(len, told.values()))
    how = (
        f"Paired over {len(found.seeds)} seeds, {100 * found.confidence:g} % t-intervals, p values "
        f"corrected for {count} comparisons by Holm's method."
    )
    return " ".join([*parts, how])


def _tested(row: np.ndarray, margin: float, confidence: float) -> tuple[float, ...]:
    """The ends of the interval and both p values of one row."""
    if len(row) < 2 or not np.isfinite(row).all():
        return (math.nan,) * 4
    if np.ptp(row) == 0:
        # Where nothing varies, t is infinite, or 0 / 0 at the mean that is tested.
        mean = float(row[0])
        return mean, mean, float(mean == 0), float(abs(mean) >= margin)
    test = ttest_1samp(row, 0.0)
    ends = test.confidence_interval(confidence)
    below = ttest_1samp(row, -margin, alternative="greater").pvalue
    above = ttest_1samp(row, margin, alternative="less").pvalue
    return float(ends.low), float(ends.high), float(test.pvalue), float(max(below, above))
